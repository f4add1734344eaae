"""The network alone: milliseconds per image for each preset, backend and precision.

Weights are random, which changes nothing about the time.
"""

from __future__ import annotations

from collections.abc import Callable
import gc
from typing import Any

import numpy as np
from timing import measure
import torch

from psd_depth_ros.inference.backends import Backend, OnnxBackend, OpenVinoBackend
from psd_depth_ros.inference.choose import convert_here
from psd_depth_ros.inference.conversion import Convert
from psd_depth_ros.inference.torch_backend import TorchBackend
from psd_depth_ros.networks import DepthModel, preset
from psd_depth_ros.networks.depth_model import measure_complexity
from psd_depth_ros.preprocess import choose_input_size

HEIGHT, WIDTH = 192, 640  # without --pixel-budget
PRESETS = ('lite', 'base')
Maker = Callable[[DepthModel], Backend]


def measure_networks(quick: bool, pixel_budget: int = 0) -> list[dict[str, Any]]:
    """Rows of preset, backend, precision and times, for a wide image of at most so many pixels."""
    size = choose_input_size(10 * WIDTH, 10 * HEIGHT, pixel_budget or HEIGHT * WIDTH)
    rows = []
    for name in PRESETS[:1] if quick else PRESETS:
        complexity = measure_complexity(_build(name), *size)
        for (backend, precision), make in _makers().items():
            row = {
                'preset': name,
                'input': f'{size[1]}x{size[0]}',
                'parameters_m': round(complexity.parameters / 1e6, 2),
                'gmac': round(complexity.macs / 1e9, 2),
                'backend': backend,
                'precision': precision,
            }
            rows.append(_measure(make, name, size, row, 1.0 if quick else 5.0))
    return rows


def _makers() -> dict[tuple[str, str], Maker]:
    """Every backend and precision that this machine may have."""
    makers: dict[tuple[str, str], Maker] = {
        ('torch', 'f32'): lambda model: TorchBackend(model, 'cpu', half=False),
        ('torch', 'bf16 where in hardware'): lambda model: TorchBackend(model, 'cpu'),
        ('openvino', 'f32'): lambda model: OpenVinoBackend(_convert(model), half=False),
        ('openvino', 'bf16 where in hardware'): lambda model: OpenVinoBackend(_convert(model)),
        ('onnxruntime', 'f32'): lambda model: OnnxBackend(_convert(model)),
    }
    if torch.cuda.is_available():
        makers[('torch cuda', 'f16')] = lambda model: TorchBackend(model, 'cuda')
    return makers


def example(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (1, 3, H, W) and its intrinsics (1, 4), as a backend of a CPU takes them."""
    image = np.random.default_rng(0).standard_normal((1, 3, height, width)).astype(np.float32)
    return image, np.array([[370.0, 370.0, 320.0, 96.0]], np.float32)


def _measure(
    make: Maker, name: str, size: tuple[int, int], row: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """Time one backend; a library that is not installed gives a row that says so."""
    try:
        backend = make(_build(name))
    except ImportError as error:
        return {**row, 'median_ms': None, 'note': str(error)}
    image, intrinsics = example(*size)
    if 'cuda' in row['backend']:
        given = [torch.from_numpy(one).cuda() for one in (image, intrinsics)]
        timing = measure(lambda: backend.run(*given).cpu(), seconds)
    else:
        timing = measure(lambda: backend.run(image, intrinsics), seconds)
    backend.close()
    gc.collect()
    return {**timing.row(**row), 'note': ''}


def _convert(model: DepthModel) -> Convert:
    return convert_here(lambda: model)


def _build(name: str) -> DepthModel:
    return DepthModel(preset(name)).eval()
