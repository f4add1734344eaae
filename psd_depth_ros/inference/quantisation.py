"""Networks in 8-bit integers: static quantisation after training, on sample images.

Only the convolutions of the decoder are quantised, most of the work of a dense decoder. Weights
get a scale for each channel, activations one for each tensor. With the layers of MobileNetV2 in 8
bits, too, depth of `lite` was off by 2 % on average (99th percentile 9 to 11 %), with the
attention blocks by 4 % (14 %); with the decoder alone by 0.6 to 1 % (2 to 6 %), without the
correction of biases, which ONNX Runtime lacks, by 1 to 2 % (3 to 10 %).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import contextlib
import logging
from pathlib import Path
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import DeviceError
from psd_depth_ros.inference.conversion import import_nncf, quiet

Feed = tuple[NDArray[np.float32], NDArray[np.float32]]  # image (B, 3, H, W), intrinsics (B, 4)
OPENVINO_METHOD = 'NNCF: ranges from minimum and maximum, fast bias correction'
ONNX_METHOD = 'ONNX Runtime: QDQ, ranges from minimum and maximum'
_PART = 'model.decoder.'  # in the names of its weights and nodes


def quantise_openvino(graph: Any, feeds: Sequence[Feed]) -> Any:
    """Quantise the decoder of an openvino.Model.

    Args:
        graph: With the inputs image and intrinsics, its nodes named after the layers.
        feeds: Inputs that the ranges of activations are taken from.

    Raises DeviceError where NNCF is not installed.
    """
    try:
        nncf = import_nncf()
    except ImportError as error:
        raise DeviceError(
            'int8 of openvino needs nncf: pip install "psd_depth_ros[nncf]"'
        ) from error
    others = [
        node.get_friendly_name()
        for node in graph.get_ops()
        if _PART not in node.get_friendly_name()
        and node.get_type_name() not in ('Constant', 'Parameter', 'Result')
    ]
    assert any(_PART in node.get_friendly_name() for node in graph.get_ops()), (
        'nodes have no names'
    )
    with _silent('nncf'), quiet():
        return nncf.quantize(
            graph,
            nncf.Dataset(list(feeds)),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(feeds),
            ignored_scope=nncf.IgnoredScope(names=others, validate=False),
        )


def quantise_onnx(content: bytes, feeds: Sequence[Feed]) -> bytes:
    """Quantise the decoder of an ONNX file: QuantizeLinear and DequantizeLinear at its inputs.

    Args:
        content: Of the file in float32.
        feeds: Inputs that the ranges of activations are taken from.
    """
    import onnx
    from onnxruntime import quantization

    model = onnx.load_from_string(content)
    chosen = [
        node.name
        for node in model.graph.node
        if node.op_type == 'Conv' and any(name.startswith(_PART) for name in node.input)
    ]
    with tempfile.TemporaryDirectory() as name, _silent(''):
        path = Path(name) / 'int8.onnx'
        quantization.quantize_static(
            model,
            str(path),
            _reader(feeds),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=['Conv'],
            nodes_to_quantize=chosen,
            per_channel=True,
            # Products of 8 bits without sign and 8 with overflow on processors without VNNI.
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={'OpTypesToExcludeOutputQuantization': ['Conv']},
        )
        return path.read_bytes()


def _reader(feeds: Sequence[Feed]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(feeds)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            feed = next(self._left, None)
            return None if feed is None else {'image': feed[0], 'intrinsics': feed[1]}

    return Reader()


@contextlib.contextmanager
def _silent(name: str) -> Iterator[None]:
    """Let a logger tell errors only."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
