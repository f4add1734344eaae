"""Clouds from depth images: points and colours by hand, what is dropped, two devices."""

import math

import numpy as np
import pytest
import torch

from psd_depth_ros.config import build
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import cloud, on_device
from psd_depth_ros.inference.cloud import build_clearing_cloud, build_cloud, CloudSettings
from psd_depth_ros.messages import unpack_rgb

ALL = {'min_range_m': 0.0, 'max_range_m': 100.0, 'min_confidence': 0.0, 'flying_pixels': 0.0}


def settings(**changes: object) -> CloudSettings:
    return CloudSettings(**{**ALL, **changes})  # type: ignore[arg-type]


def camera(width: int, height: int) -> Camera:
    return Camera(width, height, 100.0, 50.0, 1.0, 2.0)


def plane(height: int = 4, width: int = 6, depth_m: float = 5.0) -> np.ndarray:
    return np.full((height, width), depth_m, np.float32)


def make(depth: np.ndarray, changes: dict[str, object], rgb=None, confidence=None):  # type: ignore[no-untyped-def]
    confidence = np.ones_like(depth) if confidence is None else confidence
    view = camera(depth.shape[1], depth.shape[0])
    return build_cloud(depth, confidence, rgb, view, settings(**changes))


def test_points_by_hand() -> None:
    points = make(plane(), {}).xyz()
    assert len(points) == 24
    # Column 5, row 3 is 4 px right of cx (4 / 100 x 5 m) and 1 px below cy (1 / 50 x 5 m).
    np.testing.assert_allclose(points[3 * 6 + 5], [0.2, 0.1, 5.0], rtol=1e-6)
    np.testing.assert_allclose(points[2 * 6 + 1], [0.0, 0.0, 5.0], atol=1e-7)


def test_layout_and_colours() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    confidence = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    packed = make(plane(), {'confidence': True}, rgb, confidence)
    assert packed.point_step == 20
    assert [(f.name, f.offset, f.datatype) for f in packed.fields] == [
        ('x', 0, 7),
        ('y', 4, 7),
        ('z', 8, 7),
        ('rgb', 12, 7),
        ('confidence', 16, 7),
    ]
    columns = packed.data.view(np.float32).reshape(-1, 5)
    assert columns[:, 3].view(np.uint32)[7] == int.from_bytes(bytes([0, *rgb[1, 1]]), 'big')
    np.testing.assert_array_equal(unpack_rgb(columns[:, 3]), rgb.reshape(-1, 3))
    np.testing.assert_array_equal(columns[:, 4], confidence.reshape(-1))
    fields = packed.message_fields()
    assert (fields['width'], fields['height'], fields['row_step']) == (24, 1, 480)
    assert fields['data'] is packed.data


def test_colour_can_be_left_out() -> None:
    rgb = np.zeros((4, 6, 3), np.uint8)
    assert make(plane(), {'colour': False}, rgb).point_step == 12
    assert make(plane(), {'colour': True}, None).point_step == 12


def test_dense_clouds_omit_and_organised_ones_hold_nan() -> None:
    depth = plane()
    depth[0, :4] = [math.nan, math.inf, -math.inf, 200.0]
    dense = make(depth, {'min_range_m': 0.1})
    assert (dense.width, dense.height, dense.is_dense) == (20, 1, True)
    assert np.isfinite(dense.xyz()).all()
    organised = make(depth, {'min_range_m': 0.1, 'organised': True})
    assert (organised.width, organised.height, organised.is_dense) == (6, 4, False)
    holes = np.isnan(organised.xyz()).all(axis=1).reshape(4, 6)
    assert np.isnan(organised.xyz()).any(axis=1).reshape(4, 6).tolist() == holes.tolist()
    assert holes[0].tolist() == [True] * 4 + [False] * 2
    assert not holes[1:].any()


def test_range_and_confidence_limits() -> None:
    depth = np.array([[1.0, 2.0, 3.0, 4.0]], np.float32)
    confidence = np.array([[0.9, 0.9, 0.2, math.nan]], np.float32)
    assert make(depth, {'min_range_m': 1.5, 'max_range_m': 3.0}).xyz()[:, 2].tolist() == [2, 3]
    kept = make(depth, {'min_confidence': 0.5}, confidence=confidence).xyz()
    assert kept[:, 2].tolist() == [1, 2]


def test_decimation_keeps_the_rays_of_the_pixels_it_keeps() -> None:
    full = make(plane(5, 7), {'organised': True})
    thin = make(plane(5, 7), {'organised': True, 'decimation': 3})
    assert (thin.width, thin.height) == (3, 2)
    expected = full.xyz().reshape(5, 7, 3)[::3, ::3].reshape(-1, 3)
    np.testing.assert_array_equal(thin.xyz(), expected)


def test_flying_pixels_between_two_surfaces_are_dropped() -> None:
    # A pole at 5 m before a wall at 20 m; the enlargement made slopes of 2 px on both sides.
    row = np.array([20, 20, 20, 14, 8, 5, 5, 5, 8, 14, 20, 20, 20], np.float32)
    points = make(np.tile(row, (5, 1)), {'flying_pixels': 0.1}).xyz()
    assert sorted(set(points[:, 2].tolist())) == [5.0, 20.0]
    assert len(points) == 5 * 9  # the edges of both surfaces stay


