from collections.abc import Callable
import math
from typing import Any

from rcl_interfaces.srv import ListParameters

from psd_depth_ros.config import SettingSpec, specs
from psd_depth_ros.ros.settings import DepthNodeSettings

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


def test_every_parameter_is_described_and_refuses_bad_values(
    bench: Any, depth_node: Start
) -> None:
    depth_node(autostart=False)
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
    accepted, reason = bench.set_parameter('points.max_range_m', math.nan)
    assert not accepted
    accepted, reason = bench.set_parameter('depth.encoding', 3)
    assert not accepted


def test_read_only_wrong_and_whole_numbers(bench: Any, depth_node: Start) -> None:
    depth_node(autostart=False)
    accepted, reason = bench.set_parameter('device', 'cuda')
    assert not accepted
    assert 'read-only' in reason
    assert bench.set_parameter('points.rate_hz', 5) == (True, '')
    assert bench.get_parameter('points.rate_hz') == 5.0
    accepted, reason = bench.set_parameter('points.min_range_m', 70.0)
    assert not accepted
    assert 'max_range_m is 60' in reason


def test_bad_values_at_start_end_it_with_the_reason(depth_node: Start) -> None:
    wrong = [
        depth_node(camera_info_timeout_s=0.0),
        depth_node(depth__encoding='float'),
        depth_node('-p', 'points.rate_hz:=5'),
        depth_node(point__rate_hz=5.0),
    ]
    texts = ['camera_info_timeout_s', '32FC1', 'write 5.0, not 5', "did you mean 'points.rate_hz'"]
    for node, text in zip(wrong, texts, strict=True):
        assert node.wait() == 1, node.output
        assert text in node.output
        assert 'Traceback' not in node.output
