import numpy as np
import pytest

from psd_depth_ros.augment.crops import centred_window, sample_window, Window
from psd_depth_ros.geometry import Camera

CAMERA = Camera(80, 40, 60.0, 60.0, 39.5, 19.5)


def coordinates():
    """An image whose first two channels are its own pixel coordinates."""
    y, x = np.mgrid[0:40, 0:80]
    return np.stack([2 * x, 2 * y, 0 * x], axis=-1).astype(np.uint8)


@pytest.mark.parametrize('mirrored', [False, True])
def test_the_camera_follows_the_pixels_of_a_window(mirrored):
    window = Window(20, 10, 32, 16, 64, 32, mirrored)
    image, camera = window.image(coordinates()), window.camera(CAMERA)
    # What the middle of the output looks at, by the camera and by the pixels.
    u, v = 30.0, 15.0
    direction = (u - camera.cx) / camera.fx * (-1 if mirrored else 1)
    source_x = CAMERA.fx * direction + CAMERA.cx
    source_y = CAMERA.fy * (v - camera.cy) / camera.fy + CAMERA.cy
    assert image[15, 30, 0] / 2 == pytest.approx(source_x, abs=0.5)
    assert image[15, 30, 1] / 2 == pytest.approx(source_y, abs=0.5)


def test_depth_takes_the_nearest_pixel_centre():
    depth = np.arange(12, dtype=np.float32).reshape(1, 12)
    window = Window(0, 0, 12, 1, 4, 1, False)
    # Output centres 0, 1, 2, 3 lie at source 1, 4, 7, 10.
    assert window.depth(depth)[0].tolist() == [1, 4, 7, 10]


def test_pixels_and_masks_go_with_the_window():
    window = Window(20, 10, 32, 16, 64, 32, False)
    mirrored = Window(20, 10, 32, 16, 64, 32, True)
    # Twice as large: the centre of pixel 20 lies half an output pixel right of that of pixel 0.
    assert window.pixels(np.array([[20.0, 10.0], [30.0, 12.0]])).tolist() == [
        [0.5, 0.5], [20.5, 4.5]
    ]  # fmt: skip
    assert mirrored.pixels(np.array([[20.0, 10.0]])).tolist() == [[62.5, 0.5]]
    mask = np.zeros((40, 80), bool)
    mask[:, :21] = True
    assert window.coverage(mask)[0, :4].tolist() == [1.0, 0.75, 0.25, 0.0]
    assert mirrored.coverage(mask)[0, -4:].tolist() == [0.0, 0.25, 0.75, 1.0]


def test_windows_fit_and_keep_the_aspect():
    rng = np.random.default_rng(0)
    for _ in range(200):
        window = sample_window(rng, (50, 90), (32, 64), 0.5)
        assert window.x >= 0
        assert window.x + window.width <= 90
        assert window.y + window.height <= 50
        assert window.width / window.height == pytest.approx(2.0, abs=0.07)
        assert 44 <= window.width <= 90


def test_the_centred_window_is_the_largest():
    window = centred_window((50, 90), (32, 64))
    assert (window.width, window.height, window.x, window.y) == (90, 45, 0, 2)
