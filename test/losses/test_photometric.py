"""Photometric error, minimum reprojection and the masks, against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from psd_depth_ros.losses import photometric
from psd_depth_ros.losses.photometric import (
    C1,
    find_kernels,
    fit_brightness,
    local_mean,
    masked_mean,
    OUTSIDE,
    photometric_error,
    reprojection_loss,
    ssim_statistics,
    unwarped_error,
)


def flat(value: float, samples: int = 1, height: int = 4, width: int = 5) -> torch.Tensor:
    return torch.full((samples, 3, height, width), value)


def error_of_flat(a: float, b: float) -> float:
    """Of flat images the variances are 0, so that SSIM is its first factor alone."""
    ssim = (2 * a * b + C1) / (a * a + b * b + C1)
    return 0.85 * (1 - ssim) / 2 + 0.15 * abs(a - b)


def test_blur_is_the_mean_of_the_neighbours_that_exist() -> None:
    image = torch.rand(2, 3, 7, 9, dtype=torch.double, requires_grad=True)
    expected = F.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(local_mean(image), expected)
    assert torch.autograd.gradcheck(local_mean, (image,))


def test_the_error_of_flat_images_is_known() -> None:
    error = photometric_error(ssim_statistics(flat(0.2)), flat(0.4))
    torch.testing.assert_close(error, torch.full((1, 1, 4, 5), error_of_flat(0.2, 0.4)))


def test_an_image_equals_itself() -> None:
    image = torch.rand(1, 3, 6, 8)
    assert photometric_error(ssim_statistics(image), image).abs().max() < 1e-6


@pytest.fixture(params=['numba', 'torch'])
def _on_either_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == 'torch':
        monkeypatch.setattr(photometric, 'find_kernels', lambda: None)
    else:
        assert find_kernels() is not None


@pytest.mark.usefixtures('_on_either_library')
@pytest.mark.parametrize('threads', [1, 3])
@pytest.mark.parametrize('size', [(24, 40), (3, 4), (2, 2), (1, 5)])
def test_error_and_gradient_are_those_of_plain_torch_in_float64(
    size: tuple[int, int], threads: int
) -> None:
    torch.manual_seed(0)
    target, weight = torch.rand(4, 3, *size), torch.rand(4, 1, *size)
    image = (target + 0.1 * torch.randn_like(target)).clamp(0.0, 1.0)
    image[0] = target[0]  # here the gradient is that of SSIM's maximum
    image[1] = 1.0 - target[1]
    image[2] = image[2].flip(-1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = []
        for kind in (torch.float64, torch.float32):
            own = image.to(kind).contiguous(memory_format=torch.channels_last).requires_grad_()
            error = photometric_error(ssim_statistics(target.to(kind)), own)
            (error * weight).sum().backward()
            found.append((error.detach().float(), own.grad.float()))  # type: ignore[union-attr]
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[1][0], found[0][0], rtol=0.0, atol=2e-5)
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-3, atol=2e-4)


def test_the_compiled_gradient_can_be_recomputed_but_not_differentiated() -> None:
    target = ssim_statistics(torch.rand(2, 3, 6, 7))
    image = torch.rand(2, 3, 6, 7, requires_grad=True)
    photometric_error(target, image).sum().backward()
    expected, image.grad = image.grad, None
    recomputed = checkpoint(photometric_error, target, image, use_reentrant=False)
    assert isinstance(recomputed, torch.Tensor)
    recomputed.sum().backward()
    torch.testing.assert_close(image.grad, expected)
    (first,) = torch.autograd.grad(
        photometric_error(target, image).square().sum(), image, create_graph=True
    )
    with pytest.raises(RuntimeError, match='once_differentiable'):
        first.sum().backward()


def test_a_target_of_another_size_is_repeated() -> None:
    target, image = torch.rand(1, 3, 6, 7), torch.rand(2, 3, 6, 7)
    expected = photometric_error(ssim_statistics(target.expand(2, 3, 6, 7)), image)
    torch.testing.assert_close(photometric_error(ssim_statistics(target), image), expected)


def test_a_target_that_learns_has_its_gradient() -> None:
    target = torch.rand(1, 3, 5, 6, requires_grad=True)
    photometric_error(ssim_statistics(target), torch.rand(1, 3, 5, 6)).sum().backward()
    assert target.grad is not None
    assert target.grad.abs().max() > 0


def everywhere(views: int = 2) -> torch.Tensor:
    return torch.ones(views, 1, 1, 4, 5, dtype=torch.bool)


def test_the_better_source_counts() -> None:
    target = ssim_statistics(flat(0.2))
    views = torch.stack([flat(0.3), flat(0.8)])
    inside = everywhere()
    smaller = reprojection_loss(target, views, inside, None, inside[0], minimum=True)
    both = reprojection_loss(target, views, inside, None, inside[0], minimum=False)
    near, far = error_of_flat(0.2, 0.3), error_of_flat(0.2, 0.8)
    assert smaller.loss.item() == pytest.approx(near, rel=1e-3)
    assert both.loss.item() == pytest.approx((near + far) / 2, rel=1e-3)


def test_a_source_that_did_not_see_the_pixel_does_not_count() -> None:
    target = ssim_statistics(flat(0.2))
    inside = everywhere()
    inside[0, ..., 0] = False  # the better source misses the first column
    inside[:, ..., 1] = False  # nobody sees the second
    result = reprojection_loss(
        target, torch.stack([flat(0.3), flat(0.8)]), inside, None, everywhere()[0], minimum=True
    )
    row = result.error[0, 0, 0].tolist()
    near, far = error_of_flat(0.2, 0.3), error_of_flat(0.2, 0.8)
    assert row == pytest.approx([far, OUTSIDE, near, near, near], rel=1e-3)
    assert result.auto_mask[0, 0, 0].tolist() == [True, False, True, True, True]


def test_no_gradient_where_the_unwarped_source_fits_better() -> None:
    target = ssim_statistics(flat(0.2))
    views = torch.stack([flat(0.3), flat(0.3)]).requires_grad_()
    unwarped = unwarped_error(target, torch.stack([flat(0.25), flat(0.9)]))
    result = reprojection_loss(
        target, views, everywhere(), unwarped, everywhere()[0], minimum=True
    )
    result.loss.sum().backward()
    assert result.loss.item() == pytest.approx(error_of_flat(0.2, 0.25), rel=1e-3)
    assert views.grad is not None
    assert views.grad.abs().max() == 0
    assert not result.auto_mask.any()


def test_what_counts_anyway_has_a_gradient_even_where_the_unwarped_source_fits_better() -> None:
    target = ssim_statistics(flat(0.2))
    views = torch.stack([flat(0.3), flat(0.3)])
    unwarped = unwarped_error(target, torch.stack([flat(0.25), flat(0.9)]))
    counted = everywhere()[0].clone()
    counted[..., 2:] = False
    inside = everywhere()
    inside[..., 0] = False  # nobody sees the first column, whatever counts
    result = reprojection_loss(
        target,
        views,
        inside,
        unwarped,
        everywhere()[0],
        minimum=True,
        exempt_from_auto_mask=counted,
    )
    assert result.auto_mask[0, 0, 0].tolist() == [False, True, False, False, False]
    still, warped = error_of_flat(0.2, 0.25), error_of_flat(0.2, 0.3)
    assert result.loss.item() == pytest.approx(0.8 * still + 0.2 * warped, rel=1e-3)


def test_the_mean_is_over_the_valid_pixels_of_each_sample() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 5.0]]).view(2, 1, 1, 2)
    mask = torch.tensor([[True, False], [False, False]]).view(2, 1, 1, 2)
    assert masked_mean(values, mask).tolist() == [1.0, 0.0]


def test_brightness_undoes_a_gain_and_an_offset() -> None:
    target = torch.rand(2, 3, 8, 8)
    mask = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    changed = (target - 0.05) / 1.3
    torch.testing.assert_close(fit_brightness(target, changed, mask), target, atol=1e-4, rtol=1e-4)
