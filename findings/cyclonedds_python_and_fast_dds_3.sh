#!/usr/bin/env bash
# cyclonedds (Python): a reader hears publishers of ROS 2 Jazzy, and nothing of those of ROS 2 Kilted.
#
# cyclonedds 11.0.1; ros-rclpy 7.1.6 (rmw_fastrtps 8.4, Fast DDS 2.14) and 9.1.2 (rmw_fastrtps 9.3,
# Fast DDS 3). The type, the topic and the QoS are the same. Fast DDS 3 describes its types
# with an object that Cyclone DDS calls invalid; the two endpoints then do not match. Neither side
# reports more than that line. A good guess would have been that two implementations of one
# standard that understood each other in one version do so in the next.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for release in 'jazzy 7.1.6 5.3.6' 'kilted 9.1.2 5.5.1'; do
  read -r name rclpy messages <<< "$release"
  python3 -m venv "$folder/$name"
  "$folder/$name/bin/pip" install -q "ros-rclpy[fastrtps]==$rclpy" "ros-std-msgs==$messages" \
    "ros-sensor-msgs==$messages" numpy
done
python3 -m venv "$folder/cyclone"
"$folder/cyclone/bin/pip" install -q cyclonedds==11.0.1
cat > "$folder/publish.py" <<'PYTHON'
import time

import rclpy
from sensor_msgs.msg import CompressedImage

rclpy.init()
node = rclpy.create_node('publisher')
publisher = node.create_publisher(CompressedImage, 'image', 5)
message = CompressedImage(format='jpeg')
message.data = [1, 2, 3]
while rclpy.ok():
    publisher.publish(message)
    time.sleep(0.1)
PYTHON
cat > "$folder/read.py" <<'PYTHON'
from dataclasses import dataclass
import sys
import time

from cyclonedds import idl
from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import annotations, types
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic


@dataclass
@annotations.final
class Time(idl.IdlStruct, typename='builtin_interfaces::msg::dds_::Time_'):
    sec: types.int32
    nanosec: types.uint32


@dataclass
@annotations.final
class Header(idl.IdlStruct, typename='std_msgs::msg::dds_::Header_'):
    stamp: Time
    frame_id: str


@dataclass
@annotations.final
class CompressedImage(idl.IdlStruct, typename='sensor_msgs::msg::dds_::CompressedImage_'):
    header: Header
    format: str
    data: types.sequence[types.uint8]


participant = DomainParticipant(int(sys.argv[1]))
qos = Qos(Policy.Reliability.Reliable(10**9), Policy.History.KeepLast(5))
reader = DataReader(participant, Topic(participant, 'rt/image', CompressedImage), qos)
end = time.monotonic() + 30.0
while time.monotonic() < end:
    for message in reader.take(1):
        print('heard', message.format, list(message.data))
        raise SystemExit
    time.sleep(0.1)
print('heard nothing in 30 s')
PYTHON
export ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST
export CYCLONEDDS_URI='<CycloneDDS><Domain>
  <General><Interfaces><NetworkInterface address="127.0.0.1" multicast="false"/></Interfaces></General>
  <Discovery><ParticipantIndex>auto</ParticipantIndex><Peers><Peer Address="127.0.0.1"/></Peers></Discovery>
</Domain></CycloneDDS>'
said=''
domain=151
for name in jazzy kilted; do
  ROS_DOMAIN_ID=$domain AMENT_PREFIX_PATH="$folder/$name" "$folder/$name/bin/python" \
    "$folder/publish.py" &
  publisher=$!
  heard=$("$folder/cyclone/bin/python" "$folder/read.py" $domain 2> "$folder/$name.log")
  kill -KILL $publisher
  wait $publisher 2> /dev/null || true
  complained=$(grep -c 'invalid type object' "$folder/$name.log" || true)
  said+="$name: $heard, 'invalid type object': $complained lines"$'\n'
  domain=$((domain + 1))
done
printf 'cyclonedds 11.0.1\n%s' "$said"
grep -q "^jazzy: heard jpeg \[1, 2, 3\], 'invalid type object': 0 " <<< "$said"
grep -q "^kilted: heard nothing in 30 s, 'invalid type object': [1-9]" <<< "$said"
