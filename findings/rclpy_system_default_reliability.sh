#!/usr/bin/env bash
# rclpy with Fast DDS: SYSTEM_DEFAULT reliability is best effort for a reader and reliable for a writer.
#
# ros-rclpy 7.1.6 (Jazzy), rmw_fastrtps_cpp 8.4.3. RTAB-Map and nodes of image_pipeline ask for it
# by default: large images, which a best-effort reader loses with the default transports, are
# lost though the publisher is reliable. A good guess would have been the default of ROS 2,
# reliable, on both sides.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'ros-rclpy[fastrtps]==7.1.6' ros-std-msgs==5.3.6 numpy
cat > "$folder/look.py" <<'PYTHON'
import time

import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import String

rclpy.init()
node = rclpy.create_node('looks')
profile = QoSProfile(depth=1, reliability=ReliabilityPolicy.SYSTEM_DEFAULT)
kept = node.create_publisher(String, 'words', profile), node.create_subscription(
    String, 'words', print, profile
)
end = time.monotonic() + 20.0
found = {}
while len(found) < 2 and time.monotonic() < end:
    time.sleep(0.1)
    for kind, ask in (
        ('writer', node.get_publishers_info_by_topic),
        ('reader', node.get_subscriptions_info_by_topic),
    ):
        found |= {kind: one.qos_profile.reliability.name for one in ask('/words')}
print('rclpy 7.1.6, SYSTEM_DEFAULT is', found)
raise SystemExit(0 if found == {'writer': 'RELIABLE', 'reader': 'BEST_EFFORT'} else 'changed')
PYTHON
ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST ROS_DOMAIN_ID=153 AMENT_PREFIX_PATH="$folder/venv" \
  "$folder/venv/bin/python" "$folder/look.py"
