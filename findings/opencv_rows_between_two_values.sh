#!/usr/bin/env bash
# OpenCV debayers a uint16 array wrongly, without a word, where its rows begin between two values.
#
# A 16-bit image whose rows are padded by an odd number of bytes (a step of 27 for 10 pixels) is
# such an array as NumPy sees it, and NumPy computes with it. A good guess would have been that
# OpenCV copies it first, as it does with other strides that it cannot use, or refuses it; other
# conversions, such as that of grey to RGB, read it right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q opencv-python-headless==5.0.0.93 numpy==2.2.6
"$folder/venv/bin/python" - <<'PYTHON'
import cv2
import numpy as np

values = np.arange(40, dtype=np.uint16).reshape(4, 10)
padded = np.zeros((4, 27), np.uint8)
padded[:, :20] = values.view(np.uint8)
rows = padded[:, :20].view(np.uint16)  # strides (27, 2)
assert np.array_equal(rows, values), 'NumPy reads it'
expected = cv2.cvtColor(values, cv2.COLOR_BayerBG2RGB)
found = cv2.cvtColor(rows, cv2.COLOR_BayerBG2RGB)
wrong = np.flatnonzero((found != expected).any(axis=(1, 2))).tolist()
print(f'OpenCV {cv2.__version__}: rows {wrong} of 4 are wrong')
raise SystemExit(0 if wrong else 'this has changed')
PYTHON
