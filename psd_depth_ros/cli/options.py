"""Options, progress bars and signal handling that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
import math
import os
from pathlib import Path
import signal
import sys
import time
from typing import Protocol, TYPE_CHECKING, TypeVar

from psd_depth_ros.errors import BagError, SettingsError

_SILENT = '-8'  # AV_LOG_QUIET

T = TypeVar('T')


def silence_decoders() -> None:
    """Keep FFmpeg from writing to stderr; call before the first video is opened.

    Damaged frames are counted and reported at the end of a command.
    """
    os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', _SILENT)
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'SILENT')


@contextmanager
def asked_to_stop() -> Iterator[list[int]]:
    """Record the first Ctrl-C or SIGTERM, so that the state can be saved; a second one ends.

    Yields a list that will contain the number of the signal.
    """
    asked: list[int] = []
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: object) -> None:
        asked.append(number)
        for each, handler in former.items():
            signal.signal(each, handler)
        print('stopping after this step; once more ends at once', file=sys.stderr)

    for number in former:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        for each, handler in former.items():
            signal.signal(each, handler)


class Advance(Protocol):
    """Callback that updates a progress bar."""

    def __call__(
        self,
        done: int,
        total: int,
        note: str = '',
        seconds_left: float = math.nan,
        subject: str = '',
    ) -> None:
        """Show `done` of `total`; `note` replaces the rate.

        `seconds_left` replaces the estimate from the rate; `subject` replaces the title in lines
        of a log.
        """


class SubjectProgress:
    """Progress of one subject after another, such as recordings: `announce` names the next."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._subject = ''

    def announce(self, subject: str) -> None:
        """Note what the next reports are of."""
        self._subject = subject

    def report(self, done: int, total: int) -> None:
        """Show how much of it is done."""
        self._advance(done, total, subject=self._subject)


class LogLines:
    """Progress as lines of a log: one every LINE_PERIOD_S, and one when a subject is done.

    What takes less than LEAST_WAIT_S has none, so that many short recordings are no flood.
    """

    LINE_PERIOD_S, LEAST_WAIT_S = 10.0, 2.0

    def __init__(
        self, title: str, unit: str, write: Callable[[str], None], clock: Callable[[], float]
    ) -> None:
        self._title, self._unit = title, unit
        self._write, self._clock = write, clock
        self._subject = ''
        self._begun_s = self._told_s = clock()
        self._first = 0

    def advance(
        self,
        done: int,
        total: int,
        note: str = '',
        seconds_left: float = math.nan,
        subject: str = '',
    ) -> None:
        """Write a line where it is time for one."""
        now_s = self._clock()
        subject = subject or self._title
        if subject != self._subject or done < self._first:
            self._subject, self._begun_s, self._first = subject, now_s, done
        waited_s = now_s - self._told_s
        if waited_s < (self.LEAST_WAIT_S if done >= total else self.LINE_PERIOD_S):
            return
        self._told_s = now_s
        rate = ''
        if done > self._first and now_s > self._begun_s:
            rate = f', {(done - self._first) / (now_s - self._begun_s):.1f} {self._unit}/s'
        self._write(f'{subject}: {done} of {max(done, total)} {self._unit}{rate}')


@contextmanager
def progress_bar(title: str, quiet: bool = False, unit: str = '') -> Iterator[Advance]:
    """Show a progress bar, except with `quiet` or where stderr is not a terminal.

    There, with a `unit` such as frames, lines of a log take its place.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('{task.fields[rate]}'),
        TextColumn('{task.fields[left]}', style='progress.remaining'),
    )
    hidden = quiet or not console.is_terminal
    if hidden:  # a bar that is disabled may write empty lines (rich 13 and 14.0)
        lines = LogLines(title, unit, _write_line, time.monotonic)
        yield lines.advance if unit and not quiet else _ignore
        return
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None, rate='', left='')

        def advance(
            done: int,
            total: int,
            note: str = '',
            seconds_left: float = math.nan,
            subject: str = '',
        ) -> None:
            speed = progress.tasks[0].speed
            rate = note or (f'{speed:.1f}/s' if speed else '')
            if math.isnan(seconds_left) and speed:
                seconds_left = max(0, total - done) / speed
            left = '-:--:--' if math.isnan(seconds_left) else _clock(seconds_left)
            progress.update(task, completed=done, total=max(done, total), rate=rate, left=left)

        yield advance


def _ignore(
    done: int, total: int, note: str = '', seconds_left: float = math.nan, subject: str = ''
) -> None:
    """Progress that nobody looks at."""


def _write_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


if TYPE_CHECKING:
    from psd_depth_ros.data.frames import FrameSource
    from psd_depth_ros.geometry import Camera
    from psd_depth_ros.inference import DepthEngine


def add_recording_options(parser: argparse.ArgumentParser) -> None:
    """Add options for the recording and its topics."""
    parser.add_argument(
        'recording', metavar='BAG', type=Path, help='bag, video file or folder of images'
    )
    parser.add_argument(
        '--image-topic', metavar='TOPIC', help='camera of the bag (default: the only one)'
    )
    parser.add_argument(
        '--camera-info-topic',
        metavar='TOPIC',
        help='its CameraInfo (default: camera_info beside the image topic)',
    )


def add_lens_options(parser: argparse.ArgumentParser) -> None:
    """Add options for the calibration of the camera."""
    parser.add_argument(
        '--camera',
        metavar='YAML',
        type=Path,
        help='calibration: fx fy cx cy width height, or the output of camera_calibration '
        '(default: CameraInfo of the bag, camera.yaml beside a video or in a folder)',
    )
    parser.add_argument(
        '--fov',
        metavar='DEGREES',
        type=float,
        help='horizontal field of view, where there is no calibration',
    )


def add_sixteen_bit_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the range of 16-bit images."""
    parser.add_argument(
        '--sixteen-bit-range',
        metavar='RANGE',
        default='full',
        help='black and white of 16-bit images: full, 10bit, 12bit, 14bit, BLACK..WHITE such as '
        '7000..9500, or percentile (default: full, 0..65535)',
    )


