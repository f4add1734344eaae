"""Bad conditions painted into images: weather, darkness and faults of cameras.

Every change keeps the geometry: a pixel shows the same point as before, so that the depth, the
camera and the motion of the clean image are those of the painted one. Images are float RGB in
[0, 1] on any device; what is drawn follows from the seed of a condition (random fields differ
between a CPU and a GPU). Severity runs from 0, the image itself, to 1.

Weather needs depth. The scale of a network that learns from video is arbitrary: `nominal_depth`
takes the median of every image for 10 m, so that densities per metre mean something.

The model of fog is that of Koschmieder 1924. Tables of the block quantisation are those of ITU-T
T.81 (JPEG), annex K.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
import math

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
import torch.nn.functional as F

WEATHER = ('fog', 'rain', 'snow', 'night')
CAMERA = (
    'defocus', 'motion_blur', 'brightness', 'contrast', 'gamma', 'noise', 'jpeg',
)  # fmt: skip
KINDS = WEATHER + CAMERA  # in the order in which they happen: the scene, then the camera

NOMINAL_MEDIAN_M = 10.0
MAX_FOG_PER_M = 0.06
NAMED_WIDTH_PX = 416.0  # lengths in pixels below are those of an image of this width
_FIELD_SEED = 11


@dataclass(frozen=True)
class Condition:
    """One kind of bad condition, how severe (0 .. 1), and the seed of all that is random."""

    kind: str
    severity: float
    seed: int


def sample_conditions(
    seed: int, kinds: Sequence[str], severity: tuple[float, float], combined: float = 0.0
) -> tuple[Condition, ...]:
    """Sample a condition of some `kinds` with a severity from a range.

    With probability `combined` there are two, one of the weather and one of the camera, as far as
    `kinds` has both. They come in the order in which they are to be painted.
    """
    rng = np.random.default_rng(seed)
    first = kinds[int(rng.integers(len(kinds)))]
    chosen = [first]
    rest = [one for one in kinds if (one in WEATHER) != (first in WEATHER)]
    if rng.random() < combined and rest:
        chosen.append(rest[int(rng.integers(len(rest)))])
    return tuple(
        Condition(kind, float(rng.uniform(*severity)), int(rng.integers(2**31)))
        for kind in sorted(chosen, key=KINDS.index)
    )


def nominal_depth(depth: Tensor) -> Tensor:
    """Depth (B, 1, H, W) of any scale, scaled so that the median of each image is 10 m."""
    median = depth.flatten(1).median(dim=1).values.clamp(min=1e-6)
    return depth * (NOMINAL_MEDIAN_M / median)[:, None, None, None]


@torch.no_grad()
def paint(images: Tensor, depth_m: Tensor, conditions: Iterable[Sequence[Condition]]) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] in bad conditions, image b in all of `conditions[b]`.

    Args:
        images: (B, 3, H, W) float; sides are multiples of 8 for `jpeg`.
        depth_m: (B, 1, H, W) metres, or what `nominal_depth` gives.
        conditions: of every image.
    """
    painted = []
    for image, depth, chosen in zip(images.float(), depth_m.float(), conditions, strict=True):
        for one in chosen:
            if one.severity > 0.0:
                image = _PAINTERS[one.kind](image, depth, _Draw(one, image)).clamp(0.0, 1.0)
        painted.append(image)
    return torch.stack(painted)


def fog(image: Tensor, depth_m: Tensor, per_m: float, airlight: Tensor) -> Tensor:
    """Fog: I e^{-beta Z} + A (1 - e^{-beta Z}).

    Args:
        image: (3, H, W).
        depth_m: (1, H, W).
        per_m: beta, the extinction in 1 / m.
        airlight: A (3, 1, 1), the colour of fog without end.
    """
    seen = (-per_m * depth_m).exp()
    return image * seen + airlight * (1.0 - seen)


