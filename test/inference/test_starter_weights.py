"""The weights that come with the package, on worlds whose seeds no training run may use."""

from dataclasses import replace

import numpy as np
import pytest

from psd_depth_ros.checkpoint import default_checkpoint, load_checkpoint
from psd_depth_ros.evaluation.metrics import average, measure
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.inference.choose import make_backend
from psd_depth_ros.inference.postprocess import DepthSettings
from psd_depth_ros.inference.torch_backend import TorchBackend
from psd_depth_ros.networks import load_model
from psd_depth_ros.preprocess import Preprocessor
from psd_depth_ros.synth import World, WorldSettings

SEEDS = (2_000_102, 2_000_104, 2_000_108)
STREET = WorldSettings(kind='street', width=416, height=128)


@pytest.fixture(scope='module')
def scenes():
    worlds = [World(seed, STREET) for seed in SEEDS]
    return [(world.camera, world.render(5)) for world in worlds]


@pytest.fixture(scope='module')
def frames(scenes):
    engine = DepthEngine.from_checkpoint(device='cpu', backend='torch')
    requests = [(scene.rgb.numpy(), camera) for camera, scene in scenes]
    return engine.infer_batch(requests, settings=DepthSettings(min_confidence=0.0))


def test_the_file_is_small_and_says_where_it_comes_from():
    assert default_checkpoint().stat().st_size < 15e6
    info = load_checkpoint().info
    assert info.output.metric
    assert all('licence' in source for source in info.data)
    assert info.training['steps'] > 0


def test_depth_is_metric_and_right_on_streets_never_seen(scenes, frames):
    pairs = [
        (f.depth_m, scene.depth_m.numpy()) for (_, scene), f in zip(scenes, frames, strict=True)
    ]
    scaled = average([measure(*pair, median_scaled=True) for pair in pairs])
    metric = average([measure(*pair, median_scaled=False) for pair in pairs])
    assert metric.coverage > 0.95
    assert scaled.abs_rel < 0.2
    assert metric.abs_rel < 0.25


def test_accuracy_on_eight_streets_is_the_pinned_figure():
    """Moves with the weights, the renderer, preprocessing, the network and the metrics.

    float32, so that it does not depend on the CPU. Give new figures here where a change is meant
    to move them, and say so in CHANGELOG.md.
    """
    checkpoint = load_checkpoint()
    engine = DepthEngine(checkpoint, TorchBackend(load_model(checkpoint), 'cpu', half=False))
    worlds = [
        World(seed, replace(STREET, width=320, height=240)) for seed in range(2_000_010, 2_000_018)
    ]
    scenes = [world.render(5) for world in worlds]
    frames = engine.infer_batch(
        [(scene.rgb.numpy(), world.camera) for world, scene in zip(worlds, scenes, strict=True)],
        settings=DepthSettings(min_confidence=0.0),
    )
    pairs = [(f.depth_m, s.depth_m.numpy()) for f, s in zip(frames, scenes, strict=True)]
    scaled = average([measure(*pair, median_scaled=True) for pair in pairs])
    metric = average([measure(*pair, median_scaled=False) for pair in pairs])
    found = (scaled.abs_rel, scaled.a1, metric.abs_rel, metric.rmse)
    assert found == pytest.approx((0.1398253, 0.8559109, 0.1615847, 5.933783), rel=1e-4)


@pytest.mark.parametrize('fx_over_fy', [0.5, 2.0])
def test_depth_does_not_depend_on_the_shape_of_pixels(scenes, frames, fx_over_fy):
    """Two columns or two rows become one, as by binning."""
    camera, scene = scenes[0]
    shape, axis = ((128, 208, 2, 3), 2) if fx_over_fy < 1 else ((64, 2, 416, 3), 1)
    rgb = scene.rgb.numpy().reshape(shape).mean(axis=axis).round().astype(np.uint8)
    binned = camera.resize(rgb.shape[1], rgb.shape[0])
    assert binned.fx / binned.fy == fx_over_fy
    engine = DepthEngine.from_checkpoint(device='cpu', backend='torch')
    settings = DepthSettings(min_confidence=0.0)
    found = engine.infer_batch([(rgb, binned)], settings=settings)[0].depth_m
    wanted = frames[0].depth_m[:: 128 // rgb.shape[0], :: 416 // rgb.shape[1]]
    known = np.isfinite(found) & np.isfinite(wanted)
    assert known.mean() > 0.4
    assert np.median(found[known] / wanted[known]) == pytest.approx(1.0, abs=0.05)


def test_sky_is_sky_and_ground_is_not(scenes, frames):
    for (_, scene), frame in zip(scenes, frames, strict=True):
        sky = np.isposinf(scene.depth_m.numpy())
        assert np.isposinf(frame.depth_m[sky]).mean() > 0.5
        assert not np.isposinf(frame.depth_m[-20:]).any()


def test_what_is_trusted_is_better_than_what_is_not(scenes, frames):
    errors, confidences = [], []
    for (_, scene), frame in zip(scenes, frames, strict=True):
        truth = scene.depth_m.numpy()
        valid = (truth < 80.0) & np.isfinite(frame.depth_m)
        errors.append(np.abs(np.log(frame.depth_m[valid] / truth[valid])))
        confidences.append(frame.confidence[valid])
    error, confidence = np.concatenate(errors), np.concatenate(confidences)
    trusted = confidence > np.median(confidence)
    assert error[trusted].mean() < 0.7 * error[~trusted].mean()


def test_the_same_view_in_more_pixels_is_as_far(scenes):
    camera, _ = scenes[0]
    large = World(SEEDS[0], replace(STREET, width=832, height=256, focal_px=2 * camera.fx))
    small = World(SEEDS[0], replace(STREET, focal_px=camera.fx))
    engine = DepthEngine.from_checkpoint(device='cpu', backend='torch')
    settings = DepthSettings(min_confidence=0.0)
    results = []
    for world in (large, small):
        request = (world.render(5).rgb.numpy(), world.camera)
        results.append(engine.infer_batch([request], settings=settings)[0].depth_m)
    both = np.isfinite(results[0][::2, ::2]) & np.isfinite(results[1])
    ratio = results[0][::2, ::2][both] / results[1][both]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.1)


def test_the_backend_of_a_cpu_agrees_with_float32_torch(scenes, needs_installed):
    needs_installed('openvino')
    checkpoint = load_checkpoint()
    model = load_model(checkpoint)
    info = checkpoint.info.input
    backend = make_backend('openvino', lambda: model, 'cpu')
    reference = TorchBackend(model, 'cpu', half=False)
    for camera, scene in scenes:
        image = Preprocessor(camera, (128, 416), info.mean, info.std)(scene.rgb.numpy())
        intrinsics = np.array([[camera.fx, camera.fy, camera.cx, camera.cy]], np.float32)
        expected = reference.run(image, intrinsics)[:, 0]
        relative = np.abs(np.expm1(backend.run(image, intrinsics)[:, 0] - expected))
        assert relative.mean() < 0.01
        assert np.quantile(relative, 0.99) < 0.05
