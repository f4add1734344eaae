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


def test_a_senseless_K_is_refused_with_the_way_out():
    info = make_info(k=np.eye(3).reshape(-1), p=np.array(P))
    with pytest.raises(CalibrationError, match=r'K .* fx 1, fy 1 px .* set image_is_rectified'):
        camera_from_info(info)
    assert intrinsics(camera_from_info(info, image_is_rectified=True)) == (380, 390, 320.5, 240.5)
    millimetres = [3.6, 0, 2.4, 0, 3.6, 1.8, 0, 0, 1]
    with pytest.raises(CalibrationError, match='not millimetres'):
        camera_from_info(make_info(k=millimetres))


def test_a_senseless_P_is_refused_and_not_needed_with_alpha():
    info = make_info(d=[-0.1, 0, 0, 0, 0], p=np.eye(3, 4).reshape(-1))
    with pytest.raises(CalibrationError, match=r'P .* fx 1, fy 1 px .* rectify_alpha'):
        camera_from_info(info)
    assert camera_from_info(info, rectify_alpha=0.0).rectified().fx > 300


def test_an_uncalibrated_K_with_a_P():
    info = make_info(k=np.zeros(9), d=[], distortion_model='', p=np.array(P))
    camera = camera_from_info(info, image_is_rectified=True)
    assert camera.is_rectified
    assert intrinsics(camera) == (380, 390, 320.5, 240.5)
    with pytest.raises(CalibrationError, match='P has a focal length of 380 px') as caught:
        camera_from_info(info)
    assert caught.value.uncalibrated


def test_a_P_of_zeros_but_its_corner_is_none():
    p = np.zeros(12)
    p[10] = 1.0
    assert camera_from_info(make_info(p=p)).is_rectified
    assert intrinsics(camera_from_info(make_info(p=p), image_is_rectified=True))[0] == 400


def test_a_rectified_image_does_not_need_its_spent_lens():
    info = make_info(distortion_model='omni', d=[1.2, 0.1, 0, 0], p=np.array(P))
    assert camera_from_info(info, image_is_rectified=True).is_rectified
    with pytest.raises(CalibrationError, match="'omni' is not known"):
        camera_from_info(info)


def test_rounded_copies_of_K_and_the_identity_change_nothing():
    r = np.eye(3).reshape(-1) + 1e-9
    p = np.array([400.0000001, 0, 319.5, -48.0, 0, 410, 239.4999999, 0, 0, 0, 1, 0])
    assert camera_from_info(make_info(r=r, p=p)).is_rectified


def test_skew_as_the_fisheye_calibrator_writes_it():
    k = [400.0, 2.5, 319.5, 0, 410.0, 239.5, 0, 0, 1]
    camera = camera_from_info(make_info(distortion_model='equidistant', d=[0.01] * 4, k=k))
    assert camera.skew == 2.5
    assert camera_from_info(make_info(k=k, binning_x=2)).skew == 1.25
    assert camera_from_info(as_message(camera_info_fields(camera))) == camera
    # In P it is in the image only where that is rectified already.
    p = np.array([400.0, 2.5, 319.5, 0, 0, 410, 239.5, 0, 0, 0, 1, 0])
    assert camera_from_info(make_info(p=p)).is_rectified
    assert camera_from_info(make_info(p=p), image_is_rectified=True).skew == 2.5


def test_a_view_that_nothing_is_seen_of():
    behind = np.diag([-1.0, 1.0, -1.0]).reshape(-1)
    with pytest.raises(CalibrationError, match='sees nothing of the rectified view'):
        camera_from_info(make_info(r=behind))


def test_alpha_takes_the_place_of_P():
    info = make_info(d=[-0.2, 0, 0, 0, 0], p=np.array(P), binning_x=2, binning_y=2)
    inner, outer = (camera_from_info(info, rectify_alpha=alpha) for alpha in (0.0, 1.0))
    assert outer.rectified().fx < inner.rectified().fx < 200
    assert camera_from_info(info, rectify_alpha=-1.0).rectified().fx == 190


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
        ('Kannala_Brandt4', 4, 'equidistant'),
        ('pinhole-equi', 4, 'equidistant'),
        ('radtan', 4, 'plumb_bob'),
        ('BROWN_CONRADY', 5, 'plumb_bob'),
        ('Plumb Bob', 5, 'plumb_bob'),
        ('rational_polynomial', 12, 'rational_polynomial'),
        ('rational_polynomial', 14, 'rational_polynomial'),
    ],
)
def test_lens_models(model, count, expected):
    camera = camera_from_info(make_info(distortion_model=model, d=np.full(count, 0.01)))
    assert camera.distortion.model == expected


def test_a_fisheye_with_zero_coefficients_still_is_one():
    camera = camera_from_info(make_info(distortion_model='equidistant', d=np.zeros(4)))
    assert camera.distortion is not None


@pytest.mark.parametrize(
    'model', ['', 'none', 'None', 'pinhole', 'perspective', 'plumb_bob', 'rational_polynomial']
)
@pytest.mark.parametrize('count', [0, 2, 5, 8])
def test_no_lens(model, count):
    info = make_info(distortion_model=model, d=[0.0] * count)
    assert camera_from_info(info).distortion is None


@pytest.mark.parametrize(('model', 'count', 'full'), [('equidistant', 4, 5), ('fisheye', 4, 14),
                                                      ('plumb_bob', 5, 7)])  # fmt: skip
def test_zeros_that_fill_D_up_are_left_out(model, count, full):
    d = [0.01] * count + [0.0] * (full - count)
    camera = camera_from_info(make_info(distortion_model=model, d=d))
    assert camera.distortion.coefficients == (0.01,) * count
    with pytest.raises(CalibrationError, match=f'found {full}'):
        camera_from_info(make_info(distortion_model=model, d=[*d[:-1], 0.01]))


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
        ({'width': 0, 'height': 0}, 'width 0 and height 0'),
        ({'k': [400.0, 300, 319.5, 0, 410, 239.5, 0, 0, 1]}, 'a skew of 300 px'),
        ({'k': [400.0, 0, 319.5, 0, 40, 239.5, 0, 0, 1]}, 'expected about the same'),
        ({'d': ['a']}, 'CameraInfo D holds something that is no number'),
        ({'distortion_model': 'pinhole', 'd': [0.1] * 5}, "model 'pinhole' has no coefficients"),
        ({'distortion_model': 'wobbly'}, "'wobbly' is not known.*plumb_bob"),
        ({'distortion_model': '', 'd': [0.1]}, "model '' has no coefficients, but D is"),
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


@pytest.mark.parametrize(
    ('size', 'advice'),
    [
        ((480, 640), 'turned by 90 degrees'),
        ((320, 240), '0.5 times'),
        ((1280, 960), '2 times'),
        ((640, 360), 'region of interest'),
    ],
)
def test_sizes_that_differ_come_with_the_likely_cause(size, advice):
    with pytest.raises(CalibrationError, match=advice):
        check_sizes(Camera(640, 480, 400, 410, 319.5, 239.5), *size)


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
