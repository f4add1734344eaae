"""The one sampling of the camera image: exact geometry, no aliasing, clear refusals."""

from dataclasses import replace
import sys
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from psd_depth_ros import preprocess
from psd_depth_ros.errors import MessageError, SettingsError
from psd_depth_ros.geometry import Camera, Distortion
from psd_depth_ros.inference.on_device import DevicePreprocessor
from psd_depth_ros.preprocess import (
    AntialiasedResize,
    choose_input_size,
    choose_sampling,
    halve,
    halvings_to_resize,
    network_size,
    Preprocessor,
    Rectifier,
    resize_with_torch,
    sampling_map,
    ViewSampler,
)

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NEUTRAL = ((0.0,) * 3, (1.0,) * 3)
BARREL = Distortion('plumb_bob', (-0.28, 0.07, 2e-4, -1e-4, 0.0))
FISHEYE = Distortion('equidistant', (-0.012, 0.004, -0.0035, 0.0006))


def pinhole(distortion: Distortion | None = None) -> Camera:
    return Camera.from_K([[420, 0, 318.5], [0, 425, 241.0], [0, 0, 1]], 640, 480, distortion)


def ramp(camera: Camera, gain: float = 120.0) -> np.ndarray:
    """An image whose red is 128 + gain x/z and green 128 + gain y/z of each raw pixel's ray."""
    v, u = np.mgrid[: camera.height, : camera.width].astype(np.float64)
    x, y = (u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy
    x = x - camera.skew * y / camera.fx
    if camera.distortion is not None:
        x, y = camera.distortion.undistort(x, y)
    if camera.rectification is not None:
        x, y, z = np.moveaxis(
            np.stack([x, y, np.ones_like(x)], -1) @ np.asarray(camera.rectification).T, -1, 0
        )
        x, y = x / z, y / z
    rgb = np.stack([128 + gain * x, 128 + gain * y, np.full_like(x, 60)], -1)
    return np.nan_to_num(np.clip(np.round(rgb), 0, 255)).astype(np.uint8)


def on_device(*given: Any) -> DevicePreprocessor:
    """What a GPU does, on the CPU."""
    return DevicePreprocessor(*given, device='cpu')


PLACES = [Preprocessor, on_device]


def shift_px(preprocessor: Any) -> np.ndarray:
    """Mean displacement of the output's content, in its own pixels, along x and y.

    Half the difference between a rising and a falling ramp, so that rounding to grey levels
    (which OpenCV does upwards) is not taken for a displacement.
    """
    source, view = preprocessor.source, preprocessor.camera
    inner = (slice(None), slice(12, -12), slice(12, -12))
    wanted = view.rays().transpose(2, 0, 1)[inner]
    errors = []
    for gain in (120.0, -120.0):
        levels = 255 * np.asarray(preprocessor(ramp(source, gain))[0])
        errors.append((levels[:2][inner] - 128) / gain - wanted)
    focal = np.array([view.fx, view.fy])
    assert np.abs(np.stack(errors)).max() * focal.max() < 3.5  # two grey levels
    return np.mean(errors, axis=(0, 2, 3)) * focal


@pytest.mark.parametrize(
    'size', [(480, 640), (240, 320), (288, 384), (224, 288), (512, 704), (96, 128)]
)
def test_a_ramp_stays_the_same_ramp(size: tuple[int, int]) -> None:
    camera = pinhole()
    pre = Preprocessor(camera, size, *NEUTRAL)
    assert pre.camera == camera.resize(size[1], size[0])
    assert np.abs(shift_px(pre)).max() < 0.01


def test_resizing_is_half_pixel_exact() -> None:
    # Ramp of 1 level per source pixel, halved: (2 i + 0.5) levels exactly between two levels.
    rgb = np.repeat(np.arange(0, 240, dtype=np.uint8)[None, :, None], 96, 0).repeat(3, 2)
    camera = Camera.from_K([[100, 0, 60], [0, 100, 48], [0, 0, 1]], 240, 96)
    pre = Preprocessor(camera, (32, 80), *NEUTRAL)
    found = 255 * pre(rgb)[0, 0, 16]
    expected = 3 * (np.arange(80) + 0.5) - 0.5
    np.testing.assert_allclose(found[2:-2], expected[2:-2], atol=1e-3)


@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('lens', [BARREL, FISHEYE])
@pytest.mark.parametrize('size', [(480, 640), (224, 288), (72, 96)])
def test_a_bent_ramp_comes_back_straight(place, lens, size) -> None:  # type: ignore[no-untyped-def]
    camera = pinhole(lens)
    pre = place(camera, size, *NEUTRAL)
    assert np.abs(shift_px(pre)).max() < 0.01


def test_rotation_and_new_intrinsics_of_the_rectified_view_are_followed() -> None:
    turn, _ = cv2.Rodrigues(np.array([0.01, -0.03, 0.02]))
    camera = replace(
        pinhole(BARREL),
        rectification=tuple(map(tuple, turn.tolist())),
        rectified_intrinsics=(440.0, 440.0, 325.0, 238.0),
    )
    pre = Preprocessor(camera, (240, 320), *NEUTRAL)
    assert pre.camera.K[0].tolist() == [220.0, 0.0, 162.25]
    assert np.abs(shift_px(pre)).max() < 0.01


@pytest.mark.parametrize('place', PLACES)
def test_skew_is_straightened(place: Any) -> None:
    camera = replace(pinhole(FISHEYE), skew=12.0)
    pre = place(camera, (224, 288), *NEUTRAL)
    assert np.abs(shift_px(pre)).max() < 0.01


def test_images_are_halved_while_that_leaves_detail_and_whole_pixels() -> None:
    assert [halvings_to_resize((480, 640), size) for size in ((224, 288), (96, 128))] == [0, 1]
    assert [halvings_to_resize(size, (50, 50)) for size in ((404, 404), (402, 402))] == [2, 1]
    # 7, 5 and 2.2 pixels of the middle are one of the view; at the rim of the view it is fewer.
    for size, expected in (((72, 96), 2), ((96, 128), 1), ((224, 288), 0)):
        camera = pinhole(BARREL)
        view = camera.rectified().resize(size[1], size[0])
        assert choose_sampling(camera, view).halvings == expected
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(halve(image, 0), image)
    np.testing.assert_array_equal(halve(image, 2), [[[23, 24, 25]]])


def test_a_device_agrees_with_a_cpu_on_a_bent_image() -> None:
    rng = np.random.default_rng(0)
    rgb = cv2.GaussianBlur(rng.integers(0, 256, (480, 640, 3), np.uint8), (0, 0), 4)
    rgb = cv2.normalize(rgb, None, 0, 255, cv2.NORM_MINMAX)
    for lens in (BARREL, FISHEYE):
        camera = pinhole(lens)
        for size, most in (((224, 288), 2), ((72, 96), 3)):
            both = [np.asarray(place(camera, size, MEAN, STD)(rgb)) for place in PLACES]
            # Grey levels: fixed-point coordinates, rounding to uint8 twice and when halved.
            np.testing.assert_allclose(*both, atol=most / 255 / 0.224)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


# Shrunk by a fraction, a whole number, much, and enlarged; one axis each way; nothing at all.
@pytest.mark.parametrize(
    ('source', 'size'),
    [
        ((480, 640), (224, 288)), ((480, 640), (240, 320)), ((375, 1242), (128, 416)),
        ((1080, 1920), (96, 160)), ((48, 64), (96, 128)), ((64, 48), (32, 96)), ((9, 7), (3, 20)),
        ((480, 640), (480, 640)),
    ],
)  # fmt: skip
@pytest.mark.parametrize('has_blas', [True, False])
def test_the_antialiased_filter_is_that_of_torch(
    monkeypatch: pytest.MonkeyPatch, source: tuple[int, int], size: tuple[int, int], has_blas: bool
) -> None:
    monkeypatch.setattr(preprocess, 'has_fast_blas', lambda: has_blas)
    image = noise(*source)
    halved = halve(image, halvings_to_resize(source, size))
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(halved).permute(2, 0, 1)[None].float(), size, mode='bilinear',
        align_corners=False, antialias=True,
    )[0].numpy()  # fmt: skip
    gain, offset = np.array([0.5, 1.0, 2.0]), np.array([0.0, -1.0, 7.0])
    found = AntialiasedResize(source, size, tuple(gain), tuple(offset))(image)
    assert found.dtype == np.float32
    expected = exact * gain[:, None, None] + offset[:, None, None]
    # Of 255 levels: torch alone rounds to whole ones, twice.
    np.testing.assert_allclose(found, expected, atol=0.01 if has_blas else 2.01)
    if source != size:
        rounded = resize_with_torch(image, size).transpose(2, 0, 1)
        assert np.abs(rounded - exact).max() <= 1.01


