"""Recipes of training runs: YAML files of settings and of the list of terms that are learned.

The objective is a list; each entry names a term and changes some of its settings:

    objective:
    - {term: photometric}
    - {term: smoothness, weight: 0.001}

`NAME=VALUE` changes of a command reach a term as `objective.NAME.SETTING=VALUE`. They add a term
that the list lacks; `objective.NAME=0.1` sets its weight and `objective.NAME=off` takes it out,
with the terms that build on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from psd_depth_ros.config import (
    build,
    dump,
    flatten,
    parse_changes,
    section,
    setting,
    source_prefix,
)
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.files import find_installed
from psd_depth_ros.objectives.base import Term, TermSettings
from psd_depth_ros.objectives.registry import find_term
from psd_depth_ros.parsing import ParseError, read_yaml, shorten, user_path

R = TypeVar('R', bound='Recipe')

OBJECTIVE = 'objective'
FINETUNE = 'finetune'
LEARNED, RECORDED, TRACKED = 'learned', 'recorded', 'tracked'
# Where the learning rates of a schedule end, as a factor of where they were.
FINAL_FACTOR = {'step': 0.1, 'cosine': 0.01, 'constant': 1.0}
_SCHEDULE = (
    'How the learning rates fall: to a tenth after three quarters of the run, along a cosine to a '
    'hundredth, or not at all, for an average over a long time'
)

RENAMED = {'monodepth2': 'baseline'}
# Settings of the objective from before it was a list of terms, where terms stand now.
_FORMER_TERMS = {
    'uniformity': 'bin_uniformity',
    'auto_mask': 'photometric.auto_mask',
    'minimum_reprojection': 'photometric.minimum_reprojection',
    'brightness': 'photometric.brightness',
}


@dataclass(frozen=True)
class TermChoice:
    """A term of an objective by name, with its settings."""

    name: str
    settings: TermSettings


@dataclass(frozen=True)
class WorldsSettings:
    """Rendered worlds to learn from."""

    frames: int = setting(12000, 'Frames rendered for training', minimum=1, maximum=10_000_000)
    frames_per_world: int = setting(4, 'Frames taken of each world', minimum=1, maximum=1000)
    first_seed: int = setting(
        0, 'Seed of the first world; training uses seeds below 1 000 000', minimum=0,
        maximum=999_999,
    )  # fmt: skip
    validation_frames: int = setting(
        240, 'Frames held out, of worlds from seed 1 000 000 on', minimum=1, maximum=100_000
    )
    clear_fraction: float = setting(
        0.7, 'Fraction of worlds in clear weather; the rest is fog, rain, night or blur',
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    oversize: float = setting(
        1.25, 'Side of the rendered image over that of the input: room for crops',
        minimum=1.0, maximum=4.0,
    )  # fmt: skip

    removed_settings: ClassVar[dict[str, str]] = {'clear_share': 'it is clear_fraction'}


@dataclass(frozen=True)
class Recipe:
    """Settings of every kind of training run."""

    kind: str = setting('video', 'What is learned from', choices=('video', 'worlds'))
    name: str = setting('run', 'Name of the run and of its checkpoint')
    licence: str = setting('', 'Licence of the weights, as its checkpoint states it')
    preset: str = setting('lite', 'Network preset', choices=('lite', 'base'))
    seed: int = setting(1, 'Seed of all random numbers of the training', minimum=0)
    steps: int = setting(6000, 'Optimiser steps', minimum=1, maximum=10_000_000)
    max_minutes: float = setting(
        1e9, 'The schedule ends here even if steps are left', 'min', minimum=0.01
    )
    batch: int = setting(8, 'Images in a step, over all processes', minimum=1, maximum=4096)
    rate: float = setting(2e-4, 'Learning rate of decoder and head', minimum=1e-8, maximum=1.0)
    encoder_rate: float = setting(2e-4, 'Learning rate of the encoder', minimum=0.0, maximum=1.0)
    frozen_maps: int = setting(
        0, 'How many of the five maps of a pretrained encoder, from the finest on, have frozen '
        'layers; two save a sixth of a step', minimum=0, maximum=5,
    )  # fmt: skip
    schedule: str = setting('step', _SCHEDULE, choices=tuple(FINAL_FACTOR))
    warmup: float = setting(
        0.01, 'Progress of the run up to which the learning rates rise', minimum=0.0, maximum=0.5
    )
    clip: float = setting(1.0, 'Largest gradient norm', minimum=1e-3, maximum=1e6)
    average: float = setting(
        0.998, 'Decay of the averaged weights that are kept', minimum=0.0, maximum=1.0
    )
    average_power: float = setting(
        8.0, 'Early in the run, step k is weighted by k to this power in the average; 0 with '
        'decay 1 gives the mean of all steps', minimum=0.0, maximum=100.0,
    )  # fmt: skip
    precision: str = setting(
        'bf16', 'Arithmetic of the networks; geometry and losses are float32',
        choices=('bf16', 'fp32'),
    )  # fmt: skip
    pixel_budget: int = setting(
        53248, 'Pixels of a training input', 'px', minimum=1024, maximum=4_000_000
    )
    validate_every: int = setting(500, 'Steps between validations', minimum=1)
    save_every: int = setting(200, 'Steps between two saved states to resume from', minimum=1)
    preview_every: int = setting(500, 'Steps between preview images; 0 for none', minimum=0)
    objective: tuple[TermChoice, ...] = field(default=())

    removed_settings: ClassVar[dict[str, str]] = {
        'drop_at': 'the schedule `step` drops after three quarters of the run',
        'weight_decay': 'it is 0.01',
        'canonical_focal_px': 'it is that of the network the run starts from, else 240 px',
    }

    def make_terms(self) -> list[Term]:
        """The terms of the objective. Raises SettingsError for an unknown one."""
        return [find_term(one.name)(one.settings) for one in self.objective]


@dataclass(frozen=True)
class WorldsRecipe(Recipe):
    """A supervised run on rendered worlds."""

    kind: str = setting('worlds', 'What is learned from', choices=('worlds',))
    batch: int = setting(12, 'Images in a step, over all processes', minimum=1, maximum=4096)
    rate: float = setting(4e-4, 'Learning rate of decoder and head', minimum=1e-8, maximum=1.0)
    schedule: str = setting('cosine', _SCHEDULE, choices=tuple(FINAL_FACTOR))
    warmup: float = setting(
        0.02, 'Progress of the run up to which the learning rates rise', minimum=0.0, maximum=0.5
    )
    max_depth_m: float = setting(
        120.0, 'Depth beyond this is learned as sky', 'm', minimum=1.0, maximum=1000.0
    )
    smallest_window: float = setting(
        0.6, 'Smallest crop, as a fraction of the side', minimum=0.1, maximum=1.0
    )
    worlds: WorldsSettings = section(WorldsSettings)

    removed_settings: ClassVar[dict[str, str]] = {
        **Recipe.removed_settings,
        **{
            f'losses.{old}': f'it is the weight of the term {new} in the list `objective`'
            for old, new in (
                ('log_depth', 'log_depth'),
                ('edges', 'gradients'),
                ('bins', 'bins'),
                ('uniformity', 'bin_uniformity'),
            )
        },
    }


def _removed_terms() -> dict[str, str]:
    """Explanations of the settings that the objective had before it was a list of terms."""
    plain = {
        'far.fine_weight': 'distant.weight',
        'far.start': 'distant.start and photometric.exempt_start',
        'far.unmasked_px': 'photometric.exempt_from_auto_mask_px',
        'patch.choice': 'patch.selection',
        'patch.width_share': 'patch.width',
        'patch.height_share': 'patch.height',
        'patch.share': 'patch.fraction',
        'patch.level': 'patch_level.weight',
        'patch_mix.weight': 'mix.weight',
        'patch_mix.consistency': 'mix_consistency.weight',
        'patch_mix.share': 'mix.fraction',
        'patch_mix.start': 'mix.start and mix_consistency.start',
    }
    same = ('minimum_zoom', 'maximum_zoom', 'largest_offset', 'convention')
    plain |= {f'patch.{name}': f'patch.{name}' for name in same}
    kept = ('weight', 'start', 'full', 'masked', 'teacher')
    plain |= {f'distillation.{name}': f'distillation.{name}' for name in kept}
    found = {old: f'it is {OBJECTIVE}.{new.replace(" and ", " and objective.")}'
             for old, new in plain.items()}  # fmt: skip
    shared = 'photometric, smoothness, patch, patch_smoothness and patch_level'
    found['patch.start'] = f'it is the start of the terms {shared}'
    found['patch.weight'] = (
        'weight w is w / (1 + w) in objective.patch.weight and 1 / (1 + w) in that of '
        f'photometric; likewise of {shared}'
    )
    for old in ('patch', 'distillation', 'patch_mix'):
        found[f'{old}.enabled'] = 'take the term out of the list `objective`, or put it in'
    return found


@dataclass(frozen=True)
class VideoRecipe(Recipe):
    """A self-supervised run on recordings."""

    head: str = setting(
        'bins', 'Depth head of a new network: adaptive bins, or a disparity map as in monodepth2',
        choices=('bins', 'disparity'),
    )  # fmt: skip
    freeze_norm: bool = setting(True, 'Freeze the batch norm of the encoder')
    pose_rate: float = setting(2e-4, 'Learning rate of the pose network', minimum=0.0, maximum=1.0)
    smallest_window: float = setting(
        1.0, 'Smallest random window of the frames, as a fraction of the side, that is enlarged '
        'to the input: few recordings are seen at many sizes', minimum=0.4, maximum=1.0,
    )  # fmt: skip
    poses: str = setting(
        RECORDED, 'Motion between frames: learned by the pose network alone; recorded poses where '
        'there are some, corrected by the pose network; tracked: also motions of tracked '
        'corners where there are no poses, scaled by the depth of the network at the start',
        choices=(LEARNED, RECORDED, TRACKED),
    )  # fmt: skip
    data: DataSettings = section(DataSettings)

    removed_settings: ClassVar[dict[str, str]] = {
        **Recipe.removed_settings,
        **_removed_terms(),
        'pose_warmup': 'depth and pose networks learn together from the start',
        'pose_width': "the pose network's input has half the side of the depth network's",
        'refine_from': 'it is objective.pose_alignment.start',
        'refine_until': 'it is objective.pose_alignment.end',
        'use_known_poses': f'it is poses: {RECORDED}, or poses: {LEARNED} for false',
        'estimate_poses': f'it is poses: {TRACKED}',
    }


KINDS: dict[str, type[Recipe]] = {'worlds': WorldsRecipe, 'video': VideoRecipe}


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with the package."""
    path = user_path(name)
    if path.suffix in ('.yaml', '.yml'):
        return path
    if name in RENAMED:
        raise SettingsError(f'recipe {name!r} is called {RENAMED[name]!r} now')
    found = find_installed(f'config/recipes/{name}.yaml')
    if found is None:
        raise SettingsError(
            f'no recipe {shorten(name)!r} comes with the package; give a name such as psd, or '
            'a .yaml file'
        )
    return found


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; SettingsError where it is missing, not YAML, or has a wrong setting."""
    values = _read_values(path)
    values.pop(FINETUNE, None)
    kind = values.get('kind', 'video')
    if not isinstance(kind, str) or kind not in KINDS:
        raise SettingsError(
            f'{path}: kind is {shorten(repr(kind))}, expected one of {", ".join(KINDS)}'
        )
    return build_recipe(KINDS[kind], values, str(path))


def read_finetune_recipe(path: Path) -> Recipe:
    """What a recipe becomes where it fine-tunes weights that are good already.

    Its section `finetune` lists by dotted name what differs from the recipe `finetune`; a recipe
    without that section stays as it is. Raises SettingsError like `read_recipe`.
    """
    changes = _read_values(path).get(FINETUNE)
    if changes is None:
        return read_recipe(path)
    if not isinstance(changes, Mapping):
        raise SettingsError(
            f'{path}: {FINETUNE} is {shorten(repr(changes))}, expected changes of the recipe '
            f'{FINETUNE} by name, such as "objective.adverse.weight: 0.5"'
        )
    base = read_recipe(find_recipe(FINETUNE))
    return change_recipe(base, {'name': path.stem, **changes}, f'{path}: {FINETUNE}')


def _read_values(path: Path) -> dict[str, Any]:
    try:
        values: Any = read_yaml(path)
    except ParseError as error:
        raise SettingsError(f'{shorten(path)}: recipe {error}') from error
    if not isinstance(values, dict):
        raise SettingsError(f'{path}: recipe is empty, expected settings such as "steps: 6000"')
    return values


def build_recipe(cls: type[R], values: Mapping[str, Any], source: str = '') -> R:
    """Make a recipe from nested values, `objective` being a list of terms.

    Raises SettingsError, naming `source`, for anything unknown, of a wrong type or out of range,
    and where terms do not go together.
    """
    static = {key: value for key, value in values.items() if key != OBJECTIVE}
    recipe = build(cls, static, source)
    listed = values.get(OBJECTIVE)
    if not isinstance(listed, list) or not listed:
        raise SettingsError(
            f'{source_prefix(source)}{OBJECTIVE} is {shorten(repr(listed))}, expected a list of '
            'terms such as "- {term: photometric, weight: 1.0}"; config/recipes has examples'
        )
    recipe = replace(recipe, objective=tuple(_read_term(entry, source) for entry in listed))
    _check_objective(recipe, source)
    return recipe


def change_recipe(recipe: R, changes: Sequence[str] | Mapping[str, Any], source: str) -> R:
    """A copy of a recipe with changes: NAME=VALUE texts, or values by dotted name.

    Checked like in `build_recipe`.
    """
    static: dict[str, Any] = {}
    terms = {one.name: _as_dict(one) for one in recipe.objective}
    values = changes if isinstance(changes, Mapping) else parse_changes(changes, source)
    for key, value in values.items():
        if key.split('.')[0] == OBJECTIVE:
            _change_term(terms, key, value, source)
        else:
            static[key] = value
    changed = {**flatten(recipe), **static, OBJECTIVE: list(terms.values())}
    return build_recipe(type(recipe), changed, source)


def dump_recipe(recipe: Recipe) -> dict[str, Any]:
    """A recipe as nested plain values, for YAML or JSON; `build_recipe` reads them."""
    return {**dump(recipe), OBJECTIVE: [_as_dict(one) for one in recipe.objective]}


def flatten_recipe(recipe: Recipe) -> dict[str, Any]:
    """A recipe as a flat mapping of dotted names."""
    flat = flatten(recipe)
    for one in recipe.objective:
        flat |= flatten(one.settings, f'{OBJECTIVE}.{one.name}.')
    return flat


def _read_term(entry: Any, source: str) -> TermChoice:
    if not isinstance(entry, Mapping) or not isinstance(entry.get('term'), str):
        raise SettingsError(
            f'{source_prefix(source)}{OBJECTIVE} has {shorten(repr(entry))}, expected a term such '
            'as {term: photometric, weight: 1.0}'
        )
    name = entry['term']
    values = {key: value for key, value in entry.items() if key != 'term'}
    try:
        settings = build(find_term(name).Settings, values, f'{OBJECTIVE}.{name}')
    except SettingsError as error:
        raise SettingsError(f'{source_prefix(source)}{error}') from error
    return TermChoice(name, settings)


def _check_objective(recipe: Recipe, source: str) -> None:
    names = [one.name for one in recipe.objective]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingsError(
            f'{source_prefix(source)}{OBJECTIVE} has {", ".join(twice)} more than once'
        )
    terms = {term.name: term for term in recipe.make_terms()}
    try:
        for term in terms.values():
            term.bind(terms)
    except SettingsError as error:
        raise SettingsError(f'{source_prefix(source)}{error}') from error


def _change_term(terms: dict[str, Any], key: str, value: Any, source: str) -> None:
    _, _, rest = key.partition('.')
    name, _, setting_name = rest.partition('.')
    if not name:
        raise SettingsError(
            f'{source} {key}: expected {OBJECTIVE}.TERM.SETTING=VALUE, {OBJECTIVE}.TERM=WEIGHT or '
            f'{OBJECTIVE}.TERM=off'
        )
    if name in _FORMER_TERMS:
        raise SettingsError(
            f'{source_prefix(source)}{key} is no setting any more; it is '
            f'{OBJECTIVE}.{_FORMER_TERMS[name]}'
        )
    try:
        find_term(name)
    except SettingsError as error:
        raise SettingsError(f'{source_prefix(source)}{error}') from error
    if setting_name:
        terms.setdefault(name, {'term': name})[setting_name] = value
    elif value is False:  # `off` in YAML
        _remove(terms, name)
    else:
        terms.setdefault(name, {'term': name})['weight'] = value


def _remove(terms: dict[str, Any], name: str) -> None:
    """Remove a term, and those that require it."""
    terms.pop(name, None)
    for other in [one for one in terms if name in find_term(one).requires]:
        _remove(terms, other)


def _as_dict(term: TermChoice) -> dict[str, Any]:
    return {'term': term.name, **dump(term.settings)}
