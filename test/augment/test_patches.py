"""Where patches are cut, and the camera that follows; half a pixel matters."""

from __future__ import annotations

import pytest
import torch

from psd_depth_ros.augment.patches import far_score, Patches, sample_patches
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.warp import camera_matrix, inverse_warp, pixel_grid

CAMERA = Camera(64, 32, 50.0, 52.0, 31.0, 14.0)
INTRINSICS = torch.tensor([[50.0, 52.0, 31.0, 14.0]])
PATCH = Patches(torch.tensor([2.0]), torch.tensor([[17.0, 9.0]]), 16, 32)


def test_the_camera_of_a_patch_is_that_of_a_zoom() -> None:
    zoomed = CAMERA.zoom(2.0, 17.0, 9.0, 32, 16)
    expected = [zoomed.fx, zoomed.fy, zoomed.cx, zoomed.cy]
    assert PATCH.intrinsics(INTRINSICS)[0].tolist() == pytest.approx(expected)
    assert expected == [100.0, 104.0, 2 * 31.5 - 0.5 - 17.0, 2 * 14.5 - 0.5 - 9.0]


def test_pixels_of_a_patch_by_hand() -> None:
    pixels = PATCH.pixels()
    # the first pixel lies at (17, 9) of the doubled image, whose pixel 0 is at -0.25 of the image
    assert pixels[0, 0, 0].tolist() == pytest.approx([17.5 / 2 - 0.5, 9.5 / 2 - 0.5])
    assert (pixels[0, 0, 1] - pixels[0, 0, 0]).tolist() == pytest.approx([0.5, 0.0])
    # a cell of a map of half the size lies between its four pixels
    coarse = PATCH.pixels(2)
    assert coarse[0, 0, 0].tolist() == pytest.approx(pixels[0, :2, :2].mean(dim=(0, 1)).tolist())


def test_a_pixel_and_its_place_in_the_patch_are_on_one_ray() -> None:
    pixels = PATCH.pixels()[0, 3, 5]
    fx, fy, cx, cy = PATCH.intrinsics(INTRINSICS)[0].tolist()
    ray = ((5 - cx) / fx, (3 - cy) / fy)
    same = ((pixels[0].item() - 31.0) / 50.0, (pixels[1].item() - 14.0) / 52.0)
    assert ray == pytest.approx(same)


@pytest.mark.parametrize('factor', [1, 2])
def test_a_patch_shows_what_lies_there(factor: int) -> None:
    # a ramp whose value is the pixel's place in the coarse image
    grid = pixel_grid(32 * factor, 64 * factor)
    ramp = ((grid + 0.5) / factor - 0.5).permute(2, 0, 1)[None]
    cut = PATCH.cut(ramp, float(factor))
    torch.testing.assert_close(cut[0].permute(1, 2, 0), PATCH.pixels()[0], atol=1e-4, rtol=0)


def test_zooming_is_no_motion() -> None:
    """A patch seen through its own camera is what the full source shows there, at any depth."""
    source = torch.rand(1, 3, 64, 128)
    fine = camera_matrix(torch.tensor([[100.0, 104.0, 62.5, 28.5]]))  # 2 (c + 1/2) - 1/2
    depth = torch.rand(1, 1, 16, 32) * 30 + 2
    K = camera_matrix(PATCH.intrinsics(INTRINSICS))
    warped, inside = inverse_warp(source, depth, torch.eye(4)[None], K, fine)
    torch.testing.assert_close(warped, PATCH.cut(source, 2.0), atol=1e-4, rtol=0)
    assert inside.all()


def draw(choice: str, log_depth: torch.Tensor, image: torch.Tensor, seeds: list[int]) -> Patches:
    intrinsics = INTRINSICS.expand(len(seeds), 4)
    return sample_patches(log_depth, image, intrinsics, (16, 32), (1.5, 2.5), choice, seeds)


@pytest.mark.parametrize('choice', ['distant', 'random', 'centre'])
def test_patches_stay_inside_and_repeat(choice: str) -> None:
    image, log_depth = torch.rand(24, 3, 32, 64), torch.rand(24, 1, 16, 32)
    seeds = list(range(24))
    patches = draw(choice, log_depth, image, seeds)
    pixels = patches.pixels()
    assert pixels.amin() >= -0.5
    assert (pixels.amax(dim=(0, 1, 2)) <= torch.tensor([63.5, 31.5])).all()
    assert ((patches.zoom >= 1.5) & (patches.zoom <= 2.5)).all()
    again = draw(choice, log_depth, image, seeds)
    assert torch.equal(patches.offset, again.offset)
    assert len(set(patches.zoom.tolist())) > 20


def test_far_patches_are_cut_where_it_is_far_and_textured() -> None:
    image = torch.full((1, 3, 32, 64), 0.5)
    image[..., 40:] = torch.rand(1, 3, 32, 24)
    log_depth = torch.zeros(1, 1, 16, 32)
    log_depth[..., 18:] = torch.linspace(2.0, 3.0, 14)  # far and flat, then far and textured
    score = far_score(log_depth, image)
    assert score[..., :9].sum() == 0
    assert score[..., 12:].sum() > 0
    centres = [
        draw('distant', log_depth, image, [seed]).pixels()[0, :, :, 0].mean().item()
        for seed in range(40)
    ]
    assert sum(centres) / 40 > 38  # the middle of the image is 31.5


def test_centred_patches_are_about_the_principal_point() -> None:
    image, log_depth = torch.rand(40, 3, 32, 64), torch.zeros(40, 1, 16, 32)
    middle = draw('centre', log_depth, image, list(range(40))).pixels().mean(dim=(0, 1, 2))
    assert middle.tolist() == pytest.approx([31.0, 14.0], abs=2.0)
