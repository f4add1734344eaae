"""Which topic is the camera: a table of bags and the choice in each."""

import numpy as np
import pytest

from psd_depth_ros.data.bags import BagReader, BagWriter
from psd_depth_ros.data.message_types import pick_odometry_topic
from psd_depth_ros.errors import BagError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import camera_info_fields, compressed_fields, image_fields

RGB = np.zeros((4, 6, 3), np.uint8)
KINDS = {
    'rgb': ('sensor_msgs/msg/Image', image_fields(RGB, 'rgb8')),
    'depth': ('sensor_msgs/msg/Image', image_fields(np.ones((4, 6), np.float32), '32FC1')),
    'jpeg': ('sensor_msgs/msg/CompressedImage', compressed_fields(RGB)),
    'info': ('sensor_msgs/msg/CameraInfo', camera_info_fields(Camera(6, 4, 5, 5, 2.5, 1.5))),
    'odometry': ('nav_msgs/msg/Odometry', {}),
}


@pytest.fixture
def open_bag(tmp_path):
    def write(**topics):
        with BagWriter(tmp_path / 'a.mcap') as writer:
            for name, kind in topics.items():
                msgtype, fields = KINDS[kind]
                writer.write('/' + name.replace('__', '/'), msgtype, fields, 1, 'cam')
        return BagReader(tmp_path / 'a.mcap')

    return write


@pytest.mark.parametrize(
    ('topics', 'expected'),
    [
        ({'image': 'rgb'}, '/image'),
        ({'cam__image_raw__compressed': 'jpeg'}, '/cam/image_raw/compressed'),
        ({'cam__image': 'rgb', 'cam__image__compressed': 'jpeg'}, '/cam/image'),
        ({'cam__image': 'rgb', 'cam__depth': 'depth', 'cam__camera_info': 'info'}, '/cam/image'),
        ({'a__image': 'rgb', 'b__image': 'rgb', 'b__camera_info': 'info'}, '/b/image'),
    ],
)
def test_the_one_camera_is_found(open_bag, topics, expected):
    with open_bag(**topics) as bag:
        assert bag.pick_image_topic() == expected


def test_several_cameras_are_listed(open_bag):
    with open_bag(a__image='rgb', b__image='rgb') as bag:
        with pytest.raises(
            BagError, match=r'several cameras: /a/image, /b/image; .*--image-topic'
        ):
            bag.pick_image_topic()
        assert bag.pick_image_topic('/b/image') == '/b/image'
        assert bag.pick_image_topic('b/image') == '/b/image'


def test_a_bag_without_a_colour_camera_lists_its_topics(open_bag):
    expected = (
        r'no colour images \(those on /depth/image hold depth .* mono16\); its topics '
        r'are:\s+/depth/image'
    )
    with open_bag(depth__image='depth', odom='odometry') as bag:
        with pytest.raises(BagError, match=expected):
            bag.pick_image_topic()
        assert bag.image_topics() == ['/depth/image']


def test_a_topic_of_another_type_is_refused(open_bag):
    with open_bag(image='rgb', odom='odometry') as bag:
        with pytest.raises(BagError, match=r'/odom of bag .* is nav_msgs/msg/Odometry, expected'):
            bag.pick_image_topic('/odom')
        with pytest.raises(BagError, match='/nothing is not in bag'):
            bag.pick_image_topic('/nothing')


@pytest.mark.parametrize(
    ('topics', 'image', 'expected'),
    [
        ({'cam__image__compressed': 'jpeg', 'cam__camera_info': 'info'}, None, '/cam/camera_info'),
        ({'image': 'rgb', 'camera_info': 'info', 'b__camera_info': 'info'}, None, '/camera_info'),
        ({'cam__image': 'rgb', 'calibration': 'info'}, None, '/calibration'),
    ],
)
def test_the_camera_info_of_an_image(open_bag, topics, image, expected):
    with open_bag(**topics) as bag:
        assert bag.pick_camera_info_topic(bag.pick_image_topic(image)) == expected


def test_no_camera_info_says_what_to_do(open_bag):
    expected = r'no CameraInfo topic, .*--camera camera\.yaml'
    with open_bag(cam__image='rgb') as bag, pytest.raises(BagError, match=expected):
        bag.pick_camera_info_topic('/cam/image')
    with open_bag(cam__image='rgb', a__info='info', b__info='info') as bag:
        with pytest.raises(BagError, match=r'several CameraInfo topics: /a/info, /b/info'):
            bag.pick_camera_info_topic('/cam/image')
        assert bag.pick_camera_info_topic('/cam/image', '/a/info') == '/a/info'


def test_odometry_is_optional(open_bag):
    with open_bag(image='rgb', odom='odometry') as bag:
        assert pick_odometry_topic(bag) == '/odom'
    with open_bag(image='rgb') as bag:
        assert pick_odometry_topic(bag) is None
