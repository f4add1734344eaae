"""Known pixels in every encoding, padding, byte order and every way an Image can be wrong."""

import array
from types import SimpleNamespace

import numpy as np
import pytest

from psd_depth_ros.errors import MessageError
from psd_depth_ros.messages import (
    compressed_fields,
    decode,
    decode_depth,
    decode_image,
    depth_to_millimetres,
    ENCODINGS,
    image_fields,
    image_size,
    ImageDecoder,
)


def make_image(encoding, rows, width, height=None, padding=0, is_bigendian=0):
    """Make an Image whose rows of bytes are `rows`, each followed by padding of 0xAB."""
    rows = np.asarray(rows)
    rows = rows.reshape(rows.shape[0], -1).view(np.uint8)
    padded = np.full((rows.shape[0], rows.shape[1] + padding), 0xAB, np.uint8)
    padded[:, : rows.shape[1]] = rows
    return SimpleNamespace(
        encoding=encoding,
        width=width,
        height=rows.shape[0] if height is None else height,
        step=padded.shape[1],
        is_bigendian=is_bigendian,
        data=padded.reshape(-1),
    )


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


COLOUR_ORDERS = {
    'rgb8': [0, 1, 2],
    'bgr8': [2, 1, 0],
    'rgba8': [0, 1, 2, 0],
    'bgra8': [2, 1, 0, 0],
}


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', COLOUR_ORDERS)
def test_colour_orders_become_rgb(rgb, encoding, padding):
    message = make_image(encoding, rgb[..., COLOUR_ORDERS[encoding]].copy(), 8, padding=padding)
    decoded = decode_image(message)
    assert np.array_equal(decoded, rgb)
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize('padding', [0, 3])
def test_mono8_becomes_three_equal_channels(rgb, padding):
    decoded = decode_image(make_image('mono8', rgb[..., 0].copy(), 8, padding=padding))
    assert np.array_equal(decoded, np.repeat(rgb[..., :1], 3, axis=2))


@pytest.mark.parametrize('padding', [0, 3, 4])
@pytest.mark.parametrize('big', [False, True])
def test_mono16_scales_the_full_range_in_both_byte_orders(big, padding):
    row = [0, 257, 32896, 65535]
    values = np.array([row, row[::-1], row], '>u2' if big else '<u2')
    message = make_image('mono16', values.view(np.uint8), 4, padding=padding, is_bigendian=big)
    decoded = decode_image(message)[..., 0].tolist()
    assert decoded == [[0, 1, 128, 255], [255, 128, 1, 0], [0, 1, 128, 255]]


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('encoding', ['rgb16', 'bgr16', 'rgba16', 'bgra16', '16UC3', '16UC4'])
def test_colours_of_16_bits(rgb, encoding, big, padding):
    # OpenCV's own names are in its order, blue first
    order = COLOUR_ORDERS[{'16UC3': 'bgr16', '16UC4': 'bgra16'}.get(encoding, encoding)[:-2] + '8']
    deep = (rgb[..., order].astype(np.uint16) * 257).astype('>u2' if big else '<u2')
    message = make_image(encoding, deep, 8, padding=padding, is_bigendian=big)
    decoded = decode_image(message)
    assert np.array_equal(decoded, rgb)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize(
    ('encoding', 'alike'), [('8UC1', 'mono8'), ('8UC3', 'bgr8'), ('8UC4', 'bgra8')]
)
def test_types_of_opencv_are_in_its_order(rgb, encoding, alike):
    rows = rgb[..., {'mono8': [0], **COLOUR_ORDERS}[alike]].copy()
    named = decode_image(make_image(alike, rows, 8))
    assert np.array_equal(decode_image(make_image(encoding, rows, 8)), named)


BAYER = {'rggb': 'RGGB', 'bggr': 'BGGR', 'gbrg': 'GBRG', 'grbg': 'GRBG'}


@pytest.mark.parametrize('padding', [0, 7])
@pytest.mark.parametrize('pattern', BAYER)
@pytest.mark.parametrize('channel', [0, 1, 2])
@pytest.mark.parametrize('dtype', ['u1', '<u2', '>u2'])
def test_bayer_mosaic_of_one_colour_keeps_that_colour(pattern, channel, padding, dtype):
    full = 200 if dtype == 'u1' else 200 * 257
    tile = [full if letter == 'RGB'[channel] else 0 for letter in BAYER[pattern]]
    mosaic = np.tile(np.array(tile, dtype).reshape(2, 2), (4, 5))
    encoding = f'bayer_{pattern}{8 * mosaic.itemsize}'
    big = dtype.startswith('>')
    decoded = decode_image(make_image(encoding, mosaic, 10, padding=padding, is_bigendian=big))
    expected = [200 if index == channel else 0 for index in range(3)]
    assert decoded[3, 4].tolist() == expected


