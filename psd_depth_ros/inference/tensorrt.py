"""ONNX files for TensorRT 10 and 11: the precision stands in the graph.

TensorRT 11 takes the type of every tensor from the file and has no flag for half precision;
TensorRT 10 does the same when it is told to (`--stronglyTyped`). So weights are stored in half
precision, and casts stand where a part stays in float32: the stem of the encoder, what is computed
of the intrinsics alone, layer norms and softmax, and the scores of the bins and what makes depth
of them.

What is checked here is the file. It is compared with float32 torch by ONNX Runtime, where each
node computes in float32 and its result is rounded: TensorRT may add up otherwise.

Operators: https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md, of 10.15. Flags:
https://docs.nvidia.com/deeplearning/tensorrt/11.4.0/api/migration/tensorrt-10x-to-11x-trtexec.html
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psd_depth_ros.errors import DeviceError
from psd_depth_ros.inference.conversion import Shape
from psd_depth_ros.inference.onnx_graph import find_stem, find_tail, find_unseen

OPSETS = (9, 24)  # that both versions take: 10.15 knows 9 to 24, 11 knows 9 to 25
HALF_TYPES = {'fp16': 'FLOAT16', 'bf16': 'BFLOAT16'}
_BFLOAT16_OPSET = 22  # convolutions take it since then
_KEPT = ('LayerNormalization', 'Softmax')
_FLOATS = ('FLOAT', 'FLOAT16', 'BFLOAT16')
# Of those that depth networks may come to use, the ones with float32, float16 and bfloat16.
OPERATORS = frozenset((
    'Abs', 'Add', 'Asinh', 'Atan', 'AveragePool', 'Cast', 'Ceil', 'Clip', 'Concat', 'Constant',
    'ConstantOfShape', 'Conv', 'ConvTranspose', 'Cos', 'CumSum', 'DepthToSpace', 'Div', 'Elu',
    'Equal', 'Erf', 'Exp', 'Expand', 'Flatten', 'Floor', 'Gather', 'Gelu', 'Gemm',
    'GlobalAveragePool', 'Greater', 'GreaterOrEqual', 'HardSigmoid', 'HardSwish', 'Identity',
    'InstanceNormalization', 'LayerNormalization', 'LeakyRelu', 'Less', 'LessOrEqual', 'Log',
    'LogSoftmax', 'MatMul', 'Max', 'MaxPool', 'Min', 'Mul', 'Neg', 'Pad', 'Pow', 'Range',
    'Reciprocal', 'ReduceMax', 'ReduceMean', 'ReduceMin', 'ReduceSum', 'Relu', 'Reshape',
    'Resize', 'Round', 'Shape', 'Sigmoid', 'Sign', 'Sin', 'Slice', 'Softmax', 'Softplus',
    'Split', 'Sqrt', 'Squeeze', 'Sub', 'Tanh', 'Transpose', 'Unsqueeze', 'Where',
))  # fmt: skip
_RESIZE = {
    'mode': ('nearest', 'linear'),
    'coordinate_transformation_mode': (
        'half_pixel', 'pytorch_half_pixel', 'tf_half_pixel_for_nn', 'asymmetric', 'align_corners',
    ),
    'nearest_mode': ('floor', 'ceil', 'round_prefer_floor', 'round_prefer_ceil'),
    'keep_aspect_ratio_policy': ('stretch',),
    'antialias': (0,),
}  # fmt: skip
_MOST_FAULTS = 5  # told at once


@dataclass(frozen=True)
class Prepared:
    """An ONNX file, and the names of its nodes that compute in float32 on purpose."""

    content: bytes
    float32_nodes: tuple[str, ...]


def prepare(content: bytes, precision: str, stem_weights: Collection[str]) -> Prepared:
    """Write a precision into a float32 ONNX file with static shapes.

    Args:
        content: Of the file, its inputs `image` and `intrinsics`, which stay float32 like the
            output `maps`.
        precision: `fp32`, `fp16` or `bf16`.
        stem_weights: Beginnings of the names of weights whose layers stay in float32.
    """
    import onnx

    model = onnx.load_from_string(content)
    if precision not in HALF_TYPES:
        return Prepared(content, ())
    if precision == 'bf16':
        # From 18 on only types were added to the operators that are left as they are here.
        main = next(one for one in model.opset_import if one.domain in ('', 'ai.onnx'))
        main.version = max(main.version, _BFLOAT16_OPSET)
    graph = model.graph
    kept = find_stem(graph, stem_weights) | find_unseen(graph)
    kept |= find_tail(graph, inclusive=True)
    kept |= {node.name for node in graph.node if node.op_type in (*_KEPT, 'Cast', 'Constant')}
    half = getattr(onnx.TensorProto, HALF_TYPES[precision])
    _Caster(onnx, model, half, kept).apply()
    floats = tuple(node.name for node in graph.node if node.name in kept)
    return Prepared(model.SerializeToString(), floats)


class _Caster:
    """Rewrites a graph so that nodes compute in a half precision, but for those that are kept."""

    def __init__(self, onnx: Any, model: Any, half: int, kept: Collection[str]) -> None:
        self._onnx, self._graph = onnx, model.graph
        self._half, self._float = half, onnx.TensorProto.FLOAT
        self._kept = kept
        self._types = tensor_types(onnx, model)
        self._weights = {one.name: one for one in model.graph.initializer}
        self._made: dict[tuple[str, int], str] = {}
        self._nodes: list[Any] = []

    def apply(self) -> None:
        graph = self._graph
        for node in list(graph.node):
            is_half = node.name not in self._kept
            for place, name in enumerate(node.input):
                is_scale = node.op_type == 'Resize' and place in (1, 2)
                if self._types.get(name) in (self._float, self._half):
                    wanted = self._half if is_half and not is_scale else self._float
                    node.input[place] = self._as(name, wanted)
            self._nodes.append(node)
            for name in node.output:
                if is_half and self._types.get(name) == self._float:
                    self._types[name] = self._half
        for output in graph.output:
            if self._types[output.name] == self._half:
                self._rename_output(output.name)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        used = {name for node in graph.node for name in node.input}
        for one in [one for one in graph.initializer if one.name not in used]:
            graph.initializer.remove(one)

    def _as(self, name: str, wanted: int) -> str:
        """The name of a tensor in a type: a cast of it, or of a weight the weight in that type."""
        if self._types[name] == wanted:
            return name
        if (name, wanted) not in self._made:
            made = f'{name}_as_{"float32" if wanted == self._float else "half"}'
            if name in self._weights:
                self._graph.initializer.append(
                    to_half(self._onnx, self._weights[name], wanted, made)
                )
            else:
                cast = self._onnx.helper.make_node('Cast', [name], [made], made, to=wanted)
                self._nodes.append(cast)
            self._types[made] = wanted
            self._made[name, wanted] = made
        return self._made[name, wanted]

    def _rename_output(self, name: str) -> None:
        inner = f'{name}_half'
        for node in self._nodes:
            for names in (node.input, node.output):
                for place, one in enumerate(names):
                    if one == name:
                        names[place] = inner
        cast = self._onnx.helper.make_node('Cast', [inner], [name], f'{name}_cast', to=self._float)
        self._nodes.append(cast)


def to_half(onnx: Any, weight: Any, kind: int, name: str) -> Any:
    """A float32 TensorProto in float16 or bfloat16, rounded to nearest even."""
    values = onnx.numpy_helper.to_array(weight)
    made = onnx.TensorProto(name=name, data_type=kind, dims=list(weight.dims))
    if kind == onnx.TensorProto.FLOAT16:
        with np.errstate(over='ignore'):  # found by `find_faults`
            made.raw_data = values.astype('<f2').tobytes()
    else:
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        made.raw_data = rounded.astype('<u2').tobytes()
    return made


def tensor_types(onnx: Any, model: Any) -> dict[str, int]:
    """Types of all tensors of a model. Raises onnx's InferenceError where they contradict."""
    shown = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    )
    graph = shown.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {one.name: one.type.tensor_type.elem_type for one in values}
    return types | {one.name: one.data_type for one in graph.initializer}


