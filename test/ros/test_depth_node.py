from collections.abc import Callable
import signal
from typing import Any

from geometry_msgs.msg import PointStamped
import numpy as np
import pytest
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from psd_depth_ros.ros.depth_node import outputs
from psd_depth_ros.ros.depth_node.outputs import Output

Start = Callable[..., Any]


def stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


def points_of(cloud: Any) -> Any:
    return np.frombuffer(cloud.data, np.float32).reshape(-1, cloud.point_step // 4)


def test_outputs_keep_the_contract(running: Any) -> None:
    bench, camera = running.bench, running.camera
    infos = bench.listen(CameraInfo, '/depth/camera_info')
    confidences = bench.listen(Image, '/depth/confidence')
    colours = bench.listen(Image, '/depth/colored')
    clouds = bench.listen(PointCloud2, '/points')
    everything = 'depth, camera_info, confidence, coloured, points'
    bench.spin_until(lambda: bench.value(': camera', 'subscribed') == everything, 'matching')
    sent_ns = camera.send()
    outputs = (running.depths, infos, confidences, colours, clouds)
    bench.spin_until(lambda: all(outputs), 'every output')
    for (message,) in outputs:
        assert stamp_ns(message) == sent_ns
        assert message.header.frame_id == 'camera_optical'
        assert (message.width * message.height) == 64 * 48
    (depth,), (info,), (cloud,) = running.depths, infos, clouds
    assert depth.encoding == '32FC1'
    assert np.allclose(np.frombuffer(depth.data, np.float32), 5.0)
    assert np.allclose(np.frombuffer(confidences[0].data, np.float32), 1.0)
    assert colours[0].encoding == 'rgb8'
    assert list(info.k) == list(info.p[[0, 1, 2, 4, 5, 6, 8, 9, 10]])
    assert not any(info.d)
    assert list(info.r) == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert np.allclose(points_of(cloud)[:, 2], 5.0)
    assert np.isclose(points_of(cloud)[0, 0], 5.0 * (0 - 31.5) / 50.0)


def test_parameters_take_effect_on_the_next_frame(running: Any) -> None:
    bench, camera = running.bench, running.camera
    clouds = bench.listen(PointCloud2, '/points')
    changes = {
        'depth.encoding': '16UC1',
        'points.decimation': 2,
        'points.organised': True,
        'points.confidence': True,
        'points.rate_hz': 2.0,
    }
    defaults = {name: bench.get_parameter(name) for name in changes}
    for name, value in changes.items():
        assert bench.set_parameter(name, value) == (True, '')
    camera.send_until(lambda: clouds, 'a cloud')
    for _ in range(20):  # two seconds of stamps
        camera.send()
        bench.spin_for(0.02)
    for name, value in defaults.items():
        assert bench.set_parameter(name, value) == (True, '')
    assert running.depths[-1].encoding == '16UC1'
    assert set(np.frombuffer(running.depths[-1].data, np.uint16)) == {5000}
    assert (clouds[0].width, clouds[0].height, clouds[0].is_dense) == (32, 24, False)
    assert [field.name for field in clouds[0].fields] == ['x', 'y', 'z', 'rgb', 'confidence']
    times = [stamp_ns(one) for one in clouds]
    assert min(np.diff(times), default=10**9) >= 450_000_000


def test_free_space_can_be_cleared(running: Any) -> None:
    bench, camera = running.bench, running.camera
    clouds = bench.listen(PointCloud2, '/points_clearing')
    sky = running.folder / 'sky'
    sky.write_text('wall id=sky depth=inf')
    assert bench.set_parameter('points.clearing', True) == (True, '')
    assert bench.set_parameter('checkpoint', str(sky)) == (True, '')
    camera.send_until(lambda: clouds, 'a clearing cloud')
    assert bench.set_parameter('points.clearing', False) == (True, '')
    assert bench.set_parameter('checkpoint', '') == (True, '')
    bench.spin_until(lambda: bench.value(': engine', 'checkpoint') == 'wall wall', 'the old one')
    assert np.allclose(points_of(clouds[0])[:, 2], 60.0)


def test_without_subscribers_nothing_is_inferred_and_diagnostics_go_on(running: Any) -> None:
    bench, camera = running.bench, running.camera
    for subscription in list(bench.node.subscriptions):
        if subscription.topic_name == '/depth/image_rect':
            bench.node.destroy_subscription(subscription)
    bench.spin_until(lambda: bench.value(': camera', 'topic'), 'diagnostics')
    bench.spin_until(lambda: not bench.value(': camera', 'subscribed'), 'nobody to listen')
    camera.send_until(
        lambda: int(bench.value(': camera', 'unwanted') or 0) > 3,
        'frames counted as unwanted',
    )
    assert bench.value(': camera', 'processed') == '0'
    assert bench.value(': camera', 'dropped') == '0'
    assert 'batch of 1' not in running.node.output
    assert bench.value(': camera', 'calibration') == 'calibrated'
    assert float(bench.value(': camera', 'input_rate_hz')) > 1
    assert bench.value(': engine', 'checkpoint') == 'wall wall'
    depths = bench.listen(Image, '/depth/image_rect')
    camera.send_until(lambda: depths, 'depth once somebody listens')


def test_flooded_it_works_on_the_newest_frame_and_counts_the_rest(running: Any) -> None:
    bench, camera, depths = running.bench, running.camera, running.depths
    slow = running.folder / 'slow'
    slow.write_text('wall id=slow ms=200')
    assert bench.set_parameter('checkpoint', str(slow)) == (True, '')
    bench.spin_until(lambda: bench.value(': engine', 'checkpoint') == 'wall slow', 'slowness')
    camera.send_until(lambda: depths, 'a first frame')
    lags = []
    for _ in range(40):
        sent_ns = camera.send()
        bench.spin_for(0.05)
        lags.append((sent_ns - stamp_ns(depths[-1])) // 100_000_000)
    # One inference is four frames long: the newest result is never older than three of them.
    assert np.median(lags) <= 12
    counts = ('received', 'processed', 'dropped')

    def all_accounted() -> bool:
        values = [int(bench.value(': camera', key) or 0) for key in counts]
        return values[0] == values[1] + values[2]

    camera.send_until(lambda: int(bench.value(': camera', 'received')) > 40, 'forty images')
    bench.spin_until(all_accounted, 'received = processed + dropped')
    assert int(bench.value(': camera', 'dropped.newer_frame')) >= 15
    assert bench.set_parameter('checkpoint', '') == (True, '')
    bench.spin_until(lambda: bench.value(': engine', 'checkpoint') == 'wall wall', 'the old one')


def test_a_new_output_topic_is_one_entry_of_the_table(
    bench: Any, depth_node: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nearest(header: Any, frame: Any, settings: Any) -> PointStamped:
        message = PointStamped(header=header)
        message.point.z = float(min(frame.depth_m.min(), settings.depth.max_depth_m))
        return message

    entry = Output('nearest', 'depth/nearest', PointStamped, nearest, needs_calibration=True)
    monkeypatch.setattr(outputs, 'OUTPUTS', (*outputs.OUTPUTS, entry))
    depth_node()
    points = bench.listen(PointStamped, '/depth/nearest')
    camera = bench.camera()
    camera.wait_for_reader()
    camera.send_until(lambda: points, 'the nearest point')
    assert points[0].point.z == 5.0
    assert points[0].header.frame_id == 'camera_optical'
    bench.spin_until(lambda: bench.value(': camera', 'subscribed') == 'nearest', 'its name')


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_in_mid_inference_end_it_cleanly(
    bench: Any, depth_node_process: Start, tmp_path: Any, number: int
) -> None:
    slow = tmp_path / 'slow'
    slow.write_text('wall ms=700')
    bench.listen(Image, '/depth/image_rect')
    node = depth_node_process(checkpoint=str(slow))
    camera = bench.camera()
    camera.wait_for_reader()
    camera.send_until(lambda: 'batch of 1' in node.output, 'an inference at work')
    node.signal(number)
    assert node.wait() == 0, node.output
    assert 'Traceback' not in node.output
    assert '[ERROR]' not in node.output
    assert 'engine closed' in node.output


def test_several_cameras_share_one_batch(bench: Any, depth_node: Start) -> None:
    front = bench.listen(Image, '/front/depth/image_rect')
    rear = bench.listen(Image, '/rear/depth/image_rect')
    node = depth_node(cameras=['front', 'rear'], batch_wait_s=1.0)
    cameras = [bench.camera('/front'), bench.camera('/rear', size=(32, 24))]
    for camera in cameras:
        camera.wait_for_reader()
    for name in (': front', ': rear'):
        bench.spin_until(lambda n=name: bench.value(n, 'subscribed') == 'depth', f'match{name}')
    for camera in cameras:
        camera.send()
    bench.spin_until(lambda: front and rear, 'both depths')
    assert 'batch of 2' in node.output
    assert (front[0].width, rear[0].width) == (64, 32)


def test_a_jump_back_in_time_starts_anew(bench: Any, depth_node: Start) -> None:
    depths = bench.listen(Image, '/depth/image_rect')
    node = depth_node(use_sim_time=True)
    clock = bench.node.create_publisher(Clock, '/clock', 10)
    camera = bench.camera()
    camera.wait_for_reader()

    def tell(seconds: int) -> Callable[[], bool]:
        def step() -> bool:
            message = Clock()
            message.clock.sec = seconds
            clock.publish(message)
            camera.send()
            return bool(depths)

        return step

    bench.spin_until(tell(100), 'depth in simulated time')
    depths.clear()
    camera.stamp_ns = 1_000_000_000
    bench.spin_until(tell(10), 'depth after the jump')
    bench.spin_until(lambda: 'time jumped by -90.000 s' in node.output, 'the jump to be said')
