"""A tiny task for the training loop, and a program that trains it: FOLDER [NAME=VALUE ...].

The names are those of the recipe, and `resume`, `noise`, `delay_s` after each step and `nan_at`, a
step whose first loss is no number in the last of several processes.
"""

import dataclasses
import os
from pathlib import Path
import sys
import time

import numpy as np
import torch
from torch import nn

from psd_depth_ros.checkpoint import CheckpointInfo
from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.recipe import Recipe
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.task import ParameterGroup, Task

RECIPE = Recipe(
    name='toy', steps=12, batch=4, rate=1e-2, encoder_rate=1e-2, precision='fp32', average=0.9,
    validate_every=4, save_every=3, preview_every=6, warmup=0.1,
)  # fmt: skip


def replace_recipe(**changes):
    return dataclasses.replace(RECIPE, **changes)


@dataclasses.dataclass(frozen=True)
class ToyBatch:
    x: torch.Tensor
    y: torch.Tensor

    def to(self, device):
        return ToyBatch(self.x.to(device), self.y.to(device))


class ToyObjective(nn.Module):
    """Two terms; the second, with a layer of its own, begins in the middle of the run."""

    def __init__(self, noise):
        super().__init__()
        self.depth = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 1))
        self.later = nn.Conv2d(8, 1, 1)
        self.noise = noise

    def forward(self, batch, progress):
        x = batch.x + self.noise * torch.randn_like(batch.x)
        maps = self.depth[:2](x)
        terms = {'first': (self.depth[2](maps) - batch.y).square().mean()}
        if progress > 0.5:
            terms['second'] = 0.1 * (self.later(maps) - batch.y).abs().mean()
        return terms


class ToyTask(Task):
    """Learns a linear filter. `explode` maps a step to a factor of its loss, `times` often."""

    def __init__(self, recipe=RECIPE, noise=0.0, explode=None, times=99, data='toy 1'):
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self.module = ToyObjective(noise)
        self.explode, self.times, self.data = explode or {}, times, data
        self.step = 0
        self.teacher = None

    depth = property(lambda self: self.module.depth)

    def data_description(self):
        return {'recordings': [{'name': self.data, 'frames': 7}]}

    def groups(self):
        parts = {'depth': self.module.depth, 'later': self.module.later}
        return [
            ParameterGroup(name, tuple(part.parameters()), self.recipe.rate)
            for name, part in parts.items()
        ]

    def prepare(self, progress):
        self.step = round(progress * self.recipe.steps)
        self.module.train()

    def batch(self, step, rank, processes):
        part = self.recipe.batch // processes
        rngs = [
            np.random.default_rng((step, place)) for place in range(rank * part, (rank + 1) * part)
        ]
        x = torch.stack([torch.from_numpy(rng.random((3, 8, 8), np.float32)) for rng in rngs])
        return ToyBatch(x, x[:, :1, 1:-1, 1:-1] - 0.5 * x[:, 2:, 1:-1, 1:-1])

    def losses(self, module, batch, progress):
        terms = module(batch, progress)
        if self.step in self.explode and self.times > 0:
            self.times -= 1
            terms['first'] = terms['first'] * self.explode[self.step]
        return terms

    @torch.no_grad()
    def validate(self, depth):
        batch = self.batch(10_000, 0, 1)
        return {'score': float((depth(batch.x) - batch.y).abs().mean()), 'other': 1.0}

    def previews(self, depth):
        return {'grey': np.full((4, 6, 3), 128, np.uint8)}

    def describe(self, depth, step, scores):
        return CheckpointInfo('toy', {'encoder': 'toy'}, training={'steps': step})


def main(arguments):
    options = dict(argument.split('=') for argument in arguments[1:])
    resume, noise = options.pop('resume', '') == 'yes', float(options.pop('noise', 0.0))
    delay_s, nan_at = float(options.pop('delay_s', 0.0)), int(options.pop('nan_at', 0))
    types = {field.name: type(getattr(RECIPE, field.name)) for field in dataclasses.fields(RECIPE)}
    changes = {name: types[name](value) for name, value in options.items()}
    is_last = int(os.environ.get('RANK', 0)) == int(os.environ.get('WORLD_SIZE', 1)) - 1
    explode = {nan_at: float('nan')} if nan_at and is_last else {}
    task = ToyTask(replace_recipe(**changes), noise, explode, times=1)
    try:
        run_training(
            task,
            RunFolder(Path(arguments[0])),
            device='cpu',
            resume=resume,
            report=lambda progress: time.sleep(delay_s),
        )
    except PsdDepthError as error:
        sys.stderr.write(f'{error}\n')
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
