from dataclasses import replace

import pytest
import torch
from torch import nn

from psd_depth_ros.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from psd_depth_ros.config import dump
from psd_depth_ros.errors import CheckpointError, SettingsError
from psd_depth_ros.networks import (
    Architecture,
    BinPrediction,
    build_encoder,
    DepthModel,
    expectation,
    load_model,
    ops,
    preset,
)
from psd_depth_ros.networks.bin_head import expected_log_depth
from psd_depth_ros.networks.depth_model import measure_complexity
from psd_depth_ros.networks.encoders import (
    EncoderWeights,
    freeze_maps,
    freeze_norm,
    IMAGENET_NORMALISATION,
    load_encoder_weights,
    load_folded,
    ResNet18Encoder,
)

TINY = Architecture(decoder_channels=(16, 16, 16, 16), bins=8, token_width=32, blocks=1)
INTRINSICS = torch.tensor([[80.0, 80.0, 47.5, 31.5]])


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return DepthModel(TINY).eval()


@pytest.mark.parametrize('name', ['mobilenet_v2', 'resnet18'])
def test_encoders_give_five_maps_at_strides_two_to_thirty_two(name):
    encoder = build_encoder(name).eval()
    maps = encoder(torch.zeros(1, 3, 64, 96))
    assert tuple(m.shape[1] for m in maps) == encoder.channels
    assert [tuple(m.shape[-2:]) for m in maps] == [(64 >> i, 96 >> i) for i in range(1, 6)]


def test_maps_are_at_half_size_and_within_range(model):
    output = model(torch.rand(1, 3, 64, 96), INTRINSICS)
    assert [tuple(m.shape) for m in output] == [(1, 1, 32, 48)] * 3
    depth = output.log_depth.exp()
    assert depth.min() > TINY.min_canonical_depth_m
    assert depth.max() < TINY.max_canonical_depth_m
    assert (output.sigma > 0).all()
    assert ((output.sky_probability >= 0) & (output.sky_probability <= 1)).all()


def test_bins_are_ascending_and_share_the_range(model):
    bins = model.predict_bins(torch.rand(2, 3, 64, 96), INTRINSICS.repeat(2, 1))
    assert torch.allclose(bins.widths.sum(dim=1), torch.ones(2))
    assert (bins.centres.diff(dim=1) > 0).all()


def test_a_batch_is_the_same_as_one_by_one(model):
    images = torch.rand(2, 3, 64, 96)
    both = model(images, INTRINSICS.repeat(2, 1)).log_depth
    single = model(images[1:], INTRINSICS).log_depth
    assert torch.allclose(both[1:], single, atol=1e-5)


def test_gradients_reach_every_parameter():
    model = DepthModel(TINY)
    output = model(torch.rand(1, 3, 64, 96), INTRINSICS)
    # Through the scores and through the bin positions; the last layer of the widths starts at 0.
    torch.nn.init.normal_(model.head.widths[2].weight)
    output = model(torch.rand(1, 3, 64, 96), INTRINSICS)
    (output.log_depth.sum() + output.sigma.sum()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_sides_that_are_no_multiple_of_32_are_refused(model):
    with pytest.raises(ValueError, match='multiples of 32'):
        model(torch.zeros(1, 3, 60, 96), INTRINSICS)


def test_what_the_presets_cost():
    lite = measure_complexity(DepthModel(preset('lite')), 192, 640)
    base = measure_complexity(DepthModel(preset('base')), 192, 640)
    assert 2.5e6 < lite.parameters < 3.5e6
    assert 1.0e9 < lite.macs < 1.5e9
    assert base.parameters > 3 * lite.parameters


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match='expected one of lite, base'):
        preset('huge')
    with pytest.raises(SettingsError, match=r'mobilenet_v2, resnet18.*psd_depth_ros\.encoders'):
        build_encoder('vgg')
    with pytest.raises(SettingsError, match="encoder 'resnet18' does not accept"):
        build_encoder('resnet18', {'depth': 3})
    with pytest.raises(SettingsError, match='multiple of heads'):
        DepthModel(replace(TINY, heads=5))


