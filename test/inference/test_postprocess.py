"""Depth and confidence from the network's maps: values by hand, invalid values, two devices."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
import pytest
import torch

from psd_depth_ros.config import build
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.inference import on_device
from psd_depth_ros.inference.postprocess import (
    confidence_from_sigma,
    ConfidenceModel,
    DepthSettings,
    finish_depth,
)

Map = NDArray[np.float32]

OPEN = DepthSettings(min_depth_m=0.01, max_depth_m=1000.0, min_confidence=0.0, sky=False)
PLAIN = ConfidenceModel(1.0, 0.0)


def full(value: float) -> Map:
    return np.full((4, 6), value, np.float32)


def row(*values: float) -> Map:
    return np.array(values, np.float32)


def finish(
    u: Map, sigma: Map | None = None, far: Map | None = None, **options: Any
) -> tuple[Map, Map]:
    """Finish maps of an image; sure and near where nothing else is said."""
    options = {
        'gain': 1.0,
        'size': u.shape,
        'settings': DepthSettings(),
        'confidence_model': PLAIN,
        **options,
    }
    sigma = np.full_like(u, 0.01) if sigma is None else sigma
    far = np.zeros_like(u) if far is None else far
    return finish_depth(u, sigma, far, **options)


def test_gain_turns_canonical_into_metric_depth() -> None:
    # f_c = 371, fx = 742: the same picture through a lens twice as long is twice as far.
    depth, _ = finish(full(math.log(5.0)), gain=742 / 371)
    np.testing.assert_allclose(depth, np.full((4, 6), 10.0), rtol=1e-6)


def test_enlarging_is_bilinear_in_log_depth_and_half_pixel_exact() -> None:
    # u = 0.1 i on small pixels lies at 2 i + 0.5 of an image twice as wide.
    u = np.tile(0.1 * np.arange(8, dtype=np.float32), (6, 1))
    depth, _ = finish(u, size=(12, 16), settings=OPEN)
    expected = 0.1 * ((np.arange(16) + 0.5) / 2 - 0.5)
    np.testing.assert_allclose(np.log(depth[5, 1:-1]), expected[1:-1], atol=1e-5)


def test_confidence_is_the_share_of_a_normal_error_within_25_percent() -> None:
    # ln 1.25 is one standard deviation: 68.27 %; two: 95.45 %; half of one: 38.29 %.
    one = math.log(1.25)
    found = confidence_from_sigma(row(one, one / 2, one * 2, 0.0, math.nan), PLAIN)
    expected = [0.6827, 0.9545, 0.3829, 1.0, math.nan]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found[3] == 1.0


def test_confidence_is_the_error_function() -> None:
    sigma = np.geomspace(1e-3, 1e3, 20_000).astype(np.float32)
    found = confidence_from_sigma(sigma, PLAIN)
    expected = on_device.confidence_from_sigma(torch.from_numpy(sigma), PLAIN).numpy()
    assert np.abs(found - expected).max() < 3e-6


def test_variances_add_up() -> None:
    # (2 * 3)^2 + 8^2 = 10^2, in percent; the rest comes from the scale.
    model = ConfidenceModel(gain=2.0, floor=0.08)
    left = confidence_from_sigma(row(0.03), model, scale_variance=0.1**2)
    right = confidence_from_sigma(row(math.sqrt(0.02)), PLAIN)
    np.testing.assert_allclose(left, right, rtol=1e-6)
    each = confidence_from_sigma(row(0.03, 0.03), model, scale_variance=row(0.1**2, 0.0))
    assert each[0] == left[0] != each[1]


def test_invalid_values_and_their_order() -> None:
    u = np.log(row(0.1, 1.0, 200.0, 5.0, 5.0, 5.0, 200.0, 5.0))[None]
    sigma = row(0.01, 0.01, 0.01, 3.0, 0.01, 3.0, 3.0, 0.01)[None]
    far = row(0.0, 0.0, 0.0, 0.0, 0.9, 0.9, 0.0, 0.9)[None]
    seen = np.array([[True] * 7 + [False]])
    depth, confidence = finish(u, sigma, far, mask=seen)
    expected = [-math.inf, 1.0, math.inf, math.nan, math.inf, math.inf, math.nan, math.nan]
    np.testing.assert_allclose(depth[0], expected, rtol=1e-6)
    assert confidence[0, 7] == 0
    assert confidence[0, 1] == 1


@pytest.mark.parametrize(
    ('u', 'sigma', 'far', 'expected'),
    [
        (0.31, 0.01, 0.0, 0.31),  # beside each limit, so that no rule may be left out
        (0.29, 0.01, 0.0, -math.inf),
        (79.0, 0.01, 0.0, 79.0),
        (81.0, 0.01, 0.0, math.inf),
        (5.0, 0.57, 0.0, 5.0),
        (5.0, 0.59, 0.0, math.nan),
        (5.0, 0.01, 0.495, 5.0),
        (5.0, 0.01, 0.505, math.inf),
    ],
)
def test_every_limit_holds_for_an_image_of_one_value(
    u: float, sigma: float, far: float, expected: float
) -> None:
    depth, _ = finish(full(math.log(u)), full(sigma), full(far))
    np.testing.assert_allclose(depth, np.full((4, 6), expected), rtol=1e-6)


def test_sky_can_be_switched_off() -> None:
    depth, _ = finish(full(0.0), far=full(1.0), settings=DepthSettings(sky=False))
    assert depth.tolist() == full(1.0).tolist()


def test_a_network_that_says_nan_is_not_trusted() -> None:
    broken = full(math.nan)
    depth, _ = finish(broken, sigma=broken)
    assert np.isnan(depth).all()
    some = full(0.0)
    some[0, 0] = math.nan
    assert np.isnan(finish(some, settings=DepthSettings(min_confidence=0.0))[0][0, 0])


@pytest.mark.parametrize('size', [(120, 160), (37, 53), (24, 32), (12, 16)])
def test_a_cpu_and_a_device_agree(size: tuple[int, int]) -> None:
    random = np.random.default_rng(1)
    u = (1.5 + 2.0 * random.standard_normal((24, 32))).astype(np.float32)
    sigma, far = (random.random((24, 32)).astype(np.float32) for _ in range(2))
    mask = random.random(size) > 0.1
    options: dict[str, Any] = {
        'gain': 1.3, 'size': size, 'settings': DepthSettings(), 'scale_variance': 0.01,
        'confidence_model': ConfidenceModel(0.8, 0.1),
    }  # fmt: skip
    left = finish_depth(u, sigma, far, mask=mask, **options)
    maps = [torch.from_numpy(one) for one in (u, sigma, far)]
    right = on_device.finish_depth(*maps, mask=torch.from_numpy(mask), **options)
    # A threshold may fall on the other side of a rounding error: next to none may differ.
    same = np.isclose(left[0], right[0].numpy(), rtol=1e-4, atol=0, equal_nan=True)
    assert same.mean() > 0.999
    np.testing.assert_allclose(left[1], right[1].numpy(), atol=1e-5)


def test_the_inputs_are_left_alone() -> None:
    u, sigma, far = full(0.0), full(0.01), full(0.0)
    depth, confidence = finish(u, sigma, far, mask=np.zeros((4, 6), bool))
    assert np.isnan(depth).all()
    assert not confidence.any()
    assert (u.max(), sigma.min(), far.max()) == (0.0, np.float32(0.01), 0.0)


def test_an_empty_depth_range_is_refused() -> None:
    with pytest.raises(SettingsError, match='minimum below the maximum'):
        build(DepthSettings, {'min_depth_m': 5.0, 'max_depth_m': 5.0})
