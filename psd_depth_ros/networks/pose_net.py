"""Pose network: the camera motion between two frames (training only)."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn, Tensor

from psd_depth_ros.geometry.warp import exponential

ROTATION_SCALE = 0.01
TRANSLATION_SCALE = 0.1


class PoseNet(nn.Module):
    """Strided convolutions and a global mean, as in SfMLearner (Zhou et al. 2017).

    With group norm it learns within a few hundred steps. Its output starts at the identity.
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128, 256, 256)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 6
        for index, outputs in enumerate(widths):
            kernel = (7, 5)[index] if index < 2 else 3
            layers += [
                nn.Conv2d(inputs, outputs, kernel, 2, kernel // 2, bias=False),
                nn.GroupNorm(outputs // 16, outputs),
                nn.ReLU(),
            ]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.motion = nn.Linear(inputs, 6)
        nn.init.normal_(self.motion.weight, std=1e-3)
        nn.init.zeros_(self.motion.bias)

    def forward(self, earlier: Tensor, later: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to T_later_earlier (B, 4, 4), float32.

        Rotation as a rotation vector, translation in units of depth.
        """
        features = self.features(torch.cat([earlier, later], dim=1))
        raw = cast(Tensor, self.motion(features.mean(dim=(2, 3)).float())).float()
        twist = torch.cat([ROTATION_SCALE * raw[:, :3], TRANSLATION_SCALE * raw[:, 3:]], dim=1)
        return exponential(twist)
