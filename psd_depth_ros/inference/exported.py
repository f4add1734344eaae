"""Networks of this package as files for other libraries: written, checked, and run again.

An exported file is a graph of one size with the inputs `image` (B, 3, H, W), RGB in [0, 1] less
`mean` over `std`, and `intrinsics` (B, 4), fx fy cx cy in pixels of that image, and the output
`maps` (B, 3, H/2, W/2): u', sigma and the sky probability. Its metadata hold the description of
the checkpoint, and under `export` what a reader needs to use it elsewhere, with an image and the
depth that float32 torch gave for it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from psd_depth_ros.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    describe,
    InputInfo,
    METADATA_KEY,
    read_description,
    STRIDE,
)
from psd_depth_ros.errors import CheckpointError, DeviceError, ParseError, SettingsError
from psd_depth_ros.external.options import hash_files
from psd_depth_ros.files import make_folder, write_file
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference.conversion import (
    Convert,
    example_inputs,
    import_openvino,
    MapsModel,
    quiet,
    Shape,
    to_onnx,
    to_openvino,
)
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.parsing import parse_json
from psd_depth_ros.preprocess import network_size

Image = NDArray[np.uint8]

ONNX, OPENVINO, TORCHSCRIPT = 'onnx', 'openvino', 'torchscript'
SUFFIXES = {ONNX: '.onnx', OPENVINO: '.xml', TORCHSCRIPT: '.ts'}
PRECISIONS = {ONNX: ('fp32',), OPENVINO: ('fp32', 'fp16'), TORCHSCRIPT: ('fp32',)}
EXPORT_KEY = 'export'
MEAN_LIMIT, HIGH_LIMIT = 0.01, 0.05  # of the relative difference of depth
_POSTPROCESSING = (
    "depth in metres along Z = exp(u') x fx / canonical_focal_px, bilinearly enlarged in u'; sky "
    'where the third map is above 0.5; standard deviation of ln depth = hypot(sigma_gain x sigma, '
    'sigma_floor)'
)


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
    shape: Shape
    sample: Sample
    library: str
    call: Any  # image (B, 3, H, W) and intrinsics (B, 4), arrays, to maps (B, 3, h, w)

    def run(self, image: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> NDArray:
        """Maps of any number of images, in batches of the size of the graph."""
        batch = self.shape[0]
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
        found = _log_depth(self.run, self.sample.image, self.sample.intrinsics, self.info.input)
        return compare(found, self.sample.log_depth)


class ExportedBackend:
    """Runs an exported file; see `Backend`."""

    def __init__(self, exported: Exported) -> None:
        self._exported: Exported | None = exported
        self.name = exported.library

    def run(self, image: Tensor, intrinsics: Tensor) -> Tensor:
        """See `Backend.run`."""
        assert self._exported is not None, 'the engine was closed'
        maps = self._exported.run(image.numpy(), intrinsics.numpy())
        return torch.from_numpy(np.ascontiguousarray(maps))

    def is_ready(self, shape: Shape) -> bool:
        """See `Backend.is_ready`: nothing is compiled."""
        return True

    def prepare(self, shapes: Sequence[Shape], convert: Convert | None = None) -> None:
        """See `Backend.prepare`: nothing is compiled."""

    def close(self) -> None:
        """Drop the network."""
        self._exported = None


def write_exported(
    path: Path,
    checkpoint: Checkpoint,
    model: DepthModel,
    samples: Sequence[tuple[Image, tuple[float, ...]]],
    *,
    kind: str,
    batch: int = 1,
    precision: str = 'fp32',
    accepts_any: bool = False,
) -> Parity:
    """Write a file for another library and compare it with float32 torch.

    Args:
        path: Of the file; OpenVINO's weights lie beside it in .bin.
        checkpoint, model: What is exported.
        samples: Images (h, w, 3) uint8 at the size of the input, with fx fy cx cy; the first one
            is kept in the file.
        kind: `onnx`, `openvino` or `torchscript`.
        batch: Images in a call.
        precision: Of the stored weights, see `PRECISIONS`.
        accepts_any: Keep the file where it differs too much.

    Raises SettingsError for what the format lacks, DeviceError where the result differs too much.
    """
    check_choices(kind, precision, path)
    height, width = samples[0][0].shape[:2]
    if height % STRIDE or width % STRIDE:
        raise SettingsError(
            f'size {width}x{height}: both sides have to be multiples of {STRIDE}, such as 640x192'
        )
    given = checkpoint.info.input
    run_torch = _torch_runner(model)
    wanted = [_log_depth(run_torch, *sample, given) for sample in samples]
    sample = Sample(*samples[0], wanted[0])
    shape = (batch, 3, height, width)
    facts = {
        'shape': list(shape),
        'precision': precision,
        'checkpoint': checkpoint.id,
        'preprocessing': f'RGB / 255, less mean {list(given.mean)}, over std {list(given.std)}',
        'postprocessing': _POSTPROCESSING,
        'sample': sample.encode(),
    }
    text = json.dumps({**json.loads(describe(checkpoint.info)), EXPORT_KEY: facts})
    _write(path, model, kind, shape, precision, text)
    read = _read(path)
    assert read is not None, 'it was written with a description'
    found = [_log_depth(read.run, *sample, given) for sample in samples]
    parity = compare(np.stack(found), np.stack(wanted))
    if not parity.is_good and not accepts_any:
        for one in _files(path):
            one.unlink()
        raise DeviceError(
            f'{path}: depth differs from that of float32 torch by {parity}, expected at most '
            f'{MEAN_LIMIT:.0%} and {HIGH_LIMIT:.0%}; choose fp32, or --accept-parity'
        )
    return parity


def check_choices(kind: str, precision: str, path: Path) -> None:
    """Raise SettingsError for an unknown format or precision, or a name that does not fit."""
    if kind not in SUFFIXES:
        raise SettingsError(f'unknown format {kind!r}, expected {", ".join(SUFFIXES)}')
    if precision not in PRECISIONS[kind]:
        raise SettingsError(
            f'{kind} is written in {" or ".join(PRECISIONS[kind])}, not in {precision}'
        )
    if path.suffix != SUFFIXES[kind]:
        raise SettingsError(f'{path}: files of {kind} end with {SUFFIXES[kind]}')


def read_exported(path: Path) -> Exported | None:
    """An exported file of this package; None where a file is of other people, or not there.

    Raises CheckpointError where its description is damaged, or for TorchScript, which is a
    program; DeviceError where the library that runs it is not installed.
    """
    if path.suffix not in SUFFIXES.values() or not path.is_file():
        return None
    if path.suffix == SUFFIXES[TORCHSCRIPT]:
        raise CheckpointError(
            f'{path}: is TorchScript, a program that is not run here; give the checkpoint itself, '
            'or export it as onnx or openvino'
        )
    return _read(path)


def _read(path: Path) -> Exported | None:
    read = {'.onnx': _read_onnx, '.xml': _read_openvino, '.ts': _read_torchscript}[path.suffix]
    found = read(path)
    if found is None:
        return None
    library, text, call = found
    try:
        values = parse_json(text)
    except ParseError as error:
        raise CheckpointError(f'{path}: its description {error}') from error
    facts: Any = values.pop(EXPORT_KEY, None) if isinstance(values, dict) else None
    info = read_description(path, {METADATA_KEY: json.dumps(values)})
    try:
        batch, channels, height, width = (int(side) for side in facts['shape'])
        sample = Sample.decode(facts['sample'])
        if channels != 3 or sample.image.shape != (height, width, 3) or batch < 1:
            raise ValueError('the sample is of another size')
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise CheckpointError(
            f'{path}: its description as an exported file is damaged ({error}); export it again'
        ) from error
    return Exported(path, info, (batch, 3, height, width), sample, library, call)


def describe_exported(exported: Exported) -> Checkpoint:
    """What the engine and its users read of a checkpoint."""
    content = hash_files(_files(exported.path), exported.path.parent)
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


def _write(
    path: Path, model: DepthModel, kind: str, shape: Shape, precision: str, text: str
) -> None:
    make_folder(path.absolute().parent)
    image, intrinsics = example_inputs(shape)
    maps = MapsModel(model).eval()
    if kind == ONNX:
        write_file(path, _with_metadata(to_onnx(maps, image, intrinsics), text))
    elif kind == OPENVINO:
        openvino = import_openvino()
        graph = to_openvino(maps, image, intrinsics)
        graph.set_rt_info(text, [METADATA_KEY])
        openvino.save_model(graph, path, compress_to_fp16=precision == 'fp16')
    else:
        with torch.no_grad(), quiet():
            traced = torch.jit.trace(maps, (image, intrinsics), check_trace=False)
            torch.jit.save(traced, str(path), _extra_files={METADATA_KEY: text})


def _with_metadata(content: bytes, text: str) -> bytes:
    import onnx

    graph = onnx.load_from_string(content)
    entry = graph.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, text
    written: bytes = graph.SerializeToString()
    return written


def _files(path: Path) -> list[Path]:
    """The files of an export: OpenVINO has its weights beside it."""
    beside = path.with_suffix('.bin')
    return [path, beside] if path.suffix == SUFFIXES[OPENVINO] and beside.exists() else [path]


def _read_onnx(path: Path) -> tuple[str, str, Any] | None:
    try:
        import onnxruntime
    except ImportError:
        return None  # told where it is opened as a network of others
    try:
        session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    except Exception:  # noqa: BLE001 - told where it is opened as a network of others
        return None
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        return None

    def call(image: NDArray, intrinsics: NDArray) -> NDArray:
        maps: NDArray = session.run(None, {'image': image, 'intrinsics': intrinsics})[0]
        return maps

    return 'onnxruntime', text, call


def _read_openvino(path: Path) -> tuple[str, str, Any] | None:
    try:
        openvino = import_openvino()
    except ImportError as error:
        raise DeviceError(
            f'{path} needs openvino: pip install "psd_depth_ros[openvino]"'
        ) from error
    core = openvino.Core()
    try:
        graph = core.read_model(path)
        text = str(graph.get_rt_info([METADATA_KEY]).astype(str))
    except RuntimeError as error:
        raise CheckpointError(
            f'{path}: is no file that psd-depth export wrote ({str(error).splitlines()[0]})'
        ) from error
    settings = {
        'INFERENCE_PRECISION_HINT': 'f32',
        'PERFORMANCE_HINT': 'LATENCY',
        'ENABLE_CPU_PINNING': False,  # see inference.backends
    }
    request = core.compile_model(graph, 'CPU', settings).create_infer_request()

    def call(image: NDArray, intrinsics: NDArray) -> NDArray:
        maps: NDArray = request.infer([image, intrinsics], share_inputs=True)[0]
        return maps

    return 'openvino', text, call


def _read_torchscript(path: Path) -> tuple[str, str, Any] | None:
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

    return 'torchscript', text.decode() if isinstance(text, bytes) else text, call


def _torch_runner(model: DepthModel) -> Any:
    """Float32 torch, called like `Exported.run`."""
    maps = MapsModel(model).eval()

    @torch.inference_mode()
    def run(image: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> NDArray:
        found: NDArray = maps(torch.from_numpy(image), torch.from_numpy(intrinsics)).numpy()
        return found

    return run


def _log_depth(
    run: Any, image: Image, intrinsics: tuple[float, ...], given: InputInfo
) -> NDArray[np.float32]:
    """u' (h', w') of one image (h, w, 3) at the size of the input."""
    mean, std = (np.array(one, np.float32) for one in (given.mean, given.std))
    values = (image.astype(np.float32) / np.float32(255) - mean) / std
    tensor = np.ascontiguousarray(values.transpose(2, 0, 1)[None])
    found: NDArray[np.float32] = run(tensor, np.array([intrinsics], np.float32))[0, 0]
    return found
