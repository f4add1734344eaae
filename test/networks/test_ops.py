"""Operations with a backward pass of their own, beside the same in plain torch."""

import pytest
import torch
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
