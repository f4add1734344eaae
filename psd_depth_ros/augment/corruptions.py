"""Image corruptions in five severities, to measure how a network bears weather, lenses and noise.

The 18 kinds are those of RoboDepth's protocol (L. Kong et al., RoboDepth: Robust
Out-of-Distribution Depth Estimation under Corruptions, NeurIPS 2023,
https://arxiv.org/abs/2310.15171), which extends that of D. Hendrycks and T. Dietterich
(Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR 2019,
https://arxiv.org/abs/1903.12261). This is an implementation of its own: textures of frost and snow
come from a seeded procedure in place of photographs, and severities are near those of the
protocol, not equal to them. Figures compare networks that were measured with it, not with
published tables.

Sizes in pixels (kernels of blurs, displacements, flakes, the grain of fog) hold for an image of
KITTI, 1242x375, and are scaled with the square root of the area: on 448x128 they are 0.35 times as
large, so that the same scene is corrupted alike at every resolution. What a sensor or an encoder
does to pixels does not scale: noise, pixelate (fraction of the resolution that is left) and JPEG.

A corruption draws the same random numbers at every severity, so that a higher one is the same
disturbance, only stronger.
"""

from __future__ import annotations

from collections.abc import Callable
import math
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]  # (H, W, 3)
Image = NDArray[np.float32]  # (H, W, 3) in [0, 1], or one channel (H, W)
Corruption = Callable[[Rgb, int, np.random.Generator], Rgb]  # image, severity from 0, generator

SEVERITIES = (1, 2, 3, 4, 5)
REFERENCE_AREA_PX = 1242 * 375
_GAMMA = 2.2  # of the curve between linear light and the values of an image


