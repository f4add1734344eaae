"""Status and report of a fine-tuning, as values that travel between processes as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
import json
import math
from typing import Any

PREPARING, TRAINING, JUDGING = 'preparing', 'training', 'judging'
ACCEPTED, KEPT, STOPPED = 'accepted', 'kept', 'stopped'


@dataclass(frozen=True)
class FinetuneStatus:
    """Status of a run. `of` is the total of steps, 0 where it is unknown."""

    state: str  # preparing, measuring, training or judging
    step: int = 0
    of: int = 0
    detail: str = ''
    losses: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    images_per_second: float = 0.0
    seconds: float = 0.0
    seconds_left: float = math.nan
    preview: str = ''  # file of the newest picture

    def __str__(self) -> str:
        """One line of text."""
        if self.state != TRAINING:
            done = f' {self.step} of {self.of}' if self.of else ''
            return f'{self.state}{done}{": " if self.detail else ""}{self.detail}'
        left = '' if math.isnan(self.seconds_left) else f', {duration(self.seconds_left)} left'
        return (
            f'training: step {self.step} of {self.of}, {self.images_per_second:.1f} images/s{left}'
        )


@dataclass(frozen=True)
class FinetuneReport:
    """The result of a run.

    Attributes:
        state: accepted (`best` has the new weights), kept (it has the old ones) or stopped.
        best: the weights to use, whatever the state.
        data: for each recording its name, time range, training and held-out triplets.
        rejected: numbers of frames left out, by recording and reason.
        unreadable: recordings that could not be used.
        notes: parts of recordings that were lost, damaged files of the folder that were repaired.
    """

    state: str
    reason: str
    best: str
    checkpoint: str  # content id of `best`
    start: str  # name and content id of what the run started from
    steps: int
    of: int
    minutes: float
    images_per_second: float
    device: str
    ended: str = ''
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    checks: tuple[Mapping[str, Any], ...] = ()
    data: tuple[Mapping[str, Any], ...] = ()
    rejected: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    unreadable: tuple[Mapping[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    run: Mapping[str, Any] = field(default_factory=dict)  # settings and versions

    @property
    def accepted(self) -> bool:
        """Whether `best` has the new weights."""
        return self.state == ACCEPTED

    def as_json(self) -> str:
        """The content of report.json; a number that is not finite is null."""
        values = {**asdict(self), 'accepted': self.accepted}
        return json.dumps(_finite(values), indent=2) + '\n'


def report_from(values: Mapping[str, Any]) -> FinetuneReport:
    """Read a report back from JSON values."""
    kept = {name: values[name] for name in FinetuneReport.__dataclass_fields__ if name in values}
    for name in ('checks', 'data', 'unreadable', 'notes'):
        kept[name] = tuple(kept.get(name, ()))
    return FinetuneReport(**kept)


def report_lines(report: FinetuneReport) -> Iterator[str]:
    """The report as lines of text."""
    for one in report.data:
        yield from _recording_lines(one)
    for name, reasons in report.rejected.items():
        counts = ', '.join(f'{count} {reason}' for reason, count in reasons.items())
        yield f'left out:  {counts or "no frames"} of {name}'
    for one in report.unreadable:
        yield f'unusable:  {one["path"]}: {one["reason"]}'
    for note in report.notes:
        yield f'note:      {note}'
    yield (
        f'training:  {report.steps} of {report.of} steps in {report.minutes:.1f} min on '
        f'{report.device}, {report.images_per_second:.1f} images/s'
        f'{f"; {report.ended}" if report.ended else ""}'
    )
    for name in report.before:
        yield f'held out:  {name} {report.before[name]:.5f} -> {report.after[name]:.5f}'
    verdict = {
        ACCEPTED: 'accepted: the new weights are better',
        KEPT: 'not accepted: the old weights stay',
        STOPPED: 'stopped: resume it to go on',
    }[report.state]
    yield f'{verdict}; {report.reason}'
    yield f'weights:   {report.best} ({report.checkpoint})'


def duration(seconds: float) -> str:
    """Seconds as text in seconds, minutes or hours."""
    if seconds < 90.0:
        return f'{seconds:.0f} s'
    return f'{seconds / 60.0:.1f} min' if seconds < 5400.0 else f'{seconds / 3600.0:.1f} h'


def _recording_lines(one: Mapping[str, Any]) -> Iterator[str]:
    begin, end = (_clock(one.get(name)) for name in ('from_ns', 'to_ns'))
    when = f', {begin} .. {end}' if begin and end else ''
    counts = [
        f'{one[name]} {text}'
        for name, text in (
            ('frames', 'frames'),
            ('triplets', 'triplets'),
            ('held_out', 'held out'),
        )
        if name in one
    ]
    yield f'data:      {one.get("name", "?")}{when}: {", ".join(counts)}'


def _clock(stamp_ns: Any) -> str:
    """A stamp as a date, or as seconds where it does not count from 1970."""
    if stamp_ns is None:
        return ''
    seconds = float(stamp_ns) / 1e9
    if seconds < 1e8:
        return f'{seconds:.1f} s'
    return datetime.fromtimestamp(seconds, timezone.utc).strftime('%Y-%m-%d %H:%M:%S UTC')


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
