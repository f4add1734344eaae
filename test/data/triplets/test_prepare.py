"""Recordings become sequences: what is kept, what is counted, and what bad ones are told."""

from dataclasses import replace
import errno
import shutil

import cv2
import numpy as np
from pack_clouds import pack_cloud
import pytest

from psd_depth_ros.config import build
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.data.triplets import cache as caching
from psd_depth_ros.data.triplets.cache import ArrayFile
from psd_depth_ros.data.triplets.prepare import judge, prepare_sequences
from psd_depth_ros.errors import BagError, SettingsError
from psd_depth_ros.geometry.pose import invert, make_pose
from psd_depth_ros.messages import image_fields, odometry_fields, transform_fields

FRAMES = 24


@pytest.fixture
def prepare(tmp_path):
    def run(*paths, fine_factor=2, keep_pixels=True, **settings):
        return prepare_sequences(
            build(DataSettings, {'paths': [str(path) for path in paths], **settings}),
            pixel_budget=96 * 64,
            fine_factor=fine_factor,
            keep_pixels=keep_pixels,
            cache=tmp_path / 'cache',
        )

    return run


@pytest.fixture
def bag(drives, tmp_path):
    return drives.write_bag(tmp_path / 'drive.mcap', drives.make_pictures(FRAMES))


def total(preparation, name):
    counts = sum(preparation.rejected[name].values())
    return preparation.triplets + preparation.held_out + counts


def test_a_drive_becomes_a_sequence(prepare, bag, drives):
    prepared = prepare(bag)
    (sequence,) = prepared.sequences
    assert sequence.rgb.shape == (FRAMES, 128, 192, 3)
    assert isinstance(sequence.rgb, np.memmap)
    # Twice the size: c' = 2 (c + 1/2) - 1/2.
    camera = sequence.camera
    assert (camera.fx, camera.cx, camera.cy) == (140.0, 95.5, 63.5)
    assert np.array_equal(sequence.stamps_ns, np.arange(FRAMES) * drives.step_ns)
    assert sequence.poses is None
    assert sequence.valid.all()
    assert sequence.held_out.min() > sequence.triplets.max()
    assert (sequence.triplets[:, 1] < sequence.triplets[:, 0]).all()
    assert (sequence.triplets[:, 2] > sequence.triplets[:, 0]).all()
    assert prepared.triplets >= 14
    assert total(prepared, 'drive') == FRAMES
    (same,) = prepare(bag, fine_factor=1).sequences
    assert np.array_equal(same.rgb[3], drives.make_pictures(FRAMES)[3])


def test_what_was_decoded_is_used_again_until_the_recording_changes(
    prepare, bag, drives, monkeypatch
):
    first = prepare(bag)
    changed = drives.write_bag(bag.with_name('other.mcap'), drives.make_pictures(FRAMES, seed=1))
    with monkeypatch.context() as patch:
        patch.setattr('psd_depth_ros.data.triplets.prepare.open_frames', None)
        again = prepare(bag)
    assert again.sequences[0].fingerprint == first.sequences[0].fingerprint
    changed.replace(bag)
    assert prepare(bag).sequences[0].fingerprint != first.sequences[0].fingerprint


def test_measured_only_counts_the_same(prepare, bag, tmp_path):
    lean = prepare(bag, keep_pixels=False)
    assert not list((tmp_path / 'cache').rglob('rgb.npy'))
    full = prepare(bag)
    assert lean.sequences[0].fingerprint == full.sequences[0].fingerprint
    assert judge(full).lines == judge(lean).lines


def test_a_stationary_robot(prepare, drives, tmp_path):
    still = np.repeat(drives.make_pictures(1), FRAMES, axis=0)
    prepared = prepare(drives.write_bag(tmp_path / 'still.mcap', still))
    assert prepared.rejected['still']['stationary'] >= FRAMES - 4
    assert total(prepared, 'still') == FRAMES
    with pytest.raises(BagError, match=r'nothing can be learned from still: .*stands still: 2'):
        prepared.check()
    assert 'record while the robot drives' in judge(prepared).against[0]


def test_all_frames_blurred(prepare, drives, tmp_path):
    blurred = [cv2.GaussianBlur(p, (0, 0), 4) for p in drives.make_pictures(FRAMES)]
    prepared = prepare(drives.write_bag(tmp_path / 'soft.mcap', blurred))
    assert prepared.rejected['soft'] == {'blurred': FRAMES}
    with pytest.raises(BagError, match='blurred: 24'):
        prepared.check()


