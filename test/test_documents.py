"""README.md, docs/ and the files beside them say what the code says, and lead somewhere."""

import ast
import importlib
from itertools import pairwise
from pathlib import Path
import re

import pytest
import yaml

import psd_depth_ros
from psd_depth_ros.config import build, specs
from psd_depth_ros.objectives.base import Term
from psd_depth_ros.ros.depth_node.settings import DepthNodeSettings
from psd_depth_ros.ros.finetune_node import FinetuneNodeSettings

pytest.importorskip('rclpy', reason='nodes tell their parameters and diagnostics')
from psd_depth_ros.ros.recorder import RecorderSettings
from psd_depth_ros.ros.replay_node import ReplaySettings
from tools.generate_docs import (
    command_parsers,
    documents,
    parameters_table,
    parameters_yaml,
    recipe_settings,
    yaml_value,
)
from tools.tables import replace_table

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md')),
    ROOT / 'experiments' / 'LOG.md',
    ROOT / 'weights' / 'README.md',
    *sorted((ROOT / 'docs').glob('*.md')),
]
# The log and the changelog tell of names of their time.
PRESENT = [page for page in PAGES if page.name not in ('LOG.md', 'CHANGELOG.md')]
ENTRY_POINTS = ('psd_depth_ros.encoders', 'psd_depth_ros.terms')
NODE_SETTINGS = (DepthNodeSettings, FinetuneNodeSettings, ReplaySettings, RecorderSettings)
# Options of programs that are not ours, and files that a user has.
FOREIGN_OPTIONS = {
    '--break-system-packages', '--from-paths', '--help', '--nproc-per-node', '--params-file',
    '--ros-args', '--show-args', '--system-site-packages',
}  # fmt: skip
FOREIGN_NAMES = re.compile(
    r'header\.stamp|.*\.(py|md|ya?ml|txt|npz|csv|json|html|safetensors|mcap|onnx|tflite'
    r'|cpp|hpp|h|cuh|ts)'
)


def read(page: Path) -> str:
    return page.read_text(encoding='utf-8')


