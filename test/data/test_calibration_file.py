"""camera.yaml in both forms, and how each can be wrong."""

import math
import re

import cv2
import numpy as np
import pytest

from psd_depth_ros.data.calibration_file import camera_from_fov, load_camera
from psd_depth_ros.errors import CalibrationError

SIMPLE = 'fx: 720.5\nfy: 710\ncx: 609.5\ncy: 172.8\nwidth: 1242\nheight: 375\n'
ROS = """
image_width: 640
image_height: 480
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [400, 0, 320, 0, 410, 240, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, 0.01, 0, 0, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [380, 0, 321, 0, 0, 390, 241, 0, 0, 0, 1, 0]}
"""


@pytest.fixture
def load(tmp_path):
    def load_text(text, **options):
        path = tmp_path / 'camera.yaml'
        path.write_text(text)
        return load_camera(path, **options)

    return load_text


def test_simple_form(load):
    camera = load(SIMPLE + 'distortion: none (rectified)\ncamera_height_m: 1.65\n')
    assert (camera.width, camera.height, camera.fx, camera.cy) == (1242, 375, 720.5, 172.8)
    assert camera.is_rectified


def test_simple_form_with_a_lens(load):
    camera = load(SIMPLE + 'distortion_model: equidistant\ndistortion: [0.1, 0, 0, 0]\n')
    assert camera.distortion.model == 'equidistant'


def test_the_form_of_camera_calibration(load):
    camera = load(ROS)
    assert (camera.fx, camera.rectified().fx) == (400, 380)
    assert camera.distortion.coefficients[0] == 0.1
    assert load(ROS, image_is_rectified=True).fx == 380


def test_matrices_that_are_left_out(load):
    lines = [line for line in ROS.splitlines() if not line.startswith(('rect', 'proj'))]
    camera = load('\n'.join(lines))
    assert camera.rectified().fx == 400


KALIBR = """
cam0:
  camera_model: pinhole
  distortion_coeffs: [0.01, 0.02, -0.003, 0.001]
  distortion_model: equidistant
  intrinsics: [461.6, 460.3, 362.7, 248.1]
  resolution: [752, 480]
  rostopic: /cam0/image_raw
cam1:
  T_cn_cnm1: [[1.0, 0, 0, -0.1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
  camera_model: pinhole
  distortion_coeffs: [-0.28, 0.07, 0.0002, 0.00002]
  distortion_model: radtan
  intrinsics: [458.6, 457.2, 367.2, 248.3]
  resolution: [752, 480]
  rostopic: /cam1/image_raw
"""
DUMPED = """header:
  stamp: {sec: 12, nanosec: 5}
  frame_id: camera
height: 480
width: 640
distortion_model: plumb_bob
d:
- 0.1
- 0.01
- 0.0
- 0.0
- 0.0
k: [400.0, 0.0, 320.0, 0.0, 410.0, 240.0, 0.0, 0.0, 1.0]
r: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
p: [380.0, 0.0, 321.0, 0.0, 0.0, 390.0, 241.0, 0.0, 0.0, 0.0, 1.0, 0.0]
binning_x: 2
binning_y: 2
roi: {x_offset: 0, y_offset: 0, height: 0, width: 0, do_rectify: false}
---
"""


def write_with_opencv(path, **values):
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for name, value in values.items():
        storage.write(name, value)
    storage.release()
    return path


def test_file_storage_of_opencv(tmp_path):
    K = np.array([[400.0, 0, 320], [0, 410, 240], [0, 0, 1]])
    five = np.array([[0.1], [0.01], [0], [0], [0]])
    named = {'image_width': 640, 'image_height': 480, 'camera_matrix': K}
    path = write_with_opencv(tmp_path / 'a.yml', **named, distortion_coefficients=five)
    body = path.read_text().partition('\n')[2]
    for head in ('%YAML:1.0', '%YAML 1.2'):  # of OpenCV 4 and 5
        path.write_text(f'{head}\n{body}')
        assert load_camera(path).cx == 320
    camera = load_camera(path)
    assert (camera.fx, camera.fy, camera.width) == (400, 410, 640)
    assert camera.distortion.coefficients[:2] == (0.1, 0.01)
    four = {'distortion_coefficients': five[:4]}
    path = write_with_opencv(tmp_path / 'b.yml', **named, **four, fisheye_model=1)
    assert load_camera(path).distortion.model == 'equidistant'
    path = write_with_opencv(tmp_path / 'c.yml', **named, **four)
    with pytest.raises(CalibrationError, match='four coefficients are of two models'):
        load_camera(path)
    path = write_with_opencv(tmp_path / 'd.xml', **named)
    with pytest.raises(CalibrationError, match='is XML'):
        load_camera(path)


