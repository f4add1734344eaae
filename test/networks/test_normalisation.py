"""Every encoder gets its input as its weights were trained; the checkpoint says how."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from psd_depth_ros.checkpoint import CheckpointInfo, InputInfo, load_checkpoint, save_checkpoint
from psd_depth_ros.config import dump
from psd_depth_ros.errors import CheckpointError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.networks import (
    Architecture,
    build_encoder,
    DepthModel,
    load_model,
    Normalisation,
)
from psd_depth_ros.networks.encoders import load_encoder_weights, read_encoder_weights
from psd_depth_ros.preprocess import Preprocessor

TORCHVISION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ODD = Normalisation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
TINY = Architecture(decoder_channels=(16, 16, 16, 16), bins=8, token_width=32, blocks=1)


def npz(path, encoder, folded=False, **described):
    """A file of weights with the tensors of an encoder."""
    tensors = {name: tensor.numpy() for name, tensor in encoder.state_dict().items()}
    if folded:
        convolutions = [name for name, one in tensors.items() if one.ndim == 4]
        tensors = {name: tensors[name] for name in convolutions}
        for name in convolutions:
            bias = np.zeros(tensors[name].shape[0], np.float32)
            tensors[name.replace('.weight', '.bias')] = bias
    np.savez(path, **tensors, **described)
    return path


def test_images_are_normalised_channel_by_channel():
    pixels = torch.randint(0, 256, (2, 3, 3, 4, 5), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in TORCHVISION)
    expected = (pixels / 255.0 - mean) / std
    kept = pixels.clone()
    torch.testing.assert_close(TORCHVISION.apply(pixels), expected)
    torch.testing.assert_close(TORCHVISION.apply(pixels / 255.0), expected)
    assert torch.equal(pixels, kept)
    whole = pixels / 255.0
    TORCHVISION.apply(whole)
    assert torch.equal(whole, pixels / 255.0)  # the input stays as it is


def test_serving_and_training_normalise_alike():
    rgb = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    camera = Camera(64, 32, 40.0, 40.0, 31.5, 15.5)
    served = torch.from_numpy(Preprocessor(camera, (32, 64), *TORCHVISION)(rgb))
    trained = TORCHVISION.apply(torch.from_numpy(rgb).permute(2, 0, 1)[None])
    torch.testing.assert_close(served, trained, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ('name', 'folded', 'expected'),
    [
        ('mobilenet_v2', True, Normalisation()),
        ('mobilenet_v2', False, TORCHVISION),
        ('resnet18', False, TORCHVISION),
    ],
)
def test_weights_bring_their_normalisation(tmp_path, name, folded, expected):
    encoder = build_encoder(name)
    encoder.normalisation = ODD
    path = npz(tmp_path / 'w.npz', encoder, folded)
    load_encoder_weights(encoder, read_encoder_weights(path))
    assert encoder.normalisation == expected


def test_weights_can_say_their_normalisation_and_their_origin(tmp_path):
    encoder = build_encoder('resnet18')
    described = {'mean': ODD.mean, 'std': ODD.std, 'name': 'mine', 'licence': 'MIT'}
    weights = read_encoder_weights(npz(tmp_path / 'w.npz', encoder, **described))
    load_encoder_weights(encoder, weights)
    assert encoder.normalisation == ODD
    assert weights.provenance() == {'name': 'mine', 'licence': 'MIT', 'id': weights.id}
    assert len(weights.id) == 12


def test_weights_of_unknown_origin_say_so(tmp_path):
    weights = read_encoder_weights(npz(tmp_path / 'mine.npz', build_encoder('resnet18')))
    assert (weights.name, weights.licence) == ('mine', 'not stated')


@pytest.mark.parametrize(
    'described',
    [
        {'mean': ODD.mean},
        {'mean': (0.5,), 'std': ODD.std},
        {'mean': ODD.mean, 'std': (0.0, 1.0, 1.0)},
        {'mean': ODD.mean, 'std': (float('nan'), 1.0, 1.0)},
        {'mean': ('a', 'b', 'c'), 'std': ODD.std},
    ],
)
def test_a_normalisation_that_is_none_is_refused(tmp_path, described):
    path = npz(tmp_path / 'w.npz', build_encoder('resnet18'), **described)
    with pytest.raises(CheckpointError, match=r'w\.npz.*normalisation'):
        read_encoder_weights(path)


def test_encoders_start_with_the_normalisation_of_their_usual_weights():
    assert build_encoder('resnet18').normalisation == TORCHVISION
    assert build_encoder('mobilenet_v2').normalisation == Normalisation()


def test_a_checkpoint_keeps_the_normalisation_it_was_trained_with(tmp_path):
    path = tmp_path / 'c.safetensors'
    model = DepthModel(replace(TINY, encoder='resnet18'))
    info = CheckpointInfo('odd', dump(model.architecture), input=InputInfo(64, 96, *ODD))
    save_checkpoint(path, info, model.state_dict())
    loaded = load_model(load_checkpoint(path))
    assert loaded.normalisation == ODD
    image = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(loaded.normalise(image), ODD.apply(image))
