"""README.md and config/depth_node.yaml say what the code says."""

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
from psd_depth_ros.ros.settings import DepthNodeSettings


@pytest.mark.parametrize('document', list(documents()), ids=lambda one: one[0].name)
def test_documents_are_up_to_date(document):
    path, text = document
    found = path.read_text(encoding='utf-8')
    assert found == text, 'run `python -m psd_depth_ros.ros.documents` and look at the change'


def test_parameter_file_holds_every_default_in_its_type():
    parsed = yaml.safe_load((ROOT / 'config/depth_node.yaml').read_text(encoding='utf-8'))
    assert build(DepthNodeSettings, parsed['/**']['ros__parameters']) == DepthNodeSettings()


def test_every_parameter_says_what_it_is():
    for spec in specs(DepthNodeSettings):
        assert len(spec.description) > 10, f'{spec.name}: {spec.description!r}'
        assert '`' + spec.name + '`' in parameters_table(DepthNodeSettings)


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
