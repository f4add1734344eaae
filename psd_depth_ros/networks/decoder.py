"""Decoder: five maps of an encoder to one map at stride 2, and the disparity head on top.

The decoder is a U-Net whose stages may also see the height of each pixel in the image.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import cast

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from psd_depth_ros.networks.bin_head import DepthOutput
from psd_depth_ros.networks.ops import keep_layout

DISPARITY_SIGMA = 0.22  # ln 1.25, the same for every pixel
ROW_SCALE_PX = 10.0


class Decoder(nn.Module):
    """U-Net decoder: four stages of (upsample x2, concatenate the skip map, convolutions, ELU).

    Args:
        inputs: Channels at stride 32.
        skips: Channels of the encoder's maps at strides 2, 4, 8, 16.
        channels: Output channels of the stages at strides 16, 8, 4, 2.
        convolutions: 3x3 convolutions per stage.
        positions: Whether each stage also sees the `row_positions`.
        separable: Whether the convolutions are `SeparableConvolution`s.

    Attributes:
        convolves_apart: Whether a CPU convolves the coarse map before it is enlarged: fewer
            multiplications, but with parts of weights, which no converter takes to 8 or 16 bits.
    """

    def __init__(
        self,
        inputs: int,
        skips: Sequence[int],
        channels: Sequence[int],
        convolutions: int,
        positions: bool,
        separable: bool = False,
    ) -> None:
        super().__init__()
        self.positions = positions
        self.convolves_apart = True
        self.stages = nn.ModuleList()
        for skip, outputs in zip(reversed(skips), channels, strict=True):
            layers: list[nn.Module] = []
            width = inputs + skip + int(positions)
            if separable:
                layers += [nn.Conv2d(width, outputs, 1), nn.ELU()]
                layers += [SeparableConvolution(outputs) for _ in range(convolutions)]
            else:
                for _ in range(convolutions):
                    layers += [nn.Conv2d(width, outputs, 3, padding=1), nn.ELU()]
                    width = outputs
            self.stages.append(nn.Sequential(*layers))
            inputs = outputs

    def forward(self, deepest: Tensor, skips: Sequence[Tensor], intrinsics: Tensor) -> Tensor:
        """The last of `stage_maps`: (B, channels[-1], H/2, W/2)."""
        return self.stage_maps(deepest, skips, intrinsics)[-1]

    def stage_maps(
        self, deepest: Tensor, skips: Sequence[Tensor], intrinsics: Tensor
    ) -> list[Tensor]:
        """Decode to maps (B, channels[i], H/s, W/s) at strides s of 16, 8, 4, 2.

        Args:
            deepest: (B, inputs, H/32, W/32).
            skips: Four maps (B, skips[i], H / 2^(i+1), W / 2^(i+1)).
            intrinsics: (B, 4) fx fy cx cy in pixels of the input image.
        """
        x, found = deepest, []
        for index, (stage, skip) in enumerate(zip(self.stages, reversed(skips), strict=True)):
            # the stem's float32 map must not turn the whole stage into float32
            parts = [skip.to(x.dtype)]
            if self.positions:
                place = row_positions(intrinsics, skip.shape[-2], skip.shape[-1], 16 >> index)
                parts.append(place.to(x.dtype, memory_format=_layout(parts[0])))
            first, *others = cast(nn.Sequential, stage)
            if self.convolves_apart and x.device.type == 'cpu':
                x = _convolve_apart(cast(nn.Conv2d, first), x, torch.cat(parts, dim=1))
            else:  # where more launches cost more than the arithmetic
                x = F.interpolate(x, scale_factor=2.0, mode='nearest')
                x = first(torch.cat([x, *parts], dim=1))
            for layer in others:
                x = layer(x)
            x = keep_layout(x)
            found.append(x)
        return found


def _layout(x: Tensor) -> torch.memory_format:
    """How a map is kept in memory: joined with one that is kept otherwise it would be copied."""
    if torch.compiler.is_compiling():  # it would hold for batches of more than one image only
        return torch.contiguous_format
    is_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def _convolve_apart(convolution: nn.Conv2d, coarse: Tensor, fine: Tensor) -> Tensor:
    """The convolution of [`coarse` enlarged twice by repetition, `fine`], each by itself."""
    channels, weight = coarse.shape[1], convolution.weight
    padding = convolution.padding
    side = F.conv2d(fine, weight[:, channels:], convolution.bias, padding=padding)  # type: ignore[arg-type]
    if convolution.kernel_size == (1, 1):
        return F.interpolate(F.conv2d(coarse, weight[:, :channels]), scale_factor=2.0) + side
    return convolve_enlarged(coarse, weight[:, :channels]) + side


def convolve_enlarged(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve a map that is first enlarged twice by repeating pixels, without enlarging it.

    To repeat pixels is a transposed 2x2 convolution of ones with stride 2; with 3x3 after it, it
    is one of 4x4. 4 instead of 9 multiplications, the same result but for rounding.

    Args:
        x: (B, C, h, w), zeros outside.
        weight: (O, C, 3, 3).

    Returns:
        (B, O, 2 h, 2 w).
    """
    kernel = F.pad(weight.flip(-2, -1), (1, 1, 1, 1))
    kernel = kernel[..., 1:, :] + kernel[..., :-1, :]
    kernel = kernel[..., 1:] + kernel[..., :-1]  # (O, C, 4, 4)
    return F.conv_transpose2d(x, kernel.transpose(0, 1), stride=2, padding=1)


