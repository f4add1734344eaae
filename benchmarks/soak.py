"""A soak: hostile input and long runs, with figures. Nothing of it is a test that must pass in CI.

    python benchmarks/soak.py [messages files kills node disk listen] [--minutes N] [--seed S]
        [--count N] [--json OUT] [--case N]

A finding is printed with its case; `--case` runs that one of `messages` or `files` again, in this
process, with the whole traceback. The exit code is 1 where there were findings.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
import json
from pathlib import Path
import random
import tempfile
import time
from typing import Any

from soak_cases import run_one
import soak_disk
import soak_files
import soak_kills
import soak_listen
import soak_messages
import soak_node
from timing import describe_machine

# Count, seed and end on the monotonic clock to figures; with the count of a whole soak.
Part = Callable[[int, int, float], dict[str, Any]]
PARTS: dict[str, tuple[Part, int]] = {
    'messages': (soak_messages.run_messages, 20_000),
    'files': (soak_files.run_files, 500),
    'kills': (soak_kills.run_kills, 200),
    'node': (soak_node.run_node, 200_000),
    'disk': (soak_disk.run_disk, 60),
    'listen': (soak_listen.run_listen, 1),
}
CASES = {'messages': soak_messages.make_check, 'files': soak_files.make_check}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('parts', nargs='*', choices=[*PARTS], default=[*PARTS])
    parser.add_argument('--minutes', type=float, default=60.0, help='of each part at most')
    parser.add_argument('--seed', type=int, help='without it one is drawn, and printed')
    parser.add_argument('--count', type=int, help='messages, files, kills, frames')
    parser.add_argument('--case', type=int, help='run one case of one part again')
    parser.add_argument('--json', type=Path, help='write the figures there')
    chosen = parser.parse_args()
    seed = random.randrange(10**6) if chosen.seed is None else chosen.seed
    if chosen.case is not None:
        with tempfile.TemporaryDirectory() as folder:
            run_one(lambda: CASES[chosen.parts[0]](Path(folder)), chosen.case, seed)
        return 0
    figures: dict[str, Any] = {'machine': describe_machine(), 'seed': seed}
    for name in chosen.parts:
        part, count = PARTS[name]
        print(f'{name}, seed {seed}', flush=True)
        start = time.monotonic()
        found = part(chosen.count or count, seed, start + 60 * chosen.minutes)
        figures[name] = {**found, 'minutes': round((time.monotonic() - start) / 60, 1)}
        print(json.dumps(figures[name], indent=2), flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps(figures, indent=2) + '\n')
    return int(any(figures[name]['findings'] for name in chosen.parts))


if __name__ == '__main__':
    raise SystemExit(main())
