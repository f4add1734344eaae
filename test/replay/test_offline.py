"""A recording through an engine into a bag: counts, stamps, drops, scale, equal bytes."""

from types import SimpleNamespace

import numpy as np
from pack_clouds import pack_cloud
import pytest

from psd_depth_ros.config import build
from psd_depth_ros.data.bags import BagReader, BagWriter
from psd_depth_ros.data.open import open_frames
from psd_depth_ros.errors import CalibrationError, MessageError, SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference.cloud import build_cloud
from psd_depth_ros.messages import (
    camera_from_info,
    camera_info_fields,
    compressed_fields,
    decode_cloud,
    decode_depth,
    image_fields,
    stamp_ns,
)
from psd_depth_ros.replay.offline import run_bag, RunSettings

CAMERA = Camera(32, 24, 30, 30, 15.5, 11.5)
STEP_NS = 100_000_000
START_NS = 1_700_000_000_123_456_789


class FlatWorld:
    """An engine that sees a wall whose distance is the first pixel's red value."""

    def __init__(self, metric=True, fails_at=(), blind_at=()):
        output = SimpleNamespace(metric=metric, scale_sigma=0.1)
        self.checkpoint = SimpleNamespace(
            path='relative.safetensors', info=SimpleNamespace(output=output), affine=False
        )
        self.fails_at = fails_at
        self.blind_at = blind_at
        self.scales = []

    def infer_batch(self, requests, *, scales, settings, moments):
        ((rgb, camera),) = requests
        distance = float(rgb[0, 0, 0])
        self.scales.append(scales[0])
        if distance in self.fails_at:
            raise CalibrationError('this camera cannot be')
        return [self._frame(rgb, camera, distance, scales[0])]

    def _frame(self, rgb, camera, distance, scale):
        depth = np.full(rgb.shape[:2], distance * scale.factor, np.float32)
        confidence = np.ones_like(depth)

        def cloud(points):
            return build_cloud(depth, confidence, rgb, camera, points)

        return SimpleNamespace(
            depth_m=depth,
            confidence=confidence,
            camera=camera,
            rgb=rgb,
            values=None,
            cloud=cloud,
            problem='no depth at all' if distance in self.blind_at else '',
            rescaled=lambda another: self._frame(rgb, camera, distance, another),
        )


def write_bag(path, count=4, damaged=()):
    with BagWriter(path) as writer:
        for index in range(count):
            stamp = START_NS + index * STEP_NS
            rgb = np.full((24, 32, 3), index + 1, np.uint8)
            fields = compressed_fields(rgb, 'png')
            if index in damaged:
                fields['data'] = fields['data'][:30]
            writer.write(
                '/cam/image/compressed', 'sensor_msgs/msg/CompressedImage', fields, stamp, 'optic'
            )
            info = camera_info_fields(CAMERA)
            writer.write('/cam/camera_info', 'sensor_msgs/msg/CameraInfo', info, stamp, 'optic')
    return path


@pytest.fixture
def run(tmp_path):
    def run_once(engine=None, settings=None, output='out.mcap', **bag):
        path = write_bag(tmp_path / 'in.mcap', **bag)
        settings = None if settings is None else build(RunSettings, settings)
        with open_frames(path) as source:
            report = run_bag(source, engine or FlatWorld(), tmp_path / output, settings)
        return report, tmp_path / output

    return run_once


def test_every_frame_has_its_four_messages(run):
    report, path = run()
    assert (report.frames_in, report.frames_out, report.dropped) == (4, 4, {})
    with BagReader(path) as bag:
        assert {name: info.count for name, info in bag.topics.items()} == dict.fromkeys(
            ('/depth/camera_info', '/depth/confidence', '/depth/image_rect', '/points'), 4
        )
        for item in bag.messages():
            assert item.message.header.frame_id == 'optic'
            assert stamp_ns(item.message.header) == item.timestamp_ns
        stamps = [item.timestamp_ns for item in bag.messages(['/points'])]
    assert stamps == [START_NS + index * STEP_NS for index in range(4)]


def test_depth_camera_and_points_agree(run):
    _, path = run()
    with BagReader(path) as bag:
        first = {item.topic: item.message for item in bag.messages(stop_ns=START_NS + 1)}
    assert first['/depth/image_rect'].encoding == '32FC1'
    assert (decode_depth(first['/depth/image_rect']) == 1).all()
    assert camera_from_info(first['/depth/camera_info']) == CAMERA
    points = decode_cloud(first['/points'])
    assert first['/points'].is_dense
    assert len(points['z']) == 24 * 32
    assert points['x'][0] == pytest.approx(-15.5 / 30)


