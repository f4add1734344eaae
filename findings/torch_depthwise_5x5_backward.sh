#!/usr/bin/env bash
# torch on a CPU, bfloat16: the backward pass of a depthwise 5x5 convolution takes 23 times that of 3x3.
#
# torch 2.13.0, CPU build, x86-64 with AVX-512, one thread, channels last. Depthwise convolutions, as in
# the decoder of FastDepth and the encoders of MobileNetV3 and EfficientNet, of 32 channels at 48x160. A
# 5x5 has 2.8 times the products of a 3x3. Forward it takes 1.3 (float32) to 2.5 (bfloat16) times as
# long, backward 4 to 10 (float32) and 23 times (bfloat16), which is as long as a full 3x3 over all
# channels. A 7x7 takes hardly more than the 5x5. A good guess would have been about 2.8 for both
# passes: to choose a small network for training by its multiply-accumulates, or by the time of its
# forward pass, is to choose wrong.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6
cat > "$folder/depthwise.py" <<'PYTHON'
import statistics
import time

import torch
from torch import nn

CHANNELS, REPEATS = 32, 15
torch.set_num_threads(1)
print(f'torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}')


def milliseconds(side, kind):
    """Medians of the forward and the backward pass of a depthwise convolution."""
    layer = nn.Conv2d(CHANNELS, CHANNELS, side, padding=side // 2, groups=CHANNELS)
    layer = layer.to(kind).to(memory_format=torch.channels_last)
    x = torch.rand(4, CHANNELS, 48, 160).to(kind).to(memory_format=torch.channels_last)
    x.requires_grad_()
    forward, backward = [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        y = layer(x)
        middle = time.perf_counter()
        y.backward(torch.ones_like(y))
        backward.append(1e3 * (time.perf_counter() - middle))
        forward.append(1e3 * (middle - start))
    return statistics.median(forward), statistics.median(backward)


same = False
for kind in (torch.float32, torch.bfloat16):
    times = {side: milliseconds(side, kind) for side in (3, 5, 7)}
    for side, (forward, backward) in times.items():
        print(f'{kind}, {side}x{side}: forward {forward:.2f} ms, backward {backward:.2f} ms')
    forward, backward = (times[5][place] / times[3][place] for place in (0, 1))
    print(f'{kind}: 5x5 over 3x3: forward {forward:.1f}, backward {backward:.1f}')
    same = backward > 8.0 and backward > 3.0 * forward  # of bfloat16, the last
raise SystemExit(0 if same else 'this has changed')
PYTHON
"$folder/venv/bin/python" "$folder/depthwise.py"
