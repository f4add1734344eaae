"""Supervised training on rendered worlds, as a task for the loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from psd_depth_ros.checkpoint import Checkpoint, CheckpointInfo, OutputInfo
from psd_depth_ros.config import dump
from psd_depth_ros.evaluation.metrics import (
    match,
    MAXIMUM_DEPTH_M,
    measure_confidence,
    measure_edges,
    measure_matched,
    MINIMUM_DEPTH_M,
)
from psd_depth_ros.inference.on_device import confidence_from_sigma
from psd_depth_ros.inference.postprocess import ConfidenceModel, LN_DELTA1
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.networks.encoders import freeze_norm
from psd_depth_ros.objectives.base import Objective
from psd_depth_ros.runtime import autocast
from psd_depth_ros.training.recipe import WorldsRecipe
from psd_depth_ros.training.task import (
    canonical_focal_px,
    depth_groups,
    describe_input,
    ParameterGroup,
    Start,
    start_network,
    start_provenance,
    Task,
    training_record,
)
from psd_depth_ros.training.worlds import (
    Frames,
    load_shard,
    plan_shards,
    render_shards,
    sample_batch,
    Shard,
    validation_batches,
    WorldsBatch,
)
from psd_depth_ros.visualisation import colour_depth

EDGE_WEIGHT = 0.5  # of boundary F1 in the score
MAX_PREDICTED_M = 1e4  # predictions are not clamped, unlike in the evaluation protocols
UNCALIBRATED = ConfidenceModel(OutputInfo().sigma_gain, OutputInfo().sigma_floor)
# The grid on which the confidence is calibrated.
SIGMA_GAINS = (0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0)
SIGMA_FLOORS = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2)


class WorldsTask(Task):
    """A depth network that learns from rendered frames with exact depth.

    Args:
        recipe: Terms and settings.
        training: Frames to learn from.
        held_out: Frames of validations.
        start: A checkpoint, encoder weights, or None for random weights; with a start, batch norm
            is frozen.
        model: The network, in place of that of the recipe.
        description: Of the data, for run.json.
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
        self._confidence = UNCALIBRATED
        self._keeps_norm = start is not None
        torch.manual_seed(recipe.seed)
        self._depth = start_network(recipe, start) if model is None else model
        self._focal_px = canonical_focal_px(start)
        self._start = start
        self.start_id = start.id if isinstance(start, Checkpoint) else ''
        self.module: nn.Module = Objective(
            recipe.make_terms(), self._depth, canonical_focal_px=self._focal_px
        )

    @classmethod
    def from_recipe(
        cls,
        recipe: WorldsRecipe,
        folder: Path,
        start: Start,
        report: Callable[[int, int], None],
        *,
        processes: int = 2,
        model: DepthModel | None = None,
    ) -> WorldsTask:
        """Render what is missing in `folder` and make the task; `report(done, total)`."""
        held_out = plan_shards(recipe, folder, validation=True)
        training = plan_shards(recipe, folder, validation=False)
        render_shards([*held_out, *training], processes, report)
        return cls(
            recipe,
            [load_shard(shard) for shard in training],
            [load_shard(shard) for shard in held_out],
            start,
            model=model,
            description={'training': _describe(training), 'held_out': _describe(held_out)},
        )

    def data_description(self) -> dict[str, Any]:
        """The rendered worlds."""
        return self._description

    @property
    def depth(self) -> DepthModel:
        """The depth network."""
        return self._depth

    def groups(self) -> list[ParameterGroup]:
        """The encoder and the rest of the network."""
        return depth_groups(self.recipe, self._depth)

    def prepare(self, progress: float) -> None:
        """Set train mode; batch norm is frozen where the network started from weights."""
        self.module.train()
        freeze_norm(self._depth.encoder, everywhere=self._keeps_norm)

    def batch(self, step: int, rank: int, processes: int) -> WorldsBatch:
        """Augmented windows of one aspect ratio, seeded by recipe, step and place in the batch."""
        return sample_batch(self.recipe, self._focal_px, self._training, step, rank, processes)

    def losses(self, module: nn.Module, batch: WorldsBatch, progress: float) -> dict[str, Tensor]:
        """The weighted terms of the objective."""
        terms: dict[str, Tensor] = module(batch, progress)
        return terms

    def validate(self, depth: DepthModel) -> dict[str, float]:
        """Figures on held-out worlds, and the score by which a network is kept."""
        scores, self._confidence = validate(depth, self.recipe, self._focal_px, self._held_out)
        return {'score': scores.score, **scores.as_dict()}

    def previews(self, depth: DepthModel) -> Mapping[str, NDArray[np.uint8]]:
        """Image, depth and truth of the first held-out frame of each aspect ratio."""
        images: dict[str, NDArray[np.uint8]] = {}
        for frames in self._held_out:
            height, width = frames.rgb.shape[1:3]
            name = f'held_out_{width}x{height}'
            if name not in images:
                first = Frames(frames.rgb[:1], frames.depth[:1], frames.intrinsics[:1])
                images[name] = _preview(depth, self.recipe, self._focal_px, first)
        return images

    def describe(
        self, depth: DepthModel, step: int, scores: Mapping[str, float]
    ) -> CheckpointInfo:
        """Metadata of the checkpoint, with the confidence calibrated in the last validation."""
        recipe, start = self.recipe, self._start
        return CheckpointInfo(
            name=recipe.name,
            licence=recipe.licence,
            architecture=dump(depth.architecture),
            encoder_options=depth.encoder_options,
            input=describe_input(depth, recipe.pixel_budget, recipe.budget_jitter),
            output=OutputInfo(
                canonical_focal_px=self._focal_px,
                metric=True,
                max_depth_m=recipe.max_depth_m,
                sigma_gain=self._confidence.gain,
                sigma_floor=self._confidence.floor,
            ),
            training=training_record(recipe, start, step, scores),
            data=(
                *start_provenance(start),
                {'name': 'psd_depth_ros synthetic worlds', 'licence': 'Apache-2.0'},
            ),
        )


