"""Networks of this package written as files for other libraries, and compared with float32 torch.

`exported` reads such files and says what stands in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch

from psd_depth_ros.checkpoint import Checkpoint, describe, InputInfo, METADATA_KEY, STRIDE
from psd_depth_ros.errors import DeviceError, SettingsError
from psd_depth_ros.files import make_folder, write_file
from psd_depth_ros.inference.conversion import import_openvino, quiet, Shape
from psd_depth_ros.inference.exported import (
    ANY,
    compare,
    EXPORT_KEY,
    files_of,
    HIGH_LIMIT,
    Image,
    load_exported,
    log_depth_of,
    MEAN_LIMIT,
    network_input,
    ONNX,
    OPENVINO,
    Parity,
    run_onnx,
    Sample,
    SUFFIXES,
    TENSORRT,
    TORCHSCRIPT,
)
from psd_depth_ros.inference.onnx_graph import stem_weights
from psd_depth_ros.inference.quantisation import (
    Feed,
    ONNX_METHOD,
    OPENVINO_METHOD,
    quantise_onnx,
    quantise_openvino,
)
from psd_depth_ros.inference.tensorrt import build_commands, check_file, emulate, prepare
from psd_depth_ros.inference.torch_conversion import (
    example_inputs,
    keep_layers,
    MapsModel,
    to_graph,
    to_onnx,
)
from psd_depth_ros.networks import DepthModel

PRECISIONS = {
    ONNX: ('fp32', 'int8'),
    OPENVINO: ('fp32', 'fp16', 'bf16', 'int8'),
    TENSORRT: ('fp32', 'fp16', 'bf16'),
    TORCHSCRIPT: ('fp32',),
}
_OPEN_BATCH = (ONNX, OPENVINO)  # formats whose graphs take any number of images
_POSTPROCESSING = (
    "depth in metres along Z = exp(u') x fx / canonical_focal_px, bilinearly enlarged in u'; sky "
    'where the third map is above 0.5; standard deviation of ln depth = hypot(sigma_gain x sigma, '
    'sigma_floor)'
)
_ARITHMETIC = {
    'bf16': 'float32 weights, computed in bfloat16 where the processor has it; the stem, whose '
    'output is the tensor stem, in float32',
    'fp16': 'float16 weights, computed in float32',
    'int8': 'convolutions of the decoder in 8 bits, all else in float32',
}
Example = tuple[Image, tuple[float, ...]]  # image (h, w, 3) at the size of the input, fx fy cx cy


@dataclass(frozen=True)
class ExportChoice:
    """What is written: a format, the images in a call (`ANY`: any number), a precision."""

    kind: str
    batch: int = 1
    precision: str = 'fp32'

    def check(self, path: Path) -> None:
        """Raise SettingsError for what the format lacks, or a name that does not fit it."""
        kind, precision = self.kind, self.precision
        if kind not in SUFFIXES:
            raise SettingsError(f'unknown format {kind!r}, expected {", ".join(SUFFIXES)}')
        if precision not in PRECISIONS[kind]:
            raise SettingsError(
                f'{kind} is written in {" or ".join(PRECISIONS[kind])}, not in {precision}'
            )
        if path.suffix != SUFFIXES[kind]:
            raise SettingsError(f'{path}: files of {kind} end with {SUFFIXES[kind]}')
        if self.batch == ANY and kind not in _OPEN_BATCH:
            raise SettingsError(
                f'{kind} is written for a known number of images, expected --batch 1 to 64'
            )


@dataclass(frozen=True)
class ExportResult:
    """Difference of a written file to float32 torch, and what else its user should know."""

    parity: Parity
    notes: tuple[str, ...] = ()


def write_exported(
    path: Path,
    checkpoint: Checkpoint,
    model: DepthModel,
    samples: Sequence[Example],
    choice: ExportChoice,
    *,
    calibration: Sequence[Example] = (),
    accepts_any: bool = False,
) -> ExportResult:
    """Write a file for another library and compare it with float32 torch.

    Args:
        path: Of the file; OpenVINO's weights lie beside it in .bin.
        checkpoint, model: What is exported.
        samples: Images that depth is compared on; the first one is kept in the file.
        choice: See `ExportChoice`.
        calibration: Images that int8 takes the ranges of activations from; by default `samples`.
        accepts_any: Keep the file where it differs too much.

    Raises SettingsError for what the format lacks, DeviceError where the result differs too much,
    where TensorRT would not take it, or where a library is missing.
    """
    choice.check(path)
    height, width = samples[0][0].shape[:2]
    if height % STRIDE or width % STRIDE:
        raise SettingsError(
            f'size {width}x{height}: both sides have to be multiples of {STRIDE}, such as 640x192'
        )
    given = checkpoint.info.input
    run_torch = _torch_runner(model)
    wanted = [log_depth_of(run_torch, *sample, given) for sample in samples]
    shape = (choice.batch, 3, height, width)
    facts: dict[str, Any] = {
        'format': choice.kind,
        'shape': list(shape),
        'precision': choice.precision,
        'checkpoint': checkpoint.id,
        'preprocessing': f'RGB / 255, less mean {list(given.mean)}, over std {list(given.std)}',
        'postprocessing': _POSTPROCESSING,
        'sample': Sample(*samples[0], wanted[0]).encode(),
    }
    if choice.precision in _ARITHMETIC and choice.kind != TENSORRT:
        facts['arithmetic'] = _ARITHMETIC[choice.precision]
    feeds: list[Feed] = []
    if choice.precision == 'int8':
        chosen = calibration or samples
        feeds = [_feed(one, given, choice.batch) for one in chosen]
        method = ONNX_METHOD if choice.kind == ONNX else OPENVINO_METHOD
        facts['calibration'] = {'images': len(chosen), 'method': method}
    if choice.precision == 'int8' or choice.kind == TENSORRT:
        model = keep_layers(model)
    writing = _Writing(path, model, shape, choice, json.loads(describe(checkpoint.info)), facts)
    make_folder(path.absolute().parent)
    run, notes = writing.write(feeds)
    found = [log_depth_of(run, *sample, given) for sample in samples]
    parity = compare(np.stack(found), np.stack(wanted))
    if not parity.is_good and not accepts_any:
        for one in files_of(path):
            one.unlink()
        raise DeviceError(
            f'{path}: depth differs from that of float32 torch by {parity}, expected at most '
            f'{MEAN_LIMIT:.0%} and {HIGH_LIMIT:.0%}; choose fp32, or --accept-parity'
        )
    return ExportResult(parity, notes)


@dataclass(frozen=True)
class _Writing:
    """One file that is being written; `facts` are its description as an exported file."""

    path: Path
    model: DepthModel
    shape: Shape
    choice: ExportChoice
    info: dict[str, Any]
    facts: dict[str, Any]

    def write(self, feeds: Sequence[Feed]) -> tuple[Any, tuple[str, ...]]:
        """Write the file; how it runs, as `Exported.run`, and notes for its user."""
        kind = self.choice.kind
        if kind == TENSORRT:
            return self._write_tensorrt()
        if kind == ONNX:
            self._write_onnx(feeds)
        elif kind == OPENVINO:
            self._write_openvino(feeds)
        else:
            self._write_torchscript()
        read = load_exported(self.path)
        assert read is not None, 'it was written with a description'
        if read.computed == read.precision:
            return read.run, ()
        return read.run, (
            f'this processor computed in {read.computed}; psd-depth inspect {self.path} tells the '
            f'difference of one with {read.precision}',
        )

    @property
    def text(self) -> str:
        """The description that goes into the file."""
        return json.dumps({**self.info, EXPORT_KEY: self.facts})

    def _example(self) -> tuple[torch.Tensor, torch.Tensor]:
        batch, *sides = self.shape
        return example_inputs((batch or 1, *sides))

    def _to_onnx(self) -> bytes:
        maps = MapsModel(self.model).eval()
        return to_onnx(maps, *self._example(), any_batch=self.choice.batch == ANY)

    def _write_onnx(self, feeds: Sequence[Feed]) -> None:
        content = self._to_onnx()
        if feeds:
            content = quantise_onnx(content, feeds)
        write_file(self.path, _with_metadata(content, self.text))

    def _write_openvino(self, feeds: Sequence[Feed]) -> None:
        openvino = import_openvino()
        graph = to_graph(
            self.model,
            *self._example(),
            any_batch=self.choice.batch == ANY,
            is_named=bool(feeds),
        )
        if feeds:
            graph = quantise_openvino(graph, feeds)
        graph.set_rt_info(self.text, [METADATA_KEY])
        openvino.save_model(graph, self.path, compress_to_fp16=self.choice.precision == 'fp16')

    def _write_tensorrt(self) -> tuple[Any, tuple[str, ...]]:
        precision = self.choice.precision
        prepared = prepare(self._to_onnx(), precision, stem_weights(self.model))
        check_file(self.path, prepared.content, precision, self.shape, prepared.float32_nodes)
        commands = build_commands(self.path)
        facts = {
            **self.facts,
            'float32_nodes': prepared.float32_nodes,
            'build': dict(zip(('TensorRT 10', 'TensorRT 11'), commands, strict=True)),
        }
        written = replace(self, facts=facts)
        write_file(self.path, _with_metadata(prepared.content, written.text))
        call = run_onnx(emulate(prepared.content))
        return _in_batches(call, self.shape[0]), (
            f'TensorRT 10: {commands[0]}',
            f'TensorRT 11: {commands[1]}',
            'the file was checked and run with ONNX Runtime, not with TensorRT',
        )

    def _write_torchscript(self) -> None:
        maps = MapsModel(self.model).eval()
        with torch.no_grad(), quiet():
            traced = torch.jit.trace(maps, self._example(), check_trace=False)
            torch.jit.save(traced, str(self.path), _extra_files={METADATA_KEY: self.text})


def _with_metadata(content: bytes, text: str) -> bytes:
    import onnx

    graph = onnx.load_from_string(content)
    entry = graph.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, text
    written: bytes = graph.SerializeToString()
    return written


def _feed(example: Example, given: InputInfo, batch: int) -> Feed:
    image, intrinsics = example
    count = batch or 1
    tensor = np.repeat(network_input(image, given), count, axis=0)
    return tensor, np.repeat(np.array([intrinsics], np.float32), count, axis=0)


def _in_batches(call: Any, batch: int) -> Any:
    """A graph for `batch` images, run on one of them."""

    def run(image: NDArray, intrinsics: NDArray) -> NDArray:
        both = (np.repeat(one, batch, axis=0) for one in (image, intrinsics))
        maps: NDArray = call(*both)[:1]
        return maps

    return run


def _torch_runner(model: DepthModel) -> Any:
    """Float32 torch, called like `Exported.run`."""
    maps = MapsModel(model).eval()

    @torch.inference_mode()
    def run(image: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> NDArray:
        found: NDArray = maps(torch.from_numpy(image), torch.from_numpy(intrinsics)).numpy()
        return found

    return run
