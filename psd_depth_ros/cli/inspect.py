"""`psd-depth inspect`: what a recording holds, and whether its camera can be used."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TYPE_CHECKING

from psd_depth_ros.cli.options import add_frame_options, open_recording_frames
from psd_depth_ros.errors import PsdDepthError

if TYPE_CHECKING:
    from psd_depth_ros.data.sources import FrameSource, TimedFrame
    from psd_depth_ros.geometry import Camera


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        'inspect',
        help='list topics, sizes and the camera of a recording',
        description='Show what a recording holds and whether depth can be estimated from it.',
    )
    add_frame_options(parser)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print the report; an unusable camera is an error after the topics were listed."""
    from psd_depth_ros.data.sources import kind_of

    kind = kind_of(options.recording)
    print(f'{options.recording}: {kind}')
    if kind == 'bag':
        print('\n'.join(_describe_bag(options.recording)))
    with open_recording_frames(options) as source:
        print('\n'.join(_describe_camera(source)))
    return 0


def _describe_bag(path: Path) -> Iterator[str]:
    from psd_depth_ros.data.bags import BagReader

    with BagReader(path) as bag:
        seconds = (bag.end_ns - bag.start_ns) / 1e9
        yield f'  from {bag.start_ns / 1e9:.3f} s, {seconds:.1f} s long'
        width = max(len(name) for name in bag.topics)
        for name, info in bag.topics.items():
            rate = f'{(info.count - 1) / seconds:7.1f} Hz' if seconds and info.count > 1 else ''
            yield f'  {name:{width}}  {info.count:6} {rate:>10}  {info.msgtype}'


def _describe_camera(source: FrameSource) -> Iterator[str]:
    frame = next(iter(source.frames()), None)
    if frame is None:
        raise PsdDepthError(f'{source.path} holds no images')
    for label, name in (('image', 'image_topic'), ('camera info', 'camera_info_topic')):
        if getattr(source, name, None):
            yield f'{label + ":":13}{getattr(source, name)}'
    yield f'{"frames:":13}{source.count}, {_describe_frame(frame)}'
    yield from _describe_lens(frame.camera)
    if source.skipped:
        yield f'{"skipped:":13}{len(source.skipped)} before it: {source.skipped[0].detail}'


def _describe_frame(frame: TimedFrame) -> str:
    height, width = frame.rgb.shape[:2]
    pose = 'with poses' if frame.pose is not None else 'without poses'
    return f'{width}x{height}, frame_id {frame.frame_id!r}, {pose}'


def _describe_lens(camera: Camera) -> Iterator[str]:
    view = camera.rectified()
    lens = 'none' if camera.distortion is None else camera.distortion.model
    yield (
        f'{"camera:":13}fx {camera.fx:.2f} fy {camera.fy:.2f} cx {camera.cx:.2f} '
        f'cy {camera.cy:.2f}, distortion {lens}'
    )
    if not camera.is_rectified:
        yield (
            f'{"rectified:":13}fx {view.fx:.2f} fy {view.fy:.2f} cx {view.cx:.2f} cy {view.cy:.2f}'
        )
