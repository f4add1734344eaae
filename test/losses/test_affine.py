"""Affine alignment and the loss of maps known up to scale and shift; numbers by hand."""

from __future__ import annotations

import pytest
import torch

from psd_depth_ros.losses.affine import (
    affine_invariant_loss,
    fit_affine,
    fit_scale,
    gradient_error,
    scaled_log_loss,
)

SHAPE = (1, 1, 20, 30)
WHOLE = torch.ones(SHAPE, dtype=torch.bool)
RAMP = torch.linspace(0.0, 1.0, 600).view(SHAPE)


def with_outliers(values: torch.Tensor, fraction: float, wrong: torch.Tensor) -> torch.Tensor:
    """Values of which a fraction, drawn at random, are wrong."""
    chosen = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(0))
    chosen = chosen[: int(fraction * values.numel())]
    found = values.flatten().clone()
    found[chosen] = wrong.flatten()[chosen]
    return found.view(values.shape)


@pytest.mark.parametrize('fraction', [0.0, 0.3])
@pytest.mark.parametrize(
    'wrong', [torch.full(SHAPE, 5.0), torch.rand(SHAPE) * 4 - 2, RAMP.flip(-1).flip(-2)]
)
def test_scale_and_shift_are_exact_in_spite_of_outliers(fraction, wrong):
    y = 0.02 * with_outliers(RAMP, fraction, wrong) + 0.3
    fit = fit_affine(RAMP, y, WHOLE)
    assert fit.scale.item() == pytest.approx(0.02, rel=1e-4)
    assert fit.shift.item() == pytest.approx(0.3, rel=1e-4)
    torch.testing.assert_close(fit.inverse(fit(RAMP)), RAMP)


def test_a_map_that_is_half_flat_is_aligned():
    """Disparity of the sky is 0 in most of an image: its median deviation is 0."""
    x = (RAMP - 0.6).clamp(min=0.0)
    fit = fit_affine(x, 3.0 * x + 1.0, WHOLE)
    assert fit.scale.item() == pytest.approx(3.0, rel=1e-4)
    assert fit.shift.item() == pytest.approx(1.0, rel=1e-4)


def test_a_network_that_knows_nothing_gets_a_positive_scale():
    spread = 0.25  # of the ramp: the median of |x - 1/2|
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    for y in (-RAMP, 0.1 + 1e-4 * noise):
        scale = fit_affine(RAMP, y, WHOLE).scale.item()
        unit = (y - y.median()).abs().median().item()
        assert scale == pytest.approx(max(unit, 0.01 * y.median().abs().item()) / spread, rel=0.02)


def test_the_loss_is_zero_for_every_scale_and_shift_and_has_no_unit():
    disparity = torch.rand(SHAPE, generator=torch.Generator().manual_seed(2)) + 0.1
    other = 7.0 * disparity - 3.0
    other[..., :5, :] = torch.nan
    assert affine_invariant_loss(disparity, other, WHOLE).item() == pytest.approx(0.0, abs=1e-5)
    bent = disparity**2
    losses = [
        affine_invariant_loss(a * bent, b * other, WHOLE).item()
        for a, b in ((1.0, 1.0), (9.0, 1.0), (1.0, 0.2))
    ]
    assert losses[0] > 0.05
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)


def test_a_flat_disparity_is_drawn_apart():
    """A fit of the teacher to the student would be perfect with a scale of 0."""
    disparity = torch.full(SHAPE, 0.1).requires_grad_()
    loss = affine_invariant_loss(disparity, RAMP, WHOLE)
    loss.sum().backward()
    assert loss.item() > 0.9  # |q'| is 1 on average
    assert disparity.grad is not None
    assert disparity.grad[0, 0, -1].mean() < 0 < disparity.grad[0, 0, 0].mean()


def test_a_nearly_flat_disparity_is_no_match():
    """Deviation over median is 0.02 of an allowed 0.2; at 0.3 every scale and shift is right."""
    loss = affine_invariant_loss(0.02 * RAMP + 0.24, RAMP, WHOLE)
    # d' = 0.1 q' about the median: |d' - q'| is 0.9 on average, slopes are 0.9 of those of q'
    expected = 0.9 * (1.0 + 0.5 * gradient_error(RAMP / 0.25, WHOLE).item())
    assert loss.item() == pytest.approx(expected, rel=0.01)
    steep = affine_invariant_loss(0.6 * RAMP + 0.2, RAMP, WHOLE)
    assert steep.item() == pytest.approx(0.0, abs=1e-4)