class SeparableConvolution(nn.Module):
    """x + ELU(1x1 across channels of a 3x3 in each channel): a seventh of the cost of a full 3x3.

    Howard et al. 2017, "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
    Applications"; as a residual.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return x + F.elu(self.pointwise(self.depthwise(x)))


def row_positions(intrinsics: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Distance d of the rows of a map below the principal point, as asinh(d / 10 px).

    Level ground at height h below the camera has the canonical depth Z' = h f_c / (y - cy),
    whatever the focal length: log-depth is nearly linear in this coordinate, also in crops and
    enlarged patches. Columns are left out: a network that saw them would learn the two sides of
    the one street it was trained on.

    Args:
        intrinsics: (B, 4) fx fy cx cy of the input image, pixels.
        height, width: Size of the map.
        stride: Pixels of the input image per pixel of the map.

    Returns:
        (B, 1, height, width) float32.
    """
    rows = torch.arange(height, device=intrinsics.device, dtype=torch.float32)
    cy = intrinsics[:, 3:].float()
    down = (((rows + 0.5) * stride - 0.5 - cy) / ROW_SCALE_PX).asinh()  # (B, height)
    return down[:, None, :, None].expand(-1, -1, -1, width)


class DisparityHead(nn.Module):
    """One disparity per pixel as in monodepth2: 1/Z' = 1/Zmax + (1/Zmin - 1/Zmax) sigmoid(x).

    Starts at the middle of the range of log-depth.
    """

    def __init__(self, embedding: int, log_range: tuple[float, float]) -> None:
        super().__init__()
        self.log_range = log_range
        self.convolution = nn.Conv2d(embedding, 1, 3, padding=1)
        low, high = (math.exp(-value) for value in reversed(log_range))
        middle = math.exp(-0.5 * sum(log_range))
        fraction = (middle - low) / (high - low)
        assert self.convolution.bias is not None
        nn.init.constant_(self.convolution.bias, math.log(fraction / (1.0 - fraction)))

    def forward(self, features: Tensor) -> DepthOutput:
        """Decoder's map (B, E, h, w) to log-depth, a constant sigma and a sky probability of 0."""
        low, high = (math.exp(-value) for value in reversed(self.log_range))
        raw = self.convolution(features).float()
        log_depth = -(low + (high - low) * torch.sigmoid(raw)).log()
        return DepthOutput(
            log_depth, torch.full_like(log_depth, DISPARITY_SIGMA), torch.zeros_like(log_depth)
        )
