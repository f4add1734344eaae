"""Part `files`: hostile files through the readers of the package, each in its own small folder.

Checkpoints, recipes, bags of three formats, calibrations, run folders, networks of others. A file
begins valid, and is changed as bytes, as text, or as a value with a checksum that is right again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import replace
import importlib.util
import io
import json
import math
from pathlib import Path
import random
import shutil
import tempfile
from typing import Any

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Rosbag1Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.typesys import get_typestore, Stores
from soak_cases import Check, fork, run_cases, wait_for, WrongError
from soak_kills import render, TINY_RUN
import torch
import yaml

from psd_depth_ros.checkpoint import (
    CheckpointInfo,
    InputInfo,
    load_checkpoint,
    OutputInfo,
    pack,
    save_checkpoint,
    unpack,
)
from psd_depth_ros.cli.main import main
from psd_depth_ros.config import dump
from psd_depth_ros.data.bags import BagWriter
from psd_depth_ros.data.calibration_file import load_camera
from psd_depth_ros.data.open import open_frames
from psd_depth_ros.errors import PsdDepthError, SettingsError
from psd_depth_ros.external.open import open_depth_network
from psd_depth_ros.finetune.folder import FinetuneFolder
from psd_depth_ros.finetune.run import finetune
from psd_depth_ros.networks import Architecture, DepthModel, load_model
from psd_depth_ros.training.logging import CsvLog
from psd_depth_ros.training.recipe import find_recipe, read_finetune_recipe, read_recipe
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.state import read_state

COUNT = 500
TINY = Architecture(decoder_channels=(16, 16, 16, 16), bins=8, token_width=32, blocks=1)
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 10**30, -0.0, 1e-320, 1e308, math.nan, math.inf, '', 'a',
    '../../../etc/passwd', '/dev/zero', '/dev/stdin', 'x' * 100_000, '\x00', '\ud800', [], {},
    [[]], {'': {}}, [0] * 10_000, '!!python/object/apply:os.system [true]',
)  # fmt: skip
YAML_BOMB = 'a: &a [x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'{new}: &{new} [*{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}, *{old}]\n'
    for old, new in zip('abcdefgh', 'bcdefghi', strict=True)
)
YAML_TAGS = (
    '!!python/object/apply:os.system [touch {flag}]\n',
    'a: !!python/name:os.system\n', 'a: !!binary "////"\n', '%YAML 9.9\n---\na: 1\n',
    'a: !!set {1: 2}\n', 'a: &a\n  b: *a\n', '? [1]\n: 2\n', 'a: 1\na: 2\n',
    '[' * 3000 + ']' * 3000, '{a: ' * 3000 + '1' + '}' * 3000, 'a: ' + '9' * 5000 + '\n',
    'a: 1e999999999\n', 'a: 1:1:1:1:1:1:1\n', '<<: [1]\n', '\ufeffa: 1\n', 'a: 1\n---\nb: 2\n',
)  # fmt: skip


def write_tiny_checkpoint(path: Path, seed: int) -> None:
    """Random weights of a tiny network that calls itself metric."""
    torch.manual_seed(seed)
    info = CheckpointInfo(
        'tiny',
        dump(TINY),
        input=InputInfo(32, 64),
        output=OutputInfo(metric=True, canonical_focal_px=80.0),
    )
    save_checkpoint(path, info, DepthModel(TINY).state_dict())


def run_files(count: int, seed: int, end_s: float) -> dict[str, Any]:
    """Open `count` files, or those until the monotonic clock reads `end_s`."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        return run_cases(lambda: make_check(Path(folder)), count, seed, end_s).summary()


def make_check(folder: Path) -> Check:
    """The check of one file, of the kinds in turn."""
    valid, place = folder / 'valid', folder / 'case'
    if not valid.exists():
        valid.mkdir()
        for write in WRITERS:
            write(valid)
    flag = folder / 'executed'
    kinds = [*KINDS]
    if importlib.util.find_spec('onnxruntime') is None:
        kinds.remove('network')

    def check(number: int, draw: random.Random) -> str:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        kind = kinds[number % len(kinds)]
        change, read = KINDS[kind]
        is_valid = draw.random() < 0.05
        path = change(draw, valid, place, is_valid, flag)
        try:
            found = read(path)
        except PsdDepthError as error:
            if is_valid:
                raise WrongError(f'a valid {kind} was refused: {error}') from error
            return f'{kind}: refused'
        if flag.exists():
            raise WrongError(f'{path} was executed')
        return f'{kind}: {found or "read"}'

    return check


# Changes of bytes, texts and values.


