"""Analytic gradients of geometry and losses against finite differences, in float64.

A function that converts to float32 is checked with the tolerance of that. Arguments behind which a
function stops the gradient on purpose are constants here.
"""

from collections.abc import Callable
import inspect
from typing import Any

import pytest
import torch
from torch import Tensor

from psd_depth_ros.geometry import warp
from psd_depth_ros.losses import affine, multi_view, photometric, ranking
from psd_depth_ros.losses import depth as depth_losses
from psd_depth_ros.objectives import metric, psd, ss_mde, supervised

H, W = 5, 6
EVERYWHERE = torch.ones(2, 1, H, W, dtype=torch.bool)


def uniform(low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape, dtype=torch.float64)


def camera() -> Tensor:
    K = torch.tensor([[7.0, 0.0, 2.4], [0.0, 8.0, 2.1], [0.0, 0.0, 1.0]], dtype=torch.float64)
    return K.expand(2, 3, 3).clone()


def poses() -> Tensor:
    return warp.exponential(uniform(-0.1, 0.1, 2, 6))


def image() -> Tensor:
    return uniform(0.1, 0.9, 2, 3, H, W)


def depth() -> Tensor:
    return uniform(2.0, 5.0, 2, 1, H, W)


def pixels() -> Tensor:
    # away from the kinks of bilinear sampling, which lie at whole pixels
    whole = torch.randint(0, 4, (2, 3, 4, 2)).double()
    return whole + uniform(0.2, 0.8, 2, 3, 4, 2)


def reprojection(warped: Tensor) -> Tensor:
    target = photometric.ssim_statistics(TARGET)
    inside = EVERYWHERE.expand(2, 2, 1, H, W)
    return photometric.reprojection_loss(
        target, warped, inside, None, EVERYWHERE, minimum=False, weight=WEIGHT
    ).loss


def distil(full: Tensor) -> Tensor:
    # most pixels are constant, and so is the median, through which no gradient flows
    full = torch.cat([full, torch.zeros_like(full), torch.zeros_like(full)], dim=2)
    shape = full.shape
    whole = torch.ones(shape, dtype=torch.bool)
    inputs = psd.DistillationInputs(
        full_error=torch.full(shape, 0.2), patch_error=torch.full(shape, 0.1), auto_mask=whole,
        sensitivity=torch.ones(shape), sigma=torch.full(shape, 0.05), inside=whole,
    )  # fmt: skip
    teacher = torch.zeros_like(full)
    return psd.distillation_loss(full, teacher, inputs, torch.ones(2)).loss


def ground(points_y: Tensor) -> Tensor:
    """The height loss of a camera over a plane that is nearly level."""
    x = torch.linspace(-1, 1, W, dtype=torch.float64).expand(1, 1, 10, W)
    z = torch.linspace(9, 3, 10, dtype=torch.float64)[:, None].expand(1, 1, 10, W)
    points = torch.cat([x, points_y, z], dim=1)
    return metric.camera_height_error(points, torch.tensor([1.2], dtype=torch.float64))