def test_a_folded_start_computes_what_the_folded_network_computes():
    torch.manual_seed(0)
    encoder = build_encoder('mobilenet_v2').eval()
    tensors = {}
    for name, module in encoder.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            tensors[f'{name}.weight'] = torch.randn_like(module.weight)
            tensors[f'{name}.bias'] = torch.randn(module.out_channels)
    load_folded(encoder, tensors)
    image = torch.rand(1, 3, 32, 32)
    first = torch.nn.functional.conv2d(
        torch.nn.functional.pad(image, (0, 1, 0, 1)),
        tensors['features.0.0.weight'], tensors['features.0.0.bias'], stride=2,
    ).clamp(0, 6)  # fmt: skip
    assert torch.allclose(encoder.features[0](image), first, atol=1e-4)
    encoder.train()
    freeze_norm(encoder)
    assert torch.allclose(encoder.features[0](image), first, atol=1e-4)
    del tensors['features.3.conv.1.0.bias']
    with pytest.raises(SettingsError, match=r'features\.3\.conv\.1\.0'):
        load_folded(encoder, tensors)


@pytest.mark.parametrize(
    ('name', 'count', 'frozen'),
    [
        ('mobilenet_v2', 2, {f'features.{layer}' for layer in range(4)}),
        ('resnet18', 1, {'conv1', 'bn1'}),
        ('resnet18', 2, {'conv1', 'bn1', 'layer1.0', 'layer1.1'}),
    ],
)
def test_frozen_maps_freeze_the_layers_that_make_them(name, count, frozen):
    encoder = build_encoder(name)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    freeze_maps(encoder, count)
    still = {key for key, value in encoder.named_parameters() if not value.requires_grad}
    assert still == {
        key
        for key, _ in encoder.named_parameters()
        if key.startswith(tuple(f + '.' for f in frozen))
    }
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    freeze_norm(encoder, everywhere=False)
    encoder(torch.rand(2, 3, 64, 64))
    for key, value in encoder.state_dict().items():
        if key.endswith('running_mean'):
            stays = key.startswith(tuple(f + '.' for f in frozen))
            assert torch.equal(value, before[key]) == stays, key


def test_a_saved_model_loads_and_computes_the_same(model, tmp_path):
    path = tmp_path / 'model.safetensors'
    save_checkpoint(path, CheckpointInfo('tiny', dump(TINY)), model.state_dict())
    again = load_model(load_checkpoint(path))
    image = torch.rand(1, 3, 64, 96)
    assert torch.equal(again(image, INTRINSICS).log_depth, model(image, INTRINSICS).log_depth)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'encoder': 'vgg'}, "unknown encoder 'vgg'"),
        ({'bins': 16}, 'tensors missing, 0 unknown, 4 of another shape or type; head.queries is'),
        ({'bins': 10**9}, 'bins is 1000000000'),
        ({'wings': 2}, "unknown setting 'wings'"),
        ({'encoder': 'resnet18'}, 'not those of the architecture'),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(model, tmp_path, change, message):
    path = tmp_path / 'model.safetensors'
    info = CheckpointInfo('tiny', {**dump(TINY), **change})
    save_checkpoint(path, info, model.state_dict())
    with pytest.raises(CheckpointError, match=r'model\.safetensors') as caught:
        load_model(load_checkpoint(path))
    assert message.split(';')[-1].strip() in str(caught.value)


@pytest.mark.parametrize(
    ('kind', 'told'),
    [
        (torch.int64, 'float32'),
        (torch.bool, 'of bool, expected'),
        (torch.complex64, 'of complex64, expected'),
    ],
)
def test_weights_that_are_no_floating_point_numbers_are_refused(model, tmp_path, kind, told):
    path = tmp_path / 'model.safetensors'
    tensors = dict(model.state_dict())
    name = next(name for name in tensors if name.endswith('weight'))
    tensors[name] = tensors[name].to(kind)
    try:
        save_checkpoint(path, CheckpointInfo('tiny', dump(TINY)), tensors)
    except KeyError:
        pytest.skip(f'this release of safetensors does not know {kind}')
    with pytest.raises(CheckpointError, match='1 of another shape or type') as caught:
        load_model(load_checkpoint(path))
    assert told in str(caught.value)


