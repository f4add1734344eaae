"""Supervised training on rendered worlds, as a task for the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from psd_depth_ros.checkpoint import Checkpoint, CheckpointInfo, InputInfo, OutputInfo
from psd_depth_ros.config import dump
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.networks.encoders import freeze_norm
from psd_depth_ros.training.batches import Batch, draw_batch, validation_batches
from psd_depth_ros.training.objective import SupervisedObjective
from psd_depth_ros.training.recipe import WorldsRecipe
from psd_depth_ros.training.start import depth_groups, Start, start_network
from psd_depth_ros.training.task import ParameterGroup, Task
from psd_depth_ros.training.validation import Calibration, predict, validate
from psd_depth_ros.training.worlds import Frames, load_shard, plan_shards, render_shards, Shard
from psd_depth_ros.visualisation import colour_depth


class WorldsTask(Task):
    """A depth network that learns from frames whose depth is known.

    `start` is a checkpoint to go on from, folded MobileNetV2 weights of ImageNet for the encoder,
    or None for a random start; with a start, batch norm stays fixed.
    """

    recipe: WorldsRecipe

    def __init__(
        self,
        recipe: WorldsRecipe,
        training: list[Frames],
        held_out: list[Frames],
        start: Start = None,
        *,
        model: DepthModel | None = None,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        self.recipe = recipe
        self._training, self._held_out = training, held_out
        self._description = dict(description or {})
        self._calibration = Calibration()
        self._keeps_norm = start is not None
        torch.manual_seed(recipe.seed)
        self._depth = start_network(recipe, start) if model is None else model
        self.start_id = start.id if isinstance(start, Checkpoint) else ''
        self.module: nn.Module = SupervisedObjective(self._depth, recipe.losses)

    @classmethod
    def from_recipe(
        cls,
        recipe: WorldsRecipe,
        folder: Path,
        start: Start,
        report: Callable[[int, int], None],
        *,
        processes: int = 2,
    ) -> WorldsTask:
        """Render what is not yet in `folder`, and learn from it; `report(done, of)` meanwhile."""
        held_out = plan_shards(recipe, folder, validation=True)
        training = plan_shards(recipe, folder, validation=False)
        render_shards([*held_out, *training], processes, report)
        return cls(
            recipe,
            [load_shard(shard) for shard in training],
            [load_shard(shard) for shard in held_out],
            start,
            description={'training': _describe(training), 'held_out': _describe(held_out)},
        )

    def data_description(self) -> dict[str, Any]:
        """Which worlds were rendered."""
        return self._description

    @property
    def depth(self) -> DepthModel:
        """The network."""
        return self._depth

    def groups(self) -> list[ParameterGroup]:
        """One rate for the encoder and one for the rest."""
        return depth_groups(self.recipe, self._depth)

    def prepare(self, progress: float) -> None:
        """Train mode; batch norm keeps what it started with, where it started with anything."""
        self.module.train()
        freeze_norm(self._depth.encoder, everywhere=self._keeps_norm)

    def batch(self, step: int, rank: int, processes: int) -> Batch:
        """Augmented windows of one shape of picture, seeded by recipe, step and place."""
        return draw_batch(self.recipe, self._training, step, rank, processes)

    def losses(self, module: nn.Module, batch: Batch, progress: float) -> dict[str, Tensor]:
        """The terms of `objective`."""
        terms: dict[str, Tensor] = module(batch)
        return terms

    def validate(self, depth: DepthModel) -> dict[str, float]:
        """Errors on held-out worlds; metric AbsRel says which network is kept."""
        scores, self._calibration = validate(depth, self.recipe, self._held_out)
        return {'score': scores.abs_rel_metric, **scores.as_dict()}

    def previews(self, depth: DepthModel) -> Mapping[str, NDArray[np.uint8]]:
        """The first held-out frame of each shape: image, depth and truth, one above the other."""
        pictures: dict[str, NDArray[np.uint8]] = {}
        for frames in self._held_out:
            height, width = frames.rgb.shape[1:3]
            name = f'held_out_{width}x{height}'
            if name not in pictures:
                one = Frames(frames.rgb[:1], frames.depth[:1], frames.intrinsics[:1])
                pictures[name] = _picture(depth, self.recipe, one)
        return pictures

    def describe(
        self, depth: DepthModel, step: int, scores: Mapping[str, float]
    ) -> CheckpointInfo:
        """With the confidence calibrated in the validation that gave `scores`."""
        recipe = self.recipe
        height = round((recipe.pixel_budget / 3.25) ** 0.5 / 32) * 32
        width = recipe.pixel_budget // height // 32 * 32
        return CheckpointInfo(
            name=recipe.name,
            architecture=dump(depth.architecture),
            encoder_options=depth.encoder_options,
            input=InputInfo(height, width, *depth.normalisation),
            output=OutputInfo(
                canonical_focal_px=recipe.canonical_focal_px,
                metric=True,
                max_depth_m=recipe.max_depth_m,
                sigma_gain=self._calibration.gain,
                sigma_floor=self._calibration.floor,
            ),
            training={'recipe': dump(recipe), 'steps': step, 'validation': dict(scores)},
            data=(
                {'name': 'psd_depth_ros synthetic worlds', 'licence': 'Apache-2.0'},
                {'name': 'ImageNet weights of MobileNetV2 (start)', 'licence': 'Apache-2.0'},
            ),
        )


def _describe(shards: list[Shard]) -> dict[str, Any]:
    names = sorted(shard.path.name for shard in shards)
    frames = sum(len(shard.seeds) * shard.frames_per_world for shard in shards)
    digest = hashlib.sha256('\n'.join(names).encode()).hexdigest()[:12]
    return {'shards': len(names), 'frames': frames, 'fingerprint': digest}


def _picture(depth: DepthModel, recipe: WorldsRecipe, frames: Frames) -> NDArray[np.uint8]:
    batch = next(iter(validation_batches(recipe, [frames])))
    log_depth, _, far = predict(depth, batch)
    ratio = float(batch.intrinsics[0, 0]) / recipe.canonical_focal_px
    metres = torch.where(far > 0.5, torch.inf, log_depth.exp() * ratio)[0, 0].numpy()
    image = (255.0 * batch.image[0]).byte().permute(1, 2, 0).numpy()
    rows = [image]
    for values in (metres, batch.depth_m[0, 0].numpy()):
        rows.append(colour_depth(values.astype(np.float32), 1.0, recipe.max_depth_m))
    return np.concatenate(rows)
