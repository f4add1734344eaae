"""Batches of image triplets for self-supervised training.

Which triplets a step sees follows from seed and step alone, so that steps can be asked for in any
order, by several threads and processes. Choosing triplets is left to `choose`, the tensors of a
sample to `data.fields`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
import math

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from psd_depth_ros.augment.colour import sample_colours
from psd_depth_ros.augment.crops import sample_window
from psd_depth_ros.data.fields import Example, Provider, providers_of, ScaledSequence
from psd_depth_ros.data.frames import Sequence
from psd_depth_ros.errors import SettingsError


class TripletBatch:
    """Tensors of B triplets, by name; frame 0 is the target, 1 the earlier, 2 the later source.

    Images are RGB uint8, unknown numbers NaN. Every batch has the first five fields; the others
    are there where they were asked for (`TripletBatches.fields`), `name in batch` says whether.
    Reading one that is not there raises AttributeError.
    """

    image: Tensor  # (B, 3, 3, H, W) what losses compare: B samples, frames, channels
    image_augmented: Tensor  # (B, 3, 3, H, W) what networks see: colours changed
    intrinsics: Tensor  # (B, 4) float32 fx fy cx cy in pixels of `image`
    valid: Tensor  # (B, 1, H, W) bool, false on bonnet and border
    seeds: Tensor  # (B,) int64, for random draws inside the objective; stays on the CPU
    fine: Tensor  # (B, 3, 3, f H, f W) the same view at a whole multiple of the network's size
    fine_augmented: Tensor  # (B, 3, f H, f W) the target frame, colours changed
    pose_prior: Tensor  # (B, 2, 4, 4) float32 T_source_target of the camera
    distance_m: Tensor  # (B, 2) float32 from the target to each source
    camera_height_m: Tensor  # (B,) float32
    lidar: Tensor  # (B, M, 3) float32 x, y in pixels of `image`, Z in metres; M may be 0
    recording: Tensor  # (B,) int64 `data.fields.recording_id` of the recording
    pseudo_depth: Tensor  # (B, 1, H, W) float32 disparity of the target, own scale and shift
    semantics: Tensor  # (B, C, ceil(H / 8), ceil(W / 8)) float32 of the target
    depth_m: Tensor  # (B, 1, H, W) float32 metres of the target, +Inf sky

    def __init__(self, **tensors: Tensor) -> None:
        self._tensors = tensors

    def __getattr__(self, name: str) -> Tensor:
        """Give the field of a name."""
        tensors: dict[str, Tensor] = self.__dict__.get('_tensors', {})
        if name not in tensors:
            raise AttributeError(
                f'this batch has no field {name}; it has {", ".join(sorted(tensors))}. '
                'A loss lists the fields it reads in `needs`'
            )
        return tensors[name]

    def __contains__(self, name: object) -> bool:
        """Whether the batch has a field."""
        return name in self._tensors

    def __len__(self) -> int:
        """Give the number of samples B."""
        return len(self.seeds)

    def get(self, name: str) -> Tensor | None:
        """The field of a name; None where the batch lacks it."""
        return self._tensors.get(name)

    def fields(self) -> dict[str, Tensor]:
        """All fields by name."""
        return dict(self._tensors)

    def replace(self, **changes: Tensor | None) -> TripletBatch:
        """A batch with other fields; None takes one out."""
        tensors = {**self._tensors, **changes}
        return TripletBatch(**{k: v for k, v in tensors.items() if v is not None})

    def to(self, device: torch.device) -> TripletBatch:
        """The same batch on another device, seeds excepted."""
        moved = {
            name: value if name == 'seeds' else value.to(device, non_blocking=True)
            for name, value in self._tensors.items()
        }
        return TripletBatch(**moved)


class TripletBatches:
    """Batches of the triplets of some sequences.

    Every triplet comes once before any comes again; a batch holds images of one size. Half of
    the samples are mirrored, a window of down to `smallest_window` of the sides fills the whole
    image, and the colours of what networks see are changed, alike in the three frames of a
    sample, as is a focal length that is a guess; without `augment` frames stay as they are.

    Args:
        sequences: where the triplets come from.
        batch: samples of a step, over all processes.
        seed: of every random choice.
        fields: what batches have beyond `data.fields.ALWAYS`.
        fractions: fraction of the steps, evenly spread, in which a field is there; else in all.
        augment: whether samples are changed at random.
        smallest_window: least side of a window as a fraction of the frame's.

    Raises:
        SettingsError: there are no triplets, or nothing provides a field.
    """

    def __init__(
        self,
        sequences: Iterable[Sequence],
        *,
        batch: int,
        seed: int,
        fields: frozenset[str] = frozenset(),
        fractions: Mapping[str, float] | None = None,
        augment: bool = True,
        smallest_window: float = 1.0,
    ) -> None:
        self._batch = batch
        self._providers = list(providers_of(fields))
        self._fractions = dict(fractions or {})
        self._seed = seed
        self._augment = augment
        self._smallest_window = smallest_window
        self._scaled = [ScaledSequence(sequence) for sequence in sequences]
        self._groups = [group for group in _by_size(self._scaled, held_out=False) if len(group)]
        if not self._groups:
            raise SettingsError(
                'there are no triplets to train on; see data.triplets of the recipe'
            )
        # How many batches of an epoch come from each group.
        self._counts = [max(1, round(len(group) / batch)) for group in self._groups]
        # An epoch's order is needed for every one of its steps.
        self._order = lru_cache(4)(self._draw_order)
        self._permutation = lru_cache(4 * len(self._groups))(self._draw_permutation)

    @property
    def steps_per_epoch(self) -> int:
        """Batches that together hold every triplet about once."""
        return sum(self._counts)

    def batch(self, step: int, rank: int = 0, processes: int = 1) -> TripletBatch:
        """The `rank`-th of `processes` equal parts of the batch of a step, from 1."""
        if self._batch % processes:
            raise SettingsError(
                f'batch is {self._batch}, which {processes} processes cannot share; expected a '
                f'multiple of {processes}'
            )
        part = self._batch // processes
        places = range(rank * part, (rank + 1) * part)
        chosen = self._choose(step - 1)
        examples = (self._draw(step, place, *chosen[place]) for place in places)
        has_turn = {name: is_turn(step, fraction) for name, fraction in self._fractions.items()}
        return _collate(examples, [one for one in self._providers if has_turn.get(one.name, True)])

    def held_out_batches(self, most: int | None = None) -> Iterator[TripletBatch]:
        """Give what is held out, unchanged and always in the same order, in batches.

        They have every field. `most` takes that many triplets spread evenly over all.
        """
        groups = _by_size(self._scaled, held_out=True)
        for group, kept in zip(groups, _spread_evenly(groups, most), strict=True):
            for start in range(0, len(kept), self._batch):
                items = group[kept[start : start + self._batch]]
                examples = (
                    self._plain(_seed(0, 0, start + place), *row)
                    for place, row in enumerate(items.tolist())
                )
                yield _collate(examples, self._providers)

    def held_out_count(self, most: int | None = None) -> int:
        """How many triplets `held_out_batches` gives."""
        return sum(map(len, _spread_evenly(_by_size(self._scaled, held_out=True), most)))

    def _choose(self, step: int) -> list[tuple[int, list[int]]]:
        """Sequence and triplet of every sample of a step (from 0)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        number = int(order[place])
        earlier = int(np.count_nonzero(order[:place] == number))
        group = self._groups[number]
        first = (epoch * self._counts[number] + earlier) * self._batch
        chosen = []
        for position in range(first, first + self._batch):
            turn, place = divmod(position, len(group))
            index, *triplet = group[self._permutation(number, turn)[place]].tolist()
            chosen.append((index, triplet))
        return chosen

    def _draw_order(self, epoch: int) -> NDArray[np.int64]:
        """Which group every batch of an epoch is of."""
        groups = np.repeat(np.arange(len(self._groups)), self._counts)
        return np.random.default_rng((self._seed, 1, epoch)).permutation(groups)

    def _draw_permutation(self, number: int, turn: int) -> NDArray[np.int64]:
        """The order in which a group's triplets come the `turn`-th time."""
        rng = np.random.default_rng((self._seed, 2, number, turn))
        return rng.permutation(len(self._groups[number]))

    def _draw(self, step: int, place: int, index: int, triplet: list[int]) -> Example:
        """The sample at a place of a step's batch, with its random window and colours."""
        scaled, seed = self._scaled[index], _seed(self._seed, step, place)
        window, colours, factor = scaled.whole, None, 1.0
        if self._augment:
            rng = np.random.default_rng((self._seed, 3, step, place))
            mirrored = bool(rng.random() < 0.5)
            colours = sample_colours(rng)
            if self._smallest_window < 1.0:
                size = scaled.sequence.camera.size
                window = sample_window(rng, size, size, self._smallest_window)
            window = replace(window, mirrored=mirrored)
            if deviation := scaled.sequence.focal_deviation:
                factor = math.exp(rng.normal(0.0, deviation))
        return Example(scaled, tuple(triplet), window, colours, seed, factor)

    def _plain(self, seed: int, index: int, *triplet: int) -> Example:
        """A sample as it was recorded."""
        scaled = self._scaled[index]
        return Example(scaled, triplet, scaled.whole, None, seed)


