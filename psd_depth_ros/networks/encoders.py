"""Encoders: an image in, five feature maps at strides 2, 4, 8, 16 and 32 out.

`build_encoder` makes the two built-in encoders, a Hugging Face backbone (extra `transformers`) and
the encoders that other installed packages offer under the entry point group
`psd_depth_ros.encoders`. How an encoder wants its input normalised belongs to the encoder, follows
the weights it is started from and travels in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
import hashlib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast, NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from psd_depth_ros.errors import CheckpointError, SettingsError
from psd_depth_ros.networks.ops import convolve_strided_depthwise
from psd_depth_ros.parsing import ARRAY_BYTES, ParseError, read_arrays, read_bytes, shorten

PLUGIN_GROUP = 'psd_depth_ros.encoders'

# What constructors raise for options that they do not take.
_MISFITS = (TypeError, LookupError, ValueError, AttributeError, ArithmeticError, RuntimeError)

# Files that do not say themselves what they are: name and licence by id.
_KNOWN_WEIGHTS = {
    'b6f6520ed395': ('MobileNetV2 trained on ImageNet (google-coral/edgetpu)', 'Apache-2.0'),
}
_DESCRIPTION = ('name', 'licence', 'mean', 'std')


class Normalisation(NamedTuple):
    """How RGB in [0, 1] becomes the input of a network: (image - mean) / std, per channel."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def apply(self, image: Tensor) -> Tensor:
        """Normalise images (..., 3, H, W), float in [0, 1] or uint8, to float32."""
        full = 1.0 if image.is_floating_point() else 255.0
        result = image.to(torch.float32, copy=True)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            # in place and with plain numbers: no copy, and nothing for a GPU to wait for
            result.select(-3, channel).sub_(full * mean).div_(full * std)
        return result


