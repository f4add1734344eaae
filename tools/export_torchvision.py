"""Write the ImageNet weights of torchvision as the .npz that `psd-depth train --imagenet` reads.

    pip install torchvision
    python -m tools.export_torchvision mobilenet_v2 mobilenet_v2.npz

torchvision downloads the weights. The file states their name, licence and normalisation, which
travel in the checkpoints that are trained from it.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
import sys

import numpy as np

from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.files import write_atomically
from psd_depth_ros.networks import build_encoder
from psd_depth_ros.networks.encoders import load_encoder_weights, read_encoder_weights

ENCODERS = ('mobilenet_v2', 'resnet18')
# The readme of torchvision: pretrained models may have terms derived from their training data.
LICENCE = 'BSD-3-Clause (torchvision); trained on ImageNet, whose terms may apply'


def export(name: str, output: Path) -> str:
    """Write the default weights of an encoder to `output`; returns what was written, in words.

    Raises PsdDepthError where the weights do not fit the encoder of this package, ImportError
    without torchvision.
    """
    from torchvision.models import get_model, get_model_weights

    chosen = get_model_weights(name).DEFAULT
    tensors = get_model(name, weights=chosen).state_dict()
    expected = build_encoder(name).state_dict()
    transforms = chosen.transforms()
    content = io.BytesIO()
    np.savez(
        content,
        **{key: value.numpy() for key, value in tensors.items() if key in expected},
        name=f'torchvision {chosen}',
        licence=LICENCE,
        mean=np.asarray(transforms.mean),
        std=np.asarray(transforms.std),
    )
    write_atomically(output, content.getvalue())
    weights = read_encoder_weights(output)
    load_encoder_weights(build_encoder(name), weights)
    return f'{weights.name}, id {weights.id}, {output.stat().st_size / 1e6:.1f} MB'


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments and export."""
    parser = argparse.ArgumentParser(description='Export ImageNet weights of torchvision.')
    parser.add_argument('name', choices=ENCODERS)
    parser.add_argument('output', metavar='OUT.npz', type=Path)
    options = parser.parse_args(arguments)
    try:
        print(f'written to {options.output}: {export(options.name, options.output)}')
    except ImportError as error:
        print(f'this needs torchvision ({error}): pip install torchvision', file=sys.stderr)
        return 2
    except PsdDepthError as error:
        options.output.unlink(missing_ok=True)
        print(f'torchvision has other weights than expected: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
