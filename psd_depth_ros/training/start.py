"""The depth network a run begins with, and how its parts learn."""

from __future__ import annotations

from copy import deepcopy

from psd_depth_ros.checkpoint import Checkpoint
from psd_depth_ros.errors import CheckpointError
from psd_depth_ros.networks import Architecture, DepthModel, load_model, preset
from psd_depth_ros.networks.encoders import EncoderWeights, freeze_maps, load_encoder_weights
from psd_depth_ros.training.recipe import Recipe
from psd_depth_ros.training.task import ParameterGroup

Start = Checkpoint | EncoderWeights | None

_SHAPE = ('encoder', 'head', 'decoder_channels', 'decoder_convolutions')


def has_shape(found: Architecture, wanted: Architecture) -> bool:
    """Whether a network is of a preset; what else it is, is as its checkpoint has it."""
    return all(getattr(found, name) == getattr(wanted, name) for name in _SHAPE)


def start_network(recipe: Recipe, start: Start, head: str = 'bins') -> DepthModel:
    """The network of `start`: a checkpoint, ImageNet weights for the encoder, or random ones.

    Parameters of its frozen maps require no gradient. Raises CheckpointError where a checkpoint
    does not fit the recipe.
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
    focal = start.info.output.canonical_focal_px
    if focal != recipe.canonical_focal_px:
        raise CheckpointError(
            f'{start.path}: has a canonical focal length of {focal:g} px and the recipe '
            f'{recipe.canonical_focal_px:g}; set canonical_focal_px: {focal:g}'
        )
    return model


def depth_groups(recipe: Recipe, depth: DepthModel) -> list[ParameterGroup]:
    """One rate for the encoder, as far as it learns, and one for the rest."""
    known = {id(parameter) for parameter in depth.encoder.parameters()}
    encoder = tuple(p for p in depth.encoder.parameters() if p.requires_grad)
    rest = tuple(p for p in depth.parameters() if id(p) not in known)
    return [
        ParameterGroup('encoder', encoder, recipe.encoder_rate),
        ParameterGroup('rest', rest, recipe.rate),
    ]
