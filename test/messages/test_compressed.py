"""JPEG and PNG pictures, whole and damaged."""

from types import SimpleNamespace
import zlib

import cv2
import numpy as np
import pytest

from psd_depth_ros.errors import MessageError
from psd_depth_ros.messages import (
    compressed_fields,
    decode,
    decode_compressed,
    image_size,
    is_compressed,
)


@pytest.fixture
def rgb():
    ramp = np.linspace(0, 255, 48).astype(np.uint8)
    return np.stack(np.broadcast_arrays(ramp[None, :], ramp[:32, None], 40), axis=-1).astype('u1')


def make_picture(rgb, picture_format='jpeg'):
    return SimpleNamespace(**compressed_fields(rgb, picture_format))


def test_png_is_exact_and_jpeg_is_close(rgb):
    assert np.array_equal(decode(make_picture(rgb, 'png')), rgb)
    decoded = decode_compressed(make_picture(rgb))
    assert decoded.flags.c_contiguous
    assert np.abs(decoded.astype(int) - rgb).mean() < 3


def test_grey_and_16_bit_pictures_become_rgb(rgb):
    grey = cv2.imencode('.jpg', rgb[..., 0])[1].reshape(-1)
    assert decode(SimpleNamespace(format='jpeg', data=grey)).shape == (32, 48, 3)
    deep = cv2.imencode('.png', rgb[..., 0].astype(np.uint16) * 257)[1].reshape(-1)
    decoded = decode(SimpleNamespace(format='png', data=deep))
    assert np.array_equal(decoded[..., 1], rgb[..., 0])


def photo(height=96, width=128, **options):
    """Make something like a photograph, without a corner of exactly the middle grey."""
    noise = np.random.default_rng(1).normal(size=(height, width, 3)).astype(np.float32)
    smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)
    return smooth.astype(np.uint8)


