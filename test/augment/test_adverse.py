"""Bad conditions that leave the geometry of an image as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from psd_depth_ros.augment.adverse import (
    CAMERA,
    Condition,
    fog,
    KINDS,
    MAX_FOG_PER_M,
    nominal_depth,
    paint,
    sample_conditions,
    WEATHER,
)


@pytest.fixture
def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (2, 3, 32, 416) in [0, 1] and their depth in metres."""
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(2, 3, 32, 416, generator=generator)
    depth = torch.linspace(40.0, 4.0, 32)[None, None, :, None].expand(2, 1, 32, 416)
    return image, depth


def test_severity_0_is_the_image(scene: tuple[torch.Tensor, torch.Tensor]) -> None:
    for kind in KINDS:
        found = paint(*scene, [[Condition(kind, 0.0, 1)], []])
        assert torch.equal(found, scene[0]), kind


@pytest.mark.parametrize('kind', KINDS)
def test_small_severity_changes_little_and_seeds_repeat(
    kind: str, scene: tuple[torch.Tensor, torch.Tensor]
) -> None:
    slight = paint(*scene, [[Condition(kind, 0.002, 7)]] * 2)
    assert (slight - scene[0]).abs().mean() < 0.02
    strong = [[Condition(kind, 1.0, 7)], [Condition(kind, 1.0, 8)]]
    found = paint(*scene, strong)
    assert (found - scene[0]).abs().mean() > 0.03
    assert found.min() >= 0.0
    assert found.max() <= 1.0
    assert torch.equal(found, paint(*scene, strong))
    # an image does not depend on its neighbours
    assert torch.equal(found[1:], paint(scene[0][1:], scene[1][1:], strong[1:]))


def test_fog_of_known_depth_has_the_known_colour() -> None:
    airlight = torch.tensor([0.7, 0.8, 0.9])[:, None, None]
    found = fog(torch.full((3, 1, 1), 0.2), torch.tensor([[[20.0]]]), 0.05, airlight)
    seen = np.exp(-1.0)
    expected = 0.2 * seen + np.array([0.7, 0.8, 0.9]) * (1 - seen)
    assert found.flatten().numpy() == pytest.approx(expected)
    far = paint(
        torch.zeros(1, 3, 8, 8), torch.full((1, 1, 8, 8), 1e4), [[Condition('fog', 1.0, 3)]]
    )
    near = paint(
        torch.zeros(1, 3, 8, 8), torch.full((1, 1, 8, 8), 10.0), [[Condition('fog', 1.0, 3)]]
    )
    assert (near / far).numpy() == pytest.approx(1.0 - np.exp(-10.0 * MAX_FOG_PER_M), rel=1e-5)


def test_depth_of_any_scale_has_the_nominal_median() -> None:
    depth = torch.tensor([1.0, 2.0, 8.0]).view(1, 1, 1, 3)
    expected = [5.0, 10.0, 40.0]
    for scale in (1.0, 100.0):
        assert nominal_depth(scale * depth).flatten().tolist() == pytest.approx(expected)


def test_night_is_dark_but_where_head_lights_reach() -> None:
    white = torch.full((1, 3, 64, 128), 0.9)
    depth = torch.full((1, 1, 64, 128), 300.0)
    depth[..., 40:, :] = 6.0
    found = paint(white, depth, [[Condition('night', 1.0, 5)]]).median(dim=1).values[0]
    assert found[:20].median() < 0.2  # the sky is dark though it was white
    assert found[52:60, 44:84].median() > 2.0 * found[:20].median()


def test_flat_blocks_are_rounded_to_steps_of_their_mean() -> None:
    """At severity 1 the step of JPEG's table, 16, is 6.25-fold; a mean of 8x8 is an eighth."""
    grey = torch.full((1, 3, 16, 16), 0.5)
    grey[..., 8:] = 0.5 + 0.06
    found = paint(grey, torch.ones(1, 1, 16, 16), [[Condition('jpeg', 1.0, 1)]])[0]
    assert found[:, :, :8].numpy() == pytest.approx(0.5, abs=1e-5)
    assert found[:, :, 8:].numpy() == pytest.approx(0.5 + 100.0 / 255.0 / 8.0, abs=1e-5)


def test_blur_keeps_light_and_place() -> None:
    point = torch.zeros(1, 3, 64, 416)
    point[..., 32, 208] = 1.0
    for kind in ('defocus', 'motion_blur'):
        found = paint(point, torch.ones(1, 1, 64, 416), [[Condition(kind, 1.0, 2)]])
        assert found[0, 0].sum().item() == pytest.approx(1.0, abs=1e-4)
        assert found.max() < 0.4
        at = found[0, 0].nonzero().float().mean(dim=0)
        assert at.tolist() == pytest.approx([32.0, 208.0], abs=0.6)  # nothing is moved


def test_weather_and_a_fault_of_the_camera_may_come_together() -> None:
    drawn = [sample_conditions(seed, KINDS, (0.2, 0.9), 0.5) for seed in range(200)]
    assert {one.kind for chosen in drawn for one in chosen} == set(KINDS)
    assert all(0.2 <= one.severity <= 0.9 for chosen in drawn for one in chosen)
    pairs = [chosen for chosen in drawn if len(chosen) == 2]
    assert len(pairs) == pytest.approx(100, abs=25)
    assert all(a.kind in WEATHER and b.kind in CAMERA for a, b in pairs)
    assert all(len(sample_conditions(seed, ('fog',), (1, 1), 1.0)) == 1 for seed in range(5))
