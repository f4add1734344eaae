"""Batches of image triplets for self-supervised training.

Which triplets a step sees follows from seed and step alone, so that steps can be asked for in any
order, by several threads and processes. Choosing triplets is left to `data.clips`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from psd_depth_ros.augment.colour import Colours, draw_colours
from psd_depth_ros.augment.crops import centred_window, draw_window, Window
from psd_depth_ros.data.frames import Sequence
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import relative

Sample = dict[str, Tensor]

MOST_LIDAR_POINTS = 2048
_MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


@dataclass(frozen=True)
class ClipBatch:
    """Triplets; frame 0 is the target, 1 the earlier and 2 the later source.

    Images are RGB uint8. `fine` tensors exist where patches are wanted: the same view at a
    whole multiple of the network's size; `fine_shown` only in steps that have patches. Unknown
    numbers are NaN.
    """

    clean: Tensor  # (B, 3, 3, H, W) what is compared: B samples, frames, channels
    shown: Tensor  # (B, 3, 3, H, W) what the networks see: colours changed
    intrinsics: Tensor  # (B, 4) float32 fx fy cx cy in pixels of `clean`
    valid: Tensor  # (B, 1, H, W) bool, false on bonnet and border
    odometry: Tensor  # (B, 2, 4, 4) float32 T_source_target of the camera
    distance_m: Tensor  # (B, 2) float32 from the target to each source
    camera_height_m: Tensor  # (B,) float32
    lidar: Tensor  # (B, M, 3) float32 x, y in pixels of `clean`, Z in metres; M may be 0
    seeds: Tensor  # (B,) int64, for draws inside the objective
    fine: Tensor | None = None  # (B, 3, 3, f H, f W) clean
    fine_shown: Tensor | None = None  # (B, 3, f H, f W) the target, colours changed

    def to(self, device: torch.device) -> ClipBatch:
        """The same batch on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in values.items()
            if value is not None and name != 'seeds'
        }
        return replace(self, **moved)


class ClipBatches:
    """Batches of the triplets of some sequences.

    Every triplet comes once before any comes again; a batch holds pictures of one size. Half of
    the samples are mirrored, a window of down to `smallest_window` of the sides fills the whole
    picture, and what the networks see has its colours changed, the same way in the three frames of
    a sample; without `augment` none of it. `patch_share` of the steps, evenly, have patches.
    Raises SettingsError where there are no triplets.
    """

    def __init__(
        self,
        sequences: tuple[Sequence, ...] | list[Sequence],
        *,
        batch: int,
        seed: int,
        with_fine: bool,
        patch_share: float = 1.0,
        augment: bool = True,
        smallest_window: float = 1.0,
    ) -> None:
        self._batch = batch
        self._patch_share = patch_share
        self._seed = seed
        self._augment = augment
        self._smallest_window = smallest_window
        self._views = [_View(sequence, with_fine) for sequence in sequences]
        self._groups = [group for group in _by_size(self._views, held_out=False) if len(group)]
        if not self._groups:
            raise SettingsError('there are no triplets to train on; see data.clips of the recipe')
        self._shares = [max(1, round(len(group) / batch)) for group in self._groups]
        # An epoch's order is needed for every one of its steps.
        self._order = lru_cache(4)(self._draw_order)
        self._permutation = lru_cache(4 * len(self._groups))(self._draw_permutation)

    @property
    def steps_per_epoch(self) -> int:
        """Batches that together hold every triplet about once."""
        return sum(self._shares)

    def batch(self, step: int, rank: int = 0, processes: int = 1) -> ClipBatch:
        """The `rank`-th of `processes` equal parts of the batch of a step, from 1."""
        if self._batch % processes:
            raise SettingsError(
                f'batch is {self._batch}, which {processes} processes cannot share; expected a '
                f'multiple of {processes}'
            )
        part = self._batch // processes
        places = range(rank * part, (rank + 1) * part)
        chosen = self._choose(step - 1)
        has_patches = is_turn(step, self._patch_share)
        samples = [self._sample(step, place, *chosen[place], has_patches) for place in places]
        return _collate(samples)

    def held_out_batches(self, most: int | None = None) -> Iterator[ClipBatch]:
        """Give what is held out, unchanged and always in the same order, in batches.

        `most` takes that many triplets spread evenly over all.
        """
        groups = _by_size(self._views, held_out=True)
        for group, kept in zip(groups, _spread_evenly(groups, most), strict=True):
            for start in range(0, len(kept), self._batch):
                items = group[kept[start : start + self._batch]]
                yield _collate([
                    _make_sample(self._views[view], triplet, _seed(0, 0, start + place))
                    for place, (view, *triplet) in enumerate(items.tolist())
                ])  # fmt: skip

    def held_out_count(self, most: int | None = None) -> int:
        """How many triplets `held_out_batches` gives."""
        return sum(map(len, _spread_evenly(_by_size(self._views, held_out=True), most)))

    def _choose(self, step: int) -> list[tuple[int, list[int]]]:
        """View and triplet of every sample of a step (from 0)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        number = int(order[place])
        earlier = int(np.count_nonzero(order[:place] == number))
        group = self._groups[number]
        first = (epoch * self._shares[number] + earlier) * self._batch
        chosen = []
        for position in range(first, first + self._batch):
            turn, index = divmod(position, len(group))
            view, *triplet = group[self._permutation(number, turn)[index]].tolist()
            chosen.append((view, triplet))
        return chosen

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        """Which group every batch of an epoch is of."""
        groups = np.repeat(np.arange(len(self._groups)), self._shares)
        return np.random.default_rng((self._seed, 1, epoch)).permutation(groups)

    def _draw_permutation(self, number: int, turn: int) -> NDArray[np.int64]:
        """The order in which a group's triplets come the `turn`-th time."""
        rng = np.random.default_rng((self._seed, 2, number, turn))
        return rng.permutation(len(self._groups[number]))

    def _sample(
        self, step: int, place: int, view: int, triplet: list[int], has_patches: bool
    ) -> Sample:
        seed = _seed(self._seed, step, place)
        rng = np.random.default_rng((self._seed, 3, step, place)) if self._augment else None
        return _make_sample(
            self._views[view], triplet, seed, rng, self._smallest_window, has_patches
        )


