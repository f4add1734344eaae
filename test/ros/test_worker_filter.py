"""Each camera of the worker has a temporal filter of its own, which forgets where time jumped."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import Scale
from psd_depth_ros.ros.depth_node.settings import DepthImageSettings
from psd_depth_ros.ros.depth_node.worker import DepthWorker

CAMERA = Camera(160, 96, 120.0, 120.0, 79.5, 47.5)
GREY = np.random.default_rng(0).integers(0, 255, (96, 160), dtype=np.uint8)


class Stream:
    def __init__(self, name: str) -> None:
        self.name, self.has_jumped, self.spots = name, False, None

    def take_reset(self) -> bool:
        return self.has_jumped


class Engine:
    """Filters a flat ln Z, which rises by 0.1 with every frame of 0.1 s."""

    checkpoint = None

    def infer_batch(self, requests: Any, *, settings: Any, moments: Any, **_: Any) -> list[float]:
        found = []
        for temporal, stamp_ns in moments:
            flat = np.full((48, 80), stamp_ns * 1e-9, np.float32)
            filtered = temporal.update(flat, GREY, CAMERA, stamp_ns, settings.temporal_s)
            found.append(float(np.median(filtered)))
        return found


def test_a_filter_for_each_camera_that_is_reset_with_it() -> None:
    left, right = cameras = [Stream('left'), Stream('right')]
    known = SimpleNamespace(report=SimpleNamespace(scale=Scale()))
    worker = DepthWorker(
        SimpleNamespace(durations=SimpleNamespace(add_ns=lambda ns: None)),  # type: ignore[arg-type]
        SimpleNamespace(for_camera=lambda *_: known),  # type: ignore[arg-type]
        cameras,  # type: ignore[arg-type]
        DepthImageSettings(temporal_s=10.0),
        0.0,
        SimpleNamespace(),  # type: ignore[arg-type]
        lambda: True,
    )

    def run(*given: tuple[Stream, float]) -> list[float]:
        batch = [
            (camera, SimpleNamespace(rgb=None, camera=CAMERA,
                                     arrived=SimpleNamespace(stamp_ns=round(stamp_s * 1e9))))
            for camera, stamp_s in given
        ]  # fmt: skip
        return [one.frame for one in worker._run_engine(Engine(), batch)]  # type: ignore[arg-type, misc]

    assert np.allclose(run((left, 0.1), (right, 0.5)), [0.1, 0.5], atol=2e-3)
    assert np.allclose(run((left, 0.2), (right, 0.6)), [0.15, 0.55], atol=2e-3)
    left.has_jumped = True
    assert np.allclose(run((right, 0.7), (left, 0.3)), [0.6, 0.3], atol=2e-3)
    left.has_jumped = False
    worker.configure(DepthImageSettings(), 0.0)
    worker.configure(DepthImageSettings(temporal_s=10.0), 0.0)
    assert np.allclose(run((right, 0.8), (left, 0.4)), [0.8, 0.4], atol=2e-3)
