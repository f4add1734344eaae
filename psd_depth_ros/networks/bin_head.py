"""Bin-centre prediction with a self-attention global aggregator and scene-structure queries.

PSD states the idea (adaptive depth bins whose queries come from a global aggregator); the layers
follow AdaBins and SQLdepth where those are public, and are our own elsewhere: tokens know the
direction of their camera ray instead of their place in the picture, queries are learned instead
of cut from the token list, bins are uniform in log-depth at the start.

Depth here is canonical: Z' = Z f_c / fx. Metres are made by `inference.postprocess`.
"""

from __future__ import annotations

import math
from typing import Any, cast, NamedTuple

import torch
from torch import nn, Tensor
import torch.nn.functional as F

FREQUENCIES = 6
FAR_BINS = 2
HIGHEST_OCTAVE = 5.0  # of the code of a bin's place
CACHED_COLUMNS = 16384  # pixels whose scores over the bins a CPU keeps in its cache


class BinPrediction(NamedTuple):
    """What the head says of every pixel: scores over bins, and where the bins lie."""

    logits: Tensor  # (B, Q, h, w)
    centres: Tensor  # (B, Q) log canonical depth, ascending
    widths: Tensor  # (B, Q) share of the log-depth range, sum 1


class DepthOutput(NamedTuple):
    """The three maps a depth network gives, at stride 2."""

    log_depth: Tensor  # (B, 1, h, w) u' = ln Z', canonical
    sigma: Tensor  # (B, 1, h, w) standard deviation of u'
    far: Tensor  # (B, 1, h, w) probability of the last two bins: sky, or beyond range