def test_twice_gives_the_same_bytes(run):
    _, first = run(output='first.mcap')
    _, second = run(output='second.mcap')
    assert first.read_bytes() == second.read_bytes()


def test_frames_add_up_and_reasons_are_given(run):
    report, _ = run(FlatWorld(fails_at=(3,)), damaged=(1,))
    assert (report.frames_in, report.frames_out) == (4, 2)
    assert report.dropped == {'camera_info': 1, 'image': 1}
    assert 'cannot be' in report.reasons['camera_info']
    assert 'damaged' in report.reasons['image']


def test_frames_without_any_depth_are_written_and_counted_in_a_note(run):
    report, _ = run(FlatWorld(blind_at=(2, 3)))
    assert report.frames_out == 4
    assert report.notes == ('2 of 4 frames without depth: no depth at all',)


def test_no_usable_frame_raises_and_leaves_no_file(run, tmp_path):
    with pytest.raises(MessageError, match='damaged'):
        run(damaged=range(4))
    with pytest.raises(CalibrationError, match='cannot be'):
        run(FlatWorld(fails_at=(1,)))
    assert [path.name for path in tmp_path.iterdir()] == ['in.mcap']


def test_progress_counts_to_the_end(tmp_path):
    seen = []
    with open_frames(write_bag(tmp_path / 'in.mcap')) as source:
        run_bag(source, FlatWorld(), tmp_path / 'out.mcap', progress=lambda *one: seen.append(one))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_fixed_factor_scales_the_depth(run):
    _, path = run(settings={'scale.factor': 2.0})
    with BagReader(path) as bag:
        depth = decode_depth(next(bag.messages(['/depth/image_rect'])).message)
    assert (depth == 2).all()


def test_depth_of_unknown_scale_is_not_called_metric(run):
    expected = r'relative\.safetensors is not metric and .*scale\.mode relative'
    with pytest.raises(SettingsError, match=expected):
        run(FlatWorld(metric=False))
    report, path = run(FlatWorld(metric=False), settings={'scale.mode': 'relative'})
    assert report.frames_out == 4
    with BagReader(path) as bag:
        assert all(name.startswith('/depth_relative/') for name in bag.topics)


def test_the_height_of_the_camera_gives_metres(run):
    settings = {'scale.mode': 'camera_height', 'scale.camera_height_m': 1.5}
    report, _ = run(FlatWorld(metric=False), settings=settings)
    # A wall has no ground, so nothing is ever measured and nothing is called metric.
    assert report.frames_out == 0
    assert report.dropped == {'scale': 4}
    assert 'measured nothing' in report.reasons['scale']


def test_lidar_gives_metres(tmp_path):
    """Points twice as far as the network says: depth is doubled, that of the first frame too."""
    path = tmp_path / 'in.mcap'
    x, y = (
        axis.reshape(-1) for axis in np.meshgrid(np.linspace(-1, 1, 30), np.linspace(-1, 1, 20))
    )
    points = pack_cloud({'x': x, 'y': y, 'z': np.full_like(x, 10.0)})
    with BagWriter(path) as writer:
        for index in range(3):
            stamp = START_NS + index * STEP_NS
            writer.write('/lidar', 'sensor_msgs/msg/PointCloud2', points, stamp, 'lidar')
            fields = image_fields(np.full((24, 32, 3), 5, np.uint8), 'rgb8')
            writer.write('/cam/image', 'sensor_msgs/msg/Image', fields, stamp, 'optic')
    settings = build(
        RunSettings, {'scale': {'mode': 'lidar', 'lidar_pose': [0, 0, 0, 0, 0, 0, 1]}}
    )
    with open_frames(path, camera=CAMERA, with_lidar=True) as source:
        report = run_bag(source, FlatWorld(metric=False), tmp_path / 'out.mcap', settings)
    assert (report.frames_out, report.dropped) == (3, {})
    with BagReader(tmp_path / 'out.mcap') as bag:
        for item in bag.messages(['/depth/image_rect']):
            assert decode_depth(item.message) == pytest.approx(10.0, rel=1e-3)


def test_raw_images_take_the_same_path(tmp_path):
    with BagWriter(tmp_path / 'in.mcap') as writer:
        rgb = np.full((24, 32, 3), 7, np.uint8)
        fields = image_fields(rgb, 'rgb8')
        writer.write('/cam/image', 'sensor_msgs/msg/Image', fields, START_NS, 'optic')
    with open_frames(tmp_path / 'in.mcap', camera=CAMERA) as source:
        assert run_bag(source, FlatWorld(), tmp_path / 'out.mcap').frames_out == 1
