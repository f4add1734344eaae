"""Two hosts on one machine that train together: equal losses, rate, bytes sent, death and resume.

    sudo .venv/bin/python benchmarks/two_hosts.py [--launcher torchrun] [--cores 0 1]

Two network namespaces are joined by a veth pair, each with an address, a launcher (`accelerate
launch` or torchrun) and a run folder of its own; the second finds the first by its address. The
recordings are rendered first. Needs Linux, iproute2 and the right to make network namespaces
(root). Where that is not allowed, `--loopback` starts the same processes on 127.0.0.1 and
127.0.0.2, without bytes and without the death of a link. Namespaces, processes and files are
removed in the end, also after an error.

- rate: images/s and processor time of one process on one core, and of two on two, with the same
  batch in total; losses of both, step by step. `of_one_by_cpu` is the ratio where nothing else ran
  and nobody waited, from processor time: the one to look at on a busy machine
- death: in the midst of a run, one training process gets SIGKILL, or the link is cut; how long the
  others wait, how they end and what they say; after `kill 1` the second host has lost its folder,
  too. `stop`: both launchers get SIGTERM, as from SLURM at
  the end of its time, and the last step is saved. Then everything is resumed and compared with a
  run that nobody touched, bit for bit

Exits with 1 where a survivor does not end within --patience, ends without naming the lost
connection, or a resumed run has other weights.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
import csv
from dataclasses import dataclass, field
import json
import os
from pathlib import Path
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any, Protocol
import uuid

from timing import describe_machine, print_table
import torch

from psd_depth_ros.cli.main import tidy_end
from psd_depth_ros.replay.rendering import write_world
from psd_depth_ros.synth import World, WorldSettings
from psd_depth_ros.training.state import parse_state

HERE = Path(__file__).resolve().parent
MARK = 'PSD_TWO_HOSTS'  # in the environment of every process that is started
WORLD = WorldSettings(kind='street', width=832, height=256, speed_mps=8.0)
FRAMES = 24
NOT_MEASURED = 2  # steps at the start: connections are made, memory comes from the kernel
SAVE_EVERY, KILL_AT = 2, 4  # steps
LAUNCHERS = ('accelerate', 'torchrun')
# Recipe and changes. The baseline begins without weights, so that its batch norm sees the part of
# a batch that a process has; what PSD draws in a step (patches, mixes) depends on the process.
RECIPES = {
    'baseline': ('baseline', ()),
    'psd_undrawn': ('psd', ('objective.patch=off', 'objective.mix=off')),
    'psd': ('psd', ()),
}
DEATHS = ('kill 1', 'kill 0', 'cut', 'stop')
LOST = 'lost'  # a word of the message that names the lost connection
PATIENCE_S = 600.0  # for what has to end by itself
POLL_S = 0.02


class Hosts(Protocol):
    """Two places for processes, each with an address that the other one reaches."""

    addresses: tuple[str, str]
    interfaces: tuple[str, str]

    def prefix(self, host: int) -> list[str]:
        """What runs a command on a host."""

    def sent_bytes(self, host: int) -> int | None:
        """Bytes that a host has sent to the other one; None where nobody counts."""

    def cut(self) -> None:
        """Part the hosts, without a word to either."""

    def mend(self) -> None:
        """Join them again."""


class Namespaces:
    """Two network namespaces joined by a veth pair; a context manager."""

    addresses = ('10.213.7.1', '10.213.7.2')
    interfaces = ('psd0', 'psd1')

    def __init__(self) -> None:
        self._names = tuple(f'psd_{os.getpid()}_{host}' for host in (0, 1))

    def __enter__(self) -> Namespaces:
        """Make them. Raises SystemExit with the next step where that is not allowed."""
        try:
            for name in self._names:
                _ip('netns', 'add', name)
            first, second = self._names
            _ip('-n', first, 'link', 'add', self.interfaces[0], 'type', 'veth',
                'peer', 'name', self.interfaces[1], 'netns', second)  # fmt: skip
            for name, interface, address in zip(
                self._names, self.interfaces, self.addresses, strict=True
            ):
                _ip('-n', name, 'address', 'add', f'{address}/24', 'dev', interface)
                for device in ('lo', interface):
                    _ip('-n', name, 'link', 'set', device, 'up')
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__()
            said = getattr(error, 'stderr', None) or str(error)
            raise SystemExit(
                f'network namespaces cannot be made here: {said.strip()}; they need Linux, '
                'iproute2 (`apt install iproute2`) and root (`sudo`, in a container --privileged '
                'or --cap-add SYS_ADMIN,NET_ADMIN). --loopback does without them'
            ) from error
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove them; their interfaces go with them."""
        for name in self._names:
            if Path('/run/netns', name).exists():
                _ip('netns', 'delete', name)

    def prefix(self, host: int) -> list[str]:
        """What runs a command on a host."""
        return ['ip', 'netns', 'exec', self._names[host]]

    def sent_bytes(self, host: int) -> int | None:
        """Bytes that a host has sent, with the headers of the packets."""
        name, interface = self._names[host], self.interfaces[host]
        shown = _ip('-n', name, '-s', '-j', 'link', 'show', interface)
        return int(json.loads(shown)[0]['stats64']['tx']['bytes'])

    def cut(self) -> None:
        """Take the link of the second host down: packets vanish, and nobody is told."""
        _ip('-n', self._names[1], 'link', 'set', self.interfaces[1], 'down')

    def mend(self) -> None:
        """Take it up again."""
        _ip('-n', self._names[1], 'link', 'set', self.interfaces[1], 'up')


