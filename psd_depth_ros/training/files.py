"""What is said when a run cannot write: the disk is full, or there is no right to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import errno
from pathlib import Path
import shutil

from psd_depth_ros import files
from psd_depth_ros.errors import SettingsError, TrainingError
from psd_depth_ros.parsing import shorten


def write_whole(path: Path, content: bytes) -> None:
    """Put a file there in one step; see `files.write_whole`. Raises TrainingError."""
    with explained_disk(path, len(content)):
        files.write_whole(path, content)


def make_folder(path: Path) -> None:
    """Make a folder and those above it. Raises TrainingError."""
    with explained_disk(path / 'x', 0, path.name):
        path.mkdir(parents=True, exist_ok=True)


def lock_folder(path: Path) -> files.FolderLock:
    """Take a folder for a run; SettingsError where another process has it."""
    with explained_disk(path / 'x', 0, path.name):
        lock = files.FolderLock(path)
    if not lock.is_held:
        raise SettingsError(
            f'{path}: another process is at work in this folder; wait until it has ended, or name '
            'another folder'
        )
    return lock


@contextmanager
def explained_disk(path: Path, size: int, name: str = '') -> Iterator[None]:
    """Turn an OSError into a TrainingError that names the folder and what to do."""
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
    """How much room there is, where the nearest folder is that there is."""
    for place in (folder, *folder.parents):
        try:
            return str(shutil.disk_usage(place).free)
        except (OSError, ValueError):
            continue
    return 'an unknown number'
