"""cv_bridge, sensor_msgs_py, tf_transformations and transforms3d: where they are, and are not.

The comparisons with the real libraries run where these are importable, as in a ROS distribution.
"""

import array
import copy
import importlib
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
from pack_clouds import pack_cloud
import pytest
from sensor_msgs.msg import Image, PointCloud2, PointField

from psd_depth_ros.errors import MessageError
from psd_depth_ros.geometry.pose import from_quaternion, to_quaternion
from psd_depth_ros.messages import (
    decode,
    decode_cloud,
    decode_points,
    ENCODINGS,
    image_fields,
    ImageDecoder,
)
from psd_depth_ros.ros import conversions
from psd_depth_ros.ros.conversions import (
    cloud_message,
    decode_with_cv_bridge,
    image_message,
    read_points,
    rotation_matrix,
)


@pytest.fixture(autouse=True)
def _look_anew():
    for found in (conversions.quaternion_library, conversions._find):
        found.cache_clear()
    yield
    for found in (conversions.quaternion_library, conversions._find):
        found.cache_clear()


def hide(monkeypatch, *names):
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
    conversions._find.cache_clear()


def make_image(encoding, width=8, height=6, seed=0):
    """Make a message of random pixels in an encoding of `ENCODINGS`."""
    per_pixel = {'mono': 1, 'baye': 1, '8UC1': 1, 'nv12': 1.5, 'nv21': 1.5, 'nv24': 3}
    channels = per_pixel.get(encoding[:4], 2 if encoding.startswith(('yuv', 'uyvy')) else 0)
    if not channels:
        channels = 4 if 'a' in encoding or encoding.endswith('C4') else 3
    size = 2 if '16' in encoding else 1
    data = np.random.default_rng(seed).integers(0, 256, int(width * height * channels * size))
    step = width * size * (1 if encoding.startswith('nv') else int(channels))
    message = Image(width=width, height=height, encoding=encoding, step=step)
    message.data = array.array('B', data.astype(np.uint8).tobytes())
    return message


# What cv_bridge takes for colours; of OpenCV's own types it says that they have none.
KNOWN_TO_CV_BRIDGE = [
    encoding
    for encoding in ENCODINGS
    if encoding.startswith(('rgb', 'bgr', 'mono', 'bayer', 'yuv422'))
]


@pytest.mark.parametrize('encoding', KNOWN_TO_CV_BRIDGE)
def test_images_are_those_of_cv_bridge(encoding):
    pytest.importorskip('cv_bridge')
    message = make_image(encoding)
    theirs = decode_with_cv_bridge(message)
    np.testing.assert_array_equal(decode(message), theirs)


@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', 'mono8', 'mono16', '16UC1', '32FC1'])
def test_images_are_written_as_cv_bridge_writes_them(encoding):
    bridge = pytest.importorskip('cv_bridge').CvBridge()
    rng = np.random.default_rng(0)
    shape = (6, 8, 3) if encoding in ('rgb8', 'bgr8') else (6, 8)
    dtype = {'mono16': 'u2', '16UC1': 'u2', '32FC1': 'f4'}.get(encoding, 'u1')
    pixels = (rng.random(shape) * 255).astype(dtype)
    theirs = bridge.cv2_to_imgmsg(pixels, encoding)
    ours = image_message(theirs.header, image_fields(pixels, encoding))
    assert ours == theirs


def fake_cv_bridge(monkeypatch, convert):
    module = ModuleType('cv_bridge')
    module.CvBridge = lambda: SimpleNamespace(imgmsg_to_cv2=convert)
    monkeypatch.setitem(sys.modules, 'cv_bridge', module)
    conversions._find.cache_clear()


def test_cv_bridge_decodes_what_messages_does_not_know(monkeypatch):
    asked = []
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)

    def convert(message, encoding):
        asked.append((message.encoding, encoding))
        return pixels

    fake_cv_bridge(monkeypatch, convert)
    decoder = ImageDecoder(fallback=decode_with_cv_bridge)
    message = make_image('rgb8')
    decoder.decode(message)
    message.encoding = 'yuv_of_tomorrow'
    assert np.array_equal(decoder.decode(message), pixels)
    assert asked == [('yuv_of_tomorrow', 'rgb8')]


def test_what_cv_bridge_does_not_know_is_said_in_its_words(monkeypatch):
    def convert(message, encoding):
        raise TypeError('Unrecognized image encoding [8UC7]')

    fake_cv_bridge(monkeypatch, convert)
    message = make_image('rgb8')
    message.encoding = '8UC7'
    with pytest.raises(MessageError, match=r"'8UC7' .* rgb8, .*Unrecognized image encoding"):
        decode_with_cv_bridge(message)
    fake_cv_bridge(monkeypatch, lambda *_: np.zeros((6, 8), np.uint8))
    with pytest.raises(MessageError, match=r'cv_bridge made uint8 of shape \(6, 8\)'):
        decode_with_cv_bridge(message)


def test_a_cv_bridge_that_is_not_there_is_named(monkeypatch):
    hide(monkeypatch, 'cv_bridge')
    message = make_image('rgb8')
    message.encoding = '8UC7'
    with pytest.raises(MessageError, match=r"'8UC7' .*cv_bridge is not installed"):
        decode_with_cv_bridge(message)


