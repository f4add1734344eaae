"""Folders of images with their depth beside them."""

import cv2
import numpy as np
import pytest

from psd_depth_ros.data.depth import rectify_depth
from psd_depth_ros.data.frames import LensChoice, SourceOptions
from psd_depth_ros.errors import CalibrationError, EvaluationError
from psd_depth_ros.evaluation.evaluate import open_data, parse_range
from psd_depth_ros.geometry import Camera

CALIBRATION = 'fx: 50\nfy: 50\ncx: 31.5\ncy: 23.5\nwidth: 64\nheight: 48\n'


def write_depth(path, value, size=(64, 48)):
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.full(size[::-1], value, np.uint16))


def write_image(path, size=(64, 48)):
    path.parent.mkdir(exist_ok=True)
    cv2.imwrite(str(path), np.full((*size[::-1], 3), (10, 20, 30), np.uint8))


@pytest.fixture
def lidar(tmp_path):
    for name in ('a', 'b', 'c'):
        write_image(tmp_path / f'{name}.png')
    write_depth(tmp_path / 'a_depth.png', 5 * 256)
    write_depth(tmp_path / 'b_depth.png', 0)
    (tmp_path / 'camera.yaml').write_text(CALIBRATION)
    return tmp_path


def test_images_with_lidar_beside_them(lidar):
    source, protocol = open_data(lidar)
    found = list(source.frames())
    assert protocol.name == 'outdoor', 'the Garg crop is for pictures of the shape of KITTI'
    assert [one.name for one in found] == ['a', 'b', 'c']
    assert found[0].depth_m[0, 0] == 5.0
    assert tuple(found[0].rgb[0, 0]) == (30, 20, 10)
    assert np.isnan(found[1].depth_m).all(), '0 is no measurement'
    assert found[2].depth_m is None
    assert found[0].camera.fx == 50.0


def test_pictures_of_12_bits_are_read_by_their_range(lidar):
    for name in ('a', 'b', 'c'):
        cv2.imwrite(str(lidar / f'{name}.png'), np.full((48, 64), 4095, np.uint16))
    source, _ = open_data(lidar)
    assert next(source.frames()).rgb.max() == 16
    assert 'set sixteen_bit_range to 12bit' in source.notes[0]
    deep, _ = open_data(lidar, options=SourceOptions(LensChoice(sixteen_bit_range='12bit')))
    assert next(deep.frames()).rgb.min() == 255
    (lidar / 'a.png').write_bytes((lidar / 'a.png').read_bytes()[:-20])
    with pytest.raises(EvaluationError, match=r'a\.png is damaged: it was cut short'):
        next(deep.frames())


def test_pictures_of_the_shape_of_kitti_are_cropped(tmp_path):
    write_image(tmp_path / '0.png', (124, 37))
    write_depth(tmp_path / '0_depth.png', 256, (124, 37))
    source, protocol = open_data(tmp_path, options=SourceOptions(LensChoice(None, 80.0)))
    assert protocol.name == 'kitti'
    assert next(source.frames()).depth_m[0, 0] == 1.0


def test_calibration_of_each_image_goes_first(lidar):
    (lidar / 'a_camera.yaml').write_text(CALIBRATION.replace('fx: 50', 'fx: 60'))
    source, _ = open_data(lidar)
    assert [one.camera.fx for one in source.frames()] == [60.0, 50.0, 50.0]


def test_no_calibration_says_where_it_was_looked_for(lidar):
    (lidar / 'camera.yaml').unlink()
    with pytest.raises(CalibrationError, match=r'a_camera\.yaml and .*--fov'):
        open_data(lidar)


def test_truth_of_another_size_is_refused(lidar):
    write_depth(lidar / 'b_depth.png', 256, (32, 24))
    source, _ = open_data(lidar)
    with pytest.raises(EvaluationError, match=r'b_depth\.png is 32x24, but its image is 64x48'):
        list(source.frames())


def test_a_picture_of_depth_is_not_depth(lidar):
    cv2.imwrite(str(lidar / 'a_depth.png'), np.zeros((48, 64), np.uint8))
    with pytest.raises(EvaluationError, match='8 bits'):
        open_data(lidar)


def test_rgbd_table_with_poses_times_and_a_frame_without_depth(tmp_path):
    write_image(tmp_path / 'color' / '0.png')
    write_image(tmp_path / 'color' / '1.png')
    write_depth(tmp_path / 'depth' / '0.png', 2500)
    pose = [f'T{row}{column}' for row in range(3) for column in range(4)]
    numbers = '1,0,0,7,0,1,0,8,0,0,1,9'
    rows = [
        'file,depth,t_nominal_s,' + ','.join(pose),
        f'color/0.png,depth/0.png,0.5,{numbers}',
        f'color/1.png,,0.6,{numbers}',
    ]
    (tmp_path / 'frames.csv').write_text('\n'.join(rows) + '\n')
    (tmp_path / 'camera.yaml').write_text(CALIBRATION)
    source, protocol = open_data(tmp_path)
    first, second = source.frames()
    assert protocol.name == 'indoor'
    assert first.depth_m[0, 0] == 2.5
    assert first.stamp_ns == 500_000_000
    assert first.pose[:3, 3].tolist() == [7, 8, 9]
    assert second.depth_m is None
    assert first.sequence == second.sequence != ''
    assert source.view_pose(first)[:3, 3].tolist() == [7, 8, 9]
    source.select(parse_range('1:'))
    assert [one.name for one in source.frames()] == ['color/1.png']


