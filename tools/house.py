"""Print the measures of the layout: files, lengths, settings, and what one image crosses.

    python -m tools.house

- Python files of the package and their median length.
- Settings of the self-supervised recipe `psd`: of the run, of the description of the data, of the
  terms.
- Files that an image crosses in depth_node from its callback to the publisher (`image_path`).
- Files that an image of a bag crosses while fine-tuning, from its record to the gradient. Counted
  in steady state, as `image_path` does: opening the bag, settings, networks and other sensors are
  not part of it.
- Files of the package that a new term with a teacher touches: test/objectives/test_new_term.py
  adds one from a file of its own, with one change of a recipe.
"""

from __future__ import annotations

from pathlib import Path
import statistics
import sys
import tempfile
from types import FrameType
from typing import Any

import torch

import psd_depth_ros
from psd_depth_ros.checkpoint import default_checkpoint, load_checkpoint
from psd_depth_ros.config import specs
from psd_depth_ros.data.bags import BagReader, BagWriter
from psd_depth_ros.data.triplets import cache, prepare
from psd_depth_ros.replay.rendering import write_world
from psd_depth_ros.synth import World, WorldSettings
from psd_depth_ros.training.recipe import (
    change_recipe,
    DataSettings,
    find_recipe,
    read_recipe,
    VideoRecipe,
)
from psd_depth_ros.training.video_task import VideoTask
from tools.image_path import trace_image

PACKAGE = Path(psd_depth_ros.__file__).parent
FIRST_STEADY = 3  # frames after which the reader has begun
SENSORS = ('image', 'camera_info')


def main() -> int:
    """Print everything; returns the exit code."""
    files = sorted(PACKAGE.rglob('*.py'))
    lengths = [len(path.read_text(encoding='utf-8').splitlines()) for path in files]
    print(f'Python files of the package: {len(files)}')
    print(f'median length: {statistics.median(lengths):.0f} lines, longest {max(lengths)}')
    recipe = read_recipe(find_recipe('psd'))
    data = len(specs(DataSettings))
    print(f'settings of the run: {len(specs(VideoRecipe)) - data}')
    print(f'settings of the description of the data: {data}')
    of_terms = sum(len(specs(type(term.settings))) for term in recipe.objective)
    print(f'terms of recipe psd: {len(recipe.objective)}, with {of_terms} settings')
    for title, crossed in (
        ('an image crosses from callback to publisher', trace_image(['depth'])),
        ('an image of a bag crosses to the gradient', trace_training()),
    ):
        print(f'{title}: {len(crossed)} files')
        print(''.join(f'  {name}\n' for name in crossed), end='')
    return 0


def trace_training() -> list[str]:
    """Return the files that an image of a bag crosses while fine-tuning, in order of first use."""
    tracer = _Tracer()
    with tempfile.TemporaryDirectory() as folder:
        bag = _write_bag(Path(folder))
        recipe = change_recipe(
            read_recipe(find_recipe('finetune')),
            {
                'data.paths': [str(bag)], 'batch': 2, 'pixel_budget': 6144,
                'data.triplets.held_out': 0.3, 'data.triplets.minimum_parallax': 0.1,
                'objective.patch.fraction': 1.0, 'data.cache': folder,
            },
            'trace',
        )  # fmt: skip
        assert isinstance(recipe, VideoRecipe)
        start = load_checkpoint(default_checkpoint())
        torch.set_num_threads(1)  # all of it in this thread, which is traced
        sys.setprofile(tracer)
        try:
            task = VideoTask.from_recipe(recipe, start, lambda done, total: None)
            task.prepare(0.9)
            terms = task.losses(task.module, task.batch(1, 0, 1), 0.9)
            tracer.inside = 1
            torch.stack(list(terms.values())).sum().backward()
        finally:
            sys.setprofile(None)
    return list(tracer.files)


class _Tracer:
    """A profile function: files that run code inside of what an image passes through."""

    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self.inside = 0
        self._frames = 0
        self._steps = {
            prepare._choose.__code__,
            VideoTask.batch.__code__,
            VideoTask.losses.__code__,
        }

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        if event == 'return' and code is cache.FrameWriter.write.__code__:
            self._frames += 1
            self.inside += self._frames == FIRST_STEADY
        elif event == 'call' and code is cache.FrameWriter.finish.__code__:
            self.inside -= 1
        elif code in self._steps and event in ('call', 'return'):
            self.inside += 1 if event == 'call' else -1
        path = Path(code.co_filename)
        if event == 'call' and self.inside and path.is_relative_to(PACKAGE):
            self.files.setdefault(path.relative_to(PACKAGE).as_posix())


def _write_bag(folder: Path) -> Path:
    """A bag of a rendered drive with nothing but images and their calibration."""
    whole, plain = folder / 'whole.mcap', folder / 'plain.mcap'
    write_world(World(3, WorldSettings(width=96, height=64, frame_rate_hz=10.0)), whole, 14)
    with BagReader(whole) as reader, BagWriter(plain) as writer:
        for one in reader.messages():
            if any(sensor in one.topic for sensor in SENSORS):
                msgtype = reader.topics[one.topic].msgtype
                writer.write_raw(one.topic, msgtype, one.cdr, one.timestamp_ns)
    return plain


if __name__ == '__main__':
    sys.exit(main())
