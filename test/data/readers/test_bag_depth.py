import numpy as np
from pack_clouds import pack_cloud
import pytest

from psd_depth_ros.data.bags import BagWriter
from psd_depth_ros.data.depth import project_depth
from psd_depth_ros.data.frames import SourceOptions
from psd_depth_ros.errors import BagError, EvaluationError
from psd_depth_ros.evaluation.evaluate import open_data, parse_range
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import make_pose, to_quaternion
from psd_depth_ros.messages import (
    camera_info_fields,
    header_fields,
    image_fields,
    odometry_fields,
    transform_fields,
)

CAMERA = Camera(32, 24, 20.0, 20.0, 16.0, 12.0)
IMAGE, CLOUD = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/PointCloud2'
TF, ODOMETRY = 'tf2_msgs/msg/TFMessage', 'nav_msgs/msg/Odometry'
MS = 1_000_000
# Axes of a body (x forward, y left, z up) in those of a camera.
CAMERA_BODY = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])


class Drive:
    """Writes a bag with three images and what a test adds to it."""

    def __init__(self, path):
        self.path = path / 'drive.mcap'
        self.messages = []
        for index in range(3):
            stamp = self.stamp(index)
            rgb = np.full((24, 32, 3), index, np.uint8)
            self.add('/cam/image', IMAGE, image_fields(rgb, 'rgb8'), stamp, 'lens')
            info = camera_info_fields(CAMERA)
            self.add('/cam/camera_info', 'sensor_msgs/msg/CameraInfo', info, stamp, 'lens')

    @staticmethod
    def stamp(index):
        return 10**9 + index * 100 * MS

    def add(self, *message):
        self.messages.append(message)

    def add_depth(self, stamp, metres, size=(24, 32), topic='/depth'):
        fields = image_fields(np.full(size, metres, np.float32), '32FC1')
        self.add(topic, IMAGE, fields, stamp, 'lens')

    def add_points(self, points, frame='lens', topic='/points'):
        xyz = np.array(points, np.float32)
        cloud = pack_cloud({name: xyz[:, i].copy() for i, name in enumerate('xyz')})
        for index in range(3):
            self.add(topic, CLOUD, cloud, self.stamp(index), frame)

    def add_mounting(self, pose, parent, child):
        fields = {'transforms': [transform_fields(pose, 10**9, parent, child)]}
        self.add('/tf_static', TF, fields, 10**9, None)

    def open(self, options=None):
        with BagWriter(self.path) as writer:
            for topic, msgtype, fields, stamp, frame in sorted(
                self.messages, key=lambda message: message[3]
            ):
                writer.write(topic, msgtype, fields, stamp, frame)
        return open_data(self.path, options=options)


@pytest.fixture
def drive(tmp_path):
    return Drive(tmp_path)


def test_depth_images_belong_to_the_image_nearest_in_time(drive):
    drive.add_depth(drive.stamp(0) + 10 * MS, 3.0)
    drive.add_depth(drive.stamp(2) - 20 * MS, 5.0)
    source, protocol = drive.open()
    found = list(source.frames())
    assert protocol.name == 'outdoor'
    assert found[0].depth_m[0, 0] == 3.0
    assert found[1].depth_m is None
    assert found[2].depth_m[0, 0] == 5.0
    assert [one.rgb[0, 0, 0] for one in found] == [0, 1, 2]
    assert found[0].sequence == found[2].sequence != ''


def test_a_drive_without_stamps_is_measured_by_the_times_of_recording(drive):
    drive.add_depth(drive.stamp(0) + 10 * MS, 3.0)
    drive.add_depth(drive.stamp(2) - 20 * MS, 5.0)
    zero = {'header': header_fields(0, 'lens')}
    drive.messages = [
        (topic, msgtype, {**zero, **fields}, stamp, None)
        for topic, msgtype, fields, stamp, _ in drive.messages
    ]
    with pytest.raises(BagError, match='--stamps recorded'):
        list(drive.open()[0].frames())
    source, _ = drive.open(SourceOptions(recorded_stamps=True))
    depths = (one.depth_m for one in source.frames())
    assert [one if one is None else one[0, 0] for one in depths] == [3.0, None, 5.0]


def test_millimetres_are_metres(drive):
    fields = image_fields(np.array([[0, 2500] * 16] * 24, np.uint16), '16UC1')
    drive.add('/depth', IMAGE, fields, drive.stamp(0), 'lens')
    truth = next(drive.open()[0].frames()).depth_m
    assert np.isnan(truth[0, 0])
    assert truth[0, 1] == 2.5


