"""`psd-depth inspect`: what a recording or a checkpoint holds, and whether it can be used."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import tempfile
from typing import Any, TYPE_CHECKING

from psd_depth_ros.cli.options import add_frame_options, open_recording_frames, progress_bar
from psd_depth_ros.errors import CalibrationError, PsdDepthError, SettingsError

if TYPE_CHECKING:
    from psd_depth_ros.data.frames import FrameSource, TimedFrame
    from psd_depth_ros.data.settings import DataSettings
    from psd_depth_ros.data.triplets.prepare import Fitness
    from psd_depth_ros.external.options import NetworkOptions
    from psd_depth_ros.geometry import Camera
    from psd_depth_ros.inference.exported import Exported

# To open images without calibration, for their size only.
_ANY_FOV_DEG = 60.0
# Sharpness is measured at the input size of the presets.
_USUAL_PIXELS = 53248


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        'inspect',
        help='list topics, sizes and the camera of a recording, or what a checkpoint is',
        description='Show what a recording or data set holds, whether depth can be estimated from '
        'it and whether it is fit for training, and why not; or what a checkpoint (.safetensors, '
        'or a name such as default) is, learned from and costs.',
    )
    add_frame_options(
        parser, 'check that this cloud can be learned from (any text for KITTI; default: no lidar)'
    )
    parser.add_argument(
        '--quick', action='store_true', help='do not go through the frames to judge fitness'
    )
    parser.add_argument(
        '--require-fit', action='store_true', help='exit code 1 if it is not fit for training'
    )
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Print the report, of which an unusable camera is part unless --camera asks for it."""
    from psd_depth_ros.checkpoint import refuse_pickle
    from psd_depth_ros.data.open import find_recordings
    from psd_depth_ros.external.hub import find_folder, find_own, is_hub_network
    from psd_depth_ros.external.open import is_external
    from psd_depth_ros.inference.exported import read_exported

    spec = str(options.recording)
    refuse_pickle(spec)
    if (exported := read_exported(options.recording)) is not None:
        print('\n'.join(_describe_exported(exported)))
        return 0
    where = spec.partition('?')[0]
    folder = find_folder(where) if is_hub_network(where) else None
    own = None if folder is None else find_own(folder, where)
    if own is not None:
        options.recording = own
    elif is_external(spec):
        print('\n'.join(_describe_network(spec, folder)))
        return 0
    if _is_checkpoint(options.recording):
        print('\n'.join(_describe_checkpoint(options.recording)))
        return 0
    recordings = find_recordings(_data_settings(options))
    if len(recordings) > 1:
        print(f'{options.recording}: {len(recordings)} recordings')
    elif not _print_recording(options, recordings[0].path):
        print('fit for training: no: without a camera there is nothing to learn from')
        return int(options.require_fit)
    if options.quick and not options.require_fit:
        return 0
    return int(not _print_fitness(options) and options.require_fit)


def _print_recording(options: argparse.Namespace, path: Path) -> bool:
    """Print the contents of a recording; return whether it has a usable camera."""
    from psd_depth_ros.data.open import kind_of

    kind = kind_of(path)
    print(f'{path}: {kind}')
    if kind == 'bag':
        print('\n'.join(_describe_bag(path)))
    # The name may be a pattern or a range of frames.
    named = argparse.Namespace(**{**vars(options), 'recording': path})
    try:
        with open_recording_frames(named) as source:
            print('\n'.join(_describe_camera(source)))
    except PsdDepthError as error:
        asked = options.image_topic, options.camera_info_topic, options.camera, options.fov
        if any(asked) or isinstance(error, SettingsError):
            raise
        if isinstance(error, CalibrationError) and kind != 'bag':
            print('\n'.join(_describe_uncalibrated(path)))
        print(f'{"camera:":13}none that can be used: {error}')
        return False
    return True


def _print_fitness(options: argparse.Namespace) -> bool:
    """Print the quality of the frames; return whether they are fit for training."""
    try:
        fitness, cache = _judge(options)
    except SettingsError:
        raise
    except PsdDepthError as error:
        print(f'fit for training: no: {error}')
        return False
    for label, text in fitness.lines:
        print(f'{label + ":":12} {text}')
    print(f'{"cache:":12} {cache}')
    verdict = 'yes' if fitness.is_fit else f'no: {"; ".join(fitness.against)}'
    print(f'fit for training: {verdict}')
    return fitness.is_fit


