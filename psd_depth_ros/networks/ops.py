"""Operations with a hand-written backward pass, for speed and memory in training.

Each is tested against the same expression in plain torch.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
import torch.nn.functional as F

CACHED_COLUMNS = 16384  # pixels whose scores over the bins fit into the cache of a CPU


def expected_log_depth_op(logits: Tensor, centres: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of log-depth under softmax(logits), and some of the logits.

    The maps are 64 times the size of a depth image, so every pass over memory counts: a CPU works
    on blocks that stay in its cache, one product sums e^logit and c e^logit, and the backward pass
    needs nothing but e^logit. The gradient of the third result goes to those few logits alone,
    where that of a slice would be a map of zeros to fill and to add.

    Args:
        logits: (B, Q, h, w) any floating-point type.
        centres: (B, Q) float32 log-depth of the bins.

    Returns:
        log_depth (B, 1, h, w) float32; sigma (B, 1, h, w) float32, without a gradient; the logits
        of every fourth pixel of every fourth row of the maps (B, Q, h / 4, w / 4).
    """
    found = _ExpectedLogDepth.apply(logits, centres)
    return cast(tuple[Tensor, Tensor, Tensor], found)


class _ExpectedLogDepth(torch.autograd.Function):
    """u = sum p_i c_i of p = softmax(logits); du/dl_i = p_i (c_i - u), du/dc_i = p_i."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, centres: Tensor) -> tuple[Tensor, ...]:
        ctx.size = size = logits.shape[-2:]
        flat = logits.flatten(2)  # (B, Q, n)
        powers = torch.stack([torch.ones_like(centres), centres, centres.square()], dim=1)
        sums = powers.new_empty(len(flat), 3, flat.shape[2])
        weight = torch.empty_like(flat)  # e^logit
        for part in _blocks(flat):
            own = flat[part].float()  # in float32 the logits themselves: they must stay
            scores = (own - own.amax(dim=1, keepdim=True)).exp_()
            sums[part] = powers[part[0]] @ scores
            weight[part] = scores
        total, first, second = sums.unbind(1)
        log_depth = first / total
        sigma = (second / total - log_depth.square()).clamp(min=1e-6).sqrt()
        ctx.save_for_backward(weight, centres, total, log_depth)
        sigma, few = sigma[:, None].unflatten(-1, size), _every_fourth(logits).contiguous()
        ctx.mark_non_differentiable(sigma)
        return log_depth[:, None].unflatten(-1, size), sigma, few

    @staticmethod
    def backward(ctx: Any, by_depth: Tensor, _: Tensor, by_few: Tensor) -> tuple[Tensor, Tensor]:
        weight, centres, total, log_depth = ctx.saved_tensors
        scaled = by_depth.flatten(1) / total  # (B, n)
        pair = torch.stack([-log_depth * scaled, scaled], dim=1)
        powers = torch.stack([torch.ones_like(centres), centres], dim=2)  # (B, Q, 2)
        by_logits = torch.empty_like(weight)
        by_centres = torch.zeros_like(centres)
        for part in _blocks(weight):
            scores = weight[part].float()
            by_centres[part[0]] += (scores @ scaled[part[0], part[2], None])[..., 0]
            by_logits[part] = (powers[part[0]] @ pair[part]).mul_(scores)
        by_logits = by_logits.unflatten(-1, ctx.size)
        _every_fourth(by_logits).add_(by_few)
        return by_logits, by_centres


def _every_fourth(maps: Tensor) -> Tensor:
    """Every fourth pixel of every fourth row."""
    return maps[..., ::4, ::4]


def _blocks(maps: Tensor) -> list[tuple[slice, slice, slice]]:
    """Blocks of maps (B, Q, n) that fit into the cache of a CPU; on other devices one block."""
    count, _, length = maps.shape
    if maps.device.type != 'cpu':
        return [(slice(None),) * 3]
    return [
        (slice(row, row + 1), slice(None), slice(start, start + CACHED_COLUMNS))
        for row in range(count)
        for start in range(0, length, CACHED_COLUMNS)
    ]


def keep_layout(x: Tensor) -> Tensor:
    """`x` itself, whose gradient is kept in memory as `x` is.

    What follows a map with its channels last may return a gradient with its rows last, and then
    every operation before it works on two layouts at once: ELU in bfloat16 takes five times as
    long backwards.
    """
    if torch.compiler.is_compiling() or not x.requires_grad:
        return x
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
    return x


def convolve_strided_depthwise(x: Tensor, weight: Tensor) -> Tensor:
    """Depthwise convolution with stride 2 and without padding, fast backwards in bfloat16.

    On a CPU torch 2.13 takes 5 to 50 times as long for the gradient of such an input in bfloat16
    as in float32. Here it is computed in float32, an image at a time, so that it stays in the
    cache.

    Args:
        x: (B, C, H, W).
        weight: (C, 1, k, k) of any type; it is used in that of `x`.
    """
    if x.requires_grad and x.device.type == 'cpu' and x.dtype == torch.bfloat16:
        return cast(Tensor, _StridedDepthwise.apply(x, weight.to(x.dtype)))
    return F.conv2d(x, weight.to(x.dtype), stride=2, groups=x.shape[1])


class _StridedDepthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, stride=2, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        _, channels, *size = x.shape
        layout = torch.channels_last
        by_x, like = torch.empty_like(x), x.new_empty((1, channels, *size), dtype=torch.float32)
        like = like.contiguous(memory_format=layout)  # of its values nothing depends
        exact = weight.float()
        for index, one in enumerate(gradient):
            part = one[None].float().contiguous(memory_format=layout)
            by_x[index] = _differentiate(part, like, exact, [True, False])[0][0]
        by_weight = None
        if ctx.needs_input_grad[1]:
            by_weight = _differentiate(gradient, x, weight, [False, True])[1]
        return by_x, by_weight


def _differentiate(
    gradient: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    """Gradients of the input and of the weights of the convolution, those that are wanted."""
    by_x, by_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [2, 2], [0, 0], [1, 1], False, [0, 0], x.shape[1],
        [*wanted, False],
    )  # fmt: skip
    return by_x, by_weight
