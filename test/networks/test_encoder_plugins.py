"""Encoders from outside: another package's, and a Hugging Face backbone's."""

import pytest
import torch

from psd_depth_ros.networks import Architecture, build_encoder, DepthModel, Encoder
from psd_depth_ros.networks import encoders as encoder_module

SMALL = {'decoder_channels': (16, 16, 16, 16), 'bins': 8, 'token_width': 32, 'blocks': 1}
INTRINSICS = torch.tensor([[80.0, 80.0, 47.5, 31.5]])


class Pooling(Encoder):
    """The picture itself at every stride."""

    channels = (3, 3, 3, 3, 3)

    def forward(self, image):
        return [torch.nn.functional.avg_pool2d(image, 2**i) for i in range(1, 6)]


class EntryPoint:
    name = 'pooling'

    def load(self):
        return Pooling


def test_an_encoder_of_another_package_is_found_by_its_entry_point(monkeypatch):
    monkeypatch.setattr(encoder_module, 'entry_points', lambda group: [EntryPoint()])
    assert isinstance(build_encoder('pooling'), Pooling)
    model = DepthModel(Architecture(encoder='pooling', **SMALL))
    assert model(torch.rand(1, 3, 64, 96), INTRINSICS).log_depth.shape == (1, 1, 32, 48)


def test_a_hugging_face_backbone():
    transformers = pytest.importorskip('transformers', reason='an optional extra')
    config = transformers.ConvNextConfig(depths=[1] * 4, hidden_sizes=[16, 32, 64, 96]).to_dict()
    model = DepthModel(Architecture(encoder='transformers', **SMALL), {'config': config})
    assert model.encoder.channels == (32, 16, 32, 64, 96)
    assert model(torch.rand(1, 3, 64, 96), INTRINSICS).log_depth.shape == (1, 1, 32, 48)
