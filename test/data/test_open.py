"""What a person names becomes recordings; data sets are read in their own layouts."""

import json

import cv2
import numpy as np
import pytest

from psd_depth_ros.cli.main import main
from psd_depth_ros.config import build
from psd_depth_ros.data.open import find_recordings, open_frames
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.data.triplets.prepare import prepare_sequences
from psd_depth_ros.errors import BagError, CalibrationError, SettingsError
from psd_depth_ros.geometry.pose import invert

DAY, DRIVE = '2011_09_26', '2011_09_26_drive_0001_sync'
# The cameras stand 0.5 m apart: P_rect_03 = K [I | (-0.5, 0, 0)].
CAM_TO_CAM = """calib_time: 09-Jan-2012 13:57:47
S_rect_02: 9.6e+01 6.4e+01
R_rect_00: 1 0 0 0 1 0 0 0 1
P_rect_02: 70 0 47 0 0 70 31 0 0 0 1 0
S_rect_03: 9.6e+01 6.4e+01
P_rect_03: 70 0 47 -35 0 70 31 0 0 0 1 0
"""
# Lidar and IMU: x forward, y left, z up; the lidar 0.1 m above camera 0, the IMU 0.8 m behind.
VELO_TO_CAM = 'calib_time: x\nR: 0 -1 0 0 0 -1 1 0 0\nT: 0 -0.1 0\n'
IMU_TO_VELO = 'R: 1 0 0 0 1 0 0 0 1\nT: -0.8 0 0\n'
METRES_PER_DEGREE = 6378137.0 * np.pi / 180
SPLITS = ('train_files.txt', 'val_files.txt')


def find(*paths, **settings):
    return find_recordings(build(DataSettings, {'paths': [str(p) for p in paths], **settings}))


def frames_of(path, **options):
    with open_frames(path, **options) as source:
        return list(source.frames()), source


def write_images(folder, pictures, names):
    folder.mkdir(parents=True)
    for picture, name in zip(pictures, names, strict=True):
        cv2.imwrite(str(folder / name), picture[..., ::-1])


@pytest.fixture
def raw(tmp_path, drives):
    """KITTI raw with one drive: due north at 1 m a frame, level, on the equator."""
    root = tmp_path / 'raw'
    drive = root / DAY / DRIVE
    pictures = drives.make_pictures(12)
    names = [f'{i:010d}.png' for i in range(12)]
    for camera in ('image_02', 'image_03'):
        write_images(drive / camera / 'data', pictures, names)
        times = [f'2011-09-26 13:02:25.{i}00000001' for i in range(10)]
        times += [f'2011-09-26 13:02:26.{i}00000001' for i in range(2)]
        (drive / camera / 'timestamps.txt').write_text('\n'.join(times))
    (drive / 'oxts' / 'data').mkdir(parents=True)
    (drive / 'velodyne_points' / 'data').mkdir(parents=True)
    for i in range(12):
        degrees = i / METRES_PER_DEGREE
        words = f'{degrees:.15f} 8.5 115 0 0 {np.pi / 2} 10 0'
        (drive / 'oxts' / 'data' / f'{i:010d}.txt').write_text(words)
        points = np.array([[9, 0, 0.1, 0.3], [-5, 0, 0, 0.3]], np.float32)
        points.tofile(drive / 'velodyne_points' / 'data' / f'{i:010d}.bin')
    for name, text in (
        ('cam_to_cam', CAM_TO_CAM), ('velo_to_cam', VELO_TO_CAM), ('imu_to_velo', IMU_TO_VELO)
    ):  # fmt: skip
        (root / DAY / f'calib_{name}.txt').write_text(text)
    return root


def test_a_drive_of_kitti_raw(raw):
    frames, source = frames_of(raw / DAY / DRIVE)
    assert source.count == len(frames) == 12
    camera = frames[0].camera
    assert (camera.width, camera.height, camera.fx, camera.cx) == (96, 64, 70.0, 47.0)
    assert frames[1].stamp_ns - frames[0].stamp_ns == 100_000_000
    assert frames[10].stamp_ns - frames[9].stamp_ns == 100_000_000
    moved = invert(frames[0].pose) @ frames[3].pose
    assert np.allclose(moved[:3, 3], [0, 0, 3], atol=1e-4)
    assert np.allclose(moved[:3, :3], np.eye(3), atol=1e-9)
    assert frames[0].lidar is None
    right, _ = frames_of(raw / DAY / DRIVE / 'image_03')
    beside = invert(frames[2].pose) @ right[2].pose
    assert np.allclose(beside[:3, 3], [0.5, 0, 0], atol=1e-9)


