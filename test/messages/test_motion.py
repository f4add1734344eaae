"""Stamps, odometry and transforms, both ways."""

from types import SimpleNamespace

import numpy as np
import pytest

from psd_depth_ros.errors import MessageError
from psd_depth_ros.geometry.pose import from_quaternion, make_pose
from psd_depth_ros.messages import (
    header_fields,
    odometry_fields,
    odometry_pose,
    stamp_ns,
    transform_fields,
    transform_pose,
)


def as_message(value):
    if isinstance(value, dict):
        return SimpleNamespace(**{key: as_message(item) for key, item in value.items()})
    return value


@pytest.fixture
def pose():
    return make_pose(from_quaternion([0.1, -0.3, 0.3, 0.9]), [1.0, -2.0, 3.5])


@pytest.mark.parametrize('time_ns', [0, 1, 1_317_000_300_123_456_789, -1])
def test_stamps_round_trip(time_ns):
    header = as_message(header_fields(time_ns, 'camera_optical'))
    assert stamp_ns(header) == time_ns
    assert 0 <= header.stamp.nanosec < 1_000_000_000
    assert header.frame_id == 'camera_optical'


def test_odometry_round_trip(pose):
    fields = odometry_fields(pose, 'base_link', linear_mps=(5.0, 0, 0))
    message = as_message(fields)
    assert np.allclose(odometry_pose(message), pose)
    assert message.child_frame_id == 'base_link'
    assert message.twist.twist.linear.x == 5.0
    assert message.pose.covariance.shape == (36,)


def test_transform_round_trip(pose):
    message = as_message(transform_fields(pose, 5, 'map', 'base_link'))
    assert np.allclose(transform_pose(message.transform), pose)
    assert (message.header.frame_id, message.child_frame_id) == ('map', 'base_link')


@pytest.mark.parametrize(
    ('quaternion', 'length'),
    [((0.0, 0.0, 0.0, 0.0), '0'), ((0.0, 0.0, 0.5, 0.5), '0.707107'), ((0.0, 0.0, 0.0, 2.0), '2')],
)
def test_an_orientation_that_is_no_rotation(pose, quaternion, length):
    message = as_message(odometry_fields(pose, 'base_link'))
    message.pose.pose.orientation = as_message(dict(zip('xyzw', quaternion, strict=True)))
    with pytest.raises(MessageError, match=f'Odometry has an orientation .* length {length}, exp'):
        odometry_pose(message)
    transform = as_message(transform_fields(pose, 5, 'map', 'base_link')).transform
    transform.rotation = message.pose.pose.orientation
    with pytest.raises(MessageError, match=f'Transform has an orientation .* length {length}, '):
        transform_pose(transform)


def test_a_position_that_is_not_finite(pose):
    message = as_message(odometry_fields(pose, 'base_link'))
    message.pose.pose.position.x = float('nan')
    with pytest.raises(MessageError, match='position'):
        odometry_pose(message)
