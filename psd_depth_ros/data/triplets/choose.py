"""Which frames of a recording make triplets, and why the others do not.

Sources are chosen by how far the picture moved, not by index. Measuring is left to `measure`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.settings import TripletSettings
from psd_depth_ros.data.triplets.measure import Shift

LEAST_SHARPNESS = 0.1  # at the size of the network: 0 is flat, 0.2 to 0.5 usual
MOST_SATURATED = 0.4  # fraction of black or white pixels
LEAST_TRANSLATION_M = 0.01  # between target and source, where the recording knows it
# Fewer corners found again than this share: not the same scene any more.
_SAME_SCENE = 0.3
# A wait this many times as long as usual means that frames were lost.
_GAP = 3.0

REASONS = {
    'blurred': 'blurred',
    'saturated': 'mostly black or white',
    'stationary': 'the camera stands still',
    'turning': 'the camera turns on the spot',
    'fast': 'the picture moves too far between frames',
    'cut': 'another scene, or too little to track',
    'gap': 'frames are missing before or after, or too far apart in time',
    'end': 'first or last of the recording',
    'split': 'at the border to what is held out',
    'unlisted': 'not in the lists of the split',
    'image': 'images that cannot be decoded',
    'camera_info': 'no camera that fits',
}


@dataclass(frozen=True)
class FrameMeasures:
    """What is known of the frames of a recording, (N,) each, and how two of them differ.

    `positions` (N, 3) are metres, NaN where unknown. `shift(i, j)` compares frames i < j.
    """

    stamps_ns: NDArray[np.int64]
    sharpness: NDArray[np.float32]
    saturation: NDArray[np.float32]
    positions: NDArray[np.float64]
    shift: Callable[[int, int], Shift]


@dataclass(frozen=True)
class Triplets:
    """Triplets (M, 3): target, earlier source, later source; `rejected` counts other frames.

    The triplets, those held out and the rejected add up to the frames of the recording.
    """

    triplets: NDArray[np.int32]
    held_out: NDArray[np.int32]
    rejected: dict[str, int]


def choose_triplets(measures: FrameMeasures, settings: TripletSettings) -> Triplets:
    """Give every frame that can be a target the nearest sources that moved enough.

    The last `held_out` of the recorded time is kept apart: no triplet reaches across.
    """
    chooser = _Chooser(measures, settings)
    count = len(measures.stamps_ns)
    border = chooser.border
    found: dict[bool, list[list[int]]] = {False: [], True: []}
    rejected: Counter[str] = Counter()
    for target in range(count):
        reason, sources = chooser.sources(target)
        if reason:
            rejected[reason] += 1
        else:
            found[target >= border].append([target, *sources])
    counts = {name: rejected[name] for name in REASONS if rejected[name]}
    return Triplets(_rows(found[False]), _rows(found[True]), counts)


def list_triplets(
    indices: NDArray[np.int64], train: frozenset[int], held_out: frozenset[int]
) -> Triplets:
    """Triplets of the targets that a benchmark lists, with the frames right before and after.

    `indices` are the numbers of the recording's frames.
    """
    places = {int(number): place for place, number in enumerate(indices)}
    found: list[list[list[int]]] = [[], []]
    rejected: Counter[str] = Counter()
    for number, place in places.items():
        sources = [places.get(number - 1), places.get(number + 1)]
        if number not in train and number not in held_out:
            rejected['unlisted'] += 1
        elif None in sources:
            rejected['end'] += 1
        else:
            found[number in held_out].append([place, *(one for one in sources if one is not None)])
    return Triplets(_rows(found[False]), _rows(found[True]), dict(rejected))


def _rows(triplets: list[list[int]]) -> NDArray[np.int32]:
    return np.array(triplets, np.int32).reshape(-1, 3)


class _Chooser:
    """Looks for the sources of one target after another."""

    def __init__(self, measures: FrameMeasures, settings: TripletSettings) -> None:
        self._measures = measures
        self._settings = settings
        steps = np.diff(measures.stamps_ns)
        usual = float(np.median(steps[steps > 0])) if np.any(steps > 0) else 0.0
        self._lost = (steps <= 0) | (steps > _GAP * usual)
        # Comparing frames takes time: where the steps between add up to hardly anything, nobody
        # needs to. What could not be tracked may be anything.
        flows = [measures.shift(i, i + 1).flow for i in range(len(steps))]
        self._travel = np.concatenate([[0.0], np.cumsum(np.nan_to_num(flows, nan=1e9))])
        self._hardly = 0.7 * settings.minimum_flow
        # Recorded time: waits and jumps count as one step.
        clock = np.concatenate([[0.0], np.cumsum(np.where(self._lost, usual, steps))])
        self.border = int(np.searchsorted(clock, clock[-1] * (1 - settings.held_out), 'right'))
        if settings.held_out == 0 or len(clock) - self.border < 3:
            self.border = len(clock)

    def sources(self, target: int) -> tuple[str, list[int]]:
        """Give the earlier and the later source, or the reason why there are none."""
        fault = self._fault(target)
        if not fault and target in (0, len(self._lost)):
            fault = 'end'
        if fault:
            return fault, []
        found = []
        for direction in (-1, 1):
            reason, source = self._search(target, direction)
            if reason:
                return reason, []
            found.append(source)
        return '', found

    def _fault(self, index: int) -> str:
        if self._measures.saturation[index] > MOST_SATURATED:
            return 'saturated'
        return 'blurred' if self._measures.sharpness[index] < LEAST_SHARPNESS else ''

    def _search(self, target: int, direction: int) -> tuple[str, int]:
        """Walk away from the target to the first frame that moved enough."""
        reason = ''
        for source, end in self._walk(target, direction):
            if end:
                return reason or end, -1
            fault = self._fault(source)
            if fault:
                reason = reason or fault
                continue
            if abs(self._travel[source] - self._travel[target]) < self._hardly:
                reason = 'stationary'
                continue
            shift = self._measures.shift(min(target, source), max(target, source))
            if not shift.tracked >= _SAME_SCENE:
                return 'cut', -1
            if shift.flow > self._settings.maximum_flow:
                return 'fast', -1
            reason = self._too_near(shift, target, source)
            if not reason:
                return '', source
        raise AssertionError('the walk says where it ends')

    def _walk(self, target: int, direction: int) -> Iterator[tuple[int, str]]:
        """Give frames one by one, and at last why there are no more."""
        stamps, longest = self._measures.stamps_ns, self._settings.maximum_gap_s * 1e9
        source = target
        while True:
            before, source = source, source + direction
            if not 0 <= source < len(stamps):
                yield -1, 'end'
            elif self._lost[min(before, source)]:
                yield -1, 'gap'
            elif (source >= self.border) != (target >= self.border):
                yield -1, 'split'
            elif abs(int(stamps[source]) - int(stamps[target])) > longest:
                yield -1, 'gap'
            else:
                yield source, ''

    def _too_near(self, shift: Shift, target: int, source: int) -> str:
        settings, positions = self._settings, self._measures.positions
        distance_m = float(np.linalg.norm(positions[target] - positions[source]))
        if shift.flow < settings.minimum_flow:
            return 'stationary'
        near = distance_m < LEAST_TRANSLATION_M  # false where unknown
        return 'turning' if near or shift.parallax < settings.minimum_parallax else ''