def test_points_of_kitti_raw_come_to_the_camera(raw, tmp_path):
    settings = build(DataSettings, {'paths': [str(raw)], 'lidar_topic': 'velodyne'})
    (sequence,) = prepare_sequences(
        settings, pixel_budget=96 * 64, fine_factor=1, cache=tmp_path / 'cache'
    ).sequences
    # 9 m ahead of the lidar and 0.1 m above it: 0.2 m above the camera.
    assert np.allclose(sequence.lidar[3], [[47.0, 31.0 - 70 * 0.2 / 9, 9.0]], atol=1e-4)
    assert sequence.camera_height_m == 1.65


def test_kitti_raw_without_its_calibration(raw):
    (raw / DAY / 'calib_cam_to_cam.txt').unlink()
    with pytest.raises(CalibrationError, match=r'no calib_cam_to_cam\.txt'):
        open_frames(raw / DAY / DRIVE)


def test_the_eigen_zhou_lists_choose_targets_and_cameras(raw, tmp_path):
    lists = [tmp_path / name for name in SPLITS]
    lists[0].write_text(f'{DAY}/{DRIVE} 3 l\n{DAY}/{DRIVE} 5 r\n{DAY}/{DRIVE} 11 l\n')
    lists[1].write_text(f'{DAY}/{DRIVE} 7 l\n')
    files = dict(zip(('split_file', 'held_out_file'), map(str, lists), strict=True))
    settings = build(DataSettings, {'paths': [str(raw)], 'split': 'eigen_zhou', **files})
    prepared = prepare_sequences(settings, pixel_budget=96 * 64, cache=tmp_path / 'cache')
    left, right = prepared.sequences
    assert left.triplets.tolist() == [[3, 2, 4]]
    assert left.held_out.tolist() == [[7, 6, 8]]
    assert right.triplets.tolist() == [[5, 4, 6]]
    assert prepared.rejected[f'{DRIVE}-image_02'] == {'unlisted': 9, 'end': 1}
    with pytest.raises(SettingsError, match=r'needs the lists of the Eigen-Zhou split'):
        find(raw, split='eigen_zhou')
    lists[0].write_text('no such line\n')
    with pytest.raises(SettingsError, match=r"line 1 is 'no such line', expected"):
        find_recordings(settings)


def test_a_sequence_of_kitti_odometry(tmp_path, drives):
    sequence = tmp_path / 'odometry' / 'sequences' / '04'
    names = [f'{i:06d}.png' for i in range(4)]
    write_images(sequence / 'image_2', drives.make_pictures(4), names)
    (sequence / 'calib.txt').write_text(
        'P0: 70 0 47 0 0 70 31 0 0 0 1 0\nP2: 70 0 47 4.2 0 70 31 0 0 0 1 0\n'
    )
    (sequence / 'times.txt').write_text('0\n1.04e-01\n2.1e-01\n3.1e-01\n')
    poses = tmp_path / 'odometry' / 'poses'
    poses.mkdir()
    rows = [f'1 0 0 0 0 1 0 0 0 0 1 {0.9 * i}' for i in range(4)]
    (poses / '04.txt').write_text('\n'.join(rows))
    (recording,) = find(tmp_path / 'odometry')
    frames, _ = frames_of(recording.path)
    assert [frame.stamp_ns for frame in frames] == [0, 104_000_000, 210_000_000, 310_000_000]
    # Camera 2 sits 0.06 m to the left of camera 0: X_2 = X_0 + 4.2 / 70.
    assert np.allclose(frames[2].pose[:3, 3], [-0.06, 0, 1.8])
    (poses / '04.txt').write_text(rows[0])
    with pytest.raises(BagError, match='has 1 poses, expected one for each of 4 images'):
        open_frames(recording.path)


def test_snippets_of_cityscapes(tmp_path, drives):
    root = tmp_path / 'cityscapes'
    pictures = drives.make_pictures(6)
    for split, city in (('train', 'aachen'), ('val', 'lindau'), ('test', 'bonn')):
        names = [f'{city}_{s:06d}_{f:06d}_leftImg8bit.png' for s in (0, 1) for f in (17, 18, 19)]
        write_images(root / 'leftImg8bit_sequence' / split / city, pictures, names)
        folder = root / 'camera' / split / city
        folder.mkdir(parents=True)
        for sequence, fx in ((0, 70.0), (1, 72.0)):
            values = {'intrinsic': {'fx': fx, 'fy': 70.0, 'u0': 47.0, 'v0': 31.0}}
            name = f'{city}_{sequence:06d}_000019_camera.json'
            (folder / name).write_text(json.dumps(values))
    found = find(root, split='cityscapes')
    assert [(one.name, one.role) for one in found] == [('aachen', 'train'), ('lindau', 'held_out')]
    settings = build(DataSettings, {'paths': [str(root)], 'split': 'cityscapes'})
    prepared = prepare_sequences(settings, pixel_budget=96 * 64, cache=tmp_path / 'cache')
    assert [one.camera.fx for one in prepared.sequences] == [140.0, 144.0] * 2
    assert [one.triplets.tolist() for one in prepared.sequences[:2]] == [[[1, 0, 2]]] * 2
    assert [one.held_out.tolist() for one in prepared.sequences[2:]] == [[[1, 0, 2]]] * 2
    with pytest.raises(SettingsError, match=r'holds no leftImg8bit_sequence/train'):
        find(tmp_path, split='cityscapes')


