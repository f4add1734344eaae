"""Nothing phones home: no command reaches for anything outside this machine.

The demo, with the nodes, is watched in ros/test_demo_over_dds.py.
"""

import os
from pathlib import Path
import socket
import sys

import pytest
import torch

from psd_depth_ros.checkpoint import CheckpointInfo, InputInfo, OutputInfo, save_checkpoint
from psd_depth_ros.config import dump
from psd_depth_ros.networks import Architecture, DepthModel
from psd_depth_ros.replay.rendering import write_world
from psd_depth_ros.synth import World, WorldSettings

ROOT = Path(__file__).parent.parent
TINY = Architecture(decoder_channels=(16, 16, 16, 16), bins=8, token_width=32, blocks=1)
SMALL = (
    'pixel_budget=6144', 'batch=2', 'validate_every=1', 'preview_every=0', 'objective.patch=off',
    'objective.mix=off', 'data.triplets.held_out=0.3',
    'data.triplets.minimum_parallax=0.1',
)  # fmt: skip
COMMANDS = """
import sys
from psd_depth_ros.cli.main import main
drive, weights, output, *changes = sys.argv[1:]
assert main(['inspect', drive]) == 0
assert main(['run', drive, '--output', output + '.mcap', '--checkpoint', weights]) == 0
assert main(['finetune', drive, '--output', output, '--steps', '1', '--device', 'cpu',
             *(part for one in changes for part in ('--set', one))]) == 0
"""


def test_commands_reach_for_nothing_and_leave_no_trace_at_home(tmp_path, network_watch):
    drive, weights, home = (
        tmp_path / 'drive.mcap',
        tmp_path / 'tiny.safetensors',
        tmp_path / 'home',
    )
    home.mkdir()
    write_world(World(3, WorldSettings(width=96, height=64, frame_rate_hz=10.0)), drive, 20)
    torch.manual_seed(0)
    info = CheckpointInfo(
        'tiny',
        dump(TINY),
        input=InputInfo(64, 96),
        output=OutputInfo(metric=True, canonical_focal_px=80.0),
    )
    save_checkpoint(weights, info, DepthModel(TINY).state_dict())
    done, attempts = network_watch.run(
        [sys.executable, '-c', COMMANDS, str(drive), str(weights), str(tmp_path / 'out'), *SMALL],
        tmp_path / 'network',
        env={**os.environ, 'HOME': str(home), 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / 'out.mcap').is_file()
    assert (tmp_path / 'out' / 'best.safetensors').is_file()
    assert attempts == []
    written = [str(path.relative_to(home)) for path in home.rglob('*') if path.is_file()]
    assert not [name for name in written if 'intel' in name or 'openvino' in name], written


SEND = 'import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", (%r, %d))'


@pytest.mark.parametrize(
    ('code', 'attempt'),
    [
        (SEND % ('192.0.2.1', 443), 'socket.sendto 192.0.2.1'),
        ('import socket; socket.getaddrinfo("192.0.2.3", 80)', 'socket.getaddrinfo 192.0.2.3'),
        ('import os, sys; os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])',
         'socket.sendto 192.0.2.2'),
        (SEND % ('127.0.0.1', 9), None),
        (SEND % ('239.255.0.1', 7400), None),
    ],
)  # fmt: skip
def test_the_watch_sees_attempts_of_python(tmp_path, network_watch, code, attempt):
    other = SEND % ('192.0.2.2', 443)
    _, attempts = network_watch.run(
        [sys.executable, '-c', code, other], tmp_path / 'log', env={**os.environ}
    )
    seen = [one for one in attempts if one.startswith('socket.') and '239.' not in one]
    assert seen == ([attempt] if attempt else [])


def test_the_watch_sees_attempts_of_anything_else(tmp_path, network_watch):
    """Isolated Python (-I) has no hook, as a library in C has none."""
    for host, port in (('192.0.2.1', 443), ('127.0.0.1', 9), ('127.0.0.53', 53)):
        command = [sys.executable, '-I', '-c', SEND % (host, port)]
        log = tmp_path / f'{host}'
        _, attempts = network_watch.run(command, log)
        if log.read_text().startswith(network_watch.SHARED):
            pytest.skip('a network of its own is not permitted here')
        assert attempts == ([] if port == 9 else [f'sent to {host}:{port}'])


def test_usage_statistics_of_openvino_are_left_out_and_nothing_else_is_changed(needs_installed):
    needs_installed('openvino_telemetry')
    from psd_depth_ros.inference.conversion import import_openvino

    import_openvino()
    converter = sys.modules['openvino.tools.ovc.convert_impl']
    assert converter.tm.__name__.endswith('telemetry_stub')
    import openvino_telemetry  # for whoever wants it it is there

    assert openvino_telemetry.Telemetry
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize(
    ('protocol', 'attempt'),
    [(1, ''), (6, 'sent to 127.0.0.1:53'), (17, 'sent to 127.0.0.1:53')],
    ids=['icmp', 'tcp', 'udp'],
)
def test_only_tcp_and_udp_have_ports(network_watch, protocol, attempt):
    header = bytes([0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1])
    assert network_watch.attempted(header + bytes([3, 3, 0, 53])) == attempt
