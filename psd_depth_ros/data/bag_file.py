"""One file of a recording: its channels and its messages in the order of their recording.

SQLite (`.db3`) and ROS 1 (`.bag`) are here, MCAP is in `mcap`. Which files a recording is
made of is decided in `bag_storage`, what their bytes mean in `message_types`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
import heapq
from pathlib import Path
import sqlite3

from rosbags.rosbag1 import Reader as Rosbag1Reader

from psd_depth_ros.errors import BagError

# (time, channel, bytes)
Stored = tuple[int, int, bytes]
# What damaged tables and values of other types lead to.
_DAMAGE = (sqlite3.Error, ValueError, TypeError)
_TABLES = {'messages', 'topics'}


@dataclass(frozen=True)
class Channel:
    """A topic in a file, with the type as stored and the text that defines it.

    `encoding` is that of the messages (`cdr`, `ros1`, or one that is not of ROS), `schema` that of
    the definition: `ros2msg`, `ros2idl`, `ros1msg`, another, or empty where there is none.
    `digest` is the type's RIHS01 hash (REP 2016) where the recorder wrote one.
    """

    number: int
    topic: str
    msgtype: str
    encoding: str
    count: int
    schema: str = ''
    definition: str = ''
    digest: str = ''


class BagFile(ABC):
    """An open file of a recording.

    `start_ns` and `end_ns` are the times of the first and last message, both 0 where there is
    none. `notes` say what was lost or put right; those of damage found on the way come with it.
    Messages speak of `path`, which is `named` where what is read is a copy.
    """

    def __init__(self, path: Path, named: Path | None = None) -> None:
        self.path = path if named is None else named
        self.channels: list[Channel] = []
        self.start_ns = 0
        self.end_ns = 0
        self.notes: list[str] = []

    @abstractmethod
    def messages(self, numbers: Collection[int], start_ns: int, stop_ns: int) -> Iterator[Stored]:
        """Messages of some channels recorded in [start_ns, stop_ns), in order of time."""

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    @property
    def count(self) -> int:
        """Number of messages."""
        return sum(channel.count for channel in self.channels)


class SqliteFile(BagFile):
    """A `.db3` of rosbag2, of any version of its tables; it is never written to.

    Of one that is cut short or damaged every message is read that still can be.
    """

    def __init__(self, path: Path, named: Path | None = None) -> None:
        super().__init__(path, named)
        # Where the file is damaged or has no index by time: time, row and topic of each message.
        self._rows_left: list[tuple[int, int, int]] | None = None
        self._lost: set[int] = set()
        # Immutable: no -shm or lock file beside it, so read-only media can be read. What a killed
        # recorder left in a write-ahead log was merged before, see `bag_storage`.
        uri = f'{path.resolve().as_uri()}?mode=ro&immutable=1'
        try:
            self._database = sqlite3.connect(uri, uri=True, check_same_thread=False)
        except sqlite3.Error as error:
            raise _unreadable_database(self.path, error) from error
        try:
            self._open_tables()
        except _DAMAGE as error:
            self._database.close()
            raise _unreadable_database(self.path, error) from error
        except BagError:
            self._database.close()
            raise

    def messages(self, numbers: Collection[int], start_ns: int, stop_ns: int) -> Iterator[Stored]:
        """Messages by time, those of one time in the order they were written."""
        marks = ','.join('?' * len(numbers))
        query = (
            f'SELECT timestamp, id, topic_id, data FROM messages WHERE topic_id IN ({marks}) '
            'AND timestamp >= ? AND timestamp < ? ORDER BY timestamp, id'
        )
        limits = (start_ns, min(stop_ns, 2**63 - 1))
        last = (-1, -1)
        if self._rows_left is None:
            try:
                for time_ns, row, number, data in self._database.execute(
                    query, (*numbers, *limits)
                ):
                    last = (int(time_ns), row)
                    yield last[0], number, bytes(data)
                return
            except _DAMAGE as error:
                try:
                    self._find_rows(error)
                except _DAMAGE as damage:
                    raise _unreadable_database(self.path, damage) from damage
        for time_ns, row, number in self._rows_left or ():
            if (time_ns, row) > last and number in numbers and limits[0] <= time_ns < limits[1]:
                data = self._read_row(row)
                if data is None:
                    self._lose(row)
                else:
                    yield time_ns, number, data

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _open_tables(self) -> None:
        try:
            self._read_tables()
        except _DAMAGE as error:
            # A file that is shorter than it says is opened only so. Nothing can be written to it.
            self._database.execute('PRAGMA writable_schema=ON')
            self.channels.clear()
            self._read_tables(error)

    def _read_tables(self, damage: Exception | None = None) -> None:
        found = {row[0] for row in self._rows("SELECT name FROM sqlite_master WHERE type='table'")}
        if not found and not self.path.stat().st_size:
            raise BagError(
                f'bag {self.path} is empty: the file has 0 bytes, nothing of it can be saved; '
                'record it again'
            )
        if not found >= _TABLES:
            raise BagError(
                f'{self.path} is a database, but no bag of rosbag2: its tables are '
                f'{", ".join(sorted(found)) or "none"}, expected messages and topics'
            )
        columns = {row[1] for row in self._rows('PRAGMA table_info(topics)')}
        digest = 'type_description_hash' if 'type_description_hash' in columns else "''"
        definitions: dict[str, tuple[str, str]] = {}
        if 'message_definitions' in found:
            query = 'SELECT topic_type, encoding, encoded_message_definition '
            for name, schema, text in self._rows(f'{query} FROM message_definitions ORDER BY id'):
                definitions.setdefault(name, (schema, text))
        counts = self._count() if damage is None else self._find_rows(damage)
        if self._rows_left is None and not self._has_index():
            # SQLite would sort the messages with all their bytes.
            self._rows_left = sorted(self._each('SELECT timestamp, id, topic_id FROM messages'))
        query = f'SELECT id, name, type, serialization_format, {digest} FROM topics ORDER BY id'
        for number, topic, msgtype, encoding, hashed in self._rows(query):
            if not all(isinstance(value, str) for value in (topic, msgtype, encoding)):
                self.notes.append(
                    f'{self.path}: the entry of topic {topic!r} is damaged, and lost'
                )
                continue
            schema, text = definitions.get(msgtype, ('', ''))
            count = int(counts.get(number, 0))
            self.channels.append(
                Channel(number, topic, msgtype, encoding, count, schema, text, hashed or '')
            )

    def _count(self) -> dict[int, int]:
        (span,) = self._rows('SELECT MIN(timestamp), MAX(timestamp) FROM messages')
        self.start_ns, self.end_ns = (int(time_ns or 0) for time_ns in span)
        return dict(self._rows('SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id'))

    def _has_index(self) -> bool:
        names = [row[1] for row in self._rows('PRAGMA index_list(messages)')]
        columns = [self._rows(f'PRAGMA index_info("{name}")') for name in names]
        return any(found and found[0][2] == 'timestamp' for found in columns)

    # Damage.

    def _find_rows(self, damage: Exception) -> dict[int, int]:
        """List the messages whose rows can be read; returns how many each topic has of them.

        Raises the damage where there is none.
        """
        found: list[tuple[int, int, int]] = []
        query = 'SELECT timestamp, id, topic_id FROM messages'
        with suppress(sqlite3.DatabaseError):
            found += self._each(f'{query} ORDER BY id')
        highest = found[-1][1] if found else -1
        with suppress(sqlite3.DatabaseError):  # and from the end, as far as the damage
            found += self._each(f'{query} WHERE id > {highest} ORDER BY id DESC')
        readable = sorted(row for row in found if self._read_row(row[1]) is not None)
        if not readable:
            raise damage
        self._rows_left = readable
        self.start_ns, self.end_ns = readable[0][0], readable[-1][0]
        self.notes.append(
            f'{self.path} is cut short or damaged ({damage}): {len(readable)} messages are read, '
            'all others are lost'
        )
        return Counter(number for _, _, number in readable)

    def _lose(self, row: int) -> None:
        """Count a message that cannot be read, once, in one note."""
        former = self._lost_words()
        self._lost.add(row)
        self.notes = [note for note in self.notes if note != former] + [self._lost_words()]

    def _lost_words(self) -> str:
        return f'{self.path} is damaged: {len(self._lost)} messages are lost'

    def _each(self, query: str) -> Iterator[tuple[int, int, int]]:
        for values in self._database.execute(query):
            if all(isinstance(value, int) for value in values):  # else of a page of noise
                yield values

    def _read_row(self, row: int) -> bytes | None:
        """The bytes of a message, None where they cannot be read."""
        with suppress(sqlite3.DatabaseError):
            found = self._database.execute('SELECT data FROM messages WHERE id = ?', (row,))
            (data,) = found.fetchone() or (None,)
            return data if isinstance(data, bytes) else None
        return None

    def _rows(self, query: str) -> list[tuple]:
        return self._database.execute(query).fetchall()


class Ros1File(BagFile):
    """A `.bag` of ROS 1, its chunks uncompressed, bz2 or lz4."""

    def __init__(self, path: Path, named: Path | None = None) -> None:
        super().__init__(path, named)
        self._reader = Rosbag1Reader(path)
        try:
            self._reader.open()
        except Exception as error:
            with suppress(Exception):
                self._reader.close()
            raise _unreadable_ros1(self.path, error) from error
        self._connections = {one.id: one for one in self._reader.connections}
        for one in self._reader.connections:
            text = getattr(one.msgdef, 'data', one.msgdef)
            self.channels.append(
                Channel(one.id, one.topic, one.msgtype, 'ros1', one.msgcount, 'ros1msg', str(text))
            )
        if self.count:
            self.start_ns = int(self._reader.start_time)
            self.end_ns = int(self._reader.end_time) - 1

    def messages(self, numbers: Collection[int], start_ns: int, stop_ns: int) -> Iterator[Stored]:
        """Messages by time."""
        wanted = [self._connections[number] for number in numbers]
        if not wanted:
            return
        try:
            for one, time_ns, raw in self._reader.messages(wanted, start_ns, stop_ns):
                yield time_ns, one.id, raw
        except Exception as error:
            raise _unreadable_ros1(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


def merge_by_time(
    blocks: Iterable[tuple[int, Iterator[Stored]]],
) -> Iterator[tuple[int, Stored]]:
    """Merge blocks of messages, each in order, that begin at the given times.

    Yields each message with the place of its block. A block is opened only when its time has
    come, so that no more are in memory than overlap.
    """
    waiting = sorted(enumerate(blocks), key=lambda one: (one[1][0], one[0]), reverse=True)
    heap: list[tuple[int, int, Stored, Iterator[Stored]]] = []

    def push(place: int, block: Iterator[Stored]) -> None:
        item = next(block, None)
        if item is not None:
            heapq.heappush(heap, (item[0], place, item, block))

    while waiting or heap:
        while waiting and (not heap or waiting[-1][1][0] <= heap[0][0]):
            place, (_, block) = waiting.pop()
            push(place, block)
        if heap:
            _, place, item, block = heapq.heappop(heap)
            yield place, item
            push(place, block)


def _unreadable_database(path: Path, error: Exception) -> BagError:
    return BagError(
        f'bag {path} is empty, cut short or damaged: {error}. What is left of it may be saved '
        f'with `sqlite3 {path.name} .recover | sqlite3 saved.db3`'
    )


def _unreadable_ros1(path: Path, error: Exception) -> BagError:
    detail = ' '.join(str(error).split()) or type(error).__name__
    return BagError(
        f'bag {path} is empty, cut short or damaged: {detail}. A ROS 1 bag that was not closed '
        f'(.bag.active) is mended with `rosbag reindex {path.name}` of ROS 1'
    )
