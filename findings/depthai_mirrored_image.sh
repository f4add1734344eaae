#!/usr/bin/env bash
# DepthAI's ImageManip on the host: a mirrored image is shifted by a pixel, and mirrored twice it is black.
#
# depthai 3.12.0, no device: a pipeline of one ImageManip with setRunOnHost(True). Expected of
# addFlipHorizontal: column i of W becomes column W - 1 - i, as cv2.flip and torch.flip do. Seen: it becomes
# column W - i, so that the first column of the result is empty and column 0 of the image is lost. The
# intrinsics that come with the frame say the same (cx becomes W - cx, not W - 1 - cx): they fit this picture
# and none that something else mirrored. Two flips in a row come with the intrinsics of the image as it was,
# and with an image that is zero everywhere.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q depthai==3.12.0 numpy==2.4.6 opencv-python-headless==5.0.0.93
cat > "$folder/mirror.py" <<'PYTHON'
import depthai as dai
import numpy as np

HEIGHT, WIDTH, CX = 48, 64, 31.5
image = np.broadcast_to(np.arange(1, WIDTH + 1, dtype=np.uint8), (HEIGHT, WIDTH)).copy()


def manipulate(configure):
    """A row of the result and the horizontal principal point that comes with it."""
    with dai.Pipeline(False) as pipeline:
        node = pipeline.create(dai.node.ImageManip)
        node.setRunOnHost(True)
        configure(node.initialConfig)
        given, made = node.inputImage.createInputQueue(), node.out.createOutputQueue()
        pipeline.start()
        frame = dai.ImgFrame()
        frame.setCvFrame(image, dai.ImgFrame.Type.GRAY8)
        matrix = [[50.0, 0.0, CX], [0.0, 50.0, 23.5], [0.0, 0.0, 1.0]]
        frame.setTransformation(dai.ImgTransformation(WIDTH, HEIGHT, matrix))
        given.send(frame)
        result = made.get()
        cx = np.array(result.getTransformation().getIntrinsicMatrix())[0, 2]
        return result.getCvFrame()[HEIGHT // 2].copy(), cx


print('depthai', dai.__version__)
once, cx_once = manipulate(lambda config: config.addFlipHorizontal())
twice, cx_twice = manipulate(lambda config: config.addFlipHorizontal().addFlipHorizontal())
print(f'columns numbered from 1, mirrored once: {once[:3]} .. {once[-3:]}, cx {CX} became {cx_once}')
print(f'mirrored twice: values {np.unique(twice)}, cx {cx_twice}')
assert once[0] == 0 and (once[1:] == np.arange(WIDTH, 1, -1)).all() and abs(cx_once - (WIDTH - CX)) < 1e-3
assert (twice == 0).all() and abs(cx_twice - CX) < 1e-3
PYTHON
"$folder/venv/bin/python" "$folder/mirror.py" 2>&1 | grep -v 'protocol not available'