class _Draw:
    """Random numbers and fields of one condition, and the unit of its lengths."""

    def __init__(self, condition: Condition, image: Tensor) -> None:
        self.severity = condition.severity
        self.rng = np.random.default_rng((condition.seed, 1))
        self._generator = torch.Generator(image.device).manual_seed(condition.seed + _FIELD_SEED)
        self._like = image
        self.height, self.width = image.shape[-2:]
        self.px = self.width / NAMED_WIDTH_PX

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def sign(self) -> float:
        return 1.0 if self.rng.random() < 0.5 else -1.0

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(
            shape, generator=self._generator, device=self._like.device, dtype=self._like.dtype
        )

    def sparse(self, height: int, width: int, density: float) -> Tensor:
        """(1, height, width) of zeros, and of values from 0.3 to 1 at a fraction of pixels."""
        field = torch.rand(
            (1, height, width), generator=self._generator, device=self._like.device,
            dtype=self._like.dtype,
        )  # fmt: skip
        return torch.where(field < density, 0.3 + 0.7 * field / density, 0.0)

    def colour(self, *rgb: float) -> Tensor:
        """A colour (3, 1, 1)."""
        return self.tensor(np.array(rgb))[:, None, None]

    def tensor(self, values: NDArray[np.float64]) -> Tensor:
        """Numbers on the device of the image, which is not waited for."""
        return torch.from_numpy(values.astype(np.float32)).to(self._like.device, non_blocking=True)


# Weather.


def _fog(image: Tensor, depth_m: Tensor, draw: _Draw) -> Tensor:
    grey = draw.uniform(0.6, 0.92)
    airlight = draw.colour(grey * draw.uniform(0.95, 1.0), grey, grey * draw.uniform(1.0, 1.05))
    return fog(image, depth_m, MAX_FOG_PER_M * draw.severity, airlight)


def _rain(image: Tensor, depth_m: Tensor, draw: _Draw) -> Tensor:
    """A grey veil, and streaks of drops: many thin ones far away, a few wide ones near by."""
    s = draw.severity
    veiled = fog(image, depth_m, 0.012 * s, draw.colour(0.62, 0.64, 0.67)) * (1.0 - 0.25 * s)
    slant = draw.uniform(-0.3, 0.3)
    streaks = torch.zeros_like(depth_m)
    for shrink, density, length_px in ((1, 0.006, 9.0), (2, 0.003, 10.0), (4, 0.0015, 8.0)):
        length = max(2, round(length_px * draw.px * draw.uniform(0.7, 1.3)))
        height, width = draw.height // shrink, draw.width // shrink
        layer = draw.sparse(height + length, width, density * s)
        line = torch.zeros(1, height, width, device=image.device, dtype=image.dtype)
        for k in range(length):
            line += layer[:, k : k + height].roll(round(slant * k), dims=2)
        streaks = torch.maximum(streaks, _enlarged(line.clamp(max=1.0), depth_m))
    return veiled + (0.85 - veiled) * (0.45 * streaks).clamp(0.0, 1.0)


def _snow(image: Tensor, depth_m: Tensor, draw: _Draw) -> Tensor:
    """A white veil, and flakes of three sizes, each a little drawn out by its fall."""
    s = draw.severity
    veiled = fog(image, depth_m, 0.025 * s, draw.colour(0.86, 0.88, 0.9))
    flakes = torch.zeros_like(depth_m)
    for shrink, density in ((1, 0.02), (2, 0.012), (4, 0.006)):
        height, width = draw.height // shrink, draw.width // shrink
        layer = draw.sparse(height + 2, width, density * s)
        drift = int(draw.rng.integers(-1, 2))
        fallen = torch.maximum(layer[:, :height], 0.6 * layer[:, 1 : height + 1].roll(drift, 2))
        flakes = torch.maximum(flakes, _enlarged(fallen, depth_m))
    return veiled + (0.97 - veiled) * flakes


