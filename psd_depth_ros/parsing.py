"""Readers of YAML, JSON, CSV and NPZ, the only ones of the package: a file is data, and it ends.

Each has bounds (bytes, depth, size of a number), executes and unpickles nothing, and fails in one
way, with a ParseError that says where. It does not name the file: who asked knows what it is for.
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

import yaml

from psd_depth_ros.errors import ParseError

DEPTH = 50  # lists and mappings inside each other
NODES = 200_000  # values of a document, with those that aliases stand for
_INTEGERS = range(-(2**63), 2**64)
# What PyYAML's constructors raise for explicit tags that do not fit their values.
_YAML_ERRORS = (
    yaml.YAMLError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


def _parse_document(text: str) -> Any:
    """The value of a YAML document of plain values: no dates (they stay text), no own types.

    Raises ParseError for what is no YAML, a key that is given twice, a value that holds itself,
    and for what is nested too deep, too large (aliases count as what they stand for) or a whole
    number of more than 64 bits.
    """
    try:
        loader = _Loader(text)
        try:
            node = _only_node(loader)
            if node is None:
                return None
            _check_node(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except _YAML_ERRORS as error:
        raise ParseError(f'is not YAML: {_yaml_words(error)}') from error


class _Loader(yaml.SafeLoader):
    """The safe loader, without dates."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node; count how deep it lies."""
        if self._depth > DEPTH:
            raise ParseError(f'is nested deeper than {DEPTH} levels')
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_yaml_int(self, node: Any) -> int:
        """A whole number of up to 64 bits."""
        if len(node.value) > 100:
            raise _too_large(len(node.value))
        value: int = super().construct_yaml_int(node)
        if value not in _INTEGERS:
            raise _too_large(len(str(value)))
        return value


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(':timestamp')]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor('tag:yaml.org,2002:int', _Loader.construct_yaml_int)


def _only_node(loader: _Loader) -> Any:
    """The one document; `ros2 topic echo` ends it with a line ---, after which nothing comes."""
    node = loader.get_node() if loader.check_node() else None
    while loader.check_node():
        other: Any = loader.get_node()
        if other.value != '':
            raise ParseError(
                f'holds a second document in line {other.start_mark.line + 1}, expected one'
            )
    return node


def _check_node(root: Any) -> None:
    """Refuse what would grow without end once aliases are followed, and doubled keys."""
    sizes: dict[int, int] = {}
    entered: set[int] = set()
    stack: list[tuple[Any, bool]] = [(root, False)]
    while stack:
        node, is_left = stack.pop()
        if is_left:
            sizes[id(node)] = 1 + sum(sizes[id(child)] for child in _children(node))
            entered.remove(id(node))
            if sizes[id(node)] > NODES:
                raise ParseError(f'holds more than {NODES} values')
        elif id(node) in entered:
            line = node.start_mark.line + 1
            raise ParseError(f'holds a value inside itself (the alias of line {line})')
        elif id(node) not in sizes:
            _check_keys(node)
            entered.add(id(node))
            stack.append((node, True))
            stack += [(child, False) for child in _children(node)]


def _children(node: Any) -> list[Any]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_keys(node: Any) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[Any] = set()
    for key, _ in node.value:
        name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
        if name in seen:
            line = key.start_mark.line + 1
            raise ParseError(f'gives {key.value!r} twice, the second time in line {line}')
        seen.add(name)


def _too_large(digits: int) -> ParseError:
    return ParseError(
        f'has a whole number of {digits} digits, which is larger than any that is meant'
    )


def _yaml_words(error: BaseException) -> str:
    """What the library says, in one line."""
    mark = getattr(error, 'problem_mark', None)
    if mark is not None:
        problem = getattr(error, 'problem', None) or 'cannot be read'
        return f'{problem} in line {mark.line + 1}, column {mark.column + 1}'
    return ' '.join(str(error).split())[:200] or type(error).__name__


if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXT_BYTES = 100_000_000  # of tables, descriptions, lists
YAML_BYTES = 1_000_000  # of a document; other formats are read some twenty times faster
ARRAY_BYTES = 2_000_000_000  # of all arrays of a file, unpacked
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
    """A path with `~` written out, where there is such a home."""
    path = Path(text)
    try:
        return path.expanduser()
    except RuntimeError:  # nobody is called so: it is a name like any other
        return path


def shorten(value: object, most: int = 200) -> str:
    """A path or value as text for a message, without the middle of one that fills a screen."""
    text = str(value)
    half = most // 2 - 2
    return text if len(text) <= most else f'{text[:half]} ... {text[-half:]}'


def is_file(path: Path) -> bool:
    """Whether there is a file; False too where no file can be called so (5,000 characters)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_bytes(path: Path, most: int = TEXT_BYTES) -> bytes:
    """Everything in a file of at most `most` bytes. Raises ParseError."""
    try:
        with open(path, 'rb') as stream:
            content = stream.read(most + 1)
    except (OSError, ValueError) as error:
        raise ParseError(f'cannot be read: {getattr(error, "strerror", None) or error}') from error
    if len(content) > most:
        raise ParseError(f'is larger than the {most} bytes that such a file has at most')
    return content


def read_text(path: Path, most: int = TEXT_BYTES) -> str:
    """The text of a file in UTF-8, with or without a byte order mark. Raises ParseError."""
    content = read_bytes(path, most)
    try:
        return content.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        raise ParseError(
            f'is no text in UTF-8 (byte {content[error.start]:#04x} at {error.start}); save it as '
            'UTF-8'
        ) from error


def read_yaml(path: Path) -> Any:
    """The one document of a YAML file; see `parse_yaml`. Raises ParseError."""
    return parse_yaml(read_text(path, YAML_BYTES))


def parse_yaml(text: str) -> Any:
    """The value of a YAML document; no dates (they stay text), no own types. Raises ParseError."""
    if len(text) > YAML_BYTES:
        raise ParseError(f'has {len(text)} characters, more than the {YAML_BYTES} that are read')
    return _parse_document(text)


def read_json(path: Path) -> Any:
    """The value of a JSON file; see `parse_json`. Raises ParseError."""
    return parse_json(read_text(path))


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises ParseError for what is no JSON, a key that is given twice, and for what is nested too
    deep or a whole number of more than 64 bits.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise ParseError(f'is not JSON: {_words(error)}') from error
    _check_depth(value)
    return value


def read_json_object(path: Path) -> dict[str, Any]:
    """The value of a JSON file, which must be an object. Raises ParseError."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ParseError(f'is JSON, but holds {_kind(value)} instead of an object')
    return value


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by the names in its first line. Raises ParseError."""
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
    """The arrays of an .npz file by name; nothing is unpickled. Raises ParseError.

    How large an array is says its header; it must be what the archive holds, and all together no
    more than `most` bytes.
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
    """The array of an .npy file; nothing is unpickled. Raises ParseError."""
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
    """What a library says, in one line."""
    return shorten(' '.join(str(error).split())) or type(error).__name__
