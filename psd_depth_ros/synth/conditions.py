"""From linear light to the camera's bytes: weather, blur, exposure, noise, response."""

from __future__ import annotations

from dataclasses import dataclass

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
    motion_px: float
    rain: float
    grey: bool
    darkest: float  # mean below which the exposure does not follow


def draw_response(rng: np.random.Generator, condition: str) -> Response:
    """Draw a camera; night brings gain and noise, blur a soft or moving lens."""
    night, blur = condition == 'night', condition == 'blur'
    soft = bool(rng.random() < 0.5)
    return Response(
        exposure=float(np.exp(rng.normal(0.05, 0.25))),
        white=tuple(np.exp(rng.normal(0, 0.05, 3))),
        contrast=float(rng.uniform(1.0, 1.9)),
        saturation=float(rng.uniform(0.6, 1.4)),
        knee=float(rng.uniform(0.7, 1.0)),
        vignette=float(rng.uniform(0, 0.35)),
        noise=float(rng.uniform(0.03, 0.08) if night else rng.uniform(0.002, 0.018)),
        blur_px=float(rng.uniform(1.2, 2.8) if blur and soft else rng.uniform(0.25, 0.6)),
        motion_px=float(rng.uniform(4, 14) if blur and not soft else 0.0),
        rain=float(rng.uniform(0.4, 1.0) if condition == 'rain' else 0.0),
        grey=bool(rng.random() < 0.06),
        darkest=float(rng.uniform(0.04, 0.12) if night else 0.03),
    )


def expose(picture: Picture, response: Response, seed: tuple[int, int]) -> torch.Tensor:
    """Turn linear colour (H, W, 3) into the camera's uint8 RGB (H, W, 3)."""
    image = picture.colour.permute(2, 0, 1).unsqueeze(0)
    device = image.device
    generator = torch.Generator('cpu').manual_seed(seed[0] * 1000003 + seed[1])
    if response.rain:
        image = _add_rain(image, response.rain, generator)
    image = _blur(image.clamp(0, 4.0), response)
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
    if response.motion_px:
        length = int(response.motion_px) | 1
        image = _convolve(image, torch.full((length,), 1.0 / length, device=image.device), False)
    return image


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
