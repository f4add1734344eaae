"""The user's cache of decoded frames, of what was tracked in them, and of maps of teachers.

An entry is a file or folder whose name holds a key of everything that it was made from, our code
and the libraries among it, so that nothing has to be cleared. It appears when it is complete. What
was not used for longest is removed when the size limit is reached, but nothing that was used since
a command began; a process that still reads an entry keeps its content. All of it can be deleted at
any time: it is made again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
import hashlib
import json
import math
import os
from pathlib import Path
import secrets
import shutil
import time
from typing import Any

import cv2
import numpy as np
import torch

from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.files import (
    cache_folder,
    hash_sources,
    is_temporary,
    PART,
    remove_temporaries,
)
from psd_depth_ros.parsing import user_path

_PACKAGE = Path(__file__).parents[2]
# What frames, tracks and rendered worlds are made by.
_SOURCES = ('data', 'geometry', 'messages', 'networks', 'odometry', 'preprocess.py', 'synth')
_KEY_LENGTH = 16
_CLOCK_S = 2.0  # by which clocks of file systems are behind


def frames_folder() -> Path:
    """Where decoded frames are, see `files.cache_folder`."""
    return cache_folder('frames')


class FrameStore:
    """A folder of entries that is kept below a size.

    Args:
        folder: made when the first entry is.
        limit_bytes: of all entries; those used since this object was made may take more. Without
            a limit nothing is removed.
    """

    def __init__(self, folder: Path, limit_bytes: float = math.inf) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._began_s = time.time() - _CLOCK_S
        self._code = identify_code()

    @classmethod
    def of(cls, settings: DataSettings) -> FrameStore:
        """The store that settings name."""
        folder = user_path(settings.cache) if settings.cache else frames_folder()
        return cls(folder, settings.cache_gb * 1e9)

    def make_key(self, facts: Any) -> str:
        """A hash of what an entry is made from: facts as JSON, our code and the libraries."""
        libraries = np.__version__, cv2.__version__, str(torch.__version__)
        text = json.dumps([self._code, libraries, facts], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]

    def use(self, entry: Path) -> Path:
        """Note that an entry is used, where it is there."""
        with suppress(OSError):
            os.utime(entry)
        return entry

    def make_room(self, needed: int = 0) -> None:
        """Remove entries, those unused for longest first, until so many bytes more fit.

        They fit where all entries stay below the limit and the disk has room; where removing is
        not enough, or not allowed, nothing more happens.
        """
        if math.isinf(self.limit_bytes):
            return
        remove_temporaries(self.folder)
        entries = [*self._entries()]
        total = sum(size for _, size, _ in entries)
        for used_s, size, path in sorted(entries):
            is_full = total + needed > self.limit_bytes
            if not is_full and needed <= shutil.disk_usage(self.folder).free:
                return
            if used_s >= self._began_s:
                return
            _remove(path)
            total -= size

    def describe(self) -> str:
        """Where the entries are, how large they are and may be, in words."""
        total = sum(size for _, size, _ in self._entries())
        limit = beyond = ''
        if not math.isinf(self.limit_bytes):
            limit = f' of at most {self.limit_bytes / 1e9:g} GB (data.cache_gb)'
        if total > self.limit_bytes:
            beyond = ', which this command alone exceeds'
        return (
            f'decoded frames are kept in {self.folder}: {total / 1e9:.2f} GB{limit}{beyond}; it '
            'can be deleted at any time'
        )

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Time of use, bytes and path of every entry."""
        with suppress(OSError):
            for path in self.folder.iterdir():
                if not is_temporary(path):
                    with suppress(OSError):
                        yield path.stat().st_mtime, _size(path), path


def identify_code() -> str:
    """A digest of our own code that entries are made by."""
    return hash_sources(_PACKAGE / name for name in _SOURCES)


def _size(path: Path) -> int:
    files = path.rglob('*') if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _remove(path: Path) -> None:
    """Remove an entry; nobody finds a part of it meanwhile."""
    with suppress(OSError):
        gone = path.with_name(f'.{secrets.token_hex(8)}{PART}')
        os.replace(path, gone)
        if gone.is_dir():
            shutil.rmtree(gone, ignore_errors=True)
        else:
            gone.unlink()
