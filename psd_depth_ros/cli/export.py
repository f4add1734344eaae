"""`psd-depth export`: a network as a file for another library, with a check of its depth."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TYPE_CHECKING

from psd_depth_ros.errors import SettingsError

if TYPE_CHECKING:
    from psd_depth_ros.inference.export import Example

FORMATS = ('onnx', 'openvino', 'tensorrt', 'torchscript')
COMPARED = 8  # images
CALIBRATED = 48  # images that int8 takes its ranges from
MOST_READ = 4000  # frames of a recording
SEED = 2_000_300  # of the rendered worlds that are compared on; training never reaches it


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        'export',
        help='write a network as ONNX, OpenVINO, TorchScript or for TensorRT, and compare both',
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
        '--batch',
        metavar='N',
        default='1',
        help='images in a call, or `any` with onnx and openvino (default: 1)',
    )
    parser.add_argument(
        '--precision',
        choices=('fp32', 'fp16', 'bf16', 'int8'),
        default='fp32',
        help='openvino has all, tensorrt the first three, onnx fp32 and int8 (default: fp32)',
    )
    parser.add_argument(
        '--images',
        metavar='RECORDING',
        type=Path,
        help='compare, and calibrate int8, on these images (default: on rendered ones)',
    )
    parser.add_argument(
        '--accept-parity', action='store_true', help='keep the file whatever the difference'
    )
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Export and print the difference."""
    from psd_depth_ros.checkpoint import load_checkpoint
    from psd_depth_ros.inference.export import ExportChoice, write_exported
    from psd_depth_ros.networks import load_model

    width, height = read_size(options.size)
    choice = ExportChoice(options.format, read_batch(options.batch), options.precision)
    choice.check(options.output)
    checkpoint = load_checkpoint(options.checkpoint)
    count = COMPARED + (CALIBRATED if options.precision == 'int8' else 0)
    found = (
        spread(_images(options.images, (height, width)), count)
        if options.images is not None
        else list(_rendered((height, width), count))
    )
    if not found:
        raise SettingsError(f'{options.images} has no images; expected some to compare depth on')
    compared, calibration = divide(found, COMPARED)
    result = write_exported(
        options.output,
        checkpoint,
        load_model(checkpoint).eval(),
        compared,
        choice,
        calibration=calibration,
        accepts_any=options.accept_parity,
    )
    print(f'written to {options.output}; depth differs from float32 torch by {result.parity}')
    for note in result.notes:
        print(note)
    return 0


def read_size(text: str) -> tuple[int, int]:
    """Width and height of WxH. Raises SettingsError."""
    parts = text.lower().split('x')
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise SettingsError(f'--size is {text!r}, expected WIDTHxHEIGHT such as 640x192')
    return int(parts[0]), int(parts[1])


def read_batch(text: str) -> int:
    """Images in a call, 0 for `any`. Raises SettingsError."""
    if text == 'any':
        return 0
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise SettingsError(f'--batch is {text!r}, expected 1 to 64, or any')
    return int(text)


def divide(examples: list[Example], compared: int) -> tuple[list[Example], list[Example]]:
    """Images to compare on, evenly spread over all, and the others."""
    step = max(1, len(examples) // compared)
    chosen = set(list(range(0, len(examples), step))[:compared])
    first = [one for index, one in enumerate(examples) if index in chosen]
    return first, [one for index, one in enumerate(examples) if index not in chosen]


def spread(examples: Iterator[Example], count: int) -> list[Example]:
    """About `count` of any number of images, evenly spread; the number is not known before."""
    kept: list[Example] = []
    step = 1
    for index, example in enumerate(examples):
        if index % step:
            continue
        kept.append(example)
        if len(kept) >= 2 * count:
            kept, step = kept[::2], 2 * step
    places = range(min(count, len(kept)))
    return [kept[round(place * (len(kept) - 1) / max(1, len(places) - 1))] for place in places]


def _rendered(size: tuple[int, int], count: int = COMPARED) -> Iterator[Example]:
    """Rendered images (h, w, 3) with fx fy cx cy."""
    from psd_depth_ros.synth import World, WorldSettings

    for index in range(count):
        kind = 'street' if index % 2 == 0 else 'room'
        world = World(SEED + index, WorldSettings(kind=kind, width=size[1], height=size[0]))
        camera = world.camera
        yield world.render(5).rgb.numpy(), (camera.fx, camera.fy, camera.cx, camera.cy)


def _images(path: Path, size: tuple[int, int]) -> Iterator[Example]:
    """The images of a recording, as the network would get them."""
    from psd_depth_ros.data.open import open_frames
    from psd_depth_ros.preprocess import ViewSampler

    with open_frames(path) as source:
        for frame in islice(source.frames(), MOST_READ):
            sampler = ViewSampler(frame.camera, size)
            camera = sampler.camera
            yield sampler.sample(frame.rgb), (camera.fx, camera.fy, camera.cx, camera.cy)
