"""What is known of a camera's surroundings: which source goes first, and the rectified view."""

import numpy as np

from psd_depth_ros.geometry import Camera, Extrinsics
from psd_depth_ros.geometry.pose import exponential, make_pose


def test_what_is_known_goes_before_what_was_found() -> None:
    mine = Extrinsics(camera_height_m=1.5)
    found = Extrinsics(
        T_camera_lidar=np.eye(4), camera_height_m=2.0, up=np.array([0.0, -1.0, 0.0])
    )
    both = mine.or_else(found)
    assert both.camera_height_m == 1.5
    assert both.T_camera_lidar is found.T_camera_lidar
    assert both.up is found.up
    assert both.T_body_camera is None


def test_a_rectified_view_sees_its_surroundings_turned() -> None:
    """R turns by 0.1 rad about the camera's x axis, so the ground's normal tips with it."""
    turn = exponential([0, 0, 0, 0.1, 0, 0])[:3, :3]
    camera = Camera(64, 48, 50.0, 50.0, 31.5, 23.5, rectification=tuple(map(tuple, turn.tolist())))
    known = Extrinsics(
        make_pose(np.eye(3), (1.0, 2.0, 3.0)),
        make_pose(np.eye(3), (0.0, 0.0, 1.0)),
        1.5,
        np.array([0.0, -1.0, 0.0]),
    )
    view = known.rectified(camera)
    sine, cosine = np.sin(0.1), np.cos(0.1)
    assert np.allclose(view.up, [0.0, -cosine, -sine])
    assert np.allclose(view.T_camera_lidar[:3, 3], [0.0, -sine, cosine])
    assert np.allclose(view.T_body_camera, make_pose(turn.T, (1.0, 2.0, 3.0)))
    assert view.camera_height_m == 1.5
    assert known.rectified(Camera(64, 48, 50.0, 50.0, 31.5, 23.5)) is known
