"""`psd-depth export`: write a network for another library, and compare both."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TYPE_CHECKING

from psd_depth_ros.errors import SettingsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Sample = tuple[NDArray[np.uint8], tuple[float, ...]]

FORMATS = ('onnx', 'openvino', 'torchscript')
COMPARED = 8  # images
SEED = 2_000_300  # of the rendered worlds that are compared on; training never reaches it


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        'export',
        help='write a network as ONNX, OpenVINO or TorchScript, and compare both',
        description='Write a network for images of one size. FILE says in its metadata what goes '
        'in and what comes out. Its depth is compared with that of float32 torch; where it '
        'differs by more than 1 % (mean) or 5 % (99th percentile), no file is left.',
    )
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file, or a name: default')
    parser.add_argument('--format', required=True, choices=FORMATS)
    parser.add_argument(
        '--size', metavar='WxH', required=True, help='of the input, such as 640x192'
    )
    parser.add_argument('--output', metavar='FILE', type=Path, required=True)
    parser.add_argument(
        '--batch', metavar='N', type=int, default=1, help='images in a call (default: 1)'
    )
    parser.add_argument(
        '--precision',
        choices=('fp32', 'fp16'),
        default='fp32',
        help='of the stored weights; openvino has both (default: fp32)',
    )
    parser.add_argument(
        '--images',
        metavar='RECORDING',
        type=Path,
        help='compare on these images (default: on rendered ones)',
    )
    parser.add_argument(
        '--accept-parity', action='store_true', help='keep the file whatever the difference'
    )
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Export and print the difference."""
    from psd_depth_ros.checkpoint import load_checkpoint
    from psd_depth_ros.inference.exported import check_choices, write_exported
    from psd_depth_ros.networks import load_model

    width, height = read_size(options.size)
    check_choices(options.format, options.precision, options.output)
    if not 1 <= options.batch <= 64:
        raise SettingsError(f'--batch is {options.batch}, expected 1 to 64')
    checkpoint = load_checkpoint(options.checkpoint)
    found = (
        _images(options.images, (height, width))
        if options.images is not None
        else _rendered((height, width))
    )
    parity = write_exported(
        options.output,
        checkpoint,
        load_model(checkpoint).eval(),
        list(found),
        kind=options.format,
        batch=options.batch,
        precision=options.precision,
        accepts_any=options.accept_parity,
    )
    print(f'written to {options.output}; depth differs from float32 torch by {parity}')
    return 0


def read_size(text: str) -> tuple[int, int]:
    """Width and height of WxH. Raises SettingsError."""
    parts = text.lower().split('x')
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise SettingsError(f'--size is {text!r}, expected WIDTHxHEIGHT such as 640x192')
    return int(parts[0]), int(parts[1])


def _rendered(size: tuple[int, int]) -> Iterator[Sample]:
    """Rendered images (h, w, 3) with fx fy cx cy."""
    from psd_depth_ros.synth import World, WorldSettings

    for index in range(COMPARED):
        kind = 'street' if index % 2 == 0 else 'room'
        world = World(SEED + index, WorldSettings(kind=kind, width=size[1], height=size[0]))
        camera = world.camera
        yield world.render(5).rgb.numpy(), (camera.fx, camera.fy, camera.cx, camera.cy)


def _images(path: Path, size: tuple[int, int]) -> Iterator[Sample]:
    """The first images of a recording, as the network would get them."""
    from psd_depth_ros.data.open import open_frames
    from psd_depth_ros.preprocess import ViewSampler

    with open_frames(path) as source:
        for frame in islice(source.frames(), COMPARED):
            sampler = ViewSampler(frame.camera, size)
            camera = sampler.camera
            yield sampler.sample(frame.rgb), (camera.fx, camera.fy, camera.cx, camera.cy)
