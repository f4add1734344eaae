"""The libraries that can run a network agree with float32 torch to within 1 %."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
import importlib.util
import threading
import time

import numpy as np
import pytest
import torch

from psd_depth_ros.checkpoint import Checkpoint, CheckpointInfo
from psd_depth_ros.config import dump
from psd_depth_ros.errors import CheckpointError, DeviceError
from psd_depth_ros.inference.backends import CompiledNetworks, OnnxBackend, OpenVinoBackend
from psd_depth_ros.inference.choose import make_backend
from psd_depth_ros.inference.conversion import SubprocessConverter
from psd_depth_ros.inference.network_store import find_place, StoredConverter
from psd_depth_ros.inference.torch_backend import TorchBackend
from psd_depth_ros.networks import Architecture, DepthModel

INTRINSICS = np.array([[80.0, 80.0, 47.5, 31.5], [90.0, 90.0, 40.0, 30.0]], np.float32)


@pytest.fixture(scope='module')
def model():
    """A tiny network whose depth varies over the picture as a trained one's does."""
    torch.manual_seed(0)
    model = DepthModel(
        Architecture(decoder_channels=(16, 16, 16, 16), bins=16, token_width=32, blocks=1)
    ).eval()
    with torch.no_grad():
        model.head.key.weight.mul_(60.0)
        model.head.widths[2].weight.normal_()
    return model


@pytest.fixture(scope='module')
def image():
    torch.manual_seed(1)
    coarse = torch.randn(2, 3, 8, 12)
    return torch.nn.functional.interpolate(coarse, size=(64, 96), mode='bilinear').numpy()


@pytest.fixture(scope='module')
def expected(model, image):
    return TorchBackend(model, 'cpu', half=False).run(image, INTRINSICS)


def difference(found, expected):
    """Relative difference of depth."""
    return np.abs(np.expm1(found[:, 0] - expected[:, 0]))


def in_a_process(model, keep_in=None):
    """A converter in a process of its own."""
    info = CheckpointInfo('tiny', dump(model.architecture))
    return SubprocessConverter(Checkpoint('tiny', info, model.state_dict(), 'id'), keep_in)


@pytest.mark.parametrize('name', ['torch', 'openvino', 'onnxruntime'])
def test_parity_with_float32_torch(model, image, expected, name, needs_installed):
    if name != 'torch':
        needs_installed(name)
    backend = make_backend(name, lambda: model, 'cpu')
    found = backend.run(image, INTRINSICS)
    assert found.dtype == np.float32
    assert expected[:, 0].std() > 0.02, 'a flat depth would make this test blind'
    relative = difference(found, expected)
    assert relative.mean() < 0.01
    assert np.quantile(relative, 0.99) < 0.03
    # Another shape, prepared in another thread: nothing is left to be compiled for it.
    shape = (1, *image.shape[1:])
    assert backend.is_ready(shape) == (name == 'torch')
    with ThreadPoolExecutor(1) as pool:
        pool.submit(backend.prepare, [shape]).result()
    assert backend.is_ready(shape)
    backend._convert = None
    again = backend.run(image[:1], INTRINSICS[:1])
    assert difference(again, expected[:1]).mean() < 0.01
    backend.close()


@pytest.mark.parametrize('name', ['openvino', 'onnxruntime'])
def test_a_network_without_bins_runs_everywhere(image, name, needs_installed):
    needs_installed(name)
    torch.manual_seed(0)
    plain = DepthModel(Architecture(decoder_channels=(16,) * 4, head='disparity')).eval()
    with torch.no_grad():
        plain.head.convolution.weight.mul_(20.0)
    wanted = TorchBackend(plain, 'cpu', half=False).run(image, INTRINSICS)
    assert wanted[:, 0].std() > 0.02
    found = make_backend(name, lambda: plain, 'cpu').run(image, INTRINSICS)
    assert difference(found, wanted).mean() < 0.01
    assert np.array_equal(found[:, 2], wanted[:, 2])  # nothing is called far


@pytest.mark.parametrize('kind', [OpenVinoBackend, OnnxBackend])
def test_float32_converted_in_another_process_is_exact_to_rounding_and_stored(
    model, image, expected, kind, needs_installed, monkeypatch, tmp_path
):
    needs_installed(kind.name)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    options = {'half': False} if kind is OpenVinoBackend else {}
    there = StoredConverter(in_a_process(model, partial(find_place, 'id')), 'id', stores=False)
    backend = kind(there, **options)
    assert np.allclose(backend.run(image, INTRINSICS), expected, atol=2e-3)
    again = kind(StoredConverter(pytest.fail, 'id'), **options)
    assert np.allclose(again.run(image, INTRINSICS), expected, atol=2e-3)


def test_a_process_without_torch_is_not_started(model, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(DeviceError, match='tiny has to be converted, or run, with torch'):
        in_a_process(model)('openvino', (1, 3, 64, 96))


def test_another_process_tells_that_weights_are_of_another_network(model):
    info = CheckpointInfo('tiny', {**dump(model.architecture), 'bins': 32})
    convert = SubprocessConverter(Checkpoint('mine.safetensors', info, model.state_dict(), 'id'))
    with pytest.raises(CheckpointError, match=r'^mine\.safetensors: its weights are not those'):
        convert('openvino', (1, 3, 64, 96))


@pytest.mark.parametrize('name', ['openvino', 'onnxruntime'])
def test_the_network_is_made_when_it_is_converted(model, name, needs_installed):
    needs_installed(name)
    made = []
    backend = make_backend(name, lambda: made.append(1) or model, 'cpu')
    assert not made
    backend.prepare([(1, 3, 64, 96)])
    assert made


def test_few_shapes_stay_compiled_the_one_used_last_longest():
    networks, made = CompiledNetworks(capacity=2), []

    def get(height):
        return networks.get((1, 3, height, 96), lambda: made.append(height) or f'for {height}')

    assert [get(one) for one in (32, 64, 32, 96, 32)] == [
        'for 32', 'for 64', 'for 32', 'for 96', 'for 32',
    ]  # fmt: skip
    assert made == [32, 64, 96]
    assert [(1, 3, one, 96) in networks for one in (32, 64, 96)] == [True, False, True]
    networks.keep(3)  # in use together: there is room for them and for others that come
    for _ in range(2):
        for height in (32, 64, 96, 128, 160):
            get(height)
    assert made == [32, 64, 96, 64, 128, 160]
    networks.close()
    get(192)
    assert (1, 3, 192, 96) not in networks


def test_frames_go_on_while_another_shape_is_compiled():
    networks, compiling, done = CompiledNetworks(), threading.Event(), threading.Event()

    def slow():
        compiling.set()
        assert done.wait(10.0)
        return 'new'

    networks.get((1,), lambda: 'old')
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(networks.get, (2,), slow)
        assert compiling.wait(10.0)
        assert networks.get((1,), pytest.fail) == 'old'
        assert (2,) not in networks
        done.set()
        assert result.result(10.0) == 'new'


def test_a_conversion_can_be_cancelled(model):
    convert = in_a_process(model)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(convert, 'onnx', (1, 3, 64, 96))
        while not convert._running:
            time.sleep(0.01)
        convert.cancel()
        with pytest.raises(DeviceError, match='was cancelled'):
            result.result(10.0)
    with pytest.raises(DeviceError, match='was cancelled'):
        convert('onnx', (1, 3, 64, 96))


def test_a_process_that_cannot_convert_says_why(model):
    convert = in_a_process(model)
    with pytest.raises(DeviceError, match=r'cannot be converted for onnx: .* code 1 .*unpack'):
        convert('onnx', (1,))
