"""Metadata of ONNX files, read without a library: the weights are skipped, not loaded.

An ONNX file is one protobuf message (`ModelProto`), a row of fields with their lengths. The
metadata are those of number 14, pairs of a key and a value.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

from psd_depth_ros.parsing import ParseError

_METADATA, _KEY, _VALUE = 14, 1, 2  # field numbers
_MOST_BYTES = 64_000_000  # of one pair
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


def read_onnx_metadata(path: Path) -> dict[str, str]:
    """Keys and values of the metadata of an ONNX file.

    Raises ParseError where it is no protobuf message, OSError where it cannot be read.
    """
    with path.open('rb') as file:
        return dict(_pair(content) for content in _fields(file, _METADATA))


def _pair(content: bytes) -> tuple[str, str]:
    try:
        texts = [b''.join(_fields(io.BytesIO(content), one)).decode() for one in (_KEY, _VALUE)]
    except UnicodeDecodeError as error:
        raise ParseError('has metadata that are no text') from error
    return texts[0], texts[1]


def _fields(file: BinaryIO, wanted: int) -> list[bytes]:
    """Contents of the fields of one number; others are skipped."""
    found = []
    size = file.seek(0, io.SEEK_END)
    place = file.seek(0)
    while place < size:
        number, kind = divmod(_varint(file), 8)
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
        if kind == _VARINT:
            _varint(file)
        elif kind == _BYTES:
            length = _varint(file)
        elif not length:
            raise ParseError('is no ONNX file: its fields are not those of protobuf')
        place = file.tell() + length
        if place > size:
            raise ParseError('is no ONNX file, or its end is missing')
        if number == wanted and kind == _BYTES:
            if length > _MOST_BYTES:
                raise ParseError(f'has metadata of {length} bytes, expected at most {_MOST_BYTES}')
            found.append(file.read(length))
        file.seek(place)
    return found


def _varint(file: BinaryIO) -> int:
    """A number of up to ten bytes, seven bits each, the lowest first."""
    value = 0
    for place in range(10):
        byte = file.read(1)
        if not byte:
            raise ParseError('is no ONNX file, or its end is missing')
        value |= (byte[0] & 0x7F) << (7 * place)
        if byte[0] < 0x80:
            return value
    raise ParseError('is no ONNX file: its fields are not those of protobuf')
