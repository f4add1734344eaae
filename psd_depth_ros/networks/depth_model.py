"""Depth network: encoder, global aggregator, decoder and head in one module.

`Architecture` is everything needed to build it again; it travels in the checkpoint. The input
comes from `preprocess`, `inference.postprocess` converts the output to metres.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
import math
from typing import Any, NamedTuple

import torch
from torch import nn, Tensor

from psd_depth_ros.checkpoint import Checkpoint, STRIDE
from psd_depth_ros.config import build, setting
from psd_depth_ros.errors import CheckpointError, SettingsError
from psd_depth_ros.networks.bin_head import (
    BinHead,
    BinPrediction,
    DepthOutput,
    GlobalAggregator,
)
from psd_depth_ros.networks.decoder import Decoder, DisparityHead
from psd_depth_ros.networks.encoders import build_encoder, Normalisation


@dataclass(frozen=True)
class Architecture:
    """The shape of a depth network."""

    encoder: str = setting('mobilenet_v2', 'Encoder by name; packages can add their own')
    head: str = setting(
        'bins', 'Adaptive depth bins, or one disparity per pixel as in monodepth2',
        choices=('bins', 'disparity'),
    )  # fmt: skip
    decoder_channels: tuple[int, ...] = setting(
        (128, 96, 64, 32), 'Channels after the stages at strides 16, 8, 4, 2', minimum=4,
        maximum=1024,
    )  # fmt: skip
    decoder_convolutions: int = setting(
        2, 'Convolutions in each decoder stage', minimum=1, maximum=4
    )
    separable: bool = setting(
        False, 'Convolutions of the decoder go over places and channels one after the other, at a '
        'fraction of the cost; off in old checkpoints',
    )  # fmt: skip
    positions: bool = setting(
        False,
        'The decoder sees how far below the principal point a pixel lies; off in old checkpoints',
    )
    bins: int = setting(64, 'Depth bins and scene-structure queries', minimum=4, maximum=512)
    token_width: int = setting(128, 'Width of the attention tokens', minimum=16, maximum=1024)
    heads: int = setting(4, 'Attention heads', minimum=1, maximum=32)
    blocks: int = setting(2, 'Attention blocks in aggregator and head', minimum=1, maximum=12)
    min_canonical_depth_m: float = setting(
        0.2, 'Nearest canonical depth', 'm', minimum=0.01, maximum=10.0
    )
    max_canonical_depth_m: float = setting(
        200.0, 'Farthest canonical depth', 'm', minimum=10.0, maximum=10000.0
    )


PRESETS: dict[str, Architecture] = {
    'lite': Architecture(separable=True, positions=True, max_canonical_depth_m=1000.0),
    'base': Architecture(
        encoder='resnet18', decoder_channels=(256, 128, 64, 32), positions=True,
        max_canonical_depth_m=1000.0,
    ),
}  # fmt: skip


def preset(name: str, head: str = 'bins') -> Architecture:
    """The architecture `lite` or `base`. Raises SettingsError for another name.

    Bins reach far beyond the range that is measured: log-depth responds less to the features the
    nearer it is to the end of the bins. The `disparity` head makes it the network of monodepth2.
    """
    if name not in PRESETS:
        raise SettingsError(f'unknown preset {name!r}, expected one of {", ".join(PRESETS)}')
    found = replace(PRESETS[name], head=head)
    if head == 'disparity':
        found = replace(found, separable=False, positions=False, max_canonical_depth_m=200.0)
    return found


class NetworkPass(NamedTuple):
    """A pass of a depth network with the maps on the way."""

    output: BinPrediction | DepthOutput
    features: list[Tensor]  # of the encoder, at strides 2 to 32
    decoder_maps: list[Tensor]  # at strides 16, 8, 4, 2


class DepthModel(nn.Module):
    """Canonical log-depth, its standard deviation and the sky probability of an image.

    Args:
        architecture: Shape of the network.
        encoder_options: Arguments of the encoder's constructor, such as the configuration of a
            `transformers` backbone.

    Raises SettingsError where both do not make a network.
    """

    def __init__(
        self, architecture: Architecture, encoder_options: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        a = architecture
        if a.token_width % a.heads or a.token_width % 2 or len(a.decoder_channels) != 4:
            raise SettingsError(
                f'token_width {a.token_width} must be even and a multiple of heads {a.heads}, and '
                f'decoder_channels {a.decoder_channels} must be four numbers'
            )
        self.architecture = a
        self.encoder_options = dict(encoder_options or {})
        self.encoder = build_encoder(a.encoder, self.encoder_options)
        log_range = (math.log(a.min_canonical_depth_m), math.log(a.max_canonical_depth_m))
        deepest, finest = self.encoder.channels[4], a.decoder_channels[-1]
        self.aggregator: nn.Module
        self.head: nn.Module
        if self.has_bins:
            self.aggregator = GlobalAggregator(deepest, a.token_width, a.heads, a.blocks)
        else:
            self.aggregator = nn.Conv2d(deepest, a.token_width, 1)
        self.decoder = Decoder(
            a.token_width, self.encoder.channels[:4], a.decoder_channels, a.decoder_convolutions,
            a.positions, a.separable,
        )  # fmt: skip
        if self.has_bins:
            self.head = BinHead(a.bins, finest, a.token_width, a.heads, a.blocks, log_range)
        else:
            self.head = DisparityHead(finest, log_range)

    @property
    def has_bins(self) -> bool:
        """Whether depth comes from adaptive bins, which `predict_bins` gives."""
        return self.architecture.head == 'bins'

    @property
    def normalisation(self) -> Normalisation:
        """How the encoder expects its input normalised."""
        return self.encoder.normalisation

    def normalise(self, image: Tensor) -> Tensor:
        """Normalise images (..., 3, H, W), RGB float in [0, 1] or uint8, to network input."""
        return self.encoder.normalisation.apply(image)

    def forward(self, image: Tensor, intrinsics: Tensor) -> DepthOutput:
        """Predict three maps (B, 1, H/2, W/2), float32.

        Args:
            image: (B, 3, H, W) normalised (`normalise`); H and W are multiples of 32.
            intrinsics: (B, 4) fx fy cx cy, pixels.
        """
        return self.read(self.encode(image), intrinsics)

    def encode(self, image: Tensor) -> list[Tensor]:
        """The encoder's five maps of a normalised image. Raises ValueError for a wrong size."""
        if image.shape[-2] % STRIDE or image.shape[-1] % STRIDE:
            raise ValueError(f'input is {tuple(image.shape)}, sides must be multiples of {STRIDE}')
        return self.encoder(image)

    def predict_bins(self, image: Tensor, intrinsics: Tensor) -> BinPrediction:
        """Like `forward`, up to the scores over bins, which training losses need."""
        return self.decode(self.encode(image), intrinsics)

    def read(self, maps: list[Tensor], intrinsics: Tensor) -> DepthOutput:
        """The second half of `forward`: from the encoder's five maps."""
        if isinstance(self.head, BinHead):
            tokens, decoded = self._decode_tokens(maps, intrinsics)
            return self.head.read(tokens, decoded[-1])
        output, _ = self._decode(maps, intrinsics)
        assert isinstance(output, DepthOutput), 'a network without bins'
        return output

    def decode(self, maps: list[Tensor], intrinsics: Tensor) -> BinPrediction:
        """The second half of `predict_bins`: from the encoder's five maps."""
        output, _ = self._decode(maps, intrinsics)
        assert isinstance(output, BinPrediction), 'a network with bins'
        return output

    def predict_all(self, image: Tensor, intrinsics: Tensor) -> NetworkPass:
        """What `predict_bins` or `forward` gives, with the maps on the way, for training."""
        features = self.encode(image)
        output, decoder_maps = self._decode(features, intrinsics)
        return NetworkPass(output, features, decoder_maps)

    def _decode(
        self, maps: list[Tensor], intrinsics: Tensor
    ) -> tuple[BinPrediction | DepthOutput, list[Tensor]]:
        """What the head says, and the decoder's maps at strides 16, 8, 4, 2."""
        if self.has_bins:
            tokens, decoded = self._decode_tokens(maps, intrinsics)
            return self.head(tokens, decoded[-1]), decoded
        decoded = self.decoder.stage_maps(self.aggregator(maps[4]), maps[:4], intrinsics)
        return self.head(decoded[-1]), decoded

    def _decode_tokens(
        self, maps: list[Tensor], intrinsics: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        """The aggregator's tokens (B, N, d), and the decoder's maps at strides 16, 8, 4, 2."""
        tokens = self.aggregator(maps[4], intrinsics)
        deepest = tokens.transpose(1, 2).unflatten(-1, maps[4].shape[-2:])
        return tokens, self.decoder.stage_maps(deepest, maps[:4], intrinsics)


def load_model(checkpoint: Checkpoint) -> DepthModel:
    """Make the network that a checkpoint describes, in `eval` mode, float32, on the CPU.

    The normalisation is that of the checkpoint, whatever the encoder's own default. Raises
    CheckpointError where the architecture is unknown, or the tensors are not exactly those of it:
    names and shapes are compared before a byte of the network is allocated.
    """
    info = checkpoint.info
    try:
        architecture = build(Architecture, info.architecture, 'architecture')
        with torch.device('meta'):
            model = DepthModel(architecture, info.encoder_options)
    except SettingsError as error:
        raise CheckpointError(
            f'{checkpoint.path}: {error}; the checkpoint needs another version of '
            'psd_depth_ros, or an encoder package that is not installed'
        ) from error
    _check_tensors(model, checkpoint)
    model.encoder.normalisation = Normalisation(info.input.mean, info.input.std)
    model.load_state_dict(checkpoint.tensors, assign=True)
    return model.eval()


def _check_tensors(model: DepthModel, checkpoint: Checkpoint) -> None:
    expected = {name: _form(tensor) for name, tensor in model.state_dict().items()}
    found = {name: _form(tensor) for name, tensor in checkpoint.tensors.items()}
    if expected == found:
        return
    wrong = [n for n in expected if n in found and expected[n] != found[n]]
    example = f'; {wrong[0]} is {found[wrong[0]]}, expected {expected[wrong[0]]}' if wrong else ''
    raise CheckpointError(
        f'{checkpoint.path}: its weights are not those of the architecture it names: '
        f'{len(set(expected) - set(found))} tensors missing, '
        f'{len(set(found) - set(expected))} unknown, {len(wrong)} of another shape or type'
        f'{example}; export it again from the run that made it'
    )


def _form(tensor: Tensor) -> str:
    return f'{tuple(tensor.shape)} of {str(tensor.dtype).removeprefix("torch.")}'


@dataclass(frozen=True)
class Complexity:
    """Cost of a network: parameters, and multiply-accumulates for one image."""

    parameters: int
    macs: int


def measure_complexity(model: DepthModel, height: int, width: int) -> Complexity:
    """Count parameters and multiply-accumulates for one image of the given size."""
    from torch.utils.flop_counter import FlopCounterMode

    shapes = deepcopy(model).to('meta')  # only shapes are computed
    image = torch.zeros(1, 3, height, width, device='meta')
    intrinsics = torch.zeros(1, 4, device='meta')
    counter = FlopCounterMode(display=False)
    with counter:  # gradients stay on: the counter's hooks fail without them
        shapes(image, intrinsics)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Complexity(parameters, counter.get_total_flops() // 2)
