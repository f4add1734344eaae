#!/usr/bin/env bash
# rclpy with Fast DDS: one message that arrives within milliseconds is acknowledged after 3 s.
#
# Fast DDS 2.14.5 (Jazzy). Publisher and subscription, both reliable, in two processes of one
# machine. The subscription has each single message within a few ms (its stamp of arrival is printed
# beside the time that wait_for_all_acked took), and the publisher learns it with its next periodic
# heartbeat: 3.0 s later. In one process the wait takes 0 ms. A program that publishes little and
# waits before it ends, ends 3 s later. With a writer profile of heartbeatPeriod 0.1 s, in the XML
# file that FASTRTPS_DEFAULT_PROFILES_FILE names, it takes 0.1 s; rclpy has no parameter for it.
# (Fast DDS 3.2, which this does not run, calls the element heartbeat_period, and refuses a file
# with the old name.) A good guess would have been that an acknowledgement takes as long as the
# message.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ros-rclpy==7.1.6 ros-rmw-fastrtps-cpp==8.4.3 \
  ros-fastrtps==2.14.5 ros-std-msgs==5.3.6
cat > "$folder/profile.xml" <<'XML'
<profiles xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles">
  <data_writer profile_name="writer" is_default_profile="true">
    <times><heartbeatPeriod><nanosec>100000000</nanosec></heartbeatPeriod></times>
  </data_writer>
</profiles>
XML
cat > "$folder/wait.py" <<'PYTHON'
from importlib.metadata import version
import subprocess
import sys
import time

import rclpy
from rclpy.duration import Duration
from std_msgs.msg import Int32

rclpy.init()
node = rclpy.create_node('node')
case = sys.argv[1]
if case == 'listener':
    node.create_subscription(Int32, 'number', lambda _: print(time.monotonic(), flush=True), 10)
    while True:
        rclpy.spin_once(node)
publisher = node.create_publisher(Int32, 'number', 10)
listener = None
if case == 'same':
    node.create_subscription(Int32, 'number', print, 10)
else:
    command = [sys.executable, __file__, 'listener']
    listener = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
end = time.monotonic() + 20
while not publisher.get_subscription_count() and time.monotonic() < end:
    time.sleep(0.01)
assert publisher.get_subscription_count() == 1, 'no subscription'
time.sleep(1.0)
waits = []
for _ in range(3):
    start = time.monotonic()
    publisher.publish(Int32())
    assert publisher.wait_for_all_acked(Duration(seconds=10))
    waits.append(time.monotonic() - start)
    arrived = f', arrived after {float(listener.stdout.readline()) - start:.3f} s' if listener else ''
    print(f'{case}: acknowledged after {waits[-1]:.3f} s{arrived}', flush=True)
if listener:
    listener.kill()
node.destroy_node()
rclpy.shutdown()
print(f'ros-rclpy {version("ros-rclpy")}, ros-fastrtps {version("ros-fastrtps")}')
# The first may come with a heartbeat that was under way.
low, high = {'other': (2.5, 3.5), 'same': (0.0, 0.05), 'profile': (0.05, 0.5)}[case]
raise SystemExit(0 if all(low <= wait <= high for wait in waits[1:]) else 'this has changed')
PYTHON
python() { AMENT_PREFIX_PATH="$folder/venv" "$folder/venv/bin/python" "$folder/wait.py" "$@"; }
export RMW_IMPLEMENTATION=rmw_fastrtps_cpp ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export ROS_DOMAIN_ID=$((RANDOM % 90 + 1)) ROS_LOG_DIR=$folder
unset FASTRTPS_DEFAULT_PROFILES_FILE FASTDDS_BUILTIN_TRANSPORTS
python other
python same
FASTRTPS_DEFAULT_PROFILES_FILE="$folder/profile.xml" python profile
