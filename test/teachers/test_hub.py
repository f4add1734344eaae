"""Networks of transformers: tiny ones with random weights, read from a folder offline."""

import json

import numpy as np
import pytest
import torch

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.teachers import open_depth_teacher, open_semantic_expert

transformers = pytest.importorskip('transformers')

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
CAMERA = Camera(56, 28, 50.0, 50.0, 27.5, 13.5)
IMAGE = np.random.default_rng(0).integers(0, 256, (28, 56, 3)).astype(np.uint8)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    torch.manual_seed(2)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'cache'))


def backbone_config():
    return transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=1, image_size=28,
        patch_size=7, out_features=['stage1', 'stage2'], reshape_hidden_states=False,
    )  # fmt: skip


def save(network, folder, size):
    network.save_pretrained(folder)
    preprocessor = {'image_mean': MEAN, 'image_std': STD, 'rescale_factor': 1 / 255, **size}
    (folder / 'preprocessor_config.json').write_text(json.dumps(preprocessor))
    return folder


@pytest.fixture
def depth_folder(tmp_path):
    config = transformers.DepthAnythingConfig(
        backbone_config=transformers.Dinov2Config(
            hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=1, image_size=28,
            patch_size=7, out_features=['stage1', 'stage2', 'stage3', 'stage4'],
            reshape_hidden_states=False,
        ),
        patch_size=7, reassemble_hidden_size=16, neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=4, head_hidden_size=4,
    )  # fmt: skip
    network = transformers.DepthAnythingForDepthEstimation(config)
    return save(network, tmp_path / 'depth', {'size': {'height': 28, 'width': 28}})


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


def test_weights_that_can_hold_programs_are_refused(depth_folder):
    (depth_folder / 'model.safetensors').rename(depth_folder / 'pytorch_model.bin')
    with pytest.raises(SettingsError, match='no weights in safetensors'):
        open_depth_teacher(str(depth_folder))


def test_a_name_of_the_hub_tells_the_way_without_a_network():
    with pytest.raises(SettingsError, match=r'hf download some/network.*config\.json here'):
        open_depth_teacher('hf:some/network')


def test_unclear_outputs_and_colours_are_refused(depth_folder):
    config = json.loads((depth_folder / 'config.json').read_text())
    (depth_folder / 'config.json').write_text(json.dumps({**config, 'model_type': 'dpt'}))
    with pytest.raises(SettingsError, match=r'\?output=depth or \?output=disparity'):
        open_depth_teacher(str(depth_folder))
    (depth_folder / 'config.json').write_text(json.dumps(config))
    (depth_folder / 'preprocessor_config.json').unlink()
    with pytest.raises(SettingsError, match=r'without preprocessor_config\.json.*\?mean='):
        open_depth_teacher(str(depth_folder))