def test_a_bonnet_is_left_out(prepare, drives, tmp_path):
    pictures = drives.make_pictures(60, step_px=3.0)
    pictures[:, 54:] = 30
    (sequence,) = prepare(drives.write_bag(tmp_path / 'car.mcap', pictures)).sequences
    assert not sequence.valid[112:].any()
    assert sequence.valid[:96].mean() > 0.97
    options = {'triplets.mask_fixed_regions': False}
    assert prepare(tmp_path / 'car.mcap', **options).sequences[0].valid.all()


def test_camera_info_that_changes_makes_two_sequences(prepare, drives, tmp_path):
    cameras = [drives.camera] * 10 + [replace(drives.camera, fx=90.0, fy=90.0)] * 14
    path = drives.write_bag(tmp_path / 'zoom.mcap', drives.make_pictures(FRAMES), cameras)
    prepared = prepare(path)
    assert [sequence.name for sequence in prepared.sequences] == ['zoom/0', 'zoom/1']
    assert [len(sequence.rgb) for sequence in prepared.sequences] == [10, 14]
    assert [sequence.camera.fx for sequence in prepared.sequences] == [140.0, 180.0]
    (note,) = prepared.notes
    assert 'changes at stamp 1000000000 ns from 96x64 fx 70.00' in note
    assert 'to 96x64 fx 90.00' in note
    assert total(prepared, 'zoom') == FRAMES


def test_camera_info_that_never_stays(prepare, drives, tmp_path):
    cameras = [replace(drives.camera, fx=70.0 + i) for i in range(FRAMES)]
    path = drives.write_bag(tmp_path / 'noise.mcap', drives.make_pictures(FRAMES), cameras)
    with pytest.raises(BagError, match=r'the 16th change; give one calibration .* --camera'):
        prepare(path)


def test_bags_without_camera_info_or_with_two_cameras(prepare, drives, tmp_path):
    pictures = drives.make_pictures(FRAMES)
    path = drives.write_bag(tmp_path / 'blind.mcap', pictures, camera=None)
    with pytest.raises(BagError, match=r'no CameraInfo topic.*--camera camera.yaml'):
        prepare(path)
    yaml = tmp_path / 'mine.yaml'
    yaml.write_text('fx: 70\nfy: 70\ncx: 47.5\ncy: 31.5\nwidth: 96\nheight: 64\n')
    assert prepare(path, camera=str(yaml)).triplets

    def second(writer, index, stamp_ns):
        fields = image_fields(pictures[index], 'rgb8')
        writer.write('/rear/image', 'sensor_msgs/msg/Image', fields, stamp_ns, 'rear')

    path = drives.write_bag(tmp_path / 'two.mcap', pictures, camera=None, more=second)
    with pytest.raises(BagError, match='several cameras: /cam/image, /rear/image'):
        prepare(path)


def test_unreadable_among_good_ones(prepare, bag, tmp_path):
    (tmp_path / 'cut.mcap').write_bytes(bag.read_bytes()[:2000])
    prepared = prepare(tmp_path / '*.mcap', tmp_path / 'gone.mcap')
    assert [sequence.name for sequence in prepared.sequences] == ['drive']
    names = [one.path.rpartition('/')[2] for one in prepared.unreadable]
    assert names == ['cut.mcap', 'gone.mcap']
    assert 'cut short' in prepared.unreadable[0].reason
    with pytest.raises(BagError, match=r'cut\.mcap: it ends at byte 2000, .* are cut short'):
        prepare(tmp_path / '*.mcap', strict=True)
    with pytest.raises(BagError, match='none of the 2 recordings can be read'):
        prepare(tmp_path / 'cut.mcap', tmp_path / 'gone.mcap')
    with pytest.raises(BagError, match='no recordings are named'):
        prepare()


def test_a_disk_too_small_is_told_before(prepare, bag, tmp_path, monkeypatch):
    class Full:
        free = 1_000_000

    monkeypatch.setattr(caching.shutil, 'disk_usage', lambda path: Full)
    with pytest.raises(BagError, match=r'24 frames of .* need \d+\.\d MB decoded.* has room for'):
        prepare(bag)
    assert not list((tmp_path / 'cache').iterdir())


def test_a_disk_that_fills_up_leaves_nothing_behind(prepare, bag, tmp_path, monkeypatch):
    append = ArrayFile.append

    def fail(self, array):
        if self._count == 5:
            raise OSError(errno.ENOSPC, 'No space left on device')
        append(self, array)

    monkeypatch.setattr(ArrayFile, 'append', fail)
    with pytest.raises(BagError, match=r'cannot be kept in .*cache: No space left on device'):
        prepare(bag)
    assert not list((tmp_path / 'cache').iterdir())


