from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
import signal
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

from psd_depth_ros.data.bags import BagReader, BagWriter
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import camera_info_fields, image_fields, odometry_fields
from psd_depth_ros.ros.replay_node import ReplayNode, STATUS_KEYS

Start = Callable[..., Any]
NODE = 'psd_depth_ros.ros.replay_node'
FRAMES = 8
WORLD = 'synth:street:0?frames=2&size=64x32'
START_NS = 50_000_000_000
PERIOD_NS = 50_000_000


def stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Eight frames at 20 Hz, odometry, and a TF whose class the wheels do not have."""
    path = tmp_path / 'drive.mcap'
    camera = Camera(32, 24, 20.0, 20.0, 15.5, 11.5)
    with BagWriter(path) as writer:
        for index in range(FRAMES):
            time_ns = START_NS + index * PERIOD_NS
            rgb = np.full((24, 32, 3), index, np.uint8)
            for topic, kind, fields in (
                ('/front/camera_info', 'CameraInfo', camera_info_fields(camera)),
                ('/front/image', 'Image', image_fields(rgb, 'rgb8')),
            ):
                writer.write(topic, f'sensor_msgs/msg/{kind}', fields, time_ns, 'front_optical')
            pose = odometry_fields(np.eye(4), 'base_link')
            writer.write('/odom', 'nav_msgs/msg/Odometry', pose, time_ns, 'odom')
            writer.write('/tf', 'tf2_msgs/msg/TFMessage', {'transforms': []}, time_ns)
    return path


def test_what_a_bag_lost_is_said_at_the_end(bench: Any, in_process: Start, bag: Path) -> None:
    images = bench.listen(Image, '/front/image')
    bench.listen(CameraInfo, '/front/camera_info')
    bag.write_bytes(bag.read_bytes()[:-9000])
    node = in_process(ReplayNode, recording=str(bag), wait_for_subscribers_s=20.0, rate=5.0)
    bench.spin_until(lambda: not node.is_running, 'the end of the recording')
    assert node.wait() == 0, node.output
    assert images
    assert 'cut short' in node.output


def test_everything_is_published_on_time_and_nothing_is_lost(
    bench: Any, in_process: Start, bag: Path
) -> None:
    images = bench.listen(Image, '/front/image')
    infos = bench.listen(CameraInfo, '/front/camera_info')
    odometry = bench.listen(Odometry, '/odom')
    clocks = bench.listen(Clock, '/clock')
    statuses = bench.listen(DiagnosticArray, '/replay_node/status')
    node = in_process(ReplayNode, recording=str(bag), wait_for_subscribers_s=20.0, rate=2.0)
    bench.spin_until(lambda: not node.is_running, 'the end of the recording')
    assert node.wait() == 0, node.output
    bench.spin_for(0.2)
    expected = [START_NS + index * PERIOD_NS for index in range(FRAMES)]
    assert [stamp_ns(one) for one in images] == expected
    assert [stamp_ns(one) for one in infos] == expected
    assert [stamp_ns(one) for one in odometry] == expected
    assert [one.data[0] for one in images] == list(range(FRAMES))
    assert images[0].header.frame_id == 'front_optical'
    times = [one.clock.sec * 10**9 + one.clock.nanosec for one in clocks]
    assert times == sorted(times)
    assert expected[-1] <= times[-1] <= expected[-1] + 100_000_000
    unknown = node.output.count('tf2_msgs/msg/TFMessage is not installed')
    assert unknown in (0, 1)
    status = {pair.key: pair.value for pair in statuses[-1].status[0].values}
    assert set(status) == set(STATUS_KEYS)
    assert status['state'] == 'finished'
    assert status['recording'] == str(bag)
    assert (status['images'], status['published']) == (str(FRAMES), str((4 - unknown) * FRAMES))


def test_it_waits_for_as_many_listeners_as_it_is_told(
    bench: Any, in_process: Start, bag: Path
) -> None:
    images = bench.listen(Image, '/front/image')
    bench.listen(CameraInfo, '/front/camera_info')
    node = in_process(
        ReplayNode, recording=str(bag), wait_for_subscribers_s=3.0, image_subscribers=2
    )
    bench.spin_until(lambda: not node.is_running, 'the end of the recording')
    assert 'waiting up to 3 s for subscribers of /front/image' in node.output
    assert 'after 3 s too few listen to /front/image' in node.output
    assert len(images) == FRAMES


def test_time_stands_still_until_a_slow_listener_has_the_first_image(
    bench: Any, in_process: Start, start: Start, bag: Path, tmp_path: Path
) -> None:
    bench.listen(CameraInfo, '/front/camera_info')
    recorded = {
        'topics': ['/front/image sensor_msgs/msg/Image'],
        'output': str(tmp_path / 'out.mcap'),
    }
    listener = start('psd_depth_ros.ros.recorder', **recorded)
    node = in_process(
        ReplayNode, recording=str(bag), wait_for_subscribers_s=40.0, image_subscribers=2
    )
    [publisher] = [one for one in node.node.publishers if one.topic_name == '/front/image']
    bench.spin_until(publisher.get_subscription_count, 'the recorder')
    listener.signal(signal.SIGSTOP)
    images = bench.listen(Image, '/front/image')
    bench.spin_until(lambda: images, 'the first image')
    bench.spin_for(1.0)
    assert [stamp_ns(one) for one in images] == [START_NS]
    listener.signal(signal.SIGCONT)
    bench.spin_until(lambda: len(images) == FRAMES, 'the others')
    assert 'has not acknowledged' not in node.output


def test_the_camera_can_have_other_names_and_time_be_held(
    bench: Any, in_process: Start, bag: Path
) -> None:
    images = bench.listen(Image, '/image')
    infos = bench.listen(CameraInfo, '/camera_info')
    names = {'image_as': '/image', 'camera_info_as': '/camera_info'}
    in_process(ReplayNode, recording=str(bag), paused=True, loop=True, **names)
    bench.spin_until(
        lambda: bench.node.get_publishers_info_by_topic('/image'), 'the camera to appear'
    )
    bench.spin_for(0.3)
    assert not images
    accepted, reason = bench.set_parameter('rate', 3.0, '/replay_node')
    assert not accepted
    assert 'start anew' in reason
    assert bench.set_parameter('paused', False, '/replay_node') == (True, '')
    bench.spin_until(lambda: len(images) > FRAMES and len(infos) > FRAMES, 'a second round')
    stamps = [stamp_ns(one) for one in images]
    assert any(after < before for before, after in pairwise(stamps))


def test_a_video_is_played_with_an_assumed_lens(
    bench: Any, in_process: Start, tmp_path: Path
) -> None:
    path = tmp_path / 'drive.avi'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 20.0, (64, 48))
    for index in range(5):
        writer.write(np.full((48, 64, 3), 40 * index, np.uint8))
    writer.release()
    images = bench.listen(Image, '/camera/image')
    infos = bench.listen(CameraInfo, '/camera/camera_info')
    node = in_process(
        ReplayNode, recording=str(path), horizontal_fov_deg=90.0, wait_for_subscribers_s=20.0
    )
    bench.spin_until(lambda: len(images) == 5 and len(infos) == 5, 'five frames')
    assert (images[0].width, images[0].height) == (64, 48)
    assert infos[0].k[0] == pytest.approx(32.0)
    assert node.wait() == 0


def test_from_a_later_point_on_what_was_latched_before_is_heard_by_late_listeners(
    bench: Any, in_process: Start, tmp_path: Path
) -> None:
    path = tmp_path / 'latched.mcap'
    camera = Camera(32, 24, 20.0, 20.0, 15.5, 11.5)
    with BagWriter(path) as writer:
        info = camera_info_fields(camera)
        writer.write('/front/camera_info', 'sensor_msgs/msg/CameraInfo', info, START_NS, 'front')
        for index in range(FRAMES):
            rgb = image_fields(np.full((24, 32, 3), index, np.uint8), 'rgb8')
            time_ns = START_NS + 1 + index * PERIOD_NS
            writer.write('/front/image', 'sensor_msgs/msg/Image', rgb, time_ns, 'front')
    clocks, images = bench.listen(Clock, '/clock'), bench.listen(Image, '/robot1/front/image')
    in_process(
        ReplayNode, '-r', '__ns:=/robot1', recording=str(path), start_s=0.2, loop=True, rate=0.5,
        clock=False, topic_prefix='/robot1',
    )  # fmt: skip
    bench.spin_until(lambda: images, 'images')
    infos: list[Any] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    bench.node.create_subscription(CameraInfo, '/robot1/front/camera_info', infos.append, latched)
    bench.spin_until(lambda: infos, 'the calibration of before')
    assert infos[0].k[0] == 20.0
    assert stamp_ns(infos[0]) == START_NS
    assert images[0].data[0] >= 4
    assert not clocks
    assert not bench.node.get_publishers_info_by_topic('/clock')


def test_without_a_recording_the_process_ends_with_the_reason(start: Start) -> None:
    node = start(NODE)
    assert node.wait() == 1
    assert 'the parameter recording is empty' in node.output
    assert 'Traceback' not in node.output


@pytest.mark.parametrize(
    ('parameters', 'text'),
    [
        ({'recording': 'missing.mcap'}, 'missing.mcap is not there'),
        ({'recording': 'BAG', 'topics': ['/front/imag']}, 'did you mean /front/image'),
        ({'recording': 'BAG', 'image_topic': '/odom'}, 'is nav_msgs/msg/Odometry, expected'),
        ({'recording': WORLD, 'camera_info_topic': '/info'}, 'leave out camera_info_topic'),
        ({'recording': WORLD, 'stamps': 'recorded'}, 'leave out --stamps recorded'),
        ({'recording': WORLD, 'topics': ['/front/image']}, 'leave out topics'),
    ],
)
def test_what_cannot_be_played_is_said(
    refusal: Callable[..., str], bag: Path, parameters: dict[str, Any], text: str
) -> None:
    given = {key: str(bag) if value == 'BAG' else value for key, value in parameters.items()}
    assert text in refusal(ReplayNode, **given)


def test_replay_depth_and_recording_lose_no_frame(
    bench: Any, start: Start, depth_node: Start, bag: Path, tmp_path: Path
) -> None:
    output = tmp_path / 'out.mcap'
    depth_node('-r', 'image:=/front/image', '-r', 'camera_info:=/front/camera_info')
    recorder = start(
        'psd_depth_ros.ros.recorder',
        topics=[f'/depth/{one} sensor_msgs/msg/Image' for one in ('image_rect', 'confidence')],
        output=str(output),
    )
    bench.spin_until(
        lambda: bench.value(': camera', 'subscribed') == 'depth, confidence', 'the recorder'
    )
    # Slow: the node takes the newest frame only, and this machine may be busy with other things.
    player = start(NODE, recording=str(bag), wait_for_subscribers_s=20.0, rate=0.1)
    assert player.wait() == 0, player.output
    bench.spin_until(
        lambda: bench.value(': camera', 'processed') == str(FRAMES), 'every frame to be processed'
    )
    bench.spin_for(0.3)
    recorder.signal(signal.SIGTERM)
    assert recorder.wait() == 0, recorder.output
    with BagReader(output) as recorded:
        depths = [one.message for one in recorded.messages(['/depth/image_rect'])]
        assert [stamp_ns(one) for one in depths] == [
            START_NS + index * PERIOD_NS for index in range(FRAMES)
        ]
        assert {one.header.frame_id for one in depths} == {'front_optical'}
        assert recorded.topics['/depth/confidence'].count == FRAMES
