#!/usr/bin/env bash
# What cv2.FileStorage of OpenCV 4 writes is called YAML, and PyYAML cannot read it.
#
# The first line is `%YAML:1.0` with a colon, which is no directive of YAML, and matrices have a tag
# (!!opencv-matrix) in the name space of YAML itself. OpenCV 5 writes `%YAML 1.2`, with the tag. A
# good guess would have been a file that a reader of YAML takes as plain mappings.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q opencv-python-headless==4.6.0.66 'numpy<2' pyyaml==6.0.3
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import cv2
import numpy as np
import yaml

storage = cv2.FileStorage('camera.yml', cv2.FILE_STORAGE_WRITE)
storage.write('camera_matrix', np.eye(3))
storage.release()
with open('camera.yml', encoding='utf-8') as file:
    text = file.read()
try:
    yaml.safe_load(text)
    error = 'none'
except yaml.YAMLError as problem:
    error = str(problem).splitlines()[0]
print(f'OpenCV {cv2.__version__} writes {text.splitlines()[0]!r}; PyYAML: {error}')
changed = not text.startswith('%YAML:1.0') or error == 'none' or '!!opencv-matrix' not in text
raise SystemExit('this has changed' if changed else 0)
PYTHON
