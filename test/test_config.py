from dataclasses import dataclass

import pytest

from psd_depth_ros import config
from psd_depth_ros.config import section, setting
from psd_depth_ros.errors import SettingsError


@dataclass(frozen=True)
class Inner:
    mode: str = setting('fixed', 'how', choices=('fixed', 'odometry'))
    factor: float = setting(1.0, 'factor', 'm', minimum=0.1, maximum=10.0)


@dataclass(frozen=True)
class Outer:
    steps: int = setting(5, 'steps', minimum=1)
    names: tuple[str, ...] = setting(('a',), 'names')
    loud: bool = setting(False, 'loud', read_only=True)
    scale: Inner = section(Inner)


def test_specs_are_flat_and_dotted():
    assert [s.name for s in config.specs(Outer)] == [
        'steps', 'names', 'loud', 'scale.mode', 'scale.factor',
    ]  # fmt: skip
    factor = config.specs(Outer)[-1]
    assert (factor.unit, factor.range_text, factor.default) == ('m', '0.1 .. 10', 1.0)
    assert config.specs(Outer)[2].read_only


def test_nested_and_dotted_keys_mean_the_same():
    nested = config.build(Outer, {'steps': 7, 'scale': {'mode': 'odometry', 'factor': 2}})
    dotted = config.build(Outer, {'steps': 7, 'scale.mode': 'odometry', 'scale.factor': 2.0})
    assert nested == dotted
    assert isinstance(nested.scale.factor, float)


def test_dump_and_build_are_inverse():
    settings = config.build(Outer, {'names': ['x', 'y'], 'scale.factor': 3.0})
    assert config.dump(settings)['names'] == ['x', 'y']
    assert config.build(Outer, config.dump(settings)) == settings
    assert config.build(Outer, config.flatten(settings)) == settings


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ({'stepz': 3}, "run.yaml: unknown setting 'stepz'; did you mean 'steps'"),
        ({'scale': {'factr': 3.0}}, "did you mean 'scale.factor'"),
        ({'steps': 0}, 'run.yaml: steps is 0, expected 1 .. inf'),
        ({'steps': 2.5}, r'steps is 2.5 \(float\), expected int'),
        ({'steps': True}, r'steps is True \(bool\), expected int'),
        ({'scale.factor': 11.0}, 'scale.factor is 11.0, expected 0.1 .. 10 m'),
        ({'scale.factor': float('nan')}, 'scale.factor is nan'),
        ({'scale.mode': 'odometrie'}, "expected one of fixed, odometry; did you mean 'odometry'"),
        ({'names': 'a'}, 'expected a list of str'),
        ({'names': [1]}, r'names is 1 \(int\), expected str'),
    ],
)
def test_bad_values_are_refused_with_a_reason(values, message):
    with pytest.raises(SettingsError, match=message):
        config.build(Outer, values, 'run.yaml')


def test_an_instance_made_by_hand_can_be_checked():
    config.validate(Outer(steps=4))
    with pytest.raises(SettingsError, match='steps is -4'):
        config.validate(Outer(steps=-4))


def test_changes_are_written_as_texts():
    texts = ['steps=7', 'scale.factor=2e-1', 'names=[a, b]']
    changed = config.build(Outer, config.parse_changes(texts, '--set'))
    assert (changed.steps, changed.scale.factor, changed.names) == (7, 0.2, ('a', 'b'))
    with pytest.raises(SettingsError, match='--set steps: expected NAME=VALUE'):
        config.parse_changes(['steps'], '--set')
