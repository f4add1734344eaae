"""Writing of MCAP files: records, chunks and the index at the end.

The layout is that of the MCAP specification, version 0. What goes into a file depends on the
calls alone: no clock, no random identifiers, no file name. Reading is in `mcap_reader`, message
types in `message_types`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import struct
from typing import BinaryIO
import zlib

from psd_depth_ros.data.compression import compress_zstd

_MAGIC = b'\x89MCAP0\r\n'
_LIBRARY = 'psd_depth_ros'
_CHUNK_BYTES = 4 << 20

_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE = 0x01, 0x02, 0x03, 0x04, 0x05
_CHUNK, _MESSAGE_INDEX, _CHUNK_INDEX = 0x06, 0x07, 0x08
_STATISTICS, _SUMMARY_OFFSET, _DATA_END = 0x0B, 0x0E, 0x0F

Data = bytes | bytearray | memoryview


@dataclass
class _Chunk:
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


class McapFile:
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
        self._chunk = _Chunk()
        self._chunk_indexes: list[bytes] = []
        self._first_ns, self._last_ns = 2**64 - 1, 0
        self._write(_MAGIC, _record(_HEADER, _text(profile) + _text(_LIBRARY)))

    def add_schema(self, name: str, encoding: str, definition: str) -> int:
        """Describe a message type; returns its number."""
        number = len(self._schemas) + 1
        body = struct.pack('<H', number) + _text(name) + _text(encoding) + _text(definition)
        self._schemas.append(_record(_SCHEMA, body))
        self._chunk.add(self._schemas[-1])
        return number

    def add_channel(self, topic: str, schema: int, metadata: Mapping[str, str]) -> int:
        """Describe a topic of CDR messages; returns its number."""
        number = len(self._channels) + 1
        pairs = b''.join(_text(key) + _text(value) for key, value in metadata.items())
        body = struct.pack('<HH', number, schema) + _text(topic) + _text('cdr') + _sized(pairs)
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
        self._write(summary, offsets, footer, struct.pack('<I', crc), _MAGIC)

    def _write_chunk(self) -> None:
        chunk, self._chunk = self._chunk, _Chunk()
        if not chunk.parts:
            return
        start = self._position
        times = chunk.times or [0]
        span = struct.pack('<QQ', min(times), max(times))
        parts, size = chunk.parts, chunk.size
        if self._compression:
            packed = compress_zstd(b''.join(parts))
            parts, size = [packed], len(packed)
        head = span + struct.pack('<QI', chunk.size, chunk.crc) + _text(self._compression)
        head += struct.pack('<Q', size)
        self._write(struct.pack('<BQ', _CHUNK, len(head) + size), head, *parts)
        length = self._position - start
        places = b''
        for channel, entries in chunk.index.items():
            places += struct.pack('<HQ', channel, self._position)
            packed = b''.join(struct.pack('<QQ', *entry) for entry in entries)
            self._write(_record(_MESSAGE_INDEX, struct.pack('<H', channel) + _sized(packed)))
        body = span + struct.pack('<QQ', start, length) + _sized(places)
        body += struct.pack('<Q', self._position - start - length) + _text(self._compression)
        body += struct.pack('<QQ', size, chunk.size)
        self._chunk_indexes.append(_record(_CHUNK_INDEX, body))

    def _statistics(self) -> bytes:
        total = sum(self._counts.values())
        counts = b''.join(struct.pack('<HQ', *item) for item in self._counts.items())
        body = struct.pack('<QHI', total, len(self._schemas), len(self._channels))
        body += struct.pack('<III', 0, 0, len(self._chunk_indexes))
        body += struct.pack('<QQ', self._first_ns if total else 0, self._last_ns)
        return _record(_STATISTICS, body + _sized(counts))

    def _write(self, *parts: Data) -> None:
        self._stream.writelines(parts)
        self._position += sum(len(part) for part in parts)


def _record(opcode: int, body: bytes) -> bytes:
    return struct.pack('<BQ', opcode, len(body)) + body


def _sized(data: bytes) -> bytes:
    return struct.pack('<I', len(data)) + data


def _text(text: str) -> bytes:
    return _sized(text.encode())
