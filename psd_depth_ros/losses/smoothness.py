"""Edge-aware smoothness of disparity (monodepth2, eq. 6)."""

from __future__ import annotations

from torch import Tensor


def smoothness(disparity: Tensor, image: Tensor) -> Tensor:
    """Mean |gradient of d / mean(d)| e^(-|gradient of the image|) of each sample, (B,).

    `disparity` (B, 1, H, W) is any positive map inverse to depth; `image` (B, 3, H, W).
    """
    d = disparity / disparity.mean(dim=(2, 3), keepdim=True).clamp(min=1e-7)
    image_x = (image[..., :, 1:] - image[..., :, :-1]).abs().mean(dim=1, keepdim=True)
    image_y = (image[..., 1:, :] - image[..., :-1, :]).abs().mean(dim=1, keepdim=True)
    x = (d[..., :, 1:] - d[..., :, :-1]).abs() * (-image_x).exp()
    y = (d[..., 1:, :] - d[..., :-1, :]).abs() * (-image_y).exp()
    return x.flatten(1).mean(dim=1) + y.flatten(1).mean(dim=1)