def test_patterns_ranges_and_folders_of_recordings(tmp_path, drives):
    pictures = drives.make_pictures(9)
    for name in ('b.mcap', 'a.mcap'):
        drives.write_bag(tmp_path / name, pictures)
    assert [one.name for one in find(tmp_path / '*.mcap')] == ['a', 'b']
    assert [one.name for one in find(tmp_path)] == ['a', 'b']
    assert [one.name for one in find(tmp_path / 'a.mcap', tmp_path / '*.mcap')] == ['a', 'b']
    (part,) = find(f'{tmp_path}/a.mcap#2:7')
    assert (part.first, part.stop) == (2, 7)
    settings = build(DataSettings, {'paths': [f'{tmp_path}/a.mcap#2:7']})
    (sequence,) = prepare_sequences(
        settings, pixel_budget=96 * 64, fine_factor=1, cache=tmp_path / 'cache'
    ).sequences
    assert np.array_equal(sequence.rgb, pictures[2:7])
    for name in ('x', 'y'):
        write_images(tmp_path / 'walks' / name, pictures[:1], ['0.png'])
    assert [one.name for one in find(tmp_path / 'walks')] == ['x', 'y']


@pytest.mark.parametrize(
    ('options', 'name'),
    [
        (['--image-topic', '/front/image', '--camera-info-topic', '/nope'], '--image-topic'),
        (['--stamps', 'recorded'], '--stamps recorded'),
    ],
)
def test_a_data_set_refuses_topics(raw, options, name, capsys):
    assert main(['inspect', str(raw / DAY / DRIVE), '--quiet', *options]) == 2
    assert f'(layout kitti) has no topics; leave out {name}' in capsys.readouterr().err


def test_settings_that_mean_nothing_to_any_recording_are_refused(raw, tmp_path, capsys):
    assert main(['inspect', 'synth:street:0-1?frames=2', '--quiet', '--fov', '20']) == 2
    assert 'leave out data.horizontal_fov_deg (--fov): nothing of' in capsys.readouterr().err
    world = 'synth:street:0?frames=3&size=64x32'
    for paths, given, message in (
        ([world], {'camera': 'camera.yaml'}, r'leave out data.camera \(--camera\): nothing of'),
        ([world, str(raw / DAY / DRIVE)], {'image_topic': '/a'}, 'is a bag with topics'),
        ([world], {'lidar_topic': '/points'}, 'has a lidar'),
    ):
        settings = build(DataSettings, {'paths': paths, **given})
        with pytest.raises(SettingsError, match=message):
            prepare_sequences(settings, pixel_budget=1024, cache=tmp_path / 'cache')


def test_rendered_worlds_are_recordings(tmp_path):
    name = 'synth:street:2-3?frames=4&size=64x32&condition=fog'
    assert [one.name for one in find(name)] == ['synth-street-2', 'synth-street-3']
    settings = build(DataSettings, {'paths': ['synth:room:5?frames=3&size=64x32&speed_mps=2']})
    (sequence,) = prepare_sequences(
        settings, pixel_budget=1024, fine_factor=2, cache=tmp_path / 'cache'
    ).sequences
    assert sequence.depth.shape == sequence.rgb.shape[:3]
    assert 0.1 < np.median(sequence.depth[0]) < 20
    assert np.linalg.norm(sequence.poses[2, :3, 3] - sequence.poses[0, :3, 3]) > 0.1
    for wrong, message in (
        ('synth:street:a', 'is no rendered world; expected synth:KIND:SEEDS'),
        ('synth:street:3-1', 'seeds 3-1 go down'),
        ('synth:street:0?frames=no', 'frames is False, expected a whole number'),
        ('synth:street:0?fog=1', "unknown setting 'fog'"),
        ('synth:lake:0', "kind is 'lake', expected one of street, room, mixed"),
    ):
        with pytest.raises(SettingsError, match=message):
            find(wrong)
