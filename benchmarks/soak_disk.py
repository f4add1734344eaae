"""Part `disk`: the disk becomes full while a recorder, `psd-depth run` and a fine-tuning write.

On a tmpfs of some megabytes in a mount namespace of its own, or where that is not permitted with
files that may not grow beyond a limit (RLIMIT_FSIZE). What was saved before has to be there
afterwards, errors have names, and a fine-tuning goes on once there is space.
"""

from __future__ import annotations

import array
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
import ctypes
from dataclasses import replace
import io
import json
import os
from pathlib import Path
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any

from processes import start, unused_domain, wait_until
import rclpy
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from soak_cases import fork, wait_for
from soak_files import write_tiny_checkpoint
from soak_kills import cache_of, difference, render, result, TINY_RUN, tune, tune_in_child
import torch

from psd_depth_ros.cli.main import main
from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.finetune.folder import folder_state, NEW, UNFINISHED

COUNT = 60
DISK_MB = 256
IMAGE = 'sensor_msgs/msg/Image'
NEW_NAMESPACE, NEW_USER = 0x00020000, 0x10000000  # mounts and users, of sched.h
RECURSIVE_PRIVATE = 0x4000 | 0x40000  # of mount.h: what is mounted here is seen here only
_MESSAGE_BYTES = 1 << 20
_CHUNK_BYTES = 4 << 20  # of a bag that is written: what is lost of a recording at most


