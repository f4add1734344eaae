"""Depth networks converted to the formats of other libraries, in this process or in another.

Conversion is seconds of Python that holds the interpreter lock: an image takes up to 600 ms beside
it instead of 5. So an engine that is loaded beside one at work converts in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import copy
import importlib
import io
import logging
import os
from pathlib import Path
import subprocess
import sys
import tempfile
import threading
from typing import Any
import warnings

import torch
from torch import nn, Tensor

from psd_depth_ros.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from psd_depth_ros.errors import DeviceError
from psd_depth_ros.networks import DepthModel, load_model

Shape = tuple[int, ...]  # of the image: (B, 3, H, W)
# From a format and a shape to the parts of the network that run one after the other. `openvino`:
# openvino.Model objects of the encoder's stem, where it has one, and of the rest. `onnx`: the
# bytes of one model.
Convert = Callable[[str, Shape], tuple[Any, ...]]
_WEIGHTS, _ONNX = 'weights.safetensors', 'maps.onnx'
_NICE = 10
_MOST_IMAGES = 64  # in a call, of networks for any number
_PROGRAM = f"""
import os; os.nice({_NICE})
from psd_depth_ros.inference.conversion import convert_files
convert_files()
"""


class MapsModel(nn.Module):
    """A depth network whose three maps are one tensor, so that one copy transfers them all."""

    def __init__(self, model: DepthModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, intrinsics: Tensor) -> Tensor:
        """See `backends.Backend.run`."""
        return torch.cat(self.model(image, intrinsics), dim=1)


class StemModel(nn.Module):
    """The stem of an encoder, which runs in float32."""

    def __init__(self, model: DepthModel) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, image: Tensor) -> Tensor:
        """See `Encoder.stem`."""
        return self.encoder.stem(image)


class RestModel(nn.Module):
    """What follows the stem, with the three maps as one tensor."""

    def __init__(self, model: DepthModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, stem: Tensor, intrinsics: Tensor) -> Tensor:
        """Output of the stem and fx fy cx cy (B, 4) to maps as in `backends.Backend.run`."""
        maps = self.model.encoder.maps(stem)
        return torch.cat(self.model.read(maps, intrinsics), dim=1)


def convert_in_process(model: DepthModel) -> Convert:
    """A converter that works in this process."""

    def convert(kind: str, shape: Shape) -> tuple[Any, ...]:
        image, intrinsics = example_inputs(shape)
        if kind == 'onnx':
            return (to_onnx(MapsModel(model).eval(), image, intrinsics),)
        if not model.encoder.has_stem:
            return (to_openvino(MapsModel(model).eval(), image, intrinsics),)
        stem, rest = StemModel(model).eval(), RestModel(model).eval()
        with torch.no_grad():
            between = stem(image)
        return to_openvino(stem, image), to_openvino(rest, between, intrinsics)

    return convert


class SubprocessConverter:
    """A `Convert` that works in a process of its own, at a lower priority than this one."""

    def __init__(self, model: DepthModel, info: CheckpointInfo) -> None:
        self._model = model
        self._info = info
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._cancelled = False

    def __call__(self, kind: str, shape: Shape) -> tuple[Any, ...]:
        """Convert. Raises DeviceError with the words of the process where it fails."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save_checkpoint(folder / _WEIGHTS, self._info, self._model.state_dict())
            self._run(folder, kind, shape)
            (folder / _WEIGHTS).unlink()
            return read_parts(kind, read_files(folder))

    def cancel(self) -> None:
        """End the running conversions and refuse later ones; safe from any thread."""
        with self._lock:
            self._cancelled = True
            for process in self._running:
                process.kill()

    def _run(self, folder: Path, kind: str, shape: Shape) -> None:
        with self._lock:
            if self._cancelled:
                raise DeviceError('the conversion of the network was cancelled')
            process = _start_process(folder, kind, shape)
            self._running.add(process)
        try:
            _, said = process.communicate()
        finally:
            with self._lock:
                self._running.discard(process)
        if self._cancelled:
            raise DeviceError('the conversion of the network was cancelled')
        if process.returncode:
            words = said.strip().splitlines()[-1:] or ['no error message']
            raise DeviceError(
                f'the network cannot be converted for {kind}: the process that does it ended '
                f'with code {process.returncode} ({words[0]}); backend torch needs no conversion'
            )


def convert_files() -> None:
    """Program of `SubprocessConverter`: FOLDER FORMAT BATCH 3 HEIGHT WIDTH.

    Reads the checkpoint in FOLDER and writes the converted parts beside it.
    """
    folder, kind, shape = Path(sys.argv[1]), sys.argv[2], tuple(map(int, sys.argv[3:]))
    torch.set_num_threads(1)
    model = load_model(load_checkpoint(folder / _WEIGHTS)).eval()
    write_parts(kind, convert_in_process(model)(kind, shape), folder)