class Loopback:
    """Both hosts are this machine, by two addresses of its loopback; a context manager."""

    addresses = ('127.0.0.1', '127.0.0.2')
    interfaces = ('lo', 'lo')

    def __enter__(self) -> Loopback:
        """Nothing has to be made."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Nothing is left."""

    def prefix(self, host: int) -> list[str]:
        """Nothing."""
        return []

    def sent_bytes(self, host: int) -> int | None:
        """None: everything goes over `lo`."""
        return None

    def cut(self) -> None:
        """Never called."""
        raise AssertionError('a loopback cannot be cut')

    def mend(self) -> None:
        """Nothing was cut."""


def _ip(*arguments: str) -> str:
    done = subprocess.run(['ip', *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@dataclass
class Runner:
    """Starts trainings on hosts, and knows what to kill in the end."""

    hosts: Hosts
    folder: Path
    options: argparse.Namespace
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def environment(self, host: int | None) -> dict[str, str]:
        """One thread each; gloo has to be told the interface, as no host name leads to it."""
        more = {'PYTHONPATH': str(HERE.parent), 'OMP_NUM_THREADS': '1', MARK: self.mark}
        if host is not None:
            more['GLOO_SOCKET_IFNAME'] = self.hosts.interfaces[host]
        return {**os.environ, **more}

    def training(self, recipe: str, output: Path, resume: bool) -> list[str]:
        """Arguments of Python."""
        options = self.options
        changes = {
            'steps': options.steps, 'batch': options.batch, 'pixel_budget': options.pixels,
            'save_every': SAVE_EVERY, 'validate_every': 100_000, 'preview_every': 0,
            'precision': 'fp32', 'data.triplets.held_out': 0.2,
            'data.cache': self.folder / 'cache' / output.name,
        }  # fmt: skip
        shipped, more = RECIPES[recipe]
        command = ['-m', 'psd_depth_ros.cli.main', 'train', shipped, '--device', 'cpu', '--quiet']
        command += ['--data', str(self.folder / 'street.mcap'), '--output', str(output)]
        command += ['--checkpoint', 'default'] if shipped == 'psd' else []
        command += ['--resume'] if resume else []
        command += [f'--set={change}' for change in more]
        return command + [f'--set={name}={value}' for name, value in changes.items()]

    def start_one(self, recipe: str, output: Path) -> Launch:
        """One process on the last core, without a launcher."""
        command = [sys.executable, *self.training(recipe, output, False)]
        return self._start(command, self.options.cores[-1], None, output)

    def start_two(self, recipe: str, name: str, resume: bool = False) -> list[Launch]:
        """A process on each host; each has a folder of its own."""
        port = _free_port()
        launches = []
        for host in (0, 1):
            output = self.folder / name / f'host{host}'
            command = [
                *self.hosts.prefix(host), sys.executable,
                *self._launcher(host, port), *self.training(recipe, output, resume),
            ]  # fmt: skip
            launches.append(self._start(command, self.options.cores[host], host, output))
        return launches

    def _launcher(self, host: int, port: int) -> list[str]:
        address = self.hosts.addresses[0]
        if self.options.launcher == 'torchrun':
            return [
                '-m', 'torch.distributed.run', '--nnodes=2', '--nproc-per-node=1',
                f'--node-rank={host}', f'--master-addr={address}', f'--master-port={port}',
            ]  # fmt: skip
        return [
            '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_machines=2',
            '--num_processes=2', f'--machine_rank={host}', f'--main_process_ip={address}',
            f'--main_process_port={port}', '--mixed_precision=no', '--dynamo_backend=no',
        ]  # fmt: skip

    def _start(self, command: list[str], core: int, host: int | None, output: Path) -> Launch:
        output.parent.mkdir(parents=True, exist_ok=True)
        said = output.with_suffix(f'.{time.monotonic_ns()}.txt')
        with said.open('w') as file:
            process = subprocess.Popen(
                ['taskset', '-c', str(core), *command], env=self.environment(host),
                stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        return Launch(process, output, said)

    def kill_all(self) -> None:
        """End every process that was started and is still there, by its mark."""
        for number in _processes():
            if self.mark.encode() in _read(number, 'environ'):
                _kill(number)


@dataclass(frozen=True)
class Launch:
    """A launcher with its training, or a training without one."""

    process: subprocess.Popen[bytes]
    output: Path
    said: Path

    def trainer(self) -> int:
        """The number of the training process."""
        for number in (*_below(self.process.pid), self.process.pid):
            words = _read(number, 'cmdline').split(b'\0')
            if b'psd_depth_ros.cli.main' in words and not any(
                b'launch' in word or b'distributed.run' in word for word in words
            ):
                return number
        raise SystemExit(f'the training has ended: {self.text()}')

    def rows(self) -> list[dict[str, str]]:
        """The rows of log.csv so far."""
        try:
            with open(self.output / 'log.csv', newline='') as file:
                return list(csv.DictReader(file))
        except FileNotFoundError:
            return []

    def losses(self) -> list[float]:
        """The loss of every step."""
        return [float(row['loss']) for row in self.rows()]

    def text(self) -> str:
        """What it has printed."""
        return self.said.read_text(errors='replace')

    def wait(self, seconds: float) -> int:
        """Its exit code. Raises TimeoutExpired where it takes longer."""
        return self.process.wait(max(0.1, seconds))

    def weights(self) -> dict[str, torch.Tensor]:
        """All tensors of its last state."""
        return dict(parse_state(self._state().read_bytes()).tensors)

    def saved_step(self) -> int:
        """The step of its last state."""
        return int(self._state().stem.removeprefix('step_'))

    def _state(self) -> Path:
        return max((self.output / 'state').glob('step_*.safetensors'))


def _processes() -> Iterator[int]:
    for path in Path('/proc').iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            yield int(path.name)


def _read(number: int, name: str) -> bytes:
    try:
        return Path('/proc', str(number), name).read_bytes()
    except OSError:  # it has ended
        return b''


def _kill(number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(number, signal.SIGKILL)


def _below(parent: int) -> list[int]:
    """All processes that descend from one, the nearest first."""
    children: dict[int, list[int]] = {}
    for number in _processes():
        fields = _read(number, 'stat').rpartition(b')')[2].split()
        if fields:
            children.setdefault(int(fields[1]), []).append(number)
    found, level = [], [parent]
    while level:
        level = [child for number in level for child in children.get(number, ())]
        found += level
    return found


def _processor_s(number: int) -> float:
    fields = _read(number, 'stat').rpartition(b')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK') if fields else 0.0


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(('', 0))
        return int(one.getsockname()[1])


def main() -> int:
    """Measure and print; 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default=LAUNCHERS[0])
    parser.add_argument('--loopback', action='store_true', help='no namespaces, no root')
    parser.add_argument(
        '--recipes', nargs='+', choices=RECIPES, default=tuple(RECIPES),
        help='the processes of the last one die (default: all)',
    )  # fmt: skip
    parser.add_argument('--deaths', nargs='*', choices=DEATHS, default=DEATHS)
    parser.add_argument('--steps', type=int, default=12)
    parser.add_argument('--batch', type=int, default=8, help='in total (%(default)s)')
    parser.add_argument('--pixels', type=int, default=24576, help='of an input (%(default)s)')
    parser.add_argument('--cores', type=int, nargs=2, default=(0, 1), help='of the two hosts')
    parser.add_argument(
        '--patience', type=float, default=180.0, metavar='S',
        help='how long a survivor may take to end (%(default)s)',
    )  # fmt: skip
    parser.add_argument('--output', type=Path, help='write every figure to this JSON file')
    options = parser.parse_args()
    if options.steps < KILL_AT + SAVE_EVERY + NOT_MEASURED:
        parser.error(f'--steps must be at least {KILL_AT + SAVE_EVERY + NOT_MEASURED}')
    hosts: Namespaces | Loopback = Loopback() if options.loopback else Namespaces()
    results: dict[str, Any] = {'machine': describe_machine(), 'options': str(vars(options))}
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix='psd_two_hosts_'))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        stack.enter_context(tidy_end())
        runner = Runner(stack.enter_context(hosts), folder, options)
        stack.callback(runner.kill_all)
        write_world(World(1, WORLD), folder / 'street.mcap', FRAMES)
        results['rate'], losses = measure_rates(runner)
        print_table(f'rate, batch {options.batch} in total', results['rate'])
        results['losses'] = [compare_losses(name, *both) for name, both in losses.items()]
        print_table('losses of two processes against those of one', results['losses'])
        deaths = [one for one in options.deaths if one != 'cut' or not options.loopback]
        results['death'] = [row for how in deaths for row in measure_death(runner, how)]
        print_table('the death of a process, or of the link, and who is left', results['death'])
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=2) + '\n')
    return int(not all(row['as_it_should_be'] for row in results['death']))


def measure_rates(
    runner: Runner,
) -> tuple[list[dict[str, Any]], dict[str, tuple[list[float], list[float]]]]:
    """Rows of recipe and processes with rate and bytes, and the losses of one and of two."""
    rows, losses = [], {}
    for recipe in runner.options.recipes:
        one = runner.start_one(recipe, runner.folder / f'one_{recipe}')
        rows.append({'recipe': recipe, 'processes': 1, **follow(runner, [one])})
        two = runner.start_two(recipe, f'two_{recipe}')
        rows.append({'recipe': recipe, 'processes': 2, **follow(runner, two)})
        before, after = rows[-2:]
        after['of_one'] = after['images_per_s'] / before['images_per_s']
        cpu = 'cpu_ms_per_step_and_process'
        after['of_one_by_cpu'] = before[cpu] / after[cpu]
        losses[recipe] = one.losses(), two[0].losses()
    return rows, losses


def follow(runner: Runner, launches: Sequence[Launch]) -> dict[str, Any]:
    """Wait until a run has ended, and measure the steps after the first ones."""
    steps = runner.options.steps
    wait_for_step(launches, NOT_MEASURED)
    first = _reading(runner, launches)
    wait_for_step(launches, steps - 1)  # the last one ends with a validation
    last = _reading(runner, launches)
    for launch in launches:
        code = launch.wait(PATIENCE_S)
        if code:
            raise SystemExit(f'a run ended with code {code}:\n{launch.text()}')
    counted = last['step'] - first['step']
    spent = {name: last[name] - first[name] for name in first if first[name] is not None}
    sent = spent.get('sent')
    return {
        'images_per_s': runner.options.batch * counted / spent['time'],
        'cpu_ms_per_step_and_process': 1e3 * spent['cpu'] / counted / len(launches),
        'MB_sent_per_step_and_host': sent / counted / len(launches) / 1e6 if sent else None,
        'of_one': None,
        'of_one_by_cpu': None,
    }


def _reading(runner: Runner, launches: Sequence[Launch]) -> dict[str, Any]:
    sent = [runner.hosts.sent_bytes(host) for host in range(len(launches))]
    return {
        'step': len(launches[0].rows()),
        'time': time.monotonic(),
        'cpu': sum(_processor_s(launch.trainer()) for launch in launches),
        'sent': None if len(launches) == 1 or None in sent else sum(map(int, sent)),  # type: ignore[arg-type]
    }


def wait_for_step(launches: Sequence[Launch], step: int) -> None:
    """Until the first process has logged a step."""
    end = time.monotonic() + PATIENCE_S
    while len(launches[0].rows()) < step:
        for launch in launches:
            if launch.process.poll() is not None:
                raise SystemExit(f'a run ended before step {step}:\n{launch.text()}')
        if time.monotonic() > end:
            texts = '\n'.join(launch.text() for launch in launches)
            raise SystemExit(f'step {step} took longer than {PATIENCE_S:.0f} s:\n{texts}')
        time.sleep(POLL_S)


def compare_losses(recipe: str, one: list[float], two: list[float]) -> dict[str, Any]:
    """The relative difference at the first step, and the greatest of all."""
    off = [abs(b / a - 1.0) for a, b in zip(one, two, strict=True)]
    return {
        'recipe': recipe,
        'steps': len(off),
        'first_of_one': f'{one[0]:.6f}',
        'first_of_two': f'{two[0]:.6f}',
        'off_at_first': f'{off[0]:.1e}',
        'most_off': f'{max(off):.1e}',
    }


def measure_death(runner: Runner, how: str) -> Iterator[dict[str, Any]]:
    """Rows of the processes that are left, and whether the resumed run is the undisturbed one."""
    recipe = runner.options.recipes[-1]
    name = how.replace(' ', '_')
    launches = runner.start_two(recipe, name)
    wait_for_step(launches, KILL_AT + 1)
    begun = time.monotonic()
    if how == 'cut':
        runner.hosts.cut()
    elif how == 'stop':
        for launch in launches:
            launch.process.terminate()
    else:
        _kill(launches[int(how[-1])].trainer())
    rows = [_survivor(launch, begun, runner.options.patience) for launch in launches]
    runner.kill_all()
    runner.hosts.mend()
    is_saved = launches[0].saved_step() == len(launches[0].rows())
    if how == 'kill 1':  # another machine takes its place, with an empty disk
        for lost in (launches[1].output, runner.folder / 'cache' / 'host1'):
            shutil.rmtree(lost, ignore_errors=True)
    again = runner.start_two(recipe, name, resume=True)
    codes = [launch.wait(PATIENCE_S) for launch in again]
    if any(codes):
        raise SystemExit('\n'.join(launch.text() for launch in again))
    wanted = Launch(again[0].process, runner.folder / f'two_{recipe}' / 'host0', again[0].said)
    found = again[0].weights()
    same = all(torch.equal(found[key], value) for key, value in wanted.weights().items())
    same = same and again[0].losses() == wanted.losses()
    for host, row in enumerate(rows):
        is_victim = how == f'kill {host}'
        is_told = is_victim or LOST in row['said'] or (how == 'stop' and is_saved)
        right = same and row['seconds'] is not None and is_told
        state = 'stopped' if how == 'stop' else 'killed' if is_victim else 'left'
        yield {
            'death': how, 'host': host, 'is': state, **row,
            'resumed_run_is_the_same': same, 'as_it_should_be': right,
        }  # fmt: skip


def _survivor(launch: Launch, begun: float, patience_s: float) -> dict[str, Any]:
    """How a launcher ended, and the last line of the program in what it printed."""
    try:
        code = launch.wait(begun + patience_s - time.monotonic())
    except subprocess.TimeoutExpired:
        return {'seconds': None, 'code': None, 'said': 'still waiting'}
    seconds = time.monotonic() - begun
    lines = launch.text().splitlines()
    said = [line for line in lines if line.startswith(('psd-depth train: error', 'stopped after'))]
    errors = [line for line in lines if 'Error' in line]
    return {'seconds': seconds, 'code': code, 'said': (said or errors or lines or [''])[0]}


if __name__ == '__main__':
    sys.exit(main())
