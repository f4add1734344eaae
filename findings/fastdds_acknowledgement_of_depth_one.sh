#!/usr/bin/env bash
# rclpy with Fast DDS: wait_for_all_acked times out on a latched topic, though all has arrived.
#
# Fast DDS 2.14.5 (Jazzy). A transient-local publisher of depth 1 published once; then a reliable
# volatile subscription joins in the same process; then a second message is published. The
# subscription receives it, and the wait still ends by its timeout (tested to 6.5 s, more than two
# heartbeats; the script waits for 4), after further messages too. It gives True with depth 2, with
# a transient-local subscription, without a first message, or with the subscription in another
# process. A good guess would have been True in all these cases.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ros-rclpy==7.1.6 ros-rmw-fastrtps-cpp==8.4.3 \
  ros-fastrtps==2.14.5 ros-std-msgs==5.3.6
cat > "$folder/wait.py" <<'PYTHON'
from importlib.metadata import version
import subprocess
import sys
import time

import rclpy
from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import Int32

LATCHED, VOLATILE = DurabilityPolicy.TRANSIENT_LOCAL, DurabilityPolicy.VOLATILE
rclpy.init()
node = rclpy.create_node('node')
if len(sys.argv) > 1:
    node.create_subscription(Int32, sys.argv[1], print, QoSProfile(depth=5, durability=VOLATILE))
    sys.stdin.read()  # until the other process closes it
    node.destroy_node()
    rclpy.shutdown()
    sys.exit(0)


def wait(topic, depth=1, durability=VOLATILE, first=True, later=0, process=False):
    publisher = node.create_publisher(Int32, topic, QoSProfile(depth=depth, durability=LATCHED))
    if first:
        publisher.publish(Int32(data=1))
    received, other = [], None
    if process:
        other = subprocess.Popen([sys.executable, __file__, topic], stdin=subprocess.PIPE)
    else:
        qos = QoSProfile(depth=5, durability=durability)
        node.create_subscription(Int32, topic, lambda message: received.append(message.data), qos)
    end = time.monotonic() + 10
    while not publisher.get_subscription_count() and time.monotonic() < end:
        time.sleep(0.01)
    assert publisher.get_subscription_count() == 1, 'no subscription'
    time.sleep(0.3)
    for number in range(2, 3 + later):
        publisher.publish(Int32(data=number))
    acknowledged = publisher.wait_for_all_acked(Duration(seconds=4))
    end = time.monotonic() + 2
    while not process and 2 + later not in received and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.1)
    if other:
        other.communicate()
    case = f'{topic}: acknowledged {acknowledged}'
    print(case if process else f'{case}, received {received}', flush=True)
    return acknowledged, received


latched = wait('latched')
later = wait('latched_and_later_messages', later=2)
others = [
    wait('depth_2', depth=2),
    wait('transient_local_subscription', durability=LATCHED),
    wait('no_first_message', first=False),
    wait('other_process', process=True),
]
node.destroy_node()
rclpy.shutdown()
print(f'ros-rclpy {version("ros-rclpy")}, ros-fastrtps {version("ros-fastrtps")}')
same = latched == (False, [2]) and later == (False, [2, 3, 4])
same = same and all(acknowledged for acknowledged, _ in others)
raise SystemExit(0 if same else 'this has changed')
PYTHON
export RMW_IMPLEMENTATION=rmw_fastrtps_cpp ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export ROS_DOMAIN_ID=$((RANDOM % 90 + 1)) ROS_LOG_DIR=$folder
"$folder/venv/bin/python" "$folder/wait.py"
