"""Weights of torchvision become the file that training starts from."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from psd_depth_ros.networks import build_encoder, Normalisation
from psd_depth_ros.networks.encoders import load_encoder_weights, read_encoder_weights
from tools.export_torchvision import LICENCE, main

MEAN, STD = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)


class FakeWeights:
    """The `DEFAULT` of a WeightsEnum."""

    @staticmethod
    def transforms():
        return SimpleNamespace(mean=list(MEAN), std=list(STD))

    def __str__(self):
        return 'Fake_Weights.IMAGENET1K_V1'


@pytest.fixture
def torchvision(monkeypatch):
    """A stand-in whose models have the names and shapes of torchvision, a classifier included."""
    weights = FakeWeights()
    package, models = ModuleType('torchvision'), ModuleType('torchvision.models')
    tensors = {}

    def get_model(name, weights):
        assert weights is models.get_model_weights(name).DEFAULT
        torch.manual_seed(1)
        tensors.update(build_encoder(name).state_dict())
        tensors['classifier.1.weight'] = torch.zeros(1000, 8)
        return SimpleNamespace(state_dict=lambda: tensors)

    models.get_model = get_model
    models.get_model_weights = lambda name: SimpleNamespace(DEFAULT=weights)
    monkeypatch.setitem(sys.modules, 'torchvision', package)
    monkeypatch.setitem(sys.modules, 'torchvision.models', models)
    return tensors


@pytest.mark.parametrize('name', ['mobilenet_v2', 'resnet18'])
def test_an_encoder_starts_from_what_was_exported(torchvision, tmp_path, name, capsys):
    path = tmp_path / 'out.npz'
    assert main([name, str(path)]) == 0
    weights = read_encoder_weights(path)
    assert weights.provenance() == {
        'name': 'torchvision Fake_Weights.IMAGENET1K_V1',
        'licence': LICENCE,
        'id': weights.id,
    }
    assert weights.id in capsys.readouterr().out
    encoder = build_encoder(name)
    load_encoder_weights(encoder, weights)
    assert encoder.normalisation == Normalisation(MEAN, STD)
    for key, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, torchvision[key])
    assert 'classifier.1.weight' not in weights.tensors


def test_weights_that_do_not_fit_are_not_written(torchvision, tmp_path, monkeypatch, capsys):
    path = tmp_path / 'out.npz'
    other = build_encoder('mobilenet_v2')
    monkeypatch.setattr('tools.export_torchvision.build_encoder', lambda name: other)
    assert main(['resnet18', str(path)]) == 2
    assert 'other weights than expected' in capsys.readouterr().err
    assert not path.exists()


def test_without_torchvision_it_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'torchvision', None)
    assert main(['resnet18', str(tmp_path / 'out.npz')]) == 2
    assert 'pip install torchvision' in capsys.readouterr().err
