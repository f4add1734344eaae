"""Networks in ONNX and TensorFlow Lite files: what goes in, what comes out.

ONNX runs with ONNX Runtime, TensorFlow Lite with OpenVINO, which computes quantised networks in
floats: its maps are a little better than those of 8-bit arithmetic, and not the same to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import glob
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.external.network import Image, Network, normalise, one_line
from psd_depth_ros.external.options import hash_files, NetworkOptions
from psd_depth_ros.external.tflite import Quantisation, read_quantisation
from psd_depth_ros.parsing import ParseError, read_bytes
from psd_depth_ros.preprocess import choose_input_size

_MOST_BYTES = 4_000_000_000
_DEFAULT_MULTIPLE = 32
_TYPES = {'float32': np.float32, 'float16': np.float16, 'uint8': np.uint8, 'int8': np.int8}


@dataclass(frozen=True)
class _Input:
    """The input of a network; sides are 0 where it takes any."""

    name: str
    height: int
    width: int
    channels_last: bool
    kind: str


class FileNetwork(Network):
    """A network of an ONNX or TFLite file.

    `output` is the name of the output that is taken.
    """

    def __init__(self, path: Path, options: NetworkOptions) -> None:
        """Load the file. Raises SettingsError."""
        self.path = path
        self._options = options
        try:
            content = read_bytes(path, _MOST_BYTES)
        except ParseError as error:
            raise SettingsError(f'network {path} {error}') from error
        # Large ONNX networks have their weights in files beside, NAME.onnx.data or the like.
        beside = sorted(path.parent.glob(f'{glob.escape(path.name)}[._]*'))
        self.content = hash_files([path, *beside], path.parent)
        load = _load_onnx if path.suffix == '.onnx' else _load_tflite
        self.library = 'onnxruntime' if path.suffix == '.onnx' else 'openvino'
        inputs, outputs, self._run, self._quantisation = load(path, content)
        self._input = self._check_input(inputs)
        self.output = self._choose_output(list(outputs))
        self._check_settings()

    @property
    def size(self) -> tuple[int, int]:
        """See `Network.size`."""
        options, given = self._options, self._input
        return given.height or options.height, given.width or options.width

    def input_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """See `Network.input_size`; of networks of any size one of the shape of the image."""
        if all(self.size):
            return self.size
        multiple = self._options.multiple or _DEFAULT_MULTIPLE
        height, width = image_size
        return choose_input_size(width, height, self._options.pixel_budget, multiple)

    def run_with_sky(self, image: Image) -> tuple[NDArray, NDArray | None]:
        """See `Network.run_with_sky`."""
        try:
            outputs = self._run(self._input.name, self._tensor(image))
        except Exception as error:  # of types of its own, none of them public
            height, width = image.shape[:2]
            raise SettingsError(
                f'network {self.path} refuses an input of {width}x{height}: {one_line(error)}; '
                'give a size that it takes as height and width, or pixel_budget and multiple'
            ) from error
        sky = self._options.sky_output
        return self._read(outputs, self.output), self._read(outputs, sky) if sky else None

    def _read(self, outputs: Mapping[str, NDArray], name: str) -> NDArray:
        """The maps (C, h, w) or (h, w) of an output."""
        found = self._dequantise(np.asarray(outputs[name]), name)
        if found.ndim == 4 and len(found) == 1:
            found = found[0]
            return found.transpose(2, 0, 1) if self._input.channels_last else found
        if found.ndim == 3 and len(found) == 1:
            return found[0]
        raise SettingsError(
            f'network {self.path}: output {name!r} has shape {found.shape}, expected a map of one '
            'image, (1, C, h, w), (1, h, w, C) or (1, h, w); name another one of '
            f'{", ".join(outputs)} as output_name or sky_output, or export the network with a map'
        )

    def _tensor(self, image: Image) -> NDArray:
        """The input (1, 3, h, w) or (1, h, w, 3) of an image (h, w, 3)."""
        pixels: NDArray = image[..., ::-1] if self._options.channels == 'bgr' else image
        if self._input.kind == 'int8':
            pixels = (pixels.astype(np.int16) - 128).astype(np.int8)
        elif self._input.kind != 'uint8':
            pixels = normalise(image, self._options).astype(_TYPES[self._input.kind])
        if not self._input.channels_last:
            pixels = pixels.transpose(2, 0, 1)
        return np.ascontiguousarray(pixels[None])

    def _dequantise(self, output: NDArray, name: str) -> NDArray:
        found = self._quantisation.get(name)
        if found is None:
            return output
        return (output.astype(np.float32) - np.float32(found.zero_point)) * np.float32(found.scale)

    def _check_input(self, inputs: list[tuple[str, list[Any], str]]) -> _Input:
        if len(inputs) != 1:
            raise SettingsError(
                f'network {self.path} has the inputs {", ".join(name for name, *_ in inputs)}, '
                'expected one, the image'
            )
        name, shape, kind = inputs[0]
        sides = [side if isinstance(side, int) and side > 0 else 0 for side in shape]
        is_image = len(sides) == 4 and sides[0] in (0, 1) and 3 in (sides[1], sides[3])
        if not is_image or kind not in _TYPES:
            raise SettingsError(
                f'network {self.path}: input {name!r} is {kind} of shape {shape}, expected one '
                f'RGB image (1, 3, H, W) or (1, H, W, 3) of {", ".join(_TYPES)}'
            )
        last = sides[1] != 3
        height, width = sides[1:3] if last else sides[2:4]
        given = _Input(name, height, width, last, kind)
        options = self._options
        is_known = (height or options.height) and (width or options.width)
        if not is_known and not options.pixel_budget:
            raise SettingsError(
                f'network {self.path} takes images of any size; give height and width, such as '
                f'{self.path.name}?height=384&width=512, or pixel_budget'
            )
        return given

    def _choose_output(self, names: list[str]) -> str:
        wanted, sky = self._options.output_name, self._options.sky_output
        if sky and sky not in names:
            raise SettingsError(
                f'network {self.path} has no output {sky!r}, only {", ".join(names)}; give one of '
                'them as sky_output, or leave it out'
            )
        if wanted in names:
            return wanted
        others = [name for name in names if name != sky]
        if len(others) == 1 and not wanted:
            return others[0]
        raise SettingsError(
            f'network {self.path} has the outputs {", ".join(names)}; give one of them as '
            'output_name'
        )

    def _check_settings(self) -> None:
        options, plain = self._options, NetworkOptions()
        is_changed = (options.mean, options.std, options.input_max) != (
            plain.mean, plain.std, plain.input_max
        )  # fmt: skip
        if is_changed and self._input.kind in ('uint8', 'int8'):
            raise SettingsError(
                f'network {self.path} takes whole numbers ({self._input.kind}); leave out mean, '
                'std and input_max'
            )
        own, given = (self._input.height, self._input.width), (options.height, options.width)
        if options.pixel_budget and all(own):
            raise SettingsError(
                f'network {self.path} takes images of {own[1]}x{own[0]} only; leave out '
                'pixel_budget'
            )
        if any(given) and any(mine and mine != one for mine, one in zip(own, given, strict=True)):
            raise SettingsError(
                f'network {self.path} takes images of {own[1]}x{own[0]} only; leave out height '
                'and width'
            )


Loaded = tuple[
    list[tuple[str, list[Any], str]], list[str], Any, Mapping[str, Quantisation]
]  # inputs, outputs, how to run it, quantised outputs


def _load_onnx(path: Path, content: bytes) -> Loaded:
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing(path, 'onnxruntime') from error
    try:
        # By its path, as large networks have their weights in a file beside it.
        session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    except Exception as error:  # of types of its own, none of them public
        raise SettingsError(
            f'network {path} is no ONNX network that can run: {one_line(error)}'
        ) from error
    inputs = [(one.name, list(one.shape), _onnx_type(one.type)) for one in session.get_inputs()]
    outputs = [one.name for one in session.get_outputs()]

    def run(name: str, tensor: NDArray) -> dict[str, NDArray]:
        return dict(zip(outputs, session.run(None, {name: tensor}), strict=True))

    return inputs, outputs, run, {}


def _onnx_type(text: str) -> str:
    name = text.removeprefix('tensor(').removesuffix(')')
    return {'float': 'float32'}.get(name, name)


def _load_tflite(path: Path, content: bytes) -> Loaded:
    try:
        import openvino
    except ImportError as error:
        raise _missing(path, 'openvino') from error
    settings = {
        'INFERENCE_PRECISION_HINT': 'f32',
        'PERFORMANCE_HINT': 'LATENCY',
        'ENABLE_CPU_PINNING': False,  # see inference.backends
    }
    try:
        quantisation = read_quantisation(content)
        core = openvino.Core()
        model = core.read_model(str(path))
        compiled = core.compile_model(model, 'CPU', settings)
    except ParseError as error:
        raise SettingsError(f'network {path} {error}') from error
    except Exception as error:  # RuntimeError and types of its own
        raise SettingsError(
            f'network {path} is no TFLite network that can run: {one_line(error)}'
        ) from error
    inputs = [
        (
            one.get_any_name(),
            [side.get_length() if side.is_static else 0 for side in one.get_partial_shape()],
            np.dtype(one.get_element_type().to_dtype()).name,
        )
        for one in model.inputs
    ]
    outputs = [one.get_any_name() for one in model.outputs]
    if len(outputs) == len(quantisation) == 1:  # whatever its name
        quantisation = dict(zip(outputs, quantisation.values(), strict=True))

    def run(_: str, tensor: NDArray) -> dict[str, NDArray]:
        found = compiled([tensor])
        return {name: found[place] for place, name in enumerate(outputs)}

    return inputs, outputs, run, {k: v for k, v in quantisation.items() if v is not None}


def _missing(path: Path, package: str) -> SettingsError:
    return SettingsError(
        f'network {path} needs {package}: pip install "psd_depth_ros[{package}]", or compute its '
        'maps elsewhere and give their folder'
    )
