"""Pasted parts remember where they come from."""

from __future__ import annotations

import pytest
import torch

from psd_depth_ros.augment.patch_mix import Mix, sample_mix
from psd_depth_ros.geometry.warp import pixel_grid

SIZE = (32, 64)


@pytest.fixture(scope='module')
def mix() -> Mix:
    return sample_mix(SIZE, list(range(60)))


def test_between_a_little_and_two_fifths_are_pasted(mix: Mix) -> None:
    share = mix.pasted.float().mean(dim=(1, 2, 3))
    assert share.max() <= 0.42
    assert (share > 0.02).float().mean() > 0.9
    assert ((mix.zoom >= 1.0) & (mix.zoom <= 2.0)).all()


def test_a_pasted_pixel_is_the_one_it_says(mix: Mix) -> None:
    places = pixel_grid(*SIZE).permute(2, 0, 1).expand(60, 2, *SIZE)  # value = own place
    mixed = mix.apply(torch.full_like(places, -1.0), places).permute(0, 2, 3, 1)
    pasted = mix.pasted[:, 0]
    inside = (mix.pixels[..., 0] >= 0) & (mix.pixels[..., 0] <= SIZE[1] - 1)
    torch.testing.assert_close(mixed[pasted & inside], mix.pixels[pasted & inside])
    assert (mixed[~pasted] == -1.0).all()


def test_the_donor_is_enlarged_by_the_zoom(mix: Mix) -> None:
    steps = mix.pixels[:, :, 1:, 0] - mix.pixels[:, :, :-1, 0]
    expected = (1.0 / mix.zoom)[:, None, None].expand_as(steps)
    torch.testing.assert_close(steps, expected, atol=1e-4, rtol=0)


def test_pasted_pixels_lie_inside_the_donor(mix: Mix) -> None:
    pixels = mix.pixels[mix.pasted[:, 0]]
    assert pixels.amin() >= -0.5
    assert (pixels <= torch.tensor([SIZE[1] - 0.5, SIZE[0] - 0.5])).all()


def test_nobody_judges_beside_a_seam(mix: Mix) -> None:
    for pasted, judged in zip(mix.pasted[:10, 0], mix.judged[:10, 0], strict=True):
        y, x = torch.nonzero(judged, as_tuple=True)
        for dy in (-2, 0, 2):
            for dx in (-2, 0, 2):
                there = pasted[(y + dy).clamp(0, 31), (x + dx).clamp(0, 63)]
                assert torch.equal(there, pasted[y, x])


def test_a_seed_decides_alone() -> None:
    one, other = sample_mix(SIZE, [3, 4]), sample_mix(SIZE, [7, 4])
    assert torch.equal(one.pixels[1], other.pixels[1])
    assert torch.equal(one.pasted[1], other.pasted[1])
