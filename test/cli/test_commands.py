"""Commands as a person calls them: what they print, write and return."""

from dataclasses import asdict, replace
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from psd_depth_ros.checkpoint import (
    CheckpointInfo,
    InputInfo,
    load_checkpoint,
    OutputInfo,
    save_checkpoint,
)
from psd_depth_ros.cli.main import COMMANDS, main, make_parser
from psd_depth_ros.cli.options import build_settings
from psd_depth_ros.cli.replay import node_arguments
from psd_depth_ros.data.bags import BagReader, BagWriter
from psd_depth_ros.data.open import open_frames
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.networks.depth_model import DepthModel, preset
from psd_depth_ros.replay.offline import RunSettings
from psd_depth_ros.synth import WorldSettings
from psd_depth_ros.training.recipe import change_recipe, find_recipe, read_recipe


@pytest.fixture(scope='module')
def drive(tmp_path_factory):
    path = tmp_path_factory.mktemp('cli') / 'drive.mcap'
    assert main(['synth', str(path), '--frames', '3', '--size', '96x64', '--seed', '4']) == 0
    return path


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """Give a small network of random weights: what it says is nonsense, but the same each time."""
    path = tmp_path_factory.mktemp('cli') / 'random.safetensors'
    torch.manual_seed(0)
    architecture = preset('lite')
    info = CheckpointInfo(
        'random',
        asdict(architecture),
        input=InputInfo(height=64, width=96),
        output=OutputInfo(metric=True),
    )
    save_checkpoint(path, info, DepthModel(architecture).state_dict())
    return path


def run(recording, output, checkpoint, *more):
    trusting = ('--set', 'points.min_confidence=0', '--set', 'depth.min_confidence=0')
    options = ['--checkpoint', checkpoint, '--backend', 'torch', *trusting, *more]
    return main(['run', *map(str, [recording, '--output', output, *options])])


