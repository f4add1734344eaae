"""The configuration of processes: threads, memory, priority."""

from collections.abc import Iterator
from pathlib import Path
import platform
import subprocess
import sys

import cv2
import pytest
import torch

from psd_depth_ros import runtime
from psd_depth_ros.config import build
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.runtime import (
    autocast,
    available_cores,
    configure_runtime,
    configure_training,
    has_bfloat16,
    waiting_environment,
)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = cv2.getNumThreads(), torch.get_num_threads()
    yield
    cv2.setNumThreads(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.parametrize(
    ('backend', 'threads'),
    [('openvino', 1), ('onnxruntime', 1), ('torch', 2), ('transformers', 2)],
)
def test_small_steps_get_one_thread_and_a_torch_network_keeps_its_own(
    backend: str, threads: int
) -> None:
    cv2.setNumThreads(2)
    torch.set_num_threads(2)
    configure_runtime(backend)
    assert cv2.getNumThreads() == 1
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ('quota', 'cores'), [('max 100000', 4), ('150000 100000', 2), ('50000 100000', 1), ('', 4)]
)
def test_threads_of_a_training_fit_the_quota_of_its_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr('os.sched_getaffinity', lambda process: {0, 1, 2, 3})
    monkeypatch.setattr(runtime, 'CPU_QUOTA', tmp_path / 'cpu.max')
    (tmp_path / 'cpu.max').write_text(quota)
    torch.set_num_threads(3)
    configure_training()
    assert available_cores() == cores
    assert torch.get_num_threads() == min(3, cores)
    assert runtime.thread_count(runtime.LimitSettings()) == max(1, cores // 2)
    assert runtime.thread_count(runtime.LimitSettings(threads=3)) == 3


def test_the_former_name_of_a_limit_is_explained() -> None:
    with pytest.raises(SettingsError, match=r'it is limits\.gpu_memory_fraction'):
        build(runtime.LimitSettings, {'gpu_memory_share': 0.5})


LOADED = """
import sys
import psd_depth_ros.finetune.process
heavy = {'torch', 'numpy', 'cv2', 'yaml'} & set(sys.modules)
assert not heavy, heavy
"""


def test_a_process_can_limit_itself_before_libraries_are_loaded() -> None:
    subprocess.run([sys.executable, '-c', LOADED], check=True)


STEPS = """
import resource, sys
import torch
from psd_depth_ros.runtime import reuse_freed_memory

def step():
    sizes = 10 * [20_000_000] + 5 * [40_000_000]  # below and above what glibc can be told to reuse
    blocks = [torch.ones(size, dtype=torch.uint8) for size in sizes]

reuse_freed_memory(keep_all=sys.argv[1] == 'all')
faults = []
for _ in range(8):  # a step now and then needs one block more, until the heap has its shape
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))  # the system may take pages back meanwhile
"""


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='the C library is not glibc')
def test_a_step_of_training_gets_the_memory_of_the_step_before() -> None:
    faults = {
        kept: int(subprocess.check_output([sys.executable, '-c', STEPS, kept]))
        for kept in ('all', 'some')
    }
    # 400 MB are 98,000 pages of 4 KiB
    assert faults['all'] < 1000
    assert faults['some'] > 10_000


def test_bfloat16_is_used_where_it_is_asked_for_or_multiplied_in_hardware() -> None:
    def product(precision: str) -> torch.dtype:
        with autocast('cpu', precision):
            return (torch.ones(2, 2) @ torch.ones(2, 2)).dtype

    assert product('bf16') is torch.bfloat16
    assert product('fp32') is torch.float32
    assert (product('auto') is torch.bfloat16) == has_bfloat16('cpu')
    assert has_bfloat16('cuda')


def test_threads_wait_as_the_user_wants_and_else_asleep_after_a_moment():
    patient = {'OMP_WAIT_POLICY': 'PASSIVE', 'KMP_BLOCKTIME': '0', 'GOMP_SPINCOUNT': '5000'}
    assert waiting_environment({}) == patient
    assert waiting_environment({'OMP_WAIT_POLICY': 'ACTIVE'}) == {'KMP_BLOCKTIME': '0'}
    assert waiting_environment({'GOMP_SPINCOUNT': '7', 'KMP_BLOCKTIME': '1'}) == {
        'OMP_WAIT_POLICY': 'PASSIVE'
    }
