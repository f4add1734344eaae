"""Operations with a backward pass of their own, beside the same in plain torch."""

import pytest
import torch
from torch import nn
import torch.nn.functional as F

from psd_depth_ros.networks import ops

LAST = torch.channels_last


@pytest.mark.parametrize('layout', [torch.contiguous_format, LAST])
@pytest.mark.parametrize('kind', [torch.float32, torch.bfloat16])
def test_a_strided_depthwise_convolution_is_that_of_torch(layout, kind):
    torch.manual_seed(0)
    x, weight = torch.randn(3, 5, 9, 12), torch.randn(5, 1, 3, 3)
    found = []
    for convolve in (ops.convolve_strided_depthwise, exact):
        own = x.to(kind).contiguous(memory_format=layout).requires_grad_()
        learned = weight.clone().requires_grad_()
        y = convolve(own, learned)
        assert y.dtype == own.dtype
        (y.float() * torch.arange(y.numel()).view_as(y) / 50).sum().backward()
        found.append((y.detach(), own.grad, learned.grad))
    # bfloat16 has 8 bits; of each gradient of an image a few products are summed
    tolerance = 1e-5 if kind == torch.float32 else 2e-2
    for one, another in zip(*found, strict=True):
        torch.testing.assert_close(one, another, rtol=tolerance, atol=tolerance)


def exact(x, weight):
    """In float32, rounded to the type of x."""
    return F.conv2d(x.float(), weight.to(x.dtype).float(), stride=2, groups=5).to(x.dtype)


def test_a_frozen_input_or_weight_gets_no_gradient():
    x = torch.randn(2, 4, 7, 7, dtype=torch.bfloat16)
    frozen = torch.randn(4, 1, 3, 3)
    own = x.clone().requires_grad_()
    ops.convolve_strided_depthwise(own, frozen).float().sum().backward()
    assert own.grad is not None
    learned = frozen.clone().requires_grad_()
    ops.convolve_strided_depthwise(x, learned).float().sum().backward()
    assert learned.grad is not None
    assert not ops.convolve_strided_depthwise(x, frozen).requires_grad


@pytest.mark.parametrize('layout', [torch.contiguous_format, LAST])
def test_a_gradient_is_kept_in_memory_as_its_map_is(layout):
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=layout).requires_grad_()
    seen = []
    y = ops.keep_layout(1.0 * x)
    y.register_hook(seen.append)
    torch.autograd.backward(y, torch.ones(2, 3, 4, 5))
    assert seen[0].is_contiguous(memory_format=layout)
    torch.testing.assert_close(x.grad, torch.ones_like(x))


@pytest.mark.parametrize('is_frozen', [False, True])
@pytest.mark.parametrize(
    ('stride', 'padding', 'groups', 'bias'),
    [(1, 1, 1, False), (1, 0, 1, True), (1, 1, 4, False), (2, 0, 4, True), (2, 0, 4, False)],
)
def test_a_norm_in_the_weights_of_a_convolution_changes_nothing(
    stride, padding, groups, bias, is_frozen
):
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 4, 3, stride, padding, groups=groups, bias=bias).double()
    norm = nn.BatchNorm2d(4).double().eval()
    for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        value.data.uniform_(0.5, 2.0)
    convolution.requires_grad_(not is_frozen)
    parameters = [*convolution.parameters(), *norm.parameters()]
    x = torch.randn(2, 4, 7, 9, dtype=torch.double, requires_grad=True)
    found = []
    for compute in (
        lambda: ops.convolve_normalised(x, convolution, norm),
        lambda: norm(convolution(x)),
    ):
        y = compute()
        own = [x, *(one for one in parameters if one.requires_grad)]
        found.append(
            [y, *torch.autograd.grad((y * torch.arange(y.numel()).view_as(y)).sum(), own)]
        )
    assert len(found[0]) == 4 + (0 if is_frozen else 1 + bias)
    for one, another in zip(*found, strict=True):
        torch.testing.assert_close(one, another)
    with torch.no_grad():
        assert torch.equal(ops.convolve_normalised(x, convolution, norm), norm(convolution(x)))


def test_a_norm_that_learns_its_statistics_goes_on_learning_them():
    convolution, norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
    ops.convolve_normalised(5.0 + torch.randn(2, 3, 6, 6), convolution, norm).sum().backward()
    assert norm.num_batches_tracked == 1
    assert norm.running_mean.abs().min() > 0
