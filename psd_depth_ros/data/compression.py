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


def decompress_zstd(data: bytes | memoryview) -> bytes:
    """Decompress whole frames. Raises ValueError where they are damaged or cut short."""
    try:
        with _errors_as_value_error():
            zstd = _zstd()
            if hasattr(zstd, 'decompress') and zstd.__name__ != 'zstandard':
                return bytes(zstd.decompress(data))
            one = zstd.ZstdDecompressor().decompressobj()
            whole = bytes(one.decompress(data))
    except EOFError as error:
        raise ValueError(str(error)) from error
    if not one.eof:
        raise ValueError('the Zstandard frame is cut short')
    return whole


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


def decompress_lz4(data: bytes | memoryview) -> bytes:
    """Decompress an LZ4 frame. Raises ValueError where it is damaged."""
    with _errors_as_value_error():
        return bytes(_lz4().decompress(bytes(data)))


def _decompressor(compression: str) -> Any:
    if compression == 'lz4':
        return _lz4().LZ4FrameDecompressor()
    if compression == 'zstd':
        decompressor = _zstd().ZstdDecompressor()
        make = getattr(decompressor, 'decompressobj', None)
        return make() if make is not None else decompressor
    raise ValueError(f'compression {compression!r} is not known; expected zstd, lz4 or none')


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
