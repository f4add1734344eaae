"""camera.yaml in both forms, and how each can be wrong."""

import math

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


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'holds no settings, expected fx fy cx cy width height'),
        ('fx: [', 'is not YAML'),
        (SIMPLE.replace('fx: 720.5\n', ''), 'fx is None, expected a number'),
        (SIMPLE.replace('720.5', 'wide'), "fx is 'wide', expected a number"),
        (SIMPLE.replace('720.5', '.nan'), 'K holds a value that is not finite'),
        (SIMPLE + 'focal: 3\n', 'focal is not known; expected fx'),
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
