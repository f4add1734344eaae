"""How well the multi-view filter of SS-MDE finds what moves, where the truth is known.

    python benchmarks/movers.py [--seeds 7 8 9] [--gaps 1 2 3] [--pictures FOLDER]

Streets with ten moving objects are rendered. The dynamic mask is compared with the exact mask of
motion over pixels nearer than 60 m, poses being exact. Three kinds of depth are looked at: the
exact one; that of the default weights, scaled by the median; and the exact one with all movers at
a half or four times their distance, as a network learns them that takes them for static. The last
is also compared with the depth of the default weights as pseudo-depth, up to scale and shift
(`prior`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from timing import print_table
import torch
from torch import Tensor

from psd_depth_ros.checkpoint import default_checkpoint, load_checkpoint
from psd_depth_ros.geometry.pose import relative
from psd_depth_ros.geometry.warp import camera_matrix
from psd_depth_ros.losses.multi_view import multi_view_masks, Thresholds
from psd_depth_ros.networks import load_model
from psd_depth_ros.objectives.base import Input, predict
from psd_depth_ros.objectives.ss_mde import disagreement, DYNAMIC, NOISY, STATIC
from psd_depth_ros.synth import SynthFrame, World, WorldSettings
from psd_depth_ros.visualisation import draw_regions, draw_tiles, write_picture

FRAMES = 8
FARTHEST_M, SKY_M = 60.0, 1000.0
DRIFTS = (0.5, 4.0)  # of a mover's distance
STREET = WorldSettings(kind='street', width=448, height=128, focal_px=280.0, moving_objects=10)
TRUTH = (250, 220, 0)


class Street:
    """A rendered street, its exact depth, and that of the default weights."""

    def __init__(self, seed: int) -> None:
        world = World(seed, STREET)
        self.frames = [world.render(index) for index in range(FRAMES)]
        camera = world.camera
        intrinsics = torch.tensor([[camera.fx, camera.fy, camera.cx, camera.cy]])
        self.K = camera_matrix(intrinsics)
        self.exact = [one.depth_m.clamp(max=SKY_M)[None, None] for one in self.frames]
        checkpoint = load_checkpoint(default_checkpoint())
        model, focal_px = load_model(checkpoint), checkpoint.info.output.canonical_focal_px
        with torch.no_grad():
            self.network = [
                predict(model, Input(one.rgb.permute(2, 0, 1)[None], intrinsics), focal_px).depth
                for one in self.frames
            ]

    def poses(self, target: int, gap: int) -> Tensor:
        """T_source_target of both sources (2, 1, 4, 4)."""
        to = self.frames[target].T_world_camera
        sources = (self.frames[target + step].T_world_camera for step in (-gap, gap))
        return torch.from_numpy(np.stack([relative(one, to)[None] for one in sources])).float()

    def moving(self, target: int) -> Tensor:
        """(1, 1, H, W)."""
        return self.frames[target].moving[None, None]

    def scaled(self, target: int) -> list[Tensor]:
        """Depth of the default weights of all frames, in the metres of one."""
        counted = self.exact[target] < FARTHEST_M
        scale = (self.exact[target] / self.network[target])[counted].median()
        return [scale * one for one in self.network]

    def masks(self, gap: int) -> Iterator[tuple[int, str, str, Tensor, Tensor]]:
        """Frame, kind of depth, what finds movers, the mask found, and the pixels that count."""
        for target in range(gap, FRAMES - gap):
            counted = self.exact[target] < FARTHEST_M
            for name, depths in (('exact', self.exact), ('lite', self.scaled(target))):
                for limit in (0.05, 0.10, 0.15):
                    found = self.look(depths, target, gap, Thresholds(dynamic=limit))
                    yield target, name, f'views, D > {limit:.2f}', found, counted
            for drift in DRIFTS:
                drifted = [
                    torch.where(frame.moving, drift * depth, depth)
                    for frame, depth in zip(self.frames, self.exact, strict=True)
                ]
                name = f'movers at {drift:g} of Z'
                yield target, name, 'views, D > 0.15', self.look(drifted, target, gap), counted
                everywhere = torch.ones_like(counted)
                prior = 1.0 / self.network[target]
                for limit in (0.25, 0.35, 0.50):
                    found = disagreement(drifted[target], prior, everywhere, limit)
                    yield target, name, f'prior, {limit:.2f}', found, counted

    def look(
        self, depths: list[Tensor], target: int, gap: int, limits: Thresholds | None = None
    ) -> Tensor:
        """The dynamic mask."""
        others = torch.stack([depths[target - gap], depths[target + gap]])
        limits = limits or Thresholds()
        return multi_view_masks(
            depths[target], others, self.poses(target, gap), self.K, limits
        ).dynamic


def draw(street: Street, folder: Path, seed: int) -> None:
    """Write the image with its movers, and the masks of the default weights' depth."""
    rows = []
    for target in (2, 5):
        depths = street.scaled(target)
        masks = multi_view_masks(
            depths[target],
            torch.stack([depths[target - 2], depths[target + 2]]),
            street.poses(target, 2),
            street.K,
        )
        frame: SynthFrame = street.frames[target]
        image = frame.rgb.numpy()
        rows.append([
            draw_regions(image, [(frame.moving.numpy(), TRUTH)]),
            draw_regions(image, [
                (mask[0, 0].numpy(), colour)
                for mask, colour in zip(masks[:3], (STATIC, DYNAMIC, NOISY), strict=True)
            ]),
        ])  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_picture(folder / f'street_{seed}.png', draw_tiles(rows, STREET.height, STREET.width))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--seeds', type=int, nargs='+', default=[7, 8, 9])
    parser.add_argument('--gaps', type=int, nargs='+', default=[1, 2, 3], help='frames of 0.1 s')
    parser.add_argument('--pictures', type=Path, help='folder for pictures of the masks')
    options = parser.parse_args()
    counts: dict[tuple[int, str, str], list[int]] = {}
    for seed in options.seeds:
        street = Street(seed)
        if options.pictures:
            draw(street, options.pictures, seed)
        for gap in options.gaps:
            for target, depth, by, found, counted in street.masks(gap):
                truth = street.moving(target)
                total = counts.setdefault((gap, depth, by), [0, 0, 0])
                for index, mask in enumerate((found & truth, found, truth)):
                    total[index] += int((mask & counted).sum())
    rows = [
        {
            'frames apart': gap,
            'depth': depth,
            'found by': by,
            'precision': both / max(found, 1),
            'recall': both / max(truth, 1),
        }
        for (gap, depth, by), (both, found, truth) in sorted(counts.items())
    ]
    print_table(f'streets {options.seeds}', rows)


if __name__ == '__main__':
    main()