def find_faults(
    content: bytes, precision: str, shape: Shape, float32_nodes: Collection[str]
) -> list[str]:
    """What in an ONNX file TensorRT 10 or 11 would refuse or compute in another precision.

    Args:
        content: Of the file.
        precision: `fp32`, `fp16` or `bf16`, of every float tensor.
        shape: Of the image, (B, 3, H, W).
        float32_nodes: Names of the nodes that are float32 all the same.
    """
    import onnx

    model = onnx.load_from_string(content)
    try:
        onnx.checker.check_model(model, full_check=True)
        types = tensor_types(onnx, model)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return [f'it is not valid ONNX: {str(error).strip().splitlines()[0]}']
    return [
        *_opset_faults(model),
        *_border_faults(onnx, model, shape),
        *(fault for node in model.graph.node for fault in _operator_faults(onnx, node)),
        *_type_faults(onnx, model, types, precision, frozenset(float32_nodes)),
        *_weight_faults(onnx, model),
    ]


def check_file(
    path: Path, content: bytes, precision: str, shape: Shape, float32_nodes: Collection[str]
) -> None:
    """Raise DeviceError with what `find_faults` finds."""
    faults = find_faults(content, precision, shape, float32_nodes)
    if faults:
        more = f'; and {len(faults) - _MOST_FAULTS} more' if len(faults) > _MOST_FAULTS else ''
        raise DeviceError(
            f'{path}: TensorRT would not take it: {"; ".join(faults[:_MOST_FAULTS])}{more}; '
            'export it as onnx, or change the encoder'
        )


