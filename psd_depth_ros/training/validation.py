"""How good a network is on held-out rendered frames, and how far its confidence can be trusted."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.networks import DepthModel
from psd_depth_ros.training.batches import Batch, validation_batches
from psd_depth_ros.training.recipe import WorldsRecipe
from psd_depth_ros.training.worlds import Frames

CLOSE = 0.223  # ln 1.25: "close" is within 25 %, the delta_1 of the depth literature


@dataclass(frozen=True)
class Scores:
    """Means over held-out frames; depth capped at 80 m as in the KITTI protocol."""

    abs_rel: float  # median-scaled per image
    abs_rel_metric: float  # unscaled
    delta1_metric: float
    far_recall: float  # share of sky and beyond that is recognised
    far_false: float  # share of finite depth taken for far

    def as_dict(self) -> dict[str, float]:
        """Rounded, for the checkpoint's description."""
        return {name: round(value, 5) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Calibration:
    """alpha and beta of sigma^2 = alpha^2 sigma_u^2 + beta^2."""

    gain: float = 1.0
    floor: float = 0.05


def validate(
    model: DepthModel, recipe: WorldsRecipe, frames: list[Frames]
) -> tuple[Scores, Calibration]:
    """Score a network on every held-out frame, and calibrate its confidence there."""
    rows, errors, sigmas = [], [], []
    for batch in validation_batches(recipe, frames):
        log_depth, sigma, far = predict(model, batch)
        ratio = batch.intrinsics[:, 0].view(-1, 1, 1, 1) / recipe.canonical_focal_px
        predicted = log_depth.exp() * ratio
        for i in range(len(predicted)):
            rows.append(_score(predicted[i], far[i], batch.depth_m[i], recipe.max_depth_m))
        known = torch.isfinite(batch.target)
        errors.append((log_depth - batch.target)[known].abs()[::7])
        sigmas.append(sigma[known][::7])
    means = torch.stack(rows).nanmean(dim=0).tolist()
    return Scores(*means), fit_confidence(torch.cat(errors), torch.cat(sigmas))


def _score(predicted: Tensor, far: Tensor, truth: Tensor, max_depth_m: float) -> Tensor:
    valid = truth < 80.0
    p, t = predicted[valid], truth[valid]
    scaled = p * (t.median() / p.median())
    sky = truth > max_depth_m
    return torch.stack(
        [
            ((scaled - t).abs() / t).mean(),
            ((p - t).abs() / t).mean(),
            (torch.maximum(p / t, t / p) < 1.25).float().mean(),
            (far[sky] > 0.5).float().mean(),
            (far[valid] > 0.5).float().mean(),
        ]
    )


def fit_confidence(errors: Tensor, sigma: Tensor) -> Calibration:
    """Choose alpha and beta so that c = P(|ln error| < 0.223) is the share that is right.

    The best Brier score over a grid; `errors` are |ln Z - ln Z*| of pixels, `sigma` their sigma_u.
    """
    right = (errors < CLOSE).float()
    best, result = float('inf'), Calibration()
    for gain in (0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0):
        for floor in (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2):
            spread = (gain**2 * sigma.square() + floor**2).sqrt()
            confidence = torch.erf(CLOSE / (spread * 2**0.5))
            brier = float((confidence - right).square().mean())
            if brier < best:
                best, result = brier, Calibration(gain, floor)
    return result


@torch.inference_mode()
def predict(model: DepthModel, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Log-depth, sigma and far probability (B, 1, H, W) of a batch, on the CPU."""
    device = next(model.parameters()).device
    image = model.normalise(batch.image).to(device, memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16):
        output = model(image, batch.intrinsics.to(device))
    size = batch.target.shape[-2:]
    maps = F.interpolate(torch.cat(output, 1), size, mode='bilinear', align_corners=False)
    log_depth, sigma, far = maps.cpu().split(1, dim=1)
    return log_depth, sigma, far
