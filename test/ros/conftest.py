"""Real nodes in their own processes, and a bench in this one that talks to them over DDS."""

from __future__ import annotations

import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
import functools
import os
from pathlib import Path
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from fake_engine import FakeFactory
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
import pytest
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
import rclpy
from rclpy.context import Context
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.ros.common import fast_dds_version, PROFILES
from psd_depth_ros.ros.depth_node.node import DepthNode

FAKE_NODE = Path(__file__).with_name('fake_depth_node.py')
PATIENCE_S = 60.0  # of a machine that is busy with other things
# Questions that may be put twice; an order must not be.
ASK_AGAIN_S = dict.fromkeys((GetState, GetParameters, SetParameters, DescribeParameters), 5.0)


class NodeProcess:
    """A node started as a person starts it; everything it says goes to a file."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self.log = log
        self._heard = 0
        with log.open('wb') as file:
            self._process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment
            )

    @property
    def output(self) -> str:
        """What it said since `forget`, or since its start."""
        return self.log.read_text(errors='replace')[self._heard :]

    def forget(self) -> None:
        self._heard += len(self.output)

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        if self.is_running:
            self.signal(signal.SIGINT)
        try:
            return self.wait(15.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


class Bench:
    """A node of this process: publishes cameras, listens, calls services."""

    def __init__(self, domain: int) -> None:
        self.domain = domain
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node('bench', context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self.diagnostics: list[Any] = []
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def spin_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.02)

    def spin_until(
        self, done: Callable[[], Any], what: str = 'it', timeout_s: float = PATIENCE_S
    ) -> Any:
        end = time.monotonic() + timeout_s
        while not (result := done()):
            assert time.monotonic() < end, (
                f'waited {timeout_s:g} s for {what}; newest diagnostics:\n{self._describe()}'
            )
            self._executor.spin_once(timeout_sec=0.02)
        return result

    def call(self, kind: Any, name: str, request: Any) -> Any:
        client = self.node.create_client(kind, name)
        self.spin_until(client.service_is_ready, f'service {name}')
        future = self._ask(client, request, f'an answer of {name}', ASK_AGAIN_S.get(kind))
        self.node.destroy_client(client)
        return future.result()

    def _ask(self, client: Any, request: Any, what: str, again_s: float | None) -> Any:
        """Ask, and again where that does no harm: an answer is lost where the node has not yet
        discovered the reader of this client, though the client has discovered the node."""
        end = time.monotonic() + PATIENCE_S
        while again_s and time.monotonic() < end:
            future, patience_end = client.call_async(request), time.monotonic() + again_s
            while time.monotonic() < patience_end:
                self._executor.spin_once(timeout_sec=0.02)
                if future.done():
                    return future
        future = client.call_async(request)
        self.spin_until(future.done, what)
        return future

    def state(self, node: str = '/depth_node') -> str:
        answer = self.call(GetState, f'{node}/get_state', GetState.Request())
        return str(answer.current_state.label)

    def change_state(self, label: str, node: str = '/depth_node') -> bool:
        request = ChangeState.Request()
        request.transition.label = label
        return bool(self.call(ChangeState, f'{node}/change_state', request).success)

    def wait_for_state(self, label: str, node: str = '/depth_node') -> None:
        self.spin_until(lambda: self.state(node) == label, f'{node} to be {label}')

    def set_parameter(self, name: str, value: Any, node: str = '/depth_node') -> tuple[bool, str]:
        message: ParameterMessage = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[message])
        result = self.call(SetParameters, f'{node}/set_parameters', request).results[0]
        return bool(result.successful), str(result.reason)

    def get_parameter(self, name: str, node: str = '/depth_node') -> Any:
        request = GetParameters.Request(names=[name])
        answer = self.call(GetParameters, f'{node}/get_parameters', request)
        return parameter_value_to_python(answer.values[0])

    def describe_parameter(self, name: str, node: str = '/depth_node') -> Any:
        request = DescribeParameters.Request(names=[name])
        return self.call(DescribeParameters, f'{node}/describe_parameters', request).descriptors[0]

    def listen(
        self, kind: Any, topic: str, *, reliable: bool = True, depth: int = 50
    ) -> list[Any]:
        received: list[Any] = []
        self.node.create_subscription(kind, topic, received.append, _profile(reliable, depth))
        return received

    def camera(self, namespace: str = '', **options: Any) -> Camera:
        return Camera(self, namespace, **options)

    def status(self, name: str) -> Any:
        """The newest diagnostic status whose name ends so, None before the first."""
        for message in reversed(self.diagnostics):
            for status in message.status:
                if status.name.endswith(name):
                    return status
        return None

    def level(self, name: str) -> int:
        """0 OK, 1 WARN, 2 ERROR, 3 STALE; -1 before the first."""
        status = self.status(name)
        return -1 if status is None else int(status.level[0])

    def value(self, name: str, key: str) -> str:
        status = self.status(name)
        pairs = {} if status is None else {pair.key: pair.value for pair in status.values}
        return str(pairs.get(key, ''))

    def _describe(self) -> str:
        newest = {one.name: one for message in self.diagnostics for one in message.status}
        return '\n'.join(
            f'{name}: {status.message} '
            + ', '.join(f'{pair.key}={pair.value}' for pair in status.values)
            for name, status in newest.items()
        )

    def _on_diagnostics(self, message: Any) -> None:
        self.diagnostics.append(message)


class Camera:
    """A camera driver: rgb8 images and their CameraInfo."""

    def __init__(
        self,
        bench: Bench,
        namespace: str = '',
        *,
        size: tuple[int, int] = (64, 48),
        reliable: bool = True,
        durability: DurabilityPolicy = DurabilityPolicy.VOLATILE,
        compressed: bool = False,
    ) -> None:
        self._bench = bench
        self.size = size
        self.stamp_ns = 1_000_000_000
        kind, topic = (CompressedImage, 'image/compressed') if compressed else (Image, 'image')
        profile = _profile(reliable, 5)
        profile.durability = durability
        self.images = bench.node.create_publisher(kind, f'{namespace}/{topic}', profile)
        self.infos = bench.node.create_publisher(
            CameraInfo, f'{namespace}/camera_info', _profile(reliable, 5)
        )

    def wait_for_reader(self) -> None:
        self._bench.spin_until(
            lambda: self.images.get_subscription_count() and self.infos.get_subscription_count(),
            'the node to subscribe',
        )

    def info(self, focal_px: float = 50.0) -> CameraInfo:
        width, height = self.size
        message = CameraInfo(width=width, height=height, distortion_model='plumb_bob')
        message.d = [0.0] * 5
        cx, cy = (width - 1) / 2, (height - 1) / 2
        message.k = [focal_px, 0.0, cx, 0.0, focal_px, cy, 0.0, 0.0, 1.0]
        message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
        message.p = [focal_px, 0.0, cx, 0.0, 0.0, focal_px, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
        return message

    def image(self) -> Image:
        width, height = self.size
        pixels = np.arange(width * height * 3, dtype=np.uint8)
        message = Image(width=width, height=height, encoding='rgb8', step=3 * width)
        message.data = array.array('B', pixels.tobytes())
        return message

    def send(self, image: Any = None, info: Any = None) -> int:
        """Publish one frame and its calibration; returns the stamp in nanoseconds."""
        image = self.image() if image is None else image
        info = self.info() if info is None else info
        self.stamp_ns += 100_000_000
        for message in (image, info):
            message.header.frame_id = 'camera_optical'
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(self.stamp_ns, 10**9)
        self.infos.publish(info)
        self.images.publish(image)
        return self.stamp_ns

    def wait_until_received(self) -> None:
        """Wait until all readers have what was sent: one that connects late asks for it again."""
        patience = Duration(seconds=PATIENCE_S)
        assert self.infos.wait_for_all_acked(patience)
        assert self.images.wait_for_all_acked(patience)

    def send_until(self, done: Callable[[], Any], what: str, **messages: Any) -> Any:
        """Publish at about 20 Hz until something happens."""

        def step() -> Any:
            self.send(**messages)
            self._bench.spin_for(0.05)
            return done()

        return self._bench.spin_until(step, what)


def _profile(reliable: bool, depth: int) -> QoSProfile:
    policy = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(depth=depth, reliability=policy)


@pytest.fixture(scope='session', autouse=True)
def _stay_on_this_machine(
    ros_domains: Iterator[int], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    # A run that is terminated ends its nodes too.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
        patch.setenv('ROS_HOME', str(tmp_path_factory.mktemp('ros_home')))
        _read_profile(tmp_path_factory.mktemp('profile'), next(ros_domains))
        yield
    signal.signal(signal.SIGTERM, before)


def _read_profile(folder: Path, domain: int) -> None:
    """Let Fast DDS of this process read a profile, which it does at its first participant only.

    Processes that tests start choose their own.
    """
    text = FAKE_NODE.with_name('fastdds_one_process.xml').read_text()
    rclpy.get_rmw_implementation_identifier()  # loads it
    version = fast_dds_version()
    profile = folder / 'profile.xml'
    profile.write_text(
        text if version == 2 else text.replace('heartbeatPeriod', 'heartbeat_period')
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PROFILES[version][0], str(profile))
        context = Context()
        rclpy.init(context=context, domain_id=domain)
        Node('profile', context=context).destroy_node()
        rclpy.shutdown(context=context)


@pytest.fixture
def bench(ros_domains: Iterator[int]) -> Iterator[Bench]:
    made = Bench(next(ros_domains))
    yield made
    made.close()


@pytest.fixture
def start(bench: Bench, tmp_path: Path) -> Iterator[Callable[..., NodeProcess]]:
    """Start processes in the bench's domain: `start(module or file, parameter=value, ...)`."""
    yield from _starter(bench, tmp_path)


