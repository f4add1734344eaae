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
        'the photometric error on the held-out tail has to fall by this share at least; '
        'a fall of the lidar error does as well',
        minimum=-1000.0,
        maximum=1.0,
    )
    maximum_drift: float = setting(
        0.1, 'the scale of depth may change by this much, as |ln s|', minimum=0.0, maximum=100.0
    )
    maximum_forgetting: float = setting(
        0.05,
        'on replayed frames the error may rise by this share, or depth differ this much from '
        'that of the old weights',
        minimum=0.0,
        maximum=1000.0,
    )


@dataclass(frozen=True)
class HeldOut:
    """What was measured of one network on frames that it did not learn from.

    `photometric` is the mean error of the warped images, `scale_drift` the median ln(s / s_start).
    None where there is nothing to measure with: `lidar_abs_rel` without a lidar, `replay` (an
    error on frames of earlier recordings) and `anchor` (mean |ln Z - ln Z_start| on them) without
    such frames.
    """

    photometric: float
    scale_drift: float = 0.0
    lidar_abs_rel: float | None = None
    replay: float | None = None
    anchor: float | None = None

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

    Taken only where it is better on the held-out tail, its scale has not drifted and it has not
    forgotten what it knew. A number that is not finite fails its condition.
    """
    checks = [_judge_gain(before, after, settings.minimum_gain)]
    checks.append(_judge_drift(after.scale_drift, settings.maximum_drift))
    if before.replay is not None and after.replay is not None:
        rise = -_gain(before.replay, after.replay)
        checks.append(_judge_forgetting('replay', 'the error on replayed frames', rise, settings))
    if after.anchor is not None:
        rise = after.anchor - (before.anchor or 0.0)
        what = 'the difference from the old depth on replayed frames'
        checks.append(_judge_forgetting('anchor', what, rise, settings))
    return Verdict(all(check.passed for check in checks), tuple(checks))


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


def _judge_drift(drift: float, maximum: float) -> Check:
    passed = abs(drift) < maximum
    text = f'scale drifted by {drift:+.3f} in ln s (less than {maximum:g} asked)'
    return Check('drift', drift, maximum, passed, text)


def _judge_forgetting(name: str, what: str, rise: float, settings: AcceptanceSettings) -> Check:
    maximum = settings.maximum_forgetting
    text = f'{what} rose by {rise:.1%} (at most {maximum:.1%} asked)'
    return Check(name, rise, maximum, rise <= maximum, text)


def _gain(before: float, after: float) -> float:
    """The share by which an error fell, NaN where one of them says nothing."""
    if not (math.isfinite(before) and math.isfinite(after) and before > 0.0):
        return math.nan
    return 1.0 - after / before


def _change(gain: float) -> str:
    if math.isnan(gain):
        return 'which says nothing'
    return f'{gain:.2%} better' if gain >= 0.0 else f'{-gain:.2%} worse'
