"""An engine for the depth node that needs no weights: a wall 5 m away, fully trusted.

The parameter `checkpoint` names a text file of `key=value` words: `id`, `metric`, `depth`, `ms`
(time of one batch), `load_ms`, and `compile_ms` (for each new size of images; without it none is
needed, 'never' fails); '' gives the defaults.
"""

from dataclasses import dataclass, replace
from pathlib import Path
import sys
import time
from types import SimpleNamespace

import numpy as np

from psd_depth_ros.checkpoint import InputInfo
from psd_depth_ros.errors import CheckpointError, DeviceError
from psd_depth_ros.inference.cloud import build_cloud

DEFAULTS = {'id': 'wall', 'metric': 'yes', 'ms': '0', 'depth': '5', 'load_ms': '0'}


def say(*words):
    sys.stdout.write(' '.join(str(word) for word in words) + '\n')
    sys.stdout.flush()


def read(path):
    if not path:
        return dict(DEFAULTS)
    if not Path(path).is_file():
        raise CheckpointError(f'{path}: no such checkpoint file')
    text = Path(path).read_text()
    if not text.startswith('wall'):
        raise CheckpointError(f'{path}: is not a whole safetensors file')
    return {**DEFAULTS, **dict(word.split('=') for word in text.split()[1:])}


@dataclass
class FakeFrame:
    depth_m: np.ndarray
    confidence: np.ndarray
    camera: object
    rgb: np.ndarray
    factor: float
    problem: str = ''
    values: None = None

    def rescaled(self, scale):
        return replace(
            self, depth_m=self.depth_m * (scale.factor / self.factor), factor=scale.factor
        )

    def cloud(self, settings):
        return build_cloud(self.depth_m, self.confidence, self.rgb, self.camera, settings)


class FakeEngine:
    device = 'cpu'
    backend = 'fake'

    def __init__(self, path, pixel_budget=0):
        self.options = read(path)
        self.pixel_budget = pixel_budget or InputInfo().pixel_budget
        time.sleep(float(self.options['load_ms']) / 1e3)
        if self.options['id'] == 'broken':
            raise CheckpointError(f'{path}: tensor head.weight is missing')
        output = SimpleNamespace(metric=self.options['metric'] == 'yes', scale_sigma=0.15)
        info = SimpleNamespace(name='wall', input=InputInfo(), output=output, restriction='')
        self.checkpoint = SimpleNamespace(
            info=info, id=self.options['id'], path=path, affine=False
        )

        self.compiled = set()

    def is_ready(self, cameras):
        return 'compile_ms' not in self.options or self.compiled.issuperset(
            one.size for one in cameras
        )

    def prepare(self, cameras):
        for size in {one.size for one in cameras} - self.compiled:
            say('compiling for', size)
            if self.options['compile_ms'] == 'never':
                raise DeviceError('nothing can be compiled')
            time.sleep(float(self.options['compile_ms']) / 1e3)
            self.compiled.add(size)

    def warm_up(self, cameras):
        self.compiled |= {one.size for one in cameras}
        self.infer_batch([])

    def infer_batch(self, requests, *, scales=None, settings=None, full_size=True, moments=None):
        say('batch of', len(requests))
        time.sleep(float(self.options['ms']) / 1e3)
        return [
            self._frame(*one, scale.factor)
            for one, scale in zip(requests, scales or [], strict=True)
        ]

    def close(self):
        say('engine closed')

    def _frame(self, rgb, camera, factor):
        depth = np.full(rgb.shape[:2], factor * float(self.options['depth']), np.float32)
        problem = '' if np.isfinite(depth).any() else 'network wall gave no depth'
        return FakeFrame(depth, np.ones_like(depth), camera.rectified(), rgb, factor, problem)


class FakeFactory:
    def load(self, path, device, backend, pixel_budget):
        return FakeEngine(path, pixel_budget)

    def check(self, path):
        read(path)
