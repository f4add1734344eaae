from dataclasses import replace
import math

import pytest
import torch

from psd_depth_ros.augment.patches import Patches
from psd_depth_ros.networks import Architecture, DepthModel
from psd_depth_ros.networks.decoder import (
    convolve_enlarged,
    Decoder,
    row_positions,
    ROW_SCALE_PX,
    SeparableConvolution,
)
from psd_depth_ros.networks.depth_model import measure_complexity

INTRINSICS = torch.tensor([[80.0, 80.0, 19.5, 11.5]])


def test_positions_are_zero_at_the_principal_point_and_one_at_ten_sinh_one():
    # Cells of stride 4 have their centres at 1.5, 5.5, 9.5 ...
    place = ROW_SCALE_PX * math.sinh(1.0)
    intrinsics = torch.tensor([[80.0, 80.0, 7.0, 9.5 - place], [80.0, 80.0, 7.0, 5.5]])
    positions = row_positions(intrinsics, 3, 5, 4)
    assert positions.shape == (2, 1, 3, 5)
    assert positions[0, 0, 2].tolist() == pytest.approx([1.0] * 5, abs=1e-5)
    assert positions[1, 0, 1].tolist() == [0.0] * 5
    assert positions[1, 0, 0, 0].item() == pytest.approx(math.asinh(-4.0 / ROW_SCALE_PX))


def test_level_ground_has_one_depth_for_each_position_at_any_zoom_and_crop():
    patches = Patches(torch.tensor([2.0]), torch.tensor([[16.0, 24.0]]), 16, 32)
    focal, height_m = 80.0, 1.5
    for intrinsics, size in ((INTRINSICS, (24, 40)), (patches.intrinsics(INTRINSICS), (16, 32))):
        below = ROW_SCALE_PX * row_positions(intrinsics, *size, 1)[0, 0, :, 0].sinh()
        ground = height_m * focal / below  # the depth that the position stands for, canonical
        rows = torch.arange(size[0])
        metric = height_m * intrinsics[0, 1] / (rows - intrinsics[0, 3])
        canonical = metric * focal / intrinsics[0, 1]
        seen = rows > intrinsics[0, 3]
        assert seen.any()
        torch.testing.assert_close(ground[seen], canonical[seen], rtol=1e-4, atol=0.0)


@pytest.mark.parametrize(
    ('positions', 'moved', 'same'),
    [(True, (0.0, 5.0), False), (True, (5.0, 0.0), True), (False, (0.0, 5.0), True)],
)
def test_only_a_decoder_with_positions_tells_how_high_it_looks(positions, moved, same):
    torch.manual_seed(0)
    decoder = Decoder(8, (4, 4, 4, 4), (8, 8, 8, 8), 1, positions)
    deepest = torch.zeros(1, 8, 1, 2)
    skips = [torch.zeros(1, 4, 16 >> i, 32 >> i) for i in range(4)]
    shifted = INTRINSICS + torch.tensor([0.0, 0.0, *moved])
    one, other = (decoder(deepest, skips, intrinsics) for intrinsics in (INTRINSICS, shifted))
    assert one.shape == (1, 8, 16, 32)
    assert torch.equal(one, other) == same


def test_a_convolution_of_an_enlarged_map_is_that_of_repeated_pixels():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 3, 4), torch.randn(7, 5, 3, 3)
    enlarged = torch.nn.functional.interpolate(x, scale_factor=2.0, mode='nearest')
    expected = torch.nn.functional.conv2d(enlarged, weight, padding=1)
    torch.testing.assert_close(convolve_enlarged(x, weight), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('positions', [True, False])
@pytest.mark.parametrize('separable', [True, False])
def test_the_decoder_is_its_layers_one_after_the_other(positions, separable):
    torch.manual_seed(0)
    decoder = Decoder(8, (3, 4, 5, 6), (8, 7, 6, 5), 2, positions, separable)
    x = deepest = torch.randn(2, 8, 1, 2)
    skips = [torch.randn(2, 3 + i, 16 >> i, 32 >> i) for i in range(4)]
    intrinsics = INTRINSICS.expand(2, -1)
    for index, found in enumerate(decoder.stage_maps(deepest, skips, intrinsics)):
        skip = skips[3 - index]
        parts = [torch.nn.functional.interpolate(x, scale_factor=2.0, mode='nearest'), skip]
        if positions:
            parts.append(row_positions(intrinsics, *skip.shape[-2:], 16 >> index))
        x = decoder.stages[index](torch.cat(parts, dim=1))
        torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-5)


def test_a_separable_convolution_is_depthwise_then_across_channels_then_added():
    """One 1 in the middle: the kernel of each channel is spread, then mixed by hand."""
    layer = SeparableConvolution(2)
    with torch.no_grad():
        layer.depthwise.weight.copy_(torch.arange(18.0).view(2, 1, 3, 3))
        layer.pointwise.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]).view(2, 2, 1, 1))
        for one in (layer.depthwise, layer.pointwise):
            one.bias.zero_()
    x = torch.zeros(1, 2, 3, 3)
    x[..., 1, 1] = 1.0
    found = layer(x)[0]
    flipped = torch.arange(18.0).view(2, 3, 3).flip(1, 2)  # a cross-correlation of a point
    assert torch.equal(found[0], x[0, 0] + flipped[0])
    torch.testing.assert_close(found[1], x[0, 1] + (-flipped[1]).exp() - 1.0)


@pytest.mark.parametrize('separable', [False, True])
def test_decoders_give_maps_at_four_strides(separable):
    decoder = Decoder(8, (4, 5, 6, 7), (12, 10, 8, 6), 2, True, separable)
    skips = [torch.rand(2, c, 64 >> i, 96 >> i) for i, c in enumerate((4, 5, 6, 7), start=1)]
    maps = decoder.stage_maps(
        torch.rand(2, 8, 2, 3), skips, torch.tensor([[50.0, 50, 48, 32]] * 2)
    )
    assert [tuple(one.shape[1:]) for one in maps] == [
        (12, 4, 6), (10, 8, 12), (8, 16, 24), (6, 32, 48),
    ]  # fmt: skip


def test_the_separable_decoder_costs_a_fraction():
    architecture = Architecture()
    full, lean = (
        measure_complexity(DepthModel(replace(architecture, separable=one)), 128, 416)
        for one in (False, True)
    )
    assert lean.macs < 0.6 * full.macs
    assert lean.parameters < full.parameters
