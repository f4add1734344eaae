"""Batches from rendered frames: windows, colours and canonical targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from psd_depth_ros.augment.colour import degrade, jitter
from psd_depth_ros.augment.crops import centred_window, draw_window
from psd_depth_ros.geometry import Camera
from psd_depth_ros.preprocess import choose_input_size
from psd_depth_ros.training.recipe import WorldsRecipe
from psd_depth_ros.training.worlds import Frames


@dataclass(frozen=True)
class Batch:
    """What one step learns from."""

    image: Tensor  # (B, 3, H, W) RGB in [0, 1]
    intrinsics: Tensor  # (B, 4) fx fy cx cy in pixels of `image`
    target: Tensor  # (B, 1, H, W) u* = ln Z', NaN unknown, +Inf far
    depth_m: Tensor  # (B, 1, H, W) metres

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device, images in the layout that convolutions like."""
        return Batch(
            self.image.to(device, memory_format=torch.channels_last),
            self.intrinsics.to(device),
            self.target.to(device),
            self.depth_m.to(device),
        )


def draw_batch(
    recipe: WorldsRecipe, shards: list[Frames], step: int, rank: int = 0, processes: int = 1
) -> Batch:
    """The `rank`-th of `processes` equal parts of a step's batch, all of one shape of picture.

    Everything drawn is seeded by the recipe, the step and the place in the batch.
    """
    groups = _by_shape(shards)
    shares = np.array([sum(len(shard.rgb) for shard in group) for group in groups], dtype=float)
    chosen = np.random.default_rng((recipe.seed, 1, step)).choice(
        len(groups), p=shares / shares.sum()
    )
    part = recipe.batch // processes
    items = [
        _draw_item(recipe, groups[chosen], np.random.default_rng((recipe.seed, 2, step, place)))
        for place in range(rank * part, (rank + 1) * part)
    ]
    return _collate(items)


def validation_batches(recipe: WorldsRecipe, shards: list[Frames]) -> Iterator[Batch]:
    """Give every frame once: the largest centred window, nothing changed."""
    for shard in shards:
        size = tuple(shard.rgb.shape[1:3])
        output = choose_input_size(size[1], size[0], recipe.pixel_budget)
        for start in range(0, len(shard.rgb), recipe.batch):
            items = [
                _item(recipe, shard, i, output, None)
                for i in range(start, min(len(shard.rgb), start + recipe.batch))
            ]
            yield _collate(items)


def _by_shape(shards: list[Frames]) -> list[list[Frames]]:
    groups: dict[tuple[int, ...], list[Frames]] = {}
    for shard in shards:
        groups.setdefault(tuple(shard.rgb.shape[1:3]), []).append(shard)
    return list(groups.values())


def _draw_item(recipe: WorldsRecipe, shards: list[Frames], rng: np.random.Generator) -> Batch:
    height, width = shards[0].rgb.shape[1:3]
    output = choose_input_size(width, height, recipe.pixel_budget)
    counts = np.array([len(shard.rgb) for shard in shards], dtype=float)
    shard = shards[rng.choice(len(shards), p=counts / counts.sum())]
    return _item(recipe, shard, int(rng.integers(len(shard.rgb))), output, rng)


def _item(
    recipe: WorldsRecipe,
    shard: Frames,
    index: int,
    output: tuple[int, int],
    rng: np.random.Generator | None,
) -> Batch:
    rgb = shard.rgb[index].numpy()
    depth = shard.depth[index].float().numpy()
    height, width = depth.shape
    fx, fy, cx, cy = (float(v) for v in shard.intrinsics[index])
    if rng is None:
        window = centred_window((height, width), output)
    else:
        window = draw_window(rng, (height, width), output, recipe.smallest_window)
    rgb, depth = window.image(rgb), window.depth(depth)
    camera = window.camera(Camera(width, height, fx, fy, cx, cy))
    if rng is not None:
        rgb = degrade(rng, jitter(rng, rgb))
    image = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1).float() / 255.0
    depth_m = torch.from_numpy(depth)[None]
    intrinsics = torch.tensor([camera.fx, camera.fy, camera.cx, camera.cy])
    target = canonical_target(recipe, depth_m, camera.fx)
    return Batch(image, intrinsics, target, depth_m)


def canonical_target(recipe: WorldsRecipe, depth_m: Tensor, fx: float) -> Tensor:
    """u* = ln(Z f_c / fx): +Inf beyond the farthest depth, NaN where Z is unknown."""
    target = (depth_m * (recipe.canonical_focal_px / fx)).log()
    return torch.where(depth_m > recipe.max_depth_m, torch.inf, target)


def _collate(items: list[Batch]) -> Batch:
    return Batch(
        torch.stack([item.image for item in items]),
        torch.stack([item.intrinsics for item in items]),
        torch.stack([item.target for item in items]),
        torch.stack([item.depth_m for item in items]),
    )
