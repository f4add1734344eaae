"""Response of the camera: what moves or shines spreads as far as it should."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from psd_depth_ros.synth.render import Picture
from psd_depth_ros.synth.response import expose, Response, sample_response

PLAIN = Response(
    exposure=1.0, white=(1.0, 1.0, 1.0), contrast=1.0, saturation=1.0, knee=1.0, vignette=0.0,
    noise=0.0, blur_px=0.1, motion_px=(0.0, 0.0), rain=0.0, grey=False, darkest=0.5,
)  # fmt: skip


def _expose(colour: torch.Tensor, response: Response) -> torch.Tensor:
    shape = colour.shape[:2]
    picture = Picture(colour, torch.ones(shape), torch.zeros(shape, dtype=torch.bool))
    return expose(picture, response, (1, 2)).float().mean(2)


def _dot() -> torch.Tensor:
    colour = torch.zeros(21, 31, 3)
    colour[10, 15] = 1.0
    return colour


@pytest.mark.parametrize(('motion', 'rows', 'columns'), [((4, 0), 1, 5), ((0, 6), 7, 1)])
def test_motion_spreads_a_dot_along_its_path(
    motion: tuple[float, float], rows: int, columns: int
) -> None:
    dark = int(_expose(torch.zeros(21, 31, 3), PLAIN)[0, 0])
    lit = _expose(_dot(), replace(PLAIN, motion_px=motion)) > dark + 2
    assert int(lit.any(1).sum()) == rows
    assert int(lit.any(0).sum()) == columns


def test_glare_veils_what_is_about_a_light_and_leaves_the_rest() -> None:
    glaring = replace(PLAIN, glare=0.2)
    lamp = torch.full((48, 96, 3), 0.2)
    lamp[20:28, 40:56] = 5.0
    clear, veiled = _expose(lamp, PLAIN), _expose(lamp, glaring)
    beside = (slice(20, 28), slice(57, 59))
    assert veiled[beside].mean() > clear[beside].mean() + 5
    even = torch.full((48, 96, 3), 0.4)
    assert torch.equal(_expose(even, PLAIN), _expose(even, glaring))


def test_cameras_in_hands_sometimes_shake_and_are_noisy() -> None:
    rng = np.random.default_rng(0)
    drawn = [sample_response(rng, 'clear', held=True) for _ in range(300)]
    assert 0.15 < np.mean([any(response.motion_px) for response in drawn]) < 0.35
    assert 0.03 < np.mean([response.noise > 0.02 for response in drawn]) < 0.25
