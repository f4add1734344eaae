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
    specs,
)
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.files import find_installed
from psd_depth_ros.objectives.base import Term, TermSettings
from psd_depth_ros.objectives.registry import find_term
from psd_depth_ros.parsing import ParseError, read_yaml, shorten, user_path

R = TypeVar('R', bound='Recipe')

OBJECTIVE = 'objective'
SOURCES = 'sources'
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

    kind: str = setting('video', 'What is learned from', choices=('video', 'worlds', 'mixed'))
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
        'auto', 'Arithmetic of the networks: bf16, or fp32 on a CPU that lacks bfloat16; geometry '
        'and losses are float32', choices=('auto', 'bf16', 'fp32'),
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
    budget_jitter: float = setting(
        1.0, 'Steps draw the pixels of their input from pixel_budget divided by this to '
        'pixel_budget times this, so that one network serves many input sizes', minimum=1.0,
        maximum=4.0,
    )  # fmt: skip
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


@dataclass(frozen=True)
class Source:
    """One of the sources of a mixed run.

    `weight` is of its loss in the sum, `turns` the fraction of the steps that it takes part in.
    """

    name: str
    weight: float
    turns: float
    recipe: Recipe


@dataclass(frozen=True)
class SourceSettings:
    """What a source of a mixed run has beside a recipe."""

    weight: float = setting(1.0, 'Weight of its loss in the sum', minimum=0.0, maximum=1000.0)
    turns: float = setting(
        1.0, 'Fraction of the steps that it takes part in, evenly spread', minimum=0.001,
        maximum=1.0,
    )  # fmt: skip


@dataclass(frozen=True)
class MixedRecipe(Recipe):
    """A run that learns from several sources at once, each a recipe of its own.

    Every step has a batch of each source, so that sources count by their weights and not by how
    much data they have. `batch` is the sum of theirs.
    """

    kind: str = setting('mixed', 'What is learned from', choices=('mixed',))
    schedule: str = setting('cosine', _SCHEDULE, choices=tuple(FINAL_FACTOR))
    sources: tuple[Source, ...] = field(default=())


KINDS: dict[str, type[Recipe]] = {
    'worlds': WorldsRecipe, 'video': VideoRecipe, 'mixed': MixedRecipe,
}  # fmt: skip
# Settings that a source of a mixed run has for itself; the others of `Recipe` are of the run.
_OF_A_SOURCE = ('kind', 'batch', 'pixel_budget')
_SOURCE_SETTINGS = tuple(spec.name for spec in specs(SourceSettings))


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
    if issubclass(cls, MixedRecipe):
        return _build_mixed(cls, values, source)
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
    values = changes if isinstance(changes, Mapping) else parse_changes(changes, source)
    if isinstance(recipe, MixedRecipe):
        return _change_mixed(recipe, values, source)
    static: dict[str, Any] = {}
    terms = {one.name: _as_dict(one) for one in recipe.objective}
    for key, value in values.items():
        if key.split('.')[0] == OBJECTIVE:
            _change_term(terms, key, value, source)
        else:
            static[key] = value
    changed = {**flatten(recipe), **static, OBJECTIVE: list(terms.values())}
    return build_recipe(type(recipe), changed, source)


def dump_recipe(recipe: Recipe) -> dict[str, Any]:
    """A recipe as nested plain values, for YAML or JSON; `build_recipe` reads them."""
    if isinstance(recipe, MixedRecipe):
        run = {key: value for key, value in dump(recipe).items() if key != 'batch'}
        return {**run, SOURCES: {one.name: _dump_source(one) for one in recipe.sources}}
    return {**dump(recipe), OBJECTIVE: [_as_dict(one) for one in recipe.objective]}


def flatten_recipe(recipe: Recipe) -> dict[str, Any]:
    """A recipe as a flat mapping of dotted names."""
    flat = flatten(recipe)
    for one in recipe.objective:
        flat |= flatten(one.settings, f'{OBJECTIVE}.{one.name}.')
    if isinstance(recipe, MixedRecipe):
        for source in recipe.sources:
            name = f'{SOURCES}.{source.name}'
            flat |= {f'{name}.weight': source.weight, f'{name}.turns': source.turns}
            for key, value in flatten_recipe(source.recipe).items():
                if not _is_of_the_run(key):
                    flat[f'{name}.{key}'] = value
    return flat


