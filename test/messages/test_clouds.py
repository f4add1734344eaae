"""PointCloud2 in awkward layouts, both ways."""

from types import SimpleNamespace

import numpy as np
import pytest

from psd_depth_ros.errors import MessageError
from psd_depth_ros.messages import (
    cloud_fields,
    CloudField,
    decode_cloud,
    decode_points,
    pack_cloud,
    pack_rgb,
    unpack_rgb,
)


def as_message(fields):
    described = [SimpleNamespace(**field) for field in fields['fields']]
    return SimpleNamespace(**(fields | {'fields': described}))


def make_cloud(order='<', row_padding=0):
    """Make 2 x 3 points: 3 bytes of padding, z, uint16 ring, x, y, two int8 of `flags`."""
    dtype = np.dtype(
        {
            'names': ['z', 'ring', 'x', 'y', 'flags'],
            'formats': [order + 'f4', order + 'u2', order + 'f4', order + 'f8', (order + 'i1', 2)],
            'offsets': [3, 7, 9, 13, 21],
            'itemsize': 27,
        }
    )
    points = np.zeros((2, 3), dtype)
    for scale, name in enumerate(['x', 'y', 'z', 'ring'], start=1):
        points[name] = np.arange(6).reshape(2, 3) * scale
    points['flags'] = [-1, 7]
    rows = points.view(np.uint8).reshape(2, -1)
    data = np.pad(rows, ((0, 0), (0, row_padding)), constant_values=255)
    described = [('z', 3, 7, 1), ('ring', 7, 4, 1), ('x', 9, 7, 0), ('y', 13, 8, 1)]
    fields = [
        SimpleNamespace(name=name, offset=offset, datatype=datatype, count=count)
        for name, offset, datatype, count in [*described, ('flags', 21, 1, 2)]
    ]
    return SimpleNamespace(
        height=2,
        width=3,
        fields=fields,
        is_bigendian=order == '>',
        point_step=27,
        row_step=data.shape[1],
        data=data.reshape(-1),
        is_dense=True,
    )


@pytest.mark.parametrize('row_padding', [0, 10])
@pytest.mark.parametrize('order', ['<', '>'])
def test_any_layout_is_read(order, row_padding):
    arrays = decode_cloud(make_cloud(order, row_padding))
    assert arrays['x'].tolist() == [0, 1, 2, 3, 4, 5]
    assert arrays['y'].tolist() == [0, 2, 4, 6, 8, 10]
    assert arrays['ring'].tolist() == [0, 4, 8, 12, 16, 20]
    assert arrays['flags'].tolist() == [[-1, 7]] * 6
    assert arrays['x'].dtype == np.float32
    assert arrays['y'].dtype == np.float64
    assert all(array.dtype.isnative for array in arrays.values())


def test_points_without_holes():
    cloud = make_cloud()
    cloud.data[9:13] = np.array([np.nan], '<f4').view(np.uint8)
    points = decode_points(cloud)
    assert points.dtype == np.float32
    assert points.tolist() == [[i, 2 * i, 3 * i] for i in range(1, 6)]


def test_bytes_are_read_as_well():
    cloud = make_cloud()
    cloud.data = cloud.data.tobytes()
    assert len(decode_points(cloud)) == 6


def test_an_empty_cloud():
    cloud = make_cloud()
    cloud.height = cloud.width = cloud.row_step = 0
    cloud.data = b''
    assert decode_points(cloud).shape == (0, 3)


def test_round_trip():
    generator = np.random.default_rng(2)
    arrays = {
        'x': generator.normal(size=9).astype(np.float32),
        'rgb': pack_rgb(generator.integers(0, 256, (9, 3), dtype=np.uint8)),
        'ring': np.arange(9, dtype=np.uint16),
        'normal': generator.normal(size=(9, 3)),
    }
    back = decode_cloud(as_message(pack_cloud(arrays)))
    assert list(back) == list(arrays)
    for name, values in arrays.items():
        assert np.array_equal(back[name].view(np.uint8), np.ascontiguousarray(values).view('u1'))


def test_an_empty_cloud_goes_out():
    fields = pack_cloud({'x': np.zeros(0, np.float32)})
    assert (fields['width'], fields['row_step'], fields['data'].size) == (0, 0, 0)


def test_rgb_is_packed_as_rviz_reads_it():
    packed = pack_rgb(np.array([[1, 2, 3]], np.uint8))
    assert packed.dtype == np.float32
    assert packed.view(np.uint32)[0] == 0x010203
    assert unpack_rgb(packed).tolist() == [[1, 2, 3]]


def test_packed_data_is_handed_on():
    data = np.arange(2 * 3 * 4, dtype=np.uint8)
    fields = cloud_fields(data, [CloudField('x', 0, 7)], 3, 2, point_step=4, is_dense=False)
    assert fields['data'] is data
    assert (fields['height'], fields['width'], fields['row_step']) == (2, 3, 12)
    with pytest.raises(MessageError, match='24 bytes, expected 1 x 3 points of 4 bytes'):
        cloud_fields(data, [], 3, point_step=4)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'row_step': 80}, 'row_step is 80 bytes, but 3 points of 27 bytes take 81'),
        ({'height': 3}, '162 bytes, but 3 rows of 81 bytes take 243'),
        ({'point_step': 2**31, 'row_step': 2**33, 'height': 0}, 'expected at most 1048576'),
        ({'point_step': 20}, "'y' ends at byte 21 of a point, but point_step is 20"),
    ],
)
def test_clouds_whose_fields_disagree(changes, message):
    cloud = make_cloud()
    vars(cloud).update(changes)
    with pytest.raises(MessageError, match=message):
        decode_cloud(cloud)


def test_unknown_datatype():
    cloud = make_cloud()
    cloud.fields[0].datatype = 9
    with pytest.raises(MessageError, match="'z' has datatype 9, expected 1"):
        decode_cloud(cloud)


def test_a_count_nobody_can_hold():
    cloud = make_cloud()
    cloud.fields[0].count = 2**32 - 1
    with pytest.raises(MessageError, match="'z' ends at byte 17179869183 of a point"):
        decode_cloud(cloud)


def test_fields_of_one_name():
    cloud = make_cloud()
    cloud.fields[0].name = 'x'
    with pytest.raises(MessageError, match='one name twice'):
        decode_cloud(cloud)


def test_a_cloud_without_xyz_lists_its_fields():
    cloud = make_cloud()
    cloud.fields[0].name = 'range'
    with pytest.raises(MessageError, match='no field z; its fields are range, ring, x, y, flags'):
        decode_points(cloud)


def test_a_type_that_clouds_do_not_have():
    with pytest.raises(MessageError, match="'x' is int64"):
        pack_cloud({'x': np.arange(3)})
