#!/usr/bin/env bash
# An attribute such as _parameters, _logger or _timers of a subclass replaces that of rclpy's Node.
#
# ros-rclpy 7.1.6. Assigning them raises and logs nothing, and what fails is elsewhere: a declared
# parameter can still be described but not be found, listed or read; get_logger() returns the new
# value; a timer never fires, as the executor reads the list. The documentation of Node names no
# reserved attributes. A good guess would have been that a Node, a class made to be derived from,
# keeps its state under names of its own (two underscores, as it does for its handle and executor).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ros-rclpy==7.1.6 ros-rmw-fastrtps-cpp==8.4.3 ros-fastrtps==2.14.5
cd "$folder"
export RMW_IMPLEMENTATION=rmw_fastrtps_cpp ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export ROS_DOMAIN_ID=$((RANDOM % 90 + 1)) ROS_LOG_DIR=$folder
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version
import time

import rclpy
from rclpy.exceptions import ParameterNotDeclaredException
from rclpy.node import Node


class Talker(Node):
    def __init__(self, prefix):
        super().__init__(f'{prefix}_talker')
        self.declare_parameter('rate', 10.0)
        self.ticks = 0
        self.create_timer(0.05, self.tick)
        setattr(self, f'{prefix}_parameters', {})
        setattr(self, f'{prefix}_logger', None)
        setattr(self, f'{prefix}_timers', [])

    def tick(self):
        self.ticks += 1


def look(prefix):
    node = Talker(prefix)
    end = time.monotonic() + 1
    while time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    try:
        value = node.get_parameter('rate').value
    except ParameterNotDeclaredException:
        value = 'not declared'
    found = {
        'described as': node.describe_parameter('rate').name,
        'found': node.has_parameter('rate'),
        'listed': 'rate' in node.list_parameters([], 0).names,
        'value': value,
        'logger': node.get_logger() is not None,
        'timer': node.ticks > 0,
    }
    print(f'{prefix}_parameters, {prefix}_logger, {prefix}_timers: {found}')
    return list(found.values())


rclpy.init()
same = look('my') == ['rate', True, True, 10.0, True, True]
same = look('') == ['rate', False, False, 'not declared', False, False] and same
rclpy.shutdown()
print(f'ros-rclpy {version("ros-rclpy")}')
raise SystemExit(0 if same else 'this has changed')
PYTHON
