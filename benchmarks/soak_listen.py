"""Part `listen`: on which addresses processes of the package listen with the settings they have.

ROS discovers on this machine only, as the Makefile and the commands set it; what DDS itself binds
is told apart, for it is the middleware's. Everything else may listen on loopback at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
import importlib.util
import ipaddress
import os
from pathlib import Path
import re
import struct
import tempfile
import time
from typing import Any

from processes import Process, start, unused_domain
from soak_files import write_tiny_checkpoint
from soak_kills import render, TINY_RUN

TCP_LISTENS, UDP_BOUND = '0A', '07'
PATIENCE_S, LISTENS_S, PERIOD_S = 40.0, 8.0, 0.25


def run_listen(_count: int, _seed: int, _end_s: float) -> dict[str, Any]:
    """Addresses beyond loopback by process: `dds` over UDP, and `findings`, which are others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drive, weights = folder / 'drive.mcap', folder / 'tiny.safetensors'
        render(drive)
        write_tiny_checkpoint(weights, 0)
        viewer = ['-m', 'psd_depth_ros.ros.rerun_viewer']
        programs = {
            'depth_node': ['-m', 'psd_depth_ros.ros.depth_node.node', '--ros-args', '-p',
                           f'checkpoint:={weights}'],
            'finetune_node': ['-m', 'psd_depth_ros.ros.finetune_node'],
            'replay_node': ['-m', 'psd_depth_ros.ros.replay_node', '--ros-args', '-p',
                            f'recording:={drive}'],
            'recorder': ['-m', 'psd_depth_ros.ros.recorder', '--ros-args', '-p',
                         f'output:={folder / "out.mcap"}', '-p', 'topics:=["/image"]'],
            'finetune': ['-m', 'psd_depth_ros.cli.main', 'finetune', str(drive), '--output',
                         str(folder / 'run'), '--steps', '100', '--device', 'cpu',
                         *(f'--set={one}' for one in TINY_RUN.changes)],
            **({'rerun_viewer': viewer} if importlib.util.find_spec('rerun') else {}),
        }  # fmt: skip
        found = {
            name: _look(start(name, arguments, unused_domain(), folder / 'log', True))
            for name, arguments in programs.items()
        }
        log = (folder / 'log').read_text(errors='replace')
    findings = [
        f'{name} listens on {one}'
        for name, ones in found.items()
        for one in sorted(ones)
        if not one.startswith('udp')
    ]
    return {
        'processes': list(programs),
        'dds': {name: len(ones) for name, ones in found.items() if ones},
        'findings': findings,
        **({'log_tail': log[-2000:]} if findings else {}),
    }


def _look(process: Process) -> set[str]:
    """All that a process and its children were seen to listen on, beyond loopback.

    For some seconds after its first socket, or for PATIENCE_S where it has none.
    """
    seen: set[str] = set()
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and process.handle.poll() is None:
        for pid in _family(process.handle.pid):
            with suppress(OSError):  # it has ended meanwhile
                bound = list(listening(pid))
                seen |= {text for text, is_local in bound if not is_local}
                if bound:
                    end = min(end, time.monotonic() + LISTENS_S)
        time.sleep(PERIOD_S)
    process.stop()
    return seen


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    pids = [pid]
    for one in pids:
        for task in Path(f'/proc/{one}/task').glob('*/children'):
            pids += [int(text) for text in task.read_text().split()]
    return pids


def listening(pid: int) -> Iterator[tuple[str, bool]]:
    """Where a process takes TCP connections or UDP packets, and whether that is loopback."""
    inodes = set()
    for entry in Path(f'/proc/{pid}/fd').glob('*'):
        try:
            match = re.fullmatch(r'socket:\[(\d+)\]', os.readlink(entry))
        except OSError:
            continue
        inodes |= {match[1]} if match else set()
    for kind, state in (('tcp', TCP_LISTENS), ('udp', UDP_BOUND)):
        for family in ('', '6'):
            for line in Path(f'/proc/{pid}/net/{kind}{family}').read_text().splitlines()[1:]:
                fields = line.split()
                if fields[9] not in inodes or fields[3] != state:
                    continue
                address, port = _address(fields[1])
                yield f'{kind}{family} {address} port {port}', address.is_loopback


def _address(text: str) -> tuple[Any, int]:
    """`0100007F:1F90` is 127.0.0.1 port 8080: words in the order of the machine."""
    words, port = text.split(':')
    packed = b''.join(
        struct.pack('=I', int(words[at : at + 8], 16)) for at in range(0, len(words), 8)
    )
    address = ipaddress.ip_address(packed)
    mapped = getattr(address, 'ipv4_mapped', None)
    return mapped or address, int(port, 16)
