"""ONNX files for TensorRT: the precision of every tensor, and what would be refused."""

import numpy as np
import pytest

pytest.importorskip('onnxruntime')
onnx = pytest.importorskip('onnx')

from onnx import helper, numpy_helper, TensorProto  # noqa: E402

from psd_depth_ros.errors import DeviceError  # noqa: E402
from psd_depth_ros.inference.exported import run_onnx  # noqa: E402
from psd_depth_ros.inference.tensorrt import (  # noqa: E402
    build_commands,
    check_file,
    emulate,
    find_faults,
    prepare,
)

SHAPE = (1, 3, 8, 12)


def network(opset=20, **resize):
    """A stem, a convolution, a term of the intrinsics alone, a softmax and a tail."""
    generator = np.random.default_rng(0)

    def weight(name, *shape):
        values = generator.normal(size=shape).astype(np.float32)
        return numpy_helper.from_array(values, name)

    weights = [
        weight('model.encoder.first.weight', 4, 3, 3, 3),
        weight('second.weight', 4, 4, 3, 3),
        weight('third.weight', 3, 4, 1, 1),
        numpy_helper.from_array(np.array([1.0, 1.0, 2.0, 2.0], np.float32), 'scales'),
        numpy_helper.from_array(np.array([1, 4, 1, 1], np.int64), 'form'),
    ]
    resizing = {'mode': 'nearest', 'coordinate_transformation_mode': 'asymmetric',
                'nearest_mode': 'floor', **resize}  # fmt: skip
    nodes = [
        helper.make_node('Conv', ['image', 'model.encoder.first.weight'], ['a'], 'stem',
                         strides=[2, 2], pads=[0, 0, 1, 1]),
        helper.make_node('Elu', ['a'], ['b'], 'elu'),
        helper.make_node('Conv', ['b', 'second.weight'], ['c'], 'second', strides=[2, 2],
                         pads=[1, 1, 1, 1]),
        helper.make_node('Atan', ['intrinsics'], ['d'], 'angles'),
        helper.make_node('Reshape', ['d', 'form'], ['e'], 'place'),
        helper.make_node('Add', ['c', 'e'], ['f'], 'add'),
        helper.make_node('Softmax', ['f'], ['g'], 'softmax', axis=1),
        helper.make_node('Resize', ['g', '', 'scales'], ['h'], 'resize', **resizing),
        helper.make_node('Conv', ['h', 'third.weight'], ['i'], 'third'),
        helper.make_node('Sqrt', ['j'], ['maps'], 'tail'),
    ]  # fmt: skip
    nodes.insert(-1, helper.make_node('Abs', ['i'], ['j'], 'abs'))
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (('image', SHAPE), ('intrinsics', (1, 4)), ('maps', (1, 3, 4, 6)))
    ]
    graph = helper.make_graph(nodes, 'maps', values[:2], values[2:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', opset)])
    model.ir_version = 10
    return model.SerializeToString()


def prepared(precision, content=None):
    return prepare(content or network(), precision, ['model.encoder.first.weight'])


@pytest.mark.parametrize(('precision', 'opset'), [('fp32', 20), ('fp16', 20), ('bf16', 22)])
def test_a_prepared_file_passes_and_gives_the_same_maps(precision, opset):
    found = prepared(precision)
    assert find_faults(found.content, precision, SHAPE, found.float32_nodes) == []
    assert onnx.load_from_string(found.content).opset_import[0].version == opset
    generator = np.random.default_rng(1)
    feed = generator.normal(size=SHAPE), generator.normal(size=(1, 4))
    image, intrinsics = (one.astype(np.float32) for one in feed)
    wanted = run_onnx(network())(image, intrinsics)
    maps = run_onnx(emulate(found.content))(image, intrinsics)
    error = np.abs(maps - wanted).max()
    low, high = {'fp32': (0.0, 1e-6), 'fp16': (1e-6, 0.003), 'bf16': (3e-4, 0.03)}[precision]
    assert low <= error <= high


def test_stem_angles_softmax_and_tail_stay_in_float32():
    found = prepared('fp16')
    kept = {'stem', 'angles', 'place', 'softmax', 'third', 'abs', 'tail'}
    assert kept <= set(found.float32_nodes)
    assert not {'elu', 'second', 'add', 'resize'} & set(found.float32_nodes)
    graph = onnx.load_from_string(found.content).graph
    weights = {one.name: one.data_type for one in graph.initializer}
    assert weights['model.encoder.first.weight'] == TensorProto.FLOAT
    assert weights['second.weight_as_half'] == TensorProto.FLOAT16
    assert weights['scales'] == TensorProto.FLOAT
    assert 'second.weight' not in weights


def test_a_tensor_of_another_precision_is_found():
    found = prepared('fp16')
    faults = find_faults(found.content, 'fp16', SHAPE, set(found.float32_nodes) - {'softmax'})
    assert any('node softmax is FLOAT, expected FLOAT16' in one for one in faults)
    faults = find_faults(network(), 'fp16', SHAPE, ())
    assert any('node second is FLOAT, expected FLOAT16' in one for one in faults)


def test_types_that_contradict_are_found():
    """TensorRT would refuse to add a float16 and a float32 tensor."""
    found = prepared('fp16')
    model = onnx.load_from_string(found.content)
    cast = next(node for node in model.graph.node if node.op_type == 'Cast')
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name == cast.output[0]:
                node.input[place] = cast.input[0]
    model.graph.node.remove(cast)
    faults = find_faults(model.SerializeToString(), 'fp16', SHAPE, found.float32_nodes)
    assert faults
    assert 'not valid ONNX' in faults[0] or 'expected FLOAT16' in faults[0]


@pytest.mark.parametrize(
    ('content', 'shape', 'fault'),
    [
        (network(opset=25), SHAPE, 'opset 25, expected 9 to 24'),
        (network(nearest_mode='round_prefer_floor', mode='cubic'), SHAPE, "mode 'cubic'"),
        (network(), (2, 3, 8, 12), r'image is FLOAT of shape \[1, 3, 8, 12\], expected FLOAT of'),
        (network(), (1, 3, 16, 12), r'maps is FLOAT'),
    ],
)
def test_what_tensorrt_would_refuse_is_named(tmp_path, content, shape, fault):
    with pytest.raises(DeviceError, match=fault):
        check_file(tmp_path / 'net.onnx', content, 'fp32', shape, ())


def test_an_unknown_operator_and_weights_that_overflow_are_named():
    model = onnx.load_from_string(network())
    next(node for node in model.graph.node if node.name == 'abs').op_type = 'Erf'
    next(node for node in model.graph.node if node.name == 'tail').op_type = 'Mish'
    second = next(one for one in model.graph.initializer if one.name == 'second.weight')
    second.CopyFrom(numpy_helper.from_array(np.full((4, 4, 3, 3), 1e5, np.float32), second.name))
    found = prepared('fp16', model.SerializeToString())
    faults = find_faults(found.content, 'fp16', SHAPE, found.float32_nodes)
    assert any('node tail is Mish, which is not among its operators' in one for one in faults)
    assert any('second.weight_as_half holds numbers' in one for one in faults)
    assert not any('Erf' in one for one in faults)


def test_the_commands_name_the_file_and_differ_in_the_flag(tmp_path):
    first, second = build_commands(tmp_path / 'net.onnx')
    assert first == f'{second} --stronglyTyped'
    assert second == f'trtexec --onnx={tmp_path}/net.onnx --saveEngine={tmp_path}/net.plan'
