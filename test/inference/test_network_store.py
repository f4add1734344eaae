"""Converted networks on disk: used again where nothing has changed, and harmless otherwise."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from psd_depth_ros.checkpoint import Checkpoint, CheckpointInfo, load_checkpoint
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import DepthEngine, network_store
from psd_depth_ros.inference.backends import OpenVinoBackend
from psd_depth_ros.inference.choose import convert_here
from psd_depth_ros.inference.export import ExportChoice, write_exported
from psd_depth_ros.inference.network_store import (
    is_known,
    is_storable,
    store_folder,
    StoredConverter,
)
from psd_depth_ros.networks import Architecture, DepthModel, load_model

SHAPE = (1, 3, 64, 96)
INTRINSICS = np.array([[60.0, 60.0, 48.0, 32.0]], np.float32)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return DepthModel(Architecture(decoder_channels=(16,) * 4, head='disparity')).eval()


class Counting:
    """A converter of text: what it was asked for."""

    def __init__(self):
        self.asked = []

    def __call__(self, kind, shape):
        self.asked.append((kind, shape))
        return (f'{kind} {shape}'.encode(),)


def test_a_second_start_converts_nothing_and_gives_the_same(model, needs_installed):
    needs_installed('openvino')
    image = np.random.default_rng(1).random(SHAPE, np.float32)

    def run(convert):
        backend = OpenVinoBackend(StoredConverter(convert, 'id'), half=False)
        return backend.run(image, INTRINSICS).copy()

    assert not is_known('id')
    first = run(convert_here(lambda: model))
    assert is_known('id')
    assert not is_known('i')
    np.testing.assert_array_equal(run(pytest.fail), first)


def test_another_network_shape_library_or_code_is_converted_anew(monkeypatch):
    counting = Counting()
    for name, kind, shape in [
        ('a', 'onnx', (1,)), ('b', 'onnx', (1,)), ('a', 'onnx', (2,)), ('a', 'onnx', (1,)),
    ]:  # fmt: skip
        assert StoredConverter(counting, name)(kind, shape) == (f'{kind} {shape}'.encode(),)
    assert len(counting.asked) == 3
    for change in ('_version', '_identify_code'):
        monkeypatch.setattr(network_store, change, lambda *_: 'newer')
        StoredConverter(counting, 'a')('onnx', (1,))
    assert len(counting.asked) == 5


@pytest.mark.parametrize('damage', ['cut', 'changed', 'empty'])
def test_a_damaged_file_is_converted_anew_and_replaced(damage):
    counting = Counting()
    convert = StoredConverter(counting, 'a')
    convert('onnx', (1,))
    (path,) = store_folder().iterdir()
    whole = path.read_bytes()
    cut = {'cut': whole[:-3], 'changed': whole[:-1] + b'!', 'empty': b''}[damage]
    path.write_bytes(cut)
    assert convert('onnx', (1,)) == (b'onnx (1,)',)
    assert len(counting.asked) == 2
    assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path):
    (tmp_path / 'cache').write_text('a file')
    counting = Counting()
    for _ in range(2):
        assert StoredConverter(counting, 'a')('onnx', (1,)) == (b'onnx (1,)',)
    assert len(counting.asked) == 2


def test_a_converter_beside_an_engine_at_work_only_looks():
    counting = Counting()
    looking = StoredConverter(counting, 'a', stores=False)
    looking('onnx', (1,))
    assert not store_folder().exists()
    StoredConverter(counting, 'a')('onnx', (1,))
    assert looking('onnx', (1,)) == (b'onnx (1,)',)
    assert len(counting.asked) == 2


def test_those_that_were_used_last_stay(monkeypatch):
    monkeypatch.setattr(network_store, '_MOST_FILES', 2)
    counting = Counting()
    convert = StoredConverter(counting, 'a')
    for age, shape in [(30, (1,)), (20, (2,))]:
        convert('onnx', shape)
        for path in store_folder().iterdir():
            was = path.stat().st_mtime - age
            os.utime(path, (was, was))
    convert('onnx', (1,))  # used again
    convert('onnx', (3,))
    assert counting.asked == [('onnx', (1,)), ('onnx', (2,)), ('onnx', (3,))]
    convert('onnx', (1,))
    convert('onnx', (2,))
    assert counting.asked[3:] == [('onnx', (2,))]


@pytest.mark.parametrize(('encoder', 'expected'), [('mobilenet_v2', True), ('swin', False)])
def test_networks_with_an_encoder_of_others_are_not_stored(encoder, expected):
    info = CheckpointInfo('any', {'encoder': encoder})
    assert is_storable(Checkpoint('any', info, {}, 'id')) == expected


LATER_START = """
import sys

sys.modules['torch'] = None  # an import of it fails

import numpy as np

from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.inference.cloud import CloudSettings
from psd_depth_ros.inference.postprocess import DepthSettings
from psd_depth_ros.inference.temporal import TemporalFilter
from psd_depth_ros.ros.depth_node import node, worker
from psd_depth_ros.runtime import configure_runtime

network = sys.argv[1]
engine = DepthEngine.from_checkpoint(network or None, pixel_budget=0 if network else 6144)
configure_runtime(engine.backend)
camera = Camera(96, 64, 60.0, 60.0, 47.5, 31.5)
image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
temporal = TemporalFilter()
for stamp_ns in (10**9, 11 * 10**8):
    (frame,) = engine.infer_batch(
        [(image, camera)], settings=DepthSettings(temporal_s=0.2), moments=[(temporal, stamp_ns)]
    )
print(frame.depth_m.shape, frame.cloud(CloudSettings()).point_step)
"""


def start_without_torch(network=''):
    return subprocess.run(
        [sys.executable, '-c', LATER_START, str(network)], capture_output=True, text=True
    )


def test_a_later_start_of_a_node_needs_no_torch(needs_installed):
    for package in ('openvino', 'rclpy'):
        needs_installed(package)
    refused = start_without_torch()
    assert 'lite.safetensors has to be converted, or run, with torch' in refused.stderr
    camera = Camera(96, 64, 60.0, 60.0, 47.5, 31.5)
    DepthEngine.from_checkpoint(device='cpu', pixel_budget=6144).warm_up([camera])
    assert start_without_torch().stdout == '(64, 96) 16\n'


def test_an_exported_network_needs_no_torch(tmp_path, needs_installed):
    for package in ('openvino', 'rclpy'):
        needs_installed(package)
    path = tmp_path / 'lite.xml'
    checkpoint = load_checkpoint()
    images = (np.full((64, 96, 3), 127, np.uint8), (60.0, 60.0, 47.5, 31.5))
    model = load_model(checkpoint).eval()
    write_exported(path, checkpoint, model, [images], ExportChoice('openvino'))
    assert start_without_torch(path).stdout == '(64, 96) 16\n'
