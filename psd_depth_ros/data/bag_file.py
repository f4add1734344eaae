"""One file of a recording: its channels and its messages in the order of their recording.

What all kinds have in common is here, and MCAP, read and written (https://mcap.dev/spec, version
0); SQLite and ROS 1 are in `bag_storage`, which also decides which files a recording is made of.
What the bytes mean is in `message_types`.

MCAP files are read by their index, or from the front where it is missing or untrue. What other
recorders and cut or damaged files have is read as far as it is whole; `notes` say what was lost.
What is written depends on the calls alone: no clock, no random identifiers, no file name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
import heapq
from pathlib import Path
import struct
from typing import BinaryIO
import zlib

import numpy as np

from psd_depth_ros.data.compression import compress_zstd, decompress, decompress_start
from psd_depth_ros.errors import BagError

# (time, channel, bytes)
Stored = tuple[int, int, bytes]

MAGIC = b'\x89MCAP0\r\n'
_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE = 0x01, 0x02, 0x03, 0x04, 0x05
_CHUNK, _MESSAGE_INDEX, _CHUNK_INDEX = 0x06, 0x07, 0x08
_STATISTICS, _SUMMARY_OFFSET, _DATA_END = 0x0B, 0x0E, 0x0F
_LAST_KNOWN, _FIRST_PRIVATE = 0x0F, 0x80
_FOOTER_BYTES = 9 + 20 + len(MAGIC)
_MESSAGE_HEAD = struct.Struct('<HIQQ')
_RECORD_HEAD = struct.Struct('<BQ')
_LIBRARY = 'psd_depth_ros'
_CHUNK_BYTES = 4 << 20  # of a chunk that is written
# A chunk says how large it is once unpacked; recorders write some MB.
_LARGEST_CHUNK = 4 << 30
Data = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Channel:
    """A topic in a file, with the type as stored and the text that defines it.

    `encoding` is that of the messages (`cdr`, `ros1`, or one that is not of ROS), `schema` that of
    the definition: `ros2msg`, `ros2idl`, `ros1msg`, another, or empty without a definition.
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

    `start_ns` and `end_ns` are the times of the first and last message, both 0 where it is
    empty. `notes` say what was lost or put right; those of damage found on the way come with it.
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


@dataclass(frozen=True)
class _Chunk:
    """Where a chunk is and what is in it; `channels` is None where that is not known.

    `whole` is false for one that the end of the file cuts short.
    """

    offset: int
    length: int
    start_ns: int
    end_ns: int
    channels: frozenset[int] | None = None
    whole: bool = True


@dataclass
class _Loose:
    """Messages outside of chunks: time, channel, and where their bytes are."""

    times: array[int] = field(default_factory=lambda: array('Q'))
    channels: array[int] = field(default_factory=lambda: array('H'))
    offsets: array[int] = field(default_factory=lambda: array('Q'))
    sizes: array[int] = field(default_factory=lambda: array('Q'))


class _DamageError(Exception):
    """Bytes that are not what the specification says."""