def test_synth_says_what_it_wrote(drive, capsys):
    with BagReader(drive) as bag:
        assert bag.topics['/camera/image'].count == 3
    assert main(['synth', str(drive.with_name('b.mcap')), '--frames', '1', '--jpeg']) == 0
    assert '1 frames of a street (clear), seed 0, 640x480' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--size', '640'], '--size is 640, expected WIDTHxHEIGHT'),
        (['--frames', '0'], '--frames is 0'),
        (['--jpeg', '300'], '--jpeg is 300'),
        (['--kind', 'moon'], "kind.*'moon'"),
        (['--set', 'heigth=3'], "unknown setting 'heigth'"),
        (['--set', 'height'], 'expected NAME=VALUE'),
    ],
)
def test_synth_refuses(tmp_path, capsys, options, message):
    assert main(['synth', str(tmp_path / 'a.mcap'), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith('psd-depth synth: error: ')
    assert error.count('\n') == 1
    assert re.search(message, error)
    assert not list(tmp_path.iterdir())


def test_inspect_lists_topics_and_camera(drive, capsys):
    assert main(['inspect', str(drive)]) == 0
    printed = capsys.readouterr().out
    assert '/ground_truth/depth' in printed
    assert 'camera info: /camera/camera_info' in printed
    assert "96x64, frame_id 'camera_optical', with poses" in printed
    assert 'distortion none' in printed


def test_inspect_of_a_bag_without_a_camera_is_no_failure(drive, tmp_path, capsys):
    with BagReader(drive) as bag, BagWriter(tmp_path / 'odom.mcap') as writer:
        for item in bag.messages(['/odom']):
            writer.write_raw(item.topic, item.msgtype, item.cdr, item.timestamp_ns)
    assert main(['inspect', str(tmp_path / 'odom.mcap')]) == 0
    assert 'none that can be used: bag' in capsys.readouterr().out
    assert main(['inspect', str(tmp_path / 'odom.mcap'), '--image-topic', '/odom']) == 2


def test_inspect_tells_what_a_checkpoint_is(checkpoint, tmp_path, capsys):
    assert main(['inspect', str(checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert "checkpoint 'random', id " in printed
    assert '96x64' in printed
    assert 'metric, ' in printed
    assert 'GMAC, states no size but 6144 px' in printed
    assert 'licence:      not stated' in printed
    assert 'careful' not in printed
    known = load_checkpoint(checkpoint)
    data = ({'name': 'drives', 'licence': 'CC BY-NC 4.0'},)
    info = replace(known.info, licence='CC-BY-4.0', data=data)
    save_checkpoint(tmp_path / 'research.safetensors', info, known.tensors)
    assert main(['inspect', str(tmp_path / 'research.safetensors')]) == 0
    printed = capsys.readouterr().out
    assert 'licence:      CC-BY-4.0' in printed
    assert 'careful:      for research only: drives (CC BY-NC 4.0)' in printed
    assert main(['inspect', 'default']) == 0
    assert "lite.safetensors: checkpoint 'lite'" in capsys.readouterr().out
    (tmp_path / 'bad.safetensors').write_bytes(b'nothing of the kind')
    assert main(['inspect', str(tmp_path / 'bad.safetensors')]) == 2
    assert 'is not a whole safetensors file' in capsys.readouterr().err


def test_a_size_that_was_not_trained_at_is_told_once(drive, checkpoint, tmp_path, capsys):
    assert run(drive, tmp_path / 'a.mcap', checkpoint, '--pixel-budget', '6144') == 0
    assert 'careful' not in capsys.readouterr().err
    assert run(drive, tmp_path / 'b.mcap', checkpoint, '--pixel-budget', '1024') == 0
    error = capsys.readouterr().err
    assert error.count('careful: pixel_budget is 1024, and the checkpoint states no size but') == 1
    assert '6144 px' in error
    depths = []
    for name in 'ab':
        with BagReader(tmp_path / f'{name}.mcap') as bag:
            depths.append(bytes(next(bag.messages(['/depth/image_rect'])).message.data))
    assert len(depths[0]) == len(depths[1])
    assert depths[0] != depths[1], 'another input gives another depth'
    assert run(drive, tmp_path / 'c.mcap', checkpoint, '--pixel-budget', '5000000') == 2
    assert 'pixel_budget is 5000000, expected 1024 (32x32) to' in capsys.readouterr().err


def test_run_writes_every_frame_and_the_same_bytes(drive, checkpoint, tmp_path, capsys):
    outputs = [tmp_path / 'first.mcap', tmp_path / 'second.mcap']
    for output in outputs:
        assert run(drive, output, checkpoint) == 0
    assert '3 frames in, 3 out, 0 dropped' in capsys.readouterr().out
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    with BagReader(outputs[0]) as bag:
        assert {info.count for info in bag.topics.values()} == {3}
        assert '/points' in bag.topics


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--image-topic', '/nothing'], 'topic /nothing is not in bag'),
        (['--camera', 'gone.yaml'], 'calibration gone.yaml cannot be read'),
        (['--camera', 'gone.yaml', '--fov', '60'], 'give one of them'),
        (['--set', 'points.decimation=0'], 'points.decimation'),
        (['--checkpoint', 'gone.safetensors'], 'no such checkpoint file'),
        (['--device', 'cuda:77'], 'cuda:77'),
        (['--topics', 'depth,pionts'], 'topics are pionts, expected some of depth,'),
    ],
)
def test_run_refuses(drive, checkpoint, tmp_path, capsys, options, message):
    assert run(drive, tmp_path / 'out.mcap', checkpoint, *options) == 2
    error = capsys.readouterr().err
    assert error.startswith('psd-depth run: error: ')
    assert message in error
    assert not list(tmp_path.iterdir())


def test_run_writes_over_a_file_only_when_told_to(drive, checkpoint, tmp_path, capsys):
    output = tmp_path / 'out.mcap'
    output.write_bytes(b'what took an hour')
    assert run(drive, output, checkpoint) == 2
    assert 'is there already (0.0 MB); name another file, or replace it with --overwrite' in (
        capsys.readouterr().err
    )
    assert main(['synth', str(output), '--frames', '1']) == 2
    assert output.read_bytes() == b'what took an hour'
    assert run(drive, output, checkpoint, '--overwrite', '--topics', 'points,depth') == 0
    assert 'MB written to' in capsys.readouterr().out
    with BagReader(output) as bag:
        assert list(bag.topics) == ['/depth/image_rect', '/points']


def test_run_makes_a_video_to_look_at(drive, checkpoint, tmp_path, capsys):
    video = tmp_path / 'look.mp4'
    options = ['--checkpoint', str(checkpoint), '--backend', 'torch']
    assert main(['run', str(drive), '--preview', str(video), *options]) == 0
    assert f'MB written to {video}' in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [video]
    with open_frames(video, horizontal_fov_deg=60) as source, open_frames(drive) as recorded:
        frames = [frame.rgb for frame in source.frames()]
        first = next(recorded.frames()).rgb
    assert [frame.shape for frame in frames] == [(64, 192, 3)] * 3
    assert np.abs(frames[0][:, :96].astype(float) - first).mean() < 12
    assert main(['run', str(drive), *options]) == 2
    assert 'nothing is to be written; give --output' in capsys.readouterr().err


def test_run_says_what_was_lost(drive, checkpoint, tmp_path, capsys):
    cut = tmp_path / 'cut.mcap'
    cut.write_bytes(drive.read_bytes()[:-100_000])
    assert run(cut, tmp_path / 'out.mcap', checkpoint, '--compression', 'none') == 0
    assert re.search(r'note: .*cut\.mcap: it ends at byte .* cut short', capsys.readouterr().out)


def test_run_does_not_write_over_its_input(drive, checkpoint, capsys):
    before = drive.read_bytes()
    assert run(drive, drive, checkpoint) == 2
    assert 'is the recording' in capsys.readouterr().err
    assert drive.read_bytes() == before


def test_run_on_a_real_recording(real_recording, checkpoint, tmp_path):
    recording = real_recording('bags/kitti_avenue_40')
    outputs = [tmp_path / 'first.mcap', tmp_path / 'second.mcap']
    for output in outputs:
        assert run(recording, output, checkpoint, '--set', 'points.decimation=4') == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    with BagReader(recording) as bag:
        recorded = [item.message.header for item in bag.messages([bag.pick_image_topic()])]
    with BagReader(outputs[0]) as bag:
        for topic in ('/depth/image_rect', '/depth/camera_info', '/points'):
            written = [item.message.header for item in bag.messages([topic])]
            assert len(written) == 40
            assert [(h.stamp.sec, h.stamp.nanosec, h.frame_id) for h in written] == [
                (h.stamp.sec, h.stamp.nanosec, h.frame_id) for h in recorded
            ]


def test_a_missing_recording(capsys):
    assert main(['inspect', 'gone.mcap']) == 2
    assert 'recording gone.mcap is not there' in capsys.readouterr().err


def test_ctrl_c_is_130(monkeypatch, capsys):
    def interrupt(_options):
        raise KeyboardInterrupt

    monkeypatch.setattr('psd_depth_ros.cli.inspect.execute', interrupt)
    assert main(['inspect', 'x']) == 130
    assert 'stopped' in capsys.readouterr().err


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_leaves_no_file(tmp_path, number, code):
    command = [sys.executable, '-m', 'psd_depth_ros.cli.main', 'synth']
    options = [str(tmp_path / 'a.mcap'), '--frames', '100000', '--size', '32x32']
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == code, error
    assert 'Traceback' not in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as caught:
        make_parser().parse_args([command, '--help'])
    assert caught.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) > 8


@pytest.mark.parametrize('command', ['run', 'synth', 'train', 'finetune'])
def test_the_examples_of_set_are_settings_of_the_command(command, capsys):
    with pytest.raises(SystemExit):
        main([command, '--help'])
    words = ' '.join(capsys.readouterr().out.split())
    examples = re.search('change a setting, such as (.*?);', words)[1].split(' or ')
    if command == 'run':
        assert build_settings(RunSettings, examples) != RunSettings()
    elif command == 'synth':
        assert build_settings(WorldSettings, examples) != WorldSettings()
    else:
        recipe = read_recipe(find_recipe('psd' if command == 'train' else 'finetune'))
        assert change_recipe(recipe, examples, '--set') != recipe


def test_help_is_light():
    """The parser loads none of the big libraries, so `psd-depth --help` answers at once."""
    code = (
        'import sys; from psd_depth_ros.cli.main import make_parser; make_parser(); '
        'print([name for name in ("torch", "cv2", "numpy", "rosbags", "rclpy", "yaml") '
        'if name in sys.modules])'
    )
    found = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == '[]'


def test_bench_needs_the_source_tree(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['bench']) == 2
    assert 'where the source of psd_depth_ros is' in capsys.readouterr().err


def replay_options(*arguments):
    return make_parser().parse_args(['replay', *map(str, arguments)])


def test_replay_hands_its_options_to_the_node():
    options = replay_options(
        'my drive.mcap', '--rate', 2, '--loop', '--topics', '/y', '/n', '--fov', 60
    )
    arguments = node_arguments(options)
    assert arguments[::2] == ['-p'] * (len(arguments) // 2)
    given = dict(pair.split(':=') for pair in arguments[1::2])
    assert given == {
        'recording': '"my drive.mcap"',
        'rate': '2.0',
        'loop': 'true',
        'topics': '["/y", "/n"]',
        'horizontal_fov_deg': '60.0',
        'stamps': '"header"',
        'clock': 'true',
        'start_s': '0.0',
        'duration_s': '0.0',
        'wait_for_subscribers_s': '0.0',
    }


def test_replay_below_a_namespace_and_without_a_clock():
    arguments = node_arguments(replay_options('a.mcap', '--namespace', 'robot1/', '--no-clock'))
    assert arguments[-2:] == ['-r', '__ns:=/robot1']
    assert {'topic_prefix:="/robot1"', 'clock:=false'} < set(arguments)
    with pytest.raises(SettingsError, match='--namespace 1st: expected letters'):
        node_arguments(replay_options('a.mcap', '--namespace', '1st'))


def test_replay_refuses_before_ros_starts(capsys):
    assert main(['replay', 'gone.mcap']) == 2
    assert 'recording gone.mcap is not there' in capsys.readouterr().err


def test_replay_plays_to_the_end(drive, ros_domains):
    environment = os.environ | {
        'ROS_DOMAIN_ID': str(next(ros_domains)),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
    }
    command = [sys.executable, '-m', 'psd_depth_ros.cli.main', 'replay', str(drive), '--rate', '4']
    played = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert played.returncode == 0, played.stderr
    assert 'published' in played.stdout + played.stderr


@pytest.mark.parametrize('command', ['train', 'finetune'])
def test_threads_of_a_training_wait_asleep(tmp_path, command):
    """OpenMP reads this once, when torch is loaded."""
    code = (
        'import os, sys\n'
        'from psd_depth_ros.cli.main import main\n'
        'class Watch:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        '        if name == "torch":\n'
        '            print(os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"])\n'
        '            os._exit(3)\n'
        'sys.meta_path.insert(0, Watch())\n'
        f'main(["{command}", *sys.argv[1:]])\n'
    )
    options = {'train': ['starter'], 'finetune': ['gone.mcap']}[command]
    own = {'OMP_WAIT_POLICY', 'GOMP_SPINCOUNT'}
    environment = {key: value for key, value in os.environ.items() if key not in own}
    found = subprocess.run(
        [sys.executable, '-c', code, *options, '--output', str(tmp_path / 'run')],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert found.returncode == 3, found.stderr
    assert found.stdout.split()[-2:] == ['PASSIVE', '5000']


def test_a_command_of_an_earlier_version_says_what_takes_its_place(capsys):
    assert main(['ablate', '--output', 'run']) == 2
    said = capsys.readouterr().err
    assert 'ablate is no command any more; in a checkout, python -m tools.ablate' in said
