"""The fine-tuning node with a training that only counts."""

from collections.abc import Callable
import functools
import os
from pathlib import Path
import shutil
import signal
import sys
import time
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
import yaml

from psd_depth_ros.config import build
from psd_depth_ros.ros.finetune_node import FinetuneNode, FinetuneNodeSettings, PROGRESS_KEYS

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., Any]
NODE = Path(__file__).with_name('fake_finetune_node.py')
TRAINING = ROOT / 'test' / 'finetune' / 'fake_finetune_process.py'
NAME = '/finetune_node'


class Node:
    """The node, asked and listened to."""

    def __init__(self, bench: Any, process: Any) -> None:
        self._bench = bench
        self.process = process
        self._heard = bench.listen(DiagnosticArray, f'{NAME}/progress')
        bench.spin_until(lambda: self._heard, 'the node')

    def call(self, name: str) -> tuple[bool, str]:
        answer = self._bench.call(Trigger, f'{NAME}/{name}', Trigger.Request())
        return bool(answer.success), str(answer.message)

    @property
    def progress(self) -> dict[str, str]:
        if not self._heard:
            return {}
        return {pair.key: pair.value for pair in self._heard[-1].status[0].values}

    @property
    def status(self) -> Any:
        return self._heard[-1].status[0]

    def wait_for(self, *states: str) -> dict[str, str]:
        self._bench.spin_until(
            lambda: self.progress.get('state') in states, f'the run to be {states}'
        )
        return self.progress


