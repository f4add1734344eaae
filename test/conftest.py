"""One thread for each library: on busy cores, threads that wait for each other spin.

A rendered frame takes seconds instead of 50 ms beside one other busy process. Set before torch is
loaded, and inherited by the processes that tests start.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
import importlib.util
import itertools
import os
from pathlib import Path
from types import ModuleType
import warnings

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ.setdefault('OMP_NUM_THREADS', '1')

import cv2
import pytest
import torch

cv2.setNumThreads(1)
torch.set_num_threads(1)

DOMAINS = range(1, 81)  # those above are for benchmarks


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Folders that take longest come first, so that no worker is left with one at the end."""
    slow = ('ros', 'training', 'inference', 'cli')

    def order(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return slow.index(folder) if folder in slow else len(slow)

    items.sort(key=order)


@pytest.fixture(scope='session', autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What nodes and commands keep between starts, away from that of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(scope='session')
def _own_domains() -> list[int]:
    """ROS domain ids that no other worker of this run gives out."""
    worker = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))
    workers = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', '1'))
    own = list(DOMAINS[worker::workers])
    first = os.getpid() * 7 % len(own)
    return own[first:] + own[:first]


@pytest.fixture(scope='session')
def session_domain(_own_domains: list[int]) -> int:
    """The domain of what runs until the session ends: no test gets it for itself."""
    return _own_domains[0]


@pytest.fixture(scope='session')
def ros_domains(_own_domains: list[int]) -> Iterator[int]:
    """Domains for one test each, used again when all have been."""
    return itertools.cycle(_own_domains[1:])


@pytest.fixture(scope='session')
def real_recording() -> Callable[[str], Path]:
    """The path of a recording below the folder PSD_DEPTH_TEST_DATA; skips where there is none."""
    folder = os.environ.get('PSD_DEPTH_TEST_DATA', '')

    def find(name: str) -> Path:
        path = Path(folder) / name
        if not folder or not path.exists():
            pytest.skip(f'needs the recording {name}; say where with PSD_DEPTH_TEST_DATA')
        return path

    return find


@pytest.fixture(scope='session')
def network_watch() -> ModuleType:
    """The program network_watch.py, whose `run` watches a command; see there."""
    path = Path(__file__).with_name('network_watch.py')
    spec = importlib.util.spec_from_file_location('network_watch', path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='session')
def needs_installed() -> Callable[[str], None]:
    """Skip a test where a library is not installed, without importing it.

    `pytest.importorskip` would let OpenVINO report the import to its makers.
    """

    def check(library: str) -> None:
        if importlib.util.find_spec(library) is None:
            pytest.skip(f'{library} is not installed')

    return check


@pytest.fixture
def gpu_waits() -> Callable[[], AbstractContextManager[list[str]]]:
    """A context that lists the places (file:line) where this process waits for the GPU in it."""

    @contextmanager
    def watch() -> Iterator[list[str]]:
        places: list[str] = []
        torch.cuda.synchronize()
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter('always')
            torch.cuda.set_sync_debug_mode('warn')
            try:
                yield places
            finally:
                torch.cuda.set_sync_debug_mode('default')
        places += [f'{w.filename}:{w.lineno}' for w in found if 'called a sync' in str(w.message)]

    return watch
