"""`psd-depth run`: estimate depth, confidence and points of a recording into a bag."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING

from psd_depth_ros.cli.options import (
    add_engine_options,
    add_frame_options,
    add_overwrite_option,
    add_setting_option,
    build_settings,
    check_output,
    open_engine,
    open_recording_frames,
    progress_bar,
)
from psd_depth_ros.errors import BagError, SettingsError
from psd_depth_ros.replay import choose_outputs, OUTPUTS

if TYPE_CHECKING:
    from psd_depth_ros.inference.engine import DepthFrame
    from psd_depth_ros.replay.offline import RunReport


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        'run',
        help='estimate depth for every frame of a recording',
        description='Write depth, camera info, confidence and points of every frame of a '
        'recording to an .mcap bag. The same input gives the same bytes.',
    )
    add_frame_options(parser, 'points for scale.mode=lidar (default: the only cloud of the bag)')
    parser.add_argument('-o', '--output', metavar='OUT.mcap', type=Path, help='bag to write')
    parser.add_argument(
        '--preview',
        metavar='OUT.mp4',
        type=Path,
        help='small video: each image beside its depth in colours',
    )
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help='network: a file, or the name of weights of the package (default: default)',
    )
    add_overwrite_option(parser)
    parser.add_argument(
        '--topics',
        metavar='NAMES',
        default=','.join(OUTPUTS),
        help=f'what to write, of {",".join(OUTPUTS)} (default: all)',
    )
    parser.add_argument(
        '--compression',
        choices=('zstd', 'none'),
        default='zstd',
        help='of the bag; none is quicker to write and larger (default: zstd)',
    )
    add_engine_options(parser)
    add_setting_option(parser, 'points.decimation=2')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Run the recording through the engine."""
    from psd_depth_ros.cli.preview import PreviewVideo
    from psd_depth_ros.replay.offline import run_bag, RunSettings

    settings = build_settings(RunSettings, options.changes)
    outputs = choose_outputs(options.topics)
    written = [path for path in (options.output, options.preview) if path is not None]
    if not written:
        raise SettingsError('nothing is to be written; give --output OUT.mcap, --preview OUT.mp4')
    for path in written:
        _check_recording(options.recording, path)
        check_output(path, options.overwrite)
    with open_recording_frames(options, settings.scale.mode == 'lidar') as source:
        engine = open_engine(options, options.checkpoint)
        try:
            print(
                f'{source.count} frames of {options.recording} on {engine.device} '
                f'({engine.backend}), checkpoint {engine.checkpoint.id}',
                file=sys.stderr,
            )
            with ExitStack() as stack:
                advance = stack.enter_context(progress_bar('depth', options.quiet))
                show = None
                if options.preview is not None:
                    video = PreviewVideo(options.preview, source.rate_hz)
                    preview = stack.enter_context(video)

                    def show(result: DepthFrame) -> None:
                        preview.add(result.rgb, result.depth_m)

                report = run_bag(
                    source,
                    engine,
                    options.output,
                    settings,
                    advance,
                    outputs,
                    '' if options.compression == 'none' else options.compression,
                    show,
                )
        finally:
            engine.close()
    _print_report(report, written)
    return 0


def _check_recording(recording: Path, output: Path) -> None:
    """Raise BagError where the output would overwrite the input."""
    same = output.exists() and recording.exists() and output.samefile(recording)
    if same or (recording.is_dir() and recording in output.parents):
        raise BagError(f'output {output} is the recording, or inside it; name another file')


def _print_report(report: RunReport, written: list[Path]) -> None:
    files = ', '.join(f'{path.stat().st_size / 1e6:.1f} MB written to {path}' for path in written)
    print(
        f'{report.frames_in} frames in, {report.frames_out} out, '
        f'{sum(report.dropped.values())} dropped; {report.frames_per_second:.1f} frames/s '
        f'after {report.first_s:.1f} s for the first; {files}'
    )
    for reason, count in report.dropped.items():
        print(f'  dropped {count} ({reason}), the first: {report.reasons[reason]}')
    for note in report.notes:
        print(f'  note: {note}')
