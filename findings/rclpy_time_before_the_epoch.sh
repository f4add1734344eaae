#!/usr/bin/env bash
# rclpy.time.Time.from_msg refuses stamps that the definition of their message gives as an example.
#
# builtin_interfaces/msg/Time says that sec is valid over all of int32 and how -1.7 s is written:
# sec -2, nanosec 300000000. ros-rclpy 7.1.6 raises ValueError for it, and its documentation of
# from_msg names no error. The same numbers in a Duration message are read. A good guess would have
# been a Time of -1700000000 ns: Time keeps its nanoseconds in a signed number.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ros-rclpy==7.1.6 ros-rmw-fastrtps-cpp==8.4.3 \
  ros-fastrtps==2.14.5 ros-builtin-interfaces==2.0.3
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

from builtin_interfaces.msg import Duration as DurationMessage
from builtin_interfaces.msg import Time as TimeMessage
from rclpy.duration import Duration
from rclpy.time import Time

numbers = {'sec': -2, 'nanosec': 300_000_000}
duration_ns = Duration.from_msg(DurationMessage(**numbers)).nanoseconds
try:
    found = str(Time.from_msg(TimeMessage(**numbers)).nanoseconds)
except ValueError as error:
    found = f'ValueError: {error}'
print(f'ros-rclpy {version("ros-rclpy")}: duration {duration_ns} ns; time {found}')
same = duration_ns == -1_700_000_000 and found.startswith('ValueError')
raise SystemExit(0 if same else 'this has changed')
PYTHON
