"""Response of a camera: blur, glare, exposure, colour and noise make bytes of linear light."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
import torch

from psd_depth_ros.synth.render import Picture


@dataclass(frozen=True)
class Response:
    """One camera's exposure, colour and noise, and the weather it looks through."""

    exposure: float
    white: tuple[float, float, float]
    contrast: float
    saturation: float
    knee: float  # where highlights begin to be held back; 1 clips them
    vignette: float
    noise: float
    blur_px: float
    motion_px: tuple[float, float]  # how far the image moves while it is exposed
    rain: float
    grey: bool
    darkest: float  # mean below which the exposure does not follow
    glare: float = 0.0  # fraction of the light of bright places that the lens spreads


def sample_response(rng: np.random.Generator, condition: str, held: bool = False) -> Response:
    """Sample a camera; night brings gain and noise, blur a soft lens or motion, as a hand may."""
    night, blur = condition == 'night', condition == 'blur'
    soft = bool(rng.random() < 0.5)
    gain = night or rng.random() < 0.1
    shift, along = 0.0, rng.uniform(0, math.pi)
    if blur and not soft:
        shift, along = rng.uniform(4, 14), rng.normal(0, 0.5)
    elif rng.random() < (0.25 if held else 0.06):
        shift = rng.uniform(1.5, 5)
    cast = 0.09 if rng.random() < 0.2 else 0.05
    return Response(
        exposure=float(np.exp(rng.normal(0.05, 0.3))),
        white=tuple(np.exp(rng.normal(0, cast, 3))),
        contrast=float(rng.uniform(1.0, 1.9)),
        saturation=float(rng.uniform(0.6, 1.4)),
        knee=float(rng.uniform(0.7, 1.0)),
        vignette=float(rng.uniform(0, 0.35)),
        noise=float(rng.uniform(0.02, 0.08) if gain else rng.uniform(0.002, 0.018)),
        blur_px=float(rng.uniform(1.2, 2.8) if blur and soft else rng.uniform(0.25, 0.6)),
        motion_px=(float(shift * math.cos(along)), float(shift * math.sin(along))),
        rain=float(rng.uniform(0.4, 1.0) if condition == 'rain' else 0.0),
        grey=bool(rng.random() < 0.06),
        darkest=float(rng.uniform(0.04, 0.12) if night else 0.03),
        glare=float(rng.uniform(0.02, 0.25) if rng.random() < 0.4 else 0.0),
    )


def expose(picture: Picture, response: Response, seed: tuple[int, int]) -> torch.Tensor:
    """Turn linear colour (H, W, 3) into the camera's uint8 RGB (H, W, 3)."""
    image = picture.colour.permute(2, 0, 1).unsqueeze(0)
    device = image.device
    generator = torch.Generator('cpu').manual_seed(seed[0] * 1000003 + seed[1])
    if response.rain:
        image = _add_rain(image, response.rain, generator)
    image = image.clamp(0, 6.0)
    if response.glare:
        image = _spread(image, response.glare)
    image = _blur(image.clamp(max=4.0), response)
    height, width = image.shape[-2:]
    # Meters like a camera: highlights count little, so streets in shade are not drowned by sky.
    mean = image.clamp(max=1.0).mean().clamp(min=response.darkest)
    image = image * ((0.4 ** (2.2 / response.contrast) / mean) ** 0.85)
    image = image * (response.exposure * torch.tensor(response.white, device=device)).view(3, 1, 1)
    y = torch.linspace(-1, 1, height, device=device).unsqueeze(1)
    x = torch.linspace(-1, 1, width, device=device)
    image = image * (1 - response.vignette * 0.5 * (x * x + y * y))
    grey = (image[:, 0:1] + image[:, 1:2] + image[:, 2:3]) / 3
    image = grey + (image - grey) * (0.0 if response.grey else response.saturation)
    # A shoulder may keep highlights from clipping at once; then the display's gamma.
    image = image.clamp(min=0)
    over, room = (image - response.knee).clamp(min=0), 1.001 - response.knee
    image = image.clamp(max=response.knee) + room * over / (over + room)
    image = image.clamp(1e-5, 1) ** (response.contrast / 2.2)
    noise = torch.randn((1, 3, height, width), generator=generator).to(device)
    image = image + noise * response.noise * (1.2 - image)
    return (image[0].clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(1, 2, 0).contiguous()


def _blur(image: torch.Tensor, response: Response) -> torch.Tensor:
    radius = max(1, int(2.5 * response.blur_px + 0.5))
    at = torch.arange(-radius, radius + 1, dtype=torch.float32, device=image.device)
    kernel = torch.exp(-0.5 * (at / response.blur_px) ** 2)
    image = _convolve(image, kernel / kernel.sum(), vertical=True)
    image = _convolve(image, kernel / kernel.sum(), vertical=False)
    return _smear(image, response.motion_px) if any(response.motion_px) else image


def _smear(image: torch.Tensor, motion_px: tuple[float, float]) -> torch.Tensor:
    """Mean of the image along a straight motion (x, y) of some pixels."""
    steps = max(2, math.ceil(max(abs(m) for m in motion_px)) + 1)
    height, width = image.shape[-2:]
    reach = [math.ceil(abs(m) / 2) for m in motion_px]
    pad = (reach[0], reach[0], reach[1], reach[1])
    padded = torch.nn.functional.pad(image, pad, mode='replicate')
    total = torch.zeros_like(image)
    for part in np.linspace(-0.5, 0.5, steps):
        left, top = (r + round(part * m) for r, m in zip(reach, motion_px, strict=True))
        total = total + padded[..., top : top + height, left : left + width]
    return total / steps


def _spread(image: torch.Tensor, fraction: float) -> torch.Tensor:
    """Add a veil about places brighter than the sensor can hold."""
    size = max(2, max(image.shape[-2:]) // 24)
    over = (image - 1.0).clamp(min=0)
    small = torch.nn.functional.avg_pool2d(over, size, ceil_mode=True)
    small = torch.nn.functional.avg_pool2d(small, 3, stride=1, padding=1)
    shape = image.shape[-2:]
    veil = torch.nn.functional.interpolate(small, shape, mode='bilinear', align_corners=False)
    return image + fraction * veil


def _convolve(image: torch.Tensor, kernel: torch.Tensor, vertical: bool) -> torch.Tensor:
    half = len(kernel) // 2
    shape, pad = ((-1, 1), (0, 0, half, half)) if vertical else ((1, -1), (half, half, 0, 0))
    weight = kernel.view(1, 1, *shape).expand(3, 1, -1, -1)
    padded = torch.nn.functional.pad(image, pad, mode='replicate')
    return torch.nn.functional.conv2d(padded, weight.contiguous(), groups=3)


def _add_rain(image: torch.Tensor, amount: float, generator: torch.Generator) -> torch.Tensor:
    height, width = image.shape[-2:]
    drops = (torch.rand((1, 1, height, width), generator=generator) < 0.004 * amount).float()
    length = max(3, height // 12) | 1
    weight = torch.ones(1, 1, length, 1) * 0.35
    streaks = torch.nn.functional.conv2d(drops, weight, padding=(length // 2, 0))
    return image + streaks.to(image.device) * 0.35
