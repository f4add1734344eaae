#!/usr/bin/env bash
# rosbags finds no messages in an .mcap whose chunks are indexed and whose messages are not.
#
# The MCAP specification makes every index optional, and writers can leave out the one of messages
# (IndexType.CHUNK of the mcap library, noMessageIndex in C++). rosbags reports the right number of
# messages and gives none of them, without an error. A good guess would have been all 5.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q rosbags==0.11.9 mcap==1.6.0
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version
from pathlib import Path

from mcap.reader import make_reader
from mcap.writer import IndexType, Writer
from rosbags.rosbag2 import Reader

writer = Writer('chatter.mcap', index_types=IndexType.CHUNK)
writer.start('ros2')
schema = writer.register_schema('std_msgs/msg/Bool', 'ros2msg', b'bool data\n')
channel = writer.register_channel('/chatter', 'cdr', schema)
for time_ns in range(1, 6):
    writer.add_message(channel, time_ns, b'\x00\x01\x00\x00\x01', time_ns)
writer.finish()
with open('chatter.mcap', 'rb') as stream:
    expected = len(list(make_reader(stream).iter_messages()))
with Reader(Path('chatter.mcap')) as reader:
    claimed, found = reader.message_count, len(list(reader.messages()))
print(
    f'rosbags {version("rosbags")}: {found} of the {claimed} messages it counts; '
    f'mcap {version("mcap")}: {expected}'
)
raise SystemExit(0 if (found, claimed, expected) == (0, 5, 5) else 'this has changed')
PYTHON
