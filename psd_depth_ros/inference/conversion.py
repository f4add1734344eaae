"""Networks in the form that other libraries read, made in this process or in one aside.

Converting is seconds of Python, in which every other thread waits for its turn: beside it an image
takes up to 600 ms instead of 5. So an engine that is loaded beside one at work converts aside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
import contextlib
import io
import logging
import os
from pathlib import Path
import subprocess
import sys
import tempfile
from typing import Any
import warnings

import torch
from torch import nn, Tensor

from psd_depth_ros.checkpoint import CheckpointInfo, save_checkpoint
from psd_depth_ros.errors import DeviceError
from psd_depth_ros.networks import DepthModel

Shape = tuple[int, ...]  # of the image: (B, 3, H, W)
# From a format and a shape to the network in parts: `openvino` gives openvino.Models of the stem
# and the rest, `onnx` the bytes of one model.
Convert = Callable[[str, Shape], tuple[Any, ...]]
WEIGHTS = 'weights.safetensors'
_OPENVINO, _ONNX = ('stem.xml', 'rest.xml'), 'maps.onnx'
_PROGRAM = 'psd_depth_ros.inference.conversion_process'


class MapsModel(nn.Module):
    """A depth network whose three maps are one tensor, so that one download takes them all."""

    def __init__(self, model: DepthModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, intrinsics: Tensor) -> Tensor:
        """See `backends.Backend.run`."""
        return torch.cat(self.model(image, intrinsics), dim=1)


class StemModel(nn.Module):
    """The part of a depth network that stays in float32."""

    def __init__(self, model: DepthModel) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, image: Tensor) -> Tensor:
        """See `Encoder.stem`."""
        return self.encoder.stem(image)


class RestModel(nn.Module):
    """What comes after the stem, with one tensor of maps."""

    def __init__(self, model: DepthModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, stem: Tensor, intrinsics: Tensor) -> Tensor:
        """The stem's output and fx fy cx cy (B, 4) to maps as in `backends.Backend.run`."""
        maps = self.model.encoder.maps(stem)
        return torch.cat(self.model.read(maps, intrinsics), dim=1)


def convert_here(model: DepthModel) -> Convert:
    """Convert in this process."""

    def convert(kind: str, shape: Shape) -> tuple[Any, ...]:
        image, intrinsics = _example(shape)
        if kind == 'onnx':
            return (_to_onnx(MapsModel(model).eval(), image, intrinsics),)
        stem, rest = StemModel(model).eval(), RestModel(model).eval()
        with torch.no_grad():
            between = stem(image)
        return _to_openvino(stem, image), _to_openvino(rest, between, intrinsics)

    return convert


def convert_aside(model: DepthModel, info: CheckpointInfo) -> Convert:
    """Convert in a process of its own, which stands back for this one.

    Raises DeviceError, with what it said, where it fails.
    """

    def convert(kind: str, shape: Shape) -> tuple[Any, ...]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save_checkpoint(folder / WEIGHTS, info, model.state_dict())
            _run_aside(folder, kind, shape)
            return _read(folder, kind)

    return convert


def write_converted(parts: tuple[Any, ...], kind: str, folder: Path) -> None:
    """Put a converted network into files, for the process that waits for it."""
    if kind == 'onnx':
        (folder / _ONNX).write_bytes(parts[0])
        return
    import openvino

    for part, name in zip(parts, _OPENVINO, strict=True):
        openvino.save_model(part, folder / name, compress_to_fp16=False)


def _read(folder: Path, kind: str) -> tuple[Any, ...]:
    if kind == 'onnx':
        return ((folder / _ONNX).read_bytes(),)
    import openvino

    core, paths = openvino.Core(), [folder / name for name in _OPENVINO]
    # As bytes, since files that are mapped would go with their folder.
    return tuple(
        core.read_model(path.read_bytes(), path.with_suffix('.bin').read_bytes()) for path in paths
    )


def _to_openvino(part: nn.Module, *example: Tensor) -> Any:
    import openvino

    with _quiet():
        return openvino.convert_model(
            part, example_input=example, input=[tuple(one.shape) for one in example]
        )


def _to_onnx(model: MapsModel, image: Tensor, intrinsics: Tensor) -> bytes:
    with _quiet():
        program = torch.onnx.export(
            model, (image, intrinsics), dynamo=True, input_names=['image', 'intrinsics'],
            output_names=['maps'], verbose=False,
        )  # fmt: skip
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _run_aside(folder: Path, kind: str, shape: Shape) -> None:
    command = [sys.executable, '-m', _PROGRAM, str(folder), kind, *map(str, shape)]
    done = subprocess.run(
        command,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = done.stderr.strip().splitlines()[-1:] or ['no word of why']
        raise DeviceError(
            f'the network cannot be converted for {kind}: the process that does it ended with '
            f'code {done.returncode} ({words[0]}); backend torch needs no conversion'
        )


def _example(shape: Shape) -> tuple[Tensor, Tensor]:
    batch, _, height, width = shape
    intrinsics = torch.tensor([[width, width, 0.5 * width, 0.5 * height]]).repeat(batch, 1)
    return torch.zeros(shape), intrinsics


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' chatter from the user's terminal; their errors still come as such."""
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'onnxscript', 'torch.export')]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
