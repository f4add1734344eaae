"""`~/calibrate_scale` over DDS: a wall that the network sees 5 m away is told to be farther."""

from collections.abc import Callable
from pathlib import Path
import re
from typing import Any

import numpy as np
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image
import yaml

from psd_depth_ros.messages import decode_depth
from psd_depth_ros.ros.depth_node import calibrate_scale

Start = Callable[..., Any]
SERVICE = '/depth_node/calibrate_scale'


def calibrate(
    bench: Any, cameras: list[Any], **samples: list[float]
) -> dict[str, tuple[bool, str]]:
    """Call the service while cameras publish; the verdict on each sample."""
    kind = ParameterType.PARAMETER_DOUBLE_ARRAY
    parameters = [
        Parameter(name=name, value=ParameterValue(type=kind, double_array_value=numbers))
        for name, numbers in samples.items()
    ]
    return ask(bench, cameras, parameters)


def ask(bench: Any, cameras: list[Any], parameters: list[Any]) -> dict[str, tuple[bool, str]]:
    def send() -> None:
        for camera in cameras:
            camera.send()

    timer = bench.node.create_timer(0.05, send)
    request = SetParameters.Request(parameters=parameters)
    results = bench.call(SetParameters, SERVICE, request).results
    bench.node.destroy_timer(timer)
    return {
        parameter.name: (one.successful, one.reason)
        for parameter, one in zip(parameters, results, strict=True)
    }


def test_three_samples_make_depth_metric_now_and_at_the_next_start(
    bench: Any, depth_node_process: Start, tmp_path: Path
) -> None:
    file = tmp_path / 'robot' / 'scale.yaml'
    arguments = {'scale__calibration': str(file)}
    node = depth_node_process(**arguments)
    camera = bench.camera()
    camera.wait_for_reader()
    verdicts = calibrate(  # nobody subscribes to depth
        bench,
        [camera],
        wall=[32.0, 24.0, 8.0],
        box=[4.0, 4.0, 30.0, 40.0, 8.04],
        tape=[60.0, 40.0, 7.96],
        feet=[10.0, 10.0, 26.2],
        outside=[64.0, 10.0, 8.0],
        few=[1.0, 2.0],
    )
    for name, residual in (('wall', '+0.0 %'), ('box', '-0.5 %'), ('tape', '+0.5 %')):
        assert verdicts[name][0]
        assert verdicts[name][1].startswith(f'residual {residual}, 3 samples agree; factor 1.6,')
        assert verdicts[name][1].endswith(f'in use, saved to {file}')
    assert not verdicts['feet'][0]
    assert verdicts['feet'][1].startswith('residual -69.5 % against the 3 that agree: left out')
    assert verdicts['outside'] == (False, '(64, 10) is outside of the depth image of 64x48 px')
    assert not verdicts['few'][0]
    assert 'expected u v METRES' in verdicts['few'][1]

    depths = bench.listen(Image, '/depth/image_rect')

    def is_metric() -> bool:
        depth = [] if not depths else decode_depth(depths[-1])
        return len(depth) > 0 and bool(np.all(abs(depth / 8.0 - 1.0) < 0.01))

    camera.send_until(is_metric, 'metres within 1 %')
    assert node.stop() == 0
    depths.clear()
    bench.diagnostics.clear()

    depth_node_process(**arguments)
    camera.wait_for_reader()
    camera.send_until(lambda: bench.value(': camera', 'scale'), 'diagnostics')
    assert is_metric()
    assert bench.value(': camera', 'scale') == '1.6'
    words = 'fixed; calibrated 20'
    source = bench.value(': camera', 'scale_source')
    assert source.startswith(words)
    assert source.endswith(f'with 3 samples, {file}')
    assert float(bench.value(': camera', 'scale_variance')) == pytest.approx(0.0189, rel=0.02)


def test_a_network_that_is_not_metric_is_calibrated_in_mode_relative(
    bench: Any, depth_node: Start, tmp_path: Path
) -> None:
    weights = tmp_path / 'wall.txt'
    weights.write_text('wall id=first metric=no depth=0.1')
    given = {'checkpoint': str(weights), 'scale__calibration': str(tmp_path / 'scale.yaml')}
    node = depth_node(**given)
    bench.spin_until(lambda: 'is not metric and scale.mode is fixed' in node.output, 'a refusal')
    assert 'calibrate it with ~/calibrate_scale, in mode relative' in node.output
    assert 'scale.yaml has no calibration of camera' in node.output
    one = {'wall': [32.0, 24.0, 2.0]}
    verdict = calibrate(bench, [], **one)['wall']
    assert verdict == (
        False,
        'the node is not active; activate it, in scale.mode relative if need be',
    )
    assert bench.set_parameter('scale.mode', 'relative') == (True, '')
    assert bench.change_state('activate')
    camera = bench.camera()
    camera.wait_for_reader()
    successful, reason = calibrate(bench, [camera], **one)['wall']
    assert successful
    assert reason.startswith('residual +0.0 %, unchecked: 2 samples would check each other; ')
    assert 'factor 20, uncertain by 17.0 %, not in use in scale.mode relative' in reason
    assert bench.change_state('deactivate')
    assert bench.set_parameter('scale.mode', 'fixed') == (True, '')
    assert bench.change_state('activate')
    depths = bench.listen(Image, '/depth/image_rect')
    camera.wait_for_reader()
    camera.send_until(lambda: depths, 'depth')
    np.testing.assert_allclose(decode_depth(depths[-1]), 2.0, rtol=1e-5)
    # Of other weights it would be wrong: they are refused while this is all that makes metres.
    other = tmp_path / 'other.txt'
    other.write_text('wall id=second metric=no')
    assert bench.set_parameter('checkpoint', str(other)) == (True, '')
    words = 'of camera in .*scale.yaml is of checkpoint first, this is second: it is not used'
    bench.spin_until(lambda: re.search(words, node.output), 'a refusal of the other weights')


