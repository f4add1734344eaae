"""Trains for some steps and tells how fast: a process of its own, whose peak memory is its own.

    python benchmarks/trainee.py RECIPE PIXELS STEPS BAG CACHE DEVICE

The last line of the output is JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
import resource
import sys
import tempfile
from typing import Any

import torch
from torch import nn, Tensor

from psd_depth_ros.checkpoint import default_checkpoint
from psd_depth_ros.data.triplets.prepare import prepare_sequences
from psd_depth_ros.networks import DepthModel, Normalisation, preset
from psd_depth_ros.networks.encoders import EncoderWeights
from psd_depth_ros.runtime import configure_training
from psd_depth_ros.training.logging import StepReport
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.recipe import change_recipe, find_recipe, read_recipe, VideoRecipe
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.video_task import FINE_FACTOR, VideoTask

WARM_UP = 8  # steps that are not counted: until then, memory still comes from the kernel
# Every term from the first step on, as in the last part of a run, the slowest; nothing but steps
# is measured.
CHANGES = {
    'batch': 8, 'validate_every': 100_000, 'preview_every': 0, 'save_every': 100_000,
    'data.triplets.held_out': 0.2,
}  # fmt: skip


def main(recipe_name: str, pixels: str, steps: str, bag: str, cache: str, device: str) -> None:
    configure_training()
    recipe = make_recipe(recipe_name, int(pixels), int(steps), bag)
    data = prepare_sequences(
        recipe.data, pixel_budget=recipe.pixel_budget, cache=Path(cache), fine_factor=FINE_FACTOR
    )
    task = VideoTask(recipe, data, folded_weights(), cache=Path(cache))
    seen: list[StepReport] = []
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        run_training(task, RunFolder(Path(folder) / 'run'), device=device, report=seen.append)
    print(json.dumps({'device': device, **summarise(recipe, task, seen)}))


def make_recipe(name: str, pixels: int, steps: int, bag: str) -> VideoRecipe:
    """A recipe that comes with the package, for so many steps on a bag."""
    shipped = read_recipe(find_recipe(name))
    # a step more: the last one ends with a validation
    changes = {
        'pixel_budget': pixels, 'steps': steps + WARM_UP + 1, 'data.paths': [bag], **CHANGES
    }  # fmt: skip
    for term in shipped.objective:
        changes |= {f'objective.{term.name}.{key}': 0.0 for key in ('start', 'full')}
        changes[f'objective.{term.name}.end'] = 1.0
        if term.name == 'pseudo_depth':
            changes['objective.pseudo_depth.teacher'] = str(default_checkpoint())
            changes['objective.pseudo_depth.forgetting'] = 'none'
    return change_recipe(shipped, changes, name)


def folded_weights() -> EncoderWeights:
    """Random weights like those of ImageNet: with them the batch norm stays as it is."""
    weights: dict[str, Tensor] = {}
    for name, module in DepthModel(preset('lite')).encoder.named_modules():
        if isinstance(module, nn.Conv2d):
            weights[f'{name}.weight'] = module.weight.detach()
            weights[f'{name}.bias'] = torch.zeros(module.out_channels)
    return EncoderWeights(weights, 'random', '', '', Normalisation())


def summarise(recipe: VideoRecipe, task: VideoTask, seen: list[StepReport]) -> dict[str, Any]:
    """Rate over all steps but the first ones and the last."""
    counted = seen[WARM_UP - 1 : -1]
    spent = counted[-1].seconds - counted[0].seconds
    images = recipe.batch * (len(counted) - 1)
    height, width = task.batch(1, 0, 1).image.shape[-2:]
    if torch.cuda.is_initialized():
        peak_memory = torch.cuda.max_memory_reserved()
    else:
        peak_memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        'recipe': recipe.name,
        'input': f'{width}x{height}',
        'batch': recipe.batch,
        'images_per_s': round(images / spent, 2),
        'step_ms': round(1e3 * spent * recipe.batch / images, 1),
        'waiting': round(counted[-1].data_wait_fraction, 4),
        'peak_memory_mb': round(peak_memory / 2**20),
        'threads': torch.get_num_threads(),
    }


if __name__ == '__main__':
    main(*sys.argv[1:])