def add_stamps_option(parser: argparse._ActionsContainer) -> None:
    """Add the option for the stamps of messages."""
    parser.add_argument(
        '--stamps',
        choices=('header', 'recorded'),
        default='header',
        help='times of the images of a bag: of their headers, or of recording (default: header)',
    )


def add_frame_options(parser: argparse.ArgumentParser, lidar_help: str = '') -> None:
    """Add the options that `open_recording_frames` reads; `lidar_help` tells what points do.

    Without it the command reads no lidar.
    """
    add_recording_options(parser)
    add_lens_options(parser)
    add_sixteen_bit_option(parser)
    parser.add_argument(
        '--rectified',
        action='store_true',
        help='the images are rectified already (image_rect): use P of the calibration',
    )
    add_alpha_option(parser)
    add_stamps_option(parser)
    if lidar_help:
        parser.add_argument('--lidar-topic', metavar='TOPIC', help=lidar_help)
    else:
        parser.set_defaults(lidar_topic=None)


def add_overwrite_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that `check_output` reads."""
    parser.add_argument(
        '--overwrite', action='store_true', help='replace the output where it is there already'
    )


def check_output(output: Path, overwrite: bool) -> None:
    """Raise BagError where an existing file would be replaced without --overwrite."""
    if output.is_file() and not overwrite:
        raise BagError(
            f'output {output} is there already ({output.stat().st_size / 1e6:.1f} MB); name '
            'another file, or replace it with --overwrite'
        )


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `open_engine` reads, but for the checkpoint."""
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument(
        '--backend',
        default='auto',
        help='library that runs the network: auto, torch, openvino or onnxruntime',
    )
    add_budget_option(parser)


def add_budget_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the size of the network's input."""
    parser.add_argument(
        '--pixel-budget',
        metavar='N',
        type=int,
        default=0,
        help='most pixels of the input of the network, such as 106496: more for finer depth, '
        'fewer for speed (default: of the checkpoint)',
    )


def open_engine(options: argparse.Namespace, checkpoint: Path | str | None) -> DepthEngine:
    """Load a checkpoint as `add_engine_options` say; an untrained size is told on stderr."""
    from psd_depth_ros.inference import DepthEngine
    from psd_depth_ros.runtime import configure_runtime

    engine = DepthEngine.from_checkpoint(
        checkpoint, options.device, options.backend, pixel_budget=options.pixel_budget
    )
    configure_runtime(engine.backend)
    untrained = engine.checkpoint.info.input.describe_untrained(engine.pixel_budget)
    if untrained:
        print(f'careful: {untrained}', file=sys.stderr)
    return engine


def add_alpha_option(parser: argparse.ArgumentParser, default: float | None = -1.0) -> None:
    """Add the option for the view that images are rectified to."""
    parser.add_argument(
        '--rectify-alpha',
        metavar='A',
        type=_read_alpha,
        default=default,
        help='rectified view: 0 only pixels that are seen, 1 all pixels of the image, or in '
        'between (default: that of P of the calibration)',
    )


def _read_alpha(text: str) -> float:
    try:
        alpha = float(text)
    except ValueError:
        alpha = float('nan')
    if not -1.0 <= alpha <= 1.0:
        raise argparse.ArgumentTypeError(f'{text} is not from 0 to 1, nor -1 for P')
    return alpha


def add_setting_option(parser: argparse.ArgumentParser, example: str) -> None:
    """Add --set NAME=VALUE for settings by dotted names; `example` is one of the command."""
    parser.add_argument(
        '--set',
        metavar='NAME=VALUE',
        dest='changes',
        action='append',
        default=[],
        help=f'change a setting, such as {example}; may be given several times',
    )


def open_recording_frames(options: argparse.Namespace, with_lidar: bool = False) -> FrameSource:
    """Open the frames that the options of `add_frame_options` name."""
    from psd_depth_ros.data.open import open_frames

    return open_frames(
        options.recording,
        image_topic=options.image_topic,
        camera_info_topic=options.camera_info_topic,
        camera=load_camera_option(options),
        horizontal_fov_deg=options.fov,
        image_is_rectified=options.rectified,
        rectify_alpha=options.rectify_alpha,
        with_lidar=with_lidar or options.lidar_topic is not None,
        lidar_topic=options.lidar_topic,
        stamps=options.stamps,
        sixteen_bit_range=options.sixteen_bit_range,
    )


def load_camera_option(options: argparse.Namespace) -> Camera | None:
    """Read the file of --camera."""
    from psd_depth_ros.data.calibration_file import load_camera

    if options.camera is not None and options.fov is not None:
        raise SettingsError('--camera and --fov both say what the lens is; give one of them')
    if options.rectified and options.rectify_alpha >= 0:
        raise SettingsError(
            '--rectified pictures are in the view of P already; leave out --rectify-alpha'
        )
    if options.camera is None:
        return None
    return load_camera(options.camera, options.rectified, options.rectify_alpha)


def build_settings(cls: type[T], changes: Sequence[str]) -> T:
    """Build settings from NAME=VALUE texts; values are YAML. Raises SettingsError."""
    from psd_depth_ros.config import build, parse_changes

    return build(cls, parse_changes(changes, '--set'), source='--set')