class McapReader(BagFile):
    """An MCAP file of any recorder. Raises BagError where nothing of it can be read."""

    def __init__(self, path: Path, named: Path | None = None) -> None:
        super().__init__(path, named)
        self._forget()
        self._damaged: set[int] = set()
        try:
            self._stream = path.open('rb')
        except OSError as error:
            raise BagError(f'bag {self.path} cannot be opened: {error.strerror}') from error
        try:
            self._size = path.stat().st_size
            begin = self._read_header()
            if not self._read_summary(begin):
                self._forget()
                self._scan(begin)
            self._finish()
        except _DamageError as error:
            self.close()
            raise self._unreadable(str(error)) from error
        except BaseException:
            self.close()
            raise

    def messages(self, numbers: Collection[int], start_ns: int, stop_ns: int) -> Iterator[Stored]:
        """Messages by time; a damaged chunk is left out and noted."""
        wanted = frozenset(numbers)
        blocks = [
            (chunk.start_ns, self._chunk_messages(chunk, wanted, start_ns, stop_ns))
            for chunk in self._chunks
            if chunk.end_ns >= start_ns
            and chunk.start_ns < stop_ns
            and (chunk.channels is None or chunk.channels & wanted)
        ]
        if self._loose.times:
            loose = self._loose_messages(wanted, start_ns, stop_ns)
            blocks.append((min(self._loose.times), loose))
        return (item for _, item in merge_by_time(blocks))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _forget(self) -> None:
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._found: dict[int, tuple[int, str, str, str]] = {}
        self._chunks: list[_Chunk] = []
        self._loose = _Loose()
        self._counts: Counter[int] = Counter()

    def _finish(self) -> None:
        for number, (schema, topic, encoding, digest) in self._found.items():
            name, kind, text = self._schemas.get(schema, ('', '', ''))
            count = self._counts[number]
            self.channels.append(Channel(number, topic, name, encoding, count, kind, text, digest))
        spans = [(chunk.start_ns, chunk.end_ns) for chunk in self._chunks]
        if self._loose.times:
            spans.append((min(self._loose.times), max(self._loose.times)))
        if spans and self.count:
            self.start_ns = min(span[0] for span in spans)
            self.end_ns = max(span[1] for span in spans)

    def _read_header(self) -> int:
        """Check magic and header; return where the data begin."""
        start = self._stream.read(len(MAGIC))
        if not start:
            raise _DamageError('the file has 0 bytes')
        if start != MAGIC:
            raise _DamageError(f'it begins with {start!r}, which is not the mark of MCAP')
        opcode, length = self._record_head(len(MAGIC))
        end = self._stream.tell() + length
        if opcode != _HEADER or end > self._size:
            raise _DamageError('its header is not whole')
        return end

    def _record_head(self, offset: int) -> tuple[int, int]:
        self._stream.seek(offset)
        head = self._stream.read(_RECORD_HEAD.size)
        if len(head) < _RECORD_HEAD.size:
            raise _DamageError(f'the record at byte {offset} is cut short')
        return _RECORD_HEAD.unpack(head)

    # The index at the end.

    def _read_summary(self, begin: int) -> bool:
        """Take channels, counts and places of chunks from the summary; false where it lacks any.

        Statistics, channels and chunk index must be there and agree with each other: some writers
        leave one out, and a file without its end has none.
        """
        if self._size < begin + _FOOTER_BYTES:
            return False
        self._stream.seek(self._size - _FOOTER_BYTES)
        footer = self._stream.read(_FOOTER_BYTES)
        opcode, length, start, _, crc = struct.unpack_from('<BQQQI', footer)
        if footer[-len(MAGIC) :] != MAGIC or (opcode, length) != (_FOOTER, 20):
            return False
        stop = self._size - _FOOTER_BYTES
        if not begin <= start <= stop or start == 0:
            return False
        self._stream.seek(start)
        summary = self._stream.read(stop - start)
        if crc and zlib.crc32(footer[: 9 + 16], zlib.crc32(summary)) != crc:
            return False
        try:
            statistics = self._read_index(summary)
        except (_DamageError, struct.error, ValueError):
            return False
        if statistics is None:
            return False
        messages, channels, chunks = statistics
        self._chunks.sort(key=lambda chunk: chunk.offset)
        return (
            len(self._found) == channels
            and all(schema in self._schemas or schema == 0 for schema, *_ in self._found.values())
            and len(self._chunks) == chunks
            and sum(self._counts.values()) == messages
            and (bool(self._chunks) or not messages)
            and all(chunk.offset + chunk.length <= start for chunk in self._chunks)
        )

    def _read_index(self, summary: bytes) -> tuple[int, int, int] | None:
        statistics = None
        for opcode, body in _records(memoryview(summary)):
            if opcode == _STATISTICS:
                messages, _, channels, _, _, chunks = struct.unpack_from('<QHIIII', body)
                statistics = messages, channels, chunks
                (size,) = struct.unpack_from('<I', body, 42)
                self._counts.update(dict(struct.iter_unpack('<HQ', body[46 : 46 + size])))
            elif opcode == _CHUNK_INDEX:
                first, last, offset, length, size = struct.unpack_from('<QQQQI', body)
                (indexed,) = struct.unpack_from('<Q', body, 36 + size)
                known = [number for number, _ in struct.iter_unpack('<HQ', body[36 : 36 + size])]
                channels_of = frozenset(known) if indexed else None
                self._chunks.append(_Chunk(offset, length, first, last, channels_of))
            else:
                self._describe(opcode, body)
        return statistics

    # From the front.

    def _scan(self, begin: int) -> None:
        """Read every record of the data; note where that ends too early."""
        offset, closed = begin, False
        while offset < self._size and not closed:
            try:
                opcode, length = self._record_head(offset)
                start = offset + _RECORD_HEAD.size
                if opcode == 0 or _LAST_KNOWN < opcode < _FIRST_PRIVATE:
                    raise _DamageError(
                        f'at byte {offset} of {self._size} is no record of MCAP; what comes after '
                        'it is lost'
                    )
                if start + length > self._size:
                    self._salvage(opcode, offset)
                    raise _DamageError(
                        f'it ends at byte {self._size}, in the middle of a record: the last '
                        f'messages, up to {self._size - offset} bytes, are cut short'
                    )
                self._take(opcode, start, length)
            except _DamageError as error:
                self.notes.append(f'{self.path}: {error}')
                break
            closed = opcode in (_DATA_END, _FOOTER)
            offset = start + length
        else:
            if not closed:
                self.notes.append(
                    f'{self.path} was not closed: it has no end mark; what the recorder had not '
                    'written yet is lost'
                )
        if not self._found and self.notes:
            raise _DamageError(self.notes.pop().partition(': ')[2] or 'it holds no messages')

    def _take(self, opcode: int, start: int, length: int) -> None:
        """Take a whole record into the index."""
        if opcode == _CHUNK:
            self._index_chunk(start - _RECORD_HEAD.size, length, whole=True)
        elif opcode == _MESSAGE:
            self._stream.seek(start)
            head = self._stream.read(_MESSAGE_HEAD.size)
            if length < _MESSAGE_HEAD.size:
                raise _DamageError(f'the message at byte {start} is shorter than its header')
            number, _, time_ns, _ = _MESSAGE_HEAD.unpack(head)
            self._counts[number] += 1
            self._loose.times.append(time_ns)
            self._loose.channels.append(number)
            self._loose.offsets.append(start + _MESSAGE_HEAD.size)
            self._loose.sizes.append(length - _MESSAGE_HEAD.size)
        elif opcode in (_SCHEMA, _CHANNEL):
            self._stream.seek(start)
            try:
                self._describe(opcode, memoryview(self._stream.read(length)))
            except (struct.error, ValueError) as error:
                raise _DamageError(f'the record at byte {start} is damaged: {error}') from error

    def _salvage(self, opcode: int, offset: int) -> None:
        """Take the whole messages of a chunk that the end of the file cuts short."""
        if opcode == _CHUNK:
            self._index_chunk(offset, self._size - offset - _RECORD_HEAD.size, whole=False)

    def _index_chunk(self, offset: int, length: int, whole: bool) -> None:
        chunk = _Chunk(offset, length + _RECORD_HEAD.size, 0, 2**64 - 1, whole=whole)
        counts: Counter[int] = Counter()
        first, last = 2**64 - 1, 0
        try:
            for opcode, body in self._chunk_records(chunk):
                if opcode == _MESSAGE:
                    number, _, time_ns, _ = _MESSAGE_HEAD.unpack_from(body)
                    counts[number] += 1
                    first, last = min(first, time_ns), max(last, time_ns)
                else:
                    self._describe(opcode, body)
        except (_DamageError, struct.error, ValueError) as error:
            self._note_damage(chunk, error)
        if counts:
            self._counts.update(counts)
            found = _Chunk(offset, chunk.length, first, last, frozenset(counts), whole)
            self._chunks.append(found)

    def _describe(self, opcode: int, body: memoryview) -> None:
        """Take a schema or a channel."""
        if opcode == _SCHEMA:
            (number,) = struct.unpack_from('<H', body)
            name, place = _text(body, 2)
            encoding, place = _text(body, place)
            self._schemas[number] = (name, encoding, _definition(_sized(body, place)[0]))
        elif opcode == _CHANNEL:
            number, schema = struct.unpack_from('<HH', body)
            topic, place = _text(body, 4)
            encoding, place = _text(body, place)
            metadata = _pairs(_sized(body, place)[0])
            digest = metadata.get('topic_type_hash', '')
            self._found[number] = (schema, topic, encoding, digest)

    # Messages.

    def _chunk_messages(
        self, chunk: _Chunk, wanted: frozenset[int], start_ns: int, stop_ns: int
    ) -> Iterator[Stored]:
        found: list[Stored] = []
        try:
            for opcode, body in self._chunk_records(chunk):
                if opcode == _MESSAGE:
                    number, _, time_ns, _ = _MESSAGE_HEAD.unpack_from(body)
                    if number in wanted and start_ns <= time_ns < stop_ns:
                        found.append((time_ns, number, bytes(body[_MESSAGE_HEAD.size :])))
        except (_DamageError, struct.error) as error:
            self._note_damage(chunk, error)
        found.sort(key=lambda item: item[0])
        yield from found

    def _loose_messages(
        self, wanted: frozenset[int], start_ns: int, stop_ns: int
    ) -> Iterator[Stored]:
        loose = self._loose
        for place in np.argsort(np.asarray(loose.times), kind='stable'):
            time_ns, number = loose.times[place], loose.channels[place]
            if number in wanted and start_ns <= time_ns < stop_ns:
                self._stream.seek(loose.offsets[place])
                yield time_ns, number, self._stream.read(loose.sizes[place])

    def _chunk_records(self, chunk: _Chunk) -> Iterator[tuple[int, memoryview]]:
        yield from _records(memoryview(self._unpack(chunk)), chunk.whole)

    def _unpack(self, chunk: _Chunk) -> bytes | memoryview:
        """The records of a chunk. Raises _DamageError where they are not as they were written."""
        self._stream.seek(chunk.offset + _RECORD_HEAD.size)
        record = memoryview(self._stream.read(chunk.length - _RECORD_HEAD.size))
        try:
            _, _, size, crc = struct.unpack_from('<QQQI', record)
            compression, place = _text(record, 28)
            (packed_size,) = struct.unpack_from('<Q', record, place)
        except (struct.error, ValueError) as error:
            raise _DamageError('its head is damaged') from error
        packed = record[place + 8 : place + 8 + packed_size]
        if size > _LARGEST_CHUNK:
            raise _DamageError(f'it claims {size} bytes')
        try:
            if not chunk.whole:
                return decompress_start(bytes(packed), compression)
            raw = decompress(packed, compression, size) if compression else packed
        except ValueError as error:
            raise _DamageError(str(error)) from error
        if len(raw) != size:
            raise _DamageError(f'it has {len(raw)} bytes and claims {size}')
        if crc and zlib.crc32(raw) != crc:
            raise _DamageError('its checksum is wrong')
        return raw

    def _note_damage(self, chunk: _Chunk, error: Exception) -> None:
        if chunk.offset in self._damaged:
            return
        self._damaged.add(chunk.offset)
        span = ''
        if 0 < chunk.start_ns <= chunk.end_ns < 2**63:
            span = f', from {chunk.start_ns / 1e9:.3f} s to {chunk.end_ns / 1e9:.3f} s'
        what = 'is damaged, its messages are lost' if chunk.whole else 'is cut short'
        self.notes.append(f'{self.path}: the chunk at byte {chunk.offset}{span} {what}: {error}')

    def _unreadable(self, detail: str) -> BagError:
        return BagError(
            f'bag {self.path} is empty, cut short or damaged: {detail}. `mcap recover '
            f'{self.path.name} -o saved.mcap` may find more'
        )


