"""Zstandard and LZ4 as recorders use them; the libraries are those that `rosbags` brings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import importlib
from pathlib import Path
import shutil
from typing import Any

from psd_depth_ros.errors import BagError

ZSTD_MAGIC = b'\x28\xb5\x2f\xfd'
# That of the standard library (Python 3.14), its backport, and what older rosbags bring.
_ZSTD_MODULES = ('compression.zstd', 'backports.zstd', 'zstandard')


def compress_zstd(data: bytes) -> bytes:
    """Compress into one frame, at the level that is the default of the format."""
    return bytes(_zstd().compress(data, 3))


def decompress(data: bytes | memoryview, compression: str, most: int) -> bytes:
    """Decompress a whole frame into at most `most` bytes, whatever it claims.

    `compression` is `zstd` or `lz4`. Raises ValueError where the frame is damaged, cut short or
    larger, and BagError where the library is not there.
    """
    with _errors_as_value_error():
        one = _decompressor(compression)
        found = bytes(one.decompress(bytes(data), most + 1))
        if len(found) > most:
            raise ValueError(f'it unpacks to more than the {most} bytes that it may have')
        if not one.eof:
            raise ValueError('it is cut short')
    return found


def decompress_start(data: bytes, compression: str) -> bytes:
    """Decompress as much as a frame that is cut short or damaged still gives.

    `compression` is that of MCAP: `zstd`, `lz4` or empty. Raises ValueError where nothing can be
    read and BagError where the library is not there.
    """
    if not compression:
        return data
    found = b''
    with _errors_as_value_error():
        one = _decompressor(compression)
        # Bit by bit: what comes before the damage is given out, not thrown away with it.
        for place in range(0, len(data), 1 << 16):
            try:
                found += one.decompress(data[place : place + (1 << 16)])
            except Exception:
                if not found:
                    raise
                break
    return found


def decompress_file(source: Path, target: Path) -> None:
    """Decompress a .zst or .zstd file. Raises ValueError where it is damaged and OSError."""
    zstd = _zstd()
    with _errors_as_value_error(), source.open('rb') as packed, target.open('wb') as stream:
        if zstd.__name__ == 'zstandard':
            zstd.ZstdDecompressor().copy_stream(packed, stream)
            return
        with zstd.open(packed, 'rb') as unpacked:
            shutil.copyfileobj(unpacked, stream, 1 << 20)


def _decompressor(compression: str) -> Any:
    """What has `decompress(data, max_length)` and `eof`."""
    if compression == 'lz4':
        return _lz4().LZ4FrameDecompressor()
    if compression == 'zstd':
        zstd = _zstd()
        return _OldZstd(zstd) if zstd.__name__ == 'zstandard' else zstd.ZstdDecompressor()
    raise ValueError(f'compression {compression!r} is not known; expected zstd, lz4 or none')


class _OldZstd:
    """The library `zstandard` with the face of the one in Python 3.14."""

    def __init__(self, zstandard: Any) -> None:
        self._one = zstandard.ZstdDecompressor().decompressobj()

    @property
    def eof(self) -> bool:
        return bool(self._one.eof)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        found = bytearray()
        # Small bits: one that packs terabytes is seen before they are there.
        for place in range(0, len(data), 1 << 12):
            found += self._one.decompress(data[place : place + (1 << 12)])
            if self._one.eof or 0 <= max_length < len(found):
                break
        return bytes(found)


def _zstd() -> Any:
    for name in _ZSTD_MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise _missing('Zstandard')


def _lz4() -> Any:
    try:
        return importlib.import_module('lz4.frame')
    except ImportError as error:
        raise _missing('LZ4') from error


def _missing(name: str) -> BagError:
    package = {'LZ4': 'lz4', 'Zstandard': 'backports.zstd'}[name]
    return BagError(f'this bag needs {name}, which is not installed; `pip install {package}`')


@contextmanager
def _errors_as_value_error() -> Iterator[None]:
    """Libraries raise errors of their own, some of them RuntimeError."""
    try:
        yield
    except (OSError, BagError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error
