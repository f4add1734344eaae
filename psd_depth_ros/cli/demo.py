"""`psd-depth demo`: camera in, depth and cloud out, over real topics, with a report at the end.

replay_node, depth_node and recorder run as processes of their own, on a DDS domain of their own.
Whether the depth node is ready is told by the exit code of wait_until_active, whether the playing
and the recording are over by those of replay_node and recorder; how much was played by ~/status of
replay_node, which is recorded. The drive is generated, or is a recording of the user's.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
import importlib.util
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING

from psd_depth_ros.cli.options import (
    add_budget_option,
    add_lens_options,
    load_camera_option,
    progress_bar,
)
from psd_depth_ros.errors import CalibrationError, PsdDepthError
from psd_depth_ros.files import write_atomically
from psd_depth_ros.parsing import user_path
from psd_depth_ros.replay import TOPICS

if TYPE_CHECKING:
    from psd_depth_ros.synth import World

# Training draws its worlds from seeds below 1,000,000: this one was never seen. In the middle of
# the drive, which is drawn, two cars are near and in full view.
SEED, SPEED_MPS = 2_000_182, 14.0
FRAMES, RATE_HZ, WIDTH, HEIGHT = 50, 10.0, 640, 384
WIDE_PIXELS = 640 * 480  # bigger images get thinner clouds: the recording is big enough
IMAGE, CAMERA_INFO = '/camera/image', '/camera/camera_info'
START_S, IDLE_S = 240.0, 5.0
NODES = 'psd_depth_ros.ros'
# Without a reader of these outputs the first images would give no depth.
# What to print in place of a figure that is not known.
UNKNOWN = dict.fromkeys(('absrel', 'absrel_metric', 'coverage'), 'unknown (no truth)') | {
    'latency_ms_p50': 'unknown (the recorder could not keep up)',
    'latency_ms_p95': 'unknown (the recorder could not keep up)',
}
READY = {
    'outputs': list(TOPICS),
    'timeout_s': START_S,
}


@dataclass(frozen=True)
class Drive:
    """What is played: the recording, its images (message topic) and what replay_node is told."""

    path: Path
    transport: str
    frames_in: int | None
    size: tuple[int, int]
    truth_topic: str
    told: dict[str, Any]
    seconds: float

    @property
    def image_topic(self) -> str:
        """Where the images are heard."""
        return f'{IMAGE}/compressed' if self.transport == 'compressed' else IMAGE


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        'demo',
        help='camera in, depth and cloud out, over real topics',
        description='Play a drive into the depth node over DDS, record what comes out, compare it '
        'with the truth and draw it. Without --bag or --video the drive is generated.',
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--bag', metavar='PATH', type=Path, help='a bag of your own')
    what.add_argument('--video', metavar='PATH', type=Path, help='a video, or a folder of images')
    parser.add_argument('--image-topic', metavar='TOPIC', help='camera of the bag')
    parser.add_argument('--output', metavar='FOLDER', type=Path, default=Path('demo_out'))
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        default='',
        help='other weights: a file, or the name of weights of the package',
    )
    add_budget_option(parser)
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--frames', type=int, default=FRAMES, help='length of the generated drive')
    parser.add_argument('--rate', type=float, default=1.0, help='playback speed')
    parser.add_argument(
        '--duration',
        metavar='S',
        type=float,
        default=30.0,
        help='play this much of a recording, 0 for all (default: %(default)s)',
    )
    parser.add_argument(
        '--log-level',
        default='info',
        choices=('debug', 'info', 'warn', 'error', 'fatal'),
        help='how much the nodes log into OUTPUT/logs (default: %(default)s)',
    )
    add_lens_options(parser)
    parser.set_defaults(execute=execute, rectified=False, rectify_alpha=-1.0)


def execute(options: argparse.Namespace) -> int:
    """Run the steps; returns 0 where every frame is accounted for."""
    from psd_depth_ros.checkpoint import check_pixel_budget

    if importlib.util.find_spec('rclpy') is None:
        raise PsdDepthError(
            'the demo needs ROS 2 (rclpy), which this Python does not have; use `make demo`, '
            'source /opt/ros/jazzy/setup.bash, or pip install "psd_depth_ros[ros]"'
        )
    check_pixel_budget(options.pixel_budget)
    output: Path = options.output
    try:
        (output / 'logs').mkdir(parents=True, exist_ok=True)
        (output / 'depth.mcap').unlink(missing_ok=True)
    except OSError as error:
        raise PsdDepthError(
            f'--output {output}: the folder cannot be made or written to: {error.strerror}; name '
            'another'
        ) from error
    drive = (
        _generate(output, options.frames) if not (options.bag or options.video) else _take(options)
    )
    recording = output / 'depth.mcap'
    _play(drive, options, recording)
    report = _report(drive, recording)
    if not report['frames_out']:
        raise PsdDepthError(
            f'of {report["frames_in"]} images none became depth '
            f'({report["dropped_by_reason"]}); {output}/logs/depth_node.log says more'
        )
    write_atomically(output / 'report.json', (json.dumps(report, indent=2) + '\n').encode())
    _draw(drive, recording, output / 'preview.png', report)
    _print(report, output)
    return 0


def make_street() -> World:
    """The street of the generated drive."""
    from psd_depth_ros.synth import World, WorldSettings

    settings = WorldSettings(
        kind='street', width=WIDTH, height=HEIGHT, frame_rate_hz=RATE_HZ, speed_mps=SPEED_MPS
    )
    return World(SEED, settings)


def _generate(output: Path, frames: int) -> Drive:
    from psd_depth_ros.replay.rendering import (
        CAMERA_INFO_TOPIC,
        DEPTH_TOPIC,
        IMAGE_TOPIC,
        write_world,
    )
    from psd_depth_ros.runtime import configure_runtime

    configure_runtime(
        'none'
    )  # one thread for rendering: two wait for each other on a busy machine
    path = output / 'drive.mcap'
    _say(f'1/4 rendering {frames} frames of a synthetic street (seed {SEED}) into {path}')
    with progress_bar('rendering') as advance:
        write_world(make_street(), path, frames, progress=advance)
    told = {'topics': [IMAGE_TOPIC, CAMERA_INFO_TOPIC]}
    return Drive(path, 'raw', frames, (WIDTH, HEIGHT), DEPTH_TOPIC, told, frames / RATE_HZ)


def _take(options: argparse.Namespace) -> Drive:
    """Look at the user's recording, and choose what replay_node has to be told of it."""
    from psd_depth_ros.cli.demo_recording import count_messages
    from psd_depth_ros.data.calibration_file import ASSUMED_FOV_DEG
    from psd_depth_ros.data.open import kind_of
    from psd_depth_ros.replay.player import find_camera

    path: Path = user_path(options.bag or options.video)
    calibration = load_camera_option(options)
    fov = options.fov
    try:
        camera = find_camera(path, options.image_topic, calibration, fov)
    except CalibrationError:
        if kind_of(path) == 'bag' or calibration is not None or fov is not None:
            raise
        fov = ASSUMED_FOV_DEG
        camera = find_camera(path, horizontal_fov_deg=fov)
        _say(
            f'nothing is known of the lens of {path}: a horizontal field of view of {fov:g} '
            'degrees is assumed, and depth is off by as much as it is; give --fov or --camera'
        )
    told: dict[str, Any] = {'duration_s': options.duration}
    frames: int | None = None
    if kind_of(path) == 'bag':
        frames = count_messages(path, camera.message_topic, options.duration)
        told['image_topic'] = camera.message_topic
        told['topics'] = [camera.message_topic, camera.camera_info_topic]
    told |= {'camera': str(options.camera)} if options.camera else {}
    told |= {'horizontal_fov_deg': float(fov)} if fov is not None else {}
    size = (camera.width, camera.height)
    _say(f'1/4 playing {path} ({camera.frames} images on {camera.image_topic})')
    return Drive(path, camera.transport, frames, size, '', told, options.duration or 1e6)


