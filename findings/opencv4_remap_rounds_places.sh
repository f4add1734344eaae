#!/usr/bin/env bash
# cv2.remap of OpenCV 4 rounds float places to 1/32 pixel, for floating-point images too.
#
# A ramp of one unit a pixel, read 0.3 pixel beside a centre, gives 0.3125 (10/32). A good guess
# would have been 0.3 for float maps and float images, which OpenCV 5 gives.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q opencv-python-headless==4.6.0.66 'numpy<2'
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import cv2
import numpy as np

ramp = np.tile(np.arange(8, dtype=np.float32), (4, 1))
x, y = np.array([[2.3]], np.float32), np.array([[1.0]], np.float32)
found = float(cv2.remap(ramp, x, y, cv2.INTER_LINEAR)[0, 0])
print(f'OpenCV {cv2.__version__}: a ramp read at 2.3 gives {found}')
raise SystemExit(0 if found == 2.3125 else 'this has changed')
PYTHON
