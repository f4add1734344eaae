#!/usr/bin/env bash
# OpenCV 4.6 says that the last frames of a video with B-frames are at 0 ms.
#
# CAP_PROP_POS_MSEC after a frame was read is its time in the container, but for those that the
# decoder gives out once the file has ended. Ubuntu 24.04 has this version. A good guess would have
# been 300 and 333 ms for the last two, as OpenCV 5 says.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q opencv-python-headless==4.6.0.66 'numpy<2' av==18.1.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from fractions import Fraction

import av
import cv2
import numpy as np

times_ms = [0, 33, 66, 100, 133, 200, 300, 333]
with av.open('video.mp4', 'w') as container:
    stream = container.add_stream('libx264', rate=30)
    stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
    stream.codec_context.time_base = Fraction(1, 1000)
    for index, time_ms in enumerate(times_ms):
        picture = np.full((48, 64, 3), 20 * index, np.uint8)
        frame = av.VideoFrame.from_ndarray(picture, format='rgb24')
        frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
capture, found = cv2.VideoCapture('video.mp4'), []
while capture.read()[0]:
    found.append(round(capture.get(cv2.CAP_PROP_POS_MSEC)))
print(f'OpenCV {cv2.__version__}: {found}; in the file: {times_ms}')
raise SystemExit(0 if found == [*times_ms[:-2], 0, 0] else 'this has changed')
PYTHON
