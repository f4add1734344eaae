"""Things with stamps that come in a stream: the newest of them, in the order of their stamps.

Clocks jump and messages overtake each other. What is a little older than the newest is put in its
place; what is much older begins a new time, and the past is forgotten.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from psd_depth_ros.geometry.pose import exponential, invert, logarithm

Item = TypeVar('Item')

KEPT_NS = 10_000_000_000  # as tf2 does
DISORDER_NS = 500_000_000
_MAX_POSE_GAP_NS = 500_000_000
_MAX_CLOUD_GAP_NS = 100_000_000
_MAX_ITEMS = 10_000
_MAX_CLOUDS = 8


def has_jumped(before_ns: int, now_ns: int) -> bool:
    """Whether a stamp is so far before an earlier one that time must have been set back."""
    return now_ns < before_ns - DISORDER_NS


class Track(Generic[Item]):
    """The items of the last 10 s of stamps, `kept` at most. Not thread-safe."""

    def __init__(self, kept: int = _MAX_ITEMS) -> None:
        self._kept = kept
        self._stamps: list[int] = []
        self._items: list[Item] = []

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self._stamps)

    @property
    def newest_ns(self) -> int | None:
        """The last stamp, None where nothing has come."""
        return self._stamps[-1] if self._stamps else None

    def clear(self) -> None:
        """Forget everything."""
        self._stamps.clear()
        self._items.clear()

    def add(self, stamp_ns: int, item: Item) -> None:
        """Take an item; of two with one stamp the first stays, as in tf2."""
        if self._stamps and has_jumped(self._stamps[-1], stamp_ns):
            self.clear()
        place = bisect_left(self._stamps, stamp_ns)
        if place < len(self._stamps) and self._stamps[place] == stamp_ns:
            return
        self._stamps.insert(place, stamp_ns)
        self._items.insert(place, item)
        old = bisect_left(self._stamps, self._stamps[-1] - KEPT_NS)
        old = max(old, len(self._stamps) - self._kept)
        if old > 0:
            del self._stamps[:old], self._items[:old]

    def around(self, stamp_ns: int) -> tuple[tuple[int, Item] | None, tuple[int, Item] | None]:
        """The last item up to a stamp and the first from it on, the same where one fits."""
        after = bisect_left(self._stamps, stamp_ns)
        before = bisect_right(self._stamps, stamp_ns) - 1
        return self._at(before), self._at(after)

    def _at(self, place: int) -> tuple[int, Item] | None:
        if not 0 <= place < len(self._stamps):
            return None
        return self._stamps[place], self._items[place]


class PoseTrack(Track[npt.NDArray[np.float64]]):
    """The newest odometry poses, interpolated in between."""

    def at(self, stamp_ns: int) -> npt.NDArray[np.float64] | None:
        """Give the pose at a time, None where there is a gap of over 0.5 s, or nothing yet."""
        before, after = self.around(stamp_ns)
        if before is None or after is None:
            return None
        (start_ns, start), (end_ns, end) = before, after
        if end_ns == start_ns:
            return end
        if end_ns - start_ns > _MAX_POSE_GAP_NS:
            return None
        share = (stamp_ns - start_ns) / (end_ns - start_ns)
        return start @ exponential(share * logarithm(invert(start) @ end))


class CloudTrack(Track[Any]):
    """The newest messages of points."""

    def __init__(self) -> None:
        super().__init__(_MAX_CLOUDS)

    def at(self, stamp_ns: int) -> Any | None:
        """Give the message nearest in time, None where none is within 0.1 s."""
        found = [one for one in self.around(stamp_ns) if one is not None]
        if not found:
            return None
        nearest_ns, message = min(found, key=lambda one: abs(one[0] - stamp_ns))
        return message if abs(nearest_ns - stamp_ns) <= _MAX_CLOUD_GAP_NS else None
