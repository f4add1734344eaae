"""The libraries that can run a network agree with float32 torch to within 1 %."""

import pytest
import torch

from psd_depth_ros.checkpoint import CheckpointInfo
from psd_depth_ros.config import dump
from psd_depth_ros.errors import DeviceError
from psd_depth_ros.inference import backends
from psd_depth_ros.inference.backends import OnnxBackend, OpenVinoBackend, TorchBackend
from psd_depth_ros.inference.conversion import convert_aside
from psd_depth_ros.networks import Architecture, DepthModel

INTRINSICS = torch.tensor([[80.0, 80.0, 47.5, 31.5], [90.0, 90.0, 40.0, 30.0]])


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
    return torch.nn.functional.interpolate(coarse, size=(64, 96), mode='bilinear')


@pytest.fixture(scope='module')
def expected(model, image):
    return TorchBackend(model, torch.device('cpu'), half=False).run(image, INTRINSICS)


@pytest.mark.parametrize('name', ['torch', 'openvino', 'onnxruntime'])
def test_parity_with_float32_torch(model, image, expected, name):
    if name != 'torch':
        pytest.importorskip(name, reason=f'the optional backend {name} is not installed')
    backend = backends.make_backend(name, model, torch.device('cpu'))
    found = backend.run(image, INTRINSICS)
    assert found.dtype == torch.float32
    assert expected[:, 0].std() > 0.02, 'a flat depth would make this test blind'
    relative = (found[:, 0] - expected[:, 0]).exp() - 1.0
    assert relative.abs().mean() < 0.01
    assert relative.abs().quantile(0.99) < 0.03
    again = backend.run(image[:1].contiguous(), INTRINSICS[:1])  # another shape
    assert again.shape[0] == 1
    backend.close()


@pytest.mark.parametrize('name', ['openvino', 'onnxruntime'])
def test_a_network_without_bins_runs_everywhere(image, name):
    pytest.importorskip(name, reason=f'the optional backend {name} is not installed')
    torch.manual_seed(0)
    plain = DepthModel(Architecture(decoder_channels=(16,) * 4, head='disparity')).eval()
    with torch.no_grad():
        plain.head.convolution.weight.mul_(20.0)
    wanted = TorchBackend(plain, torch.device('cpu'), half=False).run(image, INTRINSICS)
    assert wanted[:, 0].std() > 0.02
    found = backends.make_backend(name, plain, torch.device('cpu')).run(image, INTRINSICS)
    assert ((found[:, 0] - wanted[:, 0]).exp() - 1.0).abs().mean() < 0.01
    assert torch.equal(found[:, 2], wanted[:, 2])  # nothing is called far


@pytest.mark.parametrize('kind', [OpenVinoBackend, OnnxBackend])
def test_float32_is_exact_to_rounding(model, image, expected, kind):
    pytest.importorskip(kind.name, reason=f'the optional backend {kind.name} is not installed')
    backend = kind(model, half=False) if kind is OpenVinoBackend else kind(model)
    assert torch.allclose(backend.run(image, INTRINSICS), expected, atol=2e-3)


@pytest.mark.parametrize('kind', [OpenVinoBackend, OnnxBackend])
def test_converted_in_another_process_it_is_the_same(model, image, expected, kind):
    pytest.importorskip(kind.name, reason=f'the optional backend {kind.name} is not installed')
    convert = convert_aside(model, CheckpointInfo('tiny', dump(model.architecture)))
    options = {'half': False} if kind is OpenVinoBackend else {}
    backend = kind(model, convert=convert, **options)
    assert torch.allclose(backend.run(image, INTRINSICS), expected, atol=2e-3)


def test_a_process_that_cannot_convert_says_why(model):
    convert = convert_aside(model, CheckpointInfo('tiny', dump(model.architecture)))
    with pytest.raises(DeviceError, match=r'cannot be converted for onnx: .* code 1 .*unpack'):
        convert('onnx', (1,))
