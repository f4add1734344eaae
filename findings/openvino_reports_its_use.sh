#!/bin/bash
# Importing OpenVINO for Python looks up a server of usage statistics and leaves files at home.
#
# Expected of `import openvino` followed by nothing else: no network, no files. Behaviour seen with
# openvino 2026.4.1 and openvino-telemetry 2025.2.0 (a requirement of it): the name
# www.google-analytics.com is looked up in a child process, and ~/intel/openvino_ga_cid (an id of
# the user) and ~/intel/stats are written, unless the variable CI is `true` or the user has run
# `opt_in_out --opt_out` before. A package that uses it has to hide `openvino_telemetry` first.
# Ends with 0 while this is so, with 1 once it has changed.
set -eu -o pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 openvino-telemetry==2025.2.0
mkdir "$folder/home"
cat > "$folder/look.py" <<'PYTHON'
import socket, sys, time

def look_up(name, *rest, **more):
    open(sys.argv[1], 'a').write(f'{name}\n')
    raise OSError('the name is not looked up in this script')

socket.getaddrinfo = look_up
import openvino
from openvino.tools import ovc  # what openvino.convert_model comes from
time.sleep(3)
PYTHON
env -u CI -u TF_BUILD -u JENKINS_URL HOME="$folder/home" \
  "$folder/venv/bin/python" "$folder/look.py" "$folder/names" 2> /dev/null || true
echo "looked up: $(sort -u "$folder/names" 2> /dev/null | paste -sd' ')"
echo "at home: $(cd "$folder/home" && find . -type f | sort | paste -sd' ')"
grep -q google-analytics "$folder/names" && test -f "$folder/home/intel/openvino_ga_cid"
