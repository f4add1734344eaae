"""Training on several sources at once, as a task for the loop.

Each source is a task of its own (rendered worlds, recordings) with its batches and its objective;
all train one depth network. A step has a batch of every source whose turn it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from psd_depth_ros.checkpoint import Checkpoint, CheckpointInfo
from psd_depth_ros.data.triplets.batch import is_turn
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.training.recipe import MixedRecipe, VideoRecipe, WorldsRecipe
from psd_depth_ros.training.task import (
    Batch,
    depth_groups,
    describe_input,
    ParameterGroup,
    Start,
    start_network,
    Task,
    training_record,
)
from psd_depth_ros.training.video_task import VideoTask
from psd_depth_ros.training.worlds_task import WorldsTask

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class MixedBatch:
    """The batches of a step by source."""

    parts: Mapping[str, Batch]

    def to(self, device: torch.device) -> MixedBatch:
        """The same batches on another device."""
        return MixedBatch({name: part.to(device) for name, part in self.parts.items()})


class _Sources(nn.Module):
    """The modules of all sources: one call gives the terms of all batches."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.sources = nn.ModuleDict(modules)

    def forward(self, parts: Mapping[str, Any], progress: float) -> dict[str, dict[str, Tensor]]:
        return {name: self.sources[name](part, progress) for name, part in parts.items()}


