"""From the paths of a recipe to sequences: decode, choose triplets, count what was left out.

A recording that cannot be read is named and skipped, or refused where the settings are strict.
`judge` says in words whether recordings are fit to learn from, and why not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
import hashlib
import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.calibration_file import load_camera
from psd_depth_ros.data.frames import FrameSource, Origin, Recording, Sequence
from psd_depth_ros.data.open import find_reader, find_recordings, open_frames
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.data.triplets.cache import (
    CachedFrames,
    CachedRecording,
    decode_recording,
    describe_files,
    find_recording,
    Job,
    Layout,
)
from psd_depth_ros.data.triplets.choose import (
    choose_triplets,
    find_fixed,
    FrameMeasures,
    list_triplets,
    REASONS,
    Triplets,
)
from psd_depth_ros.data.triplets.frame_store import FrameStore
from psd_depth_ros.data.triplets.workers import start_workers, Workers
from psd_depth_ros.errors import BagError, PsdDepthError, SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import from_quaternion, make_pose
from psd_depth_ros.parsing import user_path

Report = Callable[[str, int, int], None]

# Fewer triplets than this are learned by heart within seconds.
FEWEST_TRIPLETS = 20

_ADVICE = {
    'blurred': 'nearly all frames are blurred: shorten the exposure or clean the lens',
    'saturated': 'nearly all frames are black or white: check the exposure',
    'stationary': 'the camera hardly moves: record while the robot drives',
    'turning': 'the camera turns on the spot: record while the robot drives',
    'fast': 'the image moves too far between frames: record at a higher rate',
    'cut': 'neighbouring frames have too little in common: record at a higher rate',
    'gap': 'frames are missing or too far apart: record at 5 Hz or more, and check for drops',
    'end': 'the recording is very short: record minutes',
    'split': 'the recording is very short: record minutes',
    'image': 'most images cannot be decoded',
    'camera_info': 'CameraInfo does not fit the images: give --camera camera.yaml',
}


@dataclass(frozen=True)
class Unreadable:
    """A recording that was skipped, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Preparation:
    """Sequences to train on, and what was left out.

    `rejected` counts for every recording the frames that are no target, by reason (see
    `choose.REASONS`; other words are frames that could not be decoded). `notes` are for people;
    `parts` are the measures behind every sequence. `decoded` names the recordings that were not in
    the cache, which `store` is.
    """

    sequences: tuple[Sequence, ...]
    rejected: dict[str, dict[str, int]]
    unreadable: tuple[Unreadable, ...]
    notes: tuple[str, ...] = ()
    parts: tuple[CachedFrames, ...] = ()
    decoded: tuple[str, ...] = ()
    store: FrameStore | None = None

    @property
    def triplets(self) -> int:
        """How many there are to train on."""
        return sum(len(sequence.triplets) for sequence in self.sequences)

    @property
    def held_out(self) -> int:
        """How many there are for validation."""
        return sum(len(sequence.held_out) for sequence in self.sequences)

    def check(self) -> None:
        """Raise BagError, with the counts, where not one triplet is left to train on."""
        if not self.triplets:
            raise BagError(
                f'nothing can be learned from {", ".join(self.rejected)}: no frame has an earlier '
                f'and a later one to compare with ({describe_counts(self.rejected_in_total)}). '
                'Record while the camera moves through the scene, or change the limits under '
                'data.triplets'
            )

    @property
    def rejected_in_total(self) -> Counter[str]:
        """The counts of all recordings, by reason."""
        return sum(map(Counter, self.rejected.values()), Counter[str]())


def describe_counts(rejected: Mapping[str, int]) -> str:
    """Put counts by reason into words, the most frequent reason first."""
    total = Counter(rejected).most_common()
    return ', '.join(f'{REASONS.get(name, name)}: {count}' for name, count in total)


