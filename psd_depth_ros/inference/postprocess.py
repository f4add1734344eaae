"""Network output to metric depth and confidence at the size of the image.

The network predicts u' (log-depth for the canonical focal length), sigma_u and the sky probability
at stride 2; here they become depth with the invalid values of REP 117, on a CPU. `on_device` does
the same on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.config import setting
from psd_depth_ros.errors import SettingsError

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]

LN_DELTA1 = math.log(1.25)
# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.28: erf to 3e-7.
_ERF = (0.0705230784, 0.0422820123, 0.0092705272, 0.0001520143, 0.0002765672, 0.0000430638)
_ERF_IS_ONE = 4.0


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
    sigma: Map, model: ConfidenceModel, scale_variance: float | Map = 0.0
) -> Map:
    """Probability that the depth is within 25 %, P(|d ln Z| < ln 1.25), any shape.

    c = erf(ln 1.25 / (s sqrt 2)) with s^2 = gain^2 sigma_u^2 + scale_variance + floor^2, for a
    normal error of ln Z. `scale_variance` is that of ln s.
    """
    variance = np.square(np.float32(model.gain) * sigma)
    variance += np.float32(model.floor**2) + np.asarray(scale_variance, np.float32)
    spread = np.sqrt(np.maximum(variance, np.float32(1e-12)))
    return _erf(np.float32(LN_DELTA1 / math.sqrt(2.0)) / spread)


def _erf(values: Map) -> Map:
    """The error function of float32 values that are not negative; NaN of NaN."""
    x = np.minimum(values, np.float32(_ERF_IS_ONE))
    series = np.full_like(x, _ERF[-1])
    for coefficient in (*_ERF[-2::-1], 1.0):
        series *= x
        series += np.float32(coefficient)
    for _ in range(4):  # to the power of 16
        np.square(series, out=series)
    np.reciprocal(series, out=series)
    return np.subtract(np.float32(1.0), series, out=series)


def finish_depth(
    log_depth: Map,
    sigma: Map,
    sky_probability: Map,
    *,
    gain: float,
    size: tuple[int, int],
    settings: DepthSettings,
    confidence_model: ConfidenceModel,
    scale_variance: float | Map = 0.0,
    mask: Mask | None = None,
) -> tuple[Map, Map]:
    """Metric depth and confidence of one image.

    Args:
        log_depth: (h, w) u'.
        sigma: (h, w) sigma_u.
        sky_probability: (h, w).
        gain: fx / f_c times the metric scale s: ln Z = u' + ln gain.
        size: Height and width of the result; maps are enlarged bilinearly in ln Z.
        settings: Which depths are numbers.
        confidence_model: Calibration of sigma_u.
        scale_variance: Variance of ln s, or that of every pixel (h, w).
        mask: (H, W), where the camera sees the rectified view; None for everywhere.

    Returns:
        Depth in metres and confidence in [0, 1], both (H, W) float32, new arrays. Depth is, in
        order of precedence: NaN outside the mask (confidence 0), +Inf for sky (probability
        > 1/2), NaN below `min_confidence`, +Inf beyond `max_depth_m`, -Inf nearer than
        `min_depth_m`.
    """
    u = log_depth + np.float32(math.log(gain))
    lowest, highest = float(u.min()), float(u.max())
    trust = confidence_from_sigma(sigma, confidence_model, scale_variance)
    depth: Map = cv2.exp(_enlarge(u, size))
    confidence = _enlarge(trust, size)
    # What no value of the small maps is, no value between them is: most rules are void.
    if not lowest > math.log(1.01 * settings.min_depth_m):
        np.copyto(depth, np.float32(-math.inf), where=depth < settings.min_depth_m)
    if not highest < math.log(0.99 * settings.max_depth_m):
        np.copyto(depth, np.float32(math.inf), where=depth > settings.max_depth_m)
    if settings.min_confidence > 0 and not trust.min() > 1.01 * settings.min_confidence:
        doubtful = ~(confidence >= settings.min_confidence)
        np.copyto(depth, np.float32(math.nan), where=doubtful)
    if settings.sky and not sky_probability.max() < 0.49:
        sky = _enlarge(sky_probability, size) > 0.5
        np.copyto(depth, np.float32(math.inf), where=sky)
    if mask is not None:
        outside = ~mask
        np.copyto(depth, np.float32(math.nan), where=outside)
        np.copyto(confidence, np.float32(0.0), where=outside)
    return depth, confidence


def _enlarge(values: Map, size: tuple[int, int]) -> Map:
    """Enlarge bilinearly (`align_corners=False`); always a new array."""
    if values.shape == size:
        return values.copy()
    enlarged: Map = cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)
    return enlarged