def _describe(shards: list[Shard]) -> dict[str, Any]:
    names = sorted(shard.path.name for shard in shards)
    frames = sum(len(shard.seeds) * shard.frames_per_world for shard in shards)
    digest = hashlib.sha256('\n'.join(names).encode()).hexdigest()[:12]
    return {'shards': len(names), 'frames': frames, 'fingerprint': digest}


def _preview(
    depth: DepthModel, recipe: WorldsRecipe, focal_px: float, frames: Frames
) -> NDArray[np.uint8]:
    batch = next(iter(validation_batches(recipe, focal_px, [frames])))
    log_depth, _, sky = predict(depth, batch)
    ratio = float(batch.intrinsics[0, 0]) / focal_px
    metres = torch.where(sky > 0.5, torch.inf, log_depth.exp() * ratio)[0, 0].numpy()
    image = (255.0 * batch.image[0]).byte().permute(1, 2, 0).numpy()
    rows = [image]
    for values in (metres, batch.depth_m[0, 0].numpy()):
        rows.append(colour_depth(values.astype(np.float32), 1.0, recipe.max_depth_m))
    return np.concatenate(rows)


@dataclass(frozen=True)
class Scores:
    """Means over held-out frames, over pixels with a true depth below 80 m."""

    abs_rel: float  # median-scaled per image
    abs_rel_metric: float  # unscaled
    delta1_metric: float
    sky_recall: float  # fraction of sky and depth beyond the maximum that is recognised
    sky_false: float  # fraction of finite depth taken for sky
    boundary_f1: float  # of images with edges, 1 is best; see `evaluation.metrics`
    aurg: float  # what the uncertainty is worth, of median-scaled AbsRel; 0 is worthless

    @property
    def score(self) -> float:
        """The figure that the kept network has lowest: metric AbsRel x (1 - F1 / 2).

        Errors of depth count most; with them equal, 0.1 more of boundary F1 is worth about 6 % of
        AbsRel. Blurred edges hardly cost AbsRel, as few pixels lie there.
        """
        f1 = 0.0 if math.isnan(self.boundary_f1) else self.boundary_f1
        return self.abs_rel_metric * (1.0 - EDGE_WEIGHT * f1)

    def as_dict(self) -> dict[str, float]:
        """Rounded, for the metadata of the checkpoint."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


def validate(
    model: DepthModel, recipe: WorldsRecipe, focal_px: float, frames: list[Frames]
) -> tuple[Scores, ConfidenceModel]:
    """Score a network on every held-out frame, and calibrate its confidence."""
    rows, errors, sigmas = [], [], []
    for batch in validation_batches(recipe, focal_px, frames):
        log_depth, sigma, sky = predict(model, batch)
        ratio = batch.intrinsics[:, 0].view(-1, 1, 1, 1) / focal_px
        predicted = log_depth.exp() * ratio
        for i in range(len(predicted)):
            truth = batch.depth_m[i]
            rows.append(_score(predicted[i], sigma[i], sky[i], truth, recipe.max_depth_m))
        known = torch.isfinite(batch.target)
        errors.append((log_depth - batch.target)[known].abs()[::7])
        sigmas.append(sigma[known][::7])
    means = torch.tensor(rows).nanmean(dim=0).tolist()
    return Scores(*means), fit_confidence(torch.cat(errors), torch.cat(sigmas))


def _score(
    predicted: Tensor, sigma: Tensor, sky: Tensor, truth: Tensor, max_depth_m: float
) -> list[float]:
    """The scores of one image (1, H, W), NaN where no pixel has them."""
    scaled, metric = (
        match(
            predicted[0].numpy(), truth[0].numpy(), median_scaled=is_scaled,
            maximum_m=MAX_PREDICTED_M, truth_maximum_m=MAXIMUM_DEPTH_M,
        )
        for is_scaled in (True, False)
    )  # fmt: skip
    is_sky = sky > 0.5
    sky_scores = [
        float(is_sky[truth > max_depth_m].float().mean()),
        float(is_sky[truth < MAXIMUM_DEPTH_M].float().mean()),
    ]
    if scaled is None or metric is None:
        return [math.nan, math.nan, math.nan, *sky_scores, math.nan, math.nan]
    errors = measure_matched(metric)
    served = torch.where(is_sky, torch.inf, predicted * scaled.scale)[0].numpy()
    edges = measure_edges(
        served, truth[0].numpy(), minimum_m=MINIMUM_DEPTH_M, maximum_m=MAXIMUM_DEPTH_M
    )
    return [
        measure_matched(scaled).abs_rel,
        errors.abs_rel,
        errors.a1,
        *sky_scores,
        edges.boundary_f1,
        measure_confidence(scaled, -sigma[0].numpy())['abs_rel'].aurg,
    ]


def fit_confidence(errors: Tensor, sigma: Tensor) -> ConfidenceModel:
    """Fit gain and floor so that the confidence P(|ln Z - ln Z*| < ln 1.25) is calibrated.

    Minimises the Brier score over a grid; without a pixel it is UNCALIBRATED.

    Args:
        errors: |ln Z - ln Z*| of pixels (N,).
        sigma: their predicted standard deviation of log-depth (N,).
    """
    if not errors.numel():
        return UNCALIBRATED
    right = (errors < LN_DELTA1).float()

    def brier_score(model: ConfidenceModel) -> float:
        return float((confidence_from_sigma(sigma, model) - right).square().mean())

    models = (ConfidenceModel(gain, floor) for gain in SIGMA_GAINS for floor in SIGMA_FLOORS)
    return min(models, key=brier_score)


@torch.inference_mode()
def predict(model: DepthModel, batch: WorldsBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Log-depth, its standard deviation and sky probability (B, 1, H, W), on the CPU."""
    device = next(model.parameters()).device
    image = model.normalise(batch.image).to(device, memory_format=torch.channels_last)
    with autocast(device.type):
        output = model(image, batch.intrinsics.to(device))
    size = batch.target.shape[-2:]
    maps = F.interpolate(torch.cat(output, 1), size, mode='bilinear', align_corners=False)
    log_depth, sigma, sky = maps.cpu().split(1, dim=1)
    return log_depth, sigma, sky