def _starter(bench: Bench, folder: Path) -> Iterator[Callable[..., NodeProcess]]:
    processes: list[NodeProcess] = []

    def run(what: str | Path, *arguments: str, **parameters: Any) -> NodeProcess:
        program = [str(what)] if str(what).endswith('.py') else ['-m', str(what)]
        command = [sys.executable, *program, '--ros-args', *_flags(parameters), *arguments]
        log = folder / f'node{len(processes)}.log'
        processes.append(NodeProcess(command, log, _environment(bench.domain)))
        return processes[-1]

    yield run
    for process in processes:
        process.stop()
    for process in processes:
        sys.stdout.write(process.output)


def _environment(domain: int) -> dict[str, str]:
    root = FAKE_NODE.parents[2]
    return {
        **os.environ,
        'ROS_DOMAIN_ID': str(domain),
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': os.pathsep.join(
            [str(root), str(root / 'test' / 'support'), os.environ.get('PYTHONPATH', '')]
        ),
    }


@pytest.fixture
def depth_node_process(start: Callable[..., NodeProcess]) -> Callable[..., NodeProcess]:
    """Start the depth node with the fake engine in a process of its own: for signals and exits."""

    def run(*arguments: str, **parameters: Any) -> NodeProcess:
        return start(FAKE_NODE, *arguments, **{'diagnostics_period_s': 0.2, **parameters})

    return run