def _records(data: memoryview, whole: bool = True) -> Iterator[tuple[int, memoryview]]:
    """Opcode and body of each record. Raises _DamageError where one is cut, if `whole`."""
    place = 0
    while place + _RECORD_HEAD.size <= len(data):
        opcode, length = _RECORD_HEAD.unpack_from(data, place)
        place += _RECORD_HEAD.size
        if place + length > len(data):
            break
        yield opcode, data[place : place + length]
        place += length
    else:
        if place == len(data):
            return
    if whole:
        raise _DamageError(f'the record at its byte {place} is cut short')


def _sized(body: memoryview, place: int) -> tuple[memoryview, int]:
    (size,) = struct.unpack_from('<I', body, place)
    start = place + 4
    if start + size > len(body):
        raise ValueError(f'a field of {size} bytes is longer than its record')
    return body[start : start + size], start + size


def _text(body: memoryview, place: int) -> tuple[str, int]:
    value, place = _sized(body, place)
    return str(value, 'utf-8'), place


def _pairs(body: memoryview) -> dict[str, str]:
    pairs, place = {}, 0
    while place < len(body):
        key, place = _text(body, place)
        pairs[key], place = _text(body, place)
    return pairs


def _definition(data: memoryview) -> str:
    """The text of a schema; those of other systems, such as Protobuf, are no text."""
    try:
        return str(data, 'utf-8')
    except UnicodeDecodeError:
        return ''


