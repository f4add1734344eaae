"""Files that are whole or not there, and what is said when the disk is full."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
import os
from pathlib import Path
import shutil

from psd_depth_ros.errors import TrainingError

PART = '.part'  # the end of a name that is still being written


def write_whole(path: Path, content: bytes) -> None:
    """Put a file there in one step: whoever reads it finds the old content or the new, all of it.

    Raises TrainingError where it cannot be written; the old file then stays as it was.
    """
    temporary = path.with_name(f'.{path.name}.{os.getpid()}{PART}')
    with explained_disk(path, len(content)):
        try:
            with open(temporary, 'wb') as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _settle_folder(path.parent)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def remove_parts(folder: Path) -> None:
    """Remove what a process left half-written when it was killed."""
    for path in folder.glob(f'.*{PART}'):
        path.unlink(missing_ok=True)


@contextmanager
def explained_disk(path: Path, size: int) -> Iterator[None]:
    """Turn an OSError into a TrainingError that names the folder and the bytes needed."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f'{path.parent}: {path.name} cannot be written ({error.strerror or error}): '
            f'{size} bytes are needed, {_free(path.parent)} are free; what was written before is '
            'whole: free space or rights, then resume the run'
        ) from error


def _free(folder: Path) -> str:
    try:
        return str(shutil.disk_usage(folder).free)
    except OSError:
        return 'an unknown number'


def _settle_folder(folder: Path) -> None:
    """Make the renaming itself survive a power cut, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