def _night(image: Tensor, depth_m: Tensor, draw: _Draw) -> Tensor:
    """Little light from above, head lights that reach near things, lamps, a noisy sensor.

    A power of 1 to 4 makes an image of the day dark, but leaves its sky white: light is
    multiplied, too, by what lamps at the camera give, which falls with the square of distance.
    The camera raises its gain up to 6-fold for a mean of 0.08, and its noise with it.
    """
    s = draw.severity
    y, x = (
        torch.linspace(-1.0, 1.0, side, device=image.device, dtype=image.dtype)
        for side in (draw.height, draw.width)
    )
    beam = torch.sigmoid((y - 0.05) / 0.12)[:, None] * (-(x / 0.7).square()).exp()[None, :]
    reach_m = draw.uniform(10.0, 20.0)
    headlights = draw.uniform(0.6, 1.6) * beam / (1.0 + (depth_m / reach_m).square())
    light = draw.uniform(0.02, 0.1) * draw.colour(0.85, 0.95, 1.15)
    light = light + headlights * draw.colour(1.05, 1.0, 0.85)
    daylight = (1.0 - s) ** 3
    dark = image.clamp(min=1e-4) ** (1.0 + 3.0 * s * draw.uniform(0.4, 1.0))
    dark = dark * (daylight + (1.0 - daylight) * light)
    gain = 1.0 + s * ((0.08 / dark.mean()).clamp(1.0, 6.0) - 1.0)
    photons = 8000.0 * (1.0 - s) + 800.0
    spread = (dark / photons + (0.006 * s) ** 2).sqrt()  # shot and read noise
    return gain * (dark + spread * draw.normal(*image.shape)) + s * _lamps(draw, y, x)


def _lamps(draw: _Draw, y: Tensor, x: Tensor) -> Tensor:
    """Lamps with a halo, (3, H, W): white, orange and red ones about the horizon."""
    count = int(draw.rng.integers(2, 9))
    aspect = draw.height / draw.width
    colours = np.array([(1.0, 0.95, 0.85), (1.0, 0.7, 0.3), (1.0, 0.15, 0.1)])
    chosen = colours[draw.rng.integers(0, 3, count)]
    at_x, at_y = draw.rng.uniform(-1, 1, count), draw.rng.uniform(-0.7, 0.25, count)
    size = draw.rng.uniform(0.004, 0.016, count)
    glow = torch.zeros((), device=x.device)
    for strength, width in ((1.3, 1.0), (0.25, 4.0), (0.06, 14.0)):  # core, halo, haze
        r = draw.tensor(width * size)
        across = (-((x[None] - draw.tensor(at_x)[:, None]) / r[:, None]).square()).exp()
        down = (y[:, None] - draw.tensor(at_y)[None]) * aspect / r[None]
        down = (-down.square()).exp()  # (H, n)
        glow = glow + (strength * draw.tensor(chosen.T)[:, None] * down[None]) @ across
    return glow


# The camera.


def _defocus(image: Tensor, depth_m: Tensor, draw: _Draw) -> Tensor:
    """The mean over a disc of up to 3 pixels of radius."""
    radius = 3.0 * draw.px * draw.severity * draw.uniform(0.6, 1.0)
    far = math.ceil(radius)
    weights = {}
    for dy in range(-far, far + 1):
        for dx in range(-far, far + 1):
            weight = min(1.0, radius + 0.5 - math.hypot(dx, dy))
            if weight > 0.0:
                weights[dy, dx] = weight
    return _mean_of_shifted(image, weights)


def _motion_blur(image: Tensor, depth_m: Tensor, draw: _Draw) -> Tensor:
    """The mean along a line of up to 11 pixels, across more often than down."""
    length = 11.0 * draw.px * draw.severity * draw.uniform(0.5, 1.0)
    angle = draw.sign() * (draw.uniform(0.0, 1.0) ** 2) * 0.5 * math.pi
    count = max(2, math.ceil(length) + 1)
    weights: dict[tuple[int, int], float] = {}
    for place in np.linspace(-0.5, 0.5, count) * length:
        y, x = place * math.sin(angle), place * math.cos(angle)
        for dy in (math.floor(y), math.floor(y) + 1):
            for dx in (math.floor(x), math.floor(x) + 1):
                weight = (1.0 - abs(y - dy)) * (1.0 - abs(x - dx))
                if weight > 0.05:
                    weights[dy, dx] = weights.get((dy, dx), 0.0) + weight
    return _mean_of_shifted(image, weights)


