"""Exported files: the same depth as the checkpoint, in the engine too."""

from dataclasses import replace
import json
import shutil

import cv2
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
from psd_depth_ros.cli.export import divide, read_batch, read_size, spread
from psd_depth_ros.config import dump
from psd_depth_ros.errors import CheckpointError, DeviceError, SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import DepthEngine, export, exported
from psd_depth_ros.inference import engine as engines
from psd_depth_ros.inference.export import ExportChoice, write_exported
from psd_depth_ros.inference.exported import compare, read_exported, Sample
from psd_depth_ros.inference.onnx_metadata import read_onnx_metadata
from psd_depth_ros.inference.postprocess import DepthSettings
from psd_depth_ros.inference.torch_conversion import (
    example_inputs,
    keep_layers,
    MapsModel,
    to_graph,
    to_onnx,
)
from psd_depth_ros.networks import Architecture, DepthModel, load_model, preset

CAMERA = Camera(192, 128, 160.0, 160.0, 95.5, 63.5)
WIDE = DepthSettings(min_depth_m=0.001, max_depth_m=1000.0, min_confidence=0.0)
GENERATOR = np.random.default_rng(0)
IMAGE = cv2.resize(GENERATOR.integers(0, 256, (16, 24, 3), dtype=np.uint8), (192, 128))
EXAMPLES = {
    (96, 64): [(IMAGE[:64, :96], (80.0, 80.0, 47.5, 31.5))],
    (128, 64): [(IMAGE[64:, :128], (90.0, 90.0, 63.5, 31.5))],
}
# Each format with both networks and at both sizes; every conversion takes seconds.
FILES = {
    'lite.onnx': ('lite', (96, 64), ExportChoice('onnx')),
    'base.onnx': ('base', (128, 64), ExportChoice('onnx', batch=0)),
    'lite.xml': ('lite', (128, 64), ExportChoice('openvino', batch=2, precision='bf16')),
    'base.xml': ('base', (96, 64), ExportChoice('openvino')),
    'tiny.xml': ('tiny', (96, 64), ExportChoice('openvino')),
}
LIBRARIES = {'.onnx': 'onnxruntime', '.xml': 'openvino'}


@pytest.fixture(scope='module')
def networks(tmp_path_factory):
    """Checkpoints and models of `lite`, of `base` with random weights, and of a tiny one."""
    folder = tmp_path_factory.mktemp('networks')
    torch.manual_seed(0)
    tiny = Architecture(encoder='resnet18', head='disparity', decoder_channels=(16, 16, 16, 16))
    found = {}
    base = replace(preset('base'), blocks=1)  # converted in less time
    for name, architecture in (('base', base), ('tiny', tiny)):
        model = DepthModel(architecture)
        with torch.no_grad():  # depth varies over the picture as that of a trained network
            if name == 'base':
                model.head.key.weight.mul_(60.0)
        info = CheckpointInfo(
            name, dump(architecture), input=InputInfo(64, 96), licence='CC0',
            output=OutputInfo(metric=True, canonical_focal_px=80.0), data=(),
        )  # fmt: skip
        save_checkpoint(folder / f'{name}.safetensors', info, model.state_dict())
        found[name] = load_checkpoint(folder / f'{name}.safetensors')
    found['lite'] = load_checkpoint('lite')
    return {name: (one, load_model(one).eval()) for name, one in found.items()}


@pytest.fixture(scope='module', autouse=True)
def conversions():
    """Every network is converted once for each shape."""
    kept = {}
    patch = pytest.MonkeyPatch()
    to_onnx, to_graph = export.to_onnx, export.to_graph

    def onnx_once(maps, image, intrinsics, any_batch=False):
        key = (id(maps.model), tuple(image.shape), any_batch)
        if key not in kept:
            kept[key] = to_onnx(maps, image, intrinsics, any_batch), maps.model
        return kept[key][0]

    def graph_once(model, image, intrinsics, any_batch=False, is_named=False):
        key = ('openvino', id(model), tuple(image.shape), any_batch, is_named)
        if key not in kept:
            kept[key] = to_graph(model, image, intrinsics, any_batch, is_named), model
        return kept[key][0].clone()

    patch.setattr(export, 'to_onnx', onnx_once)
    patch.setattr(export, 'to_graph', graph_once)
    yield
    patch.undo()


