#!/usr/bin/env bash
# rosbags opens a .db3 as immutable, so it never sees the write-ahead log (-wal) beside it.
#
# A rosbag2 recorder that is killed (preset "resilient", SQLite in WAL mode) leaves its newest
# messages there. sqlite3 reads all 8 messages below, rosbags the 3 that were merged, without a
# word. A good guess would have been 8, or an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q rosbags==0.11.9
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version
from pathlib import Path
import shutil
import sqlite3

from rosbags.rosbag2 import Reader

database = sqlite3.connect('recording.db3')
database.execute('PRAGMA journal_mode=WAL')
database.execute('PRAGMA wal_autocheckpoint=0')
database.executescript(
    'CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT, type TEXT, '
    'serialization_format TEXT, offered_qos_profiles TEXT);'
    'CREATE TABLE messages (id INTEGER PRIMARY KEY, topic_id INTEGER, timestamp INTEGER, '
    'data BLOB);'
)
database.execute("INSERT INTO topics VALUES (1, '/chatter', 'std_msgs/msg/Bool', 'cdr', '')")


def record(times):
    for time_ns in times:
        row = (time_ns, b'\x00\x01\x00\x00\x01')
        database.execute('INSERT INTO messages (topic_id, timestamp, data) VALUES (1, ?, ?)', row)
    database.commit()


record(range(1, 4))
database.execute('PRAGMA wal_checkpoint(TRUNCATE)')
record(range(4, 9))
# What is on the disk when the recorder is killed now:
shutil.copy('recording.db3', 'killed.db3')
shutil.copy('recording.db3-wal', 'killed.db3-wal')
with Reader(Path('killed.db3')) as reader:
    found = len(list(reader.messages()))
merged = sqlite3.connect('killed.db3').execute('SELECT COUNT(*) FROM messages').fetchone()[0]
print(f'rosbags {version("rosbags")}: {found} messages; sqlite3: {merged}')
raise SystemExit(0 if (found, merged) == (3, 8) else 'this has changed')
PYTHON
