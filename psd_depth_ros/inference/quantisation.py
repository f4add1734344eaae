"""Networks in 8-bit integers: static quantisation after training, on sample images.

Convolutions and products are quantised, weights for each channel, activations for each tensor. The
stem stays in float32, as for bfloat16, and so does what makes depth of the scores of the bins: a
step of 1/256 of the range of log-depth is 3 % of depth.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
import logging
from pathlib import Path
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import DeviceError
from psd_depth_ros.inference.conversion import import_nncf
from psd_depth_ros.inference.onnx_graph import find_stem, find_tail

Feed = tuple[NDArray[np.float32], NDArray[np.float32]]  # image (B, 3, H, W), intrinsics (B, 4)
OPENVINO_METHOD = 'NNCF, min and max of activations, fast bias correction'
ONNX_METHOD = 'ONNX Runtime, QDQ, min and max of activations'


def quantise_openvino(graph: Any, feeds: Sequence[Feed], stem: Collection[str]) -> Any:
    """Quantise an openvino.Model.

    Args:
        graph: With the inputs image and intrinsics.
        feeds: Inputs that the ranges of activations are taken from.
        stem: Names of nodes that stay in float32.

    Raises DeviceError where NNCF is not installed.
    """
    try:
        nncf = import_nncf()
    except ImportError as error:
        raise DeviceError(
            'int8 of openvino needs nncf: pip install "psd_depth_ros[nncf]"'
        ) from error
    logger = logging.getLogger('nncf')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return nncf.quantize(
            graph,
            nncf.Dataset(list(feeds)),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(feeds),
            ignored_scope=nncf.IgnoredScope(names=[*stem, *_openvino_tail(graph)], validate=False),
        )
    finally:
        logger.setLevel(level)


def _openvino_tail(graph: Any) -> list[str]:
    """Names of the nodes from the scores of the bins to the maps, and what makes the scores."""
    names = set()
    open_nodes = [result.input_value(0).get_node() for result in graph.get_results()]
    while open_nodes:
        node = open_nodes.pop()
        name = node.get_friendly_name()
        if name in names or node.get_type_name() in ('Constant', 'Parameter'):
            continue
        names.add(name)
        if node.get_type_name() not in ('MatMul', 'Convolution'):
            open_nodes += [one.get_node() for one in node.input_values()]
    return sorted(names)


def quantise_onnx(content: bytes, feeds: Sequence[Feed], stem_weights: Collection[str]) -> bytes:
    """Quantise an ONNX file, with a pair of QuantizeLinear and DequantizeLinear at each tensor.

    Args:
        content: Of the file in float32.
        feeds: Inputs that the ranges of activations are taken from.
        stem_weights: Beginnings of the names of weights whose layers stay in float32.
    """
    import onnx
    from onnxruntime import quantization

    model = onnx.load_from_string(content)
    kept = find_stem(model.graph, stem_weights) | find_tail(model.graph, inclusive=True)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / 'int8.onnx'
        quantization.quantize_static(
            model,
            str(path),
            _reader(feeds),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=['Conv'],
            nodes_to_exclude=sorted(kept),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
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
