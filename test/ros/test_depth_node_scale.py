"""Odometry, lidar and TF over DDS: however late they are, the same scale as offline."""

from collections.abc import Callable
import importlib.util
import os
from pathlib import Path
import subprocess
import threading
from types import SimpleNamespace
from typing import Any, ClassVar

from nav_msgs.msg import Odometry
import numpy as np
from pack_clouds import pack_cloud
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from robot_bag import pose_numbers, Robot, T_BASE_LIDAR, Wall, write_robot_bag
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from tf2_class import build_tf2_msgs

from psd_depth_ros.config import build
from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.data.open import open_frames
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry.pose import invert
from psd_depth_ros.inference.scale import ScaleSettings, ScaleTracker
from psd_depth_ros.messages import decode_depth, stamp_ns
from psd_depth_ros.replay.offline import run_bag, RunSettings
from psd_depth_ros.ros.conversions import cloud_message, find_message_class
from psd_depth_ros.ros.depth_node import scale

Start = Callable[..., Any]
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)


@pytest.fixture(scope='session')
def _made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the message class of TF is, made where it is not installed; '' where it is."""
    if importlib.util.find_spec('tf2_msgs') is not None:
        return ''
    try:
        return str(build_tf2_msgs(tmp_path_factory.mktemp('tf2')))
    except (ImportError, OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f'tf2_msgs is not installed and cannot be made: {error}')


@pytest.fixture
def tf2_msgs(_made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TF can be read, here and in the nodes that are started."""
    if _made:
        monkeypatch.syspath_prepend(_made)
        monkeypatch.setenv('PYTHONPATH', _made, prepend=os.pathsep)


class Stage:
    """Publishes bags to a node, message by message, and hears its depth."""

    def __init__(self, bench: Any) -> None:
        self._bench = bench
        self._publishers: dict[str, Any] = {}
        self._depths = bench.listen(Image, '/depth/image_rect')

    def play(self, path: Path, mode: str, expected: float) -> float:
        """The depth of the last image, sent again until it is as expected or time is over."""
        ignored = '/odom' if mode == 'lidar' else '/lidar'
        with BagReader(path) as bag:
            recorded = [(one.topic, one.msgtype, bytes(one.cdr)) for one in bag.messages()]
            last = [one.message for one in bag.messages(['/image'])][-1]
        for topic, msgtype, cdr in recorded:
            if topic == ignored:
                continue
            self._publish(topic, msgtype, cdr)
            before = len(self._depths)
            if topic == '/image':
                self._bench.spin_until(lambda n=before: len(self._depths) > n, 'its depth')
            else:
                self._bench.spin_for(0.01)
        again = Image(height=last.height, width=last.width, encoding='rgb8', step=last.step)
        again.header.frame_id, again.data = last.header.frame_id, last.data.tobytes()
        for attempt in range(100):
            found = float(decode_depth(self._depths[-1])[60, 80])
            if found == pytest.approx(expected, rel=1e-6):
                break
            time_ns = stamp_ns(last.header) + 1_000_000 * (1 + attempt)
            again.header.stamp.sec, again.header.stamp.nanosec = divmod(time_ns, 10**9)
            before = len(self._depths)
            self._publishers['/image'].publish(again)
            self._bench.spin_until(lambda n=before: len(self._depths) > n, 'its depth again')
        return found

    def _publish(self, topic: str, msgtype: str, cdr: bytes) -> None:
        if topic not in self._publishers:
            profile = LATCHED if topic == '/tf_static' else QoSProfile(depth=10)
            made = self._bench.node.create_publisher(find_message_class(msgtype), topic, profile)
            self._publishers[topic] = made
            self._bench.spin_until(made.get_subscription_count, f'a reader of {topic}', 5.0)
        self._publishers[topic].publish(cdr)


def offline(path: Path, **scale: Any) -> float:
    """The depth of the last image of a bag by the command line's way."""
    settings = build(RunSettings, {'scale': scale})
    out = path.with_suffix('.out.mcap')
    with open_frames(path, with_lidar=scale['mode'] == 'lidar') as source:
        run_bag(source, Wall(), out, settings, outputs=('depth',))
    with BagReader(out) as bag:
        last = [item.message for item in bag.messages(['/depth/image_rect'])][-1]
    return float(decode_depth(last)[60, 80])


