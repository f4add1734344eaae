import pytest
import torch

from psd_depth_ros.geometry import warp

K = torch.tensor([[[50.0, 0.0, 19.5], [0.0, 50.0, 9.5], [0.0, 0.0, 1.0]]])


def ramp(height=20, width=40):
    grid = warp.pixel_grid(height, width)
    return grid.permute(2, 0, 1)[None]  # channel 0 is x, channel 1 is y


def move(x=0.0, y=0.0, z=0.0):
    T = torch.eye(4)[None]
    T[0, :3, 3] = torch.tensor([x, y, z])
    return T


def test_sampling_a_ramp_reads_the_coordinates():
    pixels = torch.tensor([[[[3.0, 4.0], [10.25, 7.5], [0.0, 0.0], [39.0, 19.0]]]])
    read = warp.sample(ramp(), pixels)
    assert torch.allclose(read[0].permute(1, 2, 0), pixels[0], atol=1e-4)


def test_images_of_bytes_are_read_as_if_they_were_floats():
    image = torch.randint(0, 256, (5, 3, 20, 40), dtype=torch.uint8)
    pixels = torch.rand(5, 6, 7, 2) * torch.tensor([44.0, 24.0]) - 2.0
    assert torch.equal(warp.sample(image, pixels), warp.sample(image.float(), pixels))


def test_the_identity_warp_returns_the_image():
    image = torch.rand(1, 3, 20, 40)
    depth = torch.rand(1, 1, 20, 40) * 10 + 1
    warped, inside = warp.inverse_warp(image, depth, move(), K, K)
    assert torch.allclose(warped, image, atol=1e-4)
    assert inside[..., 1:-1, 1:-1].all()


def test_a_plane_moved_sideways_shifts_by_f_b_over_z():
    # fx t / Z = 50 * 0.4 / 5 = 4 pixels.
    depth = torch.full((1, 1, 20, 40), 5.0)
    warped, inside = warp.inverse_warp(ramp(), depth, move(x=0.4), K, K)
    expected = ramp()[0, 0] + 4.0
    assert torch.allclose(warped[0, 0, :, :35], expected[:, :35], atol=1e-3)
    assert inside[0, 0, 5, :36].all()
    assert not inside[0, 0, 5, 36:].any()


def test_a_plane_moved_forward_scales_about_the_principal_point():
    # Z 5 -> 4: offsets from (19.5, 9.5) grow by 5 / 4.
    depth = torch.full((1, 1, 20, 40), 5.0)
    warped, _ = warp.inverse_warp(ramp(), depth, move(z=-1.0), K, K)
    assert warped[0, 0, 10, 24].item() == pytest.approx(19.5 + 4.5 * 1.25, abs=1e-3)
    assert warped[0, 1, 12, 24].item() == pytest.approx(9.5 + 2.5 * 1.25, abs=1e-3)


def test_another_camera_for_the_source():
    depth = torch.full((1, 1, 20, 40), 5.0)
    K_source = K.clone()
    K_source[0, 0, 2] += 2.0  # its principal point lies 2 pixels further right
    warped, _ = warp.inverse_warp(ramp(), depth, move(), K, K_source)
    assert warped[0, 0, 3, 10].item() == pytest.approx(12.0, abs=1e-3)


def test_points_behind_the_camera_are_outside():
    depth = torch.full((1, 1, 20, 40), 5.0)
    _, inside = warp.inverse_warp(ramp(), depth, move(z=-6.0), K, K)
    assert not inside.any()


def test_gradients_through_the_warp():
    torch.manual_seed(0)
    depth = (torch.rand(1, 1, 4, 5, dtype=torch.float64) + 3).requires_grad_()
    image = torch.rand(1, 2, 4, 5, dtype=torch.float64)
    camera = torch.tensor([[[5.0, 0, 2.0], [0, 5.0, 1.5], [0, 0, 1]]], dtype=torch.float64)
    T = move(x=0.13, y=0.07).double()
    assert torch.autograd.gradcheck(
        lambda d: warp.inverse_warp(image, d, T, camera, camera)[0], depth, eps=1e-7, atol=1e-4
    )