def test_what_the_largest_input_costs_is_counted_without_computing_it(model):
    small, large = (measure_complexity(model, side, side).macs for side in (64, 1984))
    assert large > 900 * small  # 961 times the pixels


def weights(tensors):
    return EncoderWeights(tensors, 'test', 'Apache-2.0', '0' * 12, IMAGENET_NORMALISATION)


def test_imagenet_weights_of_a_resnet_fit() -> None:
    source, target = ResNet18Encoder(), ResNet18Encoder()
    tensors = {**source.state_dict(), 'fc.weight': torch.zeros(1000, 512)}
    load_encoder_weights(target, weights(tensors))
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor)
    del tensors['layer1.0.conv1.weight']
    with pytest.raises(SettingsError, match=r'layer1\.0\.conv1\.weight'):
        load_encoder_weights(target, weights(tensors))


def test_the_disparity_head_starts_in_the_middle_and_stays_in_range() -> None:
    model = DepthModel(preset('lite', 'disparity'))
    nn.init.zeros_(model.head.convolution.weight)
    intrinsics = torch.tensor([[60.0, 60.0, 31.5, 31.5]])
    depth = model(torch.zeros(1, 3, 64, 64), intrinsics).log_depth.exp()
    assert depth.shape == (1, 1, 32, 32)
    assert depth.mean().item() == pytest.approx((0.2 * 200.0) ** 0.5, rel=1e-3)
    for bias, expected in ((50.0, 0.2), (-50.0, 200.0)):
        nn.init.constant_(model.head.convolution.bias, bias)
        found = model(torch.zeros(1, 3, 64, 64), intrinsics).log_depth.exp().mean().item()
        assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize('columns', [5, 16384])
def test_the_expectation_for_training_is_the_expectation(columns, monkeypatch) -> None:
    monkeypatch.setattr(ops, 'CACHED_COLUMNS', columns)  # parts, and all at once
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 6, 9, requires_grad=True)
    centres = torch.randn(2, 5).sort(dim=1).values.requires_grad_()
    bins = BinPrediction(logits, centres, centres)
    before = logits.detach().clone()
    expected, found = expectation(bins), expected_log_depth(bins)
    assert torch.equal(logits, before)  # float32 already, so that nothing was copied
    torch.testing.assert_close(found[:2], expected[:2])
    few = logits[..., ::4, ::4]
    torch.testing.assert_close(found.scores, few)
    weights = torch.randn(2, 1, 6, 9), torch.randn(2, 5, 2, 3)

    def gradient(log_depth, scores):
        total = (log_depth * weights[0]).sum() + (scores.square() * weights[1]).sum()
        return torch.autograd.grad(total, (logits, centres))

    wanted = gradient(expected.log_depth, few)
    torch.testing.assert_close(gradient(found.log_depth, found.scores), wanted)


def test_bins_move_with_the_features_as_a_disparity_does():
    """At the start, so that both learn the shapes of things equally fast."""
    slopes = {}
    for head in ('bins', 'disparity'):
        torch.manual_seed(0)
        model = DepthModel(preset('lite', head))
        seen = []
        last = model.decoder.stages[-1][-1]
        last.register_forward_hook(lambda _module, _given, found, seen=seen: seen.append(found))
        log_depth = model(torch.randn(1, 3, 64, 96), INTRINSICS).log_depth
        (gradient,) = torch.autograd.grad(log_depth.sum(), seen)
        slopes[head] = gradient.norm(dim=1).mean().item()
    assert slopes['bins'] > 0.5 * slopes['disparity']