def test_samples_without_a_map_give_nothing():
    disparity = torch.rand(2, 1, 20, 30).requires_grad_()
    other = torch.rand(2, 1, 20, 30)
    other[1] = torch.nan
    loss = affine_invariant_loss(disparity, other, WHOLE.expand(2, -1, -1, -1))
    loss.sum().backward()
    assert loss[0] > 0
    assert loss[1] == 0
    assert disparity.grad is not None
    assert torch.isfinite(disparity.grad).all()
    assert (disparity.grad[1] == 0).all()


def test_slopes_by_hand():
    # 1 in every column: scale k sees steps of 2^k columns, and none downwards
    difference = torch.arange(16.0).expand(1, 1, 16, 16).clone()
    whole = torch.ones_like(difference, dtype=torch.bool)
    assert gradient_error(difference, whole).item() == pytest.approx(1 + 2 + 4 + 8)
    difference[..., 8, 8] = 1e6  # pairs with a pixel outside the mask do not count
    assert gradient_error(difference, difference < 100).item() == pytest.approx(15)


def test_gradient_of_the_loss():
    generator = torch.Generator().manual_seed(3)
    disparity = torch.rand(1, 1, 8, 8, generator=generator).double().requires_grad_()
    other = torch.rand(1, 1, 8, 8, generator=generator).double()
    mask = torch.isfinite(other)
    fixed = (disparity / disparity.mean()).detach()
    fit = fit_affine(other, fixed, mask)

    def loss(values):  # the fit has no gradient, so it is held
        difference = (fit.inverse(values / values.mean()) - other) / fit.spread
        return difference.abs().mean() + 0.5 * gradient_error(difference, mask).sum()

    (expected,) = torch.autograd.grad(loss(disparity), disparity)
    found = affine_invariant_loss(disparity, other, mask)
    assert found.item() == pytest.approx(loss(disparity).item())
    (given,) = torch.autograd.grad(found.sum(), disparity)
    torch.testing.assert_close(given, expected)
    # a common factor of the disparity, which is a shift of ln Z, has no gradient
    assert (given * disparity).sum().item() == pytest.approx(0.0, abs=1e-9)
    assert given.abs().max() > 0.01
    assert torch.autograd.gradcheck(loss, (disparity,), eps=1e-7, atol=1e-4)


def test_a_scale_alone_is_exact_in_spite_of_outliers():
    y = 0.02 * with_outliers(RAMP + 1.0, 0.3, torch.full(SHAPE, 50.0))
    fit = fit_scale(RAMP + 1.0, y, WHOLE)
    assert (fit.scale.item(), fit.shift.item()) == pytest.approx((0.02, 0.0), rel=1e-4)
    unknown = torch.where(RAMP > 0.5, torch.nan, RAMP + 1.0)
    assert fit_scale(unknown, y, WHOLE).scale.item() == pytest.approx(0.02, rel=1e-4)


def test_the_loss_of_log_depth_is_blind_to_scale_and_sees_a_shift():
    other = RAMP + 0.5  # disparity
    log_depth = -other.log()
    assert scaled_log_loss(log_depth + 1.7, other, WHOLE).item() == pytest.approx(0.0, abs=1e-5)
    assert scaled_log_loss(-(other + 0.5).log(), other, WHOLE).item() > 0.1
    # half of the pixels are 0.2 too far: their median lies on one side, 0.1 on average; one row
    # of steps at each of four scales, two neighbours a pixel
    wrong = log_depth + 0.2 * (torch.arange(20) >= 10).view(1, 1, 20, 1)
    steps = sum(0.2 / (20 // step - (0 if 20 % step else 1)) for step in (1, 2, 4))
    steps += 0.2 / 2  # three rows are left at the coarsest scale
    found = scaled_log_loss(wrong, other, WHOLE).item()
    assert found == pytest.approx(0.1 + 0.5 * steps, rel=1e-3)


def test_what_is_far_off_learns_nothing_of_log_depth():
    other = RAMP + 0.5
    log_depth = -other.log()
    log_depth[..., 0, :] += 3.0
    log_depth[..., 10, :] += 0.5
    log_depth.requires_grad_()
    scaled_log_loss(log_depth, other, WHOLE).backward()
    gradient = log_depth.grad.abs().sum(dim=-1)[0, 0]
    assert gradient[0] == 0.0
    assert gradient[10] > 0.01