def break_bytes(draw: random.Random, content: bytes) -> bytes:
    """Flip, cut, repeat, or put a large number somewhere."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        way, at = draw.randrange(6), draw.randrange(len(data) or 1)
        if draw.random() < 0.5:
            at = draw.randrange(min(len(data), 256) or 1)  # headers are at the start
        if way == 0:
            data[at : at + 1] = draw.randbytes(1)
        elif way == 1:
            del data[at:]
        elif way == 2:
            size, order = draw.choice((4, 8)), draw.choice(('little', 'big'))
            number = draw.choice((0, 1, 2**31 - 1, 2**32 - 1, 10**6, 2**20))
            data[at : at + size] = number.to_bytes(size, order)
        elif way == 3:
            data[at:at] = data[draw.randrange(len(data) or 1) :][: draw.choice((1, 50, 4000))]
        elif way == 4:
            del data[at : at + draw.choice((1, 8, 300))]
        else:
            for _ in range(30):
                if data:
                    data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def break_value(draw: random.Random, value: Any) -> Any:
    """The same value with one of its parts replaced, removed or named otherwise."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        name = draw.choice(sorted(value, key=str))
        changed = dict(value)
        way = draw.random()
        if way < 0.15:
            del changed[name]
        elif way < 0.25:
            changed[draw.choice(('', 'unknown', '\u202e', '__class__'))] = changed.pop(name)
        else:
            changed[name] = break_value(draw, value[name])
        return changed
    if isinstance(value, list) and value and draw.random() < 0.8:
        place = draw.randrange(len(value))
        return [*value[:place], break_value(draw, value[place]), *value[place + 1 :]]
    return draw.choice(VALUES)


def break_text(draw: random.Random, text: str, flag: Path) -> bytes:
    """A YAML or JSON text with something in it that is neither, or too much."""
    way = draw.randrange(5)
    if way == 0:
        return YAML_BOMB.encode()
    if way == 1:
        return draw.choice(YAML_TAGS).replace('{flag}', str(flag)).encode('utf-8')
    if way == 2:
        return (text + draw.choice(YAML_TAGS).replace('{flag}', str(flag))).encode('utf-8')
    if way == 3:
        lines = text.splitlines(keepends=True)
        draw.shuffle(lines)
        return ''.join(lines).encode()
    return break_bytes(draw, text.encode())


def _broken_yaml(draw: random.Random, text: str, flag: Path) -> bytes:
    if draw.random() < 0.5:
        return break_text(draw, text, flag)
    value = yaml.safe_load(text)
    for _ in range(draw.randint(1, 3)):
        value = break_value(draw, value)
    return yaml.safe_dump(value, allow_unicode=True).encode('utf-8', 'surrogatepass')


# Kinds: how a valid file is written, changed, and read.


def _write_checkpoint(valid: Path) -> None:
    write_tiny_checkpoint(valid / 'tiny.safetensors', 0)


def _change_checkpoint(
    draw: random.Random, valid: Path, place: Path, is_valid: bool, _flag: Path
) -> Path:
    path, content = place / 'a.safetensors', (valid / 'tiny.safetensors').read_bytes()
    if not is_valid and draw.random() < 0.3:
        content = break_bytes(draw, content)
    elif not is_valid:
        tensors, metadata = unpack(content)
        metadata.pop('sha256')
        if draw.random() < 0.7:
            (key,) = metadata
            value = json.loads(metadata[key])
            for _ in range(draw.randint(1, 2)):
                value = break_value(draw, value)
            metadata[key] = json.dumps(value)
        else:
            name = draw.choice(sorted(tensors))
            tensor = tensors.pop(name)
            new = draw.choice((
                None, tensor * math.nan, tensor.half(), tensor.int(), tensor.flatten()[:1],
                torch.zeros(0), torch.zeros(()), tensor.float() * 0 + 1e38,
            ))  # fmt: skip
            if new is not None:
                tensors[draw.choice((name, 'other'))] = new.contiguous()
        content = pack(tensors, metadata)
    path.write_bytes(content)
    return path


def _read_checkpoint(path: Path) -> str:
    _command('inspect', str(path))
    load_model(load_checkpoint(path))
    return ''


def _change_recipe(
    draw: random.Random, _valid: Path, place: Path, is_valid: bool, flag: Path
) -> Path:
    source = find_recipe(draw.choice(('psd', 'baseline', 'ss_mde', 'starter', 'finetune')))
    text = source.read_text()
    path = place / 'recipe.yaml'
    path.write_bytes(text.encode() if is_valid else _broken_yaml(draw, text, flag))
    return path


def _read_recipe(path: Path) -> str:
    with suppress(PsdDepthError):
        read_finetune_recipe(path)
    read_recipe(path)
    return ''


