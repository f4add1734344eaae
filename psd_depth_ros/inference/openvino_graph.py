"""Graphs of OpenVINO whose stem can be told from the rest, so that it stays in float32.

OpenVINO takes one precision for a whole graph. A graph for bfloat16 is therefore stored whole, the
output of the stem bears a name, and the reader cuts it there into two. `torch_conversion` makes
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psd_depth_ros.inference.conversion import import_openvino

STEM_NAME = 'stem'  # of the tensor between both


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
    replace_readers(source, between.output(0))
    stem = openvino.Model([openvino.op.Result(source)], [image], STEM_NAME)
    return stem, openvino.Model(graph.get_results(), [between, intrinsics], 'rest')


def replace_readers(old: Any, new: Any) -> None:
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
