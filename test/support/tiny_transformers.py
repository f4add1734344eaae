"""Depth networks of `transformers`, tiny and with random weights, in folders as the hub has them.

None needs torchvision or timm.
"""

from collections.abc import Callable
import json
from pathlib import Path
from typing import Any

import torch
import transformers

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def save(network: torch.nn.Module, folder: Path, size: dict[str, Any]) -> Path:
    """Write a network with the preprocessing that `size` tells of."""
    network.save_pretrained(folder)
    preprocessor = {'image_mean': MEAN, 'image_std': STD, 'rescale_factor': 1 / 255, **size}
    (folder / 'preprocessor_config.json').write_text(json.dumps(preprocessor))
    return folder


def _dinov2(**options: Any) -> transformers.Dinov2Config:
    return transformers.Dinov2Config(hidden_size=16, num_attention_heads=2, mlp_ratio=1, **options)


def make_depth_anything(**options: Any) -> torch.nn.Module:
    """Patches of 7, own size 28; relative unless `options` say otherwise."""
    stages = [f'stage{index}' for index in range(1, 5)]
    config = transformers.DepthAnythingConfig(
        backbone_config=_dinov2(
            num_hidden_layers=4, image_size=28, patch_size=7, out_features=stages,
            reshape_hidden_states=False,
        ),
        patch_size=7, reassemble_hidden_size=16, neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=4, head_hidden_size=4, **options,
    )  # fmt: skip
    return transformers.DepthAnythingForDepthEstimation(config)


def make_dpt() -> torch.nn.Module:
    """Patches of 8, square images of 32 only; its map is above zero."""
    config = transformers.DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[4, 4, 8, 8], fusion_hidden_size=8, use_auxiliary_head=False,
    )  # fmt: skip
    return _lifted(transformers.DPTForDepthEstimation(config))


def make_dpt_hybrid() -> torch.nn.Module:
    """Transformer on a BiT of its own, square images of 64 only; its map is above zero."""
    backbone = transformers.BitConfig(
        embedding_size=8, hidden_sizes=[8, 16, 16], depths=[1, 1, 1], num_groups=4,
        layer_type='bottleneck', global_padding='same', embedding_dynamic_padding=True,
        out_features=['stage1', 'stage2', 'stage3'],
    )  # fmt: skip
    config = transformers.DPTConfig(
        is_hybrid=True, backbone_config=backbone, backbone_featmap_shape=[1, 16, 4, 4],
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16,
        image_size=64, patch_size=16, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 16, 8, 8], fusion_hidden_size=8, use_auxiliary_head=False,
    )  # fmt: skip
    return _lifted(transformers.DPTForDepthEstimation(config))


def make_zoedepth() -> torch.nn.Module:
    """Patches of 8, bins up to 10 m."""
    backbone = transformers.BeitConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=8, use_relative_position_bias=True,
        out_features=[f'stage{index}' for index in range(1, 5)], reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.ZoeDepthConfig(
        backbone_config=backbone, neck_hidden_sizes=[4, 4, 8, 8], fusion_hidden_size=8,
        bottleneck_features=8, num_relative_features=4, bin_embedding_dim=8,
        num_attractors=[4, 2, 2, 1],
        bin_configurations=[{'n_bins': 8, 'min_depth': 0.001, 'max_depth': 10.0}],
    )  # fmt: skip
    return transformers.ZoeDepthForDepthEstimation(config)


def make_depth_pro() -> torch.nn.Module:
    """Patches of 16 of images of a quarter of the size: square images of 64."""
    part = _dinov2(num_hidden_layers=2, image_size=16, patch_size=4).to_dict()
    config = transformers.DepthProConfig(
        patch_size=16, fusion_hidden_size=16, intermediate_hook_ids=[1, 0],
        intermediate_feature_dims=[8, 8], scaled_images_feature_dims=[16, 16, 8],
        image_model_config=dict(part), patch_model_config=dict(part),
        fov_model_config=dict(part), use_fov_model=False,
    )  # fmt: skip
    return _lifted(transformers.DepthProForDepthEstimation(config))


def _lifted(network: Any) -> torch.nn.Module:
    """The network with a map above 1: what its last layer gets and its weights are above zero."""
    with torch.no_grad():
        last = [one for one in network.head.modules() if isinstance(one, torch.nn.Conv2d)][-1]
        last.weight.abs_().mul_(0.01)
        assert last.bias is not None
        last.bias.fill_(1.0)
    return network


# By name: how it is made, the size that its preprocessing states, and what it lacks to be served.
FAMILIES: dict[str, tuple[Callable[[], torch.nn.Module], dict[str, Any], str]] = {
    'depth_anything': (
        lambda: make_depth_anything(depth_estimation_type='metric', max_depth=10),
        {'size': {'height': 28, 'width': 28}, 'ensure_multiple_of': 7},
        '',
    ),
    'dpt': (make_dpt, {'size': {'height': 32, 'width': 32}}, '?output=disparity&metric=true'),
    'dpt_hybrid': (
        make_dpt_hybrid,
        {'size': {'height': 64, 'width': 64}},
        '?output=disparity&metric=true',
    ),
    'zoedepth': (
        make_zoedepth,
        {'size': {'height': 32, 'width': 48}, 'ensure_multiple_of': 16},
        '',
    ),
    'depth_pro': (make_depth_pro, {'size': {'height': 64, 'width': 64}}, ''),
}
