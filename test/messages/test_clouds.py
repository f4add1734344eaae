"""PointCloud2 in awkward layouts, both ways."""

from types import SimpleNamespace

import numpy as np
from pack_clouds import pack_cloud, pack_rgb
import pytest

from psd_depth_ros.errors import MessageError
from psd_depth_ros.messages import (
    cloud_fields,
    CloudField,
    decode_cloud,
    decode_points,
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


@pytest.mark.parametrize('row_step', [0, 162, 27, 3, 2**32 - 1])
def test_row_step_does_not_matter_where_rows_have_no_padding(row_step):
    cloud = make_cloud()
    cloud.row_step = row_step
    assert decode_cloud(cloud)['y'].tolist() == [0, 2, 4, 6, 8, 10]
    assert decode_points(cloud)[4].tolist() == [4, 8, 12]


@pytest.mark.parametrize('row_step', [0, 162])
def test_row_step_of_0_or_of_the_whole_cloud_before_spare_bytes(row_step):
    cloud = make_cloud()
    cloud.row_step, cloud.data = row_step, np.concatenate([cloud.data, np.zeros(50, 'u1')])
    assert decode_points(cloud)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_one_row_takes_what_it_needs():
    cloud = make_cloud()
    cloud.height, cloud.width, cloud.row_step = 1, 6, 1000
    assert decode_points(cloud)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_padding_after_the_last_row_may_be_missing():
    cloud = make_cloud(row_padding=10)
    cloud.data = cloud.data[:-10]
    assert decode_points(cloud)[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_coordinate_is_one_number():
    cloud = make_cloud()
    next(field for field in cloud.fields if field.name == 'x').count = 2
    with pytest.raises(MessageError, match="'x' holds 2 values, expected one"):
        decode_points(cloud)


def test_coordinates_beyond_float32_are_no_points():
    cloud = make_cloud()
    cloud.data[27 + 13 : 27 + 21] = np.array([1e300], '<f8').view(np.uint8)
    points = decode_points(cloud)
    assert points[:, 0].tolist() == [0, 2, 3, 4, 5]
    assert np.isfinite(points).all()


def test_only_coordinates_must_be_understood_to_read_points():
    cloud = make_cloud()
    ring, flags = (field for field in cloud.fields if field.name in ('ring', 'flags'))
    ring.datatype, flags.offset = 77, 5000
    assert len(decode_points(cloud)) == 6
    with pytest.raises(MessageError, match="'ring' has datatype 77"):
        decode_cloud(cloud)


def test_padding_with_a_name_is_left_out():
    cloud = make_cloud()
    for name, offset in (('_', 0), ('_', 1), ('', 2)):
        cloud.fields.append(SimpleNamespace(name=name, offset=offset, datatype=2, count=1))
    assert list(decode_cloud(cloud)) == ['z', 'ring', 'x', 'y', 'flags']


def test_a_field_before_its_point():
    cloud = make_cloud()
    cloud.fields[0].offset = -4
    with pytest.raises(MessageError, match="'z' begins at byte -4"):
        decode_points(cloud)


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
        ({'row_step': 90, 'data': bytes(170)}, '170 bytes, but 2 rows of 90 bytes take 180'),
        ({'row_step': 80, 'data': bytes(170)}, 'but 2 rows of 80 .* 2 x 3 points of 27 bytes 162'),
        ({'row_step': 0, 'data': bytes(161)}, '161 bytes, .* 2 x 3 points of 27 bytes 162'),
        ({'height': 3}, '162 bytes, but 3 rows of 81 bytes take 243'),
        ({'point_step': 2**31, 'row_step': 2**33, 'height': 0}, 'expected at most 1048576'),
        ({'point_step': 20}, "'y' begins at byte 13 and ends at byte 21 of a point"),
        ({'point_step': 0}, 'point_step is 0 bytes, expected at most 1048576 and at least 1'),
        ({'height': -2}, 'height is -2, expected 0 or more'),
        ({'width': -3, 'height': -2}, 'height is -2, expected 0 or more'),
        ({'row_step': -81}, 'row_step is -81, expected 0 or more'),
        ({'width': 2**31, 'height': 2**31}, '162 bytes, but 2147483648 rows'),
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
    with pytest.raises(MessageError, match="'z' begins at byte 3 and ends at byte 17179869183"):
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