def given(folder: Path, orders: tuple[str, ...], parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a quick run, to which `orders` tell what to do."""
    quick = {'output': str(folder / 'run'), 'progress_period_s': 0.1, 'limits.nice': 0}
    return {'bags': list(orders), **quick, **parameters}


@pytest.fixture
def node(
    bench: Any, in_process: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Node]:
    monkeypatch.setenv('PYTHONPATH', str(ROOT), prepend=os.pathsep)  # of the training process
    make = functools.partial(FinetuneNode, (sys.executable, str(TRAINING)))

    def run(*orders: str, **parameters: Any) -> Node:
        return Node(bench, in_process(make, **given(tmp_path, orders, parameters)))

    return run


@pytest.fixture
def node_process(bench: Any, start: Start, tmp_path: Path) -> Callable[..., Node]:
    def run(*orders: str, **parameters: Any) -> Node:
        return Node(bench, start(NODE, **given(tmp_path, orders, parameters)))

    return run


def has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z'


def test_a_run_from_start_to_deployment(
    bench: Any, depth_node: Start, node: Callable[..., Node], tmp_path: Path
) -> None:
    depth_node()
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[..., 2] = 255  # red, to OpenCV
    cv2.imwrite(str(tmp_path / 'picture.png'), picture)
    previews = bench.listen(Image, f'{NAME}/preview')
    one = node('steps=60', f'picture={tmp_path / "picture.png"}', deploy_to='/depth_node')
    assert one.call('status') == (True, 'idle')
    assert one.call('start') == (True, f'started the run in {tmp_path / "run"}')
    progress = one.wait_for('training')
    refused, reason = one.call('start')
    assert not refused
    assert 'a run is under way (training: step ' in reason
    assert float(progress['of']) == 60
    assert (progress['loss'], progress['loss.smoothness']) == ('0.3', '0.1')
    assert (progress['images_per_second'], progress['score']) == ('7.5', '0.5')
    assert float(progress['time_left_s']) > 0
    kinds = {name for name in progress if name.split('.')[0] not in ('loss', 'score')}
    assert kinds | {'loss', 'score'} == set(PROGRESS_KEYS)
    assert bench.set_parameter('steps', 7, NAME) == (
        False, 'steps cannot change during a run; call ~/stop first'
    )  # fmt: skip
    bench.spin_until(lambda: previews, 'a preview')
    assert (previews[0].encoding, previews[0].width, previews[0].height) == ('rgb8', 6, 4)
    assert bytes(previews[0].data[:3]) == b'\xff\x00\x00'
    progress = one.wait_for('accepted')
    assert progress['deployed'] == '/depth_node runs new'
    assert (progress['step'], progress['checkpoint']) == ('60', 'new')
    bench.spin_until(
        lambda: bench.value(': engine', 'checkpoint') == 'wall new', 'the report of the new one'
    )
    assert bench.get_parameter('checkpoint') == str(tmp_path / 'run' / 'best.safetensors')
    again, reason = one.call('start')
    assert not again
    assert 'the run in it is over' in reason
    # Other weights under the same name: no parameter changes, and still they are loaded.
    shutil.rmtree(tmp_path / 'run')
    assert bench.set_parameter('bags', ['steps=1', 'weights=wall id=newer'], NAME)[0]
    assert one.call('start')[0]
    bench.spin_until(
        lambda: one.progress['deployed'] == '/depth_node: running newer', 'the newer ones'
    )
    assert bench.value(': engine', 'checkpoint_path').endswith('run/best.safetensors')


def test_stop_answers_when_all_is_on_disk_and_start_goes_on(
    bench: Any, node: Callable[..., Node], tmp_path: Path
) -> None:
    one = node('steps=100000', auto_start=True)
    one.wait_for('training')
    stopped, said = one.call('stop')
    assert stopped
    assert said == 'stopped: for a reason'
    step = int((tmp_path / 'run' / 'counted').read_text())
    assert 0 < step < 100000
    assert bench.set_parameter('bags', [f'steps={step + 2}', 'verdict=kept'], NAME)[0]
    assert one.call('stop') == (False, 'nothing to stop: stopped: for a reason')
    assert one.call('start') == (True, f'resumed the run in {tmp_path / "run"}')
    progress = one.wait_for('kept')
    assert (progress['step'], progress['deployed']) == (str(step + 2), '')
    assert (tmp_path / 'run' / 'best.safetensors').read_text() == 'wall id=old'


def test_weights_that_reach_nobody(
    bench: Any, depth_node: Start, node: Callable[..., Node], tmp_path: Path
) -> None:
    one = node('steps=2', deploy_to='/depth_node', deploy_timeout_s=1.0, auto_start=True)
    said = one.wait_for('accepted')['deployed']
    assert said.startswith('accepted, but not deployed: there is no service /depth_node/')
    assert one.status.level == b'\x01'
    assert bench.set_parameter('deploy_timeout_s', 30, NAME)[0]
    depth_node()
    bench.wait_for_state('active')
    for weights, told in (
        ('nothing of the kind', '/depth_node refused '),
        ('wall id=broken', 'tensor head.weight is missing'),
    ):
        assert bench.set_parameter('bags', ['steps=2', f'weights={weights}'], NAME)[0]
        assert bench.set_parameter('output', str(tmp_path / weights), NAME)[0]
        assert one.call('start')[0]
        bench.spin_until(lambda told=told: told in one.progress.get('deployed', ''), told)
    assert bench.value(': engine', 'checkpoint') == 'wall wall'


def test_a_run_that_fails_says_why(bench: Any, node: Callable[..., Node], tmp_path: Path) -> None:
    one = node('crash=3')
    assert one.call('start')[0]
    one.wait_for('failed')
    assert 'ended with code 3; ~/start resumes the run' in one.status.message
    assert 'something went wrong' in one.status.message
    assert one.status.level == b'\x02'
    assert one.call('status')[0] is False
    assert bench.set_parameter('bags', ['error=the bag is empty'], NAME) == (True, '')
    assert one.call('start')[0]
    bench.spin_until(lambda: one.status.message == 'failed: the bag is empty', 'the reason')
    assert bench.set_parameter('recipe', 'gone', NAME) == (True, '')
    started, said = one.call('start')
    assert not started
    assert "no recipe 'gone'" in said


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL])
def test_the_training_ends_with_its_node(
    bench: Any, node_process: Callable[..., Node], number: int
) -> None:
    one = node_process('steps=100000', auto_start=True)
    pid = int(float(one.wait_for('training')['score.pid']))
    one.process.signal(number)
    assert one.process.wait() == (0 if number == signal.SIGINT else -number)
    end = time.monotonic() + 20
    while not has_ended(pid):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_its_parameter_file_holds_every_default(bench: Any, in_process: Start) -> None:
    path = ROOT / 'config' / 'finetune_node.yaml'
    parsed = yaml.safe_load(path.read_text(encoding='utf-8'))
    assert build(FinetuneNodeSettings, parsed['/**']['ros__parameters']) == FinetuneNodeSettings()
    in_process(FinetuneNode, '--params-file', str(path))
    started, said = Node(bench, None).call('start')
    assert not started
    assert 'bags is empty; expected recordings to learn from' in said


def test_its_documented_topics_and_services_are_there(
    bench: Any, node: Callable[..., Node]
) -> None:
    node()
    text = (ROOT / 'docs' / 'topics.md').read_text(encoding='utf-8')
    find = bench.node.get_publisher_names_and_types_by_node
    own = {'/rosout', '/parameter_events'}

    def published() -> dict[str, str]:
        try:
            found = find('finetune_node', '/')
        except Exception:  # noqa: BLE001 - not discovered yet
            return {}
        return {name: kinds[0] for name, kinds in found if name not in own}

    topics = bench.spin_until(lambda: len(published()) == 2 and published(), 'its topics')
    for name, kind in topics.items():
        row = f'| `~/{name.rpartition("/")[2]}` | {kind.replace("/msg/", "/")} |'
        assert row in text
    services = dict(bench.node.get_service_names_and_types_by_node('finetune_node', '/'))
    for name in ('start', 'stop', 'status'):
        assert services[f'{NAME}/{name}'] == ['std_srvs/srv/Trigger']
        assert f'`~/{name}`' in text
