"""Bin-centre prediction with a self-attention global aggregator and scene-structure queries.

The idea is that of PSD (adaptive depth bins whose queries come from a global aggregator); layers
follow AdaBins (Bhat et al. 2021) and SQLdepth (Wang et al. 2024) where these are public. Different
here: tokens are encoded by the direction of their camera ray instead of their image position,
queries are learned instead of taken from the token list, bins are uniform in log-depth at first.

Depth is canonical, Z' = Z f_c / fx; `inference.postprocess` converts it to metres.
"""

from __future__ import annotations

import math
from typing import cast, NamedTuple

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from psd_depth_ros.networks.ops import expected_log_depth_op

FREQUENCIES = 6
FAR_BINS = 2  # last bins, which stand for the sky and depth beyond range
HIGHEST_OCTAVE = 5.0  # of `bin_code`


class BinPrediction(NamedTuple):
    """Scores of every pixel over the bins, and the bins of the image."""

    logits: Tensor  # (B, Q, h, w)
    centres: Tensor  # (B, Q) log canonical depth, ascending
    widths: Tensor  # (B, Q) fractions of the log-depth range, sum 1


class DepthOutput(NamedTuple):
    """The three output maps of a depth network, at stride 2."""

    log_depth: Tensor  # (B, 1, h, w) u' = ln Z', canonical
    sigma: Tensor  # (B, 1, h, w) standard deviation of u'
    sky_probability: Tensor  # (B, 1, h, w) of the last two bins: sky, or beyond range


class Attention(nn.Module):
    """Multi-head attention as plain matrix products, which every exporter supports.

    With a hundred tokens they are also faster than the kernels made for thousands.
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
    """Pre-norm transformer block: self-attention, optional cross-attention, feed-forward."""

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
    """Self-attention over the cells of the stride-32 map, each encoded by its camera ray."""

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
    """Sinusoidal encoding of the camera rays of the cells of a map, (B, N, 4 FREQUENCIES).

    Angles are atan((x - cx) / fx) and atan((y - cy) / fy) at the centre of each cell, so a crop or
    an enlargement of an image keeps the code of each viewing direction.

    Args:
        intrinsics: (B, 4) fx fy cx cy of the input image, pixels.
        height, width: Size of the map, N = height width.
        stride: Pixels of the input image per cell.
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


def bin_code(bins: int, width: int) -> Tensor:
    """Sinusoidal encoding of the position of each bin in the range of log-depth, (Q, d).

    Queries initialised with it tell near bins from far ones: a change of a pixel's features moves
    its depth at once. With identical queries it would move fifty times less, and depth would stay
    blurred for thousands of steps.
    """
    half = width // 2
    # Not on the device meta, where a network is made to be filled: arithmetic there would import
    # torch's compiler, a second and more.
    places = (torch.arange(bins, device='cpu') + 0.5) / bins
    powers = 2.0 ** (torch.arange(half, device='cpu') * (HIGHEST_OCTAVE / half))
    phases = math.pi * places[:, None] * powers
    return torch.cat([phases.sin(), phases.cos()], dim=1)