@dataclass
class _OpenChunk:
    """Records waiting to be written together."""

    parts: list[Data] = field(default_factory=list)
    size: int = 0
    crc: int = 0
    times: list[int] = field(default_factory=list)
    index: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def add(self, *parts: Data) -> None:
        """Append bytes without copying them."""
        for part in parts:
            self.parts.append(part)
            self.size += len(part)
            self.crc = zlib.crc32(part, self.crc)


class McapWriter:
    """An MCAP file being written to a stream that is not closed here.

    `compression` of its chunks is `zstd` or empty.
    """

    def __init__(self, stream: BinaryIO, profile: str = 'ros2', compression: str = '') -> None:
        assert compression in ('', 'zstd')
        self._stream = stream
        self._compression = compression
        self._position = 0
        self._schemas: list[bytes] = []
        self._channels: list[bytes] = []
        self._counts: dict[int, int] = {}
        self._chunk = _OpenChunk()
        self._chunk_indexes: list[bytes] = []
        self._first_ns, self._last_ns = 2**64 - 1, 0
        self._write(MAGIC, _record(_HEADER, _prefixed_text(profile) + _prefixed_text(_LIBRARY)))

    def add_schema(self, name: str, encoding: str, definition: str) -> int:
        """Describe a message type; returns its number."""
        number = len(self._schemas) + 1
        body = (
            struct.pack('<H', number)
            + _prefixed_text(name)
            + _prefixed_text(encoding)
            + _prefixed_text(definition)
        )
        self._schemas.append(_record(_SCHEMA, body))
        self._chunk.add(self._schemas[-1])
        return number

    def add_channel(self, topic: str, schema: int, metadata: Mapping[str, str]) -> int:
        """Describe a topic of CDR messages; returns its number."""
        number = len(self._channels) + 1
        pairs = b''.join(
            _prefixed_text(key) + _prefixed_text(value) for key, value in metadata.items()
        )
        body = (
            struct.pack('<HH', number, schema)
            + _prefixed_text(topic)
            + _prefixed_text('cdr')
            + _prefixed(pairs)
        )
        self._channels.append(_record(_CHANNEL, body))
        self._counts[number] = 0
        self._chunk.add(self._channels[-1])
        return number

    def add_message(self, channel: int, time_ns: int, data: Data) -> None:
        """Append a serialised message. `data` must not be changed afterwards."""
        chunk = self._chunk
        sequence = self._counts[channel]
        body = struct.pack('<HIQQ', channel, sequence & 0xFFFFFFFF, time_ns, time_ns)
        chunk.index.setdefault(channel, []).append((time_ns, chunk.size))
        chunk.times.append(time_ns)
        chunk.add(struct.pack('<BQ', _MESSAGE, len(body) + len(data)) + body, data)
        self._counts[channel] = sequence + 1
        self._first_ns = min(self._first_ns, time_ns)
        self._last_ns = max(self._last_ns, time_ns)
        if chunk.size >= _CHUNK_BYTES:
            self._write_chunk()

    @property
    def has_chunks(self) -> bool:
        """Whether any messages were written as a whole chunk."""
        return bool(self._chunk_indexes)

    def finish(self) -> None:
        """Write what is pending, then the index by which readers seek."""
        self._write_chunk()
        self._write(_record(_DATA_END, struct.pack('<I', 0)))
        start = self._position
        groups = [
            (_SCHEMA, self._schemas),
            (_CHANNEL, self._channels),
            (_STATISTICS, [self._statistics()]),
            (_CHUNK_INDEX, self._chunk_indexes),
        ]
        summary, offsets = b'', b''
        for opcode, records in groups:
            group = b''.join(records)
            if group:
                place = struct.pack('<BQQ', opcode, start + len(summary), len(group))
                offsets += _record(_SUMMARY_OFFSET, place)
                summary += group
        footer = struct.pack('<BQQQ', _FOOTER, 20, start, start + len(summary))
        crc = zlib.crc32(summary + offsets + footer)
        self._write(summary, offsets, footer, struct.pack('<I', crc), MAGIC)

    def _write_chunk(self) -> None:
        chunk, self._chunk = self._chunk, _OpenChunk()
        if not chunk.parts:
            return
        start = self._position
        times = chunk.times or [0]
        span = struct.pack('<QQ', min(times), max(times))
        parts, size = chunk.parts, chunk.size
        if self._compression:
            packed = compress_zstd(b''.join(parts))
            parts, size = [packed], len(packed)
        head = span + struct.pack('<QI', chunk.size, chunk.crc) + _prefixed_text(self._compression)
        head += struct.pack('<Q', size)
        self._write(struct.pack('<BQ', _CHUNK, len(head) + size), head, *parts)
        length = self._position - start
        places = b''
        for channel, entries in chunk.index.items():
            places += struct.pack('<HQ', channel, self._position)
            packed = b''.join(struct.pack('<QQ', *entry) for entry in entries)
            self._write(_record(_MESSAGE_INDEX, struct.pack('<H', channel) + _prefixed(packed)))
        body = span + struct.pack('<QQ', start, length) + _prefixed(places)
        body += struct.pack('<Q', self._position - start - length) + _prefixed_text(
            self._compression
        )
        body += struct.pack('<QQ', size, chunk.size)
        self._chunk_indexes.append(_record(_CHUNK_INDEX, body))

    def _statistics(self) -> bytes:
        total = sum(self._counts.values())
        counts = b''.join(struct.pack('<HQ', *item) for item in self._counts.items())
        body = struct.pack('<QHI', total, len(self._schemas), len(self._channels))
        body += struct.pack('<III', 0, 0, len(self._chunk_indexes))
        body += struct.pack('<QQ', self._first_ns if total else 0, self._last_ns)
        return _record(_STATISTICS, body + _prefixed(counts))

    def _write(self, *parts: Data) -> None:
        self._stream.writelines(parts)
        self._position += sum(len(part) for part in parts)


def _record(opcode: int, body: bytes) -> bytes:
    return struct.pack('<BQ', opcode, len(body)) + body


def _prefixed(data: bytes) -> bytes:
    return struct.pack('<I', len(data)) + data


def _prefixed_text(text: str) -> bytes:
    return _prefixed(text.encode())