class MixedTask(Task):
    """One depth network that learns from several tasks.

    Args:
        recipe: Sources and their weights.
        tasks: By name, one for each source of the recipe; all train the same network.
        start: What they start from.
    """

    recipe: MixedRecipe

    def __init__(
        self, recipe: MixedRecipe, tasks: Mapping[str, Task], start: Start = None
    ) -> None:
        self.recipe = recipe
        self._tasks = dict(tasks)
        self._depth = next(iter(self._tasks.values())).depth
        assert all(task.depth is self._depth for task in self._tasks.values())
        self._start = start
        self.start_id = start.id if isinstance(start, Checkpoint) else ''
        self.module: nn.Module = _Sources({n: task.module for n, task in self._tasks.items()})

    @classmethod
    def from_recipe(
        cls,
        recipe: MixedRecipe,
        start: Start,
        report: Report,
        *,
        worlds: Path,
        processes: int = 2,
        announce: Callable[[str], None] = lambda subject: None,
    ) -> MixedTask:
        """Render and decode what the sources need and make the task.

        Args:
            recipe: Sources.
            start: What the network starts from.
            report: Called with what is done and the total, anew for each recording.
            worlds: Folder of rendered worlds.
            processes: That render.
            announce: Called with what begins.
        """
        torch.manual_seed(recipe.seed)
        model = start_network(recipe, start)
        tasks: dict[str, Task] = {}
        for source in recipe.sources:
            own = source.recipe
            if isinstance(own, WorldsRecipe):
                announce('rendering worlds')
                tasks[source.name] = WorldsTask.from_recipe(
                    own, worlds, start, report, processes=processes, model=model
                )
            else:
                assert isinstance(own, VideoRecipe), f'no task for recipes of kind {own.kind}'
                tasks[source.name] = VideoTask.from_recipe(
                    own, start, report, model, announce=announce
                )
        return cls(recipe, tasks, start)

    @property
    def depth(self) -> DepthModel:
        """The depth network of all sources."""
        return self._depth

    @property
    def teacher(self) -> DepthModel | None:
        """The averaged network, set by the loop."""
        found = (getattr(task, 'teacher', None) for task in self._tasks.values())
        return next((one for one in found if one is not None), None)

    @teacher.setter
    def teacher(self, network: DepthModel) -> None:
        for task in self._tasks.values():
            if hasattr(task, 'teacher'):
                task.teacher = network

    @property
    def kept(self) -> nn.Module:
        """What the sources keep, such as slow teachers."""
        return nn.ModuleDict({name: task.kept for name, task in self._tasks.items()})

    def data_description(self) -> dict[str, Any]:
        """The data of every source."""
        return {name: task.data_description() for name, task in self._tasks.items()}

    def describe_cache(self, *, resumed: bool = False) -> tuple[str, ...]:
        """What every source says, once."""
        said = (task.describe_cache(resumed=resumed) for task in self._tasks.values())
        return tuple(dict.fromkeys(text for texts in said for text in texts))

    def groups(self) -> list[ParameterGroup]:
        """The depth network, then what each source trains beside it."""
        groups = depth_groups(self.recipe, self._depth)
        for name, task in self._tasks.items():
            known = {id(one) for group in groups for one in group.parameters}
            for group in task.groups():
                own = tuple(one for one in group.parameters if id(one) not in known)
                if own:
                    groups.append(ParameterGroup(f'{name}.{group.name}', own, group.rate))
        return groups

    def prepare(self, progress: float) -> None:
        """Set the modes of every source."""
        self.module.train()
        for task in self._tasks.values():
            task.prepare(progress)

    def after_step(self, step: int) -> None:
        """Let the teachers of every source follow."""
        for task in self._tasks.values():
            task.after_step(step)

    def batch(self, step: int, rank: int, processes: int) -> MixedBatch:
        """A batch of every source whose turn it is, each as its own task gives it."""
        turns = [one.name for one in self.recipe.sources if is_turn(step, one.turns)]
        names = turns or [self.recipe.sources[step % len(self.recipe.sources)].name]
        return MixedBatch({n: self._tasks[n].batch(step, rank, processes) for n in names})

    def losses(self, module: nn.Module, batch: MixedBatch, progress: float) -> dict[str, Tensor]:
        """The weighted terms of all sources, named SOURCE.TERM."""
        found = module(batch.parts, progress)
        weights = {source.name: source.weight for source in self.recipe.sources}
        return {
            f'{name}.{term}': weights[name] * loss
            for name, terms in found.items()
            for term, loss in terms.items()
        }

    def validate(self, depth: DepthModel) -> dict[str, float]:
        """The scores of every source, named SOURCE.SCORE; `score` is their geometric mean.

        A source without held-out data does not count.
        """
        scores: dict[str, float] = {}
        logarithms = []
        for name, task in self._tasks.items():
            found = task.validate(depth)
            scores |= {f'{name}.{key}': value for key, value in found.items()}
            if math.isfinite(found['score']) and found['score'] > 0:
                logarithms.append(math.log(found['score']))
        score = math.exp(sum(logarithms) / len(logarithms)) if logarithms else math.nan
        return {'score': score, **scores}

    def previews(self, depth: DepthModel) -> Mapping[str, NDArray[np.uint8]]:
        """The images of every source."""
        return {
            f'{name}_{key}': image
            for name, task in self._tasks.items()
            for key, image in task.previews(depth).items()
        }

    def describe(
        self, depth: DepthModel, step: int, scores: Mapping[str, float]
    ) -> CheckpointInfo:
        """Metadata of the checkpoint: those of the first source, with the data of all.

        It is metric where any source is, and has seen the input sizes of all.
        """
        infos = [task.describe(depth, step, scores) for task in self._tasks.values()]
        first = infos[0]
        ranges = [info.input.trained_pixels for info in infos]
        nominal = describe_input(depth, self.recipe.pixel_budget)
        smallest, largest = min(one[0] for one in ranges), max(one[1] for one in ranges)
        if smallest < nominal.pixel_budget < largest:
            nominal = replace(nominal, smallest_pixels=smallest, largest_pixels=largest)
        data: list[Mapping[str, Any]] = []
        for entry in (one for info in infos for one in info.data):
            if entry not in data:
                data.append(entry)
        return replace(
            first,
            name=self.recipe.name,
            input=nominal,
            output=replace(first.output, metric=any(info.output.metric for info in infos)),
            training=training_record(self.recipe, self._start, step, scores),
            data=tuple(data),
        )  # fmt: skip