def test_a_factor_goes_before_a_calibration_and_a_bad_file_is_refused(
    bench: Any, depth_node: Start, tmp_path: Path
) -> None:
    file = tmp_path / 'scale.yaml'
    depth_node(scale__factor=3.0, scale__calibration=str(file))
    camera = bench.camera()
    camera.wait_for_reader()
    reason = calibrate(bench, [camera], wall=[1.0, 1.0, 10.0])['wall'][1]
    assert 'factor 2, ' in reason
    assert 'not in use, for scale.factor goes before it: set that to 0' in reason
    bench.listen(Image, '/depth/image_rect')

    def scale_is(text: str) -> Callable[[], bool]:
        return lambda: bool(bench.value(': camera', 'scale') == text)

    camera.send_until(scale_is('3'), 'the factor')
    assert bench.set_parameter('scale.factor', 0.0) == (True, '')
    camera.send_until(scale_is('2'), 'the calibration')
    # The lens has another focal length since: said, and still used.
    camera.send_until(
        lambda: 'metres may be +20% off' in bench.value(': camera', 'problem'),
        'a doubt',
        info=camera.info(focal_px=60.0),
    )
    assert bench.level(': camera') == 1
    bad = tmp_path / 'bad.yaml'
    bad.write_text('cameras: {camera: {checkpoint: wall, factor: much}}')
    successful, reason = bench.set_parameter('scale.calibration', str(bad))
    assert not successful
    assert "bad.yaml: cameras.camera: factor is 'much' (str), expected float" in reason


def test_each_camera_has_its_own_calibration(
    bench: Any, depth_node: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('ROS_HOME', str(tmp_path))  # the node has no other file
    monkeypatch.setattr(calibrate_scale, 'PATIENCE_S', 1.0)
    node = depth_node(cameras=['front', 'rear'], batch_wait_s=0.0)
    cameras = [bench.camera(f'/{name}') for name in ('front', 'rear')]
    for camera in cameras:
        camera.wait_for_reader()
    request = {
        'wall': [1.0, 1.0, 5.0],
        'top/wall': [1.0, 1.0, 5.0],
        'front/wall': [1.0, 1.0, 5.0],
        'rear/wall': [1.0, 1.0, 10.0],
    }
    verdicts = calibrate(bench, cameras, **request)
    for name in ('wall', 'top/wall'):
        assert verdicts[name] == (
            False,
            f'sample {name!r} names no camera; write CAMERA/NAME, with a camera of front, rear',
        )
    own = f'saved to {tmp_path}/psd_depth_ros/scale/depth_node.yaml'
    for name, factor in (('front', 'factor 1,'), ('rear', 'factor 2,')):
        successful, reason = verdicts[f'{name}/wall']
        assert successful
        assert factor in reason
        assert reason.endswith(own)
    # Without images there is nothing to read.
    successful, reason = calibrate(bench, [], **{'rear/wall': [1.0, 1.0, 5.0]})['rear/wall']
    assert not successful
    assert 'no depth of rear came in 1 s: are images published on /rear/image' in reason
    assert node.is_running


def test_the_documented_call_is_understood(bench: Any, depth_node: Start) -> None:
    text = (Path(__file__).parents[2] / 'docs' / 'scale.md').read_text(encoding='utf-8')
    found = re.search(rf'^ros2 service call {SERVICE} rcl_interfaces/srv/\w+ "(.*)"$', text, re.M)
    assert found is not None
    given = yaml.safe_load(found[1])['parameters']
    parameters = [
        Parameter(name=one['name'], value=ParameterValue(**one['value'])) for one in given
    ]
    depth_node()
    camera = bench.camera(size=(640, 480))
    camera.wait_for_reader()
    verdicts = ask(bench, [camera], parameters)
    # Its wall and its door cannot be equally far, as all is for this network.
    assert list(verdicts) == ['wall', 'door']
    for successful, reason in verdicts.values():
        assert not successful
        words = 'the samples contradict each other: they give factors from 0.4 to 0.69, expected'
        assert f'nothing was changed: {words}' in reason
