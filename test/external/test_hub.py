"""Networks of transformers: tiny ones with random weights, read from a folder offline."""

from dataclasses import replace
import json
from types import MappingProxyType

import numpy as np
import pytest
import torch

from psd_depth_ros.checkpoint import load_checkpoint
from psd_depth_ros.cli.main import main
from psd_depth_ros.data.frames import Sequence
from psd_depth_ros.data.maps import compute_maps
from psd_depth_ros.errors import CheckpointError, SettingsError
from psd_depth_ros.external.hub import find_folder
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.inference.postprocess import DepthSettings
from psd_depth_ros.replay.rendering import write_world
from psd_depth_ros.synth import World, WorldSettings
from psd_depth_ros.teachers import open_depth_teacher, open_semantic_expert

transformers = pytest.importorskip('transformers')
huggingface_hub = pytest.importorskip('huggingface_hub')

from tiny_transformers import (  # noqa: E402
    FAMILIES,
    make_depth_anything,
    MEAN,
    save,
    STD,
)

CAMERA = Camera(56, 28, 50.0, 50.0, 27.5, 13.5)
IMAGE = np.random.default_rng(0).integers(0, 256, (28, 56, 3)).astype(np.uint8)
WIDE = DepthSettings(min_depth_m=0.001, max_depth_m=1000.0, min_confidence=0.0)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    torch.manual_seed(2)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'cache'))


@pytest.fixture(scope='module')
def families(tmp_path_factory):
    """Folders of a network of every family."""
    torch.manual_seed(2)
    root = tmp_path_factory.mktemp('families')
    return {name: save(make(), root / name, size) for name, (make, size, _) in FAMILIES.items()}


@pytest.fixture
def depth_folder(tmp_path):
    size = {'size': {'height': 28, 'width': 28}}
    return save(make_depth_anything(), tmp_path / 'depth', size)


def backbone_config():
    return transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=1, image_size=28,
        patch_size=7, out_features=['stage1', 'stage2'], reshape_hidden_states=False,
    )  # fmt: skip


def predict(network, height, width):
    """What a network gives for the image, resized to a size."""
    import cv2

    method = cv2.INTER_AREA if width < IMAGE.shape[1] else cv2.INTER_LINEAR
    pixels = (cv2.resize(IMAGE, (width, height), interpolation=method) / 255.0 - MEAN) / STD
    with torch.no_grad():
        given = torch.from_numpy(pixels).float().permute(2, 0, 1)[None]
        return network.eval()(given).predicted_depth[0].numpy()


@pytest.mark.parametrize('name', FAMILIES)
def test_every_family_runs_live_in_metres(families, name):
    engine = DepthEngine.from_checkpoint(f'{families[name]}{FAMILIES[name][2]}', device='cpu')
    assert engine.checkpoint.info.output.metric
    frame = engine.infer_batch([(IMAGE, CAMERA)], settings=WIDE)[0]
    assert frame.depth_m.shape == (28, 56)
    assert np.isfinite(frame.depth_m).all()
    assert frame.depth_m.min() > 0
    assert (engine.device, engine.backend, frame.problem) == ('cpu', 'transformers', '')


@pytest.mark.parametrize('name', FAMILIES)
def test_every_family_makes_the_maps_of_a_teacher(families, name):
    teacher = open_depth_teacher(f'{families[name]}{FAMILIES[name][2]}')
    assert teacher.gives_depth, 'metric disparity has no shift'
    triplets = np.array([[1, 0, 2]], np.int32)
    sequence = Sequence(
        name='made', rgb=np.stack([IMAGE] * 3), camera=CAMERA, stamps_ns=np.arange(3),
        valid=np.ones((28, 56), bool), triplets=triplets, held_out=triplets[:0], fine_factor=1,
    )  # fmt: skip
    (found,) = compute_maps([sequence], teacher, 'pseudo_depth', None).sequences
    assert found.pseudo_depth.shape == (3, 28, 56)
    assert np.isfinite(found.pseudo_depth).all()


def test_depth_pro_gives_inverse_depth_of_a_camera_as_wide_as_long(families):
    """Depth is fx / (width C): 50 px of 56 for the camera, whatever the input is squeezed to."""
    engine = DepthEngine.from_checkpoint(families['depth_pro'], device='cpu')
    network = transformers.DepthProForDepthEstimation.from_pretrained(families['depth_pro'])
    wanted = 50 / 56 / predict(network, 64, 64)
    frame = engine.infer_batch([(IMAGE, CAMERA)], settings=WIDE, full_size=False)[0]
    assert frame.depth_m.shape == (64, 64)
    np.testing.assert_allclose(np.median(frame.depth_m), np.median(wanted), rtol=0.05)
    first = engine.infer_batch([(IMAGE, CAMERA)], settings=WIDE)[0].depth_m.copy()
    longer = engine.infer_batch([(IMAGE, replace(CAMERA, fx=100.0))], settings=WIDE)[0]
    np.testing.assert_allclose(longer.depth_m, 2 * first, rtol=1e-4)
    wide = DepthEngine.from_checkpoint(f'{families["depth_pro"]}?height=128&width=128')
    assert wide.infer(IMAGE, CAMERA).depth_m.shape == (28, 56)


