"""SSIM and reprojection against implementations of their own, with OpenCV in float64."""

import cv2
import numpy as np
import pytest
import torch

from psd_depth_ros.geometry.warp import inverse_warp
from psd_depth_ros.losses.photometric import (
    photometric_error,
    reprojection_loss,
    ssim_statistics,
    unwarped_error,
)

HEIGHT, WIDTH = 40, 56
K = np.array([[50.0, 0.0, 27.0], [0.0, 52.0, 20.5], [0.0, 0.0, 1.0]])


def textured(seed):
    noise = np.random.default_rng(seed).random((HEIGHT, WIDTH, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return (smooth - smooth.min()) / (smooth.max() - smooth.min())


def tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


def mean_3x3(image):
    """Over the pixels that exist."""
    total = cv2.boxFilter(image, -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT)
    count = cv2.boxFilter(
        np.ones(image.shape[:2]), -1, (3, 3), normalize=False, borderType=cv2.BORDER_CONSTANT
    )
    return total / count[..., None]


def ssim_error(a, b):
    """monodepth2, eq. 3: SSIM of Wang et al. 2004 over 3x3 windows, mixed with L1."""
    mean_a, mean_b = mean_3x3(a), mean_3x3(b)
    variance_a, variance_b = mean_3x3(a * a) - mean_a**2, mean_3x3(b * b) - mean_b**2
    covariance = mean_3x3(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    ssim = ((2 * mean_a * mean_b + c1) * (2 * covariance + c2)) / (
        (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    )
    dissimilarity = np.clip((1 - ssim) / 2, 0, 1)
    return (0.85 * dissimilarity + 0.15 * np.abs(a - b)).mean(axis=2)


def motion(rotation, translation):
    pose = np.eye(4)
    pose[:3, :3] = cv2.Rodrigues(np.array(rotation))[0]
    pose[:3, 3] = translation
    return pose


def warp_with_opencv(source, depth, pose):
    """The target view by cv2.projectPoints and cv2.remap, and where it lies inside the source."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    rays = np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3) @ np.linalg.inv(K).T
    points = rays * depth.reshape(-1, 1)
    pixels, _ = cv2.projectPoints(points, cv2.Rodrigues(pose[:3, :3])[0], pose[:3, 3], K, None)
    u, v = pixels.reshape(HEIGHT, WIDTH, 2).transpose(2, 0, 1)
    warped = cv2.remap(
        source.astype(np.float32), u.astype(np.float32), v.astype(np.float32),
        cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
    )  # fmt: skip
    inside = (u >= 0) & (u <= WIDTH - 1) & (v >= 0) & (v <= HEIGHT - 1)
    return warped.astype(np.float64), inside


def test_photometric_error_is_that_of_opencv():
    a, b = textured(1), textured(2)
    found = photometric_error(ssim_statistics(tensor(a)), tensor(b))[0, 0].numpy()
    np.testing.assert_allclose(found, ssim_error(a, b), atol=2e-5)


@pytest.mark.parametrize('minimum', [True, False])
def test_reprojection_of_two_sources_is_that_of_opencv(minimum):
    target, sources = textured(3), [textured(4), textured(5)]
    depth = 4.0 + 2.0 * textured(6)[..., 0]
    poses = [motion((0.01, -0.02, 0.03), (0.1, 0.0, 0.2)), motion((0, 0.02, 0), (-0.2, 0.05, 0))]
    matrix = torch.from_numpy(K)[None].float()
    warped = [
        inverse_warp(
            tensor(source), torch.from_numpy(depth)[None, None].float(),
            torch.from_numpy(pose)[None].float(), matrix, matrix,
        )
        for source, pose in zip(sources, poses, strict=True)
    ]  # fmt: skip
    statistics = ssim_statistics(tensor(target))
    still = unwarped_error(statistics, torch.stack([tensor(source) for source in sources]))
    found = reprojection_loss(
        statistics, torch.stack([image for image, _ in warped]),
        torch.stack([inside for _, inside in warped]), still,
        torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.bool), minimum=minimum,
    )  # fmt: skip

    expected = [
        warp_with_opencv(one, depth, pose) for one, pose in zip(sources, poses, strict=True)
    ]
    errors = np.stack([ssim_error(target, image) for image, _ in expected])
    inside = np.stack([mask for _, mask in expected])
    for (image, mask), (wanted, seen) in zip(warped, expected, strict=True):
        # OpenCV samples at 1/32 pixel
        assert np.abs(image[0].permute(1, 2, 0).numpy() - wanted).mean() < 2e-3
        assert (mask[0, 0].numpy() != seen).mean() < 0.005
    with np.errstate(invalid='ignore', divide='ignore'):
        best = (
            np.where(inside, errors, np.inf).min(axis=0)
            if minimum
            else (errors * inside).sum(axis=0) / inside.sum(axis=0)
        )
    unwarped = np.stack([ssim_error(target, source) for source in sources]).min(axis=0)
    moves = inside.any(axis=0) & (best < unwarped)
    assert 0.1 < moves.mean() < 0.9
    assert (found.auto_mask[0, 0].numpy() != moves).mean() < 0.02
    loss = np.where(moves, best, unwarped).mean()
    assert found.loss.item() == pytest.approx(loss, rel=2e-3)