def _build_mixed(cls: type[R], values: Mapping[str, Any], source: str) -> R:
    """A mixed recipe of nested values; see `build_recipe`."""
    if OBJECTIVE in values:
        raise SettingsError(
            f'{source_prefix(source)}a recipe of kind mixed has no {OBJECTIVE}; each of its '
            f'{SOURCES} has one'
        )
    run = {key: value for key, value in values.items() if key != SOURCES}
    recipe = build(cls, run, source)
    listed = values.get(SOURCES)
    if not isinstance(listed, Mapping) or not listed:
        raise SettingsError(
            f'{source_prefix(source)}{SOURCES} is {shorten(repr(listed))}, expected recipes by '
            'name, such as "worlds: {kind: worlds, batch: 6, objective: [...]}"'
        )
    found = tuple(_build_source(recipe, name, one, source) for name, one in listed.items())
    total = sum(one.recipe.batch for one in found)
    return replace(recipe, sources=found, batch=total)  # type: ignore[call-arg]


def _build_source(run: Recipe, name: Any, values: Any, source: str) -> Source:
    where = f'{source_prefix(source)}{SOURCES}.{name}'
    if not isinstance(name, str) or not name.isidentifier() or not isinstance(values, Mapping):
        raise SettingsError(f'{where}: expected a name and the settings of a recipe')
    if strange := sorted(key for key in values if _is_of_the_run(key)):
        raise SettingsError(
            f'{where}.{strange[0]} is a setting of the whole run; give it beside {SOURCES}'
        )
    kind = values.get('kind', 'video')
    if kind not in ('video', 'worlds'):
        raise SettingsError(f'{where}.kind is {shorten(repr(kind))}, expected video or worlds')
    shared = {key: value for key, value in flatten(run).items() if _is_of_the_run(key)}
    shared['pixel_budget'] = run.pixel_budget
    own = {key: value for key, value in values.items() if key not in _SOURCE_SETTINGS}
    extra = {key: value for key, value in values.items() if key in _SOURCE_SETTINGS}
    settings = build(SourceSettings, extra, where)
    recipe = build_recipe(KINDS[kind], {**shared, **own}, where)
    return Source(name, settings.weight, settings.turns, recipe)


def _change_mixed(recipe: R, values: Mapping[str, Any], source: str) -> R:
    """A changed mixed recipe: `sources.NAME.SETTING=VALUE`, or `sources.NAME=off`."""
    assert isinstance(recipe, MixedRecipe)
    run = {key: value for key, value in flatten(recipe).items() if key != 'batch'}
    sources = {one.name: _dump_source(one) for one in recipe.sources}
    changes: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        first, _, rest = key.partition('.')
        name, _, setting_name = rest.partition('.')
        if first != SOURCES:
            run[key] = value
        elif name not in sources:
            raise SettingsError(
                f'{source_prefix(source)}{key}: the recipe has no source {shorten(name)!r}, only '
                f'{", ".join(sources)}'
            )
        elif setting_name:
            changes.setdefault(name, {})[setting_name] = value
        elif value is False:  # `off` in YAML
            changes.pop(name, None)
            del sources[name]
        else:
            raise SettingsError(
                f'{source_prefix(source)}{key}: expected {SOURCES}.NAME.SETTING=VALUE, or '
                f'{SOURCES}.NAME=off'
            )
    for name, wanted in changes.items():
        where = f'{source_prefix(source)}{SOURCES}.{name}'
        if strange := sorted(key for key in wanted if _is_of_the_run(key)):
            raise SettingsError(f'{where}.{strange[0]} is a setting of the whole run')
        extra = {key: wanted.pop(key) for key in _SOURCE_SETTINGS if key in wanted}
        old = next(one for one in recipe.sources if one.name == name)
        changed = change_recipe(old.recipe, wanted, where)
        sources[name] = {**sources[name], **_own_settings(changed), **extra}
    return _build_mixed(type(recipe), {**run, SOURCES: sources}, source)


def _dump_source(source: Source) -> dict[str, Any]:
    return {
        'weight': source.weight, 'turns': source.turns, **_own_settings(source.recipe),
    }  # fmt: skip


def _own_settings(recipe: Recipe) -> dict[str, Any]:
    return {key: one for key, one in dump_recipe(recipe).items() if not _is_of_the_run(key)}


def _is_of_the_run(key: str) -> bool:
    """Whether a source of a mixed run has a setting from the run."""
    return key not in _OF_A_SOURCE and key in {spec.name for spec in specs(Recipe)}


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