class InProcessNode:
    """A node in this process, in a context of its own, spun by a thread called executor.

    It talks to the bench over DDS like any other node, and starts two seconds sooner than one in
    a process of its own: without importing anything.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        domain: int,
        arguments: list[str],
        log: ProcessLog,
    ) -> None:
        self._log = log
        self._begin = len(log.read())
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        given = ['--ros-args', *arguments]
        self.node = make(context=self._context, cli_args=given, use_global_arguments=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, name='executor', daemon=True)
        self._thread.start()

    @property
    def output(self) -> str:
        """What this process wrote since the node's start."""
        return self._log.read()[self._begin :]

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        self._thread.join(timeout_s)
        assert not self.is_running, f'waited {timeout_s:g} s for the end of the node'
        return int(getattr(self.node, 'exit_code', 0))

    def jump(self, seconds: float) -> None:
        """Let the node see a jump of its clock."""
        jump = SimpleNamespace(delta=Duration(nanoseconds=round(seconds * 1e9)))
        self._executor.create_task(self.node._on_time_jump, jump)

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        """As `run_node` does it."""
        with suppress(ExternalShutdownException):
            self._executor.spin()
        if hasattr(self.node, 'close'):
            self.node.close()


class ProcessLog:
    """A file that gets whatever this process writes while a test runs, and can be read meanwhile.

    `capfd.readouterr` empties its file after reading: lines written in between are lost. pytest
    takes the descriptors back when the phase of a test ends.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = path.open('a', buffering=1)

    def take(self) -> None:
        """Send output here, where it does not go here already."""
        own = os.fstat(self._stream.fileno()).st_ino
        for number in (1, 2):
            if os.fstat(number).st_ino != own:
                os.dup2(self._stream.fileno(), number)
        sys.stdout = sys.stderr = self._stream

    def read(self) -> str:
        self.take()
        return self._path.read_text(errors='replace')

    def close(self) -> None:
        self._stream.close()


@pytest.fixture
def process_log(tmp_path: Path) -> Iterator[ProcessLog]:
    log = ProcessLog(tmp_path / 'process.log')
    yield log
    sys.stdout.write((tmp_path / 'process.log').read_text(errors='replace'))
    log.close()


@pytest.fixture
def in_process(bench: Bench, process_log: ProcessLog) -> Iterator[Callable[..., InProcessNode]]:
    """Make a node here: `in_process(Node class, *ROS arguments, parameter=value, ...)`."""
    made: list[InProcessNode] = []

    def run(make: Callable[..., Any], *arguments: str, **parameters: Any) -> InProcessNode:
        given = [*_flags(parameters), *arguments]
        made.append(InProcessNode(make, bench.domain, given, process_log))
        return made[-1]

    yield run
    for one in made:
        one.close()


@pytest.fixture
def depth_node(in_process: Callable[..., InProcessNode]) -> Callable[..., InProcessNode]:
    """Start the depth node: `depth_node(*ROS arguments, parameter=value, ...)`."""

    def run(*arguments: str, **parameters: Any) -> InProcessNode:
        make = functools.partial(DepthNode, FakeFactory())
        return in_process(make, *arguments, **{'diagnostics_period_s': 0.2, **parameters})

    return run


@pytest.fixture
def refusal(bench: Bench) -> Callable[..., str]:
    """Make a node in this process that cannot start: `refusal(Node class, parameter=value, ...)`.

    Returns the reason; that a process logs it and ends with code 1 is the same for every node.
    """

    def run(make: Callable[[], Any], **parameters: Any) -> str:
        rclpy.init(args=['--ros-args', *_flags(parameters)], domain_id=bench.domain)
        try:
            with pytest.raises(PsdDepthError) as refused:
                make()
        finally:
            rclpy.shutdown()
        return str(refused.value)

    return run


@dataclass
class Running:
    """A node with default parameters, a camera that it hears, and the depth it gives."""

    bench: Bench
    node: NodeProcess
    camera: Camera
    depths: list[Any]
    folder: Path


@pytest.fixture(scope='session')
def _shared(
    session_domain: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Bench, NodeProcess]]:
    """One process for the many tests that need nothing special; starting one takes seconds."""
    bench = Bench(session_domain)
    starter = _starter(bench, tmp_path_factory.mktemp('shared'))
    node = next(starter)(FAKE_NODE, diagnostics_period_s=0.2)
    bench.wait_for_state('active')
    yield bench, node
    next(starter, None)
    bench.close()


@pytest.fixture
def running(_shared: tuple[Bench, NodeProcess], tmp_path: Path) -> Iterator[Running]:
    """The shared node, active anew: counts at zero, nothing said yet."""
    bench, node = _shared
    assert bench.change_state('activate') or bench.state() == 'active'
    node.forget()
    bench.diagnostics.clear()
    existing = set(bench.node.subscriptions), set(bench.node.publishers)
    depths = bench.listen(Image, '/depth/image_rect')
    camera = bench.camera()
    camera.wait_for_reader()
    yield Running(bench, node, camera, depths, tmp_path)
    for subscription in set(bench.node.subscriptions) - existing[0]:
        bench.node.destroy_subscription(subscription)
    for publisher in set(bench.node.publishers) - existing[1]:
        bench.node.destroy_publisher(publisher)
    assert bench.change_state('deactivate')
    sys.stdout.write(node.output)


def _flags(parameters: dict[str, Any]) -> list[str]:
    pairs = (f'{name.replace("__", ".")}:={_yaml(value)}' for name, value in parameters.items())
    return [part for pair in pairs for part in ('-p', pair)]


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return '[' + ', '.join(_yaml(one) for one in value) + ']'
    return f'"{value}"' if isinstance(value, str) else str(value)