def _collate(examples: Iterable[Example], providers: list[Provider]) -> TripletBatch:
    # One sample after the other, so that only one holds its decoded frames.
    samples = [[provider.make(example) for provider in providers] for example in examples]
    columns = zip(*samples, strict=True)
    return TripletBatch(**{
        provider.name: provider.collate(list(values))
        for provider, values in zip(providers, columns, strict=True)
    })  # fmt: skip


def is_turn(step: int, fraction: float) -> bool:
    """Whether a step, from 1, is one of a `fraction` of all, as evenly spread as they can be."""
    return int(step * fraction + 1e-9) > int((step - 1) * fraction + 1e-9)


def _spread_evenly(groups: list[NDArray[np.int32]], most: int | None) -> list[NDArray[np.int64]]:
    """Which of each group to take, so that there are about `most` of all."""
    total = sum(len(group) for group in groups)
    found = []
    for group in groups:
        count = len(group) if most is None else round(len(group) * most / max(1, total))
        found.append(np.linspace(0, len(group) - 1, min(len(group), count)).round().astype(int))
    return found


def _by_size(scaled: list[ScaledSequence], held_out: bool) -> list[NDArray[np.int32]]:
    """Rows of sequence, target, earlier and later source, for every size of image."""
    groups: dict[tuple[int, int, int], list[NDArray[np.int32]]] = {}
    for number, one in enumerate(scaled):
        triplets = one.sequence.held_out if held_out else one.sequence.triplets
        rows = np.insert(triplets, 0, number, axis=1).astype(np.int32)
        groups.setdefault((*one.size, one.factor), []).append(rows)
    return [np.concatenate(rows) for rows in groups.values()]


def _seed(seed: int, step: int, place: int) -> int:
    state = np.random.SeedSequence((seed, 4, step, place)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
