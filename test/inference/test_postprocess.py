"""Depth and confidence from the network's maps: values by hand, invalid values, two devices."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from psd_depth_ros.config import build
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.inference import postprocess
from psd_depth_ros.inference.postprocess import (
    confidence_from_sigma,
    ConfidenceModel,
    DepthSettings,
    finish_depth,
)

OPEN = DepthSettings(min_depth_m=0.01, max_depth_m=1000.0, min_confidence=0.0, sky=False)
PLAIN = ConfidenceModel(1.0, 0.0)


def finish(u: Tensor, sigma: Tensor | None = None, far: Tensor | None = None, **options):  # type: ignore[no-untyped-def]
    """Finish maps of one image; sure and near where nothing else is said."""
    options = {
        'gain': [1.0],
        'size': tuple(u.shape[-2:]),
        'settings': DepthSettings(),
        'confidence_model': PLAIN,
        **options,
    }
    sigma = torch.full_like(u, 0.01) if sigma is None else sigma
    far = torch.zeros_like(u) if far is None else far
    return finish_depth(u, sigma, far, **options)


def test_gain_turns_canonical_into_metric_depth() -> None:
    # f_c = 371, fx = 742: the same picture through a lens twice as long is twice as far.
    depth, _ = finish(torch.full((1, 4, 6), math.log(5.0)), gain=[742 / 371])
    torch.testing.assert_close(depth, torch.full((1, 4, 6), 10.0))


def test_every_image_of_a_batch_has_its_own_gain() -> None:
    depth, confidence = finish(torch.zeros(2, 4, 6), gain=[1.0, 3.0])
    assert depth.shape == confidence.shape == (2, 4, 6)
    assert depth[:, 0, 0].tolist() == pytest.approx([1.0, 3.0])


def test_enlarging_is_bilinear_in_log_depth_and_half_pixel_exact() -> None:
    # u = 0.1 i on small pixels lies at 2 i + 0.5 of an image twice as wide.
    u = (0.1 * torch.arange(8.0)).expand(1, 6, 8)
    depth, _ = finish(u, size=(12, 16), settings=OPEN)
    expected = 0.1 * ((torch.arange(16.0) + 0.5) / 2 - 0.5)
    torch.testing.assert_close(depth[0, 5, 1:-1].log(), expected[1:-1], atol=1e-5, rtol=0)


def test_confidence_is_the_share_of_a_normal_error_within_25_percent() -> None:
    # ln 1.25 is one standard deviation: 68.27 %; two: 95.45 %; half of one: 38.29 %.
    one = math.log(1.25)
    found = confidence_from_sigma(torch.tensor([one, one / 2, one * 2]), PLAIN)
    assert found.tolist() == pytest.approx([0.6827, 0.9545, 0.3829], abs=1e-4)
    assert confidence_from_sigma(torch.zeros(1), PLAIN).item() == 1.0


def test_variances_add_up() -> None:
    # (2 * 3)^2 + 8^2 = 10^2, in percent; the rest comes from the scale.
    model = ConfidenceModel(gain=2.0, floor=0.08)
    left = confidence_from_sigma(torch.tensor([0.03]), model, scale_variance=0.1**2)
    right = confidence_from_sigma(torch.tensor([math.sqrt(0.02)]), PLAIN)
    torch.testing.assert_close(left, right)


def test_invalid_values_and_their_order() -> None:
    u = torch.tensor([[[0.1, 1.0, 200.0, 5.0, 5.0, 5.0, 200.0, 5.0]]]).log()
    sigma = torch.tensor([[[0.01, 0.01, 0.01, 3.0, 0.01, 3.0, 3.0, 0.01]]])
    far = torch.tensor([[[0.0, 0.0, 0.0, 0.0, 0.9, 0.9, 0.0, 0.9]]])
    seen = torch.tensor([[True] * 7 + [False]])
    depth, confidence = finish(u, sigma, far, mask=seen)
    expected = [-math.inf, 1.0, math.inf, math.nan, math.inf, math.inf, math.nan, math.nan]
    np.testing.assert_allclose(depth[0, 0].numpy(), expected, rtol=1e-6)
    assert confidence[0, 0, 7] == 0
    assert confidence[0, 0, 1] == 1


def test_sky_can_be_switched_off() -> None:
    far = torch.ones(1, 2, 2)
    depth, _ = finish(torch.zeros(1, 2, 2), far=far, settings=DepthSettings(sky=False))
    assert depth.tolist() == torch.ones(1, 2, 2).tolist()


def test_a_network_that_says_nan_is_not_trusted() -> None:
    broken = torch.full((1, 2, 2), math.nan)
    depth, _ = finish(broken, sigma=broken)
    assert torch.isnan(depth).all()


@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize('size', [(120, 160), (37, 53), (24, 32), (12, 16)])
def test_opencv_and_torch_agree(batch: int, size: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(1)
    u = 1.5 + 2.0 * torch.randn(batch, 24, 32, generator=random)
    confidence = torch.rand(batch, 24, 32, generator=random)
    far = torch.rand(batch, 24, 32, generator=random)
    mask = torch.rand(size, generator=random) > 0.1
    arguments = ((u, confidence, far), size, DepthSettings(), mask)
    left = postprocess._finish_with_opencv(*arguments)
    right = postprocess._finish_with_torch(*arguments)
    # A threshold may fall on the other side of a rounding error: next to none may differ.
    same = torch.isclose(left[0], right[0], rtol=1e-4, atol=0, equal_nan=True)
    assert same.float().mean() > 0.999
    torch.testing.assert_close(left[1], right[1], atol=1e-5, rtol=0)


def test_the_inputs_are_left_alone() -> None:
    u = torch.zeros(1, 4, 4)
    seen = torch.zeros(4, 4, dtype=torch.bool)
    finish(u, mask=seen)
    assert u.eq(0).all()


def test_an_empty_depth_range_is_refused() -> None:
    with pytest.raises(SettingsError, match='minimum below the maximum'):
        build(DepthSettings, {'min_depth_m': 5.0, 'max_depth_m': 5.0})
