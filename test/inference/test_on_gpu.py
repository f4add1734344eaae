"""What only a GPU shows: the depth of a CPU, recorded graphs, and how often it is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from psd_depth_ros.checkpoint import load_checkpoint
from psd_depth_ros.geometry import Camera, Distortion
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.inference.cloud import build_cloud, CloudSettings
from psd_depth_ros.inference.postprocess import DepthSettings
from psd_depth_ros.inference.torch_backend import TorchBackend
from psd_depth_ros.networks.depth_model import load_model
from psd_depth_ros.synth import World, WorldSettings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')

WORLD = World(3, WorldSettings(kind='street', width=640, height=480))
CAMERA = WORLD.camera.rectified()
BENT = Camera.from_K(CAMERA.K, 640, 480, Distortion('plumb_bob', (-0.3, 0.1, 0.0, 0.0, 0.0)))
ALL = DepthSettings(max_depth_m=1000.0, min_confidence=0.0, sky=False)


@pytest.fixture(scope='module')
def pictures() -> list[np.ndarray]:
    return [WORLD.render(index).rgb.numpy() for index in (0, 30)]


@pytest.fixture(scope='module')
def gpu() -> Iterator[DepthEngine]:
    engine = DepthEngine.from_checkpoint(None, 'cuda')
    yield engine
    engine.close()


def exact() -> DepthEngine:
    """The same network on the CPU, float32 throughout."""
    checkpoint = load_checkpoint(None)
    return DepthEngine(checkpoint, TorchBackend(load_model(checkpoint), 'cpu', half=False))


@pytest.mark.parametrize('camera', [CAMERA, BENT], ids=['plain', 'bent'])
def test_depth_is_that_of_a_cpu(gpu, pictures, camera) -> None:  # type: ignore[no-untyped-def]
    engine = exact()
    for rgb in pictures:
        expected = engine.infer_batch([(rgb, camera)], settings=ALL)[0]
        found = gpu.infer_batch([(rgb, camera)], settings=ALL)[0]
        known = np.isfinite(expected.depth_m)
        assert np.array_equal(known, np.isfinite(found.depth_m))
        error = np.abs(np.log(found.depth_m[known] / expected.depth_m[known]))
        assert np.median(error) < 0.01
        assert np.quantile(error, 0.95) < 0.05
        assert np.abs(found.confidence - expected.confidence).mean() < 0.02


def test_a_recorded_graph_follows_its_input(gpu, pictures) -> None:  # type: ignore[no-untyped-def]
    first, second = (gpu.infer(rgb, CAMERA).depth_m for rgb in pictures)
    assert not np.array_equal(first, second, equal_nan=True)
    both = gpu.infer_batch([(rgb, CAMERA) for rgb in pictures])
    for alone, frame in zip((first, second), both, strict=True):
        known = np.isfinite(alone) & np.isfinite(frame.depth_m)
        np.testing.assert_allclose(frame.depth_m[known], alone[known], rtol=0.05)
    np.testing.assert_array_equal(gpu.infer(pictures[0], CAMERA).depth_m, first)


@pytest.mark.parametrize('camera', [CAMERA, BENT], ids=['plain', 'bent'])
def test_a_frame_waits_for_the_gpu_once(gpu, pictures, camera, gpu_waits) -> None:  # type: ignore[no-untyped-def]
    gpu.infer(pictures[0], camera)
    with gpu_waits() as places:
        gpu.infer(pictures[1], camera)
    assert len(places) == 1, places


def test_the_cloud_is_the_one_a_cpu_builds(gpu, pictures) -> None:  # type: ignore[no-untyped-def]
    frame = gpu.infer(pictures[0], CAMERA)
    settings = CloudSettings(confidence=True)
    expected = build_cloud(frame.depth_m, frame.confidence, frame.rgb, frame.camera, settings)
    found = frame.cloud(settings)
    assert (found.width, found.fields) == (expected.width, expected.fields)
    columns = [one.data.view(np.float32).reshape(-1, 5) for one in (found, expected)]
    np.testing.assert_allclose(columns[0][:, :3], columns[1][:, :3], rtol=1e-5, atol=1e-6)
    colours = [one[:, 3].view(np.uint32) for one in columns]
    np.testing.assert_array_equal(colours[0], colours[1])
    np.testing.assert_array_equal(columns[0][:, 4], columns[1][:, 4])


def test_an_engine_is_loaded_while_another_one_works(gpu, pictures) -> None:  # type: ignore[no-untyped-def]
    """As when a node takes a new checkpoint up: the new graphs are recorded in a thread."""
    expected = gpu.infer(pictures[0], CAMERA).depth_m

    def load() -> None:
        for _ in range(2):
            other = DepthEngine.from_checkpoint(None, 'cuda')
            other.warm_up([CAMERA])
            np.testing.assert_array_equal(other.infer(pictures[0], CAMERA).depth_m, expected)
            other.close()

    frames = 0
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(load)
        while not loaded.done():
            np.testing.assert_array_equal(gpu.infer(pictures[0], CAMERA).depth_m, expected)
            frames += 1
        loaded.result()
    assert frames > 0


def test_another_size_is_prepared_while_frames_go_on(gpu, pictures) -> None:  # type: ignore[no-untyped-def]
    expected = gpu.infer(pictures[0], CAMERA).depth_m
    odd = [CAMERA.resize(*size) for size in ((640, 200), (200, 640), (333, 480))]
    frames = 0
    with ThreadPoolExecutor(1) as pool:
        prepared = pool.submit(lambda: [gpu.prepare([one]) for one in odd])
        while not prepared.done():
            np.testing.assert_array_equal(gpu.infer(pictures[0], CAMERA).depth_m, expected)
            frames += 1
        prepared.result()
    assert frames > 0
    assert gpu.is_ready([odd[-1]])
    assert gpu.is_ready([CAMERA]), 'what is in use stays'


def test_networks_come_and_go_and_leave_no_memory_taken(pictures) -> None:  # type: ignore[no-untyped-def]
    left = []
    for _ in range(4):
        engine = DepthEngine.from_checkpoint(None, 'cuda')
        engine.infer(pictures[0], CAMERA)
        taken = torch.cuda.memory_allocated()
        engine.close()
        del engine
        left.append(torch.cuda.memory_allocated())
        assert left[-1] < taken - 2**20
    assert left[-1] < left[0] + 2**20, left
