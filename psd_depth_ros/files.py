"""Atomic writes, locked folders and files of the package.

A file or folder being written has a random name that ends with PART and is locked by its process;
one that is not locked was left behind by a killed process and may be removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
import errno
import fcntl
import hashlib
import os
from pathlib import Path
import re
import secrets
import shutil
import time
import weakref

from psd_depth_ros.errors import SettingsError, TrainingError
from psd_depth_ros.parsing import is_file, shorten, user_path

_DIGITS = re.compile(r'(\d+)')

PART = '.part'
_NO_LOCKS_S = 86_400.0  # age of an abandoned part, where a file system has no locks
_TRIES = 100
_LONGEST = 200  # bytes of a name that leave room for the temporary one's


def find_installed(relative: str) -> Path | None:
    """The file `relative` ('weights/lite.safetensors') of the package, None where it is not."""
    for parent in Path(__file__).resolve().parents:
        for folder in (parent, parent / 'share' / 'psd_depth_ros'):
            if is_file(folder / relative):
                return folder / relative
    return None


def cache_folder(name: str) -> Path:
    """A folder of the user's cache: psd_depth_ros/NAME in XDG_CACHE_HOME, or ~/.cache."""
    home = user_path(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
    return home / 'psd_depth_ros' / name


def hash_sources(places: Iterable[Path]) -> str:
    """A digest of Python files, and of all that are in folders."""
    digest = hashlib.sha256()
    for place in places:
        for path in sorted(place.rglob('*.py')) if place.is_dir() else [place]:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def natural_key(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Sort key of a path: runs of digits in its name count as numbers.

    Equal numbers with more zeros before them come later, so that the order is always the same.
    """
    key: list[tuple[int, int, str]] = []
    for part in path.parts:
        pieces = _DIGITS.split(part)
        for place, piece in enumerate(pieces):
            if place % 2:
                key.append((0, int(piece), piece))
            elif piece:
                key.append((1, 0, piece))
        key.append((-1, 0, ''))
    return tuple(key)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old content or the new, never a part.

    Temporary files of killed processes beside it are removed; a device or pipe is written
    directly. Raises OSError where it cannot be written; the old file then stays as it was.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    with atomic_path(path) as temporary, open(temporary, 'wb') as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


@contextmanager
def atomic_path(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """A new empty file (or folder) beside `path` that is renamed to it after the body.

    It is removed where the body fails. A folder does not replace one that exists by then: the
    other is kept. Raises OSError.
    """
    remove_abandoned(path)
    temporary, descriptor = _create(path, _make_folder if folder else _make_file)
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError as error:
            if not (folder and error.errno in (errno.ENOTEMPTY, errno.EEXIST)):
                raise
            shutil.rmtree(temporary, ignore_errors=True)
    except BaseException:
        _remove(temporary)
        raise
    finally:
        os.close(descriptor)


def is_temporary(path: Path) -> bool:
    """Whether a path has the name of an unfinished file or folder."""
    return path.name.startswith('.') and path.name.endswith(PART)


def remove_abandoned(path: Path) -> None:
    """Remove what killed processes left half-written beside `path`."""
    with suppress(OSError):
        for part in path.parent.iterdir():
            if is_temporary(part) and part.name.startswith(_prefix(path)):
                _if_abandoned(part, _remove)


def rescue_abandoned(path: Path) -> list[Path]:
    """Rename what killed processes left half-written beside `path`; returns the new names.

    For formats that can be read as far as they are whole; see `keep_cut`.
    """
    rescued: list[Path] = []
    with suppress(OSError):
        for part in sorted(path.parent.iterdir()):
            if is_temporary(part) and part.name.startswith(_prefix(path)):
                _if_abandoned(part, lambda part: rescued.append(keep_cut(part, path)))
    return rescued


def keep_cut(part: Path, path: Path) -> Path:
    """Rename the unfinished file of `path` to NAME_cut_1.SUFFIX, or the next that is free.

    Returns the new name. Raises OSError.
    """
    names = (path.with_name(f'{path.stem}_cut_{n}{path.suffix}') for n in range(1, 1 << 30))
    target = next(name for name in names if not name.exists())
    os.replace(part, target)
    return target


def remove_temporaries(folder: Path) -> None:
    """Remove everything that killed processes left half-written in a folder."""
    with suppress(OSError):
        for part in folder.iterdir():
            if is_temporary(part):
                _if_abandoned(part, _remove)


def set_aside(path: Path) -> Path:
    """Rename a damaged file to NAME.damaged and return the new path."""
    aside = path.with_name(f'{path.name}.damaged')
    os.replace(path, aside)
    return aside


class FolderLock:
    """Lock of a folder for one process; the system releases it when the process ends.

    The folder itself is locked, so no lock file is left in it. `is_held` is false where another
    process holds the lock; on file systems without locks it is always true.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self.is_held = _lock(self._descriptor) is not False
        if not self.is_held:
            self.release()

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        self._close()


def write_file(path: Path, content: bytes) -> None:
    """Write a file atomically; see `write_atomically`. Raises TrainingError."""
    with explained_disk(path, len(content)):
        write_atomically(path, content)


def make_folder(path: Path) -> None:
    """Make a folder and its parents. Raises TrainingError."""
    with explained_disk(path / 'x', 0, path.name):
        path.mkdir(parents=True, exist_ok=True)


def lock_folder(path: Path) -> FolderLock:
    """Lock a folder for a run; SettingsError where another process holds the lock."""
    with explained_disk(path / 'x', 0, path.name):
        lock = FolderLock(path)
    if not lock.is_held:
        raise SettingsError(
            f'{path}: another process is at work in this folder; wait until it has ended, or name '
            'another folder'
        )
    return lock


@contextmanager
def explained_disk(path: Path, size: int, name: str = '') -> Iterator[None]:
    """Turn an OSError of writing `size` bytes into a TrainingError that says what to do."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f'{shorten(path.parent)}: {shorten(name or path.name)} cannot be written '
            f'({error.strerror or error}): {_next_step(error, path.parent, size)}'
        ) from error


def _next_step(error: OSError, folder: Path, size: int) -> str:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return 'this process may not write there: give it the right to, or name another folder'
    if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EINVAL, errno.ELOOP):
        return 'name another folder'
    return (
        f'{size} bytes are needed, {_free(folder)} are free; what was written before is whole: '
        'free space, then start or resume the run'
    )


def _free(folder: Path) -> str:
    """Free bytes of the nearest existing folder."""
    for place in (folder, *folder.parents):
        try:
            return str(shutil.disk_usage(place).free)
        except (OSError, ValueError):
            continue
    return 'an unknown number'


def _create(path: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    for _ in range(_TRIES):
        temporary = path.with_name(f'{_prefix(path)}{secrets.token_hex(8)}{PART}')
        with suppress(FileExistsError):
            descriptor = make(temporary)
            _lock(descriptor)
            if _is_still(temporary, descriptor):
                return temporary, descriptor
            os.close(descriptor)  # taken for abandoned before it was locked
    raise FileExistsError(errno.EEXIST, 'no free name for a temporary file', str(path))


def _prefix(path: Path) -> str:
    name = path.name
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return f'.{name}.'


def _make_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def _make_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(descriptor: int) -> bool | None:
    """Lock; False where another process has the lock, None where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _if_abandoned(part: Path, act: Callable[[Path], None]) -> None:
    with suppress(OSError):
        descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            is_free = _lock(descriptor)
            age_s = time.time() - os.fstat(descriptor).st_mtime
            if is_free or (is_free is None and age_s > _NO_LOCKS_S):
                act(part)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the renaming survive a power cut, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
