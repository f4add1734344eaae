"""The soak of benchmarks/soak.py: what counts as a finding, and a few seconds of it."""

import json
import os
from pathlib import Path
import subprocess
import sys

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / 'benchmarks'
ENVIRONMENT = {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), str(BENCHMARKS)])}
CASES = """
import json, os, time
from psd_depth_ros.errors import MessageError
import soak_cases

def check(number, draw):
    if number == 1:
        raise MessageError('a named error')
    if number == 2:
        raise ValueError('not named')
    if number == 3:
        raise soak_cases.WrongError('not what was sent')
    if number == 4:
        os.abort()
    if number == 5:
        time.sleep(60)
    return 'right'

soak_cases.PATIENCE_S = 2.0
print(json.dumps(soak_cases.run_cases(lambda: check, 8, 1, time.monotonic() + 60).summary()))
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_crashes_hangs_and_unnamed_errors_are_findings_and_the_rest_goes_on():
    done = run('-c', CASES)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told['cases'] == 8, done.stderr
    assert told['outcomes'] == {
        'right': 3, 'MessageError': 1, 'unnamed': 1, 'wrong': 1, 'crashed': 1, 'hung': 1,
    }  # fmt: skip
    assert [one['case'] for one in told['findings']] == [2, 3, 4, 5]


def test_hostile_messages_give_named_errors_or_right_results(tmp_path):
    output = tmp_path / 'soak.json'
    done = run(BENCHMARKS / 'soak.py', 'messages', '--count', 150, '--seed', 2, '--json', output)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(output.read_text())['messages']['cases'] == 150
