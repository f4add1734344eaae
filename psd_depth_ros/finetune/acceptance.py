"""Acceptance of fine-tuned weights: limits on gain and drift, from numbers to a verdict.

Which errors are measured, and on which frames, is left to the task (`Task.validate`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math

from psd_depth_ros.config import setting
from psd_depth_ros.errors import PsdDepthError


@dataclass(frozen=True)
class AcceptanceSettings:
    """Limits for accepting fine-tuned weights."""

    minimum_gain: float = setting(
        0.01,
        'smallest accepted decrease of the held-out photometric error, as a fraction; a decrease '
        'of the lidar error is accepted instead',
        minimum=-1000.0,
        maximum=1.0,
    )
    maximum_drift: float = setting(
        0.1, 'largest accepted change of the scale of depth, |ln s|', minimum=0.0, maximum=100.0
    )
    maximum_stretch: float = setting(
        0.5,
        'largest accepted change of the spread of log-depth in an image, |ln f|: distant depth '
        'that diverges hardly changes the photometric error',
        minimum=0.0,
        maximum=100.0,
    )


@dataclass(frozen=True)
class HeldOutScores:
    """Scores of one network on held-out frames.

    Attributes:
        photometric: mean photometric error of the reprojected images.
        scale_drift: median ln(s / s_start) of the scale of depth.
        stretch: median ln(f / f_start), f being the standard deviation of log-depth in an image.
        lidar_abs_rel: AbsRel at lidar points; None without lidar.
    """

    photometric: float
    scale_drift: float = 0.0
    stretch: float = 0.0
    lidar_abs_rel: float | None = None

    @classmethod
    def from_scores(cls, scores: Mapping[str, float]) -> HeldOutScores:
        """Select the scores of acceptance from those of `Task.validate`."""
        if 'photometric' not in scores:
            raise PsdDepthError(
                'the held-out part of the recordings has no photometric error, so nothing can be '
                f'accepted (measured: {", ".join(sorted(scores)) or "nothing"}); give longer '
                'recordings, or hold out more (data.triplets.held_out)'
            )
        known = {name: scores[name] for name in cls.__dataclass_fields__ if name in scores}
        return cls(**known)


@dataclass(frozen=True)
class Check:
    """One condition: the measured value, its limit, and whether it holds."""

    name: str
    value: float
    limit: float
    passed: bool
    text: str


@dataclass(frozen=True)
class Verdict:
    """Whether the new weights are accepted, and every condition."""

    accepted: bool
    checks: tuple[Check, ...]

    @property
    def reason(self) -> str:
        """The failed conditions in one line, or all of them where none failed."""
        failed = [check.text for check in self.checks if not check.passed]
        return '; '.join(failed or [check.text for check in self.checks])


def check_acceptance(
    before: HeldOutScores, after: HeldOutScores, settings: AcceptanceSettings
) -> Verdict:
    """Compare the scores of the fine-tuned weights with those of the start.

    Accepted where the held-out error falls and neither the scale nor the spread of depth drifts.
    A value that is not finite fails its condition.
    """
    checks = (
        _check_gain(before, after, settings.minimum_gain),
        _check_change('drift', 'scale drifted', 's', after.scale_drift, settings.maximum_drift),
        _check_change(
            'stretch', 'the spread of log-depth changed', 'f', after.stretch,
            settings.maximum_stretch,
        ),
    )  # fmt: skip
    return Verdict(all(check.passed for check in checks), checks)


def _check_gain(before: HeldOutScores, after: HeldOutScores, minimum: float) -> Check:
    gain = _gain(before.photometric, after.photometric)
    passed = gain >= minimum
    text = (
        f'held-out photometric error {before.photometric:.5f} -> {after.photometric:.5f}, '
        f'{_change(gain)} ({minimum:.2%} asked)'
    )
    if before.lidar_abs_rel is not None and after.lidar_abs_rel is not None:
        passed = passed or after.lidar_abs_rel < before.lidar_abs_rel
        text += f', lidar AbsRel {before.lidar_abs_rel:.4f} -> {after.lidar_abs_rel:.4f}'
    return Check('gain', gain, minimum, passed, text)


def _check_change(name: str, what: str, of: str, change: float, maximum: float) -> Check:
    text = f'{what} by {change:+.3f} in ln {of} (less than {maximum:g} asked)'
    return Check(name, change, maximum, abs(change) < maximum, text)


def _gain(before: float, after: float) -> float:
    """Relative decrease of an error; NaN where either is not finite or `before` is 0."""
    if not (math.isfinite(before) and math.isfinite(after) and before > 0.0):
        return math.nan
    return 1.0 - after / before


def _change(gain: float) -> str:
    if math.isnan(gain):
        return 'which says nothing'
    return f'{gain:.2%} better' if gain >= 0.0 else f'{-gain:.2%} worse'