@pytest.mark.usefixtures('tf2_msgs')
def test_tf_and_parameters_live_and_offline_give_the_same_scale(
    bench: Any, depth_node: Start, tmp_path: Path
) -> None:
    robot, panning = Robot(), Robot(pan_radps=0.6)
    fixed = write_robot_bag(tmp_path / 'fixed.mcap', robot)
    pan = write_robot_bag(tmp_path / 'pan.mcap', panning)
    weights = tmp_path / 'wall.txt'
    weights.write_text('wall depth=8')
    depth_node(checkpoint=str(weights), scale__mode='lidar')
    bench.wait_for_state('active')
    stage, found = Stage(bench), {}
    for mode in ('lidar', 'odometry'):
        assert bench.set_parameter('scale.mode', mode) == (True, '')
        for name, path in (('fixed', fixed), ('pan', pan)):
            expected = offline(path, mode=mode)
            assert expected != 8.0
            found[mode, name] = stage.play(path, mode, expected)
            assert found[mode, name] == pytest.approx(expected, rel=1e-6)
    T_base_camera = robot.T_base_camera(0.0)
    T_camera_lidar = invert(T_base_camera) @ T_BASE_LIDAR
    assert bench.set_parameter('scale.lidar_pose', pose_numbers(T_camera_lidar)) == (True, '')
    assert bench.set_parameter('scale.camera_pose', pose_numbers(T_base_camera)) == (True, '')
    for mode in ('odometry', 'lidar'):
        assert bench.set_parameter('scale.mode', mode) == (True, '')
        expected = found[mode, 'fixed']
        assert stage.play(fixed, mode, expected) == pytest.approx(expected, rel=1e-6)


def test_odometry_that_does_not_come_or_does_not_fit_is_said(
    bench: Any, depth_node: Start
) -> None:
    bench.listen(Image, '/depth/image_rect')
    node = depth_node(scale__mode='odometry', scale__timeout_s=0.3)
    camera = bench.camera()
    camera.wait_for_reader()
    elsewhere = bench.node.create_publisher(Odometry, '/wheel/odom', 10)

    def warned(words: str) -> Callable[[], bool]:
        return lambda: bench.level(': camera') == 1 and words in bench.value(': camera', 'problem')

    words = 'nobody publishes /odom; there is /wheel/odom: remap odom:=/wheel/odom'
    camera.send_until(warned(words), 'the hint')
    bench.spin_until(lambda: words in node.output, 'the same in the log')
    bench.node.destroy_publisher(elsewhere)
    odom = bench.node.create_publisher(Odometry, '/odom', 10)

    def send(offset_ns: int, length: float = 1.0) -> Callable[[], None]:
        def step() -> None:
            message = Odometry(child_frame_id='base_link')
            message.header.frame_id = 'odom'
            message.pose.pose.orientation.w = length
            time_ns = camera.stamp_ns + offset_ns
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(time_ns, 10**9)
            odom.publish(message)

        return step

    for step, words in (
        (send(0, length=0.0), 'quaternion 0 0 0 0'),
        (send(5 * 10**9), 's ahead of those of the images'),
        (send(0), 'odometry has moved less than 0.2 m (it has moved 0.00 m in all)'),
    ):
        done = warned(words)
        camera.send_until(lambda go=step, done=done: go() or done(), words)


def test_a_mode_that_needs_tf_is_refused_where_it_cannot_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scale, 'has_tf', lambda: False)
    output = SimpleNamespace(metric=True)
    checkpoint = SimpleNamespace(info=SimpleNamespace(output=output), affine=False)
    for mode, words in (
        (
            'camera_height',
            'needs camera_height_m; measure .* tf2_msgs is not installed',
        ),
        ('lidar', 'needs lidar_pose; give x y z'),
    ):
        with pytest.raises(SettingsError, match=words):
            scale.refuse_unscaled(ScaleSettings(mode=mode), checkpoint)
    scale.refuse_unscaled(ScaleSettings(mode='odometry'), checkpoint)
    monkeypatch.setattr(scale, 'has_tf', lambda: True)
    scale.refuse_unscaled(ScaleSettings(mode='lidar'), checkpoint)


class WatchedTracker(ScaleTracker):
    """Notes which threads touch it."""

    threads: ClassVar[set[str]] = set()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith('__'):
            WatchedTracker.threads.add(threading.current_thread().name)
        return super().__getattribute__(name)