def test_a_network_of_square_images_takes_no_other_pixels(families):
    with pytest.raises(SettingsError, match=r'takes images of 64x64 only; leave out pixel_budget'):
        DepthEngine.from_checkpoint(families['depth_pro'], device='cpu', pixel_budget=2048)


def test_a_family_distils_offline_by_the_command(families, tmp_path, capsys):
    recording = tmp_path / 'drive.mcap'
    write_world(World(3, WorldSettings(width=64, height=64, frame_rate_hz=10.0)), recording, 14)
    changes = (
        'pixel_budget=2048', 'batch=1', 'validate_every=2', 'preview_every=0', 'frozen_maps=5',
        'data.triplets.held_out=0.3', 'data.triplets.minimum_parallax=0.1',
        'acceptance.minimum_gain=-1000', 'acceptance.maximum_drift=100',
        'acceptance.maximum_stretch=100',
    )  # fmt: skip
    options = [word for one in changes for word in ('--set', one)]
    teacher = f'{families["depth_anything"]}?name=elder&licence=MIT'
    given = ['--output', str(tmp_path / 'run'), '--steps', '1', '--device', 'cpu', '--quiet']
    assert main(['distil', teacher, str(recording), *given, *options]) == 0
    assert 'accepted' in capsys.readouterr().out
    report = json.loads((tmp_path / 'run' / 'report.json').read_text())
    assert report['accepted']
    info = load_checkpoint(report['best']).info
    assert {'name': 'elder', 'licence': 'MIT'} in info.data


def normalised(height, width):
    values = (IMAGE / 255.0 - MEAN) / STD
    tensor = torch.from_numpy(values).float().permute(2, 0, 1)[None]
    assert tensor.shape[-2:] == (height, width)
    return tensor


def test_relative_depth_is_disparity_and_metric_depth_is_not(depth_folder):
    teacher = open_depth_teacher(f'{depth_folder}?height=28&width=56')
    network = transformers.DepthAnythingForDepthEstimation.from_pretrained(depth_folder).eval()
    with torch.no_grad():
        wanted = network(normalised(28, 56)).predicted_depth[0].numpy()
    assert wanted.std() > 0
    np.testing.assert_allclose(teacher(IMAGE, CAMERA), wanted, atol=1e-5)
    config = json.loads((depth_folder / 'config.json').read_text())
    config['depth_estimation_type'], config['max_depth'] = 'metric', 10
    (depth_folder / 'config.json').write_text(json.dumps(config))
    metric = open_depth_teacher(f'{depth_folder}?height=28&width=56')
    with torch.no_grad():
        network = transformers.DepthAnythingForDepthEstimation.from_pretrained(depth_folder)
        wanted = network.eval()(normalised(28, 56)).predicted_depth[0].numpy()
    np.testing.assert_allclose(metric(IMAGE, CAMERA), 1 / wanted, rtol=1e-4)
    assert metric.id != teacher.id


def test_an_image_gets_its_shape_and_as_many_pixels_as_the_network_wants(depth_folder):
    """28 x 28 pixels as 1 : 2 are 19.8 x 39.6: 21 x 42 in whole patches of 7."""
    assert open_depth_teacher(str(depth_folder))(IMAGE, CAMERA).shape == (21, 42)


def test_classes_are_probabilities(tmp_path):
    config = transformers.SegformerConfig(
        hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=8, num_labels=5,
    )  # fmt: skip
    network = transformers.SegformerForSemanticSegmentation(config)
    folder = save(network, tmp_path / 'classes', {'size': {'shortest_edge': 32}})
    found = open_semantic_expert(str(folder))(IMAGE, CAMERA)
    assert found.shape == (5, 8, 16)  # a fourth of 32 x 64, whole patches of 32
    np.testing.assert_allclose(found.sum(axis=0), 1.0, rtol=1e-5)
    with pytest.raises(SettingsError, match=r'SegformerForSemanticSegmentation, expected .*Depth'):
        open_depth_teacher(f'{folder}?output=depth')