def test_halving_first_hardly_changes_the_filter() -> None:
    image = cv2.GaussianBlur(noise(1080, 1920), (0, 0), 1.5)  # of a lens
    image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
    exact = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), (160, 288), mode='bilinear',
        align_corners=False, antialias=True,
    )[0].numpy()  # fmt: skip
    difference = AntialiasedResize((1080, 1920), (160, 288))(image) - exact
    assert np.abs(difference).max() < 4.0
    assert difference.std() < 0.7
    assert abs(difference.mean()) < 0.3  # OpenCV rounds a half upwards


def test_a_slow_numpy_alone_resizes_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = AntialiasedResize((48, 64), (24, 32))(noise(48, 64))
    monkeypatch.setattr(preprocess, 'has_fast_blas', lambda: False)
    monkeypatch.setitem(sys.modules, 'torch', None)  # an import of it fails
    found = AntialiasedResize((48, 64), (24, 32))(noise(48, 64))
    np.testing.assert_array_equal(found, expected)


def test_a_resize_gives_a_new_array_each_time() -> None:
    resize = AntialiasedResize((48, 64), (24, 32))
    first = resize(noise(48, 64))
    kept = first.copy()
    assert resize(np.zeros((48, 64, 3), np.uint8)).max() == 0.0
    np.testing.assert_array_equal(first, kept)


