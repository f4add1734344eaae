"""A rendered bag: topics, stamps, the TF tree and the truth agree with the world."""

import numpy as np
import pytest

from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.data.open import open_frames
from psd_depth_ros.geometry.pose import invert
from psd_depth_ros.messages import decode, decode_depth, odometry_pose, stamp_ns, transform_pose
from psd_depth_ros.replay.rendering import EPOCH_NS, write_world
from psd_depth_ros.synth import World, WorldSettings

SETTINGS = WorldSettings(kind='street', width=64, height=48)


@pytest.fixture(scope='module')
def world():
    return World(5, SETTINGS)


@pytest.fixture(scope='module')
def path(world, tmp_path_factory):
    path = tmp_path_factory.mktemp('rendered') / 'drive.mcap'
    write_world(world, path, 3)
    return path


@pytest.fixture(scope='module')
def messages(path):
    with BagReader(path) as bag:
        found = {name: [] for name in bag.topics}
        for item in bag.messages():
            found[item.topic].append(item.message)
    return found


def test_every_frame_has_every_topic(messages):
    assert {name: len(items) for name, items in messages.items()} == dict.fromkeys(
        (
            '/camera/camera_info',
            '/camera/image',
            '/ground_truth/depth',
            '/ground_truth/moving',
            '/odom',
            '/tf',
        ),
        3,
    )
    for name in ('/camera/image', '/camera/camera_info', '/ground_truth/depth'):
        stamps = [stamp_ns(message.header) for message in messages[name]]
        assert stamps == [EPOCH_NS + index * 100_000_000 for index in range(3)]
        assert messages[name][0].header.frame_id == 'camera_optical'


def test_image_and_truth_are_those_of_the_world(world, messages):
    frame = world.render(1)
    assert np.array_equal(decode(messages['/camera/image'][1]), frame.rgb.numpy())
    assert np.array_equal(decode_depth(messages['/ground_truth/depth'][1]), frame.depth_m.numpy())
    moving = decode(messages['/ground_truth/moving'][1])[..., 0] == 255
    assert np.array_equal(moving, frame.moving.numpy())


def test_transforms_lead_from_odometry_to_the_camera(world, messages):
    to_base, to_camera = messages['/tf'][2].transforms
    assert (to_base.header.frame_id, to_base.child_frame_id) == ('odom', 'base_link')
    assert (to_camera.header.frame_id, to_camera.child_frame_id) == ('base_link', 'camera_optical')
    chained = transform_pose(to_base.transform) @ transform_pose(to_camera.transform)
    assert np.allclose(chained, world.render(2).T_world_camera)
    assert np.allclose(odometry_pose(messages['/odom'][2]), transform_pose(to_base.transform))


def test_odometry_moves_forward_at_its_speed(messages):
    first, last = (odometry_pose(messages['/odom'][index]) for index in (0, 2))
    forward = (invert(first) @ last)[:3, 3]
    twist = messages['/odom'][1].twist.twist
    assert forward[0] > 0.9 * np.linalg.norm(forward)
    assert twist.linear.x == pytest.approx(np.linalg.norm(forward) / 0.2, rel=0.05)


def test_the_bag_is_a_source_of_frames(world, path):
    with open_frames(path) as source:
        frames = list(source.frames())
    assert [frame.camera for frame in frames] == [world.camera] * 3
    assert all(frame.pose is not None for frame in frames)


def test_the_same_world_gives_the_same_bytes(path, tmp_path):
    write_world(World(5, SETTINGS), tmp_path / 'again.mcap', 3)
    assert (tmp_path / 'again.mcap').read_bytes() == path.read_bytes()


def test_compressed_images(world, tmp_path):
    seen = []
    write_world(world, tmp_path / 'a.mcap', 2, 90, progress=lambda *one: seen.append(one))
    assert seen == [(1, 2), (2, 2)]
    with BagReader(tmp_path / 'a.mcap') as bag:
        assert bag.pick_image_topic() == '/camera/image/compressed'
        image = decode(next(bag.messages(['/camera/image/compressed'])).message)
    difference = np.abs(image.astype(int) - world.render(0).rgb.numpy())
    assert difference.mean() < 8