def prepare_sequences(
    settings: DataSettings,
    *,
    pixel_budget: int,
    cache: Path | None = None,
    fine_factor: int = 2,
    keep_pixels: bool = True,
    report: Report = lambda name, done, total: None,
    workers: int = 0,
) -> Preparation:
    """Decode the recordings of the settings and choose their triplets.

    What was decoded once is used again: it is kept in the folder `cache`, by default that of the
    settings.

    Args:
        settings: which recordings, and the limits of triplets.
        pixel_budget: of the network's input.
        cache: a folder in place of that of the settings, from which nothing is removed.
        fine_factor: frames are kept at so many times the size of the network's input.
        keep_pixels: without them frames are measured only, which is enough to count triplets.
        report: gets the name of a recording, the frames decoded and how many there are.
        workers: threads, 0: as many as torch may use; what is made is the same.

    Raises:
        BagError: nothing can be read, or with `settings.strict` something cannot.
        SettingsError: a setting means nothing to any of the recordings.
    """
    layout = Layout(pixel_budget, fine_factor, keep_pixels)
    recordings = find_recordings(settings)
    _check_settings(settings, recordings)
    store = FrameStore.of(settings) if cache is None else FrameStore(user_path(cache))
    with start_workers(workers) as pool:
        decoder = _Decoder(settings, layout, store, pool, report)
        prepared = _prepare(settings, recordings, decoder)
    store.make_room()
    return replace(prepared, store=store)


def _prepare(
    settings: DataSettings, recordings: list[Recording], decoder: _Decoder
) -> Preparation:
    sequences: list[Sequence] = []
    rejected: dict[str, dict[str, int]] = {}
    unreadable: list[Unreadable] = []
    notes: list[str] = []
    parts: list[CachedFrames] = []
    for recording in recordings:
        try:
            kept = decoder.keep(recording)
        except PsdDepthError as error:
            if settings.strict or isinstance(error, SettingsError):
                raise
            unreadable.append(Unreadable(str(recording.path), str(error)))
            continue
        name = _free_name(recording.name, rejected)
        notes += kept.notes
        parts += kept.parts
        counts = Counter(kept.skipped)
        for number, part in enumerate(kept.parts):
            chosen = _choose(recording, part, settings)
            counts.update(chosen.rejected)
            own = name if len(kept.parts) == 1 else f'{name}/{number}'
            place = f'{kept.folder.name}/{number}'
            sequences.append(decoder.sequence(own, recording.path, kept, part, chosen, place))
        rejected[name] = dict(counts)
    if not sequences:
        raise BagError(_nothing(settings, unreadable))
    return Preparation(
        tuple(sequences),
        rejected,
        tuple(unreadable),
        tuple(notes),
        tuple(parts),
        tuple(decoder.decoded),
    )


def _check_settings(settings: DataSettings, recordings: list[Recording]) -> None:
    """Raise SettingsError for settings that mean nothing to any recording.

    A recipe may mix layouts, so each recording gets what it can use.
    """
    readers = []
    for recording in recordings:
        with suppress(PsdDepthError):  # decoding it tells
            readers.append(find_reader(recording.path))
    if not readers:
        return
    topics = {
        'data.image_topic (--image-topic)': settings.image_topic,
        'data.camera_info_topic (--camera-info-topic)': settings.camera_info_topic,
        'data.stamps recorded (--stamps recorded)': settings.stamps == 'recorded',
    }
    lidar = {
        'data.lidar_topic (--lidar-topic)': settings.lidar_topic,
        'data.lidar_pose': settings.lidar_pose,
    }
    lens = {
        'data.camera (--camera)': settings.camera,
        'data.horizontal_fov_deg (--fov)': settings.horizontal_fov_deg,
    }
    for is_used, given, why in (
        (any(one.has_topics for one in readers), topics, 'is a bag with topics'),
        (any(one.has_lidar for one in readers), lidar, 'has a lidar'),
        (any(one.takes_lens for one in readers), lens, 'takes a camera: theirs is known exactly'),
    ):
        names = [name for name, value in given.items() if value]
        if names and not is_used:
            paths = ', '.join(settings.paths)
            raise SettingsError(f'leave out {", ".join(names)}: nothing of {paths} {why}')


