"""Rendered worlds on disk, and augmented batches of their frames.

Every aspect ratio of images has shards of its own: frames of several worlds in one safetensors
file, rendered once by several processes. A batch has windows of them, with changed colours and
canonical targets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import as_completed, ProcessPoolExecutor
from dataclasses import dataclass, replace
import json
import math
import multiprocessing
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from psd_depth_ros.augment.colour import degrade, jitter
from psd_depth_ros.augment.crops import centred_window, sample_window
from psd_depth_ros.checkpoint import pack, unpack
from psd_depth_ros.errors import SettingsError, TrainingError
from psd_depth_ros.files import make_folder, write_file
from psd_depth_ros.geometry import Camera
from psd_depth_ros.parsing import ARRAY_BYTES, ParseError, read_bytes
from psd_depth_ros.preprocess import choose_input_size
from psd_depth_ros.synth import RENDERER_VERSION, World, WorldSettings
from psd_depth_ros.training.recipe import WorldsRecipe

VALIDATION_SEED = 1_000_000
WORLDS_PER_SHARD = 24
FRAME_STEP = 9  # frames of one world are taken this far apart, so that they differ

# Aspect ratio (width / height), fraction of the frames, fraction of rooms among them.
SHAPES = ((3.25, 0.35, 0.2), (2.0, 0.25, 0.5), (1.333, 0.4, 0.75))
CONDITIONS = ('fog', 'rain', 'night', 'blur')


@dataclass(frozen=True)
class Shard:
    """Worlds to render into one file."""

    path: Path
    shape: tuple[int, int]  # height, width of the images
    seeds: tuple[int, ...]
    kinds: tuple[str, ...]
    conditions: tuple[str, ...]
    frames_per_world: int


@dataclass(frozen=True)
class Frames:
    """A loaded shard: rgb (N, H, W, 3) uint8, depth (N, H, W) float16, intrinsics (N, 4)."""

    rgb: Tensor
    depth: Tensor
    intrinsics: Tensor


def plan_shards(recipe: WorldsRecipe, folder: Path, *, validation: bool) -> list[Shard]:
    """The shards of a recipe, always the same for the same recipe.

    The name of a file contains everything that its content depends on, the version of the renderer
    among it, so that several recipes can share a folder. Raises SettingsError where training
    would reach the seeds of validation.
    """
    worlds = recipe.worlds
    frames = worlds.validation_frames if validation else worlds.frames
    seed = VALIDATION_SEED if validation else worlds.first_seed
    shards: list[Shard] = []
    for aspect, fraction, rooms in SHAPES:
        shape = image_size(recipe, aspect)
        count = max(1, round(frames * fraction / worlds.frames_per_world))
        for start in range(0, count, WORLDS_PER_SHARD):
            seeds = tuple(range(seed + start, seed + min(count, start + WORLDS_PER_SHARD)))
            name = f'{"val" if validation else "train"}_{shape[1]}x{shape[0]}_{seeds[0]}'
            draws = [_draw(s, rooms, worlds.clear_fraction) for s in seeds]
            kinds, conditions = zip(*draws, strict=True)
            size = f'{len(seeds)}x{worlds.frames_per_world}'
            drawn = f'{size}_clear{worlds.clear_fraction:g}_v{RENDERER_VERSION}'
            path = folder / f'{name}_{drawn}.safetensors'
            shards.append(Shard(path, shape, seeds, kinds, conditions, worlds.frames_per_world))
        seed += count
    if not validation and seed > VALIDATION_SEED:
        raise SettingsError(
            f'worlds.first_seed {worlds.first_seed} and worlds.frames {worlds.frames} reach seed '
            f'{seed - 1}, expected seeds below {VALIDATION_SEED}, where validation begins; '
            'lower one of them'
        )
    return shards


def image_size(recipe: WorldsRecipe, aspect: float) -> tuple[int, int]:
    """Height and width of the rendered images of an aspect ratio."""
    height = (recipe.pixel_budget / aspect) ** 0.5 * recipe.worlds.oversize
    return round(height / 8) * 8, round(height * aspect / 8) * 8


def render_shards(shards: list[Shard], processes: int, report: Callable[[int, int], None]) -> None:
    """Render the shards that are not on disk; `report(done, total)` after each."""
    missing = [shard for shard in shards if not shard.path.exists()]
    report(len(shards) - len(missing), len(shards))
    if not missing:
        return
    for shard in missing:
        make_folder(shard.path.parent)
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_one_thread) as pool:
        jobs = [pool.submit(_render, shard) for shard in missing]
        for done, job in enumerate(as_completed(jobs), start=len(shards) - len(missing) + 1):
            job.result()
            report(done, len(shards))


def load_shard(shard: Shard) -> Frames:
    """Read a shard. Raises TrainingError where it is damaged."""
    count = len(shard.seeds) * shard.frames_per_world
    try:
        tensors, _ = unpack(read_bytes(shard.path, ARRAY_BYTES))
        frames = Frames(tensors['rgb'], tensors['depth'], tensors['intrinsics'])
        shapes = [tuple(one.shape) for one in (frames.rgb, frames.depth, frames.intrinsics)]
        if shapes != [(count, *shard.shape, 3), (count, *shard.shape), (count, 4)]:
            raise ParseError(f'holds tensors of {shapes}')
    except (ParseError, KeyError) as error:
        raise TrainingError(
            f'rendered worlds {shard.path}: {error}; remove that file and start again: it is '
            'rendered anew'
        ) from error
    return frames


def _draw(seed: int, rooms: float, clear: float) -> tuple[str, str]:
    """The kind and the weather of a world."""
    rng = np.random.default_rng((seed, 77))
    kind = 'room' if rng.random() < rooms else 'street'
    condition = 'clear' if rng.random() < clear else str(rng.choice(CONDITIONS))
    if kind == 'room' and condition in ('fog', 'rain'):
        condition = 'clear'
    return kind, condition


def _one_thread() -> None:
    torch.set_num_threads(1)
    os.nice(5)


def _render(shard: Shard) -> None:
    rgb, depth, intrinsics = [], [], []
    height, width = shard.shape
    base = WorldSettings(width=width, height=height, viewpoint='anywhere')
    for seed, kind, condition in zip(shard.seeds, shard.kinds, shard.conditions, strict=True):
        world = World(seed, replace(base, kind=kind, condition=condition))
        camera = world.camera
        for index in range(shard.frames_per_world):
            frame = world.render(index * FRAME_STEP)
            rgb.append(frame.rgb)
            depth.append(frame.depth_m.half())
            intrinsics.append(torch.tensor([camera.fx, camera.fy, camera.cx, camera.cy]))
    tensors = {
        'rgb': torch.stack(rgb),
        'depth': torch.stack(depth),
        'intrinsics': torch.stack(intrinsics).float(),
    }
    metadata = {'seeds': json.dumps(shard.seeds), 'kinds': json.dumps(shard.kinds)}
    write_file(shard.path, pack(tensors, metadata))


@dataclass(frozen=True)
class WorldsBatch:
    """The data of one step."""

    image: Tensor  # (B, 3, H, W) RGB in [0, 1]
    intrinsics: Tensor  # (B, 4) fx fy cx cy in pixels of `image`
    target: Tensor  # (B, 1, H, W) u* = ln Z', NaN unknown, +Inf sky
    depth_m: Tensor  # (B, 1, H, W) metres, +Inf sky and beyond the farthest depth

    @property
    def image_augmented(self) -> Tensor:
        """(B, 1, 3, H, W): the image as the only frame, the input of networks."""
        return self.image[:, None]

    def to(self, device: torch.device) -> WorldsBatch:
        """The same batch on another device, images channels-last."""
        return WorldsBatch(
            self.image.to(device, memory_format=torch.channels_last),
            self.intrinsics.to(device),
            self.target.to(device),
            self.depth_m.to(device),
        )


def sample_batch(
    recipe: WorldsRecipe,
    focal_px: float,
    shards: list[Frames],
    step: int,
    rank: int = 0,
    processes: int = 1,
) -> WorldsBatch:
    """The `rank`-th of `processes` equal parts of a step's batch, all of one aspect ratio.

    Everything random is seeded by the recipe, the step and the place in the batch. `focal_px` is
    the canonical focal length of the network.
    """
    groups = _by_shape(shards)
    counts = np.array([sum(len(shard.rgb) for shard in group) for group in groups], dtype=float)
    chosen = np.random.default_rng((recipe.seed, 1, step)).choice(
        len(groups), p=counts / counts.sum()
    )
    height, width = groups[chosen][0].rgb.shape[1:3]
    output = choose_input_size(width, height, _sample_budget(recipe, step))
    part = recipe.batch // processes
    places = range(rank * part, (rank + 1) * part)
    rngs = [np.random.default_rng((recipe.seed, 2, step, place)) for place in places]
    items = [_sample_item(recipe, focal_px, groups[chosen], output, rng) for rng in rngs]
    return _collate(items)


def validation_batches(
    recipe: WorldsRecipe, focal_px: float, shards: list[Frames]
) -> Iterator[WorldsBatch]:
    """Give every frame once: the largest centred window, nothing changed."""
    for shard in shards:
        size = tuple(shard.rgb.shape[1:3])
        output = choose_input_size(size[1], size[0], recipe.pixel_budget)
        for start in range(0, len(shard.rgb), recipe.batch):
            items = [
                _item(recipe, focal_px, shard, i, output, None)
                for i in range(start, min(len(shard.rgb), start + recipe.batch))
            ]
            yield _collate(items)


def _by_shape(shards: list[Frames]) -> list[list[Frames]]:
    groups: dict[tuple[int, ...], list[Frames]] = {}
    for shard in shards:
        groups.setdefault(tuple(shard.rgb.shape[1:3]), []).append(shard)
    return list(groups.values())


def _sample_budget(recipe: WorldsRecipe, step: int) -> int:
    """Pixels of the inputs of a step."""
    reach = math.log(recipe.budget_jitter)
    rng = np.random.default_rng((recipe.seed, 3, step))
    return round(recipe.pixel_budget * math.exp(rng.uniform(-reach, reach)))


def _sample_item(
    recipe: WorldsRecipe,
    focal_px: float,
    shards: list[Frames],
    output: tuple[int, int],
    rng: np.random.Generator,
) -> WorldsBatch:
    counts = np.array([len(shard.rgb) for shard in shards], dtype=float)
    shard = shards[rng.choice(len(shards), p=counts / counts.sum())]
    return _item(recipe, focal_px, shard, int(rng.integers(len(shard.rgb))), output, rng)


def _item(
    recipe: WorldsRecipe,
    focal_px: float,
    shard: Frames,
    index: int,
    output: tuple[int, int],
    rng: np.random.Generator | None,
) -> WorldsBatch:
    rgb = shard.rgb[index].numpy()
    depth = shard.depth[index].float().numpy()
    height, width = depth.shape
    fx, fy, cx, cy = (float(v) for v in shard.intrinsics[index])
    if rng is None:
        window = centred_window((height, width), output)
    else:
        window = sample_window(rng, (height, width), output, recipe.smallest_window)
    rgb, depth = window.image(rgb), window.depth(depth)
    camera = window.camera(Camera(width, height, fx, fy, cx, cy))
    if rng is not None:
        rgb = degrade(rng, jitter(rng, rgb))
    image = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1).float() / 255.0
    depth_m = torch.from_numpy(depth)[None]
    intrinsics = torch.tensor([camera.fx, camera.fy, camera.cx, camera.cy])
    depth_m = torch.where(depth_m > recipe.max_depth_m, torch.inf, depth_m)
    target = canonical_target(recipe, focal_px, depth_m, camera.fx)
    return WorldsBatch(image, intrinsics, target, depth_m)


def canonical_target(recipe: WorldsRecipe, focal_px: float, depth_m: Tensor, fx: float) -> Tensor:
    """u* = ln(Z f_c / fx): +Inf beyond the farthest depth, NaN where Z is unknown."""
    target = (depth_m * (focal_px / fx)).log()
    return torch.where(depth_m > recipe.max_depth_m, torch.inf, target)


def _collate(items: list[WorldsBatch]) -> WorldsBatch:
    return WorldsBatch(
        torch.stack([item.image for item in items]),
        torch.stack([item.intrinsics for item in items]),
        torch.stack([item.target for item in items]),
        torch.stack([item.depth_m for item in items]),
    )