def test_what_a_killed_process_left_behind_is_swept_up(prepare, bag, tmp_path):
    prepare(bag)
    (kept,) = (tmp_path / 'cache').iterdir()
    (kept.parent / f'.{kept.name}.0123.part').mkdir()
    shutil.rmtree(kept)
    prepare(bag)
    assert list(kept.parent.iterdir()) == [kept]


@pytest.mark.parametrize(
    ('name', 'damage'),
    [
        ('recording.json', 'flipped'), ('recording.json', 'gone'), ('0/facts.json', 'flipped'),
        ('0/facts.npz', 'flipped'), ('0/facts.npz', 'empty'), ('0/grey.npy', 'flipped'),
        ('0/rgb.npy', 'cut'),
    ],
)  # fmt: skip
def test_damaged_frames_are_decoded_again(prepare, bag, tmp_path, name, damage):
    (before,) = prepare(bag).sequences
    pictures = np.array(before.rgb)  # not the file, which is changed now
    (kept,) = (tmp_path / 'cache').iterdir()
    content = bytearray((kept / name).read_bytes())
    content[len(content) // 2 if name.endswith('json') else 70] ^= 4
    if damage == 'gone':
        (kept / name).unlink()
    else:
        changed = {'empty': b'', 'cut': content[:-3], 'flipped': content}[damage]
        (kept / name).write_bytes(changed)
    (after,) = prepare(bag).sequences
    assert after.fingerprint == before.fingerprint
    assert after.camera == before.camera
    np.testing.assert_array_equal(after.rgb, pictures)
    np.testing.assert_array_equal(after.stamps_ns, before.stamps_ns)
    assert list(kept.parent.iterdir()) == [kept]


def test_poses_and_points_come_to_the_camera(prepare, drives, tmp_path):
    """The body drives 0.1 m forward a frame; the camera is 1 m ahead and looks forward."""
    T_body_camera = make_pose([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], (1.0, 0.0, 0.5))
    # The lidar shares the axes of the body, 0.2 m above the camera.
    T_body_lidar = make_pose(np.eye(3), (1.0, 0.0, 0.7))
    on_the_ground = make_pose(np.eye(3), (0.0, 0.0, 0.2))
    points = np.array([[7.0, 0.0, -0.2], [-3.0, 0.0, 0.0]], np.float32)
    cloud = pack_cloud(dict(zip('xyz', points.T, strict=True)))

    def more(writer, index, stamp_ns):
        pose = make_pose(np.eye(3), (0.1 * index, 0.0, 0.0))
        fields = odometry_fields(pose, 'base_link')
        writer.write('/odom', 'nav_msgs/msg/Odometry', fields, stamp_ns, 'odom')
        writer.write('/lidar', 'sensor_msgs/msg/PointCloud2', cloud, stamp_ns, 'l')
        if index == 0:
            transforms = [
                transform_fields(T_body_camera, 0, 'base_link', 'optical'),
                transform_fields(T_body_lidar, 0, 'base_link', 'l'),
                transform_fields(on_the_ground, 0, 'base_footprint', 'base_link'),
            ]
            fields = {'transforms': transforms}
            writer.write('/tf_static', 'tf2_msgs/msg/TFMessage', fields, stamp_ns)

    pictures = drives.make_pictures(FRAMES)
    path = drives.write_bag(tmp_path / 'robot.mcap', pictures, more=more)
    (sequence,) = prepare(path, lidar_topic='/lidar').sequences
    assert sequence.poses_are_of_camera
    assert np.allclose((invert(sequence.poses[3]) @ sequence.poses[5])[:3, 3], [0, 0, 0.2])
    assert sequence.camera_height_m == pytest.approx(0.7)
    # Straight ahead of the camera at 7 m: at the principal point.
    assert np.allclose(sequence.lidar[4], [[95.5, 63.5, 7.0]], atol=1e-4)
    with pytest.raises(SettingsError, match='lidar_pose has 3 numbers, expected 7'):
        prepare(path, lidar_pose=[0.0, 0.0, 0.0])


def test_odometry_without_a_mounting_gives_distances_alone(prepare, drives, tmp_path):
    def more(writer, index, stamp_ns):
        pose = make_pose(np.eye(3), (0.1 * index, 0.0, 0.0))
        fields = odometry_fields(pose, 'base_link')
        writer.write('/odom', 'nav_msgs/msg/Odometry', fields, stamp_ns, 'odom')

    pictures = drives.make_pictures(FRAMES)
    path = drives.write_bag(tmp_path / 'robot.mcap', pictures, more=more)
    (sequence,) = prepare(path).sequences
    assert not sequence.poses_are_of_camera
    assert np.allclose(sequence.poses[5, :3, 3], [0.5, 0, 0])
