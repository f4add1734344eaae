"""CameraInfo -> Camera by hand-worked values, and back."""

from types import SimpleNamespace

import numpy as np
import pytest

from psd_depth_ros.errors import CalibrationError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import camera_from_info, camera_info_fields, check_sizes

K = [400.0, 0, 319.5, 0, 410.0, 239.5, 0, 0, 1]
P = [380.0, 0, 320.5, -40.0, 0, 390.0, 240.5, 0, 0, 0, 1, 0]


def make_info(**changes):
    fields = {
        'width': 640,
        'height': 480,
        'distortion_model': 'plumb_bob',
        'd': np.zeros(5),
        'k': np.array(K),
        'r': np.eye(3).reshape(-1),
        'p': np.zeros(12),
        'binning_x': 0,
        'binning_y': 0,
        'roi': SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False),
    }
    return SimpleNamespace(**(fields | changes))


def make_region(x, y, width, height):
    return SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height, do_rectify=False)


def intrinsics(camera):
    return camera.fx, camera.fy, camera.cx, camera.cy


def test_plain_pinhole():
    camera = camera_from_info(make_info())
    assert (camera.width, camera.height) == (640, 480)
    assert intrinsics(camera) == (400, 410, 319.5, 239.5)
    assert camera.is_rectified


def test_lens_rectification_and_projection_are_kept():
    angle = 0.1
    R = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    camera = camera_from_info(make_info(d=[0.1, 0.01, 0, 0, 0], r=R.reshape(-1), p=np.array(P)))
    assert camera.distortion.model == 'plumb_bob'
    assert camera.distortion.coefficients[:2] == (0.1, 0.01)
    assert np.allclose(camera.rectification, R)
    assert intrinsics(camera.rectified()) == (380, 390, 320.5, 240.5)
    assert not camera.is_rectified


def test_an_image_that_is_already_rectified_is_seen_through_P():
    camera = camera_from_info(
        make_info(d=[0.1, 0, 0, 0, 0], p=np.array(P)), image_is_rectified=True
    )
    assert camera.is_rectified
    assert intrinsics(camera) == (380, 390, 320.5, 240.5)


def test_ros1_spelling():
    info = make_info()
    for name in 'kdrp':
        setattr(info, name.upper(), getattr(info, name))
        delattr(info, name)
    assert intrinsics(camera_from_info(info)) == (400, 410, 319.5, 239.5)


@pytest.mark.parametrize(
    ('model', 'count', 'expected'),
    [
        ('plumb_bob', 4, 'plumb_bob'),
        ('plumb_bob', 5, 'plumb_bob'),
        ('rational_polynomial', 8, 'rational_polynomial'),
        ('equidistant', 4, 'equidistant'),
        ('fisheye', 4, 'equidistant'),
    ],
)
def test_lens_models(model, count, expected):
    camera = camera_from_info(make_info(distortion_model=model, d=np.full(count, 0.01)))
    assert camera.distortion.model == expected


def test_a_fisheye_with_zero_coefficients_still_is_one():
    camera = camera_from_info(make_info(distortion_model='equidistant', d=np.zeros(4)))
    assert camera.distortion is not None


@pytest.mark.parametrize('model', ['', 'none', 'plumb_bob'])
def test_no_lens(model):
    assert camera_from_info(make_info(distortion_model=model, d=[])).distortion is None


def test_binning_halves_pixels_about_their_edges():
    # The centre of the picture, 319.5, lies between the middle pixels of 640 and of 320.
    camera = camera_from_info(make_info(binning_x=2, binning_y=2, p=np.array(P)))
    assert (camera.width, camera.height) == (320, 240)
    assert intrinsics(camera) == (200, 205, 159.5, 119.5)
    assert intrinsics(camera.rectified()) == (190, 195, 160.0, 120.0)


def test_binning_drops_what_does_not_fill_a_bin():
    camera = camera_from_info(make_info(width=641, binning_x=2))
    assert camera.width == 320
    assert camera.fx == 200
    assert camera.cx == 159.5


def test_region_then_binning():
    camera = camera_from_info(make_info(roi=make_region(100, 40, 400, 200), binning_x=4))
    assert (camera.width, camera.height) == (100, 200)
    assert intrinsics(camera) == (100, 410, (219.5 + 0.5) / 4 - 0.5, 199.5)


def test_region_outside_the_sensor():
    with pytest.raises(CalibrationError, match=r'400x200 at \(300, 40\), outside .* 640x480'):
        camera_from_info(make_info(roi=make_region(300, 40, 400, 200)))


def test_uncalibrated_says_so():
    with pytest.raises(CalibrationError, match='uncalibrated') as caught:
        camera_from_info(make_info(k=np.zeros(9)))
    assert caught.value.uncalibrated


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'k': [np.nan, *K[1:]]}, 'CameraInfo K holds a value that is not finite.*nan'),
        ({'d': [np.inf, 0, 0, 0, 0]}, 'CameraInfo D holds a value that is not finite'),
        ({'k': K[:8]}, 'CameraInfo K has 8 values, expected 9'),
        ({'width': 0}, 'camera size is 0x480'),
        ({'distortion_model': 'wobbly'}, "'wobbly' is not known.*plumb_bob"),
        ({'distortion_model': '', 'd': [0.1]}, "model '' is not known"),
        ({'d': [0.1, 0.2]}, 'plumb_bob needs .* found 2'),
        ({'r': np.full(9, 2.0)}, 'rectification R'),
        ({'binning_x': 1000}, 'binning 1000x1 for 640x480'),
    ],
)
def test_unusable_infos(changes, message):
    with pytest.raises(CalibrationError, match=message) as caught:
        camera_from_info(make_info(**changes))
    assert not caught.value.uncalibrated


def test_sizes_that_differ_are_both_shown():
    camera = camera_from_info(make_info())
    check_sizes(camera, 640, 480)
    with pytest.raises(CalibrationError, match=r'640x480 .* image is 1280x720'):
        check_sizes(camera, 1280, 720)


def as_message(fields):
    return SimpleNamespace(**(fields | {'roi': SimpleNamespace(**fields['roi'])}))


def test_a_rectified_camera_goes_out_as_the_contract_says():
    fields = camera_info_fields(Camera(640, 480, 400, 410, 319.5, 239.5))
    assert not fields['d'].any()
    assert np.array_equal(fields['r'], np.eye(3).reshape(-1))
    assert np.array_equal(fields['k'], K)
    assert np.array_equal(fields['p'].reshape(3, 4)[:, :3], np.reshape(K, (3, 3)))


def test_round_trip_of_a_camera_with_everything():
    original = camera_from_info(make_info(d=[0.1, 0.01, 0.001, 0, 0], p=np.array(P)))
    assert camera_from_info(as_message(camera_info_fields(original))) == original
