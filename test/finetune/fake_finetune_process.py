"""The training process with a training that needs no data: it counts, and says what it is told.

`bags` are orders: `steps=N` (20 ms each), `verdict=accepted|kept`, `weights=TEXT` (what a better
checkpoint holds), `picture=FILE`, `crash=CODE`, `say=NAMES` (facts of the process, as scores),
`allocate=GB`, `deaf=yes` (never looks whether it is to stop).
"""

import os
from pathlib import Path
import resource
import sys
import time

import numpy as np

from psd_depth_ros.config import dump
from psd_depth_ros.errors import CheckpointError
from psd_depth_ros.finetune.folder import FinetuneFolder
from psd_depth_ros.finetune.process import main
from psd_depth_ros.finetune.report import FinetuneReport, FinetuneStatus


def facts():
    return {
        'nice': os.nice(0),
        'batch': os.sched_getscheduler(0) == os.SCHED_BATCH,
        'threads': int(os.environ['OMP_NUM_THREADS']),
        'memory_gb': resource.getrlimit(resource.RLIMIT_DATA)[0] / 1e9,
        'pid': os.getpid(),
    }


def finetune(settings, *, resume, report, stop):
    orders = dict(order.split('=', 1) for order in settings.bags)
    folder = FinetuneFolder(Path(settings.output), resume=resume)
    start = folder.path.with_name('start.txt')
    start.write_text('wall id=old')
    folder.begin(start, dump(settings), trained=False)
    counted = folder.path / 'counted'
    step = int(counted.read_text()) if counted.exists() else 0
    sys.stdout.write('this goes to stderr\n')
    report(FinetuneStatus('preparing', 1, 2, 'decoding'))
    if 'allocate' in orders:
        np.ones(int(float(orders['allocate']) * 1e9), np.uint8)
    if 'error' in orders:
        raise CheckpointError(orders['error'])
    of = int(orders.get('steps', 5))
    state = orders.get('verdict', 'accepted')
    while step < of:
        if stop() and 'deaf' not in orders:
            state = 'stopped'
            break
        step += 1
        time.sleep(0.02)
        counted.write_text(str(step))
        report(
            FinetuneStatus(
                'training', step, of, '', {'photometric': 0.2, 'smoothness': 0.1},
                {'score': 0.5, **facts()}, 7.5, step * 0.02, (of - step) * 0.02,
                orders.get('picture', ''),
            )
        )  # fmt: skip
        if 'crash' in orders:
            sys.stderr.write('something went wrong\n')
            os._exit(int(orders['crash']))
    if state == 'accepted':
        start.write_text(orders.get('weights', 'wall id=new'))
        folder.promote(start)
    made = FinetuneReport(
        state, 'for a reason', str(folder.best), folder.best.read_text()[-3:], 'wall old', step,
        of, 0.1, 7.5, 'cpu',
    )  # fmt: skip
    folder.finish(made)
    return made


if __name__ == '__main__':
    sys.exit(main(finetune))