def test_training_samples_what_serving_samples_but_for_rounding() -> None:
    image = noise(480, 640)
    training = ViewSampler(pinhole(), (224, 288), with_torch=True).sample(image)
    serving = ViewSampler(pinhole(), (224, 288)).sample(image)
    assert training.shape == serving.shape == (224, 288, 3)
    assert np.abs(training.astype(int) - serving).max() <= 1
    resized = Rectifier(pinhole()).rectify_to(image, (224, 288))
    np.testing.assert_array_equal(resized, serving)


@pytest.mark.parametrize('lens', [None, BARREL])
@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize(
    ('period_px', 'size'), [(2.2, (224, 288)), (2.2, (96, 128)), (5.0, (96, 128))]
)
def test_shrinking_does_not_alias(
    lens: Distortion | None, place: Any, period_px: float, size: tuple[int, int]
) -> None:
    # Stripes of 2.2 px period shrunk 2.2 times: an unfiltered sampling keeps them at full
    # contrast, as a moire pattern of any period. What is left here must be close to grey.
    stripes = 127.5 + 127.5 * np.sin(2 * np.pi * np.arange(640) / period_px)
    rgb = np.broadcast_to(stripes[None, :, None], (480, 640, 3)).astype(np.uint8)
    pre = place(pinhole(lens), size, *NEUTRAL)
    found = 255 * np.asarray(pre(rgb)[0, :, 20:-20, 20:-20])
    assert abs(found.mean() - 127) < 2
    assert found.std() < 25  # 90 without a filter


def test_normalisation_is_that_of_the_network() -> None:
    rgb = np.full((480, 640, 3), (255, 0, 51), np.uint8)
    found = Preprocessor(pinhole(), (64, 96), MEAN, STD)(rgb)
    assert found.shape == (1, 3, 64, 96)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225]
    np.testing.assert_allclose(found[0, :, 30, 40], expected, atol=1e-5)


@pytest.mark.parametrize('place', PLACES)
def test_what_the_camera_does_not_see_is_the_mean_colour(place: Any) -> None:
    # Pincushion distortion: the rectified view's corners lie outside the raw image.
    camera = pinhole(Distortion('plumb_bob', (0.3, 0.0, 0.0, 0.0)))
    rgb = np.full((480, 640, 3), 255, np.uint8)
    found = np.asarray(place(camera, (224, 288), MEAN, STD)(rgb))
    assert np.abs(found[0, :, 0, 0]).max() < 0.01
    assert found[0, :, 112, 144].min() > 2
    rectifier = Rectifier(camera)
    assert rectifier.mask is not None
    assert not rectifier.mask[0, 0]
    assert rectifier.mask[240, 320]
    assert rectifier.rectify(rgb)[0, 0].tolist() == [0, 0, 0]


def test_pixels_past_the_fold_are_outside() -> None:
    # r (1 - r^2 / 3) folds at r = 1; the view reaches to r = 1.6.
    camera = Camera.from_K(
        [[200, 0, 319.5], [0, 200, 239.5], [0, 0, 1]], 640, 480, (-1 / 3, 0.0, 0.0, 0.0)
    )
    seen = np.isfinite(sampling_map(camera, camera.rectified())[..., 0])
    radius = np.hypot(*np.moveaxis(camera.rays(), -1, 0))
    assert not seen[radius > 1.0].any()
    assert seen[radius < 0.99].all()