def _judge(options: argparse.Namespace) -> tuple[Fitness, str]:
    """Measure all frames without keeping their pixels, or find what training has measured.

    Also tells where that is kept.
    """
    from psd_depth_ros.data.triplets.prepare import judge, prepare_sequences

    with (
        _open_cache() as cache,
        progress_bar('looking at the frames', options.quiet, 'frames') as advance,
    ):
        preparation = prepare_sequences(
            _data_settings(options),
            pixel_budget=_USUAL_PIXELS,
            keep_pixels=False,
            cache=cache,
            report=lambda name, done, total: advance(
                done, total, name, subject=f'looking at {name}'
            ),
        )
        assert preparation.store is not None
        return judge(preparation), preparation.store.describe()


@contextmanager
def _open_cache() -> Iterator[Path]:
    """The cache of frames; a folder that is removed again where that cannot be written."""
    from psd_depth_ros.data.triplets.frame_store import frames_folder

    folder = frames_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    yield folder


def _data_settings(options: argparse.Namespace) -> DataSettings:
    from psd_depth_ros.data.settings import DataSettings

    return DataSettings(
        paths=(str(options.recording),),
        image_topic=options.image_topic or '',
        camera_info_topic=options.camera_info_topic or '',
        camera=str(options.camera or ''),
        horizontal_fov_deg=options.fov or 0.0,
        rectified=options.rectified,
        rectify_alpha=options.rectify_alpha,
        lidar_topic=options.lidar_topic or '',
        stamps=options.stamps,
        sixteen_bit_range=options.sixteen_bit_range,
    )


def _is_checkpoint(path: Path) -> bool:
    """Whether this is a checkpoint by its suffix, or by a name that is no recording here."""
    from psd_depth_ros.checkpoint import DEFAULT, installed_checkpoints, SUFFIX

    if path.suffix == SUFFIX:
        return True
    return not path.exists() and str(path) in (DEFAULT, *installed_checkpoints())


def _describe_checkpoint(path: Path) -> Iterator[str]:
    from psd_depth_ros.checkpoint import load_checkpoint
    from psd_depth_ros.networks.depth_model import load_model, measure_complexity

    checkpoint = load_checkpoint(path)
    info, output = checkpoint.info, checkpoint.info.output
    cost = measure_complexity(load_model(checkpoint), info.input.height, info.input.width)
    yield f'{checkpoint.path}: checkpoint {info.name!r}, id {checkpoint.id}'
    yield f'{"licence:":14}{info.licence or "not stated"}'
    if info.restriction:
        yield f'{"careful:":14}{info.restriction}'
    millions = f'{cost.parameters / 1e6:.2f} M parameters'
    yield f'{"network:":14}{info.architecture["encoder"]}, {millions}'
    yield (
        f'{"input:":14}{info.input.width}x{info.input.height}, {cost.macs / 1e9:.2f} GMAC, '
        f'{info.input.describe_range()}'
    )
    unit = 'metric' if output.metric else 'relative: needs a scale'
    yield (
        f'{"depth:":14}{unit}, {output.min_depth_m:g} to {output.max_depth_m:g} m, canonical '
        f'focal length {output.canonical_focal_px:g} px'
    )
    for name, value in info.training.get('validation', {}).items():
        yield f'{"held out:":14}{name} {value:g}'
    for source in info.data:
        yield f'{"learned from:":14}{source.get("name")} ({source.get("licence")})'


def _describe_network(spec: str, folder: Path | None) -> Iterator[str]:
    """What was understood of a network of other people, and what it lacks to be served."""
    from psd_depth_ros.external.open import open_depth_network
    from psd_depth_ros.inference.external import find_obstacle, NOMINAL_IMAGE
    from psd_depth_ros.inference.scale import AFFINE_MODES

    external = open_depth_network(spec, folder=folder)
    options, network = external.options, external.network
    height, width = network.input_size(NOMINAL_IMAGE)
    yield f'{external.where}: network {external.name!r}, id {options.identify(network.content)}'
    yield f'{"licence:":14}{options.licence or "not stated"}'
    yield f'{"library:":14}{network.library}'
    fixed = 'always' if all(network.size) else 'for an image of 640x480'
    yield f'{"input:":14}{width}x{height} {fixed}, {options.channels.upper()}, {_values(options)}'
    if options.focal_px:
        yield (
            f'{"":14}images are resampled to {options.focal_px:g} px of focal length at '
            f'{options.focal_width} px of width'
        )
    unit = 'metric' if options.metric else 'relative'
    if options.is_affine:
        unit = 'of unknown scale and shift'
    factor = f', {options.unit_m:g} m a unit' if options.unit_m != 1 else ''
    focal = ''
    if options.canonical_focal_px:
        focal = f', for a focal length of {options.canonical_focal_px:g} px at the input'
    sky = f', sky in {options.sky_output}' if options.sky_output else ''
    yield f'{"output:":14}{options.output}, {unit}{factor}{focal}{sky}'
    confidence = 'of the difference to the mirror image' if options.flip else 'none'
    yield f'{"confidence:":14}{confidence}'
    obstacle = find_obstacle(external)
    needed = f'with scale.mode {" or ".join(AFFINE_MODES)}' if options.is_affine else 'yes'
    yield f'{"live:":14}{obstacle or needed}'


