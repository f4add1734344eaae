"""One thread for each library: on busy cores, threads that wait for each other spin.

A rendered frame takes seconds instead of 50 ms beside one other busy process. Set before torch is
loaded, and inherited by the processes that tests start.
"""

from collections.abc import Iterator
import itertools
import os

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ.setdefault('OMP_NUM_THREADS', '1')

import cv2
import pytest
import torch

cv2.setNumThreads(1)
torch.set_num_threads(1)

DOMAINS = range(1, 101)


@pytest.fixture(scope='session')
def ros_domains() -> Iterator[int]:
    """ROS domain ids that no other worker of this run gives out."""
    worker = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))
    workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', '1'))
    own = DOMAINS[worker::workers]
    return (own[number % len(own)] for number in itertools.count(os.getpid() * 7))