class Attention(nn.Module):
    """Multi-head attention written as plain matrix products, so that every exporter takes it.

    With a hundred tokens they are faster, too, than the kernels made for thousands.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Queries (B, n, d) attend to context (B, m, d), giving (B, n, d)."""
        query = self._split(self.query(x))  # (B, heads, n, d / heads)
        key, value = self._split(self.key_value(context)).chunk(2, dim=-1)
        scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
        mixed = scores.softmax(dim=-1) @ value
        return cast(Tensor, self.out(mixed.transpose(1, 2).flatten(2)))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm self-attention, cross-attention where there is a context, feed-forward."""

    def __init__(self, width: int, heads: int, cross: bool) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width)
        self.attend_self = Attention(width, heads)
        self.norm_cross = nn.LayerNorm(width) if cross else None
        self.attend_cross = Attention(width, heads) if cross else None
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """(B, n, d) to (B, n, d)."""
        y = self.norm_self(x)
        x = x + self.attend_self(y, y)
        if self.attend_cross is not None and self.norm_cross is not None:
            assert context is not None
            x = x + self.attend_cross(self.norm_cross(x), context)
        return x + cast(Tensor, self.feed(self.norm_feed(x)))


class GlobalAggregator(nn.Module):
    """Tokens of the stride-32 map, each with its camera ray, mixed by self-attention."""

    def __init__(self, inputs: int, width: int, heads: int, blocks: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(inputs, width, 1)
        self.place = nn.Linear(4 * FREQUENCIES, width)
        self.blocks = nn.ModuleList(Block(width, heads, cross=False) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, deepest: Tensor, intrinsics: Tensor) -> Tensor:
        """(B, C, H/32, W/32) and fx fy cx cy (B, 4) of the input image to tokens (B, N, d)."""
        height, width = deepest.shape[-2:]
        tokens = self.project(deepest).flatten(2).transpose(1, 2)  # (B, N, d)
        tokens = tokens + self.place(ray_code(intrinsics, height, width))
        for block in self.blocks:
            tokens = block(tokens)
        return cast(Tensor, self.norm(tokens))


def ray_code(intrinsics: Tensor, height: int, width: int, stride: int = 32) -> Tensor:
    """Sines and cosines of the ray angles of the cells of a coarse map, (B, N, 4 FREQUENCIES).

    Angles are atan((x - cx) / fx) and atan((y - cy) / fy) at the centre of each cell, so a crop or
    a zoom of an image gives a cell the code of the direction it looks in.
    """
    steps_x = torch.arange(width, device=intrinsics.device, dtype=intrinsics.dtype)
    steps_y = torch.arange(height, device=intrinsics.device, dtype=intrinsics.dtype)
    x = (steps_x + 0.5) * stride - 0.5
    y = (steps_y + 0.5) * stride - 0.5
    fx, fy, cx, cy = intrinsics.unsqueeze(-1).unbind(1)  # (B, 1) each
    horizontal = torch.atan((x - cx) / fx)[:, None, :].expand(-1, height, -1)
    vertical = torch.atan((y - cy) / fy)[:, :, None].expand(-1, -1, width)
    angles = torch.stack([horizontal, vertical], dim=-1).flatten(1, 2)  # (B, N, 2)
    powers = 2.0 ** torch.arange(FREQUENCIES, device=intrinsics.device, dtype=intrinsics.dtype)
    phases = (angles.unsqueeze(-1) * powers).flatten(2)  # (B, N, 2 FREQUENCIES)
    return torch.cat([phases.sin(), phases.cos()], dim=-1)


def place_code(bins: int, width: int) -> Tensor:
    """Sines and cosines of the place of each bin in the range of log-depth, (Q, d).

    Queries that begin so tell near bins from far ones: a change of a pixel's features moves its
    depth at once. From queries that are all alike it would move fifty times less, and depth would
    stay a blur for thousands of steps.
    """
    half = width // 2
    places = (torch.arange(bins) + 0.5) / bins
    powers = 2.0 ** (torch.arange(half) * (HIGHEST_OCTAVE / half))
    phases = math.pi * places[:, None] * powers
    return torch.cat([phases.sin(), phases.cos()], dim=1)


class BinHead(nn.Module):
    """Learned queries read the tokens, place the bins and score every pixel against them."""

    def __init__(
        self, bins: int, embedding: int, width: int, heads: int, blocks: int,
        log_range: tuple[float, float],
    ) -> None:  # fmt: skip
        super().__init__()
        self.log_range = log_range
        self.queries = nn.Parameter(place_code(bins, width))
        self.blocks = nn.ModuleList(Block(width, heads, cross=True) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.key = nn.Linear(width, embedding)
        self.widths = nn.Sequential(
            nn.Linear(width + embedding, width), nn.GELU(), nn.Linear(width, 1)
        )
        self.mix = nn.Linear(bins, bins)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        with torch.no_grad():  # uniform bins at the start; identity mixing
            nn.init.zeros_(cast(nn.Linear, self.widths[2]).weight)
            self.mix.weight.copy_(torch.eye(bins))
            nn.init.zeros_(self.mix.bias)

    def forward(self, tokens: Tensor, features: Tensor) -> BinPrediction:
        """Tokens (B, N, d) and the decoder's map (B, E, h, w) to scores and bins."""
        queries = self.queries.expand(tokens.shape[0], -1, -1)
        for block in self.blocks:
            queries = block(queries, tokens)
        queries = self.norm(queries)  # (B, Q, d)
        keys = self.key(queries) / math.sqrt(features.shape[1])  # (B, Q, E)
        widths = self._widths(queries, keys, features)
        mixed = (self.mix.weight @ keys) * self.log_temperature.clamp(max=math.log(20)).exp()
        logits = mixed @ features.flatten(2)  # (B, Q, h w)
        # one for every image: to sum a gradient over images and pixels at once, torch makes a
        # float32 map of it
        bias = self.mix.bias[:, None].to(logits.dtype).expand(logits.shape[0], -1, 1)
        logits = logits + bias
        return BinPrediction(
            logits.unflatten(-1, features.shape[-2:]), self._centres(widths), widths
        )

    def _widths(self, queries: Tensor, keys: Tensor, features: Tensor) -> Tensor:
        """b_q = softplus(MLP[q, summary_q]) + 0.01, normalised to sum 1."""
        coarse = F.avg_pool2d(features, 4).flatten(2)  # (B, E, n) at stride 8
        attention = (keys @ coarse).softmax(dim=-1)
        summary = attention @ coarse.transpose(1, 2)  # (B, Q, E)
        raw = self.widths(torch.cat([queries, summary], dim=-1)).squeeze(-1).float()
        widths = F.softplus(raw) + 0.01
        return widths / widths.sum(dim=1, keepdim=True)

    def _centres(self, widths: Tensor) -> Tensor:
        low, high = self.log_range
        upper_edges = widths.cumsum(dim=1)
        return low + (high - low) * (upper_edges - 0.5 * widths)


