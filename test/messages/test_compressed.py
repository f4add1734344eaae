"""JPEG and PNG pictures, whole and damaged."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from psd_depth_ros.errors import MessageError
from psd_depth_ros.messages import compressed_fields, decode, decode_compressed, is_compressed


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


def test_bytes_after_the_picture_are_harmless(rgb):
    message = make_picture(rgb)
    message.data = bytes(message.data) + b'\0' * 100
    assert decode(message).shape == rgb.shape


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
    with pytest.raises(MessageError, match=r'compressedDepth.*which holds depth'):
        decode(message)


def test_messages_are_told_apart(rgb):
    assert is_compressed(make_picture(rgb))
    assert not is_compressed(SimpleNamespace(encoding='rgb8', data=b''))


def test_other_formats_are_not_written(rgb):
    with pytest.raises(MessageError, match="jpeg or png; found 'webp'"):
        compressed_fields(rgb, 'webp')
