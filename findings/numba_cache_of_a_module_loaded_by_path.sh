#!/usr/bin/env bash
# Numba: what a process that loaded a module by its path keeps, breaks processes that import it.
#
# numba 0.68.1, llvmlite 0.50.0, Python 3.11. `njit(cache=True)` keeps compiled code beside the source file, by
# the name of the file and of the function. A process that loads the file by its path under another
# name (as runners of tests, plugins and launch files do) keeps code that refers to a module
# `<dynamic>`. A later process that imports the file as usual finds that, and its first call raises
# ModuleNotFoundError: No module named '<dynamic>', and so does every process after it, until the
# files are deleted. The other way round both work. A good guess would have been that code kept
# under another name, or code that cannot be read, is compiled anew.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q numba==0.68.1 llvmlite==0.50.0 numpy==2.2.6
mkdir "$folder/work"
cd "$folder/work"
cat > kernels.py <<'PYTHON'
from numba import njit


@njit(cache=True)
def twice(x):
    return 2.0 * x
PYTHON
cat > by_path.py <<'PYTHON'
import importlib.util

spec = importlib.util.spec_from_file_location('another_name', 'kernels.py')
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print('loaded by path:', module.twice(2.0))
PYTHON
cat > imported.py <<'PYTHON'
import kernels

try:
    print('imported:', kernels.twice(2.0))
except ModuleNotFoundError as error:
    print('imported:', error)
PYTHON
python="$folder/venv/bin/python"
"$python" -c 'import numba; print("numba", numba.__version__)'
echo 'loaded by path first:'
{ "$python" by_path.py; "$python" imported.py; "$python" imported.py; } | tee first
rm -r __pycache__
echo 'imported first:'
{ "$python" imported.py; "$python" by_path.py; "$python" imported.py; } | tee second
test "$(grep -c "No module named '<dynamic>'" first)" = 2
test "$(grep -c ': 4.0' second)" = 3
