"""What the fine-tuning node tells on ~/progress: one status, whose keys are listed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
import math
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from psd_depth_ros.finetune.report import (
    ACCEPTED,
    FinetuneReport,
    FinetuneStatus,
    KEPT,
    STOPPED,
)

IDLE, STARTING, STOPPING, DEPLOYING, FAILED = (
    'idle',
    'starting',
    'stopping',
    'deploying',
    'failed',
)
# What docs/diagnostics.md lists; a test compares both with what the node says.
PROGRESS_KEYS = {
    'state': 'idle, starting, preparing, training, judging, deploying, accepted, kept (the old '
    'weights were no worse), stopping, stopped or failed',
    'step': 'steps done; while preparing, frames decoded; while judging, triplets measured',
    'of': 'total of these; of steps an estimate where `minutes` limits them; 0: unknown',
    'loss': 'training loss; loss.TERM is one term of it',
    'images_per_second': 'training images per second',
    'time_left_s': 'estimated time until training ends',
    'score': 'held-out error at the last validation; score.NAME are other figures',
    'output': 'folder of the run',
    'checkpoint': 'content id of best.safetensors in it',
    'deployed': 'result of deploying it to the depth node',
}


@dataclass(frozen=True)
class Standing:
    """All that the node knows of its run."""

    state: str = IDLE
    status: FinetuneStatus | None = None
    report: FinetuneReport | None = None
    problem: str = ''
    deployed: str = ''
    output: str = ''

    @property
    def is_busy(self) -> bool:
        """Whether a run is under way."""
        return self.state not in (IDLE, ACCEPTED, KEPT, STOPPED, FAILED)

    def changed(self, **values: Any) -> Standing:
        """A copy with some values changed."""
        return replace(self, **values)

    def __str__(self) -> str:
        """One line for a person."""
        if self.problem:
            return f'{self.state}: {self.problem}'
        if self.report is not None and not self.is_busy:
            deployed = f'; {self.deployed}' if self.deployed else ''
            return f'{self.state}: {self.report.reason}{deployed}'
        if self.status is not None and self.state == self.status.state:
            return str(self.status)
        return self.state


def progress_array(stamp: Any, node_name: str, standing: Standing) -> DiagnosticArray:
    """Make the message: ERROR where the run failed, WARN where its weights reached nobody."""
    pairs = [KeyValue(key=key, value=value) for key, value in progress_values(standing).items()]
    level = DiagnosticStatus.OK
    if standing.problem:
        failed = standing.state == FAILED
        level = DiagnosticStatus.ERROR if failed else DiagnosticStatus.WARN
    status = DiagnosticStatus(
        name=f'{node_name}: training', level=level, message=str(standing), values=pairs
    )
    message = DiagnosticArray(status=[status])
    message.header.stamp = stamp
    return message


def progress_values(standing: Standing) -> dict[str, str]:
    """The values by key, as text."""
    status = standing.status or FinetuneStatus(standing.state)
    report = standing.report
    losses, scores = _numbers('loss', status.losses), _numbers('score', status.scores)
    return {
        'state': standing.state,
        'step': str(report.steps if report else status.step),
        'of': str(report.of if report else status.of),
        'loss': _number(sum(status.losses.values())) if status.losses else '',
        **losses,
        'images_per_second': _number(status.images_per_second),
        'time_left_s': _number(status.seconds_left),
        'score': '',
        **scores,
        'output': standing.output,
        'checkpoint': report.checkpoint if report else '',
        'deployed': standing.deployed,
    }


def _numbers(name: str, values: Mapping[str, float]) -> dict[str, str]:
    """Every number as `name.KEY`; the one that is called like `name` itself as `name`."""
    return {
        name if key == name else f'{name}.{key}': _number(value) for key, value in values.items()
    }


def _number(value: float) -> str:
    return f'{value:.5g}' if math.isfinite(value) else ''