def test_a_library_of_another_numpy_is_named(monkeypatch, tmp_path):
    (tmp_path / 'cv_bridge.py').write_text('raise AttributeError("_ARRAY_API not found")')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, 'cv_bridge', raising=False)
    with pytest.raises(MessageError, match='cv_bridge cannot be imported: _ARRAY_API not found'):
        decode_with_cv_bridge(make_image('rgb8'))


def make_cloud(**changes):
    rng = np.random.default_rng(3)
    arrays = {name: rng.normal(size=7).astype(np.float32) for name in 'xyz'}
    arrays['x'][2] = np.nan
    arrays['ring'] = np.arange(7, dtype=np.uint16)
    message = cloud_message(Image().header, pack_cloud(arrays))
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def spare(message):
    """Give a cloud bytes at its end, and a row_step that nobody can make sense of."""
    message.data = message.data + array.array('B', bytes(9))
    message.height, message.width, message.row_step = 7, 1, 3
    return message


@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('datatype', ['f4', 'f8'])
def test_clouds_are_those_of_sensor_msgs_py(order, datatype):
    reader = pytest.importorskip('sensor_msgs_py.point_cloud2')
    dtype = np.dtype(
        {
            'names': ['y', 'x', 'ring', 'z'],
            'formats': [order + datatype, order + datatype, order + 'u2', order + datatype],
            'offsets': [2, 10, 20, 24],
            'itemsize': 36,
        }
    )
    points = np.zeros(6, dtype)
    for name in 'xyz':
        points[name] = np.random.default_rng(ord(name)).normal(size=6)
    number = PointField.FLOAT32 if datatype == 'f4' else PointField.FLOAT64
    message = PointCloud2(height=2, width=3, point_step=36, row_step=108)
    message.is_bigendian = order == '>'
    message.fields = [
        PointField(name=name, offset=offset, count=1, datatype=kind)
        for name, offset, kind in [
            ('y', 2, number), ('x', 10, number), ('ring', 20, PointField.UINT16), ('z', 24, number)
        ]
    ]  # fmt: skip
    message.data = array.array('B', points.tobytes())
    # It swaps bytes in the message itself.
    theirs = reader.read_points(copy.deepcopy(message), field_names=['x', 'y', 'z'])
    expected = np.stack([theirs[name] for name in 'xyz'], axis=-1)
    np.testing.assert_allclose(decode_points(message), expected, atol=1e-6)
    np.testing.assert_allclose(decode_cloud(message)['x'], theirs['x'], atol=1e-6)


def test_layouts_that_messages_refuses_go_to_sensor_msgs_py():
    pytest.importorskip('sensor_msgs_py.point_cloud2')
    message = spare(make_cloud())
    with pytest.raises(MessageError):
        decode_points(message)
    np.testing.assert_allclose(read_points(message), decode_points(make_cloud()), atol=1e-6)
    with pytest.raises(MessageError, match=r'cut short .*sensor_msgs_py fails too'):
        read_points(make_cloud(data=array.array('B', bytes(5))))


def test_a_sensor_msgs_py_that_is_not_there_is_named(monkeypatch):
    hide(monkeypatch, 'sensor_msgs_py', 'sensor_msgs_py.point_cloud2')
    assert len(read_points(make_cloud())) == 6
    with pytest.raises(MessageError, match=r'row.*sensor_msgs_py is not installed'):
        read_points(spare(make_cloud()))


ROTATIONS = np.random.default_rng(5).normal(size=(40, 4))


@pytest.mark.parametrize('library', ['tf_transformations', 'transforms3d'])
def test_rotations_are_those_of_the_libraries(library, monkeypatch):
    module = pytest.importorskip(library)
    if library == 'transforms3d':
        hide(monkeypatch, 'tf_transformations')
    assert conversions.quaternion_library()[0] == library
    for raw in [*ROTATIONS, *np.eye(4), (0, 0, 1, 1), (0, 0, 1, -1)]:
        quaternion = np.asarray(raw) / np.linalg.norm(raw)
        matrix = rotation_matrix(quaternion)
        np.testing.assert_allclose(matrix, from_quaternion(quaternion), atol=1e-6)
        if library == 'tf_transformations':
            full = np.eye(4)
            full[:3, :3] = matrix
            back = np.asarray(module.quaternion_from_matrix(full))
        else:
            back = np.roll(
                importlib.import_module('transforms3d.quaternions').mat2quat(matrix), -1
            )
        same = to_quaternion(matrix)
        np.testing.assert_allclose(back * np.sign(back @ same), same, atol=1e-6)


def test_rotations_without_any_library(monkeypatch):
    hide(monkeypatch, 'tf_transformations', 'transforms3d', 'transforms3d.quaternions')
    assert conversions.quaternion_library()[0] == 'psd_depth_ros'
    half = np.sqrt(0.5)
    assert rotation_matrix((0, 0, half, half)) @ (1, 0, 0) == pytest.approx((0, 1, 0))


@pytest.mark.parametrize('quaternion', [(0, 0, 0, 0), (0, 0, 0, 0.4), (1, 1, 1, 1)])
def test_no_library_makes_a_rotation_of_what_is_none(quaternion):
    with pytest.raises(ValueError, match=r'has length .* expected 1'):
        rotation_matrix(quaternion)
