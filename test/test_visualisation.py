from pathlib import Path

import cv2
import numpy as np

from psd_depth_ros.visualisation import (
    colour_depth,
    colour_log_error,
    draw_from_above,
    draw_heat,
    draw_histogram,
    draw_known,
    draw_masked,
    draw_panel,
    draw_series,
    draw_tiles,
    join_panels,
    RIGHT,
    TOO_FAR,
    TOO_NEAR,
    write_picture,
)


def test_near_is_red_far_is_blue_and_invalid_is_dark() -> None:
    depth = np.array([[1.0, 80.0, np.nan, np.inf, -np.inf]], np.float32)
    near, far, unknown, sky, close = colour_depth(depth, 1.0, 80.0)[0].astype(int)
    assert near[0] > near[2]
    assert far[2] > far[0]
    assert unknown.tolist() == close.tolist() == [0, 0, 0]
    assert sky.tolist() not in ([0, 0, 0], far.tolist())


def test_equal_ratios_are_equal_steps() -> None:
    depth = np.array([[1.0, 2.0, 4.0, 8.0, 16.0]], np.float32)
    one, _, middle, _, last = colour_depth(depth, 1.0, 16.0)[0]
    again = colour_depth(depth * 3, 3.0, 48.0)[0]
    assert np.array_equal(again[0], one)
    assert np.abs(again[2].astype(int) - middle).max() <= 3
    assert np.array_equal(again[4], last)


def test_heat_clips_and_takes_nan_for_zero() -> None:
    colours = draw_heat(np.array([[-1.0, 0.0, np.nan, 0.5, 1.0, np.inf]]))[0].tolist()
    assert colours[0] == colours[1] == colours[2]
    assert colours[4] == colours[5]
    assert sum(colours[1]) < sum(colours[3]) < sum(colours[4])


def test_too_near_is_blue_too_far_is_red_and_right_is_white() -> None:
    near, right, far = colour_log_error(np.array([[-9.0, 0.0, 0.4]], np.float32), 0.4)[0].tolist()
    assert (near, right, far) == (list(TOO_NEAR), list(RIGHT), list(TOO_FAR))


def test_masked_pixels_are_darker() -> None:
    image = np.full((1, 2, 3), 200, np.uint8)
    assert draw_masked(image, np.array([[True, False]]))[0, :, 0].tolist() == [200, 50]


def test_tiles_keep_the_shape_of_pictures() -> None:
    wide = np.full((10, 40, 3), 255, np.uint8)
    sheet = draw_tiles([[wide, wide], [wide, wide]], 20, 40)
    assert sheet.shape == (40, 80, 3)
    assert sheet[:, 0, 0].tolist() == 2 * ([0] * 5 + [255] * 10 + [0] * 5)


def test_a_single_known_pixel_is_drawn_as_four() -> None:
    colours = np.full((4, 4, 3), 9, np.uint8)
    known = np.zeros((4, 4), bool)
    known[2, 1] = True
    drawn = draw_known(colours, known, (8, 8), (0, 0, 0), as_dots=True)[..., 0]
    assert np.argwhere(drawn == 9).tolist() == [[4, 2], [4, 3], [5, 2], [5, 3]]


def test_panels_join_to_one_picture() -> None:
    panel = draw_panel('a', np.zeros((40, 60, 3), np.uint8))
    tall = draw_panel('b', np.zeros((2 * 40 + 30 + 18, 30, 3), np.uint8))
    picture = join_panels([[panel, panel], [tall]], 'title', 'facts')
    assert picture.shape == (64 + 2 * 70 + 18 + 18, 18 + 60 + 18 + 30 + 18, 3)


def test_a_written_picture_reads_back(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    write_picture(tmp_path / 'p.png', picture)
    assert np.array_equal(cv2.imread(str(tmp_path / 'p.png'))[..., ::-1], picture)


def test_charts_name_their_median() -> None:
    chart = draw_histogram([1.0, 2.0, 3.0], 'a < b')
    assert 'class="mark"' in chart
    assert '>2</text>' in chart
    assert 'a &lt; b' in chart
    assert draw_series([1.0] * 1000, 'many').count('<rect') == 200


def test_the_cloud_from_above_is_to_scale() -> None:
    points = np.array([[0.0, 1.0, 10.0], [5.0, 1.0, 20.0], [0.0, 1.0, 31.0]], np.float32)
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    picture = draw_from_above(points, colours, 326, 30.0, 10.0, 5)  # 10 pixels for a metre
    assert picture.shape == (326, 200, 3)
    places = [np.argwhere((picture == colour).all(axis=2)) for colour in colours]
    assert places[0].min(axis=0).tolist() == [200, 100]
    assert places[1].min(axis=0).tolist() == [100, 150]
    assert len(places[1]) == 16, 'distant points are larger'
    assert len(places[2]) == 0