def _opset_faults(model: Any) -> Iterator[str]:
    for one in model.opset_import:
        if one.domain not in ('', 'ai.onnx'):
            yield f'operators of the domain {one.domain!r}, expected those of ONNX'
        elif not OPSETS[0] <= one.version <= OPSETS[1]:
            yield f'opset {one.version}, expected {OPSETS[0]} to {OPSETS[1]}'


def _border_faults(onnx: Any, model: Any, shape: Shape) -> Iterator[str]:
    batch, _, height, width = shape
    wanted = {
        'image': [batch, 3, height, width],
        'intrinsics': [batch, 4],
        'maps': [batch, 3, height // 2, width // 2],
    }
    found = {one.name: one.type.tensor_type for one in (*model.graph.input, *model.graph.output)}
    for name in sorted(wanted.keys() | found.keys()):
        if name not in found or name not in wanted:
            yield f'inputs and outputs {", ".join(found)}, expected {", ".join(wanted)}'
            return
        sides = [one.dim_value or one.dim_param for one in found[name].shape.dim]
        if sides != wanted[name] or found[name].elem_type != onnx.TensorProto.FLOAT:
            kind = onnx.TensorProto.DataType.Name(found[name].elem_type)
            yield f'{name} is {kind} of shape {sides}, expected FLOAT of {wanted[name]}'


def _operator_faults(onnx: Any, node: Any) -> Iterator[str]:
    if node.op_type not in OPERATORS:
        yield f'node {node.name} is {node.op_type}, which is not among its operators'
    values = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type == 'Resize':
        for name, taken in _RESIZE.items():
            value = values.get(name)
            value = value.decode() if isinstance(value, bytes) else value
            if value is not None and value not in taken:
                expected = ', '.join(map(str, taken))
                yield f'node {node.name} has {name} {value!r}, expected {expected}'
    if node.op_type in ('AveragePool', 'MaxPool') and set(values.get('dilations', [1])) != {1}:
        yield f'node {node.name} has dilations, expected none'
    if node.op_type == 'LayerNormalization' and any(node.output[1:]):
        yield f'node {node.name} gives more than its first output'


def _type_faults(
    onnx: Any, model: Any, types: dict[str, int], precision: str, float32_nodes: frozenset[str]
) -> Iterator[str]:
    names = {getattr(onnx.TensorProto, one): one for one in _FLOATS}
    wanted = HALF_TYPES.get(precision, 'FLOAT')
    for node in model.graph.node:
        own = 'FLOAT' if node.name in float32_nodes else wanted
        inputs = node.input[:1] if node.op_type == 'Resize' else node.input  # scales are float32
        tensors = [] if node.op_type == 'Cast' else [*inputs, *node.output]
        for name in tensors:
            found = names.get(types.get(name, 0))
            if found is not None and found != own:
                yield f'tensor {name} of node {node.name} is {found}, expected {own}'
    for name, kind in types.items():
        if kind == onnx.TensorProto.DOUBLE:
            yield f'tensor {name} is DOUBLE, expected {wanted}'


def _weight_faults(onnx: Any, model: Any) -> Iterator[str]:
    for one in model.graph.initializer:
        if one.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
            values = onnx.numpy_helper.to_array(one)
            if not np.isfinite(values).all():
                yield f'weight {one.name} holds numbers that its type cannot, export it as bf16'


def emulate(content: bytes) -> bytes:
    """A file whose nodes compute in float32 on rounded inputs and round their results.

    That is what a library without kernels for half precision can run.
    """
    import onnx

    model = onnx.load_from_string(content)
    types = tensor_types(onnx, model)
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    nodes = []
    for node in list(model.graph.node):
        if node.op_type == 'Cast':
            nodes.append(node)
            continue
        after = []
        for place, name in enumerate(node.input):
            if types.get(name) in halves:
                wide = f'{name}_{node.name}_wide'
                nodes.append(_cast(onnx, name, wide, onnx.TensorProto.FLOAT))
                node.input[place] = wide
        for place, name in enumerate(node.output):
            if types.get(name) in halves:
                wide = f'{name}_wide'
                after.append(_cast(onnx, wide, name, types[name]))
                node.output[place] = wide
        nodes += [node, *after]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    emulated: bytes = model.SerializeToString()
    return emulated


def _cast(onnx: Any, source: str, target: str, kind: int) -> Any:
    return onnx.helper.make_node('Cast', [source], [target], f'cast_{target}', to=kind)


def build_commands(path: Path) -> tuple[str, str]:
    """Commands that build an engine of a file, of TensorRT 10 and of TensorRT 11."""
    command = f'trtexec --onnx={path} --saveEngine={path.with_suffix(".plan")}'
    return f'{command} --stronglyTyped', command
