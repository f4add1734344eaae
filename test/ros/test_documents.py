"""README.md and the parameter files say what the code says."""

import re

import pytest
import yaml

from psd_depth_ros.config import build, specs
from psd_depth_ros.ros.documents import (
    documents,
    parameters_table,
    parameters_yaml,
    replace_table,
    ROOT,
    yaml_value,
)
from psd_depth_ros.ros.finetune_settings import FinetuneNodeSettings
from psd_depth_ros.ros.settings import DepthNodeSettings


@pytest.mark.parametrize('document', list(documents()), ids=lambda one: one[0].name)
def test_documents_are_up_to_date(document):
    path, text = document
    found = path.read_text(encoding='utf-8')
    assert found == text, 'run `python -m psd_depth_ros.ros.documents` and look at the change'


def test_parameter_file_holds_every_default_in_its_type():
    parsed = yaml.safe_load((ROOT / 'config/depth_node.yaml').read_text(encoding='utf-8'))
    assert build(DepthNodeSettings, parsed['/**']['ros__parameters']) == DepthNodeSettings()


@pytest.mark.parametrize('settings', [DepthNodeSettings, FinetuneNodeSettings])
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


def readme_topics(heading: str) -> dict[str, str]:
    """Names and types of the topics table whose first column is headed so."""
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    table = text.split(f'| {heading} | type | |\n|---|---|---|\n')[1].split('\n\n')[0]
    rows = [line.split('|')[1:3] for line in table.splitlines()]
    return {name.strip(' `'): kind.strip() for name, kind in rows}


def test_topics_of_the_readme_are_those_of_the_node(running):
    node = running.bench.node
    find = node.get_publisher_names_and_types_by_node
    own = {'/rosout', '/parameter_events', '/depth_node/transition_event'}
    published = {
        name: kinds[0].replace('/msg/', '/')
        for name, kinds in find('depth_node', '/')
        if name not in own
    }
    written = {f'/{name.lstrip("/")}': kind for name, kind in readme_topics('out').items()}
    assert published == written
    inputs = {f'/{name}': kind for name, kind in readme_topics('in').items()}
    heard = node.get_subscriber_names_and_types_by_node('depth_node', '/')
    cameras = {name: kinds[0].replace('/msg/', '/') for name, kinds in heard if name in inputs}
    assert set(cameras) == {'/image', '/camera_info'}
    assert cameras.items() <= inputs.items()


def test_the_reload_service_of_the_readme_is_there(running):
    services = dict(running.bench.node.get_service_names_and_types_by_node('depth_node', '/'))
    assert services['/depth_node/reload'] == ['std_srvs/srv/Trigger']
    assert '`~/reload` (std_srvs/Trigger)' in (ROOT / 'README.md').read_text(encoding='utf-8')