class BinHead(nn.Module):
    """Learned queries attend to the tokens, place the bins and score every pixel against them.

    Args:
        bins: Q, the number of bins and queries.
        embedding: E, channels of the decoder's map.
        width: d, width of tokens and queries.
        heads, blocks: Attention heads and transformer blocks.
        log_range: ln of the nearest and farthest canonical depth.
    """

    def __init__(
        self, bins: int, embedding: int, width: int, heads: int, blocks: int,
        log_range: tuple[float, float],
    ) -> None:  # fmt: skip
        super().__init__()
        self.log_range = log_range
        self.queries = nn.Parameter(bin_code(bins, width))
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
            self.mix.weight.copy_(torch.eye(bins, device='cpu'))
            nn.init.zeros_(self.mix.bias)

    def forward(self, tokens: Tensor, features: Tensor) -> BinPrediction:
        """Tokens (B, N, d) and the decoder's map (B, E, h, w) to scores and bins."""
        mixed, widths = self._read_tokens(tokens, features)
        logits = mixed @ features.flatten(2)  # (B, Q, h w)
        # expanded over images: to sum a gradient over images and pixels at once, torch would copy
        # the whole map to float32
        bias = self.mix.bias[:, None].to(logits.dtype).expand(logits.shape[0], -1, 1)
        logits = logits + bias
        return BinPrediction(
            logits.unflatten(-1, features.shape[-2:]), self._centres(widths), widths
        )

    def read(self, tokens: Tensor, features: Tensor) -> DepthOutput:
        """The `expectation` of `forward`, with the scores of a pixel beside each other.

        Libraries keep the map that way, and would turn all scores around twice: 5 to 7 % of the
        time of the network `lite` in OpenVINO.
        """
        mixed, widths = self._read_tokens(tokens, features)
        pixels = features.permute(0, 2, 3, 1)  # (B, h, w, E)
        logits = pixels.flatten(1, 2) @ mixed.transpose(1, 2) + self.mix.bias
        logits = logits.unflatten(1, pixels.shape[1:3])  # (B, h, w, Q)
        maps = _expect(logits, self._centres(widths)[:, None, None, :], dim=-1)
        return DepthOutput(*(one.squeeze(-1).unsqueeze(1) for one in maps))

    def _read_tokens(self, tokens: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (B, Q, E) of the scores over the decoder's map, and widths (B, Q) of bins."""
        queries = self.queries.expand(tokens.shape[0], -1, -1)
        for block in self.blocks:
            queries = block(queries, tokens)
        queries = self.norm(queries)  # (B, Q, d)
        keys = self.key(queries) / math.sqrt(features.shape[1])  # (B, Q, E)
        widths = self._widths(queries, keys, features)
        mixed = (self.mix.weight @ keys) * self.log_temperature.clamp(max=math.log(20)).exp()
        return mixed, widths

    def _widths(self, queries: Tensor, keys: Tensor, features: Tensor) -> Tensor:
        """b_q = softplus(MLP[q, summary_q]) + 0.01, normalised to sum 1."""
        coarse = F.avg_pool2d(features, 4).flatten(2)  # (B, E, n) at stride 8
        attention = (keys @ coarse).softmax(dim=-1)
        summary = attention @ coarse.transpose(1, 2)  # (B, Q, E)
        first, activation, last = self.widths
        hidden = activation(first(torch.cat([queries, summary], dim=-1)))
        last = cast(nn.Linear, last)
        # One output: a sum in float32. oneDNN confuses two layouts of a bfloat16 matrix of one
        # column, and may then write beyond its buffer (seen with torch 2.9 and 2.10).
        raw = (hidden.float() * last.weight[0]).sum(dim=-1) + last.bias
        widths = F.softplus(raw) + 0.01
        return widths / widths.sum(dim=1, keepdim=True)

    def _centres(self, widths: Tensor) -> Tensor:
        low, high = self.log_range
        upper_edges = widths.cumsum(dim=1)
        return low + (high - low) * (upper_edges - 0.5 * widths)


def expectation(bins: BinPrediction) -> DepthOutput:
    """Expectation and standard deviation of log-depth over the bins, float32 throughout.

    u = sum p_i u_i; sigma = sqrt(sum p_i (u_i - u)^2).
    """
    return DepthOutput(*_expect(bins.logits, bins.centres[:, :, None, None], dim=1))


def _expect(logits: Tensor, centres: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-depth, its sigma and the sky probability over the bins along `dim`, which becomes 1.

    The sums are products and reductions: an inference engine would run a matrix product in half
    precision.
    """
    probability, centres = logits.float().softmax(dim), centres.float()
    log_depth = (probability * centres).sum(dim, keepdim=True)
    second = (probability * centres.square()).sum(dim, keepdim=True)
    sigma = (second - log_depth.square()).clamp(min=1e-6).sqrt()
    sky = probability.narrow(dim, logits.shape[dim] - FAR_BINS, FAR_BINS)
    return log_depth, sigma, sky.sum(dim, keepdim=True)


class TrainedDepth(NamedTuple):
    """Result of `expected_log_depth`."""

    log_depth: Tensor  # (B, 1, h, w) as in `expectation`
    sigma: Tensor  # (B, 1, h, w) as in `expectation`, without a gradient
    # (B, Q, h / 4, w / 4) logits of every fourth pixel of every fourth row of the map at stride 2,
    # which is every eighth of the image
    scores: Tensor


def expected_log_depth(bins: BinPrediction) -> TrainedDepth:
    """Log-depth and sigma of `expectation` for training, in half the time on a CPU."""
    return TrainedDepth(*expected_log_depth_op(bins.logits, bins.centres.float()))
