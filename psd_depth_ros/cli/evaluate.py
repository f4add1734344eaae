"""`psd-depth evaluate`: errors of a checkpoint against ground truth, as numbers and images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json
import os
from pathlib import Path
from typing import Any, TYPE_CHECKING

from psd_depth_ros.cli.options import (
    add_engine_options,
    add_lens_options,
    add_sixteen_bit_option,
    add_stamps_option,
    load_camera_option,
    open_engine,
    progress_bar,
)
from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.files import write_atomically

if TYPE_CHECKING:
    from psd_depth_ros.data.frames import SourceOptions

EXAMPLES = 4


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        'evaluate',
        help='measure a checkpoint against true depth',
        description='Measure a checkpoint on images with true depth: a bag with a depth or lidar '
        'topic, an RGB-D folder, images with lidar, or a benchmark as it is downloaded (KITTI '
        'raw, Cityscapes, Make3D, NYUv2). Every pixel with a truth counts.',
    )
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='file, or a name: default')
    parser.add_argument('data', metavar='DATA', type=Path, help='bag or folder with true depth')
    parser.add_argument(
        '--protocol',
        metavar='P',
        default='auto',
        help='kitti, kitti_eigen, kitti_eigen_improved, make3d, cityscapes, nyuv2, indoor (10 m) '
        'or outdoor (80 m) (default: by what the data is)',
    )
    parser.add_argument('--json', metavar='F', type=Path, help='write all figures here')
    parser.add_argument('--html', metavar='F', type=Path, help='write a report with pictures here')
    parser.add_argument(
        '--frames', metavar='A:B', default=':', help='only these, such as 240:300 or ::10'
    )
    parser.add_argument(
        '--max-depth', metavar='M', type=float, help='cap in metres (default: of the protocol)'
    )
    parser.add_argument(
        '--flip', action='store_true', help='also measure the mean with the mirror image'
    )
    parser.add_argument(
        '--temporal',
        metavar='S',
        type=float,
        default=0.0,
        help='filter depth over the frames of a recording with this time constant in seconds, as '
        'depth.temporal_s of the depth node (default: no filter)',
    )
    _add_robust_options(parser)
    _add_data_options(parser)
    add_lens_options(parser)
    add_sixteen_bit_option(parser)
    add_engine_options(parser)
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    parser.set_defaults(execute=execute, rectified=False, rectify_alpha=-1.0)


def _add_robust_options(parser: argparse.ArgumentParser) -> None:
    robust = parser.add_argument_group('corrupted images')
    robust.add_argument(
        '--robust',
        action='store_true',
        help='also measure under fog, blur, noise and others, in five severities: 91 images for '
        'each one',
    )
    robust.add_argument(
        '--corruptions', metavar='NAMES', help='only these, such as fog,snow (default: all 18)'
    )
    robust.add_argument(
        '--severities', metavar='N', help='only these, such as 1,3,5 (default: 1,2,3,4,5)'
    )
    robust.add_argument(
        '--baseline',
        metavar='F',
        type=Path,
        help='--json of an earlier run with --robust on the same data, to compare with (mCE)',
    )


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group('what the data does not say itself')
    data.add_argument('--split-file', metavar='F', type=Path, help='list of images (KITTI)')
    data.add_argument(
        '--truth', metavar='DIR', type=Path, help='improved ground truth of KITTI (train/, val/)'
    )
    data.add_argument(
        '--depth-scale',
        metavar='N',
        type=float,
        help='units of 16-bit depth files in a metre (default: 256 for lidar, 1000 for RGB-D)',
    )
    data.add_argument(
        '--depth-camera',
        metavar='F',
        type=Path,
        help='calibration of the depth camera, where depth is not registered to the images '
        '(default: depth_camera.yaml of an RGB-D folder, if there is one)',
    )
    data.add_argument('--image-topic', metavar='TOPIC', help='camera of the bag')
    data.add_argument('--camera-info-topic', metavar='TOPIC', help='its CameraInfo')
    add_stamps_option(data)
    data.add_argument('--depth-topic', metavar='TOPIC', help='true depth, registered to the image')
    data.add_argument('--lidar-topic', metavar='TOPIC', help='points, where there is no depth')
    data.add_argument(
        '--lidar-pose',
        metavar='X',
        type=float,
        nargs=7,
        help='pose of the lidar in the optical frame: x y z qx qy qz qw (default: by TF)',
    )


def execute(options: argparse.Namespace) -> int:
    """Measure, print and write."""
    from psd_depth_ros.evaluation.evaluate import evaluate, open_data, parse_range
    from psd_depth_ros.evaluation.report import write_html
    from psd_depth_ros.evaluation.robustness import (
        measure_robustness,
        parse_corruptions,
        parse_severities,
        read_baseline,
    )

    _check_robust(options)
    _check_temporal(options)
    corruptions = parse_corruptions(options.corruptions)
    severities = parse_severities(options.severities)
    source, protocol = open_data(options.data, options.protocol, _source_options(options))
    source.select(parse_range(options.frames))
    if not source.selected:
        raise EvaluationError(f'--frames {options.frames} leaves no images of {options.data}')
    for path in (options.json, options.html):
        _prepare(path)
    if options.max_depth is not None:
        protocol = protocol.capped(options.max_depth)
    baseline = None if options.baseline is None else read_baseline(options.baseline)
    if baseline is not None:
        baseline.check_options(protocol, corruptions, severities)
    engine = open_engine(options, options.checkpoint)
    kept = EXAMPLES if options.html else 0
    try:
        with progress_bar(f'evaluating on {engine.device}', options.quiet) as advance:
            evaluation = evaluate(
                engine,
                source,
                protocol,
                flip=options.flip,
                temporal_s=options.temporal,
                examples=kept,
                progress=advance,
            )
        robustness = None
        if options.robust:
            with progress_bar(f'corrupted images on {engine.device}', options.quiet) as advance:
                robustness = measure_robustness(
                    engine,
                    source,
                    protocol,
                    corruptions=corruptions,
                    severities=severities,
                    examples=options.html is not None,
                    progress=advance,
                )
    finally:
        engine.close()
        source.close()
    report = {
        'checkpoint': engine.checkpoint.id,
        'checkpoint_path': engine.checkpoint.path,
        'data': str(options.data),
        'device': engine.device,
        'backend': engine.backend,
        'pixel_budget': engine.pixel_budget,
        'temporal_s': options.temporal,
        **evaluation.as_dict(),
    }
    if robustness is not None:
        if baseline is not None:
            baseline.check_images(robustness)
        report['robustness'] = robustness.as_dict(baseline)
    if options.json is not None:
        _write_json(options.json, report)
    if options.html is not None:
        write_html(options.html, report, evaluation, robustness)
    _print(report)
    for note in source.notes:
        print(f'note: {note}')
    return 0


def _check_robust(options: argparse.Namespace) -> None:
    for name in ('corruptions', 'severities', 'baseline'):
        if getattr(options, name) is not None and not options.robust:
            raise EvaluationError(f'--{name} is about corrupted images; add --robust')


def _check_temporal(options: argparse.Namespace) -> None:
    from psd_depth_ros.config import build
    from psd_depth_ros.inference.postprocess import DepthSettings

    build(DepthSettings, {'temporal_s': options.temporal}, '--temporal')
    for name in ('flip', 'robust'):
        if options.temporal and getattr(options, name):
            raise EvaluationError(
                f'--temporal is about frames that follow each other, --{name} about single '
                'images; leave out one of them'
            )


def _source_options(options: argparse.Namespace) -> SourceOptions:
    from psd_depth_ros.data.frames import LensChoice, SourceOptions

    if options.depth_scale is not None and not options.depth_scale > 0:
        raise EvaluationError(f'--depth-scale is {options.depth_scale:g}, expected more than 0')
    return SourceOptions(
        lens=LensChoice(
            load_camera_option(options), options.fov, sixteen_bit_range=options.sixteen_bit_range
        ),
        image_topic=options.image_topic,
        camera_info_topic=options.camera_info_topic,
        lidar_topic=options.lidar_topic,
        recorded_stamps=options.stamps == 'recorded',
        depth_topic=options.depth_topic,
        lidar_pose=None if options.lidar_pose is None else tuple(options.lidar_pose),
        units_per_metre=options.depth_scale,
        depth_camera=options.depth_camera,
        split_file=options.split_file,
        truth_folder=options.truth,
    )


def _prepare(path: Path | None) -> None:
    """Create the folder of a report before measuring. Raises EvaluationError."""
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(f'report {path} cannot be written: {error}') from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise EvaluationError(
            f'report {path} cannot be written: it is a folder, or lies in one that is read-only'
        )


def _write_json(path: Path, report: dict[str, Any]) -> None:
    try:
        write_atomically(path, (json.dumps(report, indent=2, allow_nan=False) + '\n').encode())
    except OSError as error:
        raise EvaluationError(f'report {path} cannot be written: {error}') from error


def _print(report: dict[str, Any]) -> None:
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from psd_depth_ros.evaluation.report import (
        COLUMNS,
        describe,
        describe_robustness,
        DISTANCE_COLUMNS,
        distance_rows,
        figure_rows,
        robustness_columns,
        robustness_rows,
    )

    console = Console()

    def draw(title: str, columns: Sequence[str], rows: Sequence[tuple[str, list[str]]]) -> None:
        table = Table(title=title, title_justify='left', box=SIMPLE, padding=(0, 0, 0, 1))
        for name in ('', *columns):
            table.add_column(name, justify='right', no_wrap=True)
        for label, cells in rows:
            table.add_row(label, *cells)
        console.print(table)

    def write(lines: Sequence[str]) -> None:
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True)

    draw(f'{report["frames"]} images, {report["protocol_rules"]}', COLUMNS, figure_rows(report))
    bands = distance_rows(report['by_distance'])
    draw('by distance, median-scaled', DISTANCE_COLUMNS, bands)
    write(describe(report))
    if 'robustness' in report:
        figures = report['robustness']
        columns = robustness_columns(figures, means=False)
        rows = robustness_rows(figures, means=False)
        draw('\ncorrupted images, median-scaled', columns, rows)
        write(describe_robustness(figures))