def is_turn(step: int, share: float) -> bool:
    """Whether a step, from 1, is one of `share` of all, as evenly spread as they can be."""
    return int(step * share + 1e-9) > int((step - 1) * share + 1e-9)


class _View:
    """A sequence at the sizes that are asked for."""

    def __init__(self, sequence: Sequence, with_fine: bool) -> None:
        self.sequence = sequence
        self.factor = sequence.fine_factor
        self.with_fine = with_fine
        size = sequence.camera.size
        self.size = (size[0] // self.factor, size[1] // self.factor)
        self.whole = centred_window(size, size)

    def camera(self, window: Window) -> Camera:
        """The camera of a window of the frames that fills the network's input."""
        return window.camera(self.sequence.camera).resize(self.size[1], self.size[0])

    def valid(self, window: Window) -> NDArray[np.bool_]:
        """The pixels of a window at the network's size that are valid throughout."""
        share = window.share(self.sequence.valid)
        return cv2.resize(share, self.size[::-1], interpolation=cv2.INTER_AREA) > 0.999

    def shrink(self, fine: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A frame at the network's size."""
        if self.factor == 1:
            return fine
        return cv2.resize(fine, self.size[::-1], interpolation=cv2.INTER_AREA)


def _spread_evenly(groups: list[NDArray[np.int32]], most: int | None) -> list[NDArray[np.int64]]:
    """Which of each group to take, so that there are about `most` of all."""
    total = sum(len(group) for group in groups)
    found = []
    for group in groups:
        share = len(group) if most is None else round(len(group) * most / max(1, total))
        found.append(np.linspace(0, len(group) - 1, min(len(group), share)).round().astype(int))
    return found


def _by_size(views: list[_View], held_out: bool) -> list[NDArray[np.int32]]:
    """Rows of view, target, earlier and later source, for every size of picture."""
    groups: dict[tuple[int, int, int], list[NDArray[np.int32]]] = {}
    for number, view in enumerate(views):
        triplets = view.sequence.held_out if held_out else view.sequence.triplets
        rows = np.insert(triplets, 0, number, axis=1).astype(np.int32)
        groups.setdefault((*view.size, view.factor), []).append(rows)
    return [np.concatenate(rows) for rows in groups.values()]


def _seed(seed: int, step: int, place: int) -> int:
    state = np.random.SeedSequence((seed, 4, step, place)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def _make_sample(
    view: _View,
    triplet: list[int],
    seed: int,
    rng: np.random.Generator | None = None,
    smallest_window: float = 1.0,
    has_patches: bool = True,
) -> Sample:
    window, colours = view.whole, None
    if rng is not None:
        mirrored = rng.random() < 0.5
        colours = draw_colours(rng)
        if smallest_window < 1.0:
            size = view.sequence.camera.size
            window = draw_window(rng, size, size, smallest_window)
        window = replace(window, mirrored=mirrored)
    fine = [window.image(view.sequence.rgb[index]) for index in triplet]
    clean = [view.shrink(frame) for frame in fine]
    sample = {
        'clean': _planes(clean),
        'shown': _planes(_changed(clean, colours)),
        'seeds': torch.tensor(seed, dtype=torch.int64),
        **_facts(view, triplet, window),
    }
    if view.with_fine:
        sample['fine'] = _planes(fine)
    if view.with_fine and has_patches:
        sample['fine_shown'] = _planes(_changed(fine[:1], colours))[0]
    return sample


def _changed(frames: list[NDArray[np.uint8]], colours: Colours | None) -> list[NDArray[np.uint8]]:
    return frames if colours is None else [colours.change(frame) for frame in frames]


def _planes(frames: list[NDArray[np.uint8]]) -> Tensor:
    """(n, 3, H, W) of n images (H, W, 3)."""
    planes = np.empty((len(frames), 3, *frames[0].shape[:2]), np.uint8)
    for frame, out in zip(frames, planes, strict=True):
        cv2.split(frame, [out[0], out[1], out[2]])
    return torch.from_numpy(planes)


def _facts(view: _View, triplet: list[int], window: Window) -> Sample:
    """Everything but the pictures."""
    sequence = view.sequence
    camera = view.camera(window)
    odometry, distance_m = _motion(sequence, triplet)
    if window.mirrored:
        odometry = _MIRROR @ odometry @ _MIRROR
    height_m = np.nan if sequence.camera_height_m is None else sequence.camera_height_m
    return {
        'intrinsics': torch.tensor([camera.fx, camera.fy, camera.cx, camera.cy]),
        'valid': torch.from_numpy(view.valid(window))[None],
        'odometry': torch.from_numpy(odometry).float(),
        'distance_m': torch.from_numpy(distance_m).float(),
        'camera_height_m': torch.tensor(height_m, dtype=torch.float32),
        'lidar': torch.from_numpy(_lidar(view, triplet[0], window)),
    }


def _motion(
    sequence: Sequence, triplet: list[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """T_source_target (2, 4, 4) and distances (2,) in metres; NaN where unknown."""
    odometry, distance_m = np.full((2, 4, 4), np.nan), np.full(2, np.nan)
    if sequence.poses is not None:
        target, *sources = (sequence.poses[index] for index in triplet)
        for number, source in enumerate(sources):
            distance_m[number] = np.linalg.norm(source[:3, 3] - target[:3, 3])
            if sequence.poses_are_of_camera:
                odometry[number] = relative(source, target)
    estimated = sequence.pair_poses or {}
    for number, source in enumerate(triplet[1:]):
        if np.isnan(odometry[number]).any():
            odometry[number] = estimated.get((triplet[0], source), np.nan)
    return odometry, distance_m


def _lidar(view: _View, target: int, window: Window) -> NDArray[np.float32]:
    """Points (n, 3) of the target: x, y in pixels of the network's input, Z in metres."""
    if view.sequence.lidar is None:
        return np.zeros((0, 3), np.float32)
    points = view.sequence.lidar[target]
    points = points[:: max(1, -(-len(points) // MOST_LIDAR_POINTS))].astype(np.float32)
    points[:, :2] = (window.pixels(points[:, :2]) + 0.5) / view.factor - 0.5
    beyond = np.array(view.size[::-1]) - 0.5
    return points[((points[:, :2] >= -0.5) & (points[:, :2] <= beyond)).all(axis=1)]


def _collate(samples: list[Sample]) -> ClipBatch:
    most = max(len(sample['lidar']) for sample in samples)
    for sample in samples:
        padded = torch.full((most, 3), torch.nan)
        padded[: len(sample['lidar'])] = sample['lidar']
        sample['lidar'] = padded
    stacked = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
    return ClipBatch(**stacked)
