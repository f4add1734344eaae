"""The gate a fine-tuned network passes before it takes the place of the one it started from.

Numbers in, verdict out. What is measured, and on what, is left to the task that was trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math

from psd_depth_ros.config import setting
from psd_depth_ros.errors import PsdDepthError


@dataclass(frozen=True)
class AcceptanceSettings:
    """When new weights take the place of the old ones."""

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
class HeldOut:
    """What was measured of one network on frames that it did not learn from.

    `photometric` is the mean error of the warped images; `scale_drift` the median ln(s / s_start)
    and `stretch` the median ln(f / f_start) with f the standard deviation of an image's log-depth;
    `lidar_abs_rel` is None without a lidar.
    """

    photometric: float
    scale_drift: float = 0.0
    stretch: float = 0.0
    lidar_abs_rel: float | None = None

    @classmethod
    def from_scores(cls, scores: Mapping[str, float]) -> HeldOut:
        """Take the scores that count from those of `Task.validate`."""
        if 'photometric' not in scores:
            raise PsdDepthError(
                'the held-out part of the recordings has no photometric error, so nothing can be '
                f'accepted (measured: {", ".join(sorted(scores)) or "nothing"}); give longer '
                'recordings, or hold out more (data.clips.held_out)'
            )
        known = {name: scores[name] for name in cls.__dataclass_fields__ if name in scores}
        return cls(**known)


@dataclass(frozen=True)
class Check:
    """One condition: what was measured, what was asked for, whether it holds."""

    name: str
    value: float
    limit: float
    passed: bool
    text: str


@dataclass(frozen=True)
class Verdict:
    """Whether the new weights are taken, and every condition that was looked at."""

    accepted: bool
    checks: tuple[Check, ...]

    @property
    def reason(self) -> str:
        """What was decisive, in one line: the failed conditions, or all of them."""
        failed = [check.text for check in self.checks if not check.passed]
        return '; '.join(failed or [check.text for check in self.checks])


def judge(before: HeldOut, after: HeldOut, settings: AcceptanceSettings) -> Verdict:
    """Compare the network a run ended with to the one it started from.

    Taken only where it is better on the held-out tail, and neither its scale nor the spread of its
    depth has drifted. A number that is not finite fails its condition.
    """
    checks = (
        _judge_gain(before, after, settings.minimum_gain),
        _judge_change('drift', 'scale drifted', 's', after.scale_drift, settings.maximum_drift),
        _judge_change(
            'stretch', 'the spread of log-depth changed', 'f', after.stretch,
            settings.maximum_stretch,
        ),
    )  # fmt: skip
    return Verdict(all(check.passed for check in checks), checks)


def _judge_gain(before: HeldOut, after: HeldOut, minimum: float) -> Check:
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


def _judge_change(name: str, what: str, of: str, change: float, maximum: float) -> Check:
    text = f'{what} by {change:+.3f} in ln {of} (less than {maximum:g} asked)'
    return Check(name, change, maximum, abs(change) < maximum, text)


def _gain(before: float, after: float) -> float:
    """The share by which an error fell, NaN where one of them says nothing."""
    if not (math.isfinite(before) and math.isfinite(after) and before > 0.0):
        return math.nan
    return 1.0 - after / before


def _change(gain: float) -> str:
    if math.isnan(gain):
        return 'which says nothing'
    return f'{gain:.2%} better' if gain >= 0.0 else f'{-gain:.2%} worse'
