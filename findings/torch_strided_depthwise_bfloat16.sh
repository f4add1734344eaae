#!/usr/bin/env bash
# torch on a CPU, bfloat16: the gradient of the input of a depthwise 3x3 with stride 2 takes 30 times
# that of float32.
#
# torch 2.13.0, CPU build, x86-64 with AVX-512 and bfloat16, one thread, channels last. Depthwise
# convolutions with stride 2, four of which are in MobileNetV2. Forward, with stride 1, and for the
# gradient of the weights bfloat16 takes 0.6 to 1.1 times as long as float32; for the gradient of the
# input with stride 2 it takes 33 to 54 times as long (10 and 12 ms for maps of 1.5 and 1.3 million
# values), more than the rest of its block. A good guess would have been that of stride 1. To compute
# this one gradient in float32, an image at a time, takes a tenth.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6
cat > "$folder/strided.py" <<'PYTHON'
import time

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
print(f'torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}')
SHAPES = ((9, 192, 17, 53), (9, 576, 9, 27))


def least_ms(run):
    times = []
    for _ in range(20):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def measure(shape, kind, stride):
    """Forward, gradient of the input, gradient of the weights."""
    x = torch.randn(shape).to(kind).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(shape[1], 1, 3, 3).to(kind).requires_grad_()
    y = F.conv2d(x, weight, stride=stride, groups=shape[1])
    ones = torch.ones_like(y)
    return (
        least_ms(lambda: F.conv2d(x, weight, stride=stride, groups=shape[1])),
        least_ms(lambda: torch.autograd.grad(y, x, ones, retain_graph=True)),
        least_ms(lambda: torch.autograd.grad(y, weight, ones, retain_graph=True)),
    )


same = True
for shape in SHAPES:
    for stride in (1, 2):
        slow, fast = (measure(shape, kind, stride) for kind in (torch.bfloat16, torch.float32))
        for name, half, full in zip(('forward', 'input', 'weights'), slow, fast):
            print(f'{shape}, stride {stride}, {name}: bfloat16 {half:.2f} ms, float32 {full:.2f} ms')
        ratio = slow[1] / fast[1]
        same &= ratio > 5.0 if stride == 2 else ratio < 3.0
raise SystemExit(0 if same else 'this has changed')
PYTHON
"$folder/venv/bin/python" "$folder/strided.py"
