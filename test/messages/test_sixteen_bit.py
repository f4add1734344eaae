"""Cameras of 10 to 16 bits and thermal counts: the right brightness, and what is said of it."""

import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.messages import ImageDecoder
from psd_depth_ros.messages.images import parse_sixteen_bit


def mono16(values):
    values = np.asarray(values, np.uint16)
    return SimpleNamespace(
        encoding='mono16',
        width=values.shape[1],
        height=values.shape[0],
        step=2 * values.shape[1],
        is_bigendian=0,
        data=values.view(np.uint8).reshape(-1),
    )


def as_png(values):
    data = cv2.imencode('.png', np.asarray(values, np.uint16))[1].reshape(-1)
    return SimpleNamespace(format='mono16; png compressed ', data=data)


def scene(low, high, size=40):
    return np.linspace(low, high, size * size).reshape(size, size).round()


def used(note):
    """The range that a note says is in use; one in a thousand at each end is left out."""
    return tuple(int(value) for value in re.search(r'use (\d+)\.\.(\d+) only', note).groups())


@pytest.mark.parametrize('make', [mono16, as_png])
@pytest.mark.parametrize(
    ('text', 'values', 'expected'),
    [
        ('full', [0, 257, 65535], [0, 1, 255]),
        ('10bit', [0, 341, 1023], [0, 85, 255]),
        ('12bit', [0, 1365, 4095], [0, 85, 255]),
        ('14bit', [0, 5461, 16383], [0, 85, 255]),
        ('7000..9550', [6000, 7010, 65535], [0, 1, 255]),
    ],
)
def test_a_range_maps_black_to_0_and_white_to_255(make, text, values, expected):
    decoded = ImageDecoder(text).decode(make([values]))
    assert decoded.dtype == np.uint8
    assert decoded[0].tolist() == [[value] * 3 for value in expected]


@pytest.mark.parametrize('make', [mono16, as_png])
def test_percentiles_use_all_of_the_range_and_leave_out_the_odd_pixel(make):
    values = scene(7000, 7200)
    values[3, 3] = 65535
    grey = ImageDecoder('percentile').decode(make(values))[..., 0]
    # 98 of 100 of an even ramp lie between the two percentiles: 7002 and 7198.
    assert np.mean(grey == 0) == pytest.approx(0.01, abs=0.01)
    assert np.mean(grey == 255) == pytest.approx(0.01, abs=0.01)
    assert grey[20, 0] == pytest.approx(127.5, abs=3)


def test_a_flat_image_is_scaled_without_a_division_by_zero():
    assert np.ptp(ImageDecoder('percentile').decode(mono16(np.full((4, 4), 900)))) == 0


@pytest.mark.parametrize(
    ('low', 'high', 'setting'),
    [(3, 1023, '10bit'), (10, 4095, '12bit'), (0, 16383, '14bit'), (29315, 31500, r'293\d\d\.\.')],
)
def test_a_stream_that_uses_little_of_the_range_says_so(low, high, setting):
    decoder = ImageDecoder()
    for _ in range(10):
        assert not decoder.is_settled
        decoder.decode(mono16(scene(low, high)))
    assert decoder.is_settled
    assert used(decoder.note) == pytest.approx((low, high), rel=0.001, abs=20)
    assert re.search(rf'set sixteen_bit_range to {setting}.*or percentile', decoder.note)
    if 'bit' in setting:
        decoder.change_range(setting)
        assert decoder.note == ''
        decoder.decode(mono16(scene(low, high)))
        assert decoder.note == ''


def test_one_dark_image_is_forgotten_when_a_bright_one_comes():
    decoder = ImageDecoder()
    decoder.decode(mono16(scene(0, 900)))
    assert used(decoder.note) == pytest.approx((0, 900), abs=2)
    decoder.decode(mono16(scene(0, 60000)))
    assert decoder.note == ''


def test_a_range_that_clips_says_so():
    decoder = ImageDecoder('10bit')
    decoder.decode(mono16(scene(0, 4095)))
    assert '75 % of the pixels are outside of 0..1023' in decoder.note
    assert 'set sixteen_bit_range to 12bit' in decoder.note


def test_dead_pixels_do_not_hide_a_narrow_range():
    values = scene(29315, 31500, 100)
    values[50, 50], values[51, 51] = 0, 65535
    decoder = ImageDecoder()
    decoder.decode(mono16(values))
    assert 'use 293' in decoder.note


def test_nothing_is_said_of_8_bit_images_nor_of_percentiles():
    decoder = ImageDecoder()
    image = mono16(scene(0, 3))
    image.encoding, image.step, image.data = 'mono8', 40, image.data[:1600]
    decoder.decode(image)
    assert decoder.note == ''
    decoder = ImageDecoder('percentile')
    decoder.decode(mono16(scene(0, 3)))
    assert decoder.note == ''


@pytest.mark.parametrize('text', ['', '8bit', '4095', '9..3', '5..5', '0..65536', '-1..9', '0:9'])
def test_settings_that_are_no_range(text):
    with pytest.raises(SettingsError, match=r'data.sixteen_bit_range is .*BLACK\.\.WHITE'):
        parse_sixteen_bit(text, 'data.sixteen_bit_range')
