"""Networks of this package in files of other libraries, read and run again.

An exported file is a graph of one size with the inputs `image` (B, 3, H, W), RGB in [0, 1] less
`mean` over `std`, and `intrinsics` (B, 4), fx fy cx cy in pixels of that image, and the output
`maps` (B, 3, H/2, W/2): u', sigma and the sky probability. Its metadata hold the description of
the checkpoint, and under `export` what a reader needs to use it elsewhere, with an image and the
depth that float32 torch gave for it. `export` writes such files.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    InputInfo,
    METADATA_KEY,
    read_description,
)
from psd_depth_ros.errors import CheckpointError, DeviceError, ParseError, SettingsError
from psd_depth_ros.external.options import hash_files
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference.backends import LoadedBackend
from psd_depth_ros.inference.conversion import import_openvino, quiet, Shape
from psd_depth_ros.inference.onnx_metadata import read_onnx_metadata
from psd_depth_ros.inference.openvino_graph import GraphRunner, split
from psd_depth_ros.parsing import parse_json
from psd_depth_ros.preprocess import network_size

Image = NDArray[np.uint8]

ONNX, OPENVINO, TENSORRT, TORCHSCRIPT = 'onnx', 'openvino', 'tensorrt', 'torchscript'
SUFFIXES = {ONNX: '.onnx', OPENVINO: '.xml', TENSORRT: '.onnx', TORCHSCRIPT: '.ts'}
EXPORT_KEY = 'export'
ANY = 0  # images in a call
MEAN_LIMIT, HIGH_LIMIT = 0.01, 0.05  # of the relative difference of depth


@dataclass(frozen=True)
class Sample:
    """An image (h, w, 3) at the size of the input, its intrinsics (4,), and u' (h', w') of it."""

    image: Image
    intrinsics: tuple[float, ...]
    log_depth: NDArray[np.float32]

    def encode(self) -> dict[str, Any]:
        """As JSON."""
        _, png = cv2.imencode('.png', self.image[..., ::-1])
        depth = zlib.compress(self.log_depth.astype(np.float16).tobytes(), 9)
        return {
            'image_png': base64.b64encode(png.tobytes()).decode(),
            'intrinsics': list(self.intrinsics),
            'log_depth_float16_zlib': base64.b64encode(depth).decode(),
            'log_depth_shape': list(self.log_depth.shape),
        }

    @classmethod
    def decode(cls, values: Mapping[str, Any]) -> Sample:
        """From JSON; raises KeyError, ValueError or TypeError where that is damaged."""
        png = np.frombuffer(base64.b64decode(values['image_png']), np.uint8)
        image = cv2.imdecode(png, cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError('the image of the sample is no PNG')
        height, width = (int(one) for one in values['log_depth_shape'])
        count = 2 * height * width
        raw = zlib.decompressobj().decompress(
            base64.b64decode(values['log_depth_float16_zlib']), count
        )
        depth = np.frombuffer(raw, np.float16).reshape(height, width).astype(np.float32)
        numbers = tuple(float(one) for one in values['intrinsics'])
        if len(numbers) != 4 or not np.isfinite(numbers).all():
            raise ValueError('the intrinsics of the sample are not four numbers')
        return cls(np.ascontiguousarray(image[..., ::-1]), numbers, depth)


@dataclass(frozen=True)
class Parity:
    """Relative difference of depth to that of float32 torch."""

    mean: float
    high: float  # 99th percentile

    @property
    def is_good(self) -> bool:
        """Whether both are within the limits."""
        return self.mean <= MEAN_LIMIT and self.high <= HIGH_LIMIT

    def __str__(self) -> str:
        """For people."""
        return f'mean {self.mean:.3%}, 99th percentile {self.high:.3%}'


def compare(log_depth: NDArray[np.float32], wanted: NDArray[np.float32]) -> Parity:
    """The difference of two maps of u' of any equal shape."""
    relative = np.abs(np.expm1(log_depth.astype(np.float64) - wanted))
    return Parity(float(relative.mean()), float(np.percentile(relative, 99)))


@dataclass(frozen=True)
class Exported:
    """An exported file that was read: what it holds and how it is called."""

    path: Path
    info: CheckpointInfo
    shape: Shape  # of the image; the first side is `ANY` where any number of images will do
    sample: Sample
    precision: str
    library: str
    call: Any  # image (B, 3, H, W) and intrinsics (B, 4), arrays, to maps (B, 3, h, w)
    computed: str  # precision that this machine computes in, where that may be another one

    def run(self, image: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> NDArray:
        """Maps of any number of images, in batches of the size of the graph."""
        batch = self.shape[0] or len(image)
        rows = []
        for start in range(0, len(image), batch):
            part, numbers = image[start : start + batch], intrinsics[start : start + batch]
            lacking = batch - len(part)
            if lacking:
                part = np.concatenate([part, np.repeat(part[-1:], lacking, axis=0)])
                numbers = np.concatenate([numbers, np.repeat(numbers[-1:], lacking, axis=0)])
            maps = np.asarray(self.call(np.ascontiguousarray(part), numbers))
            rows.append(maps[: batch - lacking])
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def check(self) -> Parity:
        """Run the sample and compare it with what is stored."""
        found = log_depth_of(self.run, self.sample.image, self.sample.intrinsics, self.info.input)
        return compare(found, self.sample.log_depth)


class ExportedBackend(LoadedBackend):
    """Runs an exported file; see `Backend`."""

    def __init__(self, exported: Exported) -> None:
        self._exported: Exported | None = exported
        self.name = exported.library

    def run(self, image: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> NDArray:
        """See `Backend.run`."""
        assert self._exported is not None, 'the engine was closed'
        return np.ascontiguousarray(self._exported.run(image, intrinsics))

    def close(self) -> None:
        """Drop the network."""
        self._exported = None


def read_exported(path: Path) -> Exported | None:
    """An exported file of this package; None where a file is of other people, or not there.

    Raises CheckpointError where its description is damaged, for TorchScript, which is a program,
    and for files for TensorRT; DeviceError where the library that runs it is not installed.
    """
    if path.suffix not in SUFFIXES.values() or not path.is_file():
        return None
    if path.suffix == SUFFIXES[TORCHSCRIPT]:
        raise CheckpointError(
            f'{path}: is TorchScript, a program that is not run here; give the checkpoint itself, '
            'or export it as onnx or openvino'
        )
    return load_exported(path)


@dataclass(frozen=True)
class Loaded:
    """A file as its library sees it; `make` compiles it once its precision is known."""

    library: str
    text: str  # of the description
    make: Any  # from a precision to `Exported.call` and `Exported.computed`


def load_exported(path: Path) -> Exported | None:
    """Like `read_exported`, of a file that this program wrote: TorchScript, too."""
    read = {'.onnx': _read_onnx, '.xml': _read_openvino, '.ts': _read_torchscript}[path.suffix]
    loaded = read(path)
    if loaded is None:
        return None
    try:
        values = parse_json(loaded.text)
    except ParseError as error:
        raise CheckpointError(f'{path}: its description {error}') from error
    facts: Any = values.pop(EXPORT_KEY, None) if isinstance(values, dict) else None
    info = read_description(path, {METADATA_KEY: json.dumps(values)})
    try:
        batch, channels, height, width = (int(side) for side in facts['shape'])
        sample = Sample.decode(facts['sample'])
        precision = str(facts['precision'])
        if channels != 3 or sample.image.shape != (height, width, 3) or batch < ANY:
            raise ValueError('the sample is of another size')
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise CheckpointError(
            f'{path}: its description as an exported file is damaged ({error}); export it again'
        ) from error
    if facts.get('format') == TENSORRT:
        raise CheckpointError(
            f'{path}: was written for TensorRT, which runs outside of this program; give the '
            'checkpoint itself, or export it as onnx or openvino'
        )
    call, computed = loaded.make(precision)
    shape = (batch, 3, height, width)
    return Exported(path, info, shape, sample, precision, loaded.library, call, computed)


def describe_exported(exported: Exported) -> Checkpoint:
    """What the engine and its users read of a checkpoint."""
    content = hash_files(files_of(exported.path), exported.path.parent)
    return Checkpoint(str(exported.path), exported.info, {}, content[:12])


def check_camera(exported: Exported, camera: Camera) -> None:
    """Raise SettingsError where the image of a camera would have to be squeezed into the size."""
    _, _, height, width = exported.shape
    view = camera.rectified().resize(width, height)
    if abs(np.log(view.fx / view.fy)) > 0.1:
        best = network_size(camera, height * width)
        raise SettingsError(
            f'{exported.path} takes images of {width}x{height} only, and the shape of those of '
            f'this camera is another: export it with --size {best[1]}x{best[0]}'
        )


def files_of(path: Path) -> list[Path]:
    """The files of an export: OpenVINO has its weights beside it."""
    beside = path.with_suffix('.bin')
    return [path, beside] if path.suffix == SUFFIXES[OPENVINO] and beside.exists() else [path]


def run_onnx(content: str | bytes) -> Any:
    """An ONNX file, by its path or content, as `Exported.call`. Raises what ONNX Runtime does."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(content, options, providers=['CPUExecutionProvider'])

    def call(image: NDArray, intrinsics: NDArray) -> NDArray:
        maps: NDArray = session.run(None, {'image': image, 'intrinsics': intrinsics})[0]
        return maps

    return call


def _read_onnx(path: Path) -> Loaded | None:
    try:
        text = read_onnx_metadata(path).get(METADATA_KEY)
    except (ParseError, OSError):
        return None  # told where it is opened as a network of others
    if text is None:
        return None

    def make(precision: str) -> tuple[Any, str]:
        try:
            return run_onnx(str(path)), precision
        except ImportError as error:
            raise DeviceError(
                f'{path} needs onnxruntime: pip install "psd_depth_ros[onnxruntime]"'
            ) from error
        except Exception as error:  # of types of its own, none of them public
            raise CheckpointError(
                f'{path}: ONNX Runtime does not take it ({str(error).splitlines()[0]}); export it '
                'again'
            ) from error

    return Loaded('onnxruntime', text, make)


def _read_openvino(path: Path) -> Loaded | None:
    try:
        openvino = import_openvino()
    except ImportError as error:
        raise DeviceError(
            f'{path} needs openvino: pip install "psd_depth_ros[openvino]"'
        ) from error
    try:
        graph = openvino.Core().read_model(path)
        text = str(graph.get_rt_info([METADATA_KEY]).astype(str))
    except RuntimeError as error:
        raise CheckpointError(
            f'{path}: is no file that psd-depth export wrote ({str(error).splitlines()[0]})'
        ) from error

    def make(precision: str) -> tuple[Any, str]:
        if precision != 'bf16':
            return GraphRunner([graph], ['f32']), precision
        parts = split(graph)
        runner = GraphRunner(parts, [*['f32'] * (len(parts) - 1), 'bf16'])
        return runner, 'bf16' if runner.is_bfloat16 else 'fp32'

    return Loaded('openvino', text, make)


def _read_torchscript(path: Path) -> Loaded | None:
    import torch

    files = {METADATA_KEY: ''}
    try:
        with quiet():
            program = torch.jit.load(str(path), 'cpu', _extra_files=files).eval()
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f'{path}: is no TorchScript ({str(error).splitlines()[0]})'
        ) from error
    text = files[METADATA_KEY]
    if not text:
        return None

    @torch.inference_mode()
    def call(image: NDArray, intrinsics: NDArray) -> NDArray:
        maps: NDArray = program(torch.from_numpy(image), torch.from_numpy(intrinsics)).numpy()
        return maps

    return Loaded(
        'torchscript',
        text.decode() if isinstance(text, bytes) else text,
        lambda precision: (call, precision),
    )


def network_input(image: Image, given: InputInfo) -> NDArray[np.float32]:
    """Input (1, 3, h, w) of one image (h, w, 3) at its size."""
    mean, std = (np.array(one, np.float32) for one in (given.mean, given.std))
    values = (image.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None])


def log_depth_of(
    run: Any, image: Image, intrinsics: tuple[float, ...], given: InputInfo
) -> NDArray[np.float32]:
    """u' (h', w') of one image (h, w, 3) at the size of the input."""
    tensor = network_input(image, given)
    found: NDArray[np.float32] = run(tensor, np.array([intrinsics], np.float32))[0, 0]
    return found