def write_parts(kind: str, parts: tuple[Any, ...], folder: Path) -> None:
    """Write what a `Convert` made as files."""
    if kind == 'onnx':
        (folder / _ONNX).write_bytes(parts[0])
        return
    for index, part in enumerate(parts):
        import_openvino().save_model(part, folder / f'{index}.xml', compress_to_fp16=False)


def read_files(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read_parts(kind: str, files: Mapping[str, bytes]) -> tuple[Any, ...]:
    """What a `Convert` makes, from the content of the files of `write_parts` by name."""
    if kind == 'onnx':
        return (files[_ONNX],)
    core = import_openvino().Core()
    names = sorted(name for name in files if name.endswith('.xml'))
    return tuple(
        core.read_model(files[name], files[name.replace('.xml', '.bin')]) for name in names
    )


def _start_process(folder: Path, kind: str, shape: Shape) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-c', _PROGRAM, str(folder), kind, *map(str, shape)],
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def import_openvino() -> Any:
    """Import OpenVINO without its usage statistics.

    `openvino.tools.ovc` reports every import and conversion to a server, in a process that it
    forks, and keeps an id of the user in the home folder. Without the package `openvino_telemetry`
    it uses a stub that does nothing, so that package is hidden while OpenVINO is imported.
    """
    if 'openvino.tools.ovc' not in sys.modules:
        with _without_telemetry():
            importlib.import_module('openvino')
            importlib.import_module('openvino.tools.ovc')
    return importlib.import_module('openvino')


def import_nncf() -> Any:
    """Import NNCF without its usage statistics, which it sends as OpenVINO does.

    Raises ImportError where it is not installed.
    """
    import_openvino()
    if 'nncf' not in sys.modules:
        with _without_telemetry():
            importlib.import_module('nncf')
    return importlib.import_module('nncf')


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Hide the package `openvino_telemetry` from imports."""
    name = 'openvino_telemetry'
    hidden = {key: one for key, one in sys.modules.items() if key.split('.')[0] == name}
    for key in hidden:
        del sys.modules[key]
    sys.modules[name] = None  # type: ignore[assignment]  # an import of it now fails
    try:
        yield
    finally:
        del sys.modules[name]
        sys.modules.update(hidden)


def to_openvino(part: nn.Module, *example: Tensor, any_batch: bool = False) -> Any:
    """An openvino.Model of a module, for inputs of the shapes of the example.

    `any_batch` leaves the number of images open. The module is traced as a function, with its
    weights as constants, and not a second time to compare: OpenVINO would take four times as long.
    """
    openvino = import_openvino()
    shapes = [(-1, *one.shape[1:]) if any_batch else tuple(one.shape) for one in example]
    constant = copy.deepcopy(part).requires_grad_(False)
    with quiet():
        traced = torch.jit.trace(lambda *inputs: constant(*inputs), example, check_trace=False)
        return openvino.convert_model(traced, example_input=example, input=shapes)


def to_onnx(model: MapsModel, image: Tensor, intrinsics: Tensor, any_batch: bool = False) -> bytes:
    """An ONNX file with the inputs `image` and `intrinsics` and the output `maps`.

    `any_batch` leaves the number of images open. What the exporter notes about each node is left
    out: it holds the paths of source files on this machine.
    """
    dynamic = None
    if any_batch:
        batch = torch.export.Dim('batch', min=1, max=_MOST_IMAGES)
        image, intrinsics = (torch.cat([one[:1], one[:1]]) for one in (image, intrinsics))
        dynamic = ({0: batch}, {0: batch})
    with quiet():
        program = torch.onnx.export(
            model, (image, intrinsics), dynamo=True, input_names=['image', 'intrinsics'],
            output_names=['maps'], verbose=False, dynamic_shapes=dynamic,
        )  # fmt: skip
    assert program is not None
    proto = program.model_proto
    graph = proto.graph
    for one in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del one.metadata_props[:]
    content: bytes = proto.SerializeToString()
    return content


def example_inputs(shape: Shape) -> tuple[Tensor, Tensor]:
    """A black image (B, 3, H, W) and plausible intrinsics (B, 4)."""
    batch, _, height, width = shape
    intrinsics = torch.tensor([[width, width, 0.5 * width, 0.5 * height]]).repeat(batch, 1)
    return torch.zeros(shape), intrinsics


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the output of the exporters; their exceptions still propagate."""
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