KINDS = {
    'plain': [],
    'restarts': [cv2.IMWRITE_JPEG_RST_INTERVAL, 4],
    'optimised': [cv2.IMWRITE_JPEG_OPTIMIZE, 1],
    'coarse': [cv2.IMWRITE_JPEG_QUALITY, 10],
    'progressive': [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
}


def jpeg(image, options=()):
    return cv2.imencode('.jpg', image, list(options))[1].tobytes()


@pytest.mark.parametrize(
    ('kind', 'share'),
    # At its end a progressive one has the last bit of some detail only: without it it passes.
    [(kind, share) for kind in KINDS for share in (0.15, 0.5, 0.8)][:-1],
)
@pytest.mark.parametrize('grey', [False, True])
def test_a_jpeg_that_lost_its_middle_but_has_an_end_is_refused(kind, grey, share):
    image = photo()[..., 0] if grey else photo()
    data = jpeg(image, KINDS[kind])
    assert decode(SimpleNamespace(format='jpeg', data=data)).shape == (96, 128, 3)
    start = data.index(b'\xff\xda')
    place = start + int(share * (len(data) - start))
    for ruined in (data[:place] + b'\xff\xd9', data[:place] + b'\xff\xd9' + b'\0' * 50):
        with pytest.raises(
            MessageError, match=r'damaged: (its pixels end before|it was cut short)'
        ):
            decode(SimpleNamespace(format='jpeg', data=ruined))


@pytest.mark.parametrize('size', [(96, 128), (200, 640), (375, 1242), (90, 130), (31, 18)])
def test_a_jpeg_that_lost_its_last_blocks_is_refused(size):
    # Sides that are no multiple of 16: the blocks of the last row are seen in part.
    data = jpeg(photo(*size))
    start = data.index(b'\xff\xda')
    lost = (len(data) - start) * 16 // max(size[0], 32) // 3
    places = [len(data) - 2 - lost, data.rindex(b'\xff\x00', start, len(data) - lost) + 1]
    for place in places:  # the second one in the middle of a byte ff 00
        with pytest.raises(MessageError, match='its pixels end before'):
            decode(SimpleNamespace(format='jpeg', data=data[:place] + b'\xff\xd9'))


def test_a_jpeg_with_a_hole_is_refused():
    data = jpeg(photo())
    half = len(data) // 2
    with pytest.raises(MessageError, match='its pixels end before its 128x96 are full'):
        decode(SimpleNamespace(format='jpeg', data=data[:half] + data[half + 400 :]))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('size', [(96, 128), (37, 51), (8, 8), (1, 1)])
def test_a_picture_that_is_grey_itself_is_whole(kind, size):
    grey = photo(*size)
    grey[size[0] // 16 * 8 :] = 128
    decoded = decode(SimpleNamespace(format='jpeg', data=jpeg(grey, KINDS[kind])))
    assert decoded[-1, -1].tolist() == [128, 128, 128]


def test_the_thumbnail_is_not_the_end_of_the_picture():
    data, small = jpeg(photo()), jpeg(photo(16, 16))
    segment = b'\xff\xe1' + (len(small) + 2).to_bytes(2, 'big') + small
    whole = data[:2] + segment + data[2:]
    assert decode(SimpleNamespace(format='jpeg', data=whole)).shape == (96, 128, 3)
    with pytest.raises(MessageError, match='cut short'):
        decode(SimpleNamespace(format='jpeg', data=whole[:-500]))


def test_a_png_that_lost_its_middle_is_refused():
    data = cv2.imencode('.png', photo())[1].tobytes()
    start = data.index(b'IDAT')
    length = int.from_bytes(data[start - 4 : start], 'big')
    part = b'IDAT' + data[start + 4 : start + 4 + length // 2]
    checked = part + zlib.crc32(part).to_bytes(4, 'big')
    ruined = data[: start - 4] + (length // 2).to_bytes(4, 'big') + checked + data[-12:]
    for cut in (ruined, data[: len(data) // 2] + data[-12:]):
        with pytest.raises(MessageError, match='damaged'):
            decode(SimpleNamespace(format='png', data=cut))


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize(
    ('text', 'extension', 'dtype'),
    [
        ('bayer_{}8; jpeg compressed ', '.jpg', np.uint8),
        ('bayer_{}8; jpeg compressed bgr8', '.jpg', np.uint8),
        ('bayer_{}8; png compressed ', '.png', np.uint8),
        ('bayer_{}16; png compressed ', '.png', np.uint16),
    ],
)
def test_a_compressed_mosaic_becomes_colours(pattern, text, extension, dtype):
    # Red only: an even mosaic of 200 and 0 survives JPEG nearly.
    tile = [
        [200 if pattern[2 * row + column] == 'r' else 0 for column in (0, 1)] for row in (0, 1)
    ]
    mosaic = np.tile(np.array(tile, dtype) * dtype(257 if dtype is np.uint16 else 1), (8, 8))
    data = cv2.imencode(extension, mosaic, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].reshape(-1)
    decoded = decode(SimpleNamespace(format=text.format(pattern), data=data))
    assert np.abs(decoded[4:12, 4:12].astype(int) - [200, 0, 0]).max() <= 4


@pytest.mark.parametrize(
    'text', ['bayer_rggb8; jpeg compressed mono8', 'mono8; jpeg compressed ', 'jpeg', '']
)
def test_a_grey_picture_stays_grey(text):
    # image_transport of ROS 2 makes grey of a mosaic before it compresses, and says mono8.
    grey = np.tile(np.array([[200, 0], [0, 0]], np.uint8), (8, 8))
    data = cv2.imencode('.png', grey)[1].reshape(-1)
    decoded = decode(SimpleNamespace(format=text, data=data))
    assert np.array_equal(decoded, np.repeat(grey[..., None], 3, axis=2))


def test_colours_that_were_made_before_compression_are_kept(rgb):
    message = make_picture(rgb, 'png')
    message.format = 'bayer_rggb8; png compressed bgr8'
    assert np.array_equal(decode(message), rgb)


def test_an_odd_mosaic_is_refused():
    data = cv2.imencode('.png', np.zeros((6, 7), np.uint8))[1].reshape(-1)
    with pytest.raises(MessageError, match='is 7x6, but a Bayer mosaic has an even'):
        decode(SimpleNamespace(format='bayer_rggb8; png compressed ', data=data))


def test_a_small_file_of_many_pixels_is_refused(rgb):
    data = bytearray(jpeg(np.zeros((64, 64, 3), np.uint8)))
    place = data.index(b'\xff\xc0')
    data[place + 5 : place + 9] = (4000).to_bytes(2, 'big') * 2
    with pytest.raises(MessageError, match='is 4000x4000, which is more pixels than its bytes'):
        decode(SimpleNamespace(format='jpeg', data=bytes(data)))
    data += bytes(600_000)  # bytes enough, and still too many pixels
    data[place + 5 : place + 9] = (16384).to_bytes(2, 'big') * 2
    with pytest.raises(MessageError, match='is 16384x16384, expected at most 67108864 pixels'):
        decode(SimpleNamespace(format='jpeg', data=bytes(data)))


@pytest.mark.parametrize('kind', ['.jpg', '.png'])
def test_the_emptiest_picture_is_within_what_its_bytes_can_hold(kind):
    black = np.zeros((1080, 1920), np.uint8)
    options = [cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_PNG_COMPRESSION, 9]
    for image in (black, np.repeat(black[..., None], 3, axis=2)):
        data = cv2.imencode(kind, image, options[:2] if kind == '.jpg' else options[2:])[1]
        assert not decode(SimpleNamespace(format='', data=data.reshape(-1))).any()


def test_bytes_after_the_picture_are_harmless(rgb):
    message = make_picture(rgb)
    message.data = bytes(message.data) + b'\0' * 100
    assert decode(message).shape == rgb.shape


def test_a_png_whose_chunk_is_longer_than_the_file_is_refused_undecoded(rgb, monkeypatch):
    message = make_picture(rgb, 'png')
    place = bytes(message.data).index(b'IDAT')
    message.data[place - 4 : place] = 0xFF
    monkeypatch.setattr('cv2.imdecode', None)
    with pytest.raises(MessageError, match='cut short'):
        decode(message)


@pytest.mark.parametrize('picture_format', ['jpeg', 'png'])
@pytest.mark.parametrize('share', [0.1, 0.5, 0.99])
def test_a_picture_cut_short_is_refused(rgb, picture_format, share):
    message = make_picture(rgb, picture_format)
    message.data = message.data[: int(share * len(message.data)) - 4]
    with pytest.raises(MessageError, match=r'bytes\) is damaged: it was cut short'):
        decode(message)


def test_a_picture_with_a_ruined_header_is_refused(rgb):
    message = make_picture(rgb)
    message.data = np.concatenate([message.data[:4], message.data[-20:]])
    with pytest.raises(MessageError, match='damaged'):
        decode(message)


@pytest.mark.parametrize('picture_format', ['jpeg', 'png'])
def test_a_picture_that_says_it_is_huge_takes_no_memory(rgb, picture_format):
    message = make_picture(rgb, picture_format)
    data = bytearray(message.data)
    if picture_format == 'jpeg':
        place = data.index(b'\xff\xc0')
        data[place + 5 : place + 9] = (32000).to_bytes(2, 'big') * 2
    else:
        data[16:24] = (32000).to_bytes(4, 'big') * 2
    message.data = bytes(data)
    with pytest.raises(MessageError, match='is 32000x32000, expected sides of 1 to 16384'):
        decode(message)


@pytest.mark.parametrize('data', [b'', b'not a picture at all'])
def test_bytes_that_are_no_picture(data):
    with pytest.raises(MessageError, match=f'{len(data)} bytes.*neither jpeg nor png'):
        decode(SimpleNamespace(format='jpeg', data=data))


def test_compressed_depth_is_named():
    message = SimpleNamespace(format='16UC1; compressedDepth png', data=b'\0' * 12)
    for read in (decode, image_size):
        with pytest.raises(MessageError, match=r'compressedDepth.*which holds depth'):
            read(message)


def test_messages_are_told_apart(rgb):
    assert is_compressed(make_picture(rgb))
    assert not is_compressed(SimpleNamespace(encoding='rgb8', data=b''))


def test_other_formats_are_not_written(rgb):
    with pytest.raises(MessageError, match="jpeg or png; found 'webp'"):
        compressed_fields(rgb, 'webp')
