"""What a patch teaches, where, and how much; numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch

from psd_depth_ros.geometry.warp import backproject, project, transform
from psd_depth_ros.losses.depth import huber, scale_invariant, warp_sensitivity
from psd_depth_ros.objectives.psd import distillation_loss, DistillationInputs

SHAPE = (1, 1, 6, 8)
ONE = torch.ones(1)


def evidence(**changes: torch.Tensor) -> DistillationInputs:
    """Everything moves, the patch explains the images better."""
    whole = torch.ones(SHAPE, dtype=torch.bool)
    values = {
        'full_error': torch.full(SHAPE, 0.2),
        'patch_error': torch.full(SHAPE, 0.1),
        'auto_mask': whole,
        'sensitivity': torch.full(SHAPE, 1.0),
        'sigma': torch.full(SHAPE, 0.05),
        'inside': whole,
    }
    return DistillationInputs(**{**values, **changes})


def test_huber_is_a_parabola_and_then_a_line() -> None:
    values = huber(torch.tensor([0.0, 0.025, -0.05, 0.15]))
    assert values.tolist() == pytest.approx([0.0, 0.00625, 0.025, 0.125])


def test_half_of_a_constant_difference_is_forgiven() -> None:
    loss = scale_invariant(torch.full(SHAPE, 0.4), torch.ones(SHAPE, dtype=torch.bool))
    assert loss.item() == pytest.approx(0.5 * 0.16)


@pytest.mark.parametrize('offset', [0.15, -0.7])
def test_only_the_shape_is_taught(offset: float) -> None:
    patch = torch.randn(SHAPE)
    result = distillation_loss(patch + offset, patch, evidence(), ONE)
    assert result.loss.item() == pytest.approx(0.0, abs=1e-5)
    assert result.offset.item() == pytest.approx(offset, abs=1e-5)


def test_only_the_full_image_learns() -> None:
    full = torch.zeros(SHAPE).requires_grad_()
    patch = torch.randn(SHAPE).requires_grad_()
    distillation_loss(full, patch, evidence(), ONE).loss.sum().backward()
    assert full.grad is not None
    assert full.grad.abs().max() > 0
    assert patch.grad is None


def taught(given: DistillationInputs, zoom: float = 1.0, masked: bool = True) -> bool:
    """Whether the right half is taught, in a patch whose left half earns trust."""
    trusted = evidence(patch_error=torch.full(SHAPE, 0.0))
    parts = [
        torch.cat([left[..., :4], right[..., 4:]], dim=-1)
        for left, right in zip(trusted, given, strict=True)
    ]
    patch = torch.zeros(SHAPE)
    full = patch + torch.linspace(-0.01, 0.01, 48).view(SHAPE)
    mask = distillation_loss(
        full, patch, DistillationInputs(*parts), torch.tensor([zoom]), masked=masked
    ).mask[..., 4:]
    assert mask.all() or not mask.any()
    return bool(mask.any())


def test_a_patch_that_explains_nothing_better_teaches_nothing() -> None:
    """Not even where photometry is mute, and however sure it is: it may be flat."""
    patch, full = torch.zeros(SHAPE), 0.1 * torch.randn(SHAPE)
    hardly_worse = torch.full(SHAPE, 0.2001)
    for given in (
        evidence(patch_error=WORSE, sensitivity=MUTE),
        evidence(patch_error=hardly_worse, sensitivity=MUTE),
        evidence(auto_mask=STILL),
    ):
        assert not distillation_loss(full, patch, given, ONE).mask.any()


WORSE = torch.full(SHAPE, 0.3)
STILL = torch.zeros(SHAPE, dtype=torch.bool)
UNSURE = torch.full(SHAPE, 0.2)
MUTE = torch.full(SHAPE, 0.1)


@pytest.mark.parametrize(
    ('given', 'expected'),
    [
        (evidence(), True),
        (evidence(patch_error=WORSE), False),
        (evidence(patch_error=WORSE, sensitivity=MUTE), True),
        (evidence(patch_error=WORSE, sensitivity=MUTE, sigma=UNSURE), False),
        (evidence(auto_mask=STILL), True),
        (evidence(auto_mask=STILL, sigma=UNSURE), False),
        (evidence(inside=STILL), False),
    ],
)
def test_where_a_patch_teaches(given: DistillationInputs, expected: bool) -> None:
    assert taught(given) is expected


def test_a_zoom_makes_photometry_speak() -> None:
    given = evidence(patch_error=WORSE, sensitivity=MUTE)
    assert taught(given, zoom=2.0)
    assert not taught(given, zoom=3.0)  # 0.3 px is enough to see


def test_without_the_mask_every_pixel_inside_is_taught() -> None:
    assert taught(evidence(patch_error=WORSE), masked=False)


def test_no_teaching_where_both_disagree_wildly() -> None:
    full = torch.zeros(SHAPE)
    full[..., 0] = 1.0
    mask = distillation_loss(full, torch.zeros(SHAPE), evidence(), ONE).mask
    assert not mask[..., 0].any()
    assert mask[..., 1:].all()


def test_sensitivity_of_a_far_point_by_hand() -> None:
    # 60 m ahead, a tenth to the side, driving 0.9 m forward, 371 px: 0.56 px per unit of ln Z
    points = torch.tensor([6.0, 0.0, 60.0]).view(1, 3, 1, 1)
    moved = torch.tensor([[0.0, 0.0, 0.9]])
    found = warp_sensitivity(points, moved, torch.tensor([[371.0, 371.0]]))
    assert found.item() == pytest.approx(371 * 0.1 * 0.9 / 60.0)


def test_sensitivity_is_the_derivative_of_the_warp() -> None:
    K = torch.tensor([[[50.0, 0.0, 9.5], [0.0, 60.0, 7.5], [0.0, 0.0, 1.0]]]).double()
    pose = torch.eye(4).double()[None]
    pose[0, :3, 3] = torch.tensor([0.3, -0.2, 0.5])
    u = torch.full((1, 1, 16, 20), math.log(4.0), dtype=torch.double)

    def land(log_depth: torch.Tensor) -> torch.Tensor:
        return project(transform(pose, backproject(log_depth.exp(), K)), K)

    step = 1e-5
    expected = ((land(u + step) - land(u - step)) / (2 * step)).norm(dim=-1)
    points = transform(pose, backproject(u.exp(), K))
    found = warp_sensitivity(points, pose[:, :3, 3], torch.tensor([[50.0, 60.0]]).double())
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-6, atol=1e-8)
