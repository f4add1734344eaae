"""Exported files: the same depth as the checkpoint, in the engine too."""

import numpy as np
import pytest
import torch

from psd_depth_ros.checkpoint import (
    CheckpointInfo,
    InputInfo,
    load_checkpoint,
    OutputInfo,
    save_checkpoint,
)
from psd_depth_ros.cli.export import read_size
from psd_depth_ros.config import dump
from psd_depth_ros.errors import CheckpointError, DeviceError, SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import DepthEngine, exported
from psd_depth_ros.inference.exported import compare, read_exported, Sample, write_exported
from psd_depth_ros.inference.postprocess import DepthSettings
from psd_depth_ros.networks import Architecture, DepthModel, load_model

CAMERA = Camera(192, 128, 160.0, 160.0, 95.5, 63.5)
WIDE = DepthSettings(min_depth_m=0.001, max_depth_m=1000.0, min_confidence=0.0)
IMAGE = np.random.default_rng(0).integers(0, 256, (128, 192, 3), dtype=np.uint8)
SMALL = [(IMAGE[:64, :96], (80.0, 80.0, 47.5, 31.5))]
KINDS = [('onnx', '.onnx', 'onnxruntime'), ('openvino', '.xml', 'openvino')]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    tiny = Architecture(decoder_channels=(16, 16, 16, 16), bins=8, token_width=32, blocks=1)
    info = CheckpointInfo(
        'tiny', dump(tiny), input=InputInfo(64, 96), licence='CC0',
        output=OutputInfo(metric=True, canonical_focal_px=80.0), data=(),
    )  # fmt: skip
    path = tmp_path_factory.mktemp('export') / 'tiny.safetensors'
    save_checkpoint(path, info, DepthModel(tiny).state_dict())
    return load_checkpoint(path)


def export(checkpoint, path, kind, **options):
    model = load_model(checkpoint).eval()
    return write_exported(path, checkpoint, model, SMALL, kind=kind, **options)


@pytest.mark.parametrize(('kind', 'suffix', 'library'), KINDS)
def test_an_exported_file_gives_the_depth_of_its_checkpoint(
    checkpoint, tmp_path, kind, suffix, library
):
    pytest.importorskip(library)
    path = tmp_path / 'new' / f'tiny{suffix}'
    parity = export(checkpoint, path, kind, batch=2)
    assert parity.is_good
    engine = DepthEngine.from_checkpoint(path)
    assert engine.backend == library
    assert engine.checkpoint.info.licence == 'CC0'
    assert engine.parity is not None
    assert engine.parity.is_good
    own = DepthEngine.from_checkpoint(checkpoint.path, 'cpu', 'torch', pixel_budget=64 * 96)
    requests = [(IMAGE, CAMERA), (IMAGE[:, ::-1].copy(), CAMERA), (IMAGE // 2, CAMERA)]
    for one, other in zip(
        engine.infer_batch(requests, settings=WIDE), own.infer_batch(requests, settings=WIDE),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_allclose(one.depth_m, other.depth_m, rtol=0.03)
        np.testing.assert_allclose(one.confidence, other.confidence, atol=0.03)


def test_torchscript_is_written_and_not_run(checkpoint, tmp_path):
    path = tmp_path / 'tiny.ts'
    assert export(checkpoint, path, 'torchscript').is_good
    assert path.exists()
    with pytest.raises(CheckpointError, match='a program that is not run here'):
        DepthEngine.from_checkpoint(path)


def test_a_file_that_differs_too_much_is_not_left(checkpoint, tmp_path, monkeypatch):
    pytest.importorskip('openvino')
    monkeypatch.setattr(exported, 'MEAN_LIMIT', -1.0)
    path = tmp_path / 'tiny.xml'
    with pytest.raises(DeviceError, match='differs from that of float32 torch by mean 0'):
        export(checkpoint, path, 'openvino', precision='fp16')
    assert not list(tmp_path.iterdir())
    export(checkpoint, path, 'openvino', precision='fp16', accepts_any=True)
    assert read_exported(path) is not None


def test_the_shape_of_another_camera_is_refused_with_the_size_for_it(checkpoint, tmp_path):
    pytest.importorskip('openvino')
    export(checkpoint, tmp_path / 'tiny.xml', 'openvino')
    engine = DepthEngine.from_checkpoint(tmp_path / 'tiny.xml')
    wide = Camera(640, 192, 500.0, 500.0, 319.5, 95.5)
    with pytest.raises(SettingsError, match=r'96x64 only, .* --size \d+x32'):
        engine.infer(np.zeros((192, 640, 3), np.uint8), wide)
    with pytest.raises(SettingsError, match='leave out pixel_budget'):
        DepthEngine.from_checkpoint(tmp_path / 'tiny.xml', pixel_budget=12288)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'kind': 'onnx', 'path': 'a.xml'}, r'a\.xml: files of onnx end with \.onnx'),
        ({'kind': 'onnx', 'precision': 'fp16', 'path': 'a.onnx'}, 'in fp32, not in fp16'),
        ({'kind': 'tensorflow', 'path': 'a.pb'}, "unknown format 'tensorflow'"),
    ],
)
def test_what_a_format_lacks_is_refused(checkpoint, tmp_path, options, message):
    given = {**options, 'path': tmp_path / options['path']}
    with pytest.raises(SettingsError, match=message):
        export(checkpoint, **given)


def test_a_size_is_width_and_height_in_whole_tiles(checkpoint, tmp_path):
    assert read_size('640x192') == (640, 192)
    for text in ('640', '640x', '0x192', 'axb'):
        with pytest.raises(SettingsError, match='WIDTHxHEIGHT'):
            read_size(text)
    odd = [(IMAGE[:60, :96], (80.0, 80.0, 47.5, 29.5))]
    with pytest.raises(SettingsError, match='96x60: both sides have to be multiples of 32'):
        write_exported(tmp_path / 'a.onnx', checkpoint, load_model(checkpoint), odd, kind='onnx')


def test_parity_is_that_of_depth():
    """ln 1.1 everywhere, but 0 in 2 of 100 pixels: 9.8 % on average."""
    log_depth = np.full((10, 10), np.log(1.1), np.float32)
    log_depth[0, :2] = 0.0
    parity = compare(log_depth, np.zeros((10, 10), np.float32))
    assert parity.mean == pytest.approx(0.098, rel=1e-4)
    assert parity.high == pytest.approx(0.1, rel=1e-4)
    assert not parity.is_good


def test_a_sample_survives_its_text():
    depth = np.linspace(-2, 4, 12, dtype=np.float32).reshape(3, 4)
    sample = Sample(IMAGE[:6, :8], (1.0, 2.0, 3.0, 4.0), depth)
    again = Sample.decode(sample.encode())
    np.testing.assert_array_equal(again.image, sample.image)
    assert again.intrinsics == sample.intrinsics
    np.testing.assert_allclose(again.log_depth, depth, atol=2e-3)


def test_a_damaged_description_is_told(checkpoint, tmp_path):
    pytest.importorskip('openvino')
    path = tmp_path / 'tiny.xml'
    export(checkpoint, path, 'openvino')
    text = path.read_text()
    assert '&quot;shape&quot;: [1, 3, 64, 96]' in text
    path.write_text(text.replace('&quot;shape&quot;: [1, 3, 64, 96]', '&quot;shape&quot;: [1]'))
    with pytest.raises(CheckpointError, match='export it again'):
        read_exported(path)
    path.write_text('no graph')
    with pytest.raises(CheckpointError, match='no file that psd-depth export wrote'):
        read_exported(path)
    assert read_exported(tmp_path / 'other.onnx') is None
