#!/usr/bin/env bash
# torch: arithmetic on the device meta imports torch's compiler, a second and some 700 modules.
#
# torch 2.13.0. Making a network under `torch.device('meta')` and assigning the weights that were
# read saves allocating and filling it twice. But a constructor that computes something, such as
# torch.eye or a sum of an arange, runs a Python reference of that operation there, which imports
# torch._dynamo. On the CPU the same lines import nothing. A good guess would have been that a
# tensor without data is cheaper to make than one with.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy
cat > "$folder/make.py" <<'PYTHON'
import sys
import time

import torch

start, before = time.process_time(), len(sys.modules)
with torch.device(sys.argv[1]):
    torch.nn.Linear(8, 8)  # as cheap on both
    has_compiler_before = 'torch._dynamo' in sys.modules
    torch.eye(8)
seconds, modules = time.process_time() - start, len(sys.modules) - before
print(torch.__version__.split('+')[0], sys.argv[1], f'{seconds:.2f} s of CPU, {modules} new modules')
expected = sys.argv[1] == 'meta'
changed = has_compiler_before or ('torch._dynamo' in sys.modules) != expected
raise SystemExit('this has changed' if changed else 0)
PYTHON
for device in cpu meta; do
  "$folder/venv/bin/python" "$folder/make.py" $device
done