def corrupt(rgb: Rgb, name: str, severity: int, seed: int = 0) -> Rgb:
    """Corrupt an image; the same image and seed give the same result.

    Args:
        rgb: (H, W, 3) uint8, as a camera delivers it.
        name: One of `CORRUPTIONS`.
        severity: From 1 to 5.
        seed: At least 0; of random textures, noise and directions.

    Returns:
        (H, W, 3) uint8, a new array.

    Raises ValueError for an unknown name, another severity, or an array that is no such image.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f'unknown corruption {name!r}; expected {", ".join(CORRUPTIONS)}')
    if severity not in SEVERITIES:
        raise ValueError(f'severity is {severity!r}, expected 1, 2, 3, 4 or 5')
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise ValueError(f'image is {rgb.dtype} of shape {rgb.shape}, expected uint8 (H, W, 3)')
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return CORRUPTIONS[name](np.ascontiguousarray(rgb), severity - 1, rng)


# Weather and light.


def _brightness(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """Raise the value of HSV at the same hue and saturation."""
    del rng
    added = 0.1 * (severity + 1)
    value = rgb.max(axis=2)
    steps = np.arange(256, dtype=np.float32) / 255.0
    gain = np.minimum(steps + added, 1.0) / np.maximum(steps, 1e-6)
    gain[0] = 0.0
    bright = rgb * gain[value][..., None]
    bright[value == 0] = 255.0 * added  # black has no hue: it becomes grey
    return np.rint(bright).astype(np.uint8)


def _dark(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """Less light, with the shot noise and read noise of so few photons (Gaussian)."""
    exposure = (0.5, 0.32, 0.2, 0.12, 0.07)[severity]
    light = _linear(rgb) * np.float32(exposure)
    deviation = np.sqrt(light / 800.0 + 0.003**2)
    return _encode(light + deviation * _normal(rng, rgb.shape))


def _fog(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """Bright clouds of fractal noise over the image, whose range of values is kept."""
    amount = (1.0, 1.5, 2.0, 2.5, 3.0)[severity]
    image = _unit(rgb)
    highest = max(float(image.max()), 1e-3)
    fog = 0.4 + 0.6 * _fractal(rng, rgb.shape[:2], 400.0 * _scale(rgb), 0.55)
    return _quantise((image + np.float32(amount) * fog[..., None]) * highest / (highest + amount))


def _frost(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """Ice on the glass: ferns of crystals over haze, thickest at the borders of the image."""
    coverage = (0.3, 0.45, 0.6, 0.75, 0.9)[severity]
    height, width = rgb.shape[:2]
    scale = _scale(rgb)
    ferns = _ferns(rng, (height, width))
    haze = _fractal(rng, (height, width), 200.0 * scale, 0.6)
    x = np.abs(np.linspace(-1.0, 1.0, width, dtype=np.float32))
    y = np.abs(np.linspace(-1.0, 1.0, height, dtype=np.float32))
    border = np.maximum(x[None, :] ** 2, y[:, None] ** 2)
    # Where ice is: it grows inwards with the coverage, along a border that the haze makes ragged.
    thickness = np.clip(2.0 * (0.5 * border + 0.5 * haze + coverage - 0.75), 0.0, 1.0)
    opacity = np.clip(thickness * (0.3 + 0.3 * haze + 0.6 * ferns), 0.0, 0.95)[..., None]
    ice = (0.5 + 0.2 * haze + 0.3 * ferns)[..., None] * np.array([0.92, 0.97, 1.0], np.float32)
    seen = cv2.GaussianBlur(rgb, (0, 0), max(0.3, 3.0 * coverage * scale))
    return _quantise(_unit(seen) * (1.0 - opacity) + ice * opacity)


def _snow(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """A paler scene behind falling flakes: small ones far away, large and longer ones near."""
    density = (0.03, 0.06, 0.09, 0.13, 0.17)[severity]
    paleness = (0.15, 0.25, 0.32, 0.4, 0.48)[severity]
    scale = _scale(rgb)
    image = _unit(rgb)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    pale = np.maximum(image, 0.6 * grey + 0.4)
    snowy = image + np.float32(paleness) * (pale - image)
    angle = rng.uniform(math.radians(60.0), math.radians(120.0))
    for size, length, strength in ((2.5, 12.0, 0.9), (5.0, 24.0, 1.1)):
        flakes = _flakes(rng, rgb.shape[:2], max(1.0, size * scale), density / size)
        streaks = cv2.filter2D(flakes, -1, _line_kernel(length * scale, angle))
        snowy += np.float32(strength) * streaks[..., None]
    return _quantise(snowy)


def _contrast(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """Draw all values towards the mean of their channel."""
    del rng
    kept = (0.4, 0.3, 0.2, 0.1, 0.05)[severity]
    mean = rgb.mean(axis=(0, 1), dtype=np.float64)
    steps = np.arange(256)[:, None]
    table = np.rint(mean + kept * (steps - mean)).astype(np.uint8)  # (256, 3)
    return np.asarray(cv2.LUT(rgb, table[None]), np.uint8)


# Lens and motion.


def _defocus_blur(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """The disk of an aperture out of focus."""
    del rng
    radius = (3.0, 4.0, 6.0, 8.0, 10.0)[severity] * _scale(rgb)
    return _filter(rgb, _disk_kernel(radius))


def _glass_blur(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """Frosted glass: every pixel comes from a random place nearby, twice, between soft blurs."""
    reach, sigma = ((1.5, 0.7), (2.2, 0.9), (3.0, 1.1), (4.0, 1.3), (5.5, 1.6))[severity]
    scale = _scale(rgb)
    soft = _blur(rgb, sigma * scale)
    for _ in range(2):
        shift = (rng.random((*rgb.shape[:2], 2), dtype=np.float32) - 0.5) * 2.0 * reach * scale
        soft = _move(soft, shift)
    return _blur(soft, sigma * scale)


def _motion_blur(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """A shaken camera: a line of one direction within 45 degrees of horizontal."""
    length = (9.0, 14.0, 20.0, 27.0, 35.0)[severity] * _scale(rgb)
    angle = rng.uniform(-math.pi / 4, math.pi / 4)
    return _filter(rgb, _line_kernel(length, angle))


def _zoom_blur(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """The mean of 64 enlargements about the centre, up to a factor; a sum of doubled steps."""
    del rng
    factor = (1.06, 1.1, 1.15, 1.21, 1.28)[severity]
    height, width = rgb.shape[:2]
    centre = (width - 1) / 2, (height - 1) / 2
    image, step = _unit(rgb), factor ** (1 / 63)
    for _ in range(6):
        zoom = cv2.getRotationMatrix2D(centre, 0.0, step)
        enlarged = cv2.warpAffine(image, zoom, (width, height), borderMode=cv2.BORDER_REPLICATE)
        image = (image + enlarged) * np.float32(0.5)
        step *= step
    return _quantise(image)


def _elastic_transform(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """Smooth random displacements, of a few pixels over some tens of pixels."""
    deviation = (1.0, 1.8, 2.7, 3.7, 5.0)[severity] * _scale(rgb)
    shape = rgb.shape[:2]
    cell = max(2.0, 28.0 * _scale(rgb))
    coarse = tuple(max(2, round(side / cell)) + 1 for side in shape)
    nodes = _normal(rng, (*coarse, 2))
    shift = cv2.resize(nodes, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return _move(rgb, shift * np.float32(deviation))


def _color_quant(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """Few values per channel, from 5 bits down to 1; black and white stay."""
    del rng
    highest = 2 ** (5 - severity) - 1
    table = np.rint(np.rint(np.arange(256) / 255.0 * highest) * 255.0 / highest).astype(np.uint8)
    return table[rgb]


# Sensor and encoding.


def _gaussian_noise(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """Independent noise of every value."""
    deviation = (0.08, 0.12, 0.18, 0.26, 0.38)[severity]
    return _quantise(_unit(rgb) + np.float32(deviation) * _normal(rng, rgb.shape))


def _impulse_noise(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """Some values are black or white."""
    fraction = (0.03, 0.06, 0.09, 0.17, 0.27)[severity]
    chance = rng.random(rgb.shape, dtype=np.float32)
    noisy = rgb.copy()
    noisy[chance < fraction / 2] = 0
    noisy[chance > 1.0 - fraction / 2] = 255
    return noisy


def _shot_noise(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """Counts of photons: Poisson, with so many at full value."""
    photons = (60, 25, 12, 5, 3)[severity]
    counts = rng.poisson(_unit(rgb) * photons)
    return _quantise(counts.astype(np.float32) / np.float32(photons))


def _iso_noise(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """High gain: shot and read noise in linear light, with coarser blotches of colour."""
    gain = (0.004, 0.009, 0.018, 0.032, 0.055)[severity]
    light = _linear(rgb)
    grain = _normal(rng, rgb.shape[:2])[..., None]
    blotches = 2.5 * cv2.GaussianBlur(_normal(rng, rgb.shape), (0, 0), 1.0)
    deviation = np.sqrt(np.float32(gain) * light + np.float32(0.5 * gain) ** 2)
    return _encode(light + deviation * (0.8 * grain + 0.6 * blotches))


def _pixelate(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """A fraction of the resolution, enlarged to blocks."""
    del rng
    kept = (0.6, 0.5, 0.4, 0.3, 0.2)[severity]
    height, width = rgb.shape[:2]
    size = max(1, round(width * kept)), max(1, round(height * kept))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
    blocks = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(blocks, np.uint8)


def _jpeg_compression(rgb: Rgb, severity: int, rng: np.random.Generator) -> Rgb:
    """Low quality, colours at half the resolution."""
    del rng
    quality = (25, 18, 14, 10, 7)[severity]
    _, data = cv2.imencode('.jpg', rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None, 'it was encoded a moment ago'
    return np.ascontiguousarray(decoded[..., ::-1])


CORRUPTIONS: dict[str, Corruption] = {
    'brightness': _brightness,
    'dark': _dark,
    'fog': _fog,
    'frost': _frost,
    'snow': _snow,
    'contrast': _contrast,
    'defocus_blur': _defocus_blur,
    'glass_blur': _glass_blur,
    'motion_blur': _motion_blur,
    'zoom_blur': _zoom_blur,
    'elastic_transform': _elastic_transform,
    'color_quant': _color_quant,
    'gaussian_noise': _gaussian_noise,
    'impulse_noise': _impulse_noise,
    'shot_noise': _shot_noise,
    'iso_noise': _iso_noise,
    'pixelate': _pixelate,
    'jpeg_compression': _jpeg_compression,
}


# Values and sizes.


def _scale(rgb: Rgb) -> float:
    """Pixels of this image for one of a KITTI image."""
    return math.sqrt(rgb.shape[0] * rgb.shape[1] / REFERENCE_AREA_PX)


def _unit(rgb: Rgb) -> Image:
    return rgb.astype(np.float32) * np.float32(1 / 255)


def _quantise(image: Image) -> Rgb:
    """Values in [0, 1], clipped, to bytes."""
    return cv2.convertScaleAbs(np.maximum(image, 0.0), alpha=255.0)  # rounds and saturates


def _linear(rgb: Rgb) -> Image:
    table = (np.arange(256, dtype=np.float32) / 255.0) ** np.float32(_GAMMA)
    return table[rgb]


def _encode(light: Image) -> Rgb:
    """Linear light, clipped, as values of an image."""
    return _quantise(cv2.pow(np.maximum(light, 0.0), 1.0 / _GAMMA))


# Kernels and warps.


def _filter(rgb: Rgb, kernel: Image) -> Rgb:
    return np.asarray(cv2.filter2D(rgb, -1, kernel, borderType=cv2.BORDER_REFLECT_101))


def _blur(rgb: Rgb, sigma: float) -> Rgb:
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), max(sigma, 0.1)), np.uint8)


def _disk_kernel(radius: float) -> Image:
    """A disk of a radius in pixels, each pixel weighted by the part of it inside (8x8 samples)."""
    reach = math.ceil(radius - 0.5)
    samples = (np.arange(8 * (2 * reach + 1)) + 0.5) / 8.0 - reach - 0.5
    inside = (samples[:, None] ** 2 + samples[None, :] ** 2 <= radius**2).astype(np.float32)
    side = 2 * reach + 1
    kernel = inside.reshape(side, 8, side, 8).sum(axis=(1, 3))
    return kernel / kernel.sum() if kernel.any() else np.ones((1, 1), np.float32)


def _line_kernel(length: float, angle: float) -> Image:
    """A line of a length in pixels through the centre, its points spread bilinearly."""
    reach = math.ceil(length / 2) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    along = (np.arange(8 * reach) + 0.5) / (8 * reach) * length - length / 2
    x, y = reach + along * math.cos(angle), reach + along * math.sin(angle)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    for down in (0, 1):
        for right in (0, 1):
            weight = (1 - np.abs(x - left - right)) * (1 - np.abs(y - top - down))
            np.add.at(kernel, (top + down, left + right), weight)
    return kernel / kernel.sum()


def _move(rgb: Rgb, shift: Image) -> Rgb:
    """Sample an image at every pixel plus its shift (H, W, 2) in x and y, mirrored outside."""
    x = shift[..., 0] + np.arange(rgb.shape[1], dtype=np.float32)
    y = shift[..., 1] + np.arange(rgb.shape[0], dtype=np.float32)[:, None]
    return np.asarray(cv2.remap(rgb, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101))


# Random textures.


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Image:
    return rng.standard_normal(shape, dtype=np.float32)


def _fractal(
    rng: np.random.Generator, shape: tuple[int, int], wavelength: float, persistence: float
) -> Image:
    """Clouds (H, W) from 0 to 1: octaves of noise from a wavelength in pixels down to two pixels.

    `persistence` is the amplitude of an octave as a fraction of that of the one before.
    """
    height, width = shape
    clouds = np.zeros(shape, np.float32)
    amplitude = 1.0
    while wavelength >= 2.0:
        nodes = math.ceil(height / wavelength) + 3, math.ceil(width / wavelength) + 3
        noise = _normal(rng, nodes)
        # Nodes lie a wavelength apart whatever the size, the first one outside the image.
        zoom = np.array([[wavelength, 0, -wavelength], [0, wavelength, -wavelength]])
        clouds += np.float32(amplitude) * cv2.warpAffine(
            noise, zoom, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        amplitude *= persistence
        wavelength /= 2.0
    lowest, highest = float(clouds.min()), float(clouds.max())
    return (clouds - lowest) / np.float32(max(highest - lowest, 1e-6))


def _flakes(
    rng: np.random.Generator, shape: tuple[int, int], size: float, fraction: float
) -> Image:
    """Soft spots (H, W) of a size in pixels at random places, from 0 to 1 and brighter."""
    coarse = tuple(max(1, math.ceil(side / size)) for side in shape)
    chance = rng.random(coarse, dtype=np.float32)
    light = 1.0 + 2.0 * rng.random(coarse, dtype=np.float32)
    spots = np.where(chance < fraction, light, np.float32(0.0))
    return cv2.resize(spots, shape[::-1], interpolation=cv2.INTER_CUBIC).clip(0.0, None)


def _ferns(rng: np.random.Generator, shape: tuple[int, int]) -> Image:
    """Crystals of ice (H, W) from 0 to 1: needles with side branches at 60 degrees.

    They are drawn at half the reference size, whatever the image's.
    """
    scale = 0.5
    shrink = math.sqrt(scale**2 * REFERENCE_AREA_PX / (shape[0] * shape[1]))
    height, width = (max(1, round(side * shrink)) for side in shape)
    canvas = np.zeros((height, width), np.uint8)
    for _ in range(45):
        root = rng.uniform((0.0, 0.0), (width, height))
        length = rng.uniform(60.0, 240.0) * scale
        angle = rng.uniform(0.0, 2.0 * math.pi)
        light = int(rng.integers(110, 256))
        count = max(4, round(length / (7.0 * scale)))
        along = np.linspace(0.0, 1.0, count)
        direction = angle + rng.uniform(-0.6, 0.6) * along
        steps = np.stack([np.cos(direction), np.sin(direction)], axis=1) * length / count
        spine = root + np.cumsum(steps, axis=0)  # (count, 2)
        lines = [spine]
        for side in (-math.pi / 3, math.pi / 3):
            reach = 0.35 * length * (1.0 - along) * rng.uniform(0.5, 1.0, count)
            branch = np.stack([np.cos(direction + side), np.sin(direction + side)], axis=1)
            lines += list(np.stack([spine, spine + branch * reach[:, None]], axis=1))
        points = [np.rint(line * 16).astype(np.int32) for line in lines]
        cv2.polylines(canvas, points, False, light, 1, cv2.LINE_AA, 4)
    crystals = _unit(canvas)
    glow = cv2.GaussianBlur(crystals, (0, 0), 6.0 * scale)
    ferns = np.clip(0.8 * crystals + 0.7 * glow, 0.0, 1.0)
    flag = cv2.INTER_AREA if shrink > 1.0 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(ferns, shape[::-1], interpolation=flag), np.float32)