def fences(text: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: language and content."""
    return re.findall(r'^```(\w*)\n(.*?)^```', text, re.M | re.S)


def inline_code(text: str) -> list[str]:
    return re.findall(r'`([^`\n]+)`', re.sub(r'^```.*?^```', '', text, flags=re.M | re.S))


def anchors(text: str) -> set[str]:
    """The anchors of the headings of a page, as GitHub and MkDocs make them."""
    heads = re.findall(r'^#+ (.*)$', re.sub(r'^```.*?^```', '', text, flags=re.M | re.S), re.M)
    return {re.sub(r'\s+', '-', re.sub(r'[^\w\s-]', '', one).strip().lower()) for one in heads}


def setting_names() -> set[str]:
    """Dotted names of every setting a person can give."""
    names = {spec.name for cls in NODE_SETTINGS for spec in specs(cls)}
    return names | recipe_settings()


def is_setting(name: str, known: set[str]) -> bool:
    """Whether it names a setting, or with a star at its end a section of them."""
    if name.endswith('.*'):
        return any(one.startswith(name[:-1]) for one in known)
    return name in known or any(one.startswith(name + '.') for one in known)


# Made from the code.


def test_documents_are_up_to_date():
    for path, text in documents():
        assert read(path) == text, (
            f'{path.name}: run `python -m tools.generate_docs` and look at the change'
        )


def test_parameter_file_holds_every_default_in_its_type():
    parsed = yaml.safe_load(read(ROOT / 'config/depth_node.yaml'))
    assert build(DepthNodeSettings, parsed['/**']['ros__parameters']) == DepthNodeSettings()


@pytest.mark.parametrize('settings', NODE_SETTINGS)
def test_every_parameter_says_what_it_is(settings):
    for spec in specs(settings):
        assert len(spec.description) > 10, f'{spec.name}: {spec.description!r}'
        assert '`' + spec.name + '`' in parameters_table(settings)


def test_parameter_file_nests_sections_and_explains():
    text = parameters_yaml(DepthNodeSettings)
    assert re.search(
        r'\n    points:\n      # drop points nearer .* \[m\]\n      min_range_m: ', text
    )
    assert max(map(len, text.splitlines())) <= 99


@pytest.mark.parametrize(
    ('value', 'text'),
    [(True, 'true'), ('on', "'on'"), (5.0, '5.0'), (3, '3'), (('a', 'b'), "['a', 'b']")],
)
def test_values_are_written_the_way_rcl_reads_them(value, text):
    assert yaml_value(value) == text
    assert yaml.safe_load(text) == (list(value) if isinstance(value, tuple) else value)


def test_tables_go_between_their_marks():
    text = 'a\n<!-- t -->\nold\n<!-- /t -->\nb'
    assert replace_table(text, 't', '| new |\n') == 'a\n<!-- t -->\n| new |\n<!-- /t -->\nb'
    with pytest.raises(ValueError, match='<!-- other -->'):
        replace_table(text, 'other', '')


# Links and names.


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r'\]\((?!https?:)([^)#]*)#?([^)]*)\)', read(page)):
        path = page.parent / target if target else page
        assert path.exists(), f'{page.name} links to {target}, which is not there'
        if anchor:
            assert anchor in anchors(read(path)), f'{page.name}: no heading #{anchor} in {target}'


@pytest.mark.parametrize('page', PRESENT, ids=lambda page: page.name)
def test_files_named_in_the_pages_are_there(page):
    pattern = r'(?:psd_depth_ros|test|docs|config|launch|tools|benchmarks|experiments|weights)/'
    for name in inline_code(read(page)):
        if re.fullmatch(pattern + r'[\w./-]*', name) and '/my_' not in name:
            assert (ROOT / name).exists(), f'{page.name} names {name}, which is not there'


def test_every_attribute_of_a_term_is_explained_to_contributors():
    names = {name for name in vars(Term) if not name.startswith('_')} | {'name'}
    table = set(re.findall(r'`(\w+)`', read(ROOT / 'CONTRIBUTING.md')))
    assert not names - table


def test_the_tree_of_the_readme_is_that_of_the_architecture_test():
    tree = ast.parse(read(ROOT / 'test' / 'test_architecture.py'))
    assigned = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    floors = ast.literal_eval(assigned['FLOORS'])
    level = {room: index for index, floor in enumerate(floors) for room in floor}
    block = read(ROOT / 'README.md').split('\n```\ncli  ros ')[1].split('```')[0]
    lines = [re.split(r' {3,}', line)[0].split() for line in f'cli  ros {block}'.splitlines()]
    assert sorted(room for line in lines for room in line) == sorted(level)
    levels = [[level[room] for room in line] for line in lines]
    assert all(max(upper) < min(lower) for upper, lower in pairwise(levels))


def test_functions_named_beside_their_files_are_in_them():
    count = 0
    for page in PRESENT:
        for path, name in re.findall(r'`(psd_depth_ros/[\w/]+\.py)` \(`([\w.]+)`', read(page)):
            for part in name.split('.'):
                assert re.search(rf'(?:def|class) {part}\b', read(ROOT / path)), f'{path}: {name}'
                count += 1
    assert count >= 6


def test_the_site_has_every_page():
    listed = re.findall(r'[:-] ([\w/]+\.md)$', read(ROOT / 'mkdocs.yml'), re.M)
    hooks = read(ROOT / 'tools' / 'docs_hooks.py')
    built = set(re.findall(r"^    '(\w+\.md)': '", hooks, re.M))
    assert set(listed) == built | {page.name for page in (ROOT / 'docs').glob('*.md')}
    assert len(listed) == len(set(listed))


# Commands, options and settings.


def shell_lines(page: Path) -> list[str]:
    """Commands of fenced blocks and of inline code, without comments."""
    text = read(page)
    lines = [line for kind, block in fences(text) if not kind for line in block.splitlines()]
    return [line.split(' #')[0].strip() for line in [*lines, *inline_code(text)]]


@pytest.mark.parametrize('page', PRESENT, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page):
    parsers = command_parsers()
    known = setting_names()
    for line in shell_lines(page):
        found = re.match(r'(?:.*psd_depth_ros\.cli\.main|psd-depth) ([a-z-]+)\b(.*)', line)
        if found is None:
            continue
        name, rest = found.groups()
        assert name in parsers, f'{page.name}: no command {name!r} in {line!r}'
        options = set(parsers[name]._option_string_actions)
        given = set(re.findall(r'(?<!\S)(--?[a-zA-Z][\w-]*)', rest))
        assert given <= options, f'{page.name}: {sorted(given - options)} in {line!r}'
        for setting in re.findall(r'--set ([a-z][\w.]*)=', rest):
            assert is_setting(setting, known), f'{page.name}: no setting {setting!r}'


@pytest.mark.parametrize('page', PRESENT, ids=lambda page: page.name)
def test_options_named_in_the_text_exist(page):
    known = {
        option for parser in command_parsers().values() for option in parser._option_string_actions
    }
    for name in inline_code(read(page)):
        for option in re.findall(r'^--[a-z-]+', name):
            assert option in known | FOREIGN_OPTIONS, f'{page.name}: no option {option}'


@pytest.mark.parametrize('page', PRESENT, ids=lambda page: page.name)
def test_settings_named_in_the_text_exist(page):
    known = setting_names()
    for name in inline_code(read(page)):
        found = re.fullmatch(r'([a-z]\w*(?:\.\w+)+(?:\.\*)?|[a-z]\w*\.\*)(?:[=:] ?\S+)?', name)
        if found is None or FOREIGN_NAMES.fullmatch(found[1]) or 'psd_depth_ros' in name:
            continue
        if found[1].startswith(('dropped.', 'loss.', 'score.')):  # keys of diagnostics
            continue
        assert is_setting(found[1], known), f'{page.name}: no setting {found[1]!r}'


def test_the_table_of_recipes_has_each_one_once():
    page = read(ROOT / 'docs' / 'training.md')
    table = page[page.index('| recipe | what it trains |') :].split('\n\n')[0]
    cells = [line.split('|')[1] for line in table.splitlines()[2:]]
    named = sorted(name for cell in cells for name in re.findall(r'`(\w+)`', cell))
    assert named == sorted(path.stem for path in (ROOT / 'config' / 'recipes').glob('*.yaml'))


def test_make_targets_named_in_the_pages_exist():
    targets = set(re.findall(r'^([a-z-]+):', read(ROOT / 'Makefile'), re.M))
    for page in PRESENT:
        for line in shell_lines(page):
            found = re.match(r'make ([a-z][a-z-]*)\b', line)
            if found:
                assert found[1] in targets, f'{page.name}: make {found[1]}'


def test_arguments_of_launch_files_exist():
    for page in PRESENT:
        for line in shell_lines(page):
            found = re.match(r'ros2 launch psd_depth_ros (\w+\.launch\.py)(.*)', line)
            if found:
                text = read(ROOT / 'launch' / found[1])
                for name in re.findall(r'(\w+):=', found[2]):
                    assert f"'{name}'" in text, f'{page.name}: {found[1]} has no {name}'


# Messages.


def source_messages(docstrings: bool = True) -> list[str]:
    """Every text of the package, with … where values are put in."""
    found = []
    for path in (ROOT / 'psd_depth_ros').rglob('*.py'):
        tree = ast.parse(read(path))
        statements = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
        for node in ast.walk(tree):
            if not docstrings and node in statements:
                continue
            if isinstance(node, ast.JoinedStr):
                parts = [
                    one.value if isinstance(one, ast.Constant) else '…' for one in node.values
                ]
                found.append(''.join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_messages_of_the_troubleshooting_page_are_those_of_the_source():
    """Each `message` is part of a text; its … stands for whatever is put in."""
    everything = '\n'.join(one.replace('\n', ' ') for one in source_messages())
    text = read(ROOT / 'docs' / 'troubleshooting.md')
    tables = re.findall(r'^\| message \|.*?(?=\n\n|\Z)', text, re.M | re.S)
    messages = [m for table in tables for m in re.findall(r'^\| `([^`]+)`', table, re.M)]
    assert len(messages) > 40
    for message in messages:
        pattern = '[^\n]*'.join(map(re.escape, message.split('…')))
        assert re.search(pattern, everything), f'no message of the source says {message!r}'


def test_settings_that_messages_name_exist():
    known = setting_names()
    sections = 'data|scale|points|objective|acceptance|limits|worlds'
    pattern = rf'(?<![\w./`-])(?:{sections})\.[a-z]\w*(?:\.[a-z]\w*)*(?![\w/(])'
    for text in source_messages(docstrings=False):
        for name in re.findall(pattern, text):
            assert is_setting(name, known), f'{text!r} names {name}, which is no setting'


# Python.


def test_names_of_the_api_page_can_be_imported():
    names = re.findall(r'^::: ([\w.]+)$', read(ROOT / 'docs' / 'api.md'), re.M)
    assert len(names) > 15
    for name in names:
        module, _, attribute = name.rpartition('.')
        parent = importlib.import_module(module)
        assert hasattr(parent, attribute) or importlib.import_module(name), name


def test_names_of_the_package_in_the_text_can_be_imported():
    for page in PRESENT:
        for name in inline_code(read(page)):
            if re.fullmatch(r'psd_depth_ros(\.\w+)+', name) and name not in ENTRY_POINTS:
                module, _, attribute = name.rpartition('.')
                try:
                    importlib.import_module(name)
                except ImportError:
                    assert hasattr(importlib.import_module(module), attribute), name


def test_imports_of_python_examples_work():
    count = 0
    for page in PAGES:
        for kind, block in fences(read(page)):
            if kind != 'python':
                continue
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module.startswith('psd_depth_ros'):
                    module = importlib.import_module(node.module)
                    for alias in node.names:
                        assert hasattr(module, alias.name), f'{page.name}: {alias.name}'
                        count += 1
    assert count >= 4


def test_the_example_of_an_encoder_runs():
    import torch

    blocks = fences(read(ROOT / 'docs' / 'encoders_backends.md'))
    (example,) = [block for kind, block in blocks if 'class Plain' in block]
    names: dict = {}
    exec(example, names)  # noqa: S102 - our own page
    encoder = names['Plain']()
    maps = encoder(torch.zeros(1, 3, 64, 96))
    assert [one.shape[1:] for one in maps] == [
        (channels, 64 >> i, 96 >> i) for i, channels in enumerate(encoder.channels, start=1)
    ]


# The files beside them.


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load(read(ROOT / 'CITATION.cff'))
    assert citation['version'] == psd_depth_ros.__version__
    assert f'## {psd_depth_ros.__version__} ' in read(ROOT / 'CHANGELOG.md')


def test_hooks_before_a_commit_are_the_commands_of_make_lint():
    config = yaml.safe_load(read(ROOT / '.pre-commit-config.yaml'))
    hooks = {hook['entry'].split()[0] for hook in config['repos'][0]['hooks']}
    lint = re.search(r'^lint:.*?\n\n', read(ROOT / 'Makefile'), re.M | re.S).group()
    assert {f'.venv/bin/{one}' for one in re.findall(r'\$\(bin\)/(\w+)', lint)} == hooks
