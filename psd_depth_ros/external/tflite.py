"""Scales of the quantised outputs of a TensorFlow Lite file.

OpenVINO gives outputs of 8 bits as they are stored. Their scales are read from the file, a
FlatBuffer of the schema of TensorFlow Lite (tensorflow/lite/schema/schema.fbs): offsets to tables,
whose fields are found through a table of offsets of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
import struct

from psd_depth_ros.errors import ParseError

# Places of the fields in their tables.
_MODEL_SUBGRAPHS = 2
_SUBGRAPH_TENSORS, _SUBGRAPH_OUTPUTS = 0, 2
_TENSOR_TYPE, _TENSOR_NAME, _TENSOR_QUANTISATION = 1, 3, 4
_QUANTISATION_SCALE, _QUANTISATION_ZERO_POINT = 2, 3
_WHOLE_NUMBERS = {2, 3, 4, 7, 9}  # types int32, uint8, int64, int16, int8


@dataclass(frozen=True)
class Quantisation:
    """value = scale * (stored - zero_point)."""

    scale: float
    zero_point: int


def read_quantisation(content: bytes) -> dict[str, Quantisation | None]:
    """The quantisation of every output by name, None where it is stored as it is.

    Raises ParseError where the file is damaged, or an output has several scales.
    """
    if content[4:8] != b'TFL3':
        raise ParseError('is no TensorFlow Lite file (it lacks the mark TFL3)')
    try:
        model = _Table(content, _unsigned(content, 0))
        graph = model.tables(_MODEL_SUBGRAPHS)[0]
        tensors = graph.tables(_SUBGRAPH_TENSORS)
        outputs = [tensors[int(place)] for place in graph.numbers(_SUBGRAPH_OUTPUTS, 'i')]
        return {tensor.text(_TENSOR_NAME): _quantisation_of(tensor) for tensor in outputs}
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ParseError(f'is no whole TensorFlow Lite file: {error}') from error


def _quantisation_of(tensor: _Table) -> Quantisation | None:
    found = tensor.table(_TENSOR_QUANTISATION)
    if found is None or tensor.byte(_TENSOR_TYPE) not in _WHOLE_NUMBERS:
        return None
    scales = found.numbers(_QUANTISATION_SCALE, 'f')
    zeros = found.numbers(_QUANTISATION_ZERO_POINT, 'q')
    if len(scales) > 1:
        raise ParseError(
            f'has {len(scales)} scales in output {tensor.text(_TENSOR_NAME)!r}, expected one'
        )
    if not scales or not scales[0] > 0:
        return None
    return Quantisation(float(scales[0]), int(zeros[0]) if zeros else 0)


class _Table:
    """A table of a FlatBuffer at a place in its bytes."""

    def __init__(self, content: bytes, start: int) -> None:
        self._content = content
        self._start = start
        self._fields = start - struct.unpack_from('<i', content, start)[0]
        if self._fields < 0:
            raise IndexError('an offset leads out of it')

    def table(self, field: int) -> _Table | None:
        """The table that a field refers to."""
        place = self._place(field)
        return None if place is None else _Table(self._content, self._follow(place))

    def tables(self, field: int) -> list[_Table]:
        """The tables of a list."""
        start, count = self._list(field)
        places = range(start, start + 4 * count, 4)
        return [_Table(self._content, self._follow(place)) for place in places]

    def numbers(self, field: int, kind: str) -> tuple[float, ...]:
        """The numbers of a list, of a type of `struct`."""
        start, count = self._list(field)
        return struct.unpack_from(f'<{count}{kind}', self._content, start)

    def text(self, field: int) -> str:
        """A text."""
        start, count = self._list(field)
        return self._content[start : start + count].decode()

    def byte(self, field: int) -> int:
        """A number of one byte; 0 where it is absent."""
        place = self._place(field)
        return 0 if place is None else self._content[place]

    def _place(self, field: int) -> int | None:
        size, _ = struct.unpack_from('<HH', self._content, self._fields)
        if 4 + 2 * field >= size:
            return None
        offset = struct.unpack_from('<H', self._content, self._fields + 4 + 2 * field)[0]
        return self._start + offset if offset else None

    def _list(self, field: int) -> tuple[int, int]:
        """Where the items of a list begin, and how many there are."""
        place = self._place(field)
        if place is None:
            return 0, 0
        start = self._follow(place)
        count = _unsigned(self._content, start)
        if count > len(self._content):
            raise IndexError('a list is longer than it')
        return start + 4, count

    def _follow(self, place: int) -> int:
        return place + _unsigned(self._content, place)


def _unsigned(content: bytes, place: int) -> int:
    value: int = struct.unpack_from('<I', content, place)[0]
    return value