torch.manual_seed(0)
TARGET, WEIGHT = image(), uniform(0.5, 1.0, 2, 1, H, W)
TARGET_DEPTH = uniform(0.5, 1.5, 2, 1, H, W)
ORDER = torch.tensor([1.0, -1.0, 0.0] * 3, dtype=torch.float64)
CENTRES = torch.linspace(0.0, 2.0, 5, dtype=torch.float64).expand(2, 5)
LIDAR = torch.cat([uniform(0.2, 3.8, 2, 4, 2), uniform(2.0, 3.0, 2, 4, 1)], dim=2)
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Tensor, ...]]]] = {
    'exponential': (warp.exponential, lambda: (uniform(-1, 1, 2, 6),)),
    'invert': (warp.invert, lambda: (poses(),)),
    'sample': (warp.sample, lambda: (image(), pixels())),
    'resize_intrinsics': (
        warp.resize_intrinsics,
        lambda: (uniform(3, 9, 2, 4), uniform(0.5, 2, 2)),
    ),
    'camera_matrix': (warp.camera_matrix, lambda: (uniform(3, 9, 2, 4),)),
    'backproject': (warp.backproject, lambda: (depth(), camera())),
    'transform': (warp.transform, lambda: (poses(), uniform(1, 5, 2, 3, H, W))),
    'project': (warp.project, lambda: (uniform(1, 5, 2, 3, H, W), camera())),
    'inverse_warp': (
        lambda source, depth_m, twist: warp.inverse_warp(
            source, depth_m, warp.exponential(twist), camera(), camera()
        )[0],
        lambda: (image(), depth(), uniform(0.02, 0.05, 2, 6)),
    ),
    'photometric_error': (
        lambda one: photometric.photometric_error(photometric.ssim_statistics(TARGET), one),
        lambda: (image(),),
    ),
    'reprojection_loss': (reprojection, lambda: (uniform(0.1, 0.9, 2, 2, 3, H, W),)),
    'depth_difference': (photometric.depth_difference, lambda: (depth(), depth() + 4.0)),
    'smoothness': (photometric.smoothness, lambda: (depth(), image())),
    'masked_mean': (lambda one: photometric.masked_mean(one, EVERYWHERE), lambda: (depth(),)),
    'local_mean': (photometric.local_mean, lambda: (image(),)),
    'huber': (depth_losses.huber, lambda: (uniform(-0.2, 0.2, 9),)),
    'scale_invariant': (
        lambda one: depth_losses.scale_invariant(one, EVERYWHERE),
        lambda: (depth(),),
    ),
    'warp_sensitivity': (
        depth_losses.warp_sensitivity,
        lambda: (uniform(1, 5, 2, 3, H, W), uniform(0.1, 0.5, 2, 3), uniform(5, 9, 2, 2)),
    ),
    'surface_normals': (
        depth_losses.surface_normals,
        lambda: (warp.backproject(depth(), camera()),),
    ),
    'gradient_error': (
        lambda one: affine.gradient_error(one, EVERYWHERE, scales=2),
        lambda: (depth(),),
    ),
    'ranking_error': (
        lambda one, other: ranking.ranking_error(one, other, ORDER),
        lambda: (uniform(-1, 1, 9), uniform(-1, 1, 9)),
    ),
    'normal_error': (ss_mde.normal_error, lambda: (image(), image())),
    'distillation_loss': (distil, lambda: (uniform(-0.04, 0.04, 2, 1, 3, 3),)),
    'velocity_error': (
        metric.velocity_error,
        lambda: (uniform(0.5, 1.0, 2, 2, 3), uniform(2.0, 3.0, 2, 2)),
    ),
    'camera_height_error': (ground, lambda: (1.5 + uniform(-0.01, 0.01, 1, 1, 10, W),)),
    'lidar_error': (
        lambda one: metric.lidar_error(one, LIDAR),
        lambda: (uniform(0, 2, 2, 1, H, W),),
    ),
    'log_depth_error': (
        lambda one: supervised.log_depth_error(one, TARGET_DEPTH),
        lambda: (uniform(2.0, 3.0, 2, 1, H, W),),
    ),
    'gradient_matching_error': (
        lambda one: supervised.gradient_matching_error(one, TARGET_DEPTH),
        lambda: (uniform(0.0, 9.0, 2, 1, H, W),),
    ),
}
IN_FLOAT32: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Tensor, ...]]]] = {
    'bin_cross_entropy': (
        lambda logits: supervised.bin_cross_entropy(logits, CENTRES, TARGET_DEPTH, 2),
        lambda: (uniform(-1, 1, 2, 5, H, W),),
    ),
    'bin_uniformity': (
        lambda raw: psd.bin_uniformity(raw.softmax(dim=1)),
        lambda: (uniform(-1, 1, 2, 5),),
    ),
}


@pytest.mark.parametrize('name', FUNCTIONS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    torch.manual_seed(1)
    function, make = FUNCTIONS[name]
    inputs = tuple(one.clone().requires_grad_() for one in make())
    assert torch.autograd.gradcheck(function, inputs, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize('name', IN_FLOAT32)
def test_gradients_of_float32_functions_are_those_of_finite_differences(name: str) -> None:
    torch.manual_seed(1)
    function, make = IN_FLOAT32[name]
    inputs = tuple(one.clone().requires_grad_() for one in make())
    assert torch.autograd.gradcheck(function, inputs, eps=1e-2, atol=2e-3)


def test_the_fit_of_brightness_passes_the_gradient_with_its_gain() -> None:
    torch.manual_seed(1)
    given = image().requires_grad_()
    fitted = photometric.fit_brightness(TARGET, given, EVERYWHERE)
    (gradient,) = torch.autograd.grad(fitted.sum(), given)
    gain = (TARGET.var((2, 3), correction=0) / given.var((2, 3), correction=0)).sqrt()
    expected = gain.clamp(0.5, 2.0)[..., None, None].expand_as(gradient)
    torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-3)


def test_no_function_is_left_out() -> None:
    """Every public function of the modules is checked above, or named here as one without."""
    without = {'pixel_grid', 'inside_image', 'unwarped_error', 'is_trusted', 'nearest_of_four'}
    without |= {'fit_affine', 'draw_pixels', 'draw_positions', 'order_labels', 'multi_view_masks'}
    without |= {'fit_scale', 'pseudo_fit', 'explains_better', 'half_size'}
    without |= {'disagreement', 'make_label', 'align_pseudo_depth'}
    elsewhere = {'ssim_statistics', 'backproject_pixels', 'fit_brightness'}  # in the above
    elsewhere |= {'affine_invariant_loss', 'scaled_log_loss'}  # in test_affine, the fit held
    public = {
        name
        for module in (
            *(warp, affine, depth_losses, multi_view, photometric, ranking),
            *(metric, psd, ss_mde, supervised),
        )
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__ and not name.startswith('_')
    }
    assert public == FUNCTIONS.keys() | IN_FLOAT32.keys() | without | elsewhere
