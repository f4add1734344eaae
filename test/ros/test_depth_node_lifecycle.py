from collections.abc import Callable
from typing import Any

from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

Start = Callable[..., Any]


def test_transitions_subscribe_unsubscribe_and_release(bench: Any, depth_node: Start) -> None:
    node = depth_node(autostart=False)
    bench.wait_for_state('unconfigured')
    assert bench.change_state('configure')
    assert not bench.node.get_subscriptions_info_by_topic('/image')
    assert bench.change_state('activate')
    depths = bench.listen(Image, '/depth/image_rect')
    camera = bench.camera()
    camera.wait_for_reader()
    camera.send_until(lambda: depths, 'depth')
    assert bench.change_state('deactivate')
    bench.spin_until(
        lambda: not bench.node.get_subscriptions_info_by_topic('/image'), 'it to unsubscribe'
    )
    assert bench.change_state('activate')
    depths.clear()
    camera.wait_for_reader()
    camera.send_until(lambda: depths, 'depth once more')
    assert bench.change_state('deactivate')
    assert bench.change_state('cleanup')
    assert 'engine closed' in node.output
    assert bench.change_state('configure')
    assert bench.change_state('shutdown')
    bench.wait_for_state('finalized')


def test_bad_checkpoints_fail_configure_and_the_node_survives(
    bench: Any, depth_node: Start, tmp_path: Any
) -> None:
    node = depth_node(autostart=False, checkpoint=str(tmp_path / 'missing.safetensors'))
    bench.wait_for_state('unconfigured')
    assert not bench.change_state('configure')
    assert bench.state() == 'unconfigured'
    assert 'missing.safetensors: no such checkpoint file' in node.output
    bench.spin_until(
        lambda: 'no such checkpoint file' in str(getattr(bench.status(': engine'), 'message', '')),
        'diagnostics to say so',
    )
    assert bench.level(': engine') == 2
    assert bench.set_parameter('checkpoint', '')[0]
    assert bench.change_state('configure')


def test_a_first_network_that_takes_its_time_is_said_to_be_loading(
    bench: Any, depth_node: Start, tmp_path: Any
) -> None:
    path = tmp_path / 'slow'
    path.write_text('wall id=slow load_ms=4000')
    node = depth_node(checkpoint=str(path), diagnostics_period_s=0.2)
    bench.spin_until(lambda: bench.value(': engine', 'state') == 'configuring', 'diagnostics')
    assert bench.status(': engine').message == f'loading {path}'
    assert bench.value(': engine', 'loading') == 'True'
    assert bench.value(': engine', 'checkpoint_path') == str(path)
    assert f'loading {path}' in node.output
    bench.spin_until(lambda: bench.value(': engine', 'state') == 'active', 'it to be loaded')
    assert bench.value(': engine', 'loading') == 'False'


def test_depth_that_is_not_metric_is_not_published_as_metres(
    bench: Any, depth_node: Start, tmp_path: Any
) -> None:
    path = tmp_path / 'relative'
    path.write_text('wall metric=no')
    node = depth_node(checkpoint=str(path))
    bench.wait_for_state('inactive')
    bench.spin_until(lambda: 'scale.mode' in node.output, 'the reason')
    assert bench.set_parameter('scale.mode', 'relative') == (True, '')
    assert bench.change_state('activate')
    depths = bench.listen(Image, '/depth_relative/image_rect')
    camera = bench.camera()
    camera.wait_for_reader()
    camera.send_until(lambda: depths, 'relative depth')
    assert not bench.node.get_publishers_info_by_topic('/depth/image_rect')
    accepted, reason = bench.set_parameter('scale.mode', 'fixed')
    assert not accepted
    assert 'deactivate' in reason


def test_hot_reload_swaps_between_frames_or_keeps_the_old_network(
    bench: Any, depth_node: Start, tmp_path: Any
) -> None:
    near, broken, relative = (tmp_path / name for name in ('near', 'broken', 'relative'))
    near.write_text('wall id=near depth=2 load_ms=500')
    broken.write_text('wall id=broken')
    relative.write_text('wall id=relative metric=no')
    depths = bench.listen(Image, '/depth/image_rect')
    node = depth_node()
    camera = bench.camera()
    camera.wait_for_reader()
    camera.send_until(lambda: depths, 'depth')

    def distance() -> float:
        return float(memoryview(depths[-1].data).cast('f')[0])

    accepted, reason = bench.set_parameter('checkpoint', str(tmp_path / 'missing'))
    assert not accepted
    assert 'no such checkpoint file' in reason
    assert bench.set_parameter('checkpoint', str(near)) == (True, '')
    count = len(depths)
    camera.send_until(lambda: len(depths) > count + 2, 'depth while loading')
    assert distance() == 5.0
    camera.send_until(lambda: distance() == 2.0, 'depth of the new network')
    for path, text in ((broken, 'head.weight'), (relative, 'scale.mode')):
        assert bench.set_parameter('checkpoint', str(path)) == (True, '')
        bench.spin_until(lambda t=text: t in node.output, 'the reason of the failure')
        bench.spin_until(
            lambda: bench.get_parameter('checkpoint') == str(near), 'the parameter to be set back'
        )
    count = len(depths)
    camera.send_until(lambda: len(depths) > count + 1, 'depth still')
    assert distance() == 2.0
    near.write_text('wall id=nearer depth=1')
    answer = bench.call(Trigger, '/depth_node/reload', Trigger.Request())
    assert answer.success
    assert 'nearer' in answer.message
    near.write_text('wall id=broken')
    answer = bench.call(Trigger, '/depth_node/reload', Trigger.Request())
    assert not answer.success
    assert 'head.weight' in answer.message
    camera.send_until(lambda: distance() == 1.0, 'depth of the last good network')
