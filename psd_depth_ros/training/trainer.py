"""The training loop on rendered worlds, top to bottom.

Progress is reported to a callback; reading argv and drawing bars is left to the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
import math
from pathlib import Path
import time

import torch
from torch import Tensor

from psd_depth_ros.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    InputInfo,
    OutputInfo,
    save_checkpoint,
)
from psd_depth_ros.config import dump
from psd_depth_ros.errors import CheckpointError
from psd_depth_ros.networks import DepthModel, load_model, preset
from psd_depth_ros.networks.encoder import freeze_norm, load_folded
from psd_depth_ros.training.batches import Batch, training_batches
from psd_depth_ros.training.objective import MEAN, STD, supervised_losses, total
from psd_depth_ros.training.recipe import Recipe
from psd_depth_ros.training.validation import Calibration, fit_confidence, Scores, validate
from psd_depth_ros.training.worlds import Frames


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    step: int
    share: float  # of the schedule, 0 .. 1
    seconds: float
    images_per_second: float
    losses: dict[str, float]
    scores: Scores | None


def train(
    recipe: Recipe,
    training: list[Frames],
    validation: list[Frames],
    start: Checkpoint | dict[str, Tensor] | None,
    output: Path,
    report: Callable[[Progress], None],
    device: str = 'cpu',
) -> Path:
    """Train from rendered frames and write `output`/best.safetensors.

    `start` is a checkpoint to go on from, folded MobileNetV2 weights of ImageNet for the encoder,
    or None for a random start; with a start, batch norm stays fixed. The kept weights are an
    exponential average; the file is written anew at each validation, the last one
    with its confidence calibrated on the validation frames.
    """
    torch.manual_seed(recipe.seed)
    model = start_model(recipe, start).to(device)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = deepcopy(model).eval()
    optimiser = make_optimiser(model, recipe)
    clock = _Clock(recipe)
    for step, batch in enumerate(_on(device, training_batches(recipe, training)), start=1):
        share = clock.share(step)
        set_rate(optimiser, recipe, share)
        losses = run_step(model, optimiser, batch, recipe, frozen_norm=start is not None)
        update_average(average, model, recipe.average, step)
        done = share >= 1.0
        scores = None
        if done or step % recipe.validate_every == 0:
            scores = validate(average, recipe, validation)
            calibration = fit_confidence(average, recipe, validation) if done else Calibration()
            path = write(average, recipe, output, step, scores, calibration)
        report(Progress(step, share, clock.seconds, clock.rate(step), losses, scores))
        if done:
            return path
    raise AssertionError('training batches never end')


def start_model(recipe: Recipe, start: Checkpoint | dict[str, Tensor] | None) -> DepthModel:
    """The network a run begins with; CheckpointError where a checkpoint has another shape."""
    if isinstance(start, Checkpoint):
        model = load_model(start)
        if model.architecture != preset(recipe.preset):
            raise CheckpointError(
                f'{start.path}: is no {recipe.preset!r} network, as the recipe wants; '
                'choose another preset or another start'
            )
        return model
    model = DepthModel(preset(recipe.preset))
    if start is not None:
        load_folded(model.encoder, start)
    return model


def make_optimiser(model: DepthModel, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with one rate for the encoder and one for the rest."""
    encoder = list(model.encoder.parameters())
    known = {id(parameter) for parameter in encoder}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [
        {'params': encoder, 'base': recipe.encoder_rate},
        {'params': rest, 'base': recipe.rate},
    ]
    return torch.optim.AdamW(groups, lr=recipe.rate, weight_decay=recipe.weight_decay)


def set_rate(optimiser: torch.optim.Optimizer, recipe: Recipe, share: float) -> None:
    """Rise linearly over the warm-up, then fall by a cosine to a hundredth."""
    if share < recipe.warmup:
        factor = share / recipe.warmup + 1e-3
    else:
        phase = (share - recipe.warmup) / (1.0 - recipe.warmup)
        factor = 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * phase))
    for group in optimiser.param_groups:
        group['lr'] = group['base'] * factor


def run_step(
    model: DepthModel,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    recipe: Recipe,
    *,
    frozen_norm: bool,
) -> dict[str, float]:
    """One step: half-precision network, float32 losses, clipped gradients."""
    model.train()
    if frozen_norm:
        freeze_norm(model.encoder)
    with torch.autocast(batch.image.device.type, torch.bfloat16):
        losses = supervised_losses(model, batch, recipe.losses)
    optimiser.zero_grad(set_to_none=True)
    total(losses).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    optimiser.step()
    values = torch.stack([value.detach() for value in losses.values()]).tolist()
    return dict(zip(losses, values, strict=True))


@torch.no_grad()
def update_average(average: DepthModel, model: DepthModel, decay: float, step: int) -> None:
    """Move the averaged weights towards the current ones; young averages move faster."""
    decay = min(decay, (1.0 + step) / (10.0 + step))
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, 1.0 - decay)
        else:
            kept.copy_(new)


def write(
    model: DepthModel,
    recipe: Recipe,
    output: Path,
    step: int,
    scores: Scores,
    calibration: Calibration,
) -> Path:
    """Write the averaged weights with everything needed to use them."""
    height = round((recipe.pixel_budget / 3.25) ** 0.5 / 32) * 32
    info = CheckpointInfo(
        name=recipe.name,
        architecture=dump(model.architecture),
        encoder_options=model.encoder_options,
        input=InputInfo(height, recipe.pixel_budget // height // 32 * 32, (MEAN,) * 3, (STD,) * 3),
        output=OutputInfo(
            canonical_focal_px=recipe.canonical_focal_px,
            metric=True,
            max_depth_m=recipe.max_depth_m,
            sigma_gain=calibration.gain,
            sigma_floor=calibration.floor,
        ),
        training={'recipe': dump(recipe), 'steps': step, 'validation': scores.as_dict()},
        data=(
            {'name': 'psd_depth_ros synthetic worlds', 'licence': 'Apache-2.0'},
            {'name': 'ImageNet weights of MobileNetV2 (start)', 'licence': 'Apache-2.0'},
        ),
    )
    path = output / 'best.safetensors'
    save_checkpoint(path, info, model.state_dict(), half=True)
    return path


def _on(device: str, batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        yield Batch(
            batch.image.to(device, memory_format=torch.channels_last),
            batch.intrinsics.to(device),
            batch.target.to(device),
            batch.depth_m.to(device),
        )


class _Clock:
    """How far the schedule is: by steps or by minutes, whichever ends first."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._start = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def share(self, step: int) -> float:
        by_time = self.seconds / 60.0 / self._recipe.max_minutes
        return min(1.0, max(step / self._recipe.steps, by_time))

    def rate(self, step: int) -> float:
        return step * self._recipe.batch / max(self.seconds, 1e-6)
