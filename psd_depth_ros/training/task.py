"""The interface between the training loop and what it trains.

The loop (`training.loop`) knows steps, learning rates, checkpoints and processes; a task has the
modules, the batches, the losses and the validation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from psd_depth_ros.checkpoint import Checkpoint, CheckpointInfo, InputInfo, STRIDE
from psd_depth_ros.errors import CheckpointError
from psd_depth_ros.networks import Architecture, DepthModel, load_model, preset
from psd_depth_ros.networks.encoders import EncoderWeights, freeze_maps, load_encoder_weights
from psd_depth_ros.training.recipe import dump_recipe, Recipe

Start = Checkpoint | EncoderWeights | None


@dataclass(frozen=True)
class NewStudent:
    """A network that is made anew, beside start weights that it is compared with.

    Attributes:
        encoder: Pretrained weights of its encoder; None: all of it is random.
    """

    encoder: EncoderWeights | None = None

    @property
    def origin(self) -> str:
        """What its weights are before the first step, in words."""
        if self.encoder is None:
            return 'random weights'
        return f'the encoder of {self.encoder.name}, the rest random'


CANONICAL_FOCAL_PX = 240.0  # of networks made anew
NOMINAL_ASPECT = 3.25  # width over height of the nominal input
STAGE_FACTS = ('steps', 'images', 'minutes', 'device', 'start')  # kept of earlier runs
B = TypeVar('B', bound='Batch')

_SHAPE = ('encoder', 'head', 'decoder_channels', 'decoder_convolutions')


class Batch(Protocol):
    """The data of one step."""

    def to(self: B, device: torch.device) -> B:
        """The same batch on another device."""
        ...


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate; `rate` is scaled by the schedule."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    rate: float


class Task(ABC):
    """Something to train: modules, batches, losses and validation.

    `module` holds every trained parameter and is what gets wrapped when several processes train
    together; until then all of `groups` require gradients. A task with an attribute `teacher` gets
    the averaged network there, in eval mode; it must not become a part of `module`.
    """

    recipe: Recipe
    module: nn.Module
    start_id: str = ''  # of the checkpoint it starts from, if any

    def data_description(self) -> dict[str, Any]:
        """The training data as JSON: names, time ranges, fingerprints.

        It must be the same when a run is resumed.
        """
        return {}

    def describe_cache(self, *, resumed: bool = False) -> tuple[str, ...]:
        """Where decoded recordings are kept; of a resumed run also which were not there."""
        return ()

    @property
    def kept(self) -> nn.Module:
        """What is saved with the state of the run and not trained, such as teachers."""
        return nn.ModuleDict()

    def after_step(self, step: int) -> None:  # noqa: B027
        """Follow the weights after a step (from 1) of the optimiser."""

    @property
    @abstractmethod
    def depth(self) -> DepthModel:
        """The depth network inside `module`, which is averaged, validated and kept."""

    @abstractmethod
    def groups(self) -> list[ParameterGroup]:
        """The trained parameters with their rates."""

    @abstractmethod
    def prepare(self, progress: float) -> None:
        """Set train and eval modes and frozen parts before a step at `progress` (0 .. 1)."""

    @abstractmethod
    def batch(self, step: int, rank: int, processes: int) -> Batch:
        """The `rank`-th of `processes` equal parts of the batch of a step (from 1).

        A step always has the same samples in the same order, whatever the earlier calls and the
        number of processes. Called from a loader thread.
        """

    @abstractmethod
    def losses(self, module: nn.Module, batch: Any, progress: float) -> dict[str, Tensor]:
        """The weighted terms of a step, 0-dim float32 each; their sum is the loss.

        Every term is a mean over samples, so that the mean over equal parts of a batch is that of
        the whole batch; every process has the same names. `module` is `self.module`, wrapped where
        there are several processes, and is called once, with autocast where the recipe asks for
        it. torch's global generator is seeded by the recipe, the step and the process.
        """

    @abstractmethod
    def validate(self, depth: DepthModel) -> dict[str, float]:
        """Scores on held-out data; the network with the lowest finite `score` is kept."""

    @abstractmethod
    def previews(self, depth: DepthModel) -> Mapping[str, NDArray[np.uint8]]:
        """Preview images (H, W, 3) RGB by name."""

    @abstractmethod
    def describe(
        self, depth: DepthModel, step: int, scores: Mapping[str, float]
    ) -> CheckpointInfo:
        """Metadata of the kept checkpoint; called right after `validate` returned `scores`."""


def has_shape(found: Architecture, wanted: Architecture) -> bool:
    """Whether a network has the encoder, head and decoder of another architecture."""
    return all(getattr(found, name) == getattr(wanted, name) for name in _SHAPE)


def start_network(recipe: Recipe, start: Start, head: str = 'bins') -> DepthModel:
    """The network of a checkpoint, or one with encoder weights, or with random weights.

    Parameters of frozen maps require no gradient. Raises CheckpointError where a checkpoint does
    not fit the recipe.
    """
    wanted = preset(recipe.preset, head)
    if isinstance(start, Checkpoint):
        model = _read_checkpoint(start, recipe, wanted)
    else:
        model = DepthModel(wanted)
        if start is not None:
            load_encoder_weights(model.encoder, start)
    if start is not None and recipe.frozen_maps > 0:
        freeze_maps(model.encoder, recipe.frozen_maps)
    return model


def _read_checkpoint(start: Checkpoint, recipe: Recipe, wanted: Architecture) -> DepthModel:
    model = deepcopy(load_model(start))  # the tensors of a checkpoint are shared by its models
    if not has_shape(model.architecture, wanted):
        raise CheckpointError(
            f'{start.path}: is a network with {model.architecture.encoder!r} and '
            f'{model.architecture.head!r} head, but the recipe wants preset {recipe.preset!r} '
            f'with {wanted.head!r} head; choose another start, or other settings in the recipe'
        )
    return model


def start_provenance(start: Start) -> tuple[Mapping[str, Any], ...]:
    """What the start was learned from, as entries of `CheckpointInfo.data`."""
    if isinstance(start, Checkpoint):
        return tuple(start.info.data)
    return () if start is None else (start.provenance(),)


def training_record(
    recipe: Recipe,
    start: Start,
    step: int,
    scores: Mapping[str, float],
    student: NewStudent | None = None,
) -> dict[str, Any]:
    """What `CheckpointInfo.training` says of a run, and of the runs that its start came from.

    Those are no runs of a student that was made anew.
    """
    record: dict[str, Any] = {
        'recipe': dump_recipe(recipe),
        'steps': step,
        'images': step * recipe.batch,
        'validation': dict(scores),
    }
    if student is not None:
        record['made_anew'] = student.origin
    elif isinstance(start, Checkpoint):
        before = start.info.training
        kept = {name: before[name] for name in STAGE_FACTS if name in before}
        record['start'] = {'name': start.info.name, 'id': start.id, **kept}
    return record


def canonical_focal_px(start: Start) -> float:
    """Canonical focal length of the start, in pixels."""
    if isinstance(start, Checkpoint):
        return start.info.output.canonical_focal_px
    return CANONICAL_FOCAL_PX


def describe_input(depth: DepthModel, pixel_budget: int, jitter: float = 1.0) -> InputInfo:
    """The nominal input, of about the aspect ratio of a road camera, and the range of sizes."""
    height = round((pixel_budget / NOMINAL_ASPECT) ** 0.5 / STRIDE) * STRIDE
    width = pixel_budget // height // STRIDE * STRIDE
    smallest, largest = round(pixel_budget / jitter), round(pixel_budget * jitter)
    if jitter == 1.0:
        smallest = largest = 0
    return InputInfo(height, width, *depth.normalisation, smallest, largest)


def depth_groups(recipe: Recipe, depth: DepthModel) -> list[ParameterGroup]:
    """Parameter groups: the encoder, without frozen maps, and the rest of the network."""
    known = {id(parameter) for parameter in depth.encoder.parameters()}
    encoder = tuple(p for p in depth.encoder.parameters() if p.requires_grad)
    rest = tuple(p for p in depth.parameters() if id(p) not in known)
    return [
        ParameterGroup('encoder', encoder, recipe.encoder_rate),
        ParameterGroup('rest', rest, recipe.rate),
    ]
