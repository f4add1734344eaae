"""Whether recordings are fit to learn from, in words, and why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.frames import Sequence
from psd_depth_ros.data.triplets.cache import CachedFrames
from psd_depth_ros.data.triplets.choose import REASONS
from psd_depth_ros.data.triplets.prepare import Preparation

# Fewer triplets than this are learned by heart within seconds.
FEWEST_TRIPLETS = 20


@dataclass(frozen=True)
class Fitness:
    """What recordings are like as (label, text), and the reasons against learning from them."""

    lines: tuple[tuple[str, str], ...]
    against: tuple[str, ...]

    @property
    def is_fit(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.against


def judge(preparation: Preparation) -> Fitness:
    """Judge what was prepared."""
    lines: list[tuple[str, str]] = []
    for sequence, part in zip(preparation.sequences, preparation.parts, strict=True):
        if len(preparation.sequences) > 1:
            lines.append(('sequence', sequence.name))
        lines += _describe(sequence, part)
    total = preparation.triplets + preparation.held_out
    frames = total + sum(sum(counts.values()) for counts in preparation.rejected.values())
    lines.append((
        'triplets',
        f'{preparation.triplets} to train on, {preparation.held_out} held out, of {frames} frames',
    ))  # fmt: skip
    for name, counts in preparation.rejected.items():
        label = 'left out' if len(preparation.rejected) == 1 else f'left out of {name}'
        words = ', '.join(f'{REASONS.get(reason, reason)} {n}' for reason, n in counts.items())
        lines.append((label, words or 'nothing'))
    lines += [('note', note) for note in preparation.notes]
    lines += [('unreadable', f'{one.path}: {one.reason}') for one in preparation.unreadable]
    return Fitness(tuple(lines), tuple(_objections(preparation)))


def _describe(sequence: Sequence, part: CachedFrames) -> Iterator[tuple[str, str]]:
    steps_s = np.diff(sequence.stamps_ns) / 1e9
    if len(steps_s):
        usual = float(np.median(steps_s))
        gaps = int(np.count_nonzero((steps_s > 3 * usual) | (steps_s <= 0)))
        span_s = (int(sequence.stamps_ns[-1]) - int(sequence.stamps_ns[0])) / 1e9
        rate = f'{1 / usual:.1f} Hz, ' if usual > 0 else ''
        yield 'time', f'{len(sequence.rgb)} frames, {rate}{span_s:.1f} s, {gaps} gaps'
        flow, parallax, _ = part.neighbours.T
        yield (
            'motion',
            (f'{_range(flow)} % of the width from frame to frame, parallax {_range(parallax)} %'),
        )
    yield 'sharpness', f'{_range(part.sharpness)} (0 is flat, 0.2 to 0.5 usual)'
    yield 'exposure', f'{_range(100 * part.saturation)} % of the pixels black or white'
    fixed = 1.0 - float(sequence.valid.mean())
    if fixed:
        yield 'masked', f'{100 * fixed:.1f} % of the picture: border, bonnet or what else is fixed'
    yield 'scale', _scale_words(sequence)


def _range(values: NDArray[np.float32]) -> str:
    """Median, and in brackets what 8 of 10 lie between."""
    known = values[np.isfinite(values)]
    if not len(known):
        return 'unknown'
    low, middle, high = np.percentile(known, [10, 50, 90])
    return f'{middle:.2f} ({low:.2f} to {high:.2f})'


def _scale_words(sequence: Sequence) -> str:
    known = []
    if sequence.poses is not None:
        whose = 'the camera' if sequence.poses_are_of_camera else 'the body'
        known.append(f'poses of {whose}')
    if sequence.camera_height_m:
        known.append(f'camera height {sequence.camera_height_m:.2f} m')
    if sequence.lidar is not None:
        known.append('lidar')
    return ', '.join(known) or 'nothing tells it: the network keeps the scale it starts with'


def _objections(preparation: Preparation) -> Iterator[str]:
    if preparation.triplets >= FEWEST_TRIPLETS:
        return
    text = f'{preparation.triplets} triplets to train on, expected at least {FEWEST_TRIPLETS}'
    counts: dict[str, int] = {}
    for one in preparation.rejected.values():
        for reason, count in one.items():
            counts[reason] = counts.get(reason, 0) + count
    worst = max(counts, key=lambda reason: counts[reason], default='')
    if worst in _ADVICE and counts[worst] > preparation.triplets:
        text += f'; {_ADVICE[worst]}'
    yield text


_ADVICE = {
    'blurred': 'nearly all frames are blurred: shorten the exposure or clean the lens',
    'saturated': 'nearly all frames are black or white: check the exposure',
    'stationary': 'the camera hardly moves: record while the robot drives',
    'turning': 'the camera turns on the spot: record while the robot drives',
    'fast': 'the picture moves too far between frames: record at a higher rate',
    'cut': 'neighbouring frames have too little in common: record at a higher rate',
    'gap': 'frames are missing or too far apart: record at 5 Hz or more, and check for drops',
    'end': 'the recording is very short: record minutes',
    'split': 'the recording is very short: record minutes',
    'image': 'most images cannot be decoded',
    'camera_info': 'CameraInfo does not fit the images: give --camera camera.yaml',
}
