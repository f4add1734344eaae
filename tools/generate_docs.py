"""Documents made from the code: the parameter files in config/ and the tables of docs/.

    python -m tools.generate_docs

rewrites those that differ; a test fails until somebody does. What a parameter means is said in its
settings class, what a diagnostic means in `diagnostics` and `finetune_node`, what a command
takes in its parser, and nowhere else. In a page a table lies between `<!-- NAME -->` and
`<!-- /NAME -->`; the text around it is written by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
import textwrap
from typing import Any

from psd_depth_ros.cli.main import make_parser
from psd_depth_ros.config import SettingSpec, specs
from psd_depth_ros.data.fields import PROVIDERS
from psd_depth_ros.external.options import NetworkOptions
from psd_depth_ros.objectives.base import TermSettings
from psd_depth_ros.objectives.registry import find_term, term_names
from psd_depth_ros.ros.depth_node.diagnostics import CAMERA_KEYS, ENGINE_KEYS
from psd_depth_ros.ros.depth_node.settings import DepthNodeSettings
from psd_depth_ros.ros.finetune_node import FinetuneNodeSettings, PROGRESS_KEYS
from psd_depth_ros.ros.recorder import RecorderSettings
from psd_depth_ros.ros.replay_node import ReplaySettings, STATUS_KEYS
from psd_depth_ros.sharing import card_table
from psd_depth_ros.synth import WorldSettings
from psd_depth_ros.training.recipe import KINDS, SourceSettings, VideoRecipe, WorldsRecipe
from tools.tables import replace_table

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 99
DEPTH_HEADER = """\
# Every parameter of depth_node with its default: copy this file, keep the lines you change.
#
#   ros2 launch psd_depth_ros depth.launch.py params_file:=mine.yaml
#   depth_node --ros-args --params-file mine.yaml -r image:=/camera/image_raw
#
# [read-only] is fixed once the node runs; every other one may be changed by `ros2 param set`.
# History, depth and reliability of any topic: qos_overrides./topic.publisher.depth: 5 and so on.
# Made from psd_depth_ros/ros/depth_node/settings.py by `python -m tools.generate_docs`.
/**:
  ros__parameters:
"""
FINETUNE_HEADER = """\
# Every parameter of finetune_node with its default: copy this file, keep the lines you change.
#
#   ros2 launch psd_depth_ros finetune.launch.py params_file:=mine.yaml
#   finetune_node --ros-args --params-file mine.yaml
#
# [read-only] is fixed once the node runs; the others may be changed by `ros2 param set` between
# two runs, deploy_to and deploy_timeout_s at any time.
# Made from psd_depth_ros/ros/finetune_node.py by `python -m tools.generate_docs`.
/**:
  ros__parameters:
"""


def parameters_yaml(cls: type[Any], header: str = DEPTH_HEADER) -> str:
    """Write a parameter file: every default below a comment of what it is."""
    lines: list[str] = []
    opened: tuple[str, ...] = ()
    for spec in specs(cls):
        *sections, name = spec.name.split('.')
        for depth, section in enumerate(sections):
            if opened[: depth + 1] != tuple(sections[: depth + 1]):
                lines += ['', f'{_indent(depth)}{section}:']
        lines += [''] if len(sections) < len(opened) else []
        opened = tuple(sections)
        indent = _indent(len(sections))
        mark = f'{indent}# '
        lines += textwrap.wrap(
            _comment(spec),
            WIDTH,
            initial_indent=mark,
            subsequent_indent=mark,
            break_on_hyphens=False,
        )
        lines.append(f'{indent}{name}: {yaml_value(spec.default)}')
    return header + '\n'.join(lines) + '\n'


def parameters_table(cls: type[Any], leave_out: frozenset[str] = frozenset()) -> str:
    """Write the parameters as a Markdown table."""
    rows = ['| parameter | default | range | meaning |', '|---|---|---|---|']
    for spec in specs(cls):
        if spec.name in leave_out:
            continue
        accepted = ', '.join(part for part in (spec.range_text, spec.unit) if part)
        fixed = ' *(read-only)*' if spec.read_only else ''
        cells = (f'`{spec.name}`', f'`{yaml_value(spec.default)}`', accepted, spec.description)
        rows.append('| ' + ' | '.join(cell.replace('|', r'\|') for cell in cells) + fixed + ' |')
    return '\n'.join(rows) + '\n'


def terms_table() -> str:
    """Write every term with what it is, where it is, and the settings of its own."""
    common = frozenset(spec.name for spec in specs(TermSettings))
    rows = ['| term | module | what it is | builds on | needs |', '|---|---|---|---|---|']
    tables = []
    for name in term_names():
        term = find_term(name)
        if not term.__module__.startswith('psd_depth_ros.'):  # of another package
            continue
        meaning = str(term.__doc__).splitlines()[0].replace('|', r'\|')
        module = term.__module__.rpartition('.')[2]
        known = sorted(one for one in term.needs if one in PROVIDERS and PROVIDERS[one].remedy)
        needs = [*known, *(f'{one} network' for one in sorted(term.teachers))]
        cells = (f'`{name}`', module, meaning, ', '.join(sorted(term.requires)), ', '.join(needs))
        rows.append(f'| {" | ".join(cells)} |')
        if {spec.name for spec in specs(term.Settings)} - common:
            tables.append(f'\n### {name}\n\n{parameters_table(term.Settings, common)}')
    return '\n'.join(rows) + '\n' + ''.join(tables)


def keys_table(keys: Mapping[str, str]) -> str:
    """Write diagnostic keys and what they mean as a Markdown table."""
    rows = [f'| `{key}` | {meaning} |' for key, meaning in keys.items()]
    return '\n'.join(['| key | meaning |', '|---|---|', *rows]) + '\n'


def yaml_value(value: Any) -> str:
    """Write a default the way rcl reads it: a float keeps its point, text its quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, tuple):
        return f'[{", ".join(yaml_value(one) for one in value)}]'
    return repr(value)


def commands_text() -> str:
    """Write what every command takes, one section each."""
    parts: list[str] = []
    for name, parser in command_parsers().items():
        parts += [f'## psd-depth {name}', '', str(parser.description), '', options_table(parser)]
    return '\n'.join(parts)


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of every command, by its name."""
    for action in make_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    raise LookupError('psd-depth has no commands')


def options_table(parser: argparse.ArgumentParser) -> str:
    """Write arguments and options of a command as a Markdown table."""
    rows = ['| argument | meaning |', '|---|---|']
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        names = ', '.join(action.option_strings)
        value = '' if action.nargs == 0 else _placeholder(action)
        meaning = (action.help or '') % {**vars(action), 'prog': parser.prog}
        cells = (f'`{f"{names} {value}".strip()}`', meaning)
        rows.append('| ' + ' | '.join(cell.replace('|', r'\|') for cell in cells) + ' |')
    return '\n'.join(rows) + '\n'


def tables() -> dict[str, dict[str, str]]:
    """Every generated table: the page, then the name of its place in that page."""
    return {
        'parameters.md': {
            'parameters of depth_node': parameters_table(DepthNodeSettings),
            'parameters of finetune_node': parameters_table(FinetuneNodeSettings),
            'parameters of replay_node': parameters_table(ReplaySettings),
            'parameters of recorder': parameters_table(RecorderSettings),
            'settings of rendered worlds': parameters_table(WorldSettings),
        },
        'diagnostics.md': {
            'diagnostics of the network': keys_table(ENGINE_KEYS),
            'diagnostics of a camera': keys_table(CAMERA_KEYS),
            'progress of finetune_node': keys_table(PROGRESS_KEYS),
            'status of replay_node': keys_table(STATUS_KEYS),
        },
        'networks.md': {'options of a network': parameters_table(NetworkOptions)},
        'commands.md': {'commands': commands_text()},
        'recipes.md': {
            'settings of a recipe': parameters_table(VideoRecipe),
            'settings for rendered worlds': parameters_table(WorldsRecipe, common_settings()),
            'settings of a source': parameters_table(SourceSettings),
            'settings of every term': parameters_table(TermSettings),
            'terms': terms_table(),
        },
    }


def common_settings() -> frozenset[str]:
    """Settings of a recipe for rendered worlds that are those of a recipe for recordings."""
    of_video = {spec.name: (spec.default, spec.range_text) for spec in specs(VideoRecipe)}
    return frozenset(
        spec.name
        for spec in specs(WorldsRecipe)
        if of_video.get(spec.name) == (spec.default, spec.range_text)
    )


def recipe_settings() -> set[str]:
    """Dotted names of every setting of a recipe."""
    of_terms = {
        f'objective.{name}.{spec.name}'
        for name in term_names()
        for spec in specs(find_term(name).Settings)
    }
    return of_terms | {spec.name for cls in KINDS.values() for spec in specs(cls)}


def documents() -> Iterable[tuple[Path, str]]:
    """Every document made from the code, with the text it must have."""
    yield ROOT / 'config' / 'depth_node.yaml', parameters_yaml(DepthNodeSettings)
    settings = parameters_yaml(FinetuneNodeSettings, FINETUNE_HEADER)
    yield ROOT / 'config' / 'finetune_node.yaml', settings
    for page, places in tables().items():
        path = ROOT / 'docs' / page
        text = path.read_text(encoding='utf-8')
        for name, table in places.items():
            text = replace_table(text, name, table)
        yield path, text
    cards = ROOT / 'weights' / 'README.md'
    text = cards.read_text(encoding='utf-8')
    for path in sorted(cards.parent.glob('*.safetensors')):
        table = card_table(path, unstated='Apache-2.0, like the package')
        text = replace_table(text, f'card of {path.stem}', table)
    yield cards, text


def main() -> int:
    """Rewrite the documents that differ; returns the exit code."""
    for path, text in documents():
        if not path.is_file() or path.read_text(encoding='utf-8') != text:
            path.write_text(text, encoding='utf-8')
    return 0


def _placeholder(action: argparse.Action) -> str:
    default = action.dest if not action.option_strings else action.dest.upper()
    name = action.metavar or ('|'.join(action.choices) if action.choices else default)
    if isinstance(name, tuple):
        name = ' '.join(name)
    return {'?': f'[{name}]', '+': f'{name} ...', '*': f'[{name} ...]'}.get(
        str(action.nargs), name
    )


def _indent(depth: int) -> str:
    return '    ' + '  ' * depth


def _comment(spec: SettingSpec) -> str:
    facts = [part for part in (spec.range_text, spec.unit) if part]
    facts += ['read-only'] if spec.read_only else []
    return spec.description + ''.join(f' [{fact}]' for fact in facts)


if __name__ == '__main__':
    raise SystemExit(main())