IMAGENET_NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Encoder(nn.Module):
    """Base of every encoder.

    A subclass sets `channels`, the number of channels of its five maps, and overrides `forward`.
    `normalisation` is what its weights expect of the input.

    An encoder whose first layers must not run in half precision overrides `stem` and `maps`
    instead of `forward`: the stem runs in float32 on every backend.

    Example::

        class Pyramid(Encoder):
            channels = (16, 32, 64, 128, 256)
            normalisation = IMAGENET_NORMALISATION

            def forward(self, image):
                ...
                return [map_2, map_4, map_8, map_16, map_32]
    """

    channels: tuple[int, int, int, int, int]
    normalisation: Normalisation = Normalisation()

    @property
    def has_stem(self) -> bool:
        """Whether `forward` is `maps(stem(image))` with a stem that has to run in float32."""
        return type(self).forward is Encoder.forward and type(self).stem is not Encoder.stem

    def stem(self, image: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to the input of `maps`."""
        return image

    def maps(self, x: Tensor) -> list[Tensor]:
        """Output of the stem to five maps (B, C_i, H / 2^i, W / 2^i), i = 1 .. 5."""
        raise NotImplementedError(f'{type(self).__name__} overrides neither forward nor maps')

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised images (B, 3, H, W) to five maps (B, C_i, H / 2^i, W / 2^i), i = 1 .. 5."""
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
        self.is_depthwise = groups == inputs

    def forward(self, x: Tensor) -> Tensor:
        """At stride 2, pad right and bottom only, as the ImageNet weights were trained."""
        if not self.pad_right_and_bottom:
            return cast(Tensor, super().forward(x))
        convolution, norm, activation = self
        x = F.pad(x, (0, 1, 0, 1))
        if self.is_depthwise:
            x = convolve_strided_depthwise(x, cast(Tensor, convolution.weight))
        else:
            x = convolution(x)
        return cast(Tensor, activation(norm(x)))


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
    """MobileNetV2, width 1.0 (Sandler et al. 2018); parameter names as in torchvision.

    Maps are taken after blocks 1, 3, 6, 13 and 17. The first two layers, a fiftieth of the work,
    are the stem: small differences in bright areas matter, and bfloat16 has only 8 bits. With them
    in half precision depth was off by 2 % (mean over a street), without by 0.6 %.
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
    """ResNet-18 (He et al. 2016); parameter names and normalisation as in torchvision."""

    channels = (64, 64, 128, 256, 512)
    normalisation = IMAGENET_NORMALISATION

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

    def forward(self, image: Tensor) -> list[Tensor]:
        """See `Encoder.forward`."""
        maps = [F.relu(self.bn1(self.conv1(image)))]
        x = self.maxpool(maps[0])
        for index in range(1, 5):
            x = self.get_submodule(f'layer{index}')(x)
            maps.append(x)
        return maps


class TransformersEncoder(Encoder):
    """A Hugging Face backbone with feature maps at strides 4 to 32 (ResNet, ConvNeXt, Swin, ...).

    `config` is the backbone's configuration as a dictionary (`model.config.to_dict()`), kept in
    the checkpoint: nothing is downloaded. The stride-2 map, which these backbones lack, comes from
    a 3x3 convolution of the image.
    """

    normalisation = IMAGENET_NORMALISATION

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

    def forward(self, image: Tensor) -> list[Tensor]:
        """See `Encoder.forward`."""
        return [self.finest(image), *self.backbone(image).feature_maps]


BUILT_IN: Mapping[str, Callable[..., Encoder]] = {
    'mobilenet_v2': MobileNetV2Encoder,
    'resnet18': ResNet18Encoder,
    'transformers': TransformersEncoder,
}


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


@dataclass(frozen=True)
class EncoderWeights:
    """Pretrained weights of an encoder and where they come from."""

    tensors: Mapping[str, Tensor]
    name: str
    licence: str
    id: str  # first 12 hex digits of the SHA-256 of the file
    normalisation: Normalisation

    @property
    def is_folded(self) -> bool:
        """Whether batch norm is folded into the convolutions."""
        return not any(name.endswith('running_mean') for name in self.tensors)

    def provenance(self) -> dict[str, str]:
        """The entry of `CheckpointInfo.data` for a network started from these weights."""
        return {'name': self.name, 'licence': self.licence, 'id': self.id}


def read_encoder_weights(path: Path) -> EncoderWeights:
    """Read encoder weights from an .npz file of arrays with torchvision's names.

    The file may describe itself by the entries `name` and `licence` (texts), `mean` and `std`
    (three numbers each). Without these, weights with batch norm are taken to expect the
    normalisation of torchvision, folded ones 0.5 and 0.5 (as TensorFlow's MobileNetV2). Raises
    CheckpointError where the file cannot be read.
    """
    try:
        arrays = read_arrays(path)
        content = read_bytes(path, ARRAY_BYTES)
    except ParseError as error:
        raise CheckpointError(
            f'{shorten(path)}: ImageNet weights {error}; expected a .npz with arrays named '
            'features.0.0.weight, features.0.0.bias, ...'
        ) from error
    described = {name: arrays.pop(name) for name in _DESCRIPTION if name in arrays}
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
            raise CheckpointError(
                f'{shorten(path)}: {shorten(name)} holds {array.dtype}, or a number that is not '
                'finite; expected the weights of a trained encoder'
            )
    tensors = {name: torch.from_numpy(one.astype(np.float32)) for name, one in arrays.items()}
    identity = hashlib.sha256(content).hexdigest()[:12]
    name, licence = _KNOWN_WEIGHTS.get(identity, (path.stem, 'not stated'))
    weights = EncoderWeights(
        tensors,
        str(described.get('name', name)),
        str(described.get('licence', licence)),
        identity,
        Normalisation(),
    )
    standard = Normalisation() if weights.is_folded else IMAGENET_NORMALISATION
    return replace(weights, normalisation=_described_normalisation(path, described, standard))


def _described_normalisation(
    path: Path, described: Mapping[str, NDArray[Any]], standard: Normalisation
) -> Normalisation:
    """Normalisation stated in a file of weights, else `standard`. Raises CheckpointError."""
    if 'mean' not in described and 'std' not in described:
        return standard
    try:
        mean, std = (
            tuple(float(value) for value in described[name].reshape(3)) for name in ('mean', 'std')
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f'{shorten(path)}: mean and std of its normalisation must be three numbers each'
        ) from error
    if not np.isfinite(mean).all() or not np.isfinite(std).all() or min(std) <= 0.0:
        raise CheckpointError(
            f'{shorten(path)}: its normalisation is mean {mean}, std {std}; expected finite '
            'numbers, and std above 0'
        )
    return Normalisation(mean, std)


def load_encoder_weights(encoder: Encoder, weights: EncoderWeights) -> None:
    """Start an encoder from pretrained weights, and give it their normalisation.

    Weights without batch norm are folded ones (`load_folded`); others must hold exactly the
    tensors of the encoder; those of the classifier are left out. Raises SettingsError where they
    do not fit.
    """
    if weights.is_folded:
        load_folded(encoder, weights.tensors)
    else:
        _load_unfolded(encoder, weights.tensors)
    encoder.normalisation = weights.normalisation


def _load_unfolded(encoder: Encoder, tensors: Mapping[str, Tensor]) -> None:
    expected = encoder.state_dict()
    found = {name: tensor for name, tensor in tensors.items() if name in expected}
    wrong = [
        name
        for name, tensor in expected.items()
        if not name.endswith('num_batches_tracked')
        and (name not in found or found[name].shape != tensor.shape)
    ]
    if wrong:
        raise SettingsError(
            f'the ImageNet weights do not fit the encoder: {wrong[0]} and {len(wrong) - 1} more '
            "are missing or of another shape; expected torchvision's names"
        )
    encoder.load_state_dict(found, strict=False)


def load_folded(encoder: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load weights whose batch norm is folded into the convolutions.

    `tensors` has torchvision's names (`features.3.conv.1.0.weight`, ...). A folded bias goes into
    the batch norm, whose scale becomes one and whose running statistics become mean 0, variance 1:
    in `eval` mode the network is exactly the folded one. Keep it in `eval` mode while training
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


def _next_name(name: str) -> str:
    """The batch norm that follows a convolution inside its `nn.Sequential`."""
    parent, _, index = name.rpartition('.')
    return f'{parent}.{int(index) + 1}'


def freeze_norm(module: nn.Module, *, everywhere: bool = True) -> None:
    """Put batch norms into `eval` mode, so that their statistics stay fixed while training.

    All of them, or without `everywhere` those whose parameters are frozen.
    """
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            learns = any(parameter.requires_grad for parameter in child.parameters())
            if everywhere or not learns:
                child.eval()


def freeze_maps(encoder: Encoder, count: int) -> None:
    """Freeze every parameter that the `count` (1 .. 5) finest maps depend on.

    The gradients of the maps tell which these are, whatever the encoder.
    """
    parameters = list(encoder.parameters())
    if not parameters:
        return
    mode = encoder.training
    encoder.eval()  # the statistics of batch norms must not change
    maps = encoder(parameters[0].new_zeros(1, 3, 64, 64))[:count]
    encoder.train(mode)
    total = torch.stack([one.float().sum() for one in maps]).sum()
    found = torch.autograd.grad(total, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, found, strict=True):
        if gradient is not None:
            parameter.requires_grad_(False)
