"""Safetensors with a checksum of the whole file, so that a flipped bit is seen; never pickled.

The checksum is the SHA-256 of the file with zeros in its place, and stands in the metadata; who
does not know of it reads the file like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
import hashlib
import json

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from psd_depth_ros.parsing import parse_json, ParseError

CHECKSUM = 'sha256'
_BLANK = '0' * 64
_CHANGED = 'is not a whole safetensors file (it differs from its checksum)'
_MOST_HEADER_BYTES = 50_000_000


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The content of a file of contiguous tensors on the CPU; the same for the same tensors."""
    content = _with_metadata(save(dict(tensors)), {**metadata, CHECKSUM: _BLANK})
    place = content.index(_entry(_BLANK)) + len(_entry('')) - 1
    digest = hashlib.sha256(content).hexdigest().encode()
    return content[:place] + digest + content[place + len(_BLANK) :]


def unpack(content: bytes, *, sealed: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file; the checksum is checked where there is one.

    With `sealed` there must be one. Raises ParseError for a file that is cut short, damaged, or no
    safetensors.
    """
    metadata = read_metadata(content)
    _check(content, metadata, sealed)
    try:
        return load(content), metadata
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ParseError(f'is not a whole safetensors file ({error})') from error


def read_metadata(content: bytes) -> dict[str, str]:
    """What a file says of itself. Raises ParseError."""
    try:
        header = parse_json(_header(content))
    except ParseError as error:
        raise ParseError(f'is not a whole safetensors file (its header {error})') from error
    metadata = header.get('__metadata__', {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise ParseError('is not a whole safetensors file (its header is none of safetensors)')
    return metadata


def _with_metadata(content: bytes, metadata: Mapping[str, str]) -> bytes:
    """Put metadata into a header in the order they have here; the library draws one by chance."""
    header = _header(content)
    described = {'__metadata__': metadata, **json.loads(header)}
    text = json.dumps(described, ensure_ascii=False, separators=(',', ':')).encode()
    text += b' ' * (-len(text) % 8)  # tensors are aligned
    return len(text).to_bytes(8, 'little') + text + content[8 + len(header) :]


def _header(content: bytes) -> bytes:
    """The JSON behind 8 bytes of its length."""
    length = int.from_bytes(content[:8], 'little')
    if len(content) < 8 + length or length > _MOST_HEADER_BYTES:
        raise ParseError(f'should have {length} bytes, and the file has {len(content)}')
    return content[8 : 8 + length]


def _check(content: bytes, metadata: Mapping[str, str], sealed: bool) -> None:
    digest = metadata.get(CHECKSUM)
    if digest is None:
        if sealed:
            raise ParseError('has no checksum: another version of psd_depth_ros wrote it')
        return
    place = _header(content).find(_entry(digest))
    if place < 0 or len(digest) != len(_BLANK):
        raise ParseError(_CHANGED)
    place += 8 + len(_entry('')) - 1
    found = hashlib.sha256(content[:place])
    found.update(_BLANK.encode())
    found.update(memoryview(content)[place + len(_BLANK) :])
    if found.hexdigest() != digest:
        raise ParseError(_CHANGED)


def _entry(digest: str) -> bytes:
    return f'"{CHECKSUM}":"{digest}"'.encode()
