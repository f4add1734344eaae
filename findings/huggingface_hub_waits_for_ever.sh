#!/usr/bin/env bash
# huggingface_hub: snapshot_download waits for ever for a hub that takes the connection and is silent.
#
# huggingface_hub 2.4.0. Its first question (what is in the repository) has no time limit, whatever
# HF_HUB_ETAG_TIMEOUT, HF_HUB_DOWNLOAD_TIMEOUT and the argument etag_timeout say; model_info takes
# one of its own, timeout. Here a server on this machine takes the place of the hub. A good guess
# would have been that the limits, 10 s by default, hold for every question, as behind a router
# that has lost its network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q huggingface_hub==2.4.0
cat > "$folder/ask.py" <<'PYTHON'
from importlib.metadata import version
import os
import socket
import subprocess
import sys
import time

WAIT_S = 30.0
CALLS = {
    'snapshot_download': "snapshot_download('owner/name', etag_timeout=2)",
    'model_info': "HfApi().model_info('owner/name', timeout=2)",
}
with socket.create_server(('127.0.0.1', 0)) as server:
    place = f'http://127.0.0.1:{server.getsockname()[1]}'
    limits = {'HF_HUB_ETAG_TIMEOUT': '2', 'HF_HUB_DOWNLOAD_TIMEOUT': '2', 'NO_PROXY': '127.0.0.1'}
    environment = {**os.environ, **limits, 'HF_ENDPOINT': place, 'HF_HOME': sys.argv[1]}
    ended = {}
    for name, call in CALLS.items():
        program = f'from huggingface_hub import HfApi, snapshot_download\n{call}'
        start = time.monotonic()
        try:
            subprocess.run(
                [sys.executable, '-c', program], env=environment, timeout=WAIT_S,
                stderr=subprocess.DEVNULL, check=False,
            )
            ended[name] = f'ended after {time.monotonic() - start:.0f} s'
        except subprocess.TimeoutExpired:
            ended[name] = f'still waits after {WAIT_S:.0f} s'
print(f'huggingface_hub {version("huggingface_hub")}: {ended}')
same = ended['snapshot_download'].startswith('still') and ended['model_info'].startswith('ended')
raise SystemExit(0 if same else 'this has changed')
PYTHON
"$folder/venv/bin/python" "$folder/ask.py" "$folder/hub"
