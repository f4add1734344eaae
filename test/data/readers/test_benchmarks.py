"""Benchmarks in their original layouts, a few pixels each."""

import json

import cv2
import numpy as np
import pytest

from psd_depth_ros.data.frames import LensChoice, SourceOptions
from psd_depth_ros.errors import EvaluationError, SettingsError
from psd_depth_ros.evaluation.evaluate import open_data

DATE, DRIVE = '2011_09_26', '2011_09_26_drive_0002_sync'
SIZE = (124, 37)
CAM_TO_CAM = f"""calib_time: 09-Jan-2012 13:57:47
R_rect_00: 1 0 0 0 1 0 0 0 1
S_rect_02: {SIZE[0]} {SIZE[1]}
P_rect_02: 70 0 62 0 0 70 18 0 0 0 1 0
"""
# Camera axes of a velodyne that looks along x, 0.27 m behind the camera.
VELO_TO_CAM = 'R: 0 -1 0 0 0 -1 1 0 0\nT: 0 0 -0.27\n'


@pytest.fixture
def kitti(tmp_path):
    drive = tmp_path / DATE / DRIVE
    for part in ('image_02/data', 'velodyne_points/data'):
        (drive / part).mkdir(parents=True)
    (tmp_path / DATE / 'calib_cam_to_cam.txt').write_text(CAM_TO_CAM)
    (tmp_path / DATE / 'calib_velo_to_cam.txt').write_text(VELO_TO_CAM)
    for frame in ('0000000005', '0000000006'):
        image = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
        cv2.imwrite(str(drive / f'image_02/data/{frame}.png'), image)
    points = [(10.27, 0, 0, 1), (20.27, 0, 0, 1), (-5, 0, 0, 1), (10.27, -1, 0, 1)]
    sweep = drive / 'velodyne_points/data/0000000005.bin'
    np.array(points, np.float32).tofile(sweep)
    return tmp_path


def test_velodyne_points_fall_where_the_published_protocol_puts_them(kitti):
    source, protocol = open_data(kitti)
    (frame,) = source.frames()
    assert protocol.name == 'kitti'
    assert frame.camera.fx == 70.0
    assert frame.sequence == DRIVE
    known = np.argwhere(frame.depth_m > 0).tolist()
    # Straight ahead is pixel (62, 18), counted from 1; 1 m to the right at 10 m is 7 px away.
    assert known == [[17, 61], [17, 68]]
    assert frame.depth_m[17, 61] == pytest.approx(10.27), 'the nearest, from the velodyne'


def test_split_files_of_both_kinds(kitti, tmp_path):
    split = tmp_path / 'split.txt'
    split.write_text(
        f'{DATE}/{DRIVE} 5 l\n{DATE}/{DRIVE}/image_02/data/0000000006.png {DATE}/other.png\n'
    )
    source, protocol = open_data(kitti, options=SourceOptions(split_file=split))
    assert protocol.name == 'kitti_eigen'
    assert [one.name for one in source.frames()] == [f'{DRIVE}/0000000005', f'{DRIVE}/0000000006']
    assert [one.depth_m is None for one in source.frames()] == [False, True]


def test_the_eigen_protocol_asks_for_its_list(kitti, tmp_path):
    with pytest.raises(EvaluationError, match='--split-file'):
        open_data(kitti, 'kitti_eigen')
    split = tmp_path / 'split.txt'
    split.write_text('nonsense\n')
    with pytest.raises(SettingsError, match=r'split\.txt, line 1 is .nonsense., expected a line'):
        open_data(kitti, 'kitti_eigen', SourceOptions(split_file=split))


def test_improved_truth_lies_in_a_folder_of_its_own(kitti, tmp_path):
    with pytest.raises(EvaluationError, match='--truth'):
        open_data(kitti, 'kitti_eigen_improved')
    folder = tmp_path / 'annotated' / 'val' / DRIVE / 'proj_depth/groundtruth/image_02'
    folder.mkdir(parents=True)
    depth = np.full(SIZE[::-1], 84 * 256, np.uint16)
    cv2.imwrite(str(folder / '0000000006.png'), depth)
    choice = SourceOptions(truth_folder=tmp_path / 'annotated')
    source, protocol = open_data(kitti, 'kitti_eigen_improved', choice)
    (frame,) = source.frames()
    assert frame.depth_m[0, 0] == 84.0 < protocol.truth_limit_m
    assert protocol.maximum_m == 80.0
    assert protocol.crop is None