def _describe_exported(exported: Exported) -> Iterator[str]:
    """What an exported file holds, and its difference to float32 torch on this machine."""
    info, (batch, _, height, width) = exported.info, exported.shape
    yield f'{exported.path}: exported from checkpoint {info.name!r}, for {exported.library}'
    yield f'{"licence:":14}{info.licence or "not stated"}'
    if info.restriction:
        yield f'{"careful:":14}{info.restriction}'
    yield f'{"input:":14}{width}x{height}, {batch or "any number"} at a time'
    own = exported.precision
    here = '' if exported.computed == own else f', computed in {exported.computed} here'
    yield f'{"precision:":14}{own}{here}'
    yield f'{"depth:":14}{"metric" if info.output.metric else "relative: needs a scale"}'
    yield f'{"parity:":14}{exported.check()}'


def _values(options: NetworkOptions) -> str:
    mean, std = (', '.join(f'{one:g}' for one in values) for values in (options.mean, options.std))
    return f'0 to {options.input_max:g}, less ({mean}), over ({std})'


def _describe_bag(path: Path) -> Iterator[str]:
    from psd_depth_ros.data.bags import BagReader

    with BagReader(path) as bag:
        seconds = (bag.end_ns - bag.start_ns) / 1e9
        yield f'  from {bag.start_ns / 1e9:.3f} s, {seconds:.1f} s long'
        width = max(len(name) for name in bag.topics)
        for name, info in bag.topics.items():
            rate = f'{(info.count - 1) / seconds:7.1f} Hz' if seconds and info.count > 1 else ''
            yield f'  {name:{width}}  {info.count:6} {rate:>10}  {info.msgtype}'
        for note in bag.notes:
            yield f'{"note:":13}{note}'


def _describe_uncalibrated(path: Path) -> Iterator[str]:
    """Description of images without a calibration; empty where they cannot be read."""
    from psd_depth_ros.data.open import open_frames

    try:
        with open_frames(path, horizontal_fov_deg=_ANY_FOV_DEG) as source:
            frame = next(iter(source.frames()), None)
            if frame is not None:
                yield f'{"frames:":13}{_describe_count(source)}, {_describe_frame(frame)}'
    except PsdDepthError:
        return


def _describe_count(source: FrameSource) -> str:
    """Number and mean rate of the frames, according to the recording."""
    rate = f', {source.rate_hz:.1f} Hz' if source.rate_hz else ''
    return f'{source.count}{rate}'


def _describe_camera(source: FrameSource) -> Iterator[str]:
    frame = next(iter(source.frames()), None)
    if frame is None:
        raise PsdDepthError(f'{source.path} holds no images')
    for label, name in (('image', 'image_topic'), ('camera info', 'camera_info_topic')):
        if getattr(source, name, None):
            yield f'{label + ":":13}{getattr(source, name)}'
    yield f'{"frames:":13}{_describe_count(source)}, {_describe_frame(frame)}'
    yield from _describe_lens(frame.camera, source.image_topic)
    if source.skipped:
        yield f'{"skipped:":13}{len(source.skipped)} before it: {source.skipped[0].detail}'


def _describe_frame(frame: TimedFrame) -> str:
    height, width = frame.rgb.shape[:2]
    pose = 'with poses' if frame.pose is not None else 'without poses'
    return f'{width}x{height}, frame_id {frame.frame_id!r}, {pose}'


def _describe_lens(camera: Camera, image_topic: str = '') -> Iterator[str]:
    from psd_depth_ros.geometry.view import describe_lens, describe_view, find_doubts

    view = camera.rectified()
    yield f'{"camera:":13}{describe_lens(camera)}'
    if not camera.is_rectified:
        yield (
            f'{"rectified:":13}fx {view.fx:.2f} fy {view.fy:.2f} cx {view.cx:.2f} cy {view.cy:.2f}'
        )
        yield f'{"view:":13}{describe_view(camera)}'
    for doubt in find_doubts(camera, image_topic):
        yield f'{"careful:":13}{doubt}'
