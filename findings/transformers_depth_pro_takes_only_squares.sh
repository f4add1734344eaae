#!/usr/bin/env bash
# transformers: Depth Pro takes images that are not square, and puts their patches in wrong places.
#
# transformers 5.24.0, torch 2.13.0. The network runs on an image twice as wide as high and gives a
# map of that shape, without an error or a warning. Within, the patches of the image are put
# together as a square: of 2 rows of 4 patches, the second row is left out, and the right half of
# the first one takes its place. Images from DepthProImageProcessor are square. A good guess would
# have been that a shape that cannot be used is refused, as one that is too small is.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q transformers==5.24.0 huggingface_hub==2.4.0 torch==2.13.0 numpy
cat > "$folder/run.py" <<'PYTHON'
from importlib.metadata import version

import torch
from transformers import DepthProConfig, DepthProForDepthEstimation
from transformers.models.depth_pro.modeling_depth_pro import merge_patches, split_to_patches

part = {'model_type': 'dinov2', 'hidden_size': 16, 'num_hidden_layers': 2,
        'num_attention_heads': 2, 'mlp_ratio': 1, 'patch_size': 4, 'image_size': 16}
config = DepthProConfig(
    patch_size=16, fusion_hidden_size=16, intermediate_hook_ids=[1, 0],
    intermediate_feature_dims=[8, 8], scaled_images_feature_dims=[16, 16, 8],
    image_model_config=dict(part), patch_model_config=dict(part), fov_model_config=dict(part),
)
with torch.no_grad():
    found = DepthProForDepthEstimation(config).eval()(torch.rand(1, 3, 64, 128)).predicted_depth
image = torch.rand(1, 3, 32, 64)
merged = merge_patches(split_to_patches(image, 16, 0.0), 1, 0)
square = merge_patches(split_to_patches(image[..., :32], 16, 0.0), 1, 0)
is_moved = torch.equal(merged[..., 16:, :], image[..., :16, 32:])
print(
    f'transformers {version("transformers")}: 64x128 gives a map of {tuple(found.shape)}; 32x64 '
    f'is put together as {tuple(merged.shape)}, its upper right part below: {is_moved}; a square '
    f'as it was: {torch.equal(square, image[..., :32])}'
)
same = found.shape == (1, 128, 256) and is_moved and torch.equal(square, image[..., :32])
raise SystemExit(0 if same else 'this has changed')
PYTHON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" "$folder/run.py"