class _Decoder:
    """Decodes recordings with the same settings into one cache.

    `decoded` has the names of those that were not there before.
    """

    def __init__(
        self,
        settings: DataSettings,
        layout: Layout,
        store: FrameStore,
        workers: Workers,
        report: Report,
    ) -> None:
        self._settings = settings
        self._layout = layout
        self._store = store
        self._workers = workers
        self._report = report
        self.decoded: list[str] = []
        self._camera: Camera | None = None
        if settings.camera:
            self._camera = load_camera(settings.camera, settings.rectified, settings.rectify_alpha)
        self._T_camera_lidar = _lidar_pose(settings)

    def keep(self, recording: Recording) -> CachedRecording:
        """Decode a recording, or find what was decoded before."""
        settings, path = self._settings, recording.path
        reader = find_reader(path)
        lidar = settings.lidar_topic if reader.has_lidar else ''
        options: dict[str, Any] = {
            'image_topic': (reader.has_topics and settings.image_topic) or None,
            'camera_info_topic': (reader.has_topics and settings.camera_info_topic) or None,
            'camera': self._camera if reader.takes_lens else None,
            'horizontal_fov_deg': (reader.takes_lens and settings.horizontal_fov_deg) or None,
            'image_is_rectified': settings.rectified,
            'sixteen_bit_range': settings.sixteen_bit_range,
            'rectify_alpha': settings.rectify_alpha,
            'with_lidar': bool(lidar),
            'lidar_topic': lidar or None,
            'stamps': settings.stamps if reader.has_topics else 'header',
        }
        if settings.depth:
            options['with_depth'] = True

        def open_source() -> FrameSource:
            source = open_frames(path, **options)
            if self._T_camera_lidar is not None:
                source.T_camera_lidar = self._T_camera_lidar
            return source

        # What is no file, such as a rendered world, is where its name is.
        where = path.resolve() if path.exists() else path
        facts = [str(where), describe_files(path), options, recording.first, recording.stop]
        facts.append(settings.lidar_pose)
        name = recording.name
        if not self._layout.keep_pixels:  # frames that have their pixels are as good
            with_pixels = self._folder(name, facts, replace(self._layout, keep_pixels=True))
            if (kept := find_recording(with_pixels)) is not None:
                return kept
        folder = self._folder(name, facts, self._layout)
        if (kept := find_recording(folder)) is not None:
            return kept
        self.decoded.append(name)
        job = Job(
            open_source,
            self._layout,
            self._workers,
            recording.first,
            recording.stop,
            self._store.make_room,
        )
        return decode_recording(folder, job, lambda done, of: self._report(name, done, of))

    def _folder(self, name: str, facts: list[Any], layout: Layout) -> Path:
        """The entry of a recording in the cache, with a note that it is used."""
        key = self._store.make_key([*facts, asdict(layout)])
        return self._store.use(self._store.folder / f'{name}-{key}')

    def sequence(
        self,
        name: str,
        path: Path,
        kept: CachedRecording,
        part: CachedFrames,
        chosen: Triplets,
        place: str,
    ) -> Sequence:
        """Put frames and triplets together; `place` is that of the frames in the cache."""
        settings = self._settings
        valid = part.seen
        if settings.triplets.mask_fixed_regions:
            valid = valid & ~_fixed(part)
        return Sequence(
            name=name,
            rgb=part.rgb,
            image=part.image,
            camera=part.camera,
            stamps_ns=part.stamps_ns,
            valid=valid,
            triplets=chosen.triplets,
            held_out=chosen.held_out,
            poses=part.poses,
            poses_are_of_camera=part.poses_are_of_camera,
            lidar=part.lidar,
            camera_height_m=settings.camera_height_m or kept.camera_height_m,
            fine_factor=self._layout.fine_factor,
            depth=part.depth,
            fingerprint=_fingerprint(part, chosen),
            origin=Origin(path, part.names, part.indices, part.positions),
            focal_deviation=settings.focal_deviation,
            frames_id=place,
        )


def _lidar_pose(settings: DataSettings) -> NDArray[np.float64] | None:
    values = settings.lidar_pose
    if not values:
        return None
    if len(values) != 7:
        raise SettingsError(
            f'data.lidar_pose has {len(values)} numbers, expected 7: x y z in metres and the '
            "quaternion qx qy qz qw of the lidar in the camera's optical frame"
        )
    try:
        return make_pose(from_quaternion(values[3:]), values[:3])
    except ValueError as error:
        raise SettingsError(f'data.lidar_pose: {error}') from error


