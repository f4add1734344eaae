"""Corruptions: repeatable, stronger with the severity, and right where the answer is known."""

import itertools

import cv2
import numpy as np
import pytest

from psd_depth_ros.augment.corruptions import corrupt, CORRUPTIONS, SEVERITIES

DETERMINISTIC = {
    'brightness',
    'contrast',
    'defocus_blur',
    'zoom_blur',
    'color_quant',
    'pixelate',
    'jpeg_compression',
}


def scene(height=96, width=256):
    """A picture with smooth parts, edges and texture, over the whole range of values."""
    rng = np.random.default_rng(5)
    noise = rng.random((height // 8, width // 8, 3)).astype(np.float32)
    image = 40.0 + 175.0 * cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    image[height // 2 :, width // 4 : width // 2] = (20, 60, 30)
    image[10 : height // 2, -width // 4 :: 6] = (230, 225, 210)
    return np.clip(image, 0, 255).astype(np.uint8)


def flat(value, height=40, width=60):
    return np.full((height, width, 3), value, np.uint8)


def distance(one, other):
    return float(np.sqrt(np.mean((one.astype(float) - other) ** 2)))


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_a_corruption_is_repeatable_and_grows_with_the_severity(name):
    image = scene()
    before = image.copy()
    corrupted = [corrupt(image, name, severity, seed=3) for severity in SEVERITIES]
    assert np.array_equal(image, before)
    assert all(one.shape == image.shape and one.dtype == np.uint8 for one in corrupted)
    for severity, one in zip(SEVERITIES, corrupted, strict=True):
        assert np.array_equal(one, corrupt(image, name, severity, seed=3))
    distances = [distance(one, image) for one in corrupted]
    assert distances[0] > 0.5
    assert all(low < high for low, high in itertools.pairwise(distances)), distances
    repeated = np.array_equal(corrupt(image, name, 3, seed=4), corrupted[2])
    assert repeated == (name in DETERMINISTIC)


@pytest.mark.parametrize('name', CORRUPTIONS)
def test_images_of_any_size_are_taken(name):
    for height, width in ((1, 1), (7, 3), (33, 21)):
        assert corrupt(flat(90, height, width), name, 5).shape == (height, width, 3)


def test_there_are_the_eighteen_of_the_protocol():
    assert len(CORRUPTIONS) == 18


def test_brightness_raises_the_value_and_keeps_the_hue():
    grey = corrupt(flat(100), 'brightness', 2)
    assert np.all(grey == 151)  # 100 + 0.2 * 255
    red = corrupt(flat((100, 60, 0)), 'brightness', 2)
    assert tuple(red[0, 0]) == (151, 91, 0)
    assert np.all(corrupt(flat(0), 'brightness', 5) == 128)
    assert np.all(corrupt(flat(240), 'brightness', 1) == 255)


def test_contrast_draws_values_towards_the_mean():
    image = flat(100)
    image[:, :30] = 200  # the mean is 150
    assert set(np.unique(corrupt(image, 'contrast', 1))) == {130, 170}
    assert np.all(corrupt(flat(70), 'contrast', 5) == 70)


@pytest.mark.parametrize(
    'name', ['pixelate', 'defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur']
)
def test_blurs_and_blocks_leave_a_flat_image_alone(name):
    assert np.abs(corrupt(flat(137), name, 5).astype(int) - 137).max() <= 1


def test_pixelate_makes_blocks_of_their_mean():
    image = flat(10, 50, 100)
    image[:5, :2] = 60
    image[:5, 2:5] = 110
    blocks = corrupt(image, 'pixelate', 5)  # a fifth: blocks of 5x5
    assert np.all(blocks[:5, :5] == 90)
    assert np.all(blocks[:5, 5:] == 10)


def test_colours_are_quantised_to_the_nearest_value():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    assert np.array_equal(corrupt(ramp, 'color_quant', 5)[0, :, 0], [0] * 128 + [255] * 128)
    assert len(np.unique(corrupt(ramp, 'color_quant', 1))) == 32


def test_noise_has_the_amount_that_was_asked_for():
    image = flat(128, 200, 300)
    noise = corrupt(image, 'gaussian_noise', 1).astype(float) - 128
    assert noise.std() == pytest.approx(0.08 * 255, rel=0.02)
    changed = corrupt(image, 'impulse_noise', 4) != 128
    assert changed.mean() == pytest.approx(0.17, abs=0.01)
    counts = corrupt(image, 'shot_noise', 3).astype(float) / 255 * 12
    assert counts.mean() == pytest.approx(128 / 255 * 12, rel=0.02)
    assert counts.var() == pytest.approx(128 / 255 * 12, rel=0.1)  # Poisson, clipped at 12


def test_a_scene_is_blurred_alike_at_every_resolution():
    # A disk at KITTI's size, seen at half of it, is a disk of half the radius.
    point = np.zeros((375, 1242, 3), np.uint8)
    point[180:196, 600:616] = 255
    half = (621, 188)
    large = cv2.resize(corrupt(point, 'defocus_blur', 5), half, interpolation=cv2.INTER_AREA)
    small = corrupt(cv2.resize(point, half, interpolation=cv2.INTER_AREA), 'defocus_blur', 5)
    assert small.max() > 100
    assert np.abs(large.astype(int) - small).max() < 25


def test_a_blurred_image_stays_where_it_is():
    image = flat(0, 187, 621)
    image[90:97, 300:307] = 255
    x = np.arange(621)
    for name in ('defocus_blur', 'motion_blur'):
        weights = corrupt(image, name, 5)[..., 0].sum(axis=0, dtype=float)
        assert (weights * x).sum() / weights.sum() == pytest.approx(303.0, abs=0.1)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'name': 'mist'}, 'unknown corruption'),
        ({'severity': 6}, '1, 2, 3, 4 or 5'),
        ({'rgb': np.zeros((4, 4, 3), np.float32)}, 'uint8'),
        ({'rgb': np.zeros((4, 4), np.uint8)}, 'H, W, 3'),
    ],
)
def test_what_cannot_be_corrupted_is_an_error(change, said):
    with pytest.raises(ValueError, match=said):
        corrupt(**{'rgb': flat(9), 'name': 'fog', 'severity': 1, **change})
