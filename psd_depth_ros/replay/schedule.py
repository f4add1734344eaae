"""When each message of a recording is due, at a rate, from a point on, once or in a loop.

Pure arithmetic: waiting, publishing and the /clock topic are left to `ros.replay_node`. Stamps
stay as recorded, so in a loop time jumps back, which listeners are meant to notice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from psd_depth_ros.config import setting
from psd_depth_ros.errors import BagError
from psd_depth_ros.replay.recordings import RecordedMessage, Recording

# Between the last message of a round and the first of the next, in recorded time: about a frame.
_LOOP_GAP_NS = 100_000_000


@dataclass(frozen=True)
class PlaybackSettings:
    """How a recording is played."""

    rate: float = setting(
        1.0, 'recorded seconds played per second', '', minimum=0.01, maximum=100.0
    )
    loop: bool = setting(False, 'start again at the end; the clock jumps back')
    start_s: float = setting(0.0, 'skip this much of the recording', 's', minimum=0.0, maximum=1e7)
    duration_s: float = setting(
        0.0, 'play this much of the recording; 0 plays to its end', 's', minimum=0.0, maximum=1e7
    )


@dataclass(frozen=True)
class DueMessage:
    """A message, when it is due in seconds after the start, and the round of the loop."""

    due_s: float
    message: RecordedMessage
    round: int


class Schedule:
    """The timetable of a recording. Raises BagError where the settings leave nothing to play."""

    def __init__(self, recording: Recording, settings: PlaybackSettings) -> None:
        self._recording = recording
        self._settings = settings
        self.start_ns = recording.start_ns + round(settings.start_s * 1e9)
        self.stop_ns = recording.end_ns
        if settings.duration_s:
            self.stop_ns = min(self.stop_ns, self.start_ns + round(settings.duration_s * 1e9))
        if self.start_ns > recording.end_ns:
            length_s = (recording.end_ns - recording.start_ns) / 1e9
            raise BagError(
                f'start is {settings.start_s:g} s into the recording, which lasts {length_s:g} s'
            )

    @property
    def round_s(self) -> float:
        """Seconds that one round takes to play, the gap before the next one included."""
        return self._seconds(self.stop_ns - self.start_ns + _LOOP_GAP_NS)

    def __iter__(self) -> Iterator[DueMessage]:
        """Messages in the order they are due; without end where they loop."""
        number = 0
        while True:
            for message in self._recording.messages(self.start_ns, self.stop_ns):
                due_s = number * self.round_s + self._seconds(message.time_ns - self.start_ns)
                yield DueMessage(due_s, message, number)
            number += 1
            if not self._settings.loop:
                return

    def clock_ns(self, elapsed_s: float) -> int:
        """Recorded time at `elapsed_s` seconds after the start of playing, for /clock."""
        if self._settings.loop:
            elapsed_s %= self.round_s
        reached = self.start_ns + round(elapsed_s * self._settings.rate * 1e9)
        limit = self.stop_ns + _LOOP_GAP_NS
        return min(reached, limit)

    def _seconds(self, recorded_ns: int) -> float:
        return recorded_ns / 1e9 / self._settings.rate
