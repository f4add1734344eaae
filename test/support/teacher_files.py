"""Small ONNX and TensorFlow Lite networks, made in the test, which is skipped without onnx."""

from pathlib import Path

import pytest

_FLOAT = 1  # of the types of ONNX
_QUANTIZE = 114  # of the operators of TensorFlow Lite
_UINT8 = 3


def write_onnx(path, nodes, shape, outputs, kind=_FLOAT):
    """A network of nodes with the input `image`; `outputs` are (name, type)."""
    onnx = pytest.importorskip('onnx')
    helper = onnx.helper
    given = helper.make_tensor_value_info('image', kind, shape)
    results = [helper.make_tensor_value_info(name, type_, None) for name, type_ in outputs]
    graph = helper.make_graph(nodes, 'made', [given], results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=9)
    onnx.save(model, str(path))
    return path


def write_red(path, output='depth', shape=(1, 3, 4, 6), axis=1):
    """A network that gives the first colour as it comes in."""
    helper = pytest.importorskip('onnx').helper
    first = [
        helper.make_node('Constant', [], ['zero'], value_ints=[0]),
        helper.make_node('Gather', ['image', 'zero'], [output], axis=axis),
    ]
    return write_onnx(path, first, shape, [(output, _FLOAT)])


def write_tflite(path: Path, shape=(1, 4, 6, 3), scale=0.01, zero_point=10) -> Path:
    """A network of 8 bits that stores its input with another scale and zero point."""
    builder = pytest.importorskip('flatbuffers').Builder(1024)
    put = {
        'i': (4, builder.PrependInt32),
        'o': (4, builder.PrependUOffsetTRelative),
        'f': (4, builder.PrependFloat32),
        'q': (8, builder.PrependInt64),
    }
    slot = {
        'o': builder.PrependUOffsetTRelativeSlot,
        'b': builder.PrependInt8Slot,
        'u': builder.PrependUint32Slot,
        'i': builder.PrependInt32Slot,
    }

    def vector(items, kind):
        size, prepend = put[kind]
        builder.StartVector(size, len(items), size)
        for item in reversed(items):
            prepend(item)
        return builder.EndVector()

    def table(count, *fields):
        builder.StartObject(count)
        for place, kind, value in fields:
            slot[kind](place, value, 0)
        return builder.EndObject()

    def tensor(name, own_scale, own_zero):
        text, sides = builder.CreateString(name), vector(shape, 'i')
        scales, zeros = vector([own_scale], 'f'), vector([own_zero], 'q')
        quantisation = table(7, (2, 'o', scales), (3, 'o', zeros))
        return table(10, (0, 'o', sides), (1, 'b', _UINT8), (3, 'o', text), (4, 'o', quantisation))

    tensors = vector([tensor('image', 1 / 255, 0), tensor('scores', scale, zero_point)], 'o')
    first, second = vector([0], 'i'), vector([1], 'i')
    operators = vector([table(9, (1, 'o', first), (2, 'o', second))], 'o')
    graph = table(5, (0, 'o', tensors), (1, 'o', first), (2, 'o', second), (3, 'o', operators))
    code = table(4, (0, 'b', _QUANTIZE), (2, 'i', 1), (3, 'i', _QUANTIZE))
    codes, graphs, buffers = (vector([one], 'o') for one in (code, graph, table(3)))
    builder.Finish(
        table(8, (0, 'u', 3), (1, 'o', codes), (2, 'o', graphs), (4, 'o', buffers)), b'TFL3'
    )
    path.write_bytes(bytes(builder.Output()))
    return path