def _play(drive: Drive, options: argparse.Namespace, recording: Path) -> None:
    """Run recorder, depth_node and replay_node until the recording is complete."""
    from psd_depth_ros.cli.processes import node_environment, NodeProcesses

    logging = ['--ros-args', '--log-level', options.log_level]
    with NodeProcesses(node_environment(), options.output / 'logs') as nodes:
        _say('2/4 starting recorder and depth_node')
        recorder = nodes.start(f'{NODES}.recorder', *logging, *_recorded(drive, recording))
        nodes.start(
            f'{NODES}.depth_node.node',
            *logging,
            *_depth_arguments(drive, options),
            name='depth_node',
        )
        ready = nodes.start(f'{NODES}.wait_until_active', *logging, *_parameters(READY))
        nodes.wait('depth_node to be active', lambda: ready.exit_code is not None, START_S + 30)
        ready.check(expected=(0,))
        _say('3/4 playing the drive over DDS')
        player = nodes.start(
            f'{NODES}.replay_node', *logging, *_replay_arguments(drive, options.rate)
        )
        patience_s = 2 * drive.seconds / options.rate + START_S
        nodes.wait('the playing', lambda: player.exit_code is not None, patience_s)
        player.check(expected=(0,))
        nodes.wait('the last depth', lambda: recorder.exit_code is not None, START_S)
        recorder.check(expected=(0,))


def _replay_arguments(drive: Drive, rate: float) -> list[str]:
    told = {
        'recording': str(drive.path),
        'rate': rate,
        'image_as': IMAGE,
        'camera_info_as': CAMERA_INFO,
        'wait_for_subscribers_s': 30.0,
        'image_subscribers': 2,  # the recorder's copy is what frames are counted by
    }
    return _parameters(told | drive.told)