@pytest.fixture(scope='module')
def files(networks, tmp_path_factory):
    """Files by name, each written when it is first asked for, with the difference it had."""
    folder = tmp_path_factory.mktemp('files') / 'new'
    written = {}

    def get(name):
        pytest.importorskip(LIBRARIES['.onnx' if name.endswith('.onnx') else '.xml'])
        if name not in written:
            network, size, choice = FILES[name]
            examples = EXAMPLES[size]
            written[name] = write_exported(folder / name, *networks[network], examples, choice)
        return folder / name, written[name]

    return get


@pytest.mark.parametrize('name', [name for name in FILES if name != 'tiny.xml'])
def test_an_exported_file_gives_the_depth_of_its_checkpoint(networks, files, name):
    path, result = files(name)
    assert result.parity.is_good
    network, size, _ = FILES[name]
    engine = DepthEngine.from_checkpoint(path)
    assert engine.backend == LIBRARIES[path.suffix]
    assert engine.parity is not None
    assert engine.parity.is_good
    checkpoint, _ = networks[network]
    assert engine.checkpoint.info.licence == checkpoint.info.licence
    own = DepthEngine.from_checkpoint(
        checkpoint.path, 'cpu', 'torch', pixel_budget=size[0] * size[1]
    )
    camera = CAMERA if size == (96, 64) else Camera(128, 64, 90.0, 90.0, 63.5, 31.5)
    image = np.ascontiguousarray(IMAGE[: camera.height, : camera.width])
    requests = [(image, camera), (image[:, ::-1].copy(), camera), (image // 2, camera)]
    for one, other in zip(
        engine.infer_batch(requests, settings=WIDE), own.infer_batch(requests, settings=WIDE),
        strict=True,
    ):  # fmt: skip
        known = np.isfinite(one.depth_m) & np.isfinite(other.depth_m)
        assert known.mean() > 0.8
        assert (np.isfinite(one.depth_m) == np.isfinite(other.depth_m)).mean() > 0.95
        difference = compare(np.log(one.depth_m[known]), np.log(other.depth_m[known]))
        assert difference.mean < 0.02  # float32 or, where the processor has it, bfloat16
        np.testing.assert_allclose(one.confidence, other.confidence, atol=0.1)


def test_an_exported_file_leaves_the_gpu_of_a_machine_alone(files, monkeypatch):
    monkeypatch.setattr(engines, 'is_cpu', lambda device: device == 'cpu')
    path, _ = files('tiny.xml')
    assert DepthEngine.from_checkpoint(path, 'auto').device == 'cpu'
    with pytest.raises(DeviceError, match='runs on the CPU only; choose device cpu, or auto'):
        DepthEngine.from_checkpoint(path, 'cuda')


def test_a_file_tells_nothing_of_the_machine_that_wrote_it(files):
    path, _ = files('lite.onnx')
    content = path.read_bytes()
    assert b'conversion.py' not in content
    assert b'stack_trace' not in content


def test_torchscript_is_written_and_not_run(networks, tmp_path):
    path = tmp_path / 'tiny.ts'
    choice = ExportChoice('torchscript')
    result = write_exported(path, *networks['tiny'], EXAMPLES[96, 64], choice)
    assert result.parity.is_good
    with pytest.raises(CheckpointError, match='a program that is not run here'):
        DepthEngine.from_checkpoint(path)


@pytest.mark.parametrize('kind', ['onnx', 'openvino'])
def test_eight_bits_are_written_run_and_measured(networks, tmp_path, kind):
    pytest.importorskip('nncf' if kind == 'openvino' else 'onnxruntime')
    name, width = ('base', 128) if kind == 'onnx' else ('tiny', 96)  # converted before
    path = tmp_path / f'{name}{exported.SUFFIXES[kind]}'
    choice = ExportChoice(kind, batch=0 if kind == 'onnx' else 1, precision='int8')
    examples = [(IMAGE[y : y + 64, x : x + width], (80.0, 80.0, 47.5, 31.5))
                for y in (0, 64) for x in (0, 64)]  # fmt: skip
    result = write_exported(
        path, *networks[name], examples[:2], choice, calibration=examples, accepts_any=True
    )
    assert 1e-5 < result.parity.mean < 0.1
    text = path.read_bytes()
    assert (b'QuantizeLinear' if kind == 'onnx' else b'FakeQuantize') in text
    camera = Camera(width, 64, 80.0, 80.0, 47.5, 31.5)
    request = IMAGE[:64, :width].copy(), camera
    (frame,) = DepthEngine.from_checkpoint(path).infer_batch([request], settings=WIDE)
    assert np.isfinite(frame.depth_m).any()


@pytest.mark.parametrize('kind', ['onnx', 'openvino'])
def test_every_layer_of_the_decoder_is_there_to_be_quantised(networks, needs_installed, kind):
    needs_installed('openvino' if kind == 'openvino' else 'onnx')
    _, model = networks['tiny']
    layers = {
        f'model.{name}.'
        for name, one in model.named_modules()
        if name.startswith('decoder.') and isinstance(one, torch.nn.Conv2d)
    }
    model, example = keep_layers(model), example_inputs((1, 3, 64, 96))
    if kind == 'openvino':
        nodes = to_graph(model, *example, is_named=True).get_ops()
        found = [
            one.get_friendly_name().replace('/', '.')
            for one in nodes
            if one.get_type_name() == 'Convolution'
        ]
    else:
        onnx = pytest.importorskip('onnx')
        graph = onnx.load_from_string(to_onnx(MapsModel(model).eval(), *example)).graph
        found = [node.input[1] for node in graph.node if node.op_type == 'Conv']
    assert len(layers) == 8
    assert layers == {layer for layer in layers if any(layer in name for name in found)}


def test_a_file_for_tensorrt_is_checked_and_not_run(networks, tmp_path):
    pytest.importorskip('onnxruntime')
    path = tmp_path / 'lite.onnx'
    choice = ExportChoice('tensorrt', precision='fp16')
    result = write_exported(path, *networks['lite'], EXAMPLES[96, 64], choice)
    assert 1e-5 < result.parity.mean < 0.01
    assert f'--onnx={path}' in result.notes[0]
    assert '--stronglyTyped' in result.notes[0]
    assert '--stronglyTyped' not in result.notes[1]
    facts = json.loads(read_onnx_metadata(path)['psd_depth_ros'])['export']
    assert facts['build']['TensorRT 10'].endswith('--stronglyTyped')
    with pytest.raises(CheckpointError, match='was written for TensorRT, which runs outside'):
        DepthEngine.from_checkpoint(path)


def test_a_file_that_differs_too_much_is_not_left(networks, tmp_path, monkeypatch):
    pytest.importorskip('openvino')
    monkeypatch.setattr(exported, 'MEAN_LIMIT', -1.0)
    path = tmp_path / 'tiny.xml'
    given = (path, *networks['tiny'], EXAMPLES[96, 64], ExportChoice('openvino', 1, 'fp16'))
    with pytest.raises(DeviceError, match='differs from that of float32 torch by mean 0'):
        write_exported(*given)
    assert not list(tmp_path.iterdir())
    write_exported(*given, accepts_any=True)
    assert read_exported(path) is not None


def test_the_shape_of_another_camera_is_refused_with_the_size_for_it(files):
    path, _ = files('tiny.xml')
    engine = DepthEngine.from_checkpoint(path)
    wide = Camera(640, 192, 500.0, 500.0, 319.5, 95.5)
    with pytest.raises(SettingsError, match=r'96x64 only, .* --size \d+x32'):
        engine.infer(np.zeros((192, 640, 3), np.uint8), wide)
    with pytest.raises(SettingsError, match='leave out pixel_budget'):
        DepthEngine.from_checkpoint(path, pixel_budget=12288)


@pytest.mark.parametrize(
    ('name', 'choice', 'message'),
    [
        ('a.xml', ExportChoice('onnx'), r'a\.xml: files of onnx end with \.onnx'),
        ('a.onnx', ExportChoice('onnx', precision='fp16'), 'in fp32 or int8, not in fp16'),
        ('a.onnx', ExportChoice('tensorrt', precision='int8'), 'or bf16, not in int8'),
        ('a.onnx', ExportChoice('tensorrt', batch=0), 'for a known number of images'),
        ('a.pb', ExportChoice('tensorflow'), "unknown format 'tensorflow'"),
    ],
)
def test_what_a_format_lacks_is_refused(tmp_path, name, choice, message):
    with pytest.raises(SettingsError, match=message):
        choice.check(tmp_path / name)


def test_a_size_is_width_and_height_in_whole_tiles(networks, tmp_path):
    assert read_size('640x192') == (640, 192)
    for text in ('640', '640x', '0x192', 'axb'):
        with pytest.raises(SettingsError, match='WIDTHxHEIGHT'):
            read_size(text)
    odd = [(IMAGE[:60, :96], (80.0, 80.0, 47.5, 29.5))]
    with pytest.raises(SettingsError, match='96x60: both sides have to be multiples of 32'):
        write_exported(tmp_path / 'a.onnx', *networks['tiny'], odd, ExportChoice('onnx'))


def test_a_batch_is_a_number_or_any():
    assert (read_batch('3'), read_batch('any')) == (3, 0)
    for text in ('0', '65', '-1', 'all'):
        with pytest.raises(SettingsError, match='expected 1 to 64, or any'):
            read_batch(text)


@pytest.mark.parametrize('length', [0, 3, 10, 11, 57, 400])
def test_images_of_a_recording_are_spread_over_it(length):
    kept = spread(iter(range(length)), 10)
    assert len(kept) == min(length, 10)
    assert kept == sorted(set(kept))
    if length > 10:
        assert kept[-1] > 0.7 * length


def test_images_to_compare_on_are_not_those_of_the_calibration():
    compared, others = divide(list(range(56)), 8)
    assert compared == list(range(0, 56, 7))
    assert sorted(compared + others) == list(range(56))
    assert divide([1, 2], 8) == ([1, 2], [])


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


def test_a_damaged_description_is_told(files, tmp_path):
    source, _ = files('tiny.xml')
    path = tmp_path / 'tiny.xml'
    shutil.copy(source.with_suffix('.bin'), tmp_path)
    text = source.read_text()
    assert '&quot;shape&quot;: [1, 3, 64, 96]' in text
    path.write_text(text.replace('&quot;shape&quot;: [1, 3, 64, 96]', '&quot;shape&quot;: [1]'))
    with pytest.raises(CheckpointError, match='export it again'):
        read_exported(path)
    path.write_text('no graph')
    with pytest.raises(CheckpointError, match='no file that psd-depth export wrote'):
        read_exported(path)
    assert read_exported(tmp_path / 'other.onnx') is None


def test_a_network_of_others_is_not_opened_to_see_whose_it_is(tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip('onnxruntime')
    from teacher_files import write_red

    path = write_red(tmp_path / 'net.onnx', 'depth')
    monkeypatch.setattr(onnxruntime, 'InferenceSession', None)
    assert read_exported(path) is None
    path.write_bytes(path.read_bytes()[:-3])
    assert read_exported(path) is None
    path.write_text('no network')
    assert read_exported(path) is None
