#!/usr/bin/env bash
# ONNX Runtime on a CPU: a float16 network runs, the same network in bfloat16 does not load.
#
# onnxruntime 1.31.1, onnx 1.23.2, CPU execution provider. A network of one convolution, valid by
# onnx.checker, operator set 22, in which ONNX allows both types. In float16 the session is made, and the
# result is right to half precision: casts to float32 are put around the convolution. In bfloat16 no
# session is made: NOT_IMPLEMENTED, for there is no kernel, and no cast is put in its place. A good
# guess would have been that both are treated alike, since neither has a kernel of its own on most
# processors. A file in bfloat16 that was written for a GPU cannot be compared on the CPU this way;
# float32 nodes between casts of their own can.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.31.1 onnx==1.23.2 numpy==2.2.6 ml_dtypes==0.5.4
cat > "$folder/halves.py" <<'PYTHON'
import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import onnxruntime

print(f'onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}')
rng = np.random.default_rng(0)
weight = rng.normal(size=(4, 3, 3, 3)).astype(np.float32)
image = rng.normal(size=(1, 3, 8, 8)).astype(np.float32)


def network(kind, dtype):
    """A convolution in a half precision between two casts, so that both ends are float32."""
    nodes = [
        helper.make_node('Cast', ['image'], ['half'], to=kind),
        helper.make_node('Conv', ['half', 'weight'], ['found'], pads=[1, 1, 1, 1]),
        helper.make_node('Cast', ['found'], ['result'], to=TensorProto.FLOAT),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (('image', (1, 3, 8, 8)), ('result', (1, 4, 8, 8)))
    ]
    stored = numpy_helper.from_array(weight.astype(dtype), 'weight')
    graph = helper.make_graph(nodes, 'one', ends[:1], ends[1:], [stored])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 22)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def run(content):
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    return session.run(None, {'image': image})[0]


padded = np.pad(image[0], ((0, 0), (1, 1), (1, 1)))
windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
expected = np.einsum('ocij,chwij->ohw', weight, windows)
error = np.abs(run(network(TensorProto.FLOAT16, np.float16))[0] - expected).max()
print(f'float16: runs, off by at most {error:.4f} where values reach {np.abs(expected).max():.1f}')
assert error < 0.05
try:
    run(network(TensorProto.BFLOAT16, ml_dtypes.bfloat16))
except Exception as problem:
    said = str(problem).splitlines()[0]
    print(f'bfloat16: {said[:110]}')
    assert 'NOT_IMPLEMENTED' in said and 'Conv' in said, said
else:
    raise SystemExit('bfloat16 runs now')
PYTHON
"$folder/venv/bin/python" "$folder/halves.py"
