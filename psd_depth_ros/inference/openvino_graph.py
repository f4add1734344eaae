"""Graphs of OpenVINO whose stem can be told from the rest, so that it stays in float32.

OpenVINO takes one precision for a whole graph. A graph for bfloat16 is therefore stored whole, the
output of the stem bears a name, and the reader cuts it there into two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from psd_depth_ros.inference.conversion import (
    import_openvino,
    MapsModel,
    RestModel,
    StemModel,
    to_openvino,
)
from psd_depth_ros.networks import DepthModel

STEM_NAME = 'stem'  # of the tensor between both


def to_graph(model: DepthModel, image: Tensor, intrinsics: Tensor, any_batch: bool = False) -> Any:
    """An openvino.Model of a depth network; the output of a stem is called `STEM_NAME`."""
    if not model.encoder.has_stem:
        maps = MapsModel(model).eval()
        return to_openvino(maps, image, intrinsics, any_batch=any_batch)
    stem, rest = StemModel(model).eval(), RestModel(model).eval()
    with torch.no_grad():
        between = stem(image)
    first = to_openvino(stem, image, any_batch=any_batch)
    second = to_openvino(rest, between, intrinsics, any_batch=any_batch)
    return _join(first, second)


def _join(stem: Any, rest: Any) -> Any:
    openvino = import_openvino()
    source = stem.outputs[0].get_node().input_value(0)
    source.get_tensor().set_names({STEM_NAME})
    for index, node in enumerate(stem.get_ordered_ops()):  # names are unique in a graph
        if node.get_type_name() not in ('Parameter', 'Result'):
            node.set_friendly_name(f'{STEM_NAME}/{index}')
    between, intrinsics = rest.get_parameters()
    _replace(between.output(0), source)
    image = stem.get_parameters()[0]
    return openvino.Model(rest.get_results(), [image, intrinsics], 'maps')


def split(graph: Any) -> tuple[Any, ...]:
    """The stem and the rest as graphs of their own; the whole graph where it has no stem.

    The graph that is given cannot be used afterwards.
    """
    openvino = import_openvino()
    outputs = (out for node in graph.get_ordered_ops() for out in node.outputs())
    source = next((out for out in outputs if STEM_NAME in out.get_names()), None)
    if source is None:
        return (graph,)
    image, intrinsics = graph.get_parameters()
    between = openvino.op.Parameter(source.get_element_type(), source.get_partial_shape())
    _replace(source, between.output(0))
    stem = openvino.Model([openvino.op.Result(source)], [image], STEM_NAME)
    return stem, openvino.Model(graph.get_results(), [between, intrinsics], 'rest')


def _replace(old: Any, new: Any) -> None:
    """Feed everything that read one output from another one."""
    for target in old.get_target_inputs():
        target.replace_source_output(new)


class GraphRunner:
    """Graphs that run one after the other on the CPU: the first takes the image, the last both.

    `precisions` are hints, one for each graph: `f32` or `bf16`.
    """

    def __init__(self, graphs: Sequence[Any], precisions: Sequence[str]) -> None:
        core = import_openvino().Core()
        compiled = [
            core.compile_model(graph, 'CPU', cpu_settings(precision))
            for graph, precision in zip(graphs, precisions, strict=True)
        ]
        # A CPU without bfloat16 computes in float32, whatever the hint.
        computed = compiled[-1].get_property('INFERENCE_PRECISION_HINT')
        self.is_bfloat16 = computed.get_type_name() == 'bf16'
        self._requests = [one.create_infer_request() for one in compiled]

    def __call__(self, image: Any, intrinsics: Any) -> Any:
        """Arrays (B, 3, H, W) and (B, 4) to maps (B, 3, h, w)."""
        *stem, rest = self._requests
        for part in stem:
            image = part.infer([image], share_inputs=True, share_outputs=True)[0]
        return rest.infer([image, intrinsics], share_inputs=True)[0]


def cpu_settings(precision: str) -> dict[str, Any]:
    """Settings of a network that is compiled for one image at a time."""
    return {
        'INFERENCE_PRECISION_HINT': precision,
        'PERFORMANCE_HINT': 'LATENCY',
        # Pinned threads wait for whatever else runs on their core: beside one busy process on two
        # cores, 2,000 ms per image instead of 160.
        'ENABLE_CPU_PINNING': False,
    }
