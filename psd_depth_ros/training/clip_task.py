"""Self-supervised training on recordings, as a task for the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from psd_depth_ros.checkpoint import Checkpoint, CheckpointInfo, InputInfo, OutputInfo
from psd_depth_ros.config import dump
from psd_depth_ros.data.triplets.batch import TripletBatch, TripletBatches
from psd_depth_ros.data.triplets.motions import estimate_motions
from psd_depth_ros.data.triplets.prepare import Preparation, prepare_sequences
from psd_depth_ros.geometry.warp import sample
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.networks.encoders import freeze_norm
from psd_depth_ros.networks.pose_net import PoseNet
from psd_depth_ros.training.clip_preview import draw_preview
from psd_depth_ros.training.recipe import VideoRecipe
from psd_depth_ros.training.self_supervision import SelfSupervision
from psd_depth_ros.training.start import depth_groups, Start, start_network
from psd_depth_ros.training.task import ParameterGroup, Task
from psd_depth_ros.training.views import Pictures, Prediction

FINE_FACTOR = 2
MOST_HELD_OUT = 96  # triplets a validation looks at
PREVIEWS = 2


@dataclass(frozen=True)
class _Measured:
    """What a validation adds up over samples."""

    photometric: list[float]
    offset: list[float]  # median ln(Z / Z_start) of each image
    stretch: list[float]  # ln of the ratio of both standard deviations of log-depth
    change: list[float]  # mean |ln Z - ln Z_start| of each image, its median taken off
    lidar: list[float]


class ClipTask(Task):
    """A depth and a pose network that learn from triplets of recordings.

    `start` is a checkpoint to go on from, folded MobileNetV2 weights of ImageNet for the encoder,
    or None for a random start. `report` gets how many of all frames motions were estimated for,
    where the recipe asks for it. Raises CheckpointError where the checkpoint does not fit the
    recipe.
    """

    recipe: VideoRecipe

    def __init__(
        self,
        recipe: VideoRecipe,
        data: Preparation,
        start: Start = None,
        report: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        data.check()
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self._depth = start_network(recipe, start, recipe.head)
        self._start = deepcopy(self._depth).eval() if isinstance(start, Checkpoint) else None
        self._data = data = self._with_poses(data, report)
        self._info = start.info if isinstance(start, Checkpoint) else None
        self.start_id = start.id if isinstance(start, Checkpoint) else ''
        self._keeps_norm = recipe.freeze_norm and start is not None
        self._objective = SelfSupervision(recipe, self._depth, PoseNet(), self._start)
        self.module: nn.Module = self._objective
        self._depth_groups = depth_groups(recipe, self._depth)
        self._batches = TripletBatches(
            data.sequences,
            batch=recipe.batch,
            seed=recipe.seed,
            fields=_fields(recipe),
            fractions={'fine_augmented': recipe.patch.share},
            smallest_window=recipe.smallest_window,
        )
        self._held_out = TripletBatches(
            data.sequences,
            batch=recipe.batch,
            seed=recipe.seed,
            fields=_fields(recipe),
            augment=False,
        )

    def _with_poses(self, data: Preparation, report: Callable[[int, int], None]) -> Preparation:
        """The recordings with only those poses that the recipe wants, and estimated ones."""
        recipe = self.recipe
        sequences = []
        for sequence in data.sequences:
            usable = recipe.use_known_poses and sequence.poses is not None
            if not recipe.use_known_poses:
                sequence = replace(sequence, poses_are_of_camera=False)
            if recipe.estimate_poses and not (usable and sequence.poses_are_of_camera):
                found = estimate_motions(
                    sequence,
                    self._depth,
                    recipe.canonical_focal_px,
                    knows_nothing=self._start is None,
                    report=report,
                )
                sequence = replace(sequence, pair_poses=found)
            sequences.append(sequence)
        return replace(data, sequences=tuple(sequences))

    @classmethod
    def from_recipe(
        cls, recipe: VideoRecipe, folder: Path, start: Start, report: Callable[[int, int], None]
    ) -> ClipTask:
        """Decode the recordings of the recipe into `folder`/frames and learn from them.

        `report` gets how much is done of all, for one recording after the other.
        """
        data = prepare_sequences(
            recipe.data,
            pixel_budget=recipe.pixel_budget,
            cache=folder / 'frames',
            fine_factor=FINE_FACTOR,
            report=lambda _, done, total: report(done, total),
        )
        return cls(recipe, data, start, report)

    @property
    def depth(self) -> DepthModel:
        """The depth network."""
        return self._depth

    @property
    def teacher(self) -> DepthModel | None:
        """The averaged network, once the loop has given it."""
        return self._objective.teacher

    @teacher.setter
    def teacher(self, network: DepthModel) -> None:
        self._objective.set_teacher(network)

    def data_description(self) -> dict[str, Any]:
        """Which recordings, which frames of them, and what was left out."""
        return describe_data(self._data)

    def groups(self) -> list[ParameterGroup]:
        """The encoder, the rest of the depth network, the pose network."""
        return [
            *self._depth_groups,
            ParameterGroup(
                'pose', tuple(self._objective.pose.parameters()), self.recipe.pose_rate
            ),
        ]

    def prepare(self, progress: float) -> None:
        """Train mode; while the pose network warms up, the depth network stays as it is."""
        self.module.train()
        learns = progress >= self.recipe.pose_warmup
        for group in self._depth_groups:
            for parameter in group.parameters:
                parameter.requires_grad_(learns)
        freeze_norm(self._depth.encoder, everywhere=self._keeps_norm)

    def batch(self, step: int, rank: int, processes: int) -> TripletBatch:
        """Triplets by motion, mirrored and recoloured; seeded by recipe, step and place."""
        return self._batches.batch(step, rank, processes)

    def losses(self, module: nn.Module, batch: TripletBatch, progress: float) -> dict[str, Tensor]:
        """The terms of `self_supervision`."""
        terms: dict[str, Tensor] = module(batch, progress)
        return terms

    @property
    def held_out_count(self) -> int:
        """Triplets that a validation looks at."""
        return self._held_out.held_out_count(MOST_HELD_OUT)

    def validate(
        self, depth: DepthModel, advance: Callable[[int], None] = lambda triplets: None
    ) -> dict[str, float]:
        """Photometric error of the held-out triplets, and how far depth went from its start.

        `advance` gets the number of triplets of every batch that was looked at.

        Distances of the pose network are brought to the scale of the depth that is judged, so
        that an old network is not judged by the scale of a new one.
        """
        found = _Measured([], [], [], [], [])
        with torch.no_grad():
            for batch in self._held_out_batches():
                self._measure(depth, batch, found)
                advance(len(batch.image))
        photometric = float(np.mean(found.photometric)) if found.photometric else float('nan')
        scores = {'score': photometric, 'photometric': photometric}
        if found.offset:
            scores['scale_drift'] = float(np.median(found.offset))
            scores['stretch'] = float(np.median(found.stretch))
            scores['change'] = float(np.mean(found.change))
        if found.lidar:
            scores['lidar_abs_rel'] = scores['score'] = float(np.mean(found.lidar))
        return scores

    def previews(self, depth: DepthModel) -> Mapping[str, NDArray[np.uint8]]:
        """What the network makes of some held-out frames, with the patch and the masks."""
        pictures: dict[str, NDArray[np.uint8]] = {}
        for index, batch in enumerate(self._held_out_batches(PREVIEWS)):
            seen = Pictures()
            with torch.no_grad(), torch.autocast(batch.image.device.type, torch.bfloat16):
                self._objective.look(depth, batch, seen)
            pictures[f'held_out_{index}'] = draw_preview(batch, seen)
        return pictures

    def describe(
        self, depth: DepthModel, step: int, scores: Mapping[str, float]
    ) -> CheckpointInfo:
        """A checkpoint like the one it started from, as metric as that was."""
        recipe = self.recipe
        old = self._info
        tied = recipe.objective.velocity + recipe.objective.camera_height + recipe.objective.lidar
        kept = recipe.objective.anchor + recipe.objective.anchor_scale > 0
        was_metric = old is not None and old.output.metric
        output = old.output if old is not None else OutputInfo(recipe.canonical_focal_px)
        output = replace(output, metric=tied > 0 or (was_metric and kept))
        trained = {'recipe': dump(recipe), 'steps': step, 'validation': dict(scores)}
        if old is not None:
            trained['start'] = {'name': old.name, 'id': self.start_id}
        names = [{'name': s.name, 'licence': 'of the recording'} for s in self._data.sequences]
        return CheckpointInfo(
            name=recipe.name,
            architecture=dump(depth.architecture),
            encoder_options=depth.encoder_options,
            input=self._input(depth),
            output=output,
            training=trained,
            data=(*(old.data if old is not None else ()), *names),
        )

    def _input(self, depth: DepthModel) -> InputInfo:
        first = self._data.sequences[0]
        height, width = (side // first.fine_factor for side in first.camera.size)
        return InputInfo(height, width, *depth.normalisation)

    def _held_out_batches(self, most: int = MOST_HELD_OUT) -> Iterator[TripletBatch]:
        device = next(self.module.parameters()).device
        for batch in self._held_out.held_out_batches(most):
            yield batch.to(device)

    def _measure(self, depth: DepthModel, batch: TripletBatch, found: _Measured) -> None:
        """Add one batch to what was found."""
        objective = self._objective
        with torch.autocast(batch.image.device.type, torch.bfloat16):
            shown = depth.normalise(batch.image_augmented)
            new = objective.predict(depth, shown[:, 0], batch.intrinsics)
            own = objective.predict(self._depth, shown[:, 0], batch.intrinsics)
            motions = objective.motions(batch, shown)
            old = None
            if self._start is not None:
                old = objective.predict(self._start, shown[:, 0], batch.intrinsics)
        ratio = (new.log_depth - own.log_depth).flatten(1).median(dim=1).values.exp()
        motions = motions.clone()
        motions[..., :3, 3] *= ratio[:, None]
        sight = objective.compare_full(batch, new, motions)
        found.photometric.extend(sight.loss.tolist())
        if old is not None:
            difference = (new.log_depth - old.log_depth).flatten(1)
            offset = difference.median(dim=1).values
            found.offset.extend(offset.tolist())
            found.stretch.extend((_spread(new) / _spread(old)).log().tolist())
            found.change.extend((difference - offset[:, None]).abs().mean(dim=1).tolist())
        found.lidar.extend(_lidar_abs_rel(new.log_depth, batch.lidar))


def _fields(recipe: VideoRecipe) -> frozenset[str]:
    """What the objective reads of a batch."""
    fine = {'fine', 'fine_augmented'} if recipe.patch.enabled else set()
    return frozenset({'pose_prior', 'distance_m', 'camera_height_m', 'lidar', *fine})


def describe_data(data: Preparation) -> dict[str, Any]:
    """The recordings as JSON: name, fingerprint, time range, frames, triplets, rejects."""
    recordings = [
        {
            'name': sequence.name,
            'fingerprint': sequence.fingerprint,
            'frames': len(sequence.rgb),
            'from_ns': int(sequence.stamps_ns[0]),
            'to_ns': int(sequence.stamps_ns[-1]),
            'triplets': len(sequence.triplets),
            'held_out': len(sequence.held_out),
        }
        for sequence in data.sequences
    ]
    unreadable = [{'path': one.path, 'reason': one.reason} for one in data.unreadable]
    return {
        'recordings': recordings,
        'rejected': data.rejected,
        'unreadable': unreadable,
        'notes': list(data.notes),
    }


def _spread(prediction: Prediction) -> Tensor:
    """The standard deviation of each image's log-depth (B,)."""
    return prediction.log_depth.flatten(1).std(dim=1).clamp(min=1e-6)


def _lidar_abs_rel(log_depth: Tensor, lidar: Tensor) -> list[float]:
    """AbsRel at the lidar points of every image that has some."""
    values = []
    for depth, points in zip(log_depth.exp(), lidar, strict=True):
        known = points[torch.isfinite(points).all(dim=1)]
        if len(known):
            found = sample(depth[None], known[None, None, :, :2])[0, 0, 0]
            values.append(float(((found - known[:, 2]).abs() / known[:, 2]).mean()))
    return values
