"""Sampling of images at pixel coordinates, and the inverse warp of view synthesis.

This is the only `grid_sample` of the project, so that one pixel convention holds everywhere:
pixel centres at integers, `align_corners=False`. Everything is float32: half precision moves a
sample by whole pixels in a wide image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
import torch.nn.functional as F


def exponential(twist: Tensor) -> Tensor:
    """Poses (B, 4, 4) of rotation vectors and translations (B, 6): R = exp([w]), t = v.

    The rotation is Rodrigues' formula. The translation is not multiplied by the left Jacobian:
    this is the parametrisation of pose networks, not the exponential map of `pose.exponential`.
    """
    w, t = twist[:, :3], twist[:, 3:]
    angle = w.square().sum(dim=1).add(1e-12).sqrt()[:, None, None]
    zero = torch.zeros_like(w[:, 0])
    skew = torch.stack(
        [zero, -w[:, 2], w[:, 1], w[:, 2], zero, -w[:, 0], -w[:, 1], w[:, 0], zero], dim=1
    ).view(-1, 3, 3)
    first = torch.sin(angle) / angle
    second = (1.0 - torch.cos(angle)) / angle.square()
    eye = torch.eye(3, device=twist.device, dtype=twist.dtype)
    rotation = eye + first * skew + second * (skew @ skew)
    top = torch.cat([rotation, t[:, :, None]], dim=2)
    bottom = torch.eye(4, device=twist.device, dtype=twist.dtype)[3:].expand(len(top), 1, 4)
    return torch.cat([top, bottom], dim=1)


def invert(poses: Tensor) -> Tensor:
    """Inverses of rigid poses (B, 4, 4): T_a_b of T_b_a."""
    rotation = poses[:, :3, :3].transpose(1, 2)
    translation = -rotation @ poses[:, :3, 3:]
    top = torch.cat([rotation, translation], dim=2)
    return torch.cat([top, poses[:, 3:]], dim=1)


def pixel_grid(height: int, width: int, device: torch.device | str = 'cpu') -> Tensor:
    """Pixel coordinates (x, y) of an image, (H, W, 2) float32."""
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=device),
        torch.arange(width, dtype=torch.float32, device=device),
        indexing='ij',
    )
    return torch.stack([x, y], dim=-1)


def sample(image: Tensor, pixels: Tensor, padding: str = 'border') -> Tensor:
    """Sample an image bilinearly at pixel coordinates.

    Args:
        image: (B, C, H, W) floating point, or uint8, which is sampled as float32 (0 .. 255).
        pixels: (B, h, w, 2) x, y in pixels of the image.
        padding: 'border' repeats the outermost pixels, 'zeros' is black outside.

    Returns:
        (B, C, h, w).
    """
    height, width = image.shape[-2:]
    unit = torch.stack([pixels.new_full((), 1.0 / side) for side in (width, height)])
    grid = torch.addcmul(unit - 1.0, pixels, unit, value=2.0)  # (2 x + 1) / W - 1, in [-1, 1]
    if image.dtype != torch.uint8:
        return F.grid_sample(image, grid, 'bilinear', padding, align_corners=False)
    # few images at a time on a CPU: float copies of all of them would not fit into its cache
    count = torch.get_num_threads() if image.device.type == 'cpu' else len(image)
    read = [
        F.grid_sample(part.float(), places, 'bilinear', padding, align_corners=False)
        for part, places in zip(image.split(count), grid.split(count), strict=True)
    ]
    return torch.cat(read)


def resize_intrinsics(intrinsics: Tensor, scale: Tensor | float) -> Tensor:
    """fx fy cx cy (B, 4) of an image resized by `scale` (a number, or (B,)).

    fx' = s fx; cx' = s (cx + 1/2) - 1/2.
    """
    if isinstance(scale, Tensor):
        scale = scale[:, None]
    return torch.cat([scale * intrinsics[:, :2], scale * (intrinsics[:, 2:] + 0.5) - 0.5], dim=1)


def camera_matrix(intrinsics: Tensor) -> Tensor:
    """K (B, 3, 3) of fx fy cx cy (B, 4)."""
    fx, fy, cx, cy = intrinsics.unbind(1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    rows = torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], dim=1)
    return rows.view(-1, 3, 3)


def backproject(depth: Tensor, K: Tensor) -> Tensor:
    """Points (B, 3, H, W) of every pixel of `depth` (B, 1, H, W), cameras K (B, 3, 3)."""
    height, width = depth.shape[-2:]
    return backproject_pixels(depth, pixel_grid(height, width, depth.device)[None], K)


def backproject_pixels(depth: Tensor, pixels: Tensor, K: Tensor) -> Tensor:
    """Points (B, 3, H, W) at `pixels` (B or 1, H, W, 2) with `depth` (B, 1, H, W), cameras K."""
    fx, fy = K[:, 0, 0, None, None], K[:, 1, 1, None, None]
    cx, cy = K[:, 0, 2, None, None], K[:, 1, 2, None, None]
    z = depth[:, 0]  # (B, H, W)
    return torch.stack([(pixels[..., 0] - cx) / fx * z, (pixels[..., 1] - cy) / fy * z, z], dim=1)


def transform(T_b_a: Tensor, points: Tensor) -> Tensor:
    """Move points (B, 3, H, W) from frame a to frame b by poses (B, 4, 4)."""
    moved = torch.baddbmm(T_b_a[:, :3, 3:], T_b_a[:, :3, :3], points.flatten(2))
    return moved.view_as(points)


def project(points: Tensor, K: Tensor) -> Tensor:
    """Pixels (B, H, W, 2) of points (B, 3, H, W); points behind the camera land far outside.

    `inside_image` tells which points are seen.
    """
    z = points[:, 2].clamp(min=1e-3)
    u = K[:, 0, 0, None, None] * points[:, 0] / z + K[:, 0, 2, None, None]
    v = K[:, 1, 1, None, None] * points[:, 1] / z + K[:, 1, 2, None, None]
    return torch.stack([u, v], dim=-1)


def inverse_warp(
    source: Tensor,
    depth: Tensor,
    T_source_target: Tensor,
    K_target: Tensor,
    K_source: Tensor,
) -> tuple[Tensor, Tensor]:
    """Synthesise the target view from a source image (monodepth2).

    p_s = pi(K_s T_{t->s} Z(p) K_t^{-1} p), sampled bilinearly.

    Args:
        source: (B, C, Hs, Ws).
        depth: (B, 1, H, W) of the target, metres.
        T_source_target: (B, 4, 4).
        K_target, K_source: (B, 3, 3).

    Returns:
        The image (B, C, H, W), and a mask (B, 1, H, W) bool: the sample lies inside the source
        image and in front of its camera.
    """
    points = transform(T_source_target, backproject(depth, K_target))
    pixels = project(points, K_source)  # (B, H, W, 2)
    return sample(source, pixels), inside_image(pixels, points, source.shape[-2:])


def inside_image(pixels: Tensor, points: Tensor, size: Sequence[int]) -> Tensor:
    """Whether `pixels` (B, h, w, 2) of `points` (B, 3, h, w) lie in an image of `size` (H, W).

    (B, 1, h, w) bool: between the centres of the outermost pixels and in front of the camera.
    """
    height, width = size
    x, y = pixels[..., 0], pixels[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return (inside & (points[:, 2] > 1e-3))[:, None]
