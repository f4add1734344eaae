"""Encoders: an image in, five feature maps at strides 2, 4, 8, 16 and 32 out.

`build_encoder` knows the two built-in encoders, a Hugging Face backbone (`transformers` extra) and
any encoder that another installed package offers under the entry point group
`psd_depth_ros.encoders`. What is done with the maps is left to `decoder` and `bin_head`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, cast

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.parsing import shorten

PLUGIN_GROUP = 'psd_depth_ros.encoders'


class Encoder(nn.Module):
    """Base of every encoder: `channels` of the five maps, and the two steps that make them.

    `stem` is the part that must not be run in half precision; without one of its own an encoder
    has an empty stem.
    """

    channels: tuple[int, int, int, int, int]

    def stem(self, image: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to what `maps` takes, in float32 everywhere."""
        return image

    def maps(self, x: Tensor) -> list[Tensor]:
        """The stem's output to five maps (B, C_i, H / 2^i, W / 2^i), i = 1..5."""
        raise NotImplementedError

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) to the five maps."""
        kind = 'cpu' if image.is_meta else image.device.type  # where only shapes are computed
        with torch.autocast(kind, enabled=False):
            x = self.stem(image.float())
        return self.maps(x)


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and ReLU6 with TensorFlow's SAME padding (MobileNetV2)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1
    ) -> None:
        convolution = nn.Conv2d(
            inputs, outputs, kernel, stride, 0 if stride == 2 else kernel // 2, groups=groups,
            bias=False,
        )  # fmt: skip
        super().__init__(convolution, nn.BatchNorm2d(outputs), nn.ReLU6())
        self.pad_right_and_bottom = stride == 2

    def forward(self, x: Tensor) -> Tensor:
        """At stride 2, pad right and bottom only, as the ImageNet weights were trained."""
        if self.pad_right_and_bottom:
            x = F.pad(x, (0, 1, 0, 1))
        return cast(Tensor, super().forward(x))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project (MobileNetV2, Sandler et al. 2018, table 1)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvNorm(inputs, hidden, 1, 1))
        layers += [
            ConvNorm(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ]
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        y = cast(Tensor, self.conv(x))
        return x + y if self.residual else y


class MobileNetV2Encoder(Encoder):
    """MobileNetV2, width 1.0, with torchvision's names; taps after blocks 1, 3, 6, 13, 17.

    Small differences on bright areas decide much, and bfloat16 has but 8 bits: with the first two
    layers in half precision depth was off by 2 % (mean over a street), without by 0.6 %. They are
    a fiftieth of the work.
    """

    channels = (16, 24, 32, 96, 320)
    _blocks = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
               (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
    _taps = (1, 3, 6, 13, 17)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvNorm(3, 32, 3, 2)]
        inputs = 32
        for expansion, outputs, repeats, stride in self._blocks:
            for index in range(repeats):
                block_stride = stride if index == 0 else 1
                layers.append(InvertedResidual(inputs, outputs, block_stride, expansion))
                inputs = outputs
        self.features = nn.ModuleList(layers)

    def stem(self, image: Tensor) -> Tensor:
        """The first two layers: (B, 3, H, W) to (B, 16, H / 2, W / 2)."""
        return cast(Tensor, self.features[1](self.features[0](image)))

    def maps(self, x: Tensor) -> list[Tensor]:
        """See `Encoder.maps`."""
        maps = [x]
        for index, layer in enumerate(self.features[2:], 2):
            x = layer(x)
            if index in self._taps:
                maps.append(x)
        return maps


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (ResNet, He et al. 2016), torchvision's names."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


class ResNet18Encoder(Encoder):
    """ResNet-18; parameter names as in torchvision, so its ImageNet weights fit."""

    channels = (64, 64, 128, 256, 512)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = (64, 64, 128, 256, 512)
        for index in range(1, 5):
            stride = 1 if index == 1 else 2
            block = nn.Sequential(
                BasicBlock(widths[index - 1], widths[index], stride),
                BasicBlock(widths[index], widths[index], 1),
            )
            self.add_module(f'layer{index}', block)

    def maps(self, x: Tensor) -> list[Tensor]:
        """See `Encoder.maps`."""
        maps = [F.relu(self.bn1(self.conv1(x)))]
        x = self.maxpool(maps[0])
        for index in range(1, 5):
            x = self.get_submodule(f'layer{index}')(x)
            maps.append(x)
        return maps


class TransformersEncoder(Encoder):
    """A Hugging Face backbone with feature maps at strides 4 to 32 (ResNet, ConvNeXt, Swin, ...).

    `config` is the backbone's configuration as a dictionary (`model.config.to_dict()`), kept in
    the checkpoint: nothing is fetched. The stride-2 map, which these backbones do not give, comes
    from a 3x3 convolution of the image.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        try:
            from transformers import AutoBackbone, AutoConfig
        except ImportError as error:
            raise SettingsError(
                'the encoder "transformers" needs the optional extra: '
                'pip install "psd_depth_ros[transformers]"'
            ) from error
        chosen = ('model_type', 'out_indices', 'out_features')
        values = {name: value for name, value in config.items() if name not in chosen}
        settings = AutoConfig.for_model(config['model_type'], **values, out_indices=[1, 2, 3, 4])
        self.backbone = AutoBackbone.from_config(settings)
        self.finest = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.ELU())
        found = tuple(self.backbone.channels)
        if len(found) != 4:
            raise SettingsError(f'the backbone gives {len(found)} maps, expected strides 4 to 32')
        self.channels = (32, *found)

    def maps(self, x: Tensor) -> list[Tensor]:
        """See `Encoder.maps`."""
        return [self.finest(x), *self.backbone(x).feature_maps]