def _write_calibrations(valid: Path) -> None:
    matrix = [50.0, 0.0, 47.5, 0.0, 50.0, 31.5, 0.0, 0.0, 1.0]
    d = [0.1, -0.05, 0.0, 0.0, 0.0]
    projection = [50.0, 0, 47.5, 0, 0, 50.0, 31.5, 0, 0, 0, 1.0, 0]
    ros = {
        'image_width': 96, 'image_height': 64, 'camera_name': 'cam',
        'camera_matrix': {'rows': 3, 'cols': 3, 'data': matrix},
        'distortion_model': 'plumb_bob',
        'distortion_coefficients': {'rows': 1, 'cols': 5, 'data': d},
        'rectification_matrix': {'rows': 3, 'cols': 3, 'data': [1, 0, 0, 0, 1, 0, 0, 0, 1]},
        'projection_matrix': {'rows': 3, 'cols': 4, 'data': projection},
    }  # fmt: skip
    simple = {'fx': 50.0, 'fy': 50.0, 'cx': 47.5, 'cy': 31.5, 'width': 96, 'height': 64}
    lens = {'distortion_model': 'equidistant', 'distortion': [0.1, 0.0, 0.0, 0.0]}
    kalibr = {
        'cam0': {
            'camera_model': 'pinhole', 'intrinsics': [50.0, 50.0, 47.5, 31.5],
            'distortion_model': 'radtan', 'distortion_coeffs': [0.1, 0.0, 0.0, 0.0],
            'resolution': [96, 64],
        }
    }  # fmt: skip
    for name, value in {'ros': ros, 'simple': {**simple, **lens}, 'kalibr': kalibr}.items():
        (valid / f'{name}.yaml').write_text(yaml.safe_dump(value))


def _change_calibration(
    draw: random.Random, valid: Path, place: Path, is_valid: bool, flag: Path
) -> Path:
    text = (valid / draw.choice(('ros.yaml', 'simple.yaml', 'kalibr.yaml'))).read_text()
    path = place / draw.choice(('camera.yaml', 'ost.txt', 'camera.json'))
    path.write_bytes(text.encode() if is_valid else _broken_yaml(draw, text, flag))
    return path


def _read_calibration(path: Path) -> str:
    camera = load_camera(path)
    if not (camera.fx > 0 and camera.fy > 0 and camera.width > 0 and camera.height > 0):
        raise WrongError(f'a camera without focal length or size: {camera}')
    return ''


def _write_bags(valid: Path) -> None:
    mcap, packed = valid / 'drive.mcap', valid / 'packed.mcap'
    render(mcap)
    sqlite, old = valid / 'sqlite', valid / 'old.bag'
    new_types, old_types = get_typestore(Stores.ROS2_JAZZY), get_typestore(Stores.ROS1_NOETIC)
    with (
        AnyReader([mcap]) as reader,
        BagWriter(packed, 'zstd') as zstd,
        Rosbag2Writer(sqlite, version=9, storage_plugin=StoragePlugin.SQLITE3) as rosbag2,
        Rosbag1Writer(old) as rosbag1,
    ):
        known: dict[str, Any] = {}
        for connection, time_ns, data in reader.messages():
            topic, kind = connection.topic, connection.msgtype
            if topic not in known:
                known[topic] = (
                    rosbag2.add_connection(topic, kind, typestore=new_types),
                    rosbag1.add_connection(topic, kind, typestore=old_types)
                    if kind in old_types.types else None,
                )  # fmt: skip
            newer, older = known[topic]
            zstd.write_raw(topic, kind, data, time_ns)
            rosbag2.write(newer, time_ns, data)
            if older is not None:
                with suppress(Exception):  # types that ROS 1 has with other fields
                    rosbag1.write(older, time_ns, bytes(new_types.cdr_to_ros1(data, kind)))
    shutil.copy(sqlite / 'sqlite.db3', valid / 'drive.db3')


def _change_bag(draw: random.Random, valid: Path, place: Path, is_valid: bool, flag: Path) -> Path:
    name = draw.choice(('drive.mcap', 'packed.mcap', 'drive.db3', 'old.bag', 'sqlite'))
    path = place / name
    if name == 'sqlite':
        shutil.copytree(valid / name, path)
        broken = path / 'metadata.yaml'
        if not is_valid:
            broken.write_bytes(_broken_yaml(draw, broken.read_text(), flag))
        return path
    content = (valid / name).read_bytes()
    path.write_bytes(content if is_valid else break_bytes(draw, content))
    return path