def test_a_backbone_gives_its_last_features(tmp_path):
    network = transformers.Dinov2Backbone(backbone_config())
    folder = save(network, tmp_path / 'features', {'do_resize': False})
    found = open_semantic_expert(f'{folder}?height=28&width=56')(IMAGE, CAMERA)
    with torch.no_grad():
        config = transformers.AutoConfig.from_pretrained(folder)
        config.reshape_hidden_states = True
        own = transformers.Dinov2Backbone.from_pretrained(folder, config=config).eval()
        wanted = own(normalised(28, 56)).feature_maps[-1][0].numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_pickled_weights_are_refused_and_safetensors_named(depth_folder, tmp_path):
    (depth_folder / 'model.safetensors').rename(depth_folder / 'pytorch_model.bin')
    message = r'no weights in safetensors, only pytorch_model\.bin.*save_pretrained\(NEW\)'
    with pytest.raises(SettingsError, match=message):
        open_depth_teacher(str(depth_folder))
    with pytest.raises(SettingsError, match=message):
        DepthEngine.from_checkpoint(depth_folder, device='cpu')
    for name in ('net.pth', 'net.pt?metric=true', 'last.ckpt'):
        for load in (DepthEngine.from_checkpoint, open_depth_teacher):
            with pytest.raises(CheckpointError, match=r'pickled.*expected \.safetensors.*ONNX'):
                load(str(tmp_path / name))
        assert main(['inspect', str(tmp_path / name)]) == 2


def test_a_name_of_the_hub_tells_the_way_without_a_network():
    message = r'hf download some/network.*config\.json here, and give its path'
    for load in (open_depth_teacher, DepthEngine.from_checkpoint):
        with pytest.raises(SettingsError, match=message):
            load('hf:some/network')
    with pytest.raises(SettingsError, match='expected hf:OWNER/NAME'):
        find_folder('hf:one/two/three')


def hub_error(kind):
    """An error of the hub as its client raises it."""
    import inspect

    class Answer:
        headers = MappingProxyType({})
        request = None

    given = {'response': Answer()} if 'response' in inspect.signature(kind).parameters else {}
    return kind('401 Client Error.\nMore of it.', **given)


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('GatedRepoError', r'is gated.*accept its licence on https://huggingface\.co/some/network '
         r'and log in here \(`hf auth login`\), or download.*give its path'),
        ('RepositoryNotFoundError', r'knows no some/network, or it is private; check the name'),
        ('RevisionNotFoundError', r'no such branch, tag or commit; leave out'),
        ('LocalEntryNotFoundError', r'cannot be downloaded \(401 Client Error\.\); download it'),
    ],
)  # fmt: skip
def test_what_the_hub_refuses_is_told_with_the_way_out(monkeypatch, kind, message):
    error = hub_error(getattr(huggingface_hub.errors, kind))
    asked = []

    def refuse(self, name, **options):
        asked.append((name, options['revision'], options['timeout']))
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, 'model_info', refuse)
    with pytest.raises(SettingsError, match=message):
        find_folder('hf:some/network@v1')
    assert asked == [('some/network', 'v1', 10.0)], 'a hub that does not answer is not waited for'


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        (('config.json', 'pytorch_model.bin', 'old.pth'), r'only old\.pth, pytorch_model\.bin'),
        (('config.json', 'README.md'), r'no weights in safetensors, none that can be read'),
        (('depth.pth',), r'has no config\.json.*export it to ONNX'),
    ],
)
def test_files_of_the_hub_are_looked_at_before_they_are_copied(monkeypatch, files, message):
    class Info:
        siblings = tuple(type('File', (), {'rfilename': name}) for name in files)

    monkeypatch.setattr(huggingface_hub.HfApi, 'model_info', lambda self, name, **_: Info)
    with pytest.raises(SettingsError, match=message):
        find_folder('hf:some/network')


def test_a_network_in_the_cache_is_looked_up_once(depth_folder, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append(options['local_files_only'])
        return str(depth_folder)

    monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
    DepthEngine.from_checkpoint('hf:some/network?output=depth&metric=true&mean=[0,0,0]')
    assert asked == [True]


def test_a_size_that_the_network_refuses_is_told(families):
    teacher = open_depth_teacher(f'{families["dpt"]}?output=disparity&height=24&width=48')
    with pytest.raises(SettingsError, match=r'refuses an input of 48x24:.*give a size that it'):
        teacher(IMAGE, CAMERA)


def test_unclear_outputs_and_colours_are_refused(depth_folder):
    config = json.loads((depth_folder / 'config.json').read_text())
    (depth_folder / 'config.json').write_text(json.dumps({**config, 'model_type': 'dpt'}))
    with pytest.raises(SettingsError, match=r'\?output=depth or \?output=disparity'):
        open_depth_teacher(str(depth_folder))
    (depth_folder / 'config.json').write_text(json.dumps(config))
    (depth_folder / 'preprocessor_config.json').unlink()
    with pytest.raises(SettingsError, match=r'without preprocessor_config\.json.*\?mean='):
        open_depth_teacher(str(depth_folder))
