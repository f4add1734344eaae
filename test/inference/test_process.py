"""What a program does once before it works frame by frame."""

from collections.abc import Iterator

import cv2
import pytest
import torch

from psd_depth_ros.inference.process import settle_process


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = cv2.getNumThreads(), torch.get_num_threads()
    yield
    cv2.setNumThreads(before[0])
    torch.set_num_threads(before[1])


@pytest.mark.parametrize(
    ('backend', 'threads'), [('openvino', 1), ('onnxruntime', 1), ('torch', 2)]
)
def test_small_steps_get_one_thread_and_a_torch_network_keeps_its_own(
    backend: str, threads: int
) -> None:
    cv2.setNumThreads(2)
    torch.set_num_threads(2)
    settle_process(backend)
    assert cv2.getNumThreads() == 1
    assert torch.get_num_threads() == threads