BUILT_IN: Mapping[str, Callable[..., Encoder]] = {
    'mobilenet_v2': MobileNetV2Encoder,
    'resnet18': ResNet18Encoder,
    'transformers': TransformersEncoder,
}


# What constructors raise for options that are not theirs.
_MISFITS = (TypeError, LookupError, ValueError, AttributeError, ArithmeticError, RuntimeError)


def build_encoder(name: str, options: Mapping[str, Any] | None = None) -> Encoder:
    """Make an encoder by name with random weights.

    Raises SettingsError for an unknown name (listing the known ones) or options that do not fit.
    """
    plugins = {point.name: point for point in entry_points(group=PLUGIN_GROUP)}
    factory = BUILT_IN.get(name)
    if factory is None and name in plugins:
        factory = plugins[name].load()
    if factory is None:
        known = ', '.join([*BUILT_IN, *plugins])
        raise SettingsError(
            f'unknown encoder {name!r}, expected one of {known}; other packages add theirs '
            f'with an entry point in the group {PLUGIN_GROUP!r}'
        )
    try:
        return factory(**(options or {}))
    except _MISFITS as error:
        said = shorten(f'{options!r}: {error}')
        raise SettingsError(f'encoder {name!r} does not accept {said}') from error


def load_folded(encoder: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Start a MobileNetV2 from ImageNet weights whose batch norm is folded into the convolutions.

    `tensors` has torchvision's names (`features.3.conv.1.0.weight`, ...). A folded bias goes into
    the batch norm, whose scale becomes one and whose running statistics become mean 0, variance 1:
    in `eval` mode the network is exactly the folded one. Keep it so while training
    (`freeze_norm`). Raises SettingsError where a tensor is missing or has another shape.
    """
    for name, module in encoder.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        norm = encoder.get_submodule(_next_name(name))
        weight, bias = tensors.get(name + '.weight'), tensors.get(name + '.bias')
        if (
            weight is None
            or bias is None
            or weight.shape != module.weight.shape
            or bias.shape != module.weight.shape[:1]
        ):
            raise SettingsError(f'the ImageNet weights have no fitting {name}.weight and .bias')
        assert isinstance(norm, nn.BatchNorm2d)
        with torch.no_grad():
            module.weight.copy_(weight)
            norm.reset_running_stats()
            norm.weight.fill_((1.0 + norm.eps) ** 0.5)
            norm.bias.copy_(bias)


def load_imagenet(encoder: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Start an encoder from ImageNet weights with torchvision's names.

    Weights without batch norm are taken for folded ones (`load_folded`); others must hold exactly
    the tensors of the encoder, next to those of the classifier, which are left out. Raises
    SettingsError where they do not fit.
    """
    if not any(name.endswith('running_mean') for name in tensors):
        load_folded(encoder, tensors)
        return
    wanted = encoder.state_dict()
    found = {name: tensor for name, tensor in tensors.items() if name in wanted}
    wrong = [
        name
        for name, tensor in wanted.items()
        if not name.endswith('num_batches_tracked')
        and (name not in found or found[name].shape != tensor.shape)
    ]
    if wrong:
        raise SettingsError(
            f'the ImageNet weights do not fit the encoder: {wrong[0]} and {len(wrong) - 1} more '
            "are missing or of another shape; expected torchvision's names"
        )
    encoder.load_state_dict(found, strict=False)


def _next_name(name: str) -> str:
    """The batch norm that follows a convolution inside its `nn.Sequential`."""
    parent, _, index = name.rpartition('.')
    return f'{parent}.{int(index) + 1}'


def freeze_norm(module: nn.Module, *, everywhere: bool = True) -> None:
    """Put batch norms into `eval` mode: their statistics stay as they are while training.

    Every one, or without `everywhere` those whose parameters are frozen.
    """
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            learns = any(parameter.requires_grad for parameter in child.parameters())
            if everywhere or not learns:
                child.eval()


def freeze_maps(encoder: Encoder, count: int) -> None:
    """Keep every parameter that the `count` (1 .. 5) finest maps are made with as it is.

    Which these are, the gradients of the maps tell, whatever the encoder.
    """
    parameters = list(encoder.parameters())
    weight, mode = parameters[0], encoder.training
    encoder.eval()  # the statistics of batch norms must not change
    maps = encoder(weight.new_zeros(1, 3, 64, 64))[:count]
    encoder.train(mode)
    total = torch.stack([one.float().sum() for one in maps]).sum()
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, found, strict=True):
        if gradient is not None:
            parameter.requires_grad_(False)
