"""Part `node`: a real depth_node process, a camera that misbehaves, and the clock over it.

Between events each frame waits for the depth of the one before it, so that nothing is dropped and
latencies compare. After an event depth has to come again within RECOVERY_S.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
import os
from pathlib import Path
import random
import struct
import tempfile
import time
from typing import Any

from lifecycle_msgs.srv import ChangeState
import numpy as np
from processes import Process, start, unused_domain, wait_until
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from soak_cases import resident_mb
from soak_files import write_tiny_checkpoint
from soak_messages import break_image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from psd_depth_ros.data.calibration_file import camera_from_fov
from psd_depth_ros.messages import camera_info_fields, image_fields
from psd_depth_ros.ros.conversions import camera_info_message, image_message, stamp_message

RECOVERY_S = 10.0
ANSWER_S = 5.0  # for the depth of one frame; one that takes longer counts as lost
PERIOD_NS = 33_000_000
BETWEEN = (20, 400)  # frames between two events
SIZES = ((96, 64), (64, 64), (128, 96))
GOOD = (
    ('depth.encoding', ('32FC1', '16UC1')), ('depth.size', ('native', 'network')),
    ('depth.min_confidence', (0.0, 0.3)), ('points.decimation', (1, 2, 4)),
    ('points.rate_hz', (0.0, 5.0)), ('pixel_budget', (6144, 4096, 0)),
    ('scale.factor', (0.0, 2.0)), ('image_reliability', ('auto', 'best_effort')),
)  # fmt: skip
BAD = (
    ('depth.encoding', 'RGB'), ('points.decimation', 0), ('depth.min_confidence', 2.0),
    ('scale.mode', 'relative'), ('checkpoint', '/nowhere.safetensors'), ('device', 'cuda:9'),
    ('pixel_budget', 7),
)  # fmt: skip


def run_node(frames: int, seed: int, end_s: float) -> dict[str, Any]:
    """Send `frames`, or what is sent until the monotonic clock reads `end_s`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = folder / 'tiny.safetensors'
        write_tiny_checkpoint(weights, 0)
        domain = unused_domain()
        arguments = ['-m', 'psd_depth_ros.ros.depth_node.node', '--ros-args']
        parameters = {
            'checkpoint': weights, 'device': 'cpu', 'backend': 'torch', 'use_sim_time': 'true',
            'image_width': SIZES[0][0], 'image_height': SIZES[0][1],
        }  # fmt: skip
        for key, value in parameters.items():
            arguments += ['-p', f'{key}:={value}']
        process = start('depth_node', arguments, domain, folder / 'node.log', False)
        robot = Robot(domain, process, weights, random.Random(seed))
        try:
            figures = robot.run(frames, end_s)
        finally:
            robot.close()
            process.stop()
        log = (folder / 'node.log').read_text(errors='replace')
        tracebacks = log.count('Traceback')
        if tracebacks:
            figures['findings'].append(f'{tracebacks} tracebacks in the log of the node')
        if figures['findings']:
            figures['log_tail'] = log[-3000:]
        return figures