def test_a_sweep_cut_short_is_named(kitti):
    sweep = kitti / DATE / DRIVE / 'velodyne_points/data/0000000005.bin'
    sweep.write_bytes(b'12345')
    with pytest.raises(EvaluationError, match=r'0000000005\.bin is cut short'):
        list(open_data(kitti)[0].frames())


def test_cityscapes_loses_its_bonnet(tmp_path):
    for part, name in (('leftImg8bit', 'leftImg8bit'), ('disparity', 'disparity')):
        folder = tmp_path / part / 'test' / 'berlin'
        folder.mkdir(parents=True)
        kind = np.uint8 if part == 'leftImg8bit' else np.uint16
        shape = (1024, 2048, 3) if part == 'leftImg8bit' else (1024, 2048)
        picture = np.full(shape, 0 if part == 'leftImg8bit' else 256 * 20 + 1, kind)
        cv2.imwrite(str(folder / f'x_{name}.png'), picture)
    folder = tmp_path / 'camera' / 'test' / 'berlin'
    folder.mkdir(parents=True)
    inner = {'fx': 2200, 'fy': 2200, 'u0': 1100, 'v0': 510}
    (folder / 'x_camera.json').write_text(
        json.dumps({'intrinsic': inner, 'extrinsic': {'baseline': 0.2}})
    )
    source, protocol = open_data(tmp_path)
    (frame,) = source.frames()
    assert frame.rgb.shape == (768, 2048, 3)
    assert frame.camera.size == (768, 2048)
    assert frame.depth_m[0, 0] == pytest.approx(2200 * 0.2 / 20)
    inside = protocol.restrict(frame.depth_m)
    assert np.count_nonzero(inside > 0) == (768 - 256) * (1856 - 192)


def test_make3d_is_measured_on_the_grid_of_its_laser(tmp_path):
    io = pytest.importorskip('scipy.io', reason='Make3D comes as MATLAB files')
    (tmp_path / 'Test134').mkdir()
    (tmp_path / 'Gridlaserdata').mkdir()
    cv2.imwrite(str(tmp_path / 'Test134' / 'img-a.jpg'), np.zeros((2272, 1704, 3), np.uint8))
    grid = np.zeros((55, 305, 4))
    grid[..., 3] = np.arange(55)[:, None]
    io.savemat(tmp_path / 'Gridlaserdata' / 'depth_sph_corr-a.mat', {'Position3DGrid': grid})
    with pytest.raises(EvaluationError, match='--fov'):
        open_data(tmp_path)
    source, protocol = open_data(tmp_path, options=SourceOptions(LensChoice(None, 48.0)))
    (frame,) = source.frames()
    assert protocol.maximum_m == 70.0
    assert frame.rgb.shape == (852, 1704, 3)
    assert frame.depth_m[[0, -1], 0].tolist() == [17.0, 37.0]
    assert frame.on_depth_grid(np.ones((852, 1704), np.float32)).shape == (21, 305)


def test_nyu_is_read_from_its_own_file(tmp_path):
    io = pytest.importorskip('scipy.io', reason='NYUv2 comes as MATLAB files')
    h5py = pytest.importorskip('h5py', reason='NYUv2 comes as an HDF5 file')
    with h5py.File(tmp_path / 'nyu_depth_v2_labeled.mat', 'w') as file:
        images = np.zeros((3, 3, 640, 480), np.uint8)
        images[1, 0, 5, 7] = 200
        depths = np.ones((3, 640, 480), np.float32)
        depths[1, 5, 7] = 4.0
        file['images'], file['depths'] = images, depths
    with pytest.raises(EvaluationError, match=r'splits\.mat'):
        open_data(tmp_path)
    io.savemat(tmp_path / 'splits.mat', {'testNdxs': np.array([[2], [3]])})
    source, protocol = open_data(tmp_path)
    first = next(source.frames())
    assert source.count == 2
    assert tuple(first.rgb[7, 5]) == (200, 0, 0)
    assert first.depth_m[7, 5] == 4.0
    assert protocol.name == 'nyuv2'