def test_rectifying_a_rendered_checker_makes_its_lines_straight() -> None:
    camera = pinhole(BARREL)
    v, u = np.mgrid[:480, :640].astype(np.float64)
    x, y = BARREL.undistort((u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy)
    soft = np.sin(np.pi * x / 0.1) * np.sin(np.pi * y / 0.1)  # corners every 0.1
    raw = np.repeat((127.5 + 127 * soft)[..., None], 3, 2).astype(np.uint8)
    view = camera.rectified()
    straight = Rectifier(camera).rectify(raw)
    corners = np.array([[0.1 * i, 0.1 * j] for i in range(-5, 6) for j in range(-4, 5)])
    guess = (corners * (view.fx, view.fy) + (view.cx, view.cy)).astype(np.float32)
    found = cv2.cornerSubPix(
        straight[..., 0], guess[:, None].copy(), (7, 7), (-1, -1), (3, 50, 1e-4)
    )[:, 0]
    assert np.abs(found - guess).max() < 0.1
    assert np.abs((found - guess).mean(0)).max() < 0.02


def test_a_rectified_camera_needs_no_rectifier() -> None:
    rgb = np.zeros((480, 640, 3), np.uint8)
    rectifier = Rectifier(pinhole())
    assert rectifier.mask is None
    assert rectifier.rectify(rgb) is rgb


def test_read_only_and_reversed_arrays_are_taken() -> None:
    rgb = ramp(pinhole())
    pre = Preprocessor(pinhole(), (224, 288), MEAN, STD)
    expected = pre(rgb)
    frozen = rgb.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(pre(frozen), expected)
    reversed_twice = np.ascontiguousarray(rgb[..., ::-1])[..., ::-1]
    np.testing.assert_array_equal(pre(reversed_twice), expected)


@pytest.mark.parametrize(
    'wrong',
    [np.zeros((480, 640), np.uint8), np.zeros((240, 320, 3), np.uint8), np.zeros((480, 640, 3))],
)
def test_an_image_of_another_camera_is_refused(wrong: np.ndarray) -> None:
    pre = Preprocessor(pinhole(), (64, 96), MEAN, STD)
    with pytest.raises(MessageError, match=r'expected uint8 of \(480, 640, 3\).*640x480'):
        pre(wrong)


@pytest.mark.parametrize(
    ('width', 'height', 'expected'),
    [
        (640, 480, (288, 384)),
        (1242, 375, (192, 640)),
        (1920, 1080, (256, 448)),
        (480, 640, (384, 288)),
        (300, 200, (224, 320)),  # never larger than the image rounded up
        (16000, 10, (32, 3840)),
    ],
)
def test_input_size_keeps_the_aspect_within_the_budget(width, height, expected) -> None:  # type: ignore[no-untyped-def]
    assert choose_input_size(width, height, 640 * 192) == expected


@pytest.mark.parametrize(
    ('budget', 'expected'),
    [
        # Rows and columns of tiles: 4x5 of 26, 6x8 of 52 (exactly 4:3), 8x11 of 104.
        (26624, (128, 160)),
        (53248, (192, 256)),
        (106496, (256, 352)),
    ],
)
def test_half_and_twice_the_budget_for_a_camera_of_4_to_3(budget, expected) -> None:  # type: ignore[no-untyped-def]
    assert network_size(Camera(640, 480, 500.0, 500.0, 319.5, 239.5), budget) == expected


def test_a_budget_below_one_tile_is_refused() -> None:
    with pytest.raises(SettingsError, match='at least 1024'):
        choose_input_size(640, 480, 1000)


@pytest.mark.parametrize(('fx', 'fy'), [(2.0, 1.0), (1.0, 2.0), (1.25, 1.0), (1.0, 1.4)])
def test_pixels_of_the_network_are_square_whatever_those_of_the_camera_are(fx, fy) -> None:  # type: ignore[no-untyped-def]
    # 60 degrees across and 47 degrees down, sampled by finer columns or finer rows.
    camera = Camera(round(640 * fx), round(480 * fy), 554.0 * fx, 554.0 * fy, 300.0, 200.0)
    assert network_size(camera, 640 * 192) == (288, 384)
    small = Camera(round(320 * fx), round(240 * fy), 277.0 * fx, 277.0 * fy, 150.0, 100.0)
    height, width = network_size(small, 640 * 192)
    view = small.resize(width, height)
    assert view.fx / view.fy == pytest.approx(1.0, abs=0.05)


def test_nearly_square_pixels_are_taken_as_they_are() -> None:
    camera = Camera(1242, 375, 721.5, 728.0, 609.5, 172.8)
    assert network_size(camera, 640 * 192) == choose_input_size(1242, 375, 640 * 192)
