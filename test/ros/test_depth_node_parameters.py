from collections.abc import Callable
import math
import re
from typing import Any

import pytest
from rcl_interfaces.srv import ListParameters
from rclpy.node import Node
from rclpy.parameter import Parameter

from psd_depth_ros.config import SettingSpec, specs
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.ros.depth_node.settings import DepthNodeSettings
from psd_depth_ros.ros.parameters import NodeParameters

Start = Callable[..., Any]
SPECS = {spec.name: spec for spec in specs(DepthNodeSettings)}


def bad_value(spec: SettingSpec) -> Any:
    """A value of the right type that is out of range, None where every value is accepted."""
    if spec.choices is not None:
        return 'no such choice'
    if spec.type not in (int, float):
        return None
    if spec.minimum is not None:
        return spec.type(spec.minimum - 1)
    return None if spec.maximum is None else spec.type(spec.maximum + 1)


def test_every_parameter_is_described_and_refuses_bad_values(running: Any) -> None:
    bench = running.bench
    listed = bench.call(ListParameters, '/depth_node/list_parameters', ListParameters.Request())
    assert set(SPECS) <= set(listed.result.names)
    for name, spec in SPECS.items():
        descriptor = bench.describe_parameter(name)
        assert spec.description in descriptor.description
        assert spec.unit in descriptor.description
        assert descriptor.read_only == spec.read_only
        value = bad_value(spec)
        if value is not None:
            accepted, reason = bench.set_parameter(name, value)
            assert not accepted, name
            assert spec.name in reason
    for name, value in (('points.max_range_m', math.nan), ('depth.encoding', 3)):
        assert not bench.set_parameter(name, value)[0]


def test_read_only_coupled_and_whole_numbers(running: Any) -> None:
    bench = running.bench
    accepted, reason = bench.set_parameter('device', 'cuda')
    assert not accepted
    assert 'read-only' in reason
    assert bench.set_parameter('points.rate_hz', 5) == (True, '')
    assert bench.get_parameter('points.rate_hz') == 5.0
    assert bench.set_parameter('points.rate_hz', 0) == (True, '')
    accepted, reason = bench.set_parameter('points.min_range_m', 70.0)
    assert not accepted
    assert 'max_range_m is 60' in reason
    accepted, reason = bench.set_parameter('scale.lidar_pose', [1.0, 2.0])
    assert not accepted
    assert 'lidar_pose has 2 numbers, expected 7' in reason


@pytest.mark.parametrize(
    ('given', 'text'),
    [
        ({'camera_info_timeout_s': 0.0}, 'camera_info_timeout_s'),
        ({'depth.encoding': 'float'}, '32FC1'),
        ({'points.rate_hz': 5}, 'write 5.0, not 5'),
        ({'point.rate_hz': 5.0}, "did you mean 'points.rate_hz'"),
        ({'scale.lidar_pose': [1.0, 2.0]}, 'lidar_pose has 2 numbers, expected 7'),
    ],
)
def test_bad_values_at_start_are_refused(bench: Any, given: dict[str, Any], text: str) -> None:
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    node = Node('strict', context=bench.context, parameter_overrides=overrides)
    with pytest.raises(SettingsError, match=re.escape(text)):
        NodeParameters(node, DepthNodeSettings, lambda *_: '', lambda *_: None)
    node.destroy_node()


def test_a_bad_value_at_start_ends_the_node_with_the_reason(depth_node_process: Start) -> None:
    node = depth_node_process(depth__encoding='float')
    assert node.wait() == 1, node.output
    assert '32FC1' in node.output
    assert 'Traceback' not in node.output


def test_a_budget_is_changed_while_active_and_an_untrained_size_is_told(
    bench: Any, depth_node: Start, tmp_path: Any
) -> None:
    broken = tmp_path / 'broken'
    broken.write_text('wall id=broken')
    node = depth_node()
    bench.spin_until(lambda: bench.value(': engine', 'pixel_budget') == '53248', 'the default')
    assert bench.value(': engine', 'untrained_size') == ''
    assert bench.set_parameter('pixel_budget', 106496) == (True, '')
    bench.spin_until(lambda: bench.value(': engine', 'pixel_budget') == '106496', 'the new size')
    assert 'states no size but 53248 px' in bench.value(': engine', 'untrained_size')
    bench.spin_until(lambda: 'pixel_budget is 106496' in node.output, 'the log, written after it')
    assert node.output.count('pixel_budget is 106496, and the checkpoint') == 1
    accepted, reason = bench.set_parameter('pixel_budget', 500)
    assert not accepted
    assert 'pixel_budget is 500, expected 1024 (32x32)' in reason
    assert bench.set_parameter('checkpoint', str(broken)) == (True, '')
    bench.spin_until(lambda: bench.get_parameter('checkpoint') == '', 'the parameter set back')
    assert bench.get_parameter('pixel_budget') == 106496
    assert bench.set_parameter('pixel_budget', 0) == (True, '')
    bench.spin_until(lambda: bench.value(': engine', 'pixel_budget') == '53248', 'the default')