def expectation(bins: BinPrediction) -> DepthOutput:
    """Depth as the expectation of log-depth, with its spread (float32 throughout).

    u = sum p_i u_i; sigma = sqrt(sum p_i (u_i - u)^2). The sums are written as products and
    reductions: a matrix product would be run in half precision by an inference engine.
    """
    share = bins.logits.float().softmax(dim=1)  # (B, Q, h, w)
    centres = bins.centres.float()[:, :, None, None]
    log_depth = (share * centres).sum(dim=1, keepdim=True)
    second = (share * centres.square()).sum(dim=1, keepdim=True)
    sigma = (second - log_depth.square()).clamp(min=1e-6).sqrt()
    far = share[:, -FAR_BINS:].sum(dim=1, keepdim=True)
    return DepthOutput(log_depth, sigma, far)


class TrainedDepth(NamedTuple):
    """What training needs of a `BinPrediction`."""

    log_depth: Tensor  # (B, 1, h, w) as in `expectation`
    sigma: Tensor  # (B, 1, h, w) as in `expectation`, without a gradient
    scores: Tensor  # (B, Q, h / 4, w / 4) the logits of every fourth pixel of every fourth row


def expected_log_depth(bins: BinPrediction) -> TrainedDepth:
    """The log-depth and sigma of `expectation`, for training: half the time on a CPU.

    Maps are 64 times the size of a depth image here, so that every pass over memory counts: a CPU
    takes them in parts that stay in its cache, one product sums e^logit and c e^logit, and the
    backward pass needs no more than e^logit. The gradient of `scores` goes to those few alone,
    where that of a slice of the logits would be a map of zeros to make and to add.
    """
    found = cast(tuple[Tensor, ...], _Expectation.apply(bins.logits, bins.centres.float()))
    return TrainedDepth(*found)


class _Expectation(torch.autograd.Function):
    """u = sum p_i c_i of p = softmax(logits); du/dl_i = p_i (c_i - u), du/dc_i = p_i."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, centres: Tensor) -> tuple[Tensor, ...]:
        ctx.size = size = logits.shape[-2:]
        flat = logits.flatten(2)  # (B, Q, n)
        powers = torch.stack([torch.ones_like(centres), centres, centres.square()], dim=1)
        sums = powers.new_empty(len(flat), 3, flat.shape[2])
        weight = torch.empty_like(flat)  # e^logit
        for part in _parts(flat):
            scores = flat[part].float()
            scores -= scores.amax(dim=1, keepdim=True)
            scores.exp_()
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
        share = by_depth.flatten(1) / total  # (B, n)
        pair = torch.stack([-log_depth * share, share], dim=1)
        powers = torch.stack([torch.ones_like(centres), centres], dim=2)  # (B, Q, 2)
        by_logits = torch.empty_like(weight)
        by_centres = torch.zeros_like(centres)
        for part in _parts(weight):
            scores = weight[part].float()
            by_centres[part[0]] += (scores @ share[part[0], part[2], None])[..., 0]
            by_logits[part] = (powers[part[0]] @ pair[part]).mul_(scores)
        by_logits = by_logits.unflatten(-1, ctx.size)
        _every_fourth(by_logits).add_(by_few)
        return by_logits, by_centres


def _every_fourth(maps: Tensor) -> Tensor:
    """Every fourth pixel of every fourth row."""
    return maps[..., ::4, ::4]


def _parts(maps: Tensor) -> list[tuple[slice, slice, slice]]:
    """Parts of maps (B, Q, n) that fit a CPU's cache; on other devices all in one."""
    count, _, length = maps.shape
    if maps.device.type != 'cpu':
        return [(slice(None),) * 3]
    return [
        (slice(row, row + 1), slice(None), slice(start, start + CACHED_COLUMNS))
        for row in range(count)
        for start in range(0, length, CACHED_COLUMNS)
    ]