def _choose(recording: Recording, part: CachedFrames, settings: DataSettings) -> Triplets:
    """Choose triplets as the recording's role asks for."""
    if recording.listed is not None:
        return list_triplets(part.indices, *recording.listed)
    limits = settings.triplets
    if recording.role != 'both':
        limits = replace(limits, held_out=0.0)
    positions = np.full((len(part.stamps_ns), 3), np.nan)
    if part.poses is not None:
        positions = part.poses[:, :3, 3]
    chosen = choose_triplets(
        FrameMeasures(part.stamps_ns, part.sharpness, part.saturation, positions, part.shift),
        limits,
    )
    if recording.role == 'held_out':
        return Triplets(chosen.held_out, chosen.triplets, chosen.rejected)
    return chosen


def _fixed(part: CachedFrames) -> NDArray[np.bool_]:
    """What never moves, at the size of the frames."""
    height, width = part.grey.shape[1:]
    small = part.camera.resize(width, height)
    fixed = find_fixed(part.grey, part.neighbours[:, 0], (small.cx, small.cy))
    return cv2.resize(fixed.astype(np.float32), part.camera.size[::-1]) > 0.01


def _fingerprint(part: CachedFrames, chosen: Triplets) -> str:
    """A short text that differs where frames or triplets do; the same wherever the files lie."""
    digest = hashlib.sha256(repr(part.camera).encode())
    some = np.linspace(0, len(part.grey) - 1, min(len(part.grey), 32)).astype(int)
    for array in (part.stamps_ns, part.grey[some], chosen.triplets, chosen.held_out):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _free_name(name: str, taken: dict[str, dict[str, int]]) -> str:
    if name not in taken:
        return name
    numbered = (f'{name}-{number}' for number in itertools.count(2))
    return next(free for free in numbered if free not in taken)


def _nothing(settings: DataSettings, unreadable: list[Unreadable]) -> str:
    if not settings.paths:
        return 'no recordings are named; give bags, videos or folders under data.paths'
    if len(unreadable) == 1:
        return unreadable[0].reason
    reasons = ''.join(f'\n  {recording.path}: {recording.reason}' for recording in unreadable)
    return f'none of the {len(unreadable)} recordings can be read:{reasons}'


@dataclass(frozen=True)
class Fitness:
    """A description of recordings as (label, text), and the reasons against training on them."""

    lines: tuple[tuple[str, str], ...]
    against: tuple[str, ...]

    @property
    def is_fit(self) -> bool:
        """Whether there is no reason against it."""
        return not self.against


def judge(preparation: Preparation) -> Fitness:
    """Tell whether what was prepared is fit for training."""
    lines: list[tuple[str, str]] = []
    for sequence, part in zip(preparation.sequences, preparation.parts, strict=True):
        if len(preparation.sequences) > 1:
            lines.append(('sequence', sequence.name))
        lines += _describe(sequence, part)
    total = preparation.triplets + preparation.held_out
    frames = total + preparation.rejected_in_total.total()
    lines.append((
        'triplets',
        f'{preparation.triplets} to train on, {preparation.held_out} held out, of {frames} frames',
    ))  # fmt: skip
    for name, counts in preparation.rejected.items():
        label = 'left out' if len(preparation.rejected) == 1 else f'left out of {name}'
        lines.append((label, describe_counts(counts) or 'nothing'))
    lines += [('note', note) for note in preparation.notes]
    lines += [
        ('unreadable', f'{recording.path}: {recording.reason}')
        for recording in preparation.unreadable
    ]
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
        yield 'masked', f'{100 * fixed:.1f} % of the image: border, bonnet or other fixed regions'
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
    counts = preparation.rejected_in_total
    worst = max(counts, key=lambda reason: counts[reason], default='')
    if worst in _ADVICE and counts[worst] > preparation.triplets:
        text += f'; {_ADVICE[worst]}'
    yield text
