#!/bin/bash
# OpenVINO's interpolation "bilinear_pillow" on a CPU takes several times as long as Pillow itself.
#
# Expected of the mode BILINEAR_PILLOW of Interpolate-11 (antialiased shrinking, made so that
# preprocessing can move into the graph): Pillow's pixels, at the speed of the vectorised kernels
# beside it or at least at Pillow's. Behaviour seen with openvino 2026.4.1 on a CPU with AVX-512, one
# thread, uint8 640x480 to 256x192: the pixels are those of Pillow 13.0.0 within one level, in 11 ms
# with planes and with interleaved channels alike; Pillow takes 1.6 ms, torch's
# interpolate(antialias=True) 0.3 ms. So resizing in the graph costs as much as a small network.
# Ends with 0 while it takes more than twice as long as Pillow, with 1 once that has changed.
set -eu -o pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 pillow==13.0.0 numpy==2.4.6
cat > "$folder/resize.py" <<'PYTHON'
import sys
sys.modules['openvino_telemetry'] = None  # no usage statistics
import time

import numpy as np
import openvino
from openvino import opset11
from PIL import Image

HEIGHT, WIDTH, SIZE = 480, 640, (192, 256)
image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def least_ms(run):
    times = []
    for _ in range(30):
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def compile_resize(shape, axes):
    given = opset11.parameter(list(shape), np.uint8)
    resized = opset11.interpolate(
        given, opset11.constant(np.array(SIZE, np.int32)), 'bilinear_pillow', 'sizes',
        axes=opset11.constant(np.array(axes, np.int32)),
    )
    settings = {'INFERENCE_NUM_THREADS': 1}
    model = openvino.Model([resized], [given])
    return openvino.Core().compile_model(model, 'CPU', settings).create_infer_request()


pillow = Image.fromarray(image)
wanted = np.asarray(pillow.resize(SIZE[::-1], Image.BILINEAR)).astype(int)
pillow_ms = least_ms(lambda: pillow.resize(SIZE[::-1], Image.BILINEAR))
print(f'Pillow: {pillow_ms:.1f} ms')
slowest = []
for name, given, axes, back in (
    ('planes', np.ascontiguousarray(image.transpose(2, 0, 1)[None]), (2, 3), (1, 2, 0)),
    ('interleaved', image[None], (1, 2), (0, 1, 2)),
):
    request = compile_resize(given.shape, axes)
    run = lambda: request.infer([given], share_inputs=True, share_outputs=True)[0]
    difference = int(np.abs(run()[0].transpose(back).astype(int) - wanted).max())
    slowest.append(least_ms(run))
    print(f'OpenVINO {openvino.__version__.split("-")[0]}, {name}: {slowest[-1]:.1f} ms, '
          f'at most {difference} levels off')
    assert difference <= 1
sys.exit(min(slowest) < 2 * pillow_ms)
PYTHON
"$folder/venv/bin/python" "$folder/resize.py"