def _read_bag(path: Path) -> str:
    _command('inspect', str(path), '--quick')
    count = 0
    with open_frames(path) as source:
        for frame in source.frames():
            if frame.rgb.shape[2:] != (3,):
                raise WrongError(f'a frame of shape {frame.rgb.shape}')
            count += 1
    return 'read' if count else 'no frames'


def _write_run(valid: Path) -> None:
    """A fine-tuning that was stopped after its second step."""
    settings = replace(TINY_RUN, bags=(str(valid / 'drive.mcap'),), output=str(valid / 'run'))
    asked = iter(range(100))

    def stop() -> bool:
        return (valid / 'run' / 'training' / 'state').is_dir() and next(asked) >= 2

    wait_for(fork(lambda: finetune(settings, stop=stop)))


def _change_run(draw: random.Random, valid: Path, place: Path, is_valid: bool, flag: Path) -> Path:
    run = place / 'run'
    shutil.copytree(valid / 'run', run)
    files = [path for path in sorted(run.rglob('*')) if path.is_file()]
    for path in draw.sample(files, draw.randint(1, 3)):
        if is_valid:
            break
        way = draw.randrange(4)
        if way == 0:
            path.unlink()
        elif way == 1 and path.suffix == '.json':
            value = break_value(draw, json.loads(path.read_text()))
            path.write_text(json.dumps(value))
        elif way == 2:
            path.unlink()
            path.symlink_to(draw.choice(('/nowhere', str(run))))
        else:
            path.write_bytes(break_bytes(draw, path.read_bytes()))
    return run


def _read_run(run: Path) -> str:
    """What a resume reads before it trains, then what `share` reads."""
    folder = FinetuneFolder(run, resume=True)
    training = RunFolder(folder.training)
    try:
        training.claim(resume=True)
        with suppress(SettingsError):  # the run of nobody: read, and not the same
            read_state(training.states, {})
        CsvLog(folder.training / 'log.csv').truncate(2)
    finally:
        training.release()
        folder.close()
    load_checkpoint(folder.best)
    _command('package', str(run), '--output', str(run.with_name('shared')))
    return ''


def _resume_run(run: Path) -> str:
    """All that a resume does before its first step."""
    drive = run.parents[1] / 'valid' / 'drive.mcap'
    settings = replace(TINY_RUN, bags=(str(drive),), output=str(run))
    finetune(settings, resume=True, stop=lambda: True)
    return ''


def _write_network(valid: Path) -> None:
    """An ONNX network that gives the first colour, with its options beside it."""
    from onnx import helper, save, TensorProto

    nodes = [
        helper.make_node('Constant', [], ['zero'], value_ints=[0]),
        helper.make_node('Gather', ['image', 'zero'], ['depth'], axis=1),
    ]
    given = helper.make_tensor_value_info('image', TensorProto.FLOAT, (1, 3, 4, 6))
    result = helper.make_tensor_value_info('depth', TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, 'made', [given], [result])
    opsets = [helper.make_opsetid('', 17)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=9), str(valid / 'net.onnx'))


def _change_network(
    draw: random.Random, valid: Path, place: Path, is_valid: bool, flag: Path
) -> Path:
    path, content = place / 'net.onnx', (valid / 'net.onnx').read_bytes()
    options = 'output: depth\nname: mine\nlicence: MIT\nmean: [0.5, 0.5, 0.5]\n'
    if not is_valid and draw.random() < 0.5:
        content = break_bytes(draw, content)
    elif not is_valid:
        options = _broken_yaml(draw, options, flag).decode('utf-8', 'surrogateescape')
    path.write_bytes(content)
    path.with_suffix('.yaml').write_bytes(options.encode('utf-8', 'surrogateescape'))
    return path


def _read_network(path: Path) -> str:
    opened = open_depth_network(str(path))
    opened.network.run(np.zeros((4, 6, 3), np.uint8))
    return ''


def _command(*arguments: str) -> None:
    """What `psd-depth` makes of it: a report, or one line of error."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
        code = main(arguments)
    if code not in (0, 2) or 'Traceback' in said.getvalue():
        raise WrongError(f'{arguments[0]} ended with {code}: {said.getvalue()}')


WRITERS = (_write_checkpoint, _write_calibrations, _write_bags, _write_run, _write_network)
Change = Callable[[random.Random, Path, Path, bool, Path], Path]
KINDS: dict[str, tuple[Change, Callable[[Path], str]]] = {
    'checkpoint': (_change_checkpoint, _read_checkpoint),
    'recipe': (_change_recipe, _read_recipe),
    'calibration': (_change_calibration, _read_calibration),
    'bag': (_change_bag, _read_bag),
    'run': (_change_run, _read_run),
    'network': (_change_network, _read_network),
    'resume': (_change_run, _resume_run),
}
