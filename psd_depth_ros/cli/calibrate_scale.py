"""`psd-depth calibrate-scale`: metric scale from measured distances in a recording."""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path
from typing import Any, TYPE_CHECKING

from psd_depth_ros.cli.options import (
    add_engine_options,
    add_frame_options,
    open_engine,
    open_recording_frames,
)
from psd_depth_ros.errors import SettingsError

if TYPE_CHECKING:
    from psd_depth_ros.data.frames import FrameSource
    from psd_depth_ros.geometry import Camera
    from psd_depth_ros.inference import DepthEngine
    from psd_depth_ros.inference.scale_calibration import Renewal, Spot, SpotReader

IMAGES = 20


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        'calibrate-scale',
        help='measure the metric scale with a wall or a tape measure',
        description='Compare the depth of places in a recording, made while the camera stands '
        'still, with the distances that were measured there, and write the scale for scale.mode '
        'fixed of the depth node. Distances are along the optical axis, as of a wall ahead. '
        'Samples of an earlier call with other names are fitted together with the new ones.',
    )
    add_frame_options(parser)
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='network: a file, or the name of weights of the package (default: default)',
    )
    parser.add_argument(
        '--sample',
        metavar='NAME=U,V,METRES',
        action='append',
        default=[],
        help='depth of a pixel of the rectified image, or of a box: NAME=U0,V0,U1,V1,METRES; may '
        'be given several times',
    )
    parser.add_argument(
        '--wall', metavar='METRES', type=float, help='the middle third of the image is so far away'
    )
    parser.add_argument(
        '--images',
        metavar='N',
        type=int,
        default=IMAGES,
        help=f'most images that depth is the median of, over all of it (default: {IMAGES})',
    )
    parser.add_argument(
        '--name',
        metavar='CAMERA',
        default='camera',
        help='camera of the node that it is for, of its parameter `cameras` (default: camera, '
        'where that is empty)',
    )
    parser.add_argument(
        '--output',
        metavar='FILE',
        type=Path,
        help='file to write, or to add the camera to (default: that of the node depth_node, in '
        '~/.ros)',
    )
    add_engine_options(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Calibrate, print the samples and write the file."""
    from psd_depth_ros.inference.scale_calibration import CalibrationFile, default_file, renew

    spots = [read_sample(text) for text in options.sample]
    names = [spot.name for spot in spots] + ['wall'] * (options.wall is not None)
    if not names or len(set(names)) < len(names):
        raise SettingsError('give --sample NAME=U,V,METRES or --wall METRES, each name once')
    if options.images < 1:
        raise SettingsError(f'--images is {options.images}, expected 1 or more')
    file = CalibrationFile.load(options.output or default_file('depth_node'))
    with open_recording_frames(options) as source:
        engine = open_engine(options, options.checkpoint)
        try:
            reader = _read(source, engine, spots, options.wall, options.images)
        finally:
            engine.close()
    samples, problems = reader.samples()
    for name, problem in problems.items():
        print(f'{name}: {problem}')
    if not samples or reader.camera is None:
        raise SettingsError('no sample can be used')
    renewal = renew(file.cameras.get(options.name), samples, reader.checkpoint, reader.camera)
    print('\n'.join(_table(renewal)))
    if renewal.calibration is None:
        raise SettingsError(f'{renewal.fit.problem}; nothing was written')
    file.renewed(options.name, renewal.calibration)
    print(
        f'{renewal.calibration}, by the median of {reader.count} images; written to {file.path} '
        f'for {options.name} with checkpoint {reader.checkpoint.id}'
    )
    return 0


def read_sample(text: str) -> Spot:
    """The place of NAME=U,V,METRES or NAME=U0,V0,U1,V1,METRES. Raises SettingsError."""
    from psd_depth_ros.inference.scale_calibration import Spot

    name, _, numbers = text.partition('=')
    try:
        if not name:
            raise ValueError('expected NAME=U,V,METRES')
        return Spot.parse(name, [float(number) for number in numbers.split(',')])
    except (ValueError, SettingsError) as error:
        raise SettingsError(f'--sample {text!r}: {error}') from error


def _read(
    source: FrameSource, engine: DepthEngine, spots: list[Spot], wall_m: float | None, most: int
) -> SpotReader:
    """Read places in at most so many images, evenly over the recording."""
    from psd_depth_ros.inference.scale_calibration import SpotReader

    source.select(slice(None, None, max(1, source.count // most)))
    frames = source.frames()
    first = next(frames, None)
    if first is None:
        raise SettingsError(f'{source.path} has no images; expected a recording of the places')
    if wall_m is not None:
        spots = [*spots, _centre(first.camera, wall_m)]
    reader = SpotReader(spots, engine.checkpoint)
    for frame in chain([first], frames):
        reader.add(engine, frame.rgb, frame.camera)
    return reader


def _centre(camera: Camera, metres: float) -> Spot:
    """A wall in the middle third of an image."""
    from psd_depth_ros.inference.scale_calibration import Spot

    left, top = camera.width // 3, camera.height // 3
    return Spot.parse('wall', (left, top, camera.width - left, camera.height - top, metres))


def _table(renewal: Renewal) -> list[str]:
    """Lines of a table of the samples."""
    width = max(8, *(len(one.name) for one in renewal.samples))
    lines = [f'{"sample":{width}}  measured    network    by fit  residual']
    for sample, used in zip(renewal.samples, renewal.fit.used, strict=True):
        by_fit = sample.metres * (1.0 + sample.residual)
        lines.append(
            f'{sample.name:{width}}  {sample.metres:6.3f} m  {sample.network:9.4g}  '
            f'{by_fit:6.3f} m  {sample.residual:+8.1%}{"" if used else "  left out"}'
        )
    return lines