def test_folders_of_colour_and_depth_with_other_units(tmp_path):
    write_image(tmp_path / 'rgb' / '7.png')
    write_depth(tmp_path / 'depth' / '7.png', 5000)
    np.save(tmp_path / 'depth' / '8.npy', np.full((48, 64), 3.5))
    write_image(tmp_path / 'rgb' / '8.png')
    choice = SourceOptions(LensChoice(None, 60.0), units_per_metre=5000.0)
    source, _ = open_data(tmp_path, options=choice)
    assert [one.depth_m[0, 0] for one in source.frames()] == [1.0, 3.5]


def test_a_folder_without_truth_says_what_was_expected(tmp_path):
    write_image(tmp_path / '0.png')
    with pytest.raises(EvaluationError, match=r'<id>_depth\.png'):
        open_data(tmp_path)
    with pytest.raises(EvaluationError, match='not there'):
        open_data(tmp_path / 'none')


def test_unknown_protocols_are_listed(lidar):
    with pytest.raises(EvaluationError, match=r'kitti_eigen, .*nyuv2'):
        open_data(lidar, 'eigen')


def test_truth_follows_the_image_into_the_rectified_view():
    camera = Camera.from_K([[50, 0, 31.5], [0, 50, 23.5], [0, 0, 1]], 64, 48, [-0.3, 0, 0, 0])
    truth = np.broadcast_to(np.arange(64, dtype=np.float32) + 1, (48, 64)).copy()
    view = rectify_depth(truth, camera)
    # At x = 60 of the view: r = 0.57, r (1 - 0.3 r^2) = 0.514.., so column 57.2 of the raw image.
    assert view[23, 60] == pytest.approx(1 + 57.2, abs=0.6)
    assert view[23, 32] == 33.0


@pytest.fixture
def unregistered(tmp_path):
    """A wall at 4 m, whose right half is at 2 m, seen by a wider depth camera at the right."""
    write_image(tmp_path / 'color' / '1.png')
    (tmp_path / 'depth').mkdir()
    depth = np.full((48, 64), 4000, np.uint16)
    depth[:, 32:] = 2000
    cv2.imwrite(str(tmp_path / 'depth' / '1.png'), depth)
    (tmp_path / 'camera.yaml').write_text(CALIBRATION)
    (tmp_path / 'depth_camera.yaml').write_text(
        CALIBRATION.replace('50', '40') + 'pose: [0.4, 0, 0, 0, 0, 0, 1]\n'
    )
    return tmp_path


def test_depth_of_a_camera_of_its_own_is_registered_to_the_image(unregistered):
    source, _ = open_data(unregistered)
    depth = next(source.frames()).depth_m
    # column 32 of depth: x / z = 0.5 / 40, so x = 0.025 m + 0.4 m at 2 m: 31.5 + 50 x 0.2125 = 42
    # column 31: x / z = -0.5 / 40, so x = -0.05 m + 0.4 m at 4 m: 31.5 + 50 x 0.0875 = 36
    assert set(depth[24, :36]) == {4.0}
    assert np.isnan(depth[24, 38:41]).all(), 'what stands behind the edge is not seen'
    assert set(depth[24, 43:]) == {2.0}
    assert not np.isnan(np.delete(depth, np.s_[36:43], axis=1)).any(), 'without gaps'


def test_depth_cameras_are_given_by_option_too(unregistered):
    beside = unregistered / 'depth_camera.yaml'
    other = beside.rename(unregistered / 'other.yaml')
    source, _ = open_data(unregistered)
    assert (next(source.frames()).depth_m[24, 32:] == 2.0).all(), 'taken for registered'
    source, _ = open_data(unregistered, options=SourceOptions(depth_camera=other))
    assert next(source.frames()).depth_m[24, 35] == 4.0
    with pytest.raises(CalibrationError, match=r'nothing\.yaml'):
        open_data(unregistered, options=SourceOptions(depth_camera=unregistered / 'nothing.yaml'))


def test_a_depth_camera_that_does_not_fit_is_refused(unregistered):
    path = unregistered / 'depth_camera.yaml'
    path.write_text(CALIBRATION.replace('64', '32'))
    with pytest.raises(EvaluationError, match='64x48, but the calibration of the depth camera is'):
        next(open_data(unregistered)[0].frames())
    path.write_text(CALIBRATION + 'pose: [0.4, 0, 0]\n')
    with pytest.raises(CalibrationError, match='expected x y z qx qy qz qw in metres'):
        open_data(unregistered)
