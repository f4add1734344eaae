"""Bounded readers of YAML, JSON, CSV and NPZ; the only ones of the package.

Each limits bytes, nesting and the size of numbers, executes and unpickles nothing, and raises
nothing but ParseError, which says where in the file. Callers add the name of the file and what it
is for.
"""

from __future__ import annotations

from collections.abc import Mapping
import csv
import io
import json
import os
from pathlib import Path
import tokenize
from typing import Any, TYPE_CHECKING
import zipfile
import zlib

from psd_depth_ros.errors import ParseError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXT_BYTES = 100_000_000  # of tables, descriptions, lists
YAML_BYTES = 1_000_000  # of a document; other formats are read some twenty times faster
ARRAY_BYTES = 2_000_000_000  # of all arrays of a file, unpacked
DEPTH = 50  # lists and mappings inside each other
_INTEGERS = range(-(2**63), 2**64)
_ARRAY_ERRORS = (
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    SyntaxError,
    OverflowError,
    MemoryError,
    tokenize.TokenError,  # of the header of an array, from Python 3.12 on
)
_ZIP_ERRORS = (
    *_ARRAY_ERRORS,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    RuntimeError,  # encrypted, or packed in a way that this Python does not know
)


def user_path(text: str | os.PathLike[str]) -> Path:
    """Expand `~` in a path, where that home exists."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:  # no such user: a name like any other
        return path


def shorten(value: object, most: int = 200) -> str:
    """Text of a path or value for a message; the middle of a long one is left out."""
    text = str(value)
    half = most // 2 - 2
    return text if len(text) <= most else f'{text[:half]} ... {text[-half:]}'


def is_file(path: Path) -> bool:
    """Whether a file exists; False for a path that is no valid name, such as 5,000 characters."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_bytes(path: Path, most: int = TEXT_BYTES) -> bytes:
    """Read a file of at most `most` bytes. Raises ParseError."""
    try:
        with open(path, 'rb') as stream:
            content = stream.read(most + 1)
    except (OSError, ValueError) as error:
        raise ParseError(f'cannot be read: {getattr(error, "strerror", None) or error}') from error
    if len(content) > most:
        raise ParseError(f'is larger than the {most} bytes that such a file has at most')
    return content


def read_text(path: Path, most: int = TEXT_BYTES) -> str:
    """Read a UTF-8 text file, with or without byte order mark. Raises ParseError."""
    content = read_bytes(path, most)
    try:
        return content.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ParseError(
            f'is no text in UTF-8 (byte {content[error.start]:#04x} at {error.start}); save it as '
            'UTF-8'
        ) from error


def read_yaml(path: Path) -> Any:
    """Read a YAML file of one document; see `parse_yaml`. Raises ParseError."""
    return parse_yaml(read_text(path, YAML_BYTES))


def parse_yaml(text: str) -> Any:
    """Parse a YAML document; see `yaml_text`. Raises ParseError."""
    from psd_depth_ros import yaml_text  # settings are built without YAML, too

    if len(text) > YAML_BYTES:
        raise ParseError(f'has {len(text)} characters, more than the {YAML_BYTES} that are read')
    return yaml_text.parse(text)


def read_json(path: Path) -> Any:
    """Read a JSON file; see `parse_json`. Raises ParseError."""
    return parse_json(read_text(path))


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text.

    Raises ParseError for invalid JSON, a repeated key, nesting deeper than `DEPTH` and integers of
    more than 64 bits.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise ParseError(f'is not JSON: {_words(error)}') from error
    _check_depth(value)
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that must contain an object. Raises ParseError."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ParseError(f'is JSON, but holds {_kind(value)} instead of an object')
    return value


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file as dictionaries by its header. Raises ParseError."""
    try:
        lines = list(csv.reader(io.StringIO(read_text(path), newline='')))
    except csv.Error as error:
        raise ParseError(f'is no table of comma-separated values: {error}') from error
    names = lines[0] if lines else []
    doubled = [name for name in names if names.count(name) > 1]
    if doubled:
        raise ParseError(f'has two columns named {doubled[0]!r}')
    rows = []
    for number, values in enumerate(lines[1:], 2):
        if values and len(values) != len(names):
            raise ParseError(
                f'has {len(values)} values in line {number}, expected {len(names)} as in the first'
            )
        if values:
            rows.append(dict(zip(names, values, strict=True)))
    return rows


def read_arrays(path: Path, most: int = ARRAY_BYTES) -> dict[str, NDArray[Any]]:
    """Read the arrays of an .npz file by name, without unpickling. Raises ParseError.

    The sizes in the headers must agree with the archive, and be at most `most` bytes in all.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            if size > most:
                raise ParseError(f'holds {size} bytes, more than the {most} that are read at most')
            return {
                member.filename.removesuffix('.npy'): _read_member(archive, member)
                for member in members
            }
    except _ZIP_ERRORS as error:
        raise ParseError(f'is no whole .npz file of arrays: {_words(error)}') from error


def read_array(path: Path, most: int = ARRAY_BYTES) -> NDArray[Any]:
    """Read the array of an .npy file, without unpickling. Raises ParseError."""
    try:
        return _parse_array(read_bytes(path, most), path.name)
    except _ARRAY_ERRORS as error:
        raise ParseError(f'is no whole .npy file: {_words(error)}') from error


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as stream:
        return _parse_array(stream.read(member.file_size + 1), member.filename)


def _parse_array(content: bytes, name: str) -> NDArray[Any]:
    import numpy as np  # settings are built without it

    buffer = io.BytesIO(content)
    version = np.lib.format.read_magic(buffer)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, _, kind = read(buffer)
    wanted = int(np.prod(shape, dtype=object)) * kind.itemsize
    if kind.hasobject or wanted != len(content) - buffer.tell():
        raise ValueError(
            f'{name} says it is {shape} of {kind}, and has {len(content) - buffer.tell()} bytes'
        )
    buffer.seek(0)
    array: NDArray[Any] = np.lib.format.read_array(buffer, allow_pickle=False)
    return array


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth > DEPTH:
            raise ParseError(f'is nested deeper than {DEPTH} levels')
        level = [
            child
            for one in level
            if isinstance(one, (dict, list))
            for child in (one.values() if isinstance(one, dict) else one)
        ]
        depth += 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'{doubled!r} is given twice')
    return found


def _integer(text: str) -> int:
    if len(text) > 20 or int(text) not in _INTEGERS:
        raise ValueError(f'a whole number of {len(text)} digits is larger than any that is meant')
    return int(text)


def _kind(value: Any) -> str:
    names: Mapping[type, str] = {list: 'a list', str: 'a text', type(None): 'nothing'}
    return names.get(type(value), f'the {type(value).__name__} {value!r}')


def _words(error: BaseException) -> str:
    """Message of a library's exception in one line."""
    return shorten(' '.join(str(error).split())) or type(error).__name__
