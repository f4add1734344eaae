#!/usr/bin/env bash
# OpenCV in Python: calcOpticalFlowPyrLK does not take what buildOpticalFlowPyramid returns.
#
# opencv-python-headless 5.0.0.93. Its documentation says that either image may be a pyramid made
# by buildOpticalFlowPyramid, so that one which is tracked forth and back, or into several images,
# is built once. In C++ that holds. In Python the function exists and gives a tuple of arrays, but
# the tracker refuses a tuple and a list alike; a seventh of the time for 1,000 corners in an image
# of 832x256 goes into pyramids that were there before. A good guess would have been that the result
# of a bound function can be given to the one that it is made for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q opencv-python-headless==5.0.0.93
cat > "$folder/follow.py" <<'PYTHON'
import cv2
import numpy as np

noise = np.random.default_rng(0).integers(0, 256, (128, 160), np.uint8)
first = cv2.GaussianBlur(noise, (0, 0), 2.0)
second = np.roll(first, 2, axis=1)
corners = cv2.goodFeaturesToTrack(first, 50, 0.01, 5)
moved, found, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, None)
print(f'OpenCV {cv2.__version__}: images: {int(found.sum())} of {len(corners)} followed')
levels, pyramid = cv2.buildOpticalFlowPyramid(first, (21, 21), 3)
other = cv2.buildOpticalFlowPyramid(second, (21, 21), 3)[1]
refused = 0
for kind in (tuple, list):
    try:
        cv2.calcOpticalFlowPyrLK(kind(pyramid), kind(other), corners, None)
        print(f'pyramids as a {kind.__name__}: taken')
    except cv2.error as error:
        refused += 'prevImg' in str(error)
        print(f'pyramids of {levels + 1} levels as a {kind.__name__}: refused')
raise SystemExit(0 if refused == 2 and found.sum() else 'this has changed')
PYTHON
"$folder/venv/bin/python" "$folder/follow.py"