def test_camchain_of_kalibr(load, tmp_path):
    path = tmp_path / 'camchain.yaml'
    path.write_text(KALIBR)
    first, second = (load_camera(f'{path}#cam{number}') for number in (0, 1))
    assert (first.fx, first.fy, first.cx, first.cy) == (461.6, 460.3, 362.7, 248.1)
    assert first.distortion.model == 'equidistant'
    assert second.distortion.model == 'plumb_bob'
    assert second.distortion.coefficients[0] == -0.28
    with pytest.raises(CalibrationError, match=r'2 cameras.*cam1 \(/cam1/image_raw\).*#cam0'):
        load_camera(path)
    with pytest.raises(CalibrationError, match='no cam7'):
        load_camera(f'{path}#cam7')
    # One camera needs no name; models are written in one word by its command line.
    alone = KALIBR.partition('cam1:')[0].replace('pinhole', 'pinhole-equi')
    assert load(alone.replace('  distortion_model: equidistant\n', '')) == first
    with pytest.raises(CalibrationError, match="camera_model 'omni' of Kalibr"):
        load(alone.replace('pinhole-equi', 'omni'))


def test_a_sensor_file_of_euroc(load):
    camera = load(
        'sensor_type: camera\nresolution: [752, 480]\ncamera_model: pinhole\n'
        'intrinsics: [458.6, 457.2, 367.2, 248.3]\ndistortion_model: radial-tangential\n'
        'distortion_coefficients: [-0.28, 0.07, 0.0002, 0.00002]\n'
    )
    assert camera.fx == 458.6
    assert camera.distortion.coefficients == (-0.28, 0.07, 0.0002, 0.00002)


def test_a_camera_info_as_ros2_topic_echo_prints_it(load):
    camera = load(DUMPED)
    assert (camera.width, camera.fx, camera.rectified().fx) == (320, 200, 190)
    ros1 = re.sub(r'^([kdrp]):', lambda found: found[0].upper(), DUMPED, flags=re.MULTILINE)
    assert load(ros1) == camera


def test_the_lens_named_as_camera_model(load):
    text = ROS.replace('distortion_model: plumb_bob', 'camera_model: fisheye')
    text = text.replace('[0.1, 0.01, 0, 0, 0]', '[0.1, 0.01, 0, 0]')
    assert load(text).distortion.model == 'equidistant'
    with pytest.raises(CalibrationError, match="camera_model is 'fisheye' but distortion_model"):
        load(ROS + 'camera_model: fisheye\n')
    assert load(ROS + 'camera_model: pinhole\n') == load(ROS)
    unnamed = ROS.replace('distortion_model: plumb_bob\n', '')
    assert load(unnamed) == load(ROS)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'holds no settings, expected fx fy cx cy width height'),
        ('fx: [', 'is not YAML'),
        (SIMPLE.replace('fx: 720.5\n', ''), 'fx is None, expected a number'),
        (SIMPLE.replace('720.5', 'wide'), "fx is 'wide', expected a number"),
        (SIMPLE.replace('720.5', '.nan'), 'K holds a value that is not finite'),
        (SIMPLE + 'focal: 3\n', 'focal is not known; expected fx'),
        (SIMPLE + 'distortion: 0.1\n', 'distortion is 0.1, expected a list'),
        (SIMPLE.replace('width: 1242', 'width: .inf'), 'width and height are inf'),
        ('[image]\n\nwidth\n640\n\ncamera matrix\n1 0 0', 'ost.yaml'),
        (SIMPLE + 'distortion: some\n', "distortion is 'some', expected none or a list"),
        (SIMPLE + 'distortion: [0.1, 0, 0, 0, 0]\n', 'distortion_model is missing'),
        (ROS.replace('plumb_bob', 'wobbly'), "'wobbly' is not known"),
        (ROS.replace('data: [400', 'date: [400'), 'camera_matrix is .* a list as data'),
        (ROS.replace('[400, 0,', '['), 'K has 7 values, expected 9'),
    ],
)
def test_files_that_are_wrong_are_named(load, text, message):
    with pytest.raises(CalibrationError, match=rf'camera\.yaml.*{message}'):
        load(text)


def test_an_uncalibrated_file_says_so(load):
    with pytest.raises(CalibrationError, match='uncalibrated') as caught:
        load(SIMPLE.replace('720.5', '0'))
    assert caught.value.uncalibrated


def test_a_file_that_is_not_there():
    with pytest.raises(CalibrationError, match=r'gone\.yaml cannot be read: No such file'):
        load_camera('gone.yaml')


def test_field_of_view():
    camera = camera_from_fov(640, 480, 90)
    assert math.isclose(camera.fx, 320)
    assert (camera.fy, camera.cx, camera.cy) == (camera.fx, 319.5, 239.5)
    with pytest.raises(CalibrationError, match='200 degrees, expected 1 to 170'):
        camera_from_fov(640, 480, 200)