def _recorded(drive: Drive, recording: Path) -> list[str]:
    from psd_depth_ros.cli.demo_recording import OUTPUTS, STATUSES

    kind = 'CompressedImage' if drive.transport == 'compressed' else 'Image'
    image = f'{drive.image_topic} sensor_msgs/msg/{kind}'
    told = {'topics': [image, *OUTPUTS, *STATUSES], 'output': str(recording), 'idle_end_s': IDLE_S}
    return _parameters({**told, 'depth': 100})


def _depth_arguments(drive: Drive, options: argparse.Namespace) -> list[str]:
    from psd_depth_ros.cli.demo_recording import OUTPUTS

    names = {
        'image': IMAGE,
        'image/compressed': f'{IMAGE}/compressed',
        'camera_info': CAMERA_INFO,
    }
    remappings = [part for old, new in names.items() for part in ('-r', f'{old}:={new}')]
    told = {
        'use_sim_time': True,
        'image_transport': drive.transport,
        'device': options.device,
        'checkpoint': options.checkpoint,
        'pixel_budget': options.pixel_budget,
        'image_width': drive.size[0],
        'image_height': drive.size[1],
    }
    # Every pixel is drawn and measured, the doubtful ones too; the cloud keeps what it trusts.
    told['depth.min_confidence'] = 0.0
    told['points.decimation'] = 1 if drive.size[0] * drive.size[1] <= WIDE_PIXELS else 2
    # A recorder must not miss what it cannot write at once.
    told |= {f'qos_overrides.{topic}.publisher.depth': 50 for topic in OUTPUTS}
    return [*remappings, *_parameters(told)]


def _parameters(values: dict[str, Any]) -> list[str]:
    """Write parameters as JSON, which is YAML that ROS cannot take for something else."""
    pairs = (f'{name}:={json.dumps(value)}' for name, value in values.items())
    return [part for pair in pairs for part in ('-p', pair)]


def _report(drive: Drive, recording: Path) -> dict[str, Any]:
    from psd_depth_ros.cli.demo_recording import DEPTH, read_drops, read_status, REPLAY_STATUS
    from psd_depth_ros.evaluation.recording import compare_depth, time_depth

    timing = time_depth(recording, drive.image_topic, DEPTH)
    said = read_status(recording)
    frames_in = drive.frames_in
    if frames_in is None:  # a video does not know how many frames it has
        frames_in = int(read_status(recording, REPLAY_STATUS)['images'])
    absrel = absrel_metric = coverage = None
    if drive.truth_topic and timing.frames:
        scaled, unscaled = compare_depth(recording, DEPTH, drive.path, drive.truth_topic)
        absrel, absrel_metric = _rounded(scaled.abs_rel, 4), _rounded(unscaled.abs_rel, 4)
        coverage = _rounded(scaled.coverage, 4)
    return {
        'frames_in': frames_in,
        'frames_out': timing.frames,
        'dropped': frames_in - timing.frames,
        'dropped_by_reason': read_drops(said, frames_in, timing.frames),
        'fps': _rounded(timing.fps),
        'latency_ms_p50': _rounded(timing.latency_ms_p50),
        'latency_ms_p95': _rounded(timing.latency_ms_p95),
        'absrel': absrel,
        'absrel_metric': absrel_metric,
        'coverage': coverage,
        'device': said.get('device', ''),
        'backend': said.get('backend', ''),
        'checkpoint': said.get('checkpoint', ''),
        'recording': str(drive.path),
    }


def _draw(drive: Drive, recording: Path, picture: Path, report: dict[str, Any]) -> None:
    from psd_depth_ros.cli.demo_recording import read_preview
    from psd_depth_ros.cli.preview import draw_preview
    from psd_depth_ros.visualisation import write_picture

    truth = drive.path if drive.truth_topic else None
    frame = read_preview(recording, drive.image_topic, truth, drive.truth_topic)
    facts = [report['checkpoint'].partition(' ')[0], f'{report["device"]}, {report["backend"]}']
    facts += [f'{report["fps"]} frames/s'] if report['fps'] else []
    facts += [f'absrel {report["absrel_metric"]}'] if report['absrel_metric'] is not None else []
    title = 'psd_depth_ros: metric depth from one camera'
    write_picture(picture, draw_preview(frame, title, '  |  '.join(facts)))


def _print(report: dict[str, Any], output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, title='demo')
    for key, value in report.items():
        table.add_row(key, UNKNOWN.get(key, 'unknown') if value is None else str(value))
    Console().print(table)
    _say(
        f'depth by the weights {report["checkpoint"].partition(" ")[0]}; others by --checkpoint '
        'NAME or FILE (make demo CHECKPOINT=...), `psd-depth inspect NAME` tells what they are'
    )
    names = ('preview.png', 'report.json', 'depth.mcap')
    _say('4/4 written: ' + ', '.join(str(output / name) for name in names))


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)


def _say(text: str) -> None:
    print(text, flush=True)