def test_sky_and_untrusted_neighbours() -> None:
    # Next to the sky, the slope goes; next to NaN, nothing is known about the other side.
    depth = np.tile(np.array([5, 5, 9, math.inf, math.inf], np.float32), (3, 1))
    assert set(make(depth, {'flying_pixels': 0.1}).xyz()[:, 2].tolist()) == {5.0}
    depth[:, 3] = math.nan
    assert set(make(depth, {'flying_pixels': 0.1}).xyz()[:, 2].tolist()) == {5.0, 9.0}


def test_ground_seen_flatly_stays() -> None:
    # Row v of a level ground 1.5 m below a camera of f = 400: z = 600 / v, v below the horizon.
    rows = np.arange(12, 240, dtype=np.float32)
    depth = np.tile((600 / rows)[:, None], (1, 8))
    kept = make(depth, {'flying_pixels': 0.1})
    assert kept.width == depth.size


def test_clearing_cloud_lies_at_the_maximum_range_of_free_pixels() -> None:
    depth = plane(8, 8)
    depth[:4] = math.inf
    depth[4, 4] = 150.0
    depth[0, 0] = math.nan
    found = build_clearing_cloud(depth, camera(8, 8), settings()).xyz()
    # Pixels (row, column) of every fourth row and column: (0, 4) sky, (4, 4) beyond the range.
    np.testing.assert_allclose(found, [[3.0, -4.0, 100.0], [3.0, 4.0, 100.0]], rtol=1e-6)
    decimated = build_clearing_cloud(depth, camera(8, 8), settings(decimation=4)).xyz()
    np.testing.assert_array_equal(decimated, found)
    assert len(build_clearing_cloud(depth, camera(8, 8), settings(decimation=5)).xyz()) == 1


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_bytes_are_those_of_float32_whatever_comes_and_whatever_numpy_promotes(dtype) -> None:  # type: ignore[no-untyped-def]
    # NumPy 1.26 makes float64 of some mixtures that NumPy 2 leaves float32: count the bytes.
    depth = plane(8, 8)
    depth[:4] = math.inf
    changes = {'confidence': True, 'organised': True, 'min_range_m': 0.1}
    found = make(depth.astype(dtype), changes, None, np.ones((8, 8), dtype))
    clearing = build_clearing_cloud(depth.astype(dtype), camera(8, 8), settings())
    for packed, points, step in ((found, 64, 16), (clearing, 2, 12)):
        assert packed.point_step == step
        assert packed.data.size == points * step
    assert found.xyz()[-1].tolist() == pytest.approx([0.3, 0.5, 5.0])
    # Where a costmap clears: column 4 of row 0, then column 0, all at the maximum range.
    np.testing.assert_allclose(
        clearing.xyz(), [[-1.0, -4.0, 100.0], [3.0, -4.0, 100.0]], rtol=1e-6
    )
    with_torch = on_device.build_cloud(
        torch.from_numpy(depth.astype(dtype)), torch.from_numpy(np.ones((8, 8), dtype)), None,
        camera(8, 8), settings(**changes),
    )  # fmt: skip
    np.testing.assert_array_equal(with_torch.data, found.data)


def test_nothing_to_see_is_an_empty_cloud() -> None:
    packed = make(plane(depth_m=math.nan), {})
    assert (packed.width, packed.height, packed.data.size) == (0, 1, 0)


@pytest.mark.parametrize('organised', [False, True])
@pytest.mark.parametrize('decimation', [1, 3])
@pytest.mark.parametrize('band_pixels', [350_000, 64 * 7, 1])
def test_a_cpu_and_a_device_agree(
    monkeypatch: pytest.MonkeyPatch, organised: bool, decimation: int, band_pixels: int
) -> None:
    monkeypatch.setattr(cloud, '_BAND_PIXELS', band_pixels)
    rng = np.random.default_rng(2)
    depth = np.exp(rng.uniform(-1, 5, (48, 64))).astype(np.float32)
    depth[rng.random(depth.shape) < 0.1] = math.nan
    depth[rng.random(depth.shape) < 0.1] = math.inf
    depth[rng.random(depth.shape) < 0.05] = -math.inf
    confidence = rng.random(depth.shape, np.float32)
    rgb = rng.integers(0, 256, (48, 64, 3), np.uint8)
    chosen = CloudSettings(organised=organised, decimation=decimation, confidence=True)
    view = Camera(64, 48, 60.0, 62.0, 31.0, 24.5)
    left = build_cloud(depth, confidence, rgb, view, chosen)
    tensors = torch.from_numpy(depth), torch.from_numpy(confidence)
    right = on_device.build_cloud(*tensors, rgb, view, chosen)
    assert left.width > 10
    assert (left.width, left.height, left.fields) == (right.width, right.height, right.fields)
    columns = [one.data.view(np.float32).reshape(-1, 5) for one in (left, right)]
    np.testing.assert_allclose(columns[0][:, :3], columns[1][:, :3], rtol=1e-6)
    bits = [one[:, 3:].copy().view(np.uint32) for one in columns]
    np.testing.assert_array_equal(*bits)


def test_depth_of_another_size_than_its_camera_is_refused() -> None:
    with pytest.raises(ValueError, match=r'depth is \(3, 6\), expected \(4, 6\)'):
        build_cloud(plane(3), plane(3), None, camera(6, 4), settings())


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(SettingsError, match='minimum below the maximum'):
        build(CloudSettings, {'min_range_m': 9.0, 'max_range_m': 3.0})