def test_trackers_are_touched_by_the_worker_alone_and_a_jump_resets_one_camera(
    depth_node: Start, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    WatchedTracker.threads.clear()
    monkeypatch.setattr(scale, 'ScaleTracker', WatchedTracker)
    node = depth_node(
        cameras=['front', 'rear'],
        batch_wait_s=0.0,
        diagnostics_period_s=0.1,
        scale__mode='lidar',
        scale__lidar_pose=[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        scale__timeout_s=0.3,
    )
    cameras = {name: bench.camera(f'/{name}') for name in ('front', 'rear')}
    for name, camera in cameras.items():
        bench.listen(Image, f'/{name}/depth/image_rect')
        camera.wait_for_reader()
        camera.stamp_ns = 100_000_000_000
    lidar = bench.node.create_publisher(PointCloud2, '/lidar', 5)

    def scale_of(name: str) -> float:
        return float(bench.value(f': {name}', 'scale') or 0.0)

    def send_all(cloud: bool = True) -> None:
        for camera in cameras.values():
            camera.send()
        if cloud:
            stamp_ns = cameras['rear'].stamp_ns
            lidar.publish(cloud_message(header_message(stamp_ns), wall_fields(10.0)))
        bench.spin_for(0.05)

    def both_measured() -> bool:
        send_all()
        return all(abs(scale_of(name) - 2.0) < 0.1 for name in cameras)

    bench.spin_until(both_measured, 'the scale of a wall at 10 m that is seen at 5 m')
    cameras['front'].stamp_ns -= 5_000_000_000

    def front_starts_anew() -> bool:
        send_all(cloud=False)
        return scale_of('front') == 1.0

    bench.spin_until(front_starts_anew, 'the scale of the camera that jumped')
    assert scale_of('rear') == pytest.approx(2.0, rel=0.05)
    # What the executor does: parameters, a jump of the clock, diagnostics with a warning.
    assert bench.set_parameter('scale.timeout_s', 0.2) == (True, '')
    node.jump(-1.0)
    bench.spin_until(
        lambda: send_all(cloud=False) or 'measures nothing' in bench.value(': rear', 'problem'),
        'a warning',
    )
    assert WatchedTracker.threads == {'depth_worker'}


def test_a_held_scale_is_said_and_measured_anew_on_request(depth_node: Start, bench: Any) -> None:
    node = depth_node(
        diagnostics_period_s=0.1,
        scale__mode='lidar',
        scale__lidar_pose=[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        scale__hold_after=3,
    )
    bench.listen(Image, '/depth/image_rect')
    camera = bench.camera()
    camera.wait_for_reader()
    lidar = bench.node.create_publisher(PointCloud2, '/lidar', 5)

    def sees(metres: float, factor: float, words: str) -> Callable[[], bool]:
        def step() -> bool:
            stamp_ns = camera.send()
            lidar.publish(cloud_message(header_message(stamp_ns), wall_fields(metres)))
            bench.spin_for(0.05)
            scale = float(bench.value(': camera', 'scale') or 0.0)
            source = bench.value(': camera', 'scale_source')
            return abs(scale - factor) < 0.1 * factor and source.endswith(words)

        return step

    bench.spin_until(sees(10.0, 2.0, '; held'), 'the scale of a wall at 10 m that is seen at 5 m')
    for _ in range(5):
        assert sees(20.0, 2.0, '; held')()
    assert bench.call(Trigger, '/depth_node/reset_scale', Trigger.Request()).success
    bench.spin_until(sees(20.0, 4.0, '; held'), 'the scale of a wall at 20 m')
    assert bench.set_parameter('scale.mode', 'fixed') == (True, '')
    answer = bench.call(Trigger, '/depth_node/reset_scale', Trigger.Request())
    assert (answer.success, answer.message) == (
        False,
        'scale.mode is fixed, which measures nothing',
    )
    assert node.is_running


def header_message(stamp_ns: int) -> Header:
    header = Header(frame_id='lidar')
    header.stamp.sec, header.stamp.nanosec = divmod(stamp_ns, 10**9)
    return header


def wall_fields(distance_m: float) -> dict[str, Any]:
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-4, 4, 30), np.linspace(-3, 3, 20)))
    return pack_cloud({'x': x, 'y': y, 'z': np.full_like(x, distance_m)})