def _brightness(image: Tensor, depth_m: Tensor, draw: _Draw) -> Tensor:
    return image * 2.0 ** (draw.sign() * 1.5 * draw.severity)


def _contrast(image: Tensor, depth_m: Tensor, draw: _Draw) -> Tensor:
    mean = image.mean()
    return mean + (image - mean) * 2.0 ** (draw.sign() * 1.5 * draw.severity)


def _gamma(image: Tensor, depth_m: Tensor, draw: _Draw) -> Tensor:
    return image.clamp(min=1e-4) ** (2.0 ** (draw.sign() * 1.2 * draw.severity))


def _noise(image: Tensor, depth_m: Tensor, draw: _Draw) -> Tensor:
    """Read noise, or shot noise, whose variance is in proportion to the light."""
    s = draw.severity
    if draw.sign() > 0:
        return image + 0.12 * s * draw.normal(*image.shape)
    return image + 0.2 * s * image.sqrt() * draw.normal(*image.shape)


def _jpeg(image: Tensor, depth_m: Tensor, draw: _Draw) -> Tensor:
    """Luma and chroma of blocks of 8x8 pixels, rounded in frequency at JPEG's quality of 8 up."""
    transform, steps, to_ycc, to_rgb = (
        one.to(image.device, non_blocking=True) for one in _jpeg_tables()
    )
    ycc = (to_ycc @ (image.flatten(1) - 0.5)).view_as(image)
    blocks = ycc.unflatten(1, (-1, 8)).unflatten(3, (-1, 8)).transpose(2, 3)  # c, i, j, 8, 8
    found = transform @ blocks @ transform.T
    step = ((50.0 / 8.0) * draw.severity * steps[:, None, None]).clamp(max=255.0) / 255.0
    found = (found / step).round() * step
    blocks = (transform.T @ found @ transform).transpose(2, 3)
    return 0.5 + (to_rgb @ blocks.reshape(3, -1)).view_as(image)


_PAINTERS: dict[str, Callable[[Tensor, Tensor, _Draw], Tensor]] = {
    'fog': _fog,
    'rain': _rain,
    'snow': _snow,
    'night': _night,
    'defocus': _defocus,
    'motion_blur': _motion_blur,
    'brightness': _brightness,
    'contrast': _contrast,
    'gamma': _gamma,
    'noise': _noise,
    'jpeg': _jpeg,
}


def _enlarged(layer: Tensor, like: Tensor) -> Tensor:
    """A layer (1, h, w) at the size of `like` (1, H, W)."""
    if layer.shape == like.shape:
        return layer
    return F.interpolate(layer[None], like.shape[-2:], mode='bilinear')[0]


def _mean_of_shifted(image: Tensor, weights: dict[tuple[int, int], float]) -> Tensor:
    """The weighted mean of an image (3, H, W) shifted by (down, right) pixels, border repeated."""
    height, width = image.shape[-2:]
    far = max(max(abs(dy), abs(dx)) for dy, dx in weights)
    if far == 0:
        return image
    padded = F.pad(image[None], (far, far, far, far), mode='replicate')[0]
    total, mean = sum(weights.values()), torch.zeros_like(image)
    for (dy, dx), weight in weights.items():
        part = padded[:, far + dy : far + dy + height, far + dx : far + dx + width]
        mean.add_(part, alpha=weight / total)
    return mean


@lru_cache(1)
def _jpeg_tables() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cosine transform (8, 8), steps (3, 8, 8) of quality 50, RGB to YCbCr and back (3, 3)."""
    place = torch.arange(8)
    transform = torch.cos((2 * place[None] + 1) * place[:, None] * math.pi / 16) / 2
    transform[0] /= math.sqrt(2.0)
    luma = torch.tensor([
        [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56], [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
    ]).float()  # fmt: skip
    chroma = torch.full((8, 8), 99.0)
    chroma[:4, :4] = torch.tensor(
        [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
    ).float()
    to_ycc = torch.tensor(
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    )
    return transform, torch.stack([luma, chroma, chroma]), to_ycc, torch.linalg.inv(to_ycc)
