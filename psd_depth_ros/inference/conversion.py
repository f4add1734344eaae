"""Depth networks converted to the formats of other libraries by another process, and their files.

Conversion is seconds of Python that holds the interpreter lock: an image takes up to 600 ms beside
it instead of 5. So an engine that is loaded beside one at work converts in a process of its own.
`torch_conversion` is what that process runs, and what an engine that has no other beside it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import importlib
import importlib.util
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

from psd_depth_ros.checkpoint import Checkpoint, write_checkpoint
from psd_depth_ros.errors import CheckpointError, DeviceError

Shape = tuple[int, ...]  # of the image: (B, 3, H, W)
# From a format and a shape to the parts of the network that run one after the other. `openvino`:
# openvino.Model objects of the encoder's stem, where it has one, and of the rest. `onnx`: the
# bytes of one model.
Convert = Callable[[str, Shape], tuple[Any, ...]]
WEIGHTS_FILE, _ONNX = 'weights.safetensors', 'maps.onnx'
REFUSED = 3  # exit code of the other process where the checkpoint cannot be used
_NICE = 10
_PROGRAM = f"""
import os; os.nice({_NICE})
from psd_depth_ros.inference.torch_conversion import convert_files
convert_files()
"""


class SubprocessConverter:
    """A `Convert` that works in a process of its own, at a lower priority than this one.

    Args:
        checkpoint: What is converted.
        keep_in: From a format and a shape to the file that the other process stores the parts in,
            see `network_store`; None where they are not stored.
    """

    def __init__(
        self, checkpoint: Checkpoint, keep_in: Callable[[str, Shape], Path] | None = None
    ) -> None:
        self._checkpoint = checkpoint
        self._keep_in = keep_in
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._cancelled = False

    def __call__(self, kind: str, shape: Shape) -> tuple[Any, ...]:
        """Convert. Raises CheckpointError or DeviceError with the words of the process."""
        if importlib.util.find_spec('torch') is None:
            raise needs_torch(self._checkpoint.path, 'it is not installed')
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_checkpoint(folder / WEIGHTS_FILE, self._checkpoint)
            self._run(folder, kind, shape)
            (folder / WEIGHTS_FILE).unlink()
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
            place = '' if self._keep_in is None else str(self._keep_in(kind, shape))
            process = _start_process(folder, self._checkpoint.path, place, kind, shape)
            self._running.add(process)
        try:
            _, said = process.communicate()
        finally:
            with self._lock:
                self._running.discard(process)
        if self._cancelled:
            raise DeviceError('the conversion of the network was cancelled')
        if process.returncode == REFUSED:
            raise CheckpointError(said.strip())
        if process.returncode:
            words = said.strip().splitlines()[-1:] or ['no error message']
            raise DeviceError(
                f'the network cannot be converted for {kind}: the process that does it ended '
                f'with code {process.returncode} ({words[0]}); backend torch needs no conversion'
            )


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


def needs_torch(path: str, reason: str) -> DeviceError:
    """What a checkpoint is answered with where torch cannot be imported."""
    return DeviceError(
        f'{path} has to be converted, or run, with torch, which cannot be imported ({reason}): '
        'install torch, or give a file that `psd-depth export --format openvino` or `--format '
        'onnx` made on another machine, which needs none'
    )


def _start_process(
    folder: Path, path: str, place: str, kind: str, shape: Shape
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-c', _PROGRAM, str(folder), path, place, kind, *map(str, shape)],
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
        # Before 2026 a deprecated name, whose warning comes when torch looks through all modules.
        sys.modules.pop('openvino.runtime', None)
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
