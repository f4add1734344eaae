"""Network output to metric depth and confidence at the size of the image.

The network predicts u' (log-depth for the canonical focal length), sigma_u and the sky probability
at stride 2; here they become depth with the invalid values of REP 117.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.config import setting
from psd_depth_ros.errors import SettingsError

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]

LN_DELTA1 = math.log(1.25)


@dataclass(frozen=True)
class DepthSettings:
    """Whether depth is filtered, and which is published as NaN or Inf (REP 117)."""

    min_depth_m: float = setting(0.3, 'nearer depth is -Inf', 'm', minimum=0.001, maximum=1000.0)
    max_depth_m: float = setting(80.0, 'farther depth is +Inf', 'm', minimum=0.01, maximum=10000.0)
    min_confidence: float = setting(
        0.3, 'depth with less confidence is NaN; 0 keeps everything', '', minimum=0.0, maximum=1.0
    )
    sky: bool = setting(True, 'pixels that the network takes for sky are +Inf')
    temporal_s: float = setting(
        0.0,
        'time constant of the filter against flicker, such as 0.2; 0 is off',
        's',
        minimum=0.0,
        maximum=10.0,
    )

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if not self.min_depth_m < self.max_depth_m:
            raise SettingsError(
                f'min_depth_m is {self.min_depth_m:g} and max_depth_m is {self.max_depth_m:g}, '
                'expected a minimum below the maximum; set both in one call'
            )


@dataclass(frozen=True)
class ConfidenceModel:
    """Calibration of sigma_u, fitted offline: sigma^2 = gain^2 sigma_u^2 + floor^2.

    The values are those of a checkpoint (`sigma_gain` and `sigma_floor` of its `OutputInfo`).
    """

    gain: float
    floor: float


def confidence_from_sigma(
    sigma: Tensor, model: ConfidenceModel, scale_variance: float | Tensor = 0.0
) -> Tensor:
    """Probability that the depth is within 25 %, P(|d ln Z| < ln 1.25), any shape.

    c = erf(ln 1.25 / (s sqrt 2)) with s^2 = gain^2 sigma_u^2 + scale_variance + floor^2, for a
    normal error of ln Z. `scale_variance` is that of ln s.
    """
    variance = (model.gain * sigma).square() + (model.floor**2 + scale_variance)
    return torch.erf(LN_DELTA1 / math.sqrt(2.0) * variance.clamp(min=1e-12).rsqrt())


def finish_depth(
    log_depth: Tensor,
    sigma: Tensor,
    sky_probability: Tensor,
    *,
    gain: Sequence[float] | Tensor,
    size: tuple[int, int],
    settings: DepthSettings,
    confidence_model: ConfidenceModel,
    scale_variance: float | Tensor = 0.0,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Metric depth and confidence.

    Args:
        log_depth, sigma, sky_probability: (B, h, w) u', sigma_u and the sky probability.
        gain: (B) fx / f_c times the metric scale s: ln Z = u' + ln gain.
        size: Height and width of the result; maps are enlarged bilinearly in ln Z.
        settings: Which depths are numbers.
        confidence_model: Calibration of sigma_u.
        scale_variance: Variance of ln s, or that of every pixel (B, h, w).
        mask: (H, W) bool, where the camera sees the rectified view; None for everywhere.

    Returns:
        Depth in metres and confidence in [0, 1], both (B, H, W) float32 on the device of the maps.
        Depth is, in order of precedence: NaN outside the mask (confidence 0), +Inf for sky
        (probability > 1/2), NaN below `min_confidence`, +Inf beyond `max_depth_m`, -Inf nearer
        than `min_depth_m`.

    On a CPU OpenCV does the work: 0.8 ms for 640x480 against 5 ms with torch, one thread.
    """
    if not isinstance(gain, Tensor):
        gain = torch.tensor(tuple(gain), dtype=torch.float32)
    log_gain = gain.to(torch.float32).log().to(log_depth.device, non_blocking=True)
    u = log_depth.float() + log_gain[:, None, None]
    confidence = confidence_from_sigma(sigma.float(), confidence_model, scale_variance)
    finish = _finish_with_opencv if u.device.type == 'cpu' else _finish_with_torch
    return finish((u, confidence, sky_probability.float()), size, settings, mask)


def _finish_with_torch(
    maps: tuple[Tensor, ...], size: tuple[int, int], settings: DepthSettings, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """For any device; `maps` are u, confidence and sky probability, each (B, h, w)."""
    stacked = torch.stack(maps, dim=1)  # (B, 3, h, w)
    if stacked.shape[-2:] != size:
        stacked = F.interpolate(stacked, size, mode='bilinear', align_corners=False)
    u, confidence, sky_probability = stacked.unbind(dim=1)  # (B, H, W) each
    depth = u.exp()
    too_near, too_far = depth < settings.min_depth_m, depth > settings.max_depth_m
    depth.masked_fill_(too_near, -math.inf).masked_fill_(too_far, math.inf)
    if settings.min_confidence > 0:
        depth.masked_fill_(~(confidence >= settings.min_confidence), math.nan)
    if settings.sky:
        depth.masked_fill_(sky_probability > 0.5, math.inf)
    if mask is not None:
        depth.masked_fill_(~mask, math.nan)
        confidence = confidence * mask
    return depth, confidence.contiguous()


def _finish_with_opencv(
    maps: tuple[Tensor, ...], size: tuple[int, int], settings: DepthSettings, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The same on the CPU."""
    u, confidence, sky_probability = (one.numpy() for one in maps)
    outside = None if mask is None else ~mask.numpy()
    pairs = [
        _finish_one(u[i], confidence[i], sky_probability[i], size, settings, outside)
        for i in range(len(u))
    ]
    if len(pairs) == 1:  # no copy for the usual case
        return torch.from_numpy(pairs[0][0])[None], torch.from_numpy(pairs[0][1])[None]
    depth, confidence = (np.stack(images) for images in zip(*pairs, strict=True))
    return torch.from_numpy(depth), torch.from_numpy(confidence)


def _finish_one(
    u: Map,
    confidence: Map,
    sky_probability: Map,
    size: tuple[int, int],
    settings: DepthSettings,
    outside: Mask | None,
) -> tuple[Map, Map]:
    """Depth and confidence (H, W) of one image from its maps (h, w)."""
    depth: Map = cv2.exp(_enlarge(u, size))
    confidence = _enlarge(confidence, size)
    too_near, too_far = depth < settings.min_depth_m, depth > settings.max_depth_m
    _fill(depth, too_near, -math.inf)
    _fill(depth, too_far, math.inf)
    if settings.min_confidence > 0:
        _fill(depth, ~(confidence >= settings.min_confidence), math.nan)
    if settings.sky:
        _fill(depth, _enlarge(sky_probability, size) > 0.5, math.inf)
    if outside is not None:
        _fill(depth, outside, math.nan)
        _fill(confidence, outside, 0.0)
    return depth, confidence


def _enlarge(values: Map, size: tuple[int, int]) -> Map:
    """Enlarge bilinearly (`align_corners=False`); always a new array."""
    if values.shape == size:
        return values.copy()
    enlarged: Map = cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)
    return enlarged


def _fill(values: Map, where: Mask, value: float) -> None:
    """Overwrite in place; for most rules, most frames have nothing to overwrite."""
    if where.any():
        values[where] = value