def run_disk(count: int, seed: int, end_s: float) -> dict[str, Any]:
    """Fill the disk `count` times, or until the monotonic clock reads `end_s`."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wait_for(fork(lambda: _run_in_child(folder, count, seed, end_s)))
        return json.loads((folder / 'figures.json').read_text())


def _run_in_child(folder: Path, count: int, seed: int, end_s: float) -> None:
    disk = folder / 'disk'
    disk.mkdir()
    way = 'tmpfs' if _mount_tmpfs(disk) else 'RLIMIT_FSIZE'
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    bench = Bench(folder, disk, way == 'tmpfs')
    outcomes, findings = Counter[str](), []
    for number in range(count):
        if time.monotonic() > end_s:
            break
        check = bench.checks[number % len(bench.checks)]
        name = check.__name__.removeprefix('check_')
        try:
            outcomes[f'{name}: {check(random.Random(f"{seed} {number}"))}'] += 1
        except (AssertionError, RuntimeError, PsdDepthError) as error:
            findings.append(f'case {number}, {name}: {error}')
            print(f'  FINDING {findings[-1]}', flush=True)
        bench.clear()
    figures = {'way': way, 'outcomes': dict(sorted(outcomes.items())), 'findings': findings}
    (folder / 'figures.json').write_text(json.dumps(figures))


class Bench:
    """What is written onto a small disk, beside all that lies elsewhere."""

    def __init__(self, folder: Path, disk: Path, is_tmpfs: bool) -> None:
        self._disk, self._is_tmpfs, self._folder = disk, is_tmpfs, folder
        self._drive, self._weights = folder / 'drive.mcap', folder / 'tiny.safetensors'
        render(self._drive)
        write_tiny_checkpoint(self._weights, 0)
        self._settings = replace(TINY_RUN, bags=(str(self._drive),))
        tune_in_child(self._settings, folder / 'whole')
        self._wanted = result(folder / 'whole')
        self._run_bytes = sum(
            path.stat().st_size
            for place in (folder / 'whole', cache_of(folder / 'whole'))
            for path in place.rglob('*')
            if path.is_file()
        )
        self.checks = (self.check_recorder, self.check_run, self.check_training)

    def clear(self) -> None:
        """Empty the disk, and the log."""
        (self._folder / 'log').unlink(missing_ok=True)
        for path in self._disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def check_recorder(self, draw: random.Random) -> str:
        """The recorder node: what was recorded until the disk was full can be read."""
        output = self._disk / 'out.mcap'
        shutil.copy(self._drive, output)  # an older recording
        older, domain = output.read_bytes(), unused_domain()
        room = draw.randint(5, 30) << 20
        with self._room(room):
            arguments = ['-m', 'psd_depth_ros.ros.recorder', '--ros-args', '-p',
                         f'output:={output}', '-p', f'topics:=["/image {IMAGE}"]']  # fmt: skip
            recorder = start('recorder', arguments, domain, self._folder / 'log', False)
            sent = self._publish_until_it_ends(domain, recorder.handle)
        recorder.stop()
        log = (self._folder / 'log').read_text()
        assert recorder.handle.returncode == 1, f'it ended with {recorder.handle.returncode}'
        assert 'cannot be written' in log, f'no error in {log[-500:]}'
        assert 'Traceback' not in log, log[-1500:]
        assert output.read_bytes() == older, 'the older recording has changed'
        count = _count_messages(self._disk / 'out_cut_1.mcap')
        wanted = (room - _CHUNK_BYTES) // _MESSAGE_BYTES - 1
        assert count >= min(wanted, sent), f'{count} of {sent} images in {room} bytes were kept'
        return 'kept'

    def check_run(self, draw: random.Random) -> str:
        """`psd-depth run`: an error in one line, and an older output that stays as it was."""
        output = self._disk / 'out.mcap'
        output.write_bytes(b'older')
        arguments = ['run', str(self._drive), '--output', str(output), '--checkpoint',
                     str(self._weights), '--device', 'cpu', '--quiet', '--overwrite']  # fmt: skip
        with (
            self._room(draw.randrange(1 << 19)),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()) as said,
        ):
            code = main(arguments)
        assert code == 2, f'it ended with {code}: {said.getvalue()}'
        assert 'cannot be written' in said.getvalue(), said.getvalue()
        assert output.read_bytes() == b'older', 'the older output has changed'
        return 'refused'

    def check_training(self, draw: random.Random) -> str:
        """A fine-tuning goes on from what was saved, and ends as one that had space."""
        run = self._disk / 'run'
        with self._room(draw.randrange(self._run_bytes)):
            wait_for(fork(lambda: self._tune_until_full(run)))
        said = (self._folder / 'said').read_text()
        state = folder_state(run)
        saved = [*(run / 'training' / 'state').glob('*.safetensors')]
        if said:
            assert state in (NEW, UNFINISHED), f'{state} after {said!r}'
            tune_in_child(self._settings, run)
        different = difference(result(run), self._wanted)
        assert not different, f'other {different} after {said!r}'
        return 'had room' if not said else 'resumed' if saved else 'began anew'

    def _tune_until_full(self, run: Path) -> None:
        try:
            tune(self._settings, run)
            said = ''
        except PsdDepthError as error:
            said = f'{type(error).__name__}: {error}'
        (self._folder / 'said').write_text(said)

    def _publish_until_it_ends(self, domain: int, process: subprocess.Popen[str]) -> int:
        """Publish images of a megabyte until a process has ended; how many."""
        context = Context()
        rclpy.init(context=context, domain_id=domain)
        node = Node('camera', context=context)
        publisher = node.create_publisher(Image, 'image', QoSProfile(depth=5))
        message = Image(data=array.array('B', bytes(_MESSAGE_BYTES)))
        sent = 0
        try:
            wait_until(publisher.get_subscription_count, 'the recorder')
            while process.poll() is None:
                publisher.publish(message)
                sent += 1
                time.sleep(0.05)
        finally:
            node.destroy_node()
            rclpy.shutdown(context=context)
        return sent

    @contextmanager
    def _room(self, room: int) -> Iterator[None]:
        """Leave so many bytes on the disk, or let no file become larger."""
        if not self._is_tmpfs:
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            return
        ballast = self._disk / '.ballast'
        ballast.write_bytes(bytes(max(shutil.disk_usage(self._disk).free - room, 0)))
        try:
            yield
        finally:
            ballast.unlink()


def _count_messages(path: Path) -> int:
    if not path.exists():
        return 0
    with BagReader(path) as bag:
        return sum(1 for _ in bag.messages())


def _mount_tmpfs(place: Path) -> bool:
    """A small file system that only this process and its children see; False where forbidden."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(NEW_NAMESPACE | (NEW_USER if user else 0)):
        return False
    if user:
        Path('/proc/self/setgroups').write_text('deny')
        Path('/proc/self/uid_map').write_text(f'{user} {user} 1')
        Path('/proc/self/gid_map').write_text(f'{group} {group} 1')
    if libc.mount(b'none', b'/', None, RECURSIVE_PRIVATE, None):
        return False
    size = f'size={DISK_MB}m'.encode()
    return not libc.mount(b'tmpfs', os.fsencode(place), b'tmpfs', 0, size)
