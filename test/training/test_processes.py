"""Training as processes of its own: two that train together, and some that are killed."""

import csv
import os
from pathlib import Path
import random
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from torch import distributed

from psd_depth_ros.errors import SettingsError, TrainingError
from psd_depth_ros.training.distributed import (
    _keep_connections_alive,
    Distributed,
    explained_peers,
)
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.state import parse_state

PROGRAM = Path(__file__).with_name('toy_training.py')
ENVIRONMENT = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path), 'OMP_NUM_THREADS': '1'}
LAUNCHER = ('torch.distributed.run', '--standalone', '--nproc-per-node', '2')


def start(*arguments, launcher=()):
    command = [sys.executable, *(('-m', *launcher) if launcher else ()), str(PROGRAM)]
    return subprocess.Popen(
        [*command, *map(str, arguments)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )


def losses(folder):
    with open(folder / 'log.csv', newline='') as file:
        return {int(row['step']): float(row['loss']) for row in csv.DictReader(file)}


def weights(folder):
    newest = sorted((folder / 'state').glob('*.safetensors'))[-1]
    return parse_state(newest.read_bytes()).tensors


def test_two_processes_give_the_losses_of_one(tmp_path):
    """They also agree on going back, where only one of them meets a loss that is no number."""
    one, two = tmp_path / 'one', tmp_path / 'two'
    runs = [start(one, 'nan_at=8'), start(two, 'nan_at=8', launcher=LAUNCHER)]
    for run in runs:
        _, said = run.communicate(timeout=100)
        assert run.returncode == 0, said
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert len(losses(two)) == 12
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-4, atol=1e-6)
    with open(two / 'log.csv', newline='') as file:
        assert [row['rollbacks'] for row in csv.DictReader(file)] == ['0'] * 6 + ['1'] * 6


def test_a_run_killed_at_any_moment_goes_on_as_if_it_never_had_been(toy, tmp_path):
    """Every step writes a state; the kills come at random, most of them in the midst of that."""
    steps, killed, whole = 36, tmp_path / 'killed', tmp_path / 'whole'
    draw = random.Random(3)
    for step in (8, 20):
        resume = 'yes' if killed.exists() else 'no'
        run = start(killed, f'steps={steps}', 'save_every=1', f'resume={resume}', 'delay_s=0.02')
        wait_for(killed, step, run)
        time.sleep(draw.uniform(0.0, 0.05))
        run.send_signal(signal.SIGKILL)
        run.communicate()
    recipe = toy.replace_recipe(steps=steps, save_every=1)
    seen = []
    for folder in (killed, whole):
        run_training(
            toy.ToyTask(recipe), RunFolder(folder), device='cpu', resume=folder is killed,
            report=lambda progress: seen.append(progress.step),
        )  # fmt: skip
    assert 20 <= seen[0] < steps
    assert losses(killed) == losses(whole)
    assert len(losses(killed)) == steps
    assert all(torch.equal(weights(killed)[name], value) for name, value in weights(whole).items())


def test_the_death_of_one_process_ends_the_others_with_an_error_that_names_it(tmp_path):
    # The launcher looks after 3 s: till then the other process has said why it ends.
    launcher = (*LAUNCHER, '--monitor-interval', '3')
    run = start(tmp_path / 'run', 'steps=9999', 'save_every=1', 'delay_s=0.02', launcher=launcher)
    wait_for(tmp_path / 'run', 3, run)
    _, last = sorted(children(run.pid), key=lambda pid: environment(pid)['RANK'])
    os.kill(last, signal.SIGKILL)
    _, said = run.communicate(timeout=60)
    assert run.returncode
    assert 'the connection to another process is lost (' in said
    assert 'with --resume' in said


def test_a_machine_that_is_gone_is_noticed_by_its_connections():
    with (
        socket.create_server(('127.0.0.1', 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        _keep_connections_alive()
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        idle, every, times = (
            client.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + every * times == 60
        client.send(b'still open')
        with server.accept()[0] as other:
            assert other.recv(10) == b'still open'


@pytest.mark.parametrize(
    ('error', 'reason'),
    [
        (
            RuntimeError('[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection '
                         'closed by peer [10.0.0.2]:17061. This is typically caused by'),
            r'lost \(Connection closed by peer \[10\.0\.0\.2\]:17061\): ',
        ),
        (distributed.DistBackendError('NCCL error: remote'), r'lost \(NCCL error: remote\): '),
    ],
)  # fmt: skip
def test_a_lost_connection_is_told_with_its_reason(error, reason):
    with pytest.raises(TrainingError, match=reason), explained_peers():
        raise error


def test_an_error_of_another_kind_stays_what_it_is():
    with pytest.raises(RuntimeError, match='size of tensor'), explained_peers():
        raise RuntimeError('The size of tensor a must match')


def test_a_launcher_that_would_let_every_process_train_alone_is_refused(monkeypatch):
    """What `accelerate launch --cpu --num_processes 2` sets, without mpirun."""
    monkeypatch.setenv('ACCELERATE_USE_CPU', 'True')
    Distributed('cpu')
    monkeypatch.setenv('MASTER_ADDR', '10.0.0.1')
    with pytest.raises(SettingsError, match='--multi_gpu'):
        Distributed('cpu')


def children(parent):
    words = Path(f'/proc/{parent}/task/{parent}/children').read_text().split()
    return [int(word) for word in words]


def environment(pid):
    pairs = Path(f'/proc/{pid}/environ').read_text().split('\0')
    return dict(pair.split('=', 1) for pair in pairs if '=' in pair)


def wait_for(folder, step, run):
    """Until the run has saved a step."""
    end = time.monotonic() + 100.0
    while not any(path.stem >= f'step_{step:08d}' for path in folder.glob('state/step_*')):
        assert run.poll() is None, run.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.001)
