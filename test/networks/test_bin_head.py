import math

import pytest
import torch

from psd_depth_ros.networks.bin_head import BinHead, BinPrediction, expectation, ray_code


def prediction(logits, centres):
    widths = torch.full_like(torch.tensor([centres]), 1.0 / len(centres))
    return BinPrediction(
        torch.tensor(logits).view(1, len(centres), 1, 1), torch.tensor([centres]), widths
    )


def test_half_and_half_of_ten_and_forty_metres_is_twenty_with_a_large_sigma():
    far_away = -100.0
    bins = prediction(
        [0.0, 0.0, far_away, far_away], [math.log(10), math.log(40), math.log(80), math.log(90)]
    )
    output = expectation(bins)
    assert output.log_depth.exp().item() == pytest.approx(20.0, rel=1e-4)
    assert output.sigma.item() == pytest.approx(math.log(2), rel=1e-3)  # ln(40 / 10) / 2
    assert output.sky_probability.item() == pytest.approx(0.0, abs=1e-6)


def test_the_last_two_bins_are_far():
    output = expectation(prediction([-100.0, -100.0, 0.0, 0.0], [0.0, 1.0, 2.0, 3.0]))
    assert output.sky_probability.item() == pytest.approx(1.0)
    assert output.log_depth.item() == pytest.approx(2.5)


def test_a_pixel_read_at_once_has_the_expectation_of_its_scores():
    torch.manual_seed(0)
    head = BinHead(6, 4, 8, 2, 1, (0.0, 5.0)).eval()
    with torch.no_grad():
        head.mix.bias.normal_()
        head.key.weight.mul_(20.0)
        head.log_temperature.fill_(2.0)
        tokens, features = torch.randn(2, 6, 8), torch.randn(2, 4, 8, 12)
        expected = expectation(head(tokens, features))
        found = head.read(tokens, features)
    assert expected.log_depth.std() > 0.1
    for one, other in zip(found, expected, strict=True):
        assert one.is_contiguous()
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_crop_gives_a_cell_the_code_of_the_direction_it_looks_in():
    whole = torch.tensor([[200.0, 200.0, 127.5, 63.5]])
    crop = torch.tensor([[200.0, 200.0, 127.5 - 64, 63.5 - 32]])  # starts two cells in, one down
    codes = ray_code(whole, 4, 8).view(4, 8, -1)
    part = ray_code(crop, 2, 4).view(2, 4, -1)
    assert torch.allclose(part, codes[1:3, 2:6], atol=1e-5)


def test_a_zoom_keeps_the_direction_of_its_middle():
    # Cells of a picture zoomed by two about its middle: the corner between its four middle cells.
    intrinsics = torch.tensor([[200.0, 200.0, 63.5, 63.5]])
    zoomed = torch.tensor([[400.0, 400.0, 63.5, 63.5]])
    plain, near = ray_code(intrinsics, 4, 4).view(4, 4, -1), ray_code(zoomed, 4, 4).view(4, 4, -1)
    angle = math.atan((1.5 * 32 - 0.5 - 63.5) / 400.0)
    assert near[1, 1, 0].item() == pytest.approx(math.sin(angle), abs=1e-6)
    assert plain[1, 1, 0].item() == pytest.approx(math.sin(math.atan(-16 / 200)), abs=1e-6)
