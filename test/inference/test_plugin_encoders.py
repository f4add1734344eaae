"""An encoder of another installed package runs on every backend, however it is written."""

from importlib.metadata import entry_points
import itertools
from pathlib import Path
import re
import textwrap

import numpy as np
import pytest
import torch

from psd_depth_ros.checkpoint import Checkpoint, CheckpointInfo
from psd_depth_ros.config import dump
from psd_depth_ros.inference.choose import make_backend
from psd_depth_ros.inference.conversion import SubprocessConverter
from psd_depth_ros.inference.torch_backend import TorchBackend
from psd_depth_ros.networks import Architecture, DepthModel, Encoder

INTRINSICS = np.array([[80.0, 80.0, 47.5, 31.5]], np.float32)
PACKAGE = """
    import torch
    from torch import nn
    import torch.nn.functional as F

    from psd_depth_ros.networks import Encoder

    WIDTHS = (8, 8, 16, 16, 32)


    class Convolutions(Encoder):
        channels = WIDTHS

        def __init__(self):
            super().__init__()
            inputs = (3, *WIDTHS[:-1])
            self.layers = nn.ModuleList(
                nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(inputs, WIDTHS)
            )

        def rest(self, x, first=0):
            maps = []
            for layer in self.layers[first:]:
                x = F.relu(layer(x))
                maps.append(x)
            return maps


    class ForwardOnly(Convolutions):
        def forward(self, image):
            return self.rest(image)


    class TupleOfMaps(Convolutions):
        def forward(self, image):
            return tuple(self.rest(image))


    class MapsOnly(Convolutions):
        def maps(self, x):
            return self.rest(x)


    class WithStem(Convolutions):
        def stem(self, image):
            return F.relu(self.layers[0](image))

        def maps(self, x):
            return [x, *self.rest(x, 1)]


    class StemAndForward(WithStem):
        # a stem that forward does not use in the way of the base class
        def forward(self, image):
            x = self.stem(image - 0.1)
            return [x, *self.rest(x, 1)]


    class WithoutParameters(Encoder):
        channels = (3, 3, 3, 3, 3)

        def forward(self, image):
            return [F.avg_pool2d(image, 2**i) for i in range(1, 6)]
"""
ENCODERS = {
    'forward': 'ForwardOnly',
    'tuple': 'TupleOfMaps',
    'maps': 'MapsOnly',
    'stem': 'WithStem',
    'stem_and_forward': 'StemAndForward',
    'no_parameters': 'WithoutParameters',
}
PAGE = Path(__file__).parents[2] / 'docs' / 'encoders_backends.md'


def documented():
    """The example of the documentation, and the name of its class."""
    source = re.search(r'```python\n(.*?)```', PAGE.read_text(encoding='utf-8'), re.DOTALL)[1]
    return source, re.search(r'class (\w+)\(Encoder\)', source)[1]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package `others_encoders`, installed for this process and those that it starts."""
    (tmp_path / 'others_encoders.py').write_text(textwrap.dedent(PACKAGE))
    described = tmp_path / 'others_encoders-1.0.dist-info'
    described.mkdir()
    (described / 'METADATA').write_text('Metadata-Version: 2.1\nName: others_encoders\n')
    points = [f'others_{name} = others_encoders:{kind}' for name, kind in ENCODERS.items()]
    source, kind = documented()
    (tmp_path / 'documented_encoder.py').write_text(source)
    points.append(f'others_documented = documented_encoder:{kind}')
    (described / 'entry_points.txt').write_text('\n'.join(['[psd_depth_ros.encoders]', *points]))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=':')
    assert len(entry_points(group='psd_depth_ros.encoders')) >= len(ENCODERS)


def build(name):
    torch.manual_seed(0)
    architecture = Architecture(
        encoder=f'others_{name}', decoder_channels=(16, 16, 16, 16), bins=16, token_width=32,
        blocks=1,
    )  # fmt: skip
    model = DepthModel(architecture).eval()
    with torch.no_grad():
        model.head.key.weight.mul_(60.0)
        model.head.widths[2].weight.normal_()
    return model


def image():
    torch.manual_seed(1)
    coarse = torch.randn(1, 3, 8, 12)
    return torch.nn.functional.interpolate(coarse, size=(64, 96), mode='bilinear').numpy()


@pytest.mark.usefixtures('installed')
@pytest.mark.parametrize(
    ('backend', 'encoder'),
    [
        *itertools.product(['torch', 'openvino'], [*ENCODERS, 'documented']),
        ('onnxruntime', 'stem_and_forward'),
        ('onnxruntime', 'documented'),
    ],
)
def test_every_documented_plugin_runs_on_every_backend(backend, encoder, needs_installed):
    if backend != 'torch':
        needs_installed(backend)
    model = build(encoder)
    expected = TorchBackend(model, 'cpu', half=False).run(image(), INTRINSICS)
    found = make_backend(backend, lambda: model, 'cpu').run(image(), INTRINSICS)
    assert found.shape == (1, 3, 32, 48)
    assert expected[:, 0].std() > 0.01, 'a flat depth would make this test blind'
    assert np.abs(np.expm1(found[:, 0] - expected[:, 0])).mean() < 0.02


@pytest.mark.usefixtures('installed')
@pytest.mark.parametrize(
    ('backend', 'encoder'), [('openvino', 'forward'), ('onnxruntime', 'stem')]
)
def test_a_plugin_is_converted_in_a_process_of_its_own(backend, encoder, needs_installed):
    needs_installed(backend)
    model = build(encoder)
    expected = TorchBackend(model, 'cpu', half=False).run(image(), INTRINSICS)
    info = CheckpointInfo('plugin', dump(model.architecture))
    convert = SubprocessConverter(Checkpoint('plugin', info, model.state_dict(), 'id'))
    found = make_backend(backend, lambda: model, 'cpu', convert).run(image(), INTRINSICS)
    assert np.abs(np.expm1(found[:, 0] - expected[:, 0])).mean() < 0.02


def test_an_encoder_that_overrides_nothing_says_so():
    class Nothing(Encoder):
        channels = (1, 1, 1, 1, 1)

    with pytest.raises(NotImplementedError, match='Nothing overrides neither forward nor maps'):
        Nothing()(torch.zeros(1, 3, 32, 32))