class Robot:
    """Camera, clock and subscriber of one depth node."""

    def __init__(self, domain: int, process: Process, weights: Path, draw: random.Random) -> None:
        self._context = Context()
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        rclpy.init(context=self._context, domain_id=domain)
        self._node = Node('robot', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._process, self._weights, self._draw = process.handle, weights, draw
        self._clock = self._node.create_publisher(Clock, '/clock', 10)
        self._stamp_ns = 1_000_000_000_000
        self._sent = 0
        self._sent_s: dict[int, float] = {}
        self._latencies: list[tuple[int, float]] = []
        self._memory: list[tuple[int, float]] = []
        self._lost = 0
        self._depths = 0
        self.findings: list[str] = []
        self._size, self._version = SIZES[0], 0
        self._images = self._infos = None
        self._advertise(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
        self._listen()

    def close(self) -> None:
        """Leave the domain."""
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def run(self, frames: int, end_s: float) -> dict[str, Any]:
        """Frames with events between them; the figures."""
        self._recover('start', 300.0)
        events: tuple[Callable[[], None], ...] = (
            self._fall_silent, self._change_qos, self._jump, self._reload, self._reload_garbage,
            self._set_parameter, self._set_wrong_parameter, self._restart, self._change_size,
            self._send_broken, self._lose_calibration, self._subscribe_anew, self._flood,
        )  # fmt: skip
        counts, slowest = Counter[str](), Counter[str]()
        start_s, self._sent = time.monotonic(), 0
        while self._sent < frames and time.monotonic() < end_s and self._is_alive():
            for _ in range(self._draw.randint(*BETWEEN)):
                self._send_and_wait()
            self._memory.append((self._sent, resident_mb(self._process.pid)))
            event = self._draw.choice(events)
            name = event.__name__.strip('_')
            event()
            counts[name] += 1
            slowest[name] = max(slowest[name], self._recover(name, RECOVERY_S))
        if not self._is_alive():
            self.findings.append('the node has ended')
        return {
            'frames': self._sent,
            'seconds': round(time.monotonic() - start_s),
            'depths': self._depths,
            'lost_between_events': self._lost,
            'events': dict(sorted(counts.items())),
            'slowest_recovery_s': {name: round(slowest[name], 2) for name in sorted(slowest)},
            **self._latency_figures(),
            **self._memory_figures(),
            'findings': self.findings,
        }

    def _is_alive(self) -> bool:
        return self._process.poll() is None

    def _latency_figures(self) -> dict[str, float]:
        tenth = len(self._latencies) // 10
        values = [value for _, value in self._latencies]
        figures = {}
        for name, part in (('first', values[:tenth]), ('last', values[-tenth:])):
            for percentile in (50, 95):
                key = f'{name}_tenth_ms_p{percentile}'
                figures[key] = round(float(np.percentile(part, percentile)), 2) if part else 0.0
        return figures

    def _memory_figures(self) -> dict[str, Any]:
        """Resident memory: the mean of each tenth of the frames, the last less the second."""
        frames, sizes = np.array(self._memory or [(0, 0.0)]).T
        tenth = np.minimum(10 * frames // max(self._sent, 1), 9)
        means = [float(sizes[tenth == n].mean()) for n in range(10) if np.any(tenth == n)]
        if len(means) < 10:
            return {}
        return {
            'memory_by_tenths_mb': [round(mean, 1) for mean in means],
            'growth_mb': round(means[9] - means[1], 1),
        }

    # What a camera does.

    def _advertise(self, reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> None:
        for old in (self._images, self._infos):
            if old is not None:
                self._node.destroy_publisher(old)
        profile = QoSProfile(depth=2, reliability=reliability, durability=durability)
        self._images = self._node.create_publisher(Image, 'image', profile)
        self._infos = self._node.create_publisher(CameraInfo, 'camera_info', profile)
        self._make_messages()

    def _make_messages(self) -> None:
        width, height = self._size
        header = Header(frame_id='camera_optical')
        pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
        self._image = image_message(header, image_fields(pixels, 'rgb8'))
        fields = camera_info_fields(camera_from_fov(width, height, 70.0))
        self._info = camera_info_message(Header(frame_id='camera_optical'), fields)

    def _send(self, image: Any = None, info: Any = None) -> int:
        self._stamp_ns += PERIOD_NS
        stamp = stamp_message(self._stamp_ns)
        image, info = image or self._image, info or self._info
        image.header.stamp = info.header.stamp = stamp
        if self._sent % 10 == 0:
            self._clock.publish(Clock(clock=stamp))
            self._infos.publish(info)
        self._sent += 1
        self._sent_s[self._stamp_ns] = time.monotonic()
        self._images.publish(image)
        return self._stamp_ns

    def _send_and_wait(self) -> bool:
        stamp_ns = self._send()
        end = time.monotonic() + ANSWER_S
        while stamp_ns in self._sent_s and time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.05)
        is_here = stamp_ns not in self._sent_s
        self._lost += not is_here
        return is_here

    def _listen(self, reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE) -> None:
        profile = QoSProfile(depth=5, reliability=reliability)
        self._depth = self._node.create_subscription(
            Image, 'depth/image_rect', self._take, profile, raw=True
        )

    def _take(self, data: bytes) -> None:
        seconds, nanoseconds = struct.unpack_from('<iI', data, 4)  # CDR: header.stamp
        sent_s = self._sent_s.pop(seconds * 1_000_000_000 + nanoseconds, None)
        if sent_s is not None:
            self._depths += 1
            self._latencies.append((self._sent, 1e3 * (time.monotonic() - sent_s)))

    def _recover(self, what: str, patience_s: float) -> float:
        """Send until depth comes; seconds that it took. Depth of the disturbance is no measure."""
        begin = time.monotonic()
        kept, lost = len(self._latencies), self._lost
        self._sent_s.clear()
        before = self._depths
        while self._depths == before:
            self._send_for(0.1)
            if time.monotonic() - begin > patience_s:
                self.findings.append(f'no depth {patience_s:g} s after {what}')
                print(f'  FINDING {self.findings[-1]} at frame {self._sent}', flush=True)
                break
        taken_s = time.monotonic() - begin
        for _ in range(5):  # what was queued meanwhile
            self._send_and_wait()
        del self._latencies[kept:]
        self._lost = lost
        return taken_s

    def _send_for(self, seconds: float) -> None:
        self._infos.publish(self._info)
        stamp_ns, end = self._send(), time.monotonic() + seconds
        while stamp_ns in self._sent_s and time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.02)

    def _spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.02)

    # Events.

    def _fall_silent(self) -> None:
        self._spin(self._draw.uniform(0.2, 3.0))

    def _change_qos(self) -> None:
        reliability = self._draw.choice(
            (ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT)
        )
        durability = self._draw.choice(
            (DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL)
        )
        self._advertise(reliability, durability)

    def _jump(self) -> None:
        seconds = self._draw.choice((-900.0, -5.0, -0.5, 0.5, 5.0, 900.0))
        self._stamp_ns = max(PERIOD_NS, self._stamp_ns + int(1e9 * seconds))
        self._clock.publish(Clock(clock=stamp_message(self._stamp_ns)))

    def _reload(self) -> None:
        self._version += 1
        write_tiny_checkpoint(self._weights, self._version)
        answer = self._call(Trigger, '/depth_node/reload', Trigger.Request())
        self._expect(answer is not None and answer.success, f'reload said {answer}')

    def _reload_garbage(self) -> None:
        content = bytearray(self._weights.read_bytes())
        content[self._draw.randrange(len(content))] ^= 1 << self._draw.randrange(8)
        self._weights.write_bytes(content)
        answer = self._call(Trigger, '/depth_node/reload', Trigger.Request())
        refused = answer is not None and not answer.success and bool(answer.message)
        self._expect(refused, f'reload of damaged weights said {answer}')
        write_tiny_checkpoint(self._weights, self._version)

    def _set_parameter(self) -> None:
        name, values = self._draw.choice(GOOD)
        result = self._set(name, self._draw.choice(values))
        loading = 'another checkpoint is being loaded'
        fine = result is not None and (result.successful or loading in result.reason)
        self._expect(fine, f'setting {name} said {result}')

    def _set_wrong_parameter(self) -> None:
        name, value = self._draw.choice(BAD)
        result = self._set(name, value)
        refused = result is not None and not result.successful and bool(result.reason)
        self._expect(refused, f'setting {name} to {value} said {result}')

    def _restart(self) -> None:
        steps = ['deactivate', 'activate']
        if self._draw.random() < 0.5:
            steps[1:1] = ['cleanup', 'configure']
        for label in steps:
            request = ChangeState.Request()
            request.transition.label = label
            answer = self._call(ChangeState, '/depth_node/change_state', request)
            self._expect(answer is not None and answer.success, f'{label} said {answer}')

    def _change_size(self) -> None:
        self._size = self._draw.choice(SIZES)
        self._make_messages()

    def _send_broken(self) -> None:
        for _ in range(20):
            self._send(image=break_image(self._draw, *self._size))
            self._executor.spin_once(timeout_sec=0.0)

    def _lose_calibration(self) -> None:
        info = CameraInfo(width=self._size[0], height=self._size[1])
        end = time.monotonic() + self._draw.uniform(0.1, 2.0)
        while time.monotonic() < end:
            self._infos.publish(info)
            self._images.publish(self._image)
            self._spin(0.05)

    def _subscribe_anew(self) -> None:
        self._node.destroy_subscription(self._depth)
        self._spin(self._draw.uniform(0.0, 1.5))
        self._listen(
            self._draw.choice((ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT))
        )

    def _flood(self) -> None:
        for _ in range(100):
            self._send()
        self._spin(0.1)

    def _set(self, name: str, value: Any) -> Any:
        request = SetParameters.Request(
            parameters=[Parameter(name, value=value).to_parameter_msg()]
        )
        answer = self._call(SetParameters, '/depth_node/set_parameters', request)
        return None if answer is None else answer.results[0]

    def _call(self, kind: Any, name: str, request: Any) -> Any:
        """Call a service while the camera goes on; None without an answer."""
        client = self._node.create_client(kind, name)
        try:
            wait_until(lambda: self._spun(client.service_is_ready), f'service {name}', 30.0)
            future, end = client.call_async(request), time.monotonic() + 30.0
            while not future.done() and time.monotonic() < end:
                self._send_for(0.05)
            return future.result() if future.done() else None
        finally:
            self._node.destroy_client(client)

    def _spun(self, done: Callable[[], bool]) -> bool:
        self._executor.spin_once(timeout_sec=0.02)
        return done()

    def _expect(self, is_so: bool, text: str) -> None:
        if not is_so:
            self.findings.append(text)
            print(f'  FINDING {text} at frame {self._sent}', flush=True)