def test_depth_goes_before_lidar_and_two_depths_are_a_choice(drive):
    drive.add_depth(drive.stamp(0), 3.0)
    drive.add_points([(0.0, 0.0, 7.0)])
    assert next(drive.open()[0].frames()).depth_m[12, 16] == 3.0
    lidar = drive.open(SourceOptions(lidar_topic='/points'))[0]
    assert next(lidar.frames()).depth_m[12, 16] == 7.0
    drive.add_depth(drive.stamp(0), 3.0, topic='/other')
    with pytest.raises(EvaluationError, match='/depth, /other; choose one with --depth-topic'):
        drive.open()
    with pytest.raises(BagError, match='/dept '):
        drive.open(SourceOptions(depth_topic='/dept'))


def test_points_in_the_frame_of_the_image_need_no_pose(drive):
    drive.add_points([(0.0, 0.0, 10.0), (0.0, 0.0, 8.0), (2.0, 1.0, 10.0), (0.0, 0.0, -3.0)])
    source, _ = drive.open()
    truth = next(source.frames()).depth_m
    assert np.argwhere(truth > 0).tolist() == [[12, 16], [14, 20]]
    assert truth[12, 16] == 8.0, 'the nearest'


def test_the_mounting_of_a_lidar_comes_from_the_transforms(drive):
    drive.add_points([(10.0, 0.0, 0.0)], 'lidar')
    drive.add_mounting(make_pose(CAMERA_BODY.T, (0.0, 0.0, 0.0)), 'base', 'lens')
    drive.add_mounting(make_pose(np.eye(3), (-2.0, 0.0, 0.0)), 'base', 'lidar')
    truth = next(drive.open()[0].frames()).depth_m
    assert np.argwhere(truth > 0).tolist() == [[12, 16]]
    assert truth[12, 16] == pytest.approx(8.0)


def test_a_lidar_nobody_knows_the_place_of_asks_for_it(drive):
    drive.add_points([(10.0, 0.0, 0.0)], 'lidar')
    with pytest.raises(EvaluationError, match=r'frame of their own.*--lidar-pose'):
        list(drive.open()[0].frames())
    pose = make_pose(CAMERA_BODY, (0.0, 0.0, 1.0))
    choice = SourceOptions(lidar_pose=(0.0, 0.0, 1.0, *to_quaternion(pose)))
    assert next(drive.open(choice)[0].frames()).depth_m[12, 16] == pytest.approx(11.0)
    with pytest.raises(EvaluationError, match='x y z qx qy qz qw'):
        list(drive.open(SourceOptions(lidar_pose=(1.0, 2.0)))[0].frames())


def test_odometry_and_the_mounting_give_the_pose_of_the_camera(drive):
    for index in range(3):
        drive.add_depth(drive.stamp(index), 3.0)
        fields = odometry_fields(make_pose(np.eye(3), (index, 0.0, 0.0)), 'base')
        drive.add('/odom', ODOMETRY, fields, drive.stamp(index), 'odom')
    drive.add_mounting(make_pose(CAMERA_BODY.T, (0.0, 0.0, 1.5)), 'base', 'lens')
    source, _ = drive.open()
    poses = [source.view_pose(one) for one in source.frames()]
    assert poses[2][:3, 3].tolist() == [2.0, 0.0, 1.5]
    assert np.allclose(poses[2][:3, :3], CAMERA_BODY.T)


def test_some_of_the_frames(drive):
    for index in range(3):
        drive.add_depth(drive.stamp(index), 1.0 + index)
    source = drive.open()[0]
    source.select(parse_range('1:'))
    assert len(source.selected) == 2
    assert [one.depth_m[0, 0] for one in source.frames()] == [2.0, 3.0]


def test_truth_of_another_size_is_refused(drive):
    drive.add_depth(drive.stamp(0), 3.0, (12, 16))
    with pytest.raises(EvaluationError, match=r'/depth at 1\.000 s is 16x12.* image is 32x24'):
        list(drive.open()[0].frames())


def test_a_bag_without_truth_lists_what_it_has(drive):
    with pytest.raises(EvaluationError, match=r'(?s)nothing to measure against.*/cam/image'):
        drive.open()


def test_points_outside_or_behind_are_nowhere():
    depth = project_depth(np.array([[50.0, 0, 1.0], [0, 0, -1.0], [0, 0, 0.0]]), CAMERA)
    assert np.isnan(depth).all()