def test_yuv422_orders_agree_and_know_white_black_and_red():
    # BT.601 video range: white, black, and red (Y 82, U 90, V 240)
    y = np.array([[235, 235, 16, 16, 82, 82]], np.uint8)
    u, v = np.array([[128, 128, 90]], np.uint8), np.array([[128, 128, 240]], np.uint8)
    uyvy = np.stack([u, y[:, 0::2], v, y[:, 1::2]], axis=-1)
    yuyv = np.stack([y[:, 0::2], u, y[:, 1::2], v], axis=-1)
    for encoding, rows in [
        ('uyvy', uyvy),
        ('yuv422', uyvy),
        ('yuyv', yuyv),
        ('yuv422_yuy2', yuyv),
    ]:
        decoded = decode_image(make_image(encoding, rows, 6, padding=2)).astype(int)
        for column, colour in [(0, 255), (2, 0)]:
            assert np.abs(decoded[0, column] - colour).max() <= 2
        assert np.abs(decoded[0, 4] - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize(('encoding', 'order'), [('nv12', (90, 240)), ('nv21', (240, 90))])
def test_semiplanar_chroma_order(encoding, order):
    rows = np.full((6, 4), 82, np.uint8)
    rows[4:, 0::2], rows[4:, 1::2] = order
    decoded = decode_image(make_image(encoding, rows, 4, height=4, padding=4)).astype(int)
    assert decoded.shape == (4, 4, 3)
    assert np.abs(decoded - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize('padding', [0, 3])
def test_nv24_has_chroma_for_every_pixel(padding):
    # White, black and red side by side, and not a pixel of them mixed with its neighbour.
    luma = np.tile(np.array([235, 16, 82], np.uint8), (2, 1))
    chroma = np.tile(np.array([[128, 128], [128, 128], [90, 240]], np.uint8), (2, 1, 1))
    luma = np.pad(luma, ((0, 0), (0, padding)), constant_values=200)
    chroma = np.pad(chroma.reshape(2, 6), ((0, 0), (0, 2 * padding)), constant_values=7)
    rows = np.concatenate([luma.reshape(-1), chroma.reshape(-1)]).reshape(6, -1)
    message = make_image('nv24', rows, 3, height=2)
    decoded = decode_image(message).astype(int)
    assert np.abs(decoded - [[255] * 3, [0] * 3, [255, 0, 0]]).max() <= 3


def test_a_step_of_0_is_rows_without_padding(rgb):
    message = make_image('rgb8', rgb, 8)
    message.step = 0
    assert np.array_equal(decode_image(message), rgb)
    message.data = message.data[:-1]
    with pytest.raises(MessageError, match='step is 0 bytes'):
        decode_image(message)


def test_an_image_of_no_camera_is_refused_before_it_is_decoded():
    message = make_image('mono8', np.zeros((2, 16384), np.uint8), 16384, height=16384)
    with pytest.raises(MessageError, match='16384x16384, expected at most 67108864 pixels'):
        decode_image(message)


def test_encodings_that_are_not_ours_go_to_the_fallback(rgb):
    asked = []

    def fallback(message):
        asked.append(message.encoding)
        return rgb

    decoder = ImageDecoder(fallback=fallback)
    assert decoder.decode(make_image('yuv_of_tomorrow', rgb, 8)) is rgb
    assert np.array_equal(decoder.decode(make_image('rgb8', rgb, 8)), rgb)
    assert asked == ['yuv_of_tomorrow']


@pytest.mark.parametrize('encoding', ['16UC1', '32FC1'])
def test_depth_is_no_picture(encoding):
    with pytest.raises(MessageError, match=rf"'{encoding}' holds depth \(REP 118\)"):
        decode_image(make_image(encoding, np.zeros((2, 16), np.uint8), 4))
    decoder = ImageDecoder(fallback=lambda message: pytest.fail('a picture was made of depth'))
    with pytest.raises(MessageError, match='thermal counts are published as mono16'):
        decoder.decode(make_image(encoding, np.zeros((2, 16), np.uint8), 4))


def test_size_is_known_before_decoding(rgb):
    assert image_size(make_image('rgb8', rgb, 8)) == (8, 6)
    for picture_format in ('jpeg', 'png'):
        picture = SimpleNamespace(**compressed_fields(rgb, picture_format))
        assert image_size(picture) == (8, 6)


def test_rgb8_without_padding_is_a_view(rgb):
    message = make_image('rgb8', rgb, 8)
    assert np.shares_memory(decode_image(message), message.data)


@pytest.mark.parametrize('wrap', [bytes, bytearray, memoryview, lambda b: array.array('B', b)])
def test_every_kind_of_buffer_is_read(rgb, wrap):
    message = make_image('rgb8', rgb, 8)
    message.data = wrap(message.data.tobytes())
    assert np.array_equal(decode(message), rgb)


def test_unknown_encoding_lists_the_accepted_ones():
    message = make_image('8UC7', np.zeros((2, 14), np.uint8), 2)
    with pytest.raises(MessageError, match=r"'8UC7'.*rgb8") as caught:
        decode_image(message)
    assert all(encoding in str(caught.value) for encoding in ENCODINGS)


def test_data_shorter_than_height_times_step(rgb):
    message = make_image('rgb8', rgb, 8)
    message.data = message.data[:-1]
    with pytest.raises(MessageError, match=r'143 bytes, but 6 rows of 24 bytes .* take 144'):
        decode_image(message)


def test_nv12_counts_its_chroma_rows():
    message = make_image('nv12', np.zeros((4, 4), np.uint8), 4, height=4)
    with pytest.raises(MessageError, match='16 bytes, but 6 rows'):
        decode_image(message)


@pytest.mark.parametrize(('width', 'height'), [(0, 6), (16386, 6), (8, 0), (2**32 - 2, 6)])
def test_sizes_no_camera_has(rgb, width, height):
    message = make_image('rgb8', rgb, 8)
    message.width, message.height = width, height
    for read in (decode_image, image_size):
        with pytest.raises(MessageError, match=f'{width}x{height}, expected sides of 1 to 16384'):
            read(message)


def test_step_shorter_than_a_row(rgb):
    message = make_image('rgb8', rgb, 8)
    message.step = 20
    with pytest.raises(MessageError, match=r'step is 20 bytes.*8 pixels in rgb8 takes 24'):
        decode_image(message)


@pytest.mark.parametrize('encoding', ['uyvy', 'nv12', 'bayer_rggb8'])
def test_odd_widths_of_subsampled_encodings(encoding):
    with pytest.raises(MessageError, match=f'7x4, but {encoding} needs a width in steps of 2'):
        decode_image(make_image(encoding, np.zeros((6, 14), np.uint8), 7, height=4))


@pytest.mark.parametrize('big', [False, True])
def test_depth_in_metres_keeps_invalid_values(big):
    values = np.array([[1.5, np.nan, np.inf, -np.inf]], '>f4' if big else '<f4')
    message = make_image('32FC1', values.view(np.uint8), 4, padding=8, is_bigendian=big)
    decoded = decode_depth(message)
    assert decoded.dtype == np.float32
    assert np.array_equal(decoded, values.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize('big', [False, True])
def test_depth_in_millimetres_becomes_metres(big):
    values = np.array([[0, 1, 1500, 65535]], '>u2' if big else '<u2')
    message = make_image('16UC1', values.view(np.uint8), 4, is_bigendian=big)
    assert np.allclose(decode_depth(message), [[np.nan, 0.001, 1.5, 65.535]], equal_nan=True)


def test_depth_of_a_colour_image_is_refused(rgb):
    with pytest.raises(MessageError, match=r"'rgb8'.*32FC1, 16UC1"):
        decode_depth(make_image('rgb8', rgb, 8))


def test_depth_to_millimetres_marks_what_it_cannot_hold():
    depth = np.array([1.2345, 65.535, 65.6, np.nan, np.inf, -np.inf, -1.0, 0.0], np.float32)
    assert depth_to_millimetres(depth).tolist() == [1235, 65535, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ('encoding', 'dtype', 'channels'),
    [('rgb8', 'u1', 3), ('mono8', 'u1', 1), ('mono16', 'u2', 1)],
)
def test_image_fields_round_trip(encoding, dtype, channels):
    shape = (5, 6, 3) if channels == 3 else (5, 6)
    pixels = np.random.default_rng(1).integers(0, 255, shape).astype(dtype) * np.uint8(1)
    fields = image_fields(pixels, encoding)
    assert np.shares_memory(fields['data'], pixels)
    assert (fields['height'], fields['width'], fields['step']) == (
        5,
        6,
        6 * channels * pixels.itemsize,
    )
    assert decode_image(SimpleNamespace(**fields)).shape == (5, 6, 3)


def test_depth_fields_round_trip():
    depth = np.array([[1.0, np.nan], [np.inf, 3.5]], np.float32)
    message = SimpleNamespace(**image_fields(depth, '32FC1'))
    assert np.array_equal(decode_depth(message), depth, equal_nan=True)


def test_image_fields_refuse_the_wrong_type():
    with pytest.raises(MessageError, match=r'32FC1 needs float32 .* found float64'):
        image_fields(np.zeros((2, 2)), '32FC1')
    with pytest.raises(MessageError, match=r'rgb8 needs uint8 with 3 channel.*\(2, 2\)'):
        image_fields(np.zeros((2, 2), np.uint8), 'rgb8')
    with pytest.raises(MessageError, match="found the encoding 'nv12'"):
        image_fields(np.zeros((2, 2), np.uint8), 'nv12')
