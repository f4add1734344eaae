"""Small motions as tensors: the exponential of a twist with gradients.

The NumPy functions of `pose` are for recordings and messages; these are for networks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def exponential(twist: Tensor) -> Tensor:
    """Poses (B, 4, 4) of rotation vectors and translations (B, 6): R = exp([w]), t = v.

    The rotation is Rodrigues' formula; the translation is taken as it is (not multiplied by the
    left Jacobian), as pose networks do.
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
    """The inverses of rigid poses (B, 4, 4)."""
    rotation = poses[:, :3, :3].transpose(1, 2)
    translation = -rotation @ poses[:, :3, 3:]
    top = torch.cat([rotation, translation], dim=2)
    return torch.cat([top, poses[:, 3:]], dim=1)
