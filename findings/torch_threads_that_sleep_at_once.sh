#!/usr/bin/env bash
# torch on two cores: with OMP_WAIT_POLICY=PASSIVE two threads take nine times as long as one for 100,000
# values.
#
# torch 2.13.0, CPU build (GNU OpenMP), two cores of an AMD processor, nothing else running.
# Programs that train beside others ask OpenMP to let threads sleep while they wait, so that they
# take nothing from the rest of the machine. Every operation then wakes the second thread, which
# takes ten times as long as its half of the work: 63 us instead of the 7 of one thread. A good
# guess would have been the time of one thread at worst. With GOMP_SPINCOUNT=5000 (threads spin for about
# a tenth of a millisecond, then sleep) two threads take 7 us as well, and still sleep where they wait for
# long: a training step of many such operations lost a quarter of its time to waking up.
set -euo pipefail
test "$(nproc)" -ge 2 || { echo 'needs two cores' >&2; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.2.6
cat > "$folder/add.py" <<'PYTHON'
import time

import torch

x = torch.zeros(100_000)
times = []
for _ in range(3000):
    start = time.perf_counter()
    x.add_(1.0)
    times.append(1e6 * (time.perf_counter() - start))
print(f'{sorted(times)[len(times) // 2]:.1f}')
PYTHON
run() { env "$@" "$folder/venv/bin/python" "$folder/add.py"; }
"$folder/venv/bin/python" -c 'import torch; print("torch", torch.__version__)'
one=$(run OMP_NUM_THREADS=1)
asleep=$(run OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE)
patient=$(run OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=5000)
echo "one thread $one us, two that sleep at once $asleep us, two that spin a little $patient us"
python3 -c "raise SystemExit(not ($asleep > 2 * $one and $asleep > 2 * $patient))"
