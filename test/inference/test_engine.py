import math
import sys

import numpy as np
import pytest
import torch

from psd_depth_ros.checkpoint import (
    Checkpoint,
    CheckpointInfo,
    InputInfo,
    OutputInfo,
    save_checkpoint,
)
from psd_depth_ros.config import dump
from psd_depth_ros.errors import CheckpointError, DeviceError, MessageError, SettingsError
from psd_depth_ros.geometry import Camera, Distortion
from psd_depth_ros.geometry.view import with_view
from psd_depth_ros.inference import choose, DepthEngine, on_device, Scale
from psd_depth_ros.inference.choose import choose_device, make_backend
from psd_depth_ros.inference.cloud import CloudSettings
from psd_depth_ros.inference.postprocess import DepthSettings
from psd_depth_ros.inference.temporal import TemporalFilter
from psd_depth_ros.networks import Architecture, DepthModel

CAMERA = Camera(128, 96, 120.0, 120.0, 63.5, 47.5)


class Wall:
    """A backend that sees canonical depth 2 everywhere and remembers what it was given."""

    name = 'wall'

    def __init__(self, sigma=0.01, far=0.0):
        self.values = (math.log(2.0), sigma, far)
        self.seen = []
        self.prepared = []

    def run(self, image, intrinsics):
        self.seen.append((image, intrinsics))
        batch, _, height, width = image.shape
        maps = np.array(self.values, np.float32).reshape(1, 3, 1, 1)
        return np.tile(maps, (batch, 1, height // 2, width // 2))

    def is_ready(self, shape):
        return shape in self.prepared

    def prepare(self, shapes, convert=None):
        self.prepared += shapes

    def close(self):
        self.values = None


def engine(backend, *, metric=True, focal=60.0, pixel_budget=0):
    info = CheckpointInfo(
        'wall', {}, input=InputInfo(96, 128),
        output=OutputInfo(canonical_focal_px=focal, metric=metric, scale_sigma=0.0),
    )  # fmt: skip
    wall = Checkpoint('wall', info, {}, 'id')
    return DepthEngine(wall, backend, pixel_budget=pixel_budget)


def picture(camera=CAMERA):
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (camera.height, camera.width, 3), dtype=np.uint8)


def test_metres_are_canonical_depth_times_focal_length_over_the_canonical_one():
    frame = engine(Wall()).infer(picture(), CAMERA)
    assert frame.depth_m.shape == (96, 128)
    assert frame.depth_m.dtype == frame.confidence.dtype == np.float32
    assert np.allclose(frame.depth_m, 2.0 * 120.0 / 60.0)


def test_one_checkpoint_is_right_for_any_size_of_the_same_view():
    # The same view in twice the pixels: the network sees it resized to the same input.
    large = CAMERA.resize(256, 192)
    frame = engine(Wall()).infer(picture(large), large)
    assert frame.depth_m.shape == (192, 256)
    assert np.allclose(frame.depth_m, 4.0)
    # A lens of twice the focal length: what looks the same is twice as far.
    tele = Camera(128, 96, 240.0, 240.0, 63.5, 47.5)
    assert np.allclose(engine(Wall()).infer(picture(), tele).depth_m, 8.0)


def test_a_budget_changes_the_size_of_the_input_and_not_the_metres():
    large, wall = CAMERA.resize(640, 480), Wall()
    for budget, size in ((0, (96, 128)), (53248, (192, 256)), (106496, (256, 352))):
        one = engine(wall, pixel_budget=budget)
        assert one.pixel_budget == (budget or 96 * 128)
        frame = one.infer(picture(large), large)
        image, intrinsics = wall.seen[-1]
        assert image.shape == (1, 3, *size)
        assert intrinsics[0, 0] == pytest.approx(600.0 * size[1] / 640)
        assert frame.depth_m.shape == (480, 640)
        one.prepare([large])
        assert wall.prepared[-1] == (1, 3, *size)


@pytest.mark.parametrize('name', ['torch', 'openvino'])
def test_every_backend_runs_at_the_size_of_the_budget(tmp_path, name, needs_installed):
    if name != 'torch':
        needs_installed(name)
    shape = Architecture(decoder_channels=(8, 8, 8, 8), bins=8, token_width=16, blocks=1)
    info = CheckpointInfo('tiny', dump(shape), input=InputInfo(64, 96))
    save_checkpoint(tmp_path / 'tiny.safetensors', info, DepthModel(shape).state_dict())
    for budget, size in ((0, (64, 96)), (12288, (96, 128))):
        one = DepthEngine.from_checkpoint(
            tmp_path / 'tiny.safetensors', 'cpu', name, pixel_budget=budget
        )
        (frame,) = one.infer_batch([(picture(), CAMERA)], full_size=False)
        assert frame.depth_m.shape == size
        one.close()
    with pytest.raises(SettingsError, match='pixel_budget is 12, expected 1024'):
        DepthEngine.from_checkpoint(tmp_path / 'tiny.safetensors', 'cpu', name, pixel_budget=12)


def test_the_network_is_told_the_intrinsics_of_its_own_input():
    wall = Wall()
    large = CAMERA.resize(256, 192)
    engine(wall).infer(picture(large), large)
    image, intrinsics = wall.seen[0]
    assert image.shape == (1, 3, 96, 128)
    assert intrinsics[0].tolist() == pytest.approx([120.0, 120.0, 63.5, 47.5])


def test_a_temporal_filter_takes_the_mean_of_two_frames_before_the_scale():
    wall, temporal = Wall(), TemporalFilter()
    one, settings = engine(wall), DepthSettings(temporal_s=10.0)

    def infer(stamp_ns, settings):
        request, moments = [(picture(), CAMERA)], [(temporal, stamp_ns)]
        return one.infer_batch(request, settings=settings, moments=moments)[0]

    infer(0, settings)
    wall.values = (math.log(8.0), 0.01, 0.0)
    frame = infer(100_000_000, settings)
    assert np.allclose(frame.depth_m, 4.0 * 120.0 / 60.0, rtol=1e-3)  # sqrt(2 * 8)
    assert np.allclose(frame.rescaled(Scale(1.5, 0.0)).depth_m, 12.0, rtol=1e-3)
    # Off, it takes nothing from the past, and holds nothing for when it is on again.
    assert np.allclose(infer(200_000_000, DepthSettings()).depth_m, 16.0)
    assert np.allclose(infer(300_000_000, settings).depth_m, 16.0)


def test_scale_multiplies_and_its_variance_lowers_confidence():
    sure = engine(Wall()).infer(picture(), CAMERA, Scale(1.5, 0.0))
    unsure = engine(Wall()).infer(picture(), CAMERA, Scale(1.5, 0.04))
    assert np.allclose(sure.depth_m, 6.0)
    assert sure.confidence.min() > 0.99
    expected = math.erf(0.2231 / math.sqrt(2 * (0.04 + 0.01**2 + 0.05**2)))
    assert unsure.confidence.max() == pytest.approx(expected, abs=1e-3)


def test_another_scale_gives_the_frame_that_it_would_have_given_at_first():
    backend = Wall()
    one = engine(backend)
    beyond = one.infer(picture(), CAMERA, Scale(30.0, 0.0))  # 120 m are beyond the range
    assert np.isposinf(beyond.depth_m).all()
    rgb = beyond.rgb
    again = beyond.rescaled(Scale(1.5, 0.04))
    wanted = one.infer(picture(), CAMERA, Scale(1.5, 0.04))
    assert np.array_equal(again.depth_m, wanted.depth_m)
    assert np.array_equal(again.confidence, wanted.confidence)
    assert again.rgb is rgb
    assert len(backend.seen) == 2  # the network has run once for each


def test_invalid_depth_follows_the_contract():
    settings = DepthSettings(min_depth_m=0.5, max_depth_m=80.0, min_confidence=0.5)

    def depth(backend, scale=1.0):
        request = [(picture(), CAMERA)]
        scales = [Scale(scale)]
        return engine(backend).infer_batch(request, scales=scales, settings=settings)[0].depth_m

    assert np.isposinf(depth(Wall(far=0.9))).all()
    assert np.isposinf(depth(Wall(), scale=100.0)).all()
    assert np.isneginf(depth(Wall(), scale=0.01)).all()
    assert np.isnan(depth(Wall(sigma=2.0))).all()


def test_cameras_of_one_size_share_a_batch_and_keep_their_own_focal_length():
    wall = Wall()
    tele = Camera(128, 96, 240.0, 240.0, 63.5, 47.5)
    wide = Camera(192, 64, 120.0, 120.0, 95.5, 31.5)
    requests = [(picture(c), c) for c in (CAMERA, wide, tele)]
    frames = engine(wall).infer_batch(requests)
    assert [frame.depth_m.shape for frame in frames] == [(96, 128), (64, 192), (96, 128)]
    assert [float(frame.depth_m[0, 0]) for frame in frames] == pytest.approx([4.0, 4.0, 8.0])
    assert sorted(image.shape[0] for image, _ in wall.seen) == [1, 2]


def test_it_is_prepared_for_every_camera_alone_and_for_all_together():
    wide, large = Camera(192, 64, 120.0, 120.0, 95.5, 31.5), CAMERA.resize(256, 192)
    wall = Wall()
    one = engine(wall)
    assert not one.is_ready([CAMERA])
    one.prepare([CAMERA, wide, large])
    # The network sees `large` in the size of CAMERA.
    assert wall.prepared == [(1, 3, 96, 128), (1, 3, 64, 192), (2, 3, 96, 128)]
    for cameras in ([CAMERA], [large], [wide], [CAMERA, wide], [CAMERA, large, wide]):
        assert one.is_ready(cameras)
    assert not one.is_ready([wide, wide])
    assert not wall.seen, 'nothing has to run for it'
    one.warm_up([CAMERA, CAMERA])
    assert [image.shape[0] for image, _ in wall.seen] == [1, 1, 2, 2]


def test_a_distorted_camera_gives_depth_of_the_rectified_view():
    camera = Camera.from_K(CAMERA.K, 128, 96, Distortion('plumb_bob', (-0.4, 0.0, 0.0, 0.0, 0.0)))
    frame = engine(Wall()).infer(picture(), camera)
    assert frame.camera.is_rectified
    assert frame.rgb.shape == (96, 128, 3)
    assert np.isfinite(frame.depth_m[48, 64])
    other = Camera.from_K(CAMERA.K, 128, 96, Distortion('plumb_bob', (0.4, 0.0, 0.0, 0.0, 0.0)))
    corner = engine(Wall()).infer(picture(), other)
    assert np.isnan(corner.depth_m[0, 0])  # pincushion: the corner was never seen
    assert corner.confidence[0, 0] == 0.0


def test_depth_at_network_size_comes_with_its_own_camera_and_colours():
    large = CAMERA.resize(256, 192)
    frames = engine(Wall()).infer_batch([(picture(large), large)], full_size=False)
    assert frames[0].depth_m.shape == (96, 128)
    assert frames[0].camera == CAMERA
    assert frames[0].rgb.shape == (96, 128, 3)


class Slope:
    """Canonical depth that grows to the right, for arrays or, as on a GPU, for tensors."""

    name = 'slope'

    def __init__(self, kind):
        self.kind = kind

    def run(self, image, intrinsics):
        assert isinstance(image, self.kind)
        assert isinstance(intrinsics, self.kind)
        batch, _, height, width = image.shape
        brightness = float(image.mean())
        u = np.tile(np.linspace(0.0, 3.0, width // 2, dtype=np.float32), (height // 2, 1))
        maps = np.stack([u + brightness, 0.02 * (1.0 + u), 0.4 * u / 3.0])[None]
        maps = np.repeat(maps.astype(np.float32), batch, axis=0)
        return maps if self.kind is np.ndarray else torch.from_numpy(maps)


BARREL = (-0.3, 0.1, 0.0, 0.0, 0.0)


@pytest.mark.parametrize('full_size', [True, False])
@pytest.mark.parametrize(
    ('lens', 'alpha'),
    # all of the view is seen but with the last two
    [(None, None), (BARREL, None), (BARREL, 1.0), ((0.3, -0.1, 0.0, 0.0, 0.0), None)],
)
def test_the_steps_of_a_gpu_give_what_those_of_a_cpu_give(full_size, lens, alpha):
    """All that is done around a network on a GPU, done with torch on the CPU."""
    distortion = None if lens is None else Distortion('plumb_bob', lens)
    camera = Camera.from_K([[200, 0, 127.5], [0, 200, 95.5], [0, 0, 1]], 256, 192, distortion)
    if alpha is not None:
        camera = with_view(camera, alpha)
    results, greys = [], []
    for kind in (np.ndarray, torch.Tensor):
        made = engine(Slope(kind))
        if kind is torch.Tensor:
            made._steps = on_device.DeviceSteps(torch.device('cpu'))
        temporal = TemporalFilter()
        for stamp_ns in (10**9, 11 * 10**8):
            frames = made.infer_batch(
                [(picture(camera), camera), (picture(camera) // 2, camera)],
                settings=DepthSettings(temporal_s=0.2),
                full_size=full_size,
                moments=[(temporal, stamp_ns), (TemporalFilter(), stamp_ns)],
            )
        frames.append(frames[1].rescaled(Scale(1.5, 0.01)))
        view = made._view(camera)
        given = view.preprocess(picture(camera))
        greys.append(view.grey(picture(camera), given).astype(int))
        results.append([(one, one.cloud(CloudSettings(confidence=True))) for one in frames])
    assert np.abs(np.diff(greys, axis=0)).max() <= 2  # what the filter follows
    for (host, cloud), (device, another) in zip(*results, strict=True):
        assert (host.maps, device.maps is None) == (None, False)
        assert np.isfinite(host.depth_m).any()
        np.testing.assert_allclose(device.depth_m, host.depth_m, rtol=2e-3)
        np.testing.assert_allclose(device.confidence, host.confidence, atol=1e-4)
        # That of a CPU is read back from the input of the network, and rounded again.
        assert np.abs(device.rgb.astype(int) - host.rgb).max() <= 1
        assert cloud.width == another.width > 1000
        assert cloud.fields == another.fields


def test_the_cloud_of_a_wall_is_flat_and_as_wide_as_the_view():
    frame = engine(Wall()).infer(picture(), CAMERA)
    points = frame.cloud(CloudSettings(decimation=1)).xyz()
    assert len(points) == 96 * 128
    assert np.allclose(points[:, 2], 4.0)
    assert points[:, 0].max() == pytest.approx(63.5 / 120.0 * 4.0, rel=1e-5)


def test_an_image_of_another_size_is_refused_with_both_sizes():
    with pytest.raises(MessageError, match=r'\(10, 20, 3\).*128x96'):
        engine(Wall()).infer(np.zeros((10, 20, 3), np.uint8), CAMERA)


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without a GPU')
def test_a_device_that_is_not_there_is_refused():
    assert choose_device('auto').type == 'cpu'
    with pytest.raises(DeviceError, match=r"'cuda' is not there: torch .* sees 0 CUDA devices"):
        choose_device('cuda')


def test_without_torch_auto_is_the_cpu_and_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(choose, '_GPU_FILES', ('/dev/null',))  # of a machine with a GPU
    monkeypatch.setitem(sys.modules, 'torch', None)  # an import of it fails
    assert choose.is_cpu('auto')
    with pytest.raises(DeviceError, match="'cuda' needs torch"):
        choose.is_cpu('cuda')


@pytest.mark.parametrize('name', ['gpu', 'cuda:x', 'meta'])
def test_a_device_of_no_kind_we_know_is_refused(name):
    with pytest.raises(DeviceError, match='expected auto, cpu'):
        choose_device(name)


def test_a_backend_of_no_kind_we_know_is_refused():
    with pytest.raises(DeviceError, match='expected one of auto, torch, openvino'):
        make_backend('tensorflow', None, 'cpu')
    with pytest.raises(DeviceError, match='runs on the CPU only'):
        make_backend('openvino', None, 'cuda')


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match='no such checkpoint'):
        DepthEngine.from_checkpoint(tmp_path / 'none.safetensors')
