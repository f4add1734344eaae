"""Which files a recording is made of, made ready to be read.

A rosbag2 folder has a metadata.yaml, but its files say all that is needed of themselves, so it is
used for their order only. Compressed files are unpacked, and what a killed recorder left in the
write-ahead log of SQLite is merged, in copies: nothing in the recording's folder is written. Files
of SQLite (`.db3`) and ROS 1 (`.bag`) are read here, those of MCAP in `bag_file`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path, PurePath
import re
import shutil
import sqlite3
import struct
import tempfile
from typing import Any

from rosbags.rosbag1 import Reader as Rosbag1Reader

from psd_depth_ros.data.bag_file import BagFile, Channel, McapReader, Stored
from psd_depth_ros.data.compression import decompress_file
from psd_depth_ros.errors import BagError
from psd_depth_ros.files import natural_key
from psd_depth_ros.parsing import ParseError, read_yaml

# What damaged tables and values of other types lead to.
_DAMAGE = (sqlite3.Error, ValueError, TypeError)
_TABLES = {'messages', 'topics'}
_PACKED = ('.zstd', '.zst')
_ACTIVE = '.bag.active'
_METADATA = 'metadata.yaml'
_STREAMS = ('.h264', '.264', '.avc', '.h265', '.265', '.hevc', '.mjpeg', '.mjpg')
_NUMBERED = re.compile(r'(?P<base>.*)_(?P<number>\d+)')
_JOURNALS = ('-wal', '-journal')
_ATTEMPTS = 3  # at a copy of a database that its recorder is writing


class SqliteFile(BagFile):
    """A `.db3` of rosbag2, of any version of its tables; it is never written to.

    Of one that is cut short or damaged every message is read that still can be.
    """

    def __init__(self, path: Path, named: Path | None = None) -> None:
        super().__init__(path, named)
        # Where the file is damaged or has no index by time: time, row and topic of each message.
        self._rows_left: list[tuple[int, int, int]] | None = None
        self._lost: set[int] = set()
        # Immutable: no -shm or lock file beside it, so read-only media can be read. What a killed
        # recorder left in a write-ahead log was merged before, see `bag_storage`.
        uri = f'{path.resolve().as_uri()}?mode=ro&immutable=1'
        try:
            self._database = sqlite3.connect(uri, uri=True, check_same_thread=False)
        except sqlite3.Error as error:
            raise _unreadable_database(self.path, error) from error
        try:
            self._open_tables()
        except _DAMAGE as error:
            self._database.close()
            raise _unreadable_database(self.path, error) from error
        except BagError:
            self._database.close()
            raise

    def messages(self, numbers: Collection[int], start_ns: int, stop_ns: int) -> Iterator[Stored]:
        """Messages by time, those of one time in the order they were written."""
        marks = ','.join('?' * len(numbers))
        query = (
            f'SELECT timestamp, id, topic_id, data FROM messages WHERE topic_id IN ({marks}) '
            'AND timestamp >= ? AND timestamp < ? ORDER BY timestamp, id'
        )
        limits = (start_ns, min(stop_ns, 2**63 - 1))
        last = (-1, -1)
        if self._rows_left is None:
            try:
                for time_ns, row, number, data in self._database.execute(
                    query, (*numbers, *limits)
                ):
                    last = (int(time_ns), row)
                    yield last[0], number, bytes(data)
                return
            except _DAMAGE as error:
                try:
                    self._find_rows(error)
                except _DAMAGE as damage:
                    raise _unreadable_database(self.path, damage) from damage
        for time_ns, row, number in self._rows_left or ():
            if (time_ns, row) > last and number in numbers and limits[0] <= time_ns < limits[1]:
                data = self._read_row(row)
                if data is None:
                    self._lose(row)
                else:
                    yield time_ns, number, data

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _open_tables(self) -> None:
        try:
            self._read_tables()
        except _DAMAGE as error:
            # A file that is shorter than it says is opened only so. Nothing can be written to it.
            self._database.execute('PRAGMA writable_schema=ON')
            self.channels.clear()
            self._read_tables(error)

    def _read_tables(self, damage: Exception | None = None) -> None:
        found = {row[0] for row in self._rows("SELECT name FROM sqlite_master WHERE type='table'")}
        if not found and not self.path.stat().st_size:
            raise BagError(
                f'bag {self.path} is empty: the file has 0 bytes, nothing of it can be saved; '
                'record it again'
            )
        if not found >= _TABLES:
            raise BagError(
                f'{self.path} is a database, but no bag of rosbag2: its tables are '
                f'{", ".join(sorted(found)) or "none"}, expected messages and topics'
            )
        columns = {row[1] for row in self._rows('PRAGMA table_info(topics)')}
        digest = 'type_description_hash' if 'type_description_hash' in columns else "''"
        definitions: dict[str, tuple[str, str]] = {}
        if 'message_definitions' in found:
            query = 'SELECT topic_type, encoding, encoded_message_definition '
            for name, schema, text in self._rows(f'{query} FROM message_definitions ORDER BY id'):
                definitions.setdefault(name, (schema, text))
        counts = self._count() if damage is None else self._find_rows(damage)
        if self._rows_left is None and not self._has_index():
            # SQLite would sort the messages with all their bytes.
            self._rows_left = sorted(self._each('SELECT timestamp, id, topic_id FROM messages'))
        query = f'SELECT id, name, type, serialization_format, {digest} FROM topics ORDER BY id'
        for number, topic, msgtype, encoding, hashed in self._rows(query):
            if not all(isinstance(value, str) for value in (topic, msgtype, encoding)):
                self.notes.append(
                    f'{self.path}: the entry of topic {topic!r} is damaged, and lost'
                )
                continue
            schema, text = definitions.get(msgtype, ('', ''))
            count = int(counts.get(number, 0))
            self.channels.append(
                Channel(number, topic, msgtype, encoding, count, schema, text, hashed or '')
            )

    def _count(self) -> dict[int, int]:
        (span,) = self._rows('SELECT MIN(timestamp), MAX(timestamp) FROM messages')
        self.start_ns, self.end_ns = (int(time_ns or 0) for time_ns in span)
        return dict(self._rows('SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id'))

    def _has_index(self) -> bool:
        names = [row[1] for row in self._rows('PRAGMA index_list(messages)')]
        columns = [self._rows(f'PRAGMA index_info("{name}")') for name in names]
        return any(found and found[0][2] == 'timestamp' for found in columns)

    # Damage.

    def _find_rows(self, damage: Exception) -> dict[int, int]:
        """List the messages whose rows can be read; returns how many each topic has of them.

        Raises the damage where all are unreadable.
        """
        found: list[tuple[int, int, int]] = []
        query = 'SELECT timestamp, id, topic_id FROM messages'
        with suppress(sqlite3.DatabaseError):
            found += self._each(f'{query} ORDER BY id')
        highest = found[-1][1] if found else -1
        with suppress(sqlite3.DatabaseError):  # and from the end, as far as the damage
            found += self._each(f'{query} WHERE id > {highest} ORDER BY id DESC')
        readable = sorted(row for row in found if self._read_row(row[1]) is not None)
        if not readable:
            raise damage
        self._rows_left = readable
        self.start_ns, self.end_ns = readable[0][0], readable[-1][0]
        self.notes.append(
            f'{self.path} is cut short or damaged ({damage}): {len(readable)} messages are read, '
            'all others are lost'
        )
        return Counter(number for _, _, number in readable)

    def _lose(self, row: int) -> None:
        """Count a message that cannot be read, once, in one note."""
        former = self._lost_words()
        self._lost.add(row)
        self.notes = [note for note in self.notes if note != former] + [self._lost_words()]

    def _lost_words(self) -> str:
        return f'{self.path} is damaged: {len(self._lost)} messages are lost'

    def _each(self, query: str) -> Iterator[tuple[int, int, int]]:
        for values in self._database.execute(query):
            if all(isinstance(value, int) for value in values):  # else of a page of noise
                yield values

    def _read_row(self, row: int) -> bytes | None:
        """The bytes of a message, None where they cannot be read."""
        with suppress(sqlite3.DatabaseError):
            found = self._database.execute('SELECT data FROM messages WHERE id = ?', (row,))
            (data,) = found.fetchone() or (None,)
            return data if isinstance(data, bytes) else None
        return None

    def _rows(self, query: str) -> list[tuple]:
        return self._database.execute(query).fetchall()


class Ros1File(BagFile):
    """A `.bag` of ROS 1, its chunks uncompressed, bz2 or lz4."""

    def __init__(self, path: Path, named: Path | None = None) -> None:
        super().__init__(path, named)
        self._reader = Rosbag1Reader(path)
        try:
            self._reader.open()
        except Exception as error:
            with suppress(Exception):
                self._reader.close()
            raise _unreadable_ros1(self.path, error) from error
        self._connections = {one.id: one for one in self._reader.connections}
        for one in self._reader.connections:
            text = getattr(one.msgdef, 'data', one.msgdef)
            self.channels.append(
                Channel(one.id, one.topic, one.msgtype, 'ros1', one.msgcount, 'ros1msg', str(text))
            )
        if self.count:
            self.start_ns = int(self._reader.start_time)
            self.end_ns = int(self._reader.end_time) - 1

    def messages(self, numbers: Collection[int], start_ns: int, stop_ns: int) -> Iterator[Stored]:
        """Messages by time."""
        wanted = [self._connections[number] for number in numbers]
        if not wanted:
            return
        try:
            for one, time_ns, raw in self._reader.messages(wanted, start_ns, stop_ns):
                yield time_ns, one.id, raw
        except Exception as error:
            raise _unreadable_ros1(self.path, error) from error

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


def _unreadable_database(path: Path, error: Exception) -> BagError:
    return BagError(
        f'bag {path} is empty, cut short or damaged: {error}. What is left of it may be saved '
        f'with `sqlite3 {path.name} .recover | sqlite3 saved.db3`'
    )


def _unreadable_ros1(path: Path, error: Exception) -> BagError:
    detail = ' '.join(str(error).split()) or type(error).__name__
    return BagError(
        f'bag {path} is empty, cut short or damaged: {detail}. A ROS 1 bag that was not closed '
        f'(.bag.active) is mended with `rosbag reindex {path.name}` of ROS 1'
    )


_READERS: dict[str, type[BagFile]] = {'.mcap': McapReader, '.db3': SqliteFile, '.bag': Ros1File}
BAG_SUFFIXES = (
    *_READERS,
    *(f'{suffix}{packed}' for suffix in ('.mcap', '.db3') for packed in _PACKED),
)


def is_bag_name(name: str) -> bool:
    """Whether a file is a bag by its name, in capitals too, as some file systems make them."""
    return name.lower().endswith(BAG_SUFFIXES)


def bag_files_in(folder: Path) -> list[Path]:
    """Bag files of a folder in the order of their numbers; hidden ones are left out."""
    files = (file for file in folder.iterdir() if not file.name.startswith('.'))
    return sorted((file for file in files if is_bag_name(file.name)), key=natural_key)


def is_split(files: Sequence[Path]) -> bool:
    """Whether files without a metadata.yaml are the parts of one recording of rosbag2.

    Its recorder names them FOLDER_0, FOLDER_1 and so on.
    """
    found = [_NUMBERED.fullmatch(_stem(file)) for file in files]
    if len(files) < 2 or not all(found):
        return False
    bases = {match['base'] for match in found if match}
    numbers = [int(match['number']) for match in found if match]
    own = bases == {files[0].parent.name}
    return len(bases) == 1 and (own or sorted(numbers) == list(range(len(files))))


class BagStorage:
    """The open files of a recording. Raises BagError where one cannot be read.

    `notes` say what was lost or put right; more may come while messages are read.
    """

    def __init__(self, path: Path) -> None:
        self._own_notes: list[str] = []
        self._folder: tempfile.TemporaryDirectory | None = None
        self.files: list[BagFile] = []
        try:
            for file in self._list(path):
                ready = self._prepare(file)
                suffix = next(one for one in _READERS if ready.name.lower().endswith(one))
                self.files.append(_READERS[suffix](ready, file))
        except BaseException:
            self.close()
            raise

    @property
    def notes(self) -> list[str]:
        """Remarks for the user, such as what was lost."""
        return [*self._own_notes, *(note for file in self.files for note in file.notes)]

    def close(self) -> None:
        """Close the files and remove the copies."""
        for file in self.files:
            file.close()
        self.files = []
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

    def _list(self, path: Path) -> list[Path]:
        if not path.exists():
            raise BagError(
                f'bag {path} is not there; expected a file {_kinds()} or a rosbag2 folder'
            )
        if not path.is_dir():
            if path.name.endswith(_ACTIVE):
                raise BagError(
                    f'{path} was not closed by its recorder: mend it with `rosbag reindex '
                    f'{path.name}` of ROS 1 and name it {path.name.removesuffix(_ACTIVE)}.bag'
                )
            if not is_bag_name(path.name):
                raise BagError(_describe_other(path))
            return [path]
        files = bag_files_in(path)
        if (path / _METADATA).exists():
            return self._listed(path, files)
        if len(files) == 1 or is_split(files):
            return files
        raise BagError(
            f'folder {path} has no metadata.yaml and {len(files)} bag files that are not the '
            f'parts of one recording (NAME_0, NAME_1, ...); name one file {_kinds()}'
            + ''.join(f'\n  {file.name}' for file in files[:20])
        )

    def _listed(self, path: Path, files: list[Path]) -> list[Path]:
        """The files that the metadata list, and parts that it does not know of yet."""
        try:
            names = _read_metadata(path / _METADATA)
        except BagError as error:
            if not files:
                raise
            self._own_notes.append(f'{error}; its {len(files)} bag files are read without it')
            return files
        listed = [_find(path, name) for name in names]
        missing = [file.name for file in listed if not file.exists()]
        if missing:
            raise BagError(
                f'bag {path} lacks {", ".join(missing)}, which its metadata.yaml lists; copy what '
                'is missing beside it, or name one of its files'
            )
        late = [file for file in files if file not in listed and is_split([*listed, file])]
        if late:
            self._own_notes.append(
                f'{", ".join(file.name for file in late)} of bag {path} is not listed in its '
                'metadata.yaml, as when a recorder is killed; it is read as well'
            )
        return sorted({*listed, *late}, key=natural_key) if late else listed

    def _prepare(self, file: Path) -> Path:
        """The file, or the copy of it that can be read."""
        if file.name.lower().endswith(_PACKED):
            return self._unpack(file)
        journals = [_beside(file, suffix) for suffix in _JOURNALS]
        if file.name.lower().endswith('.db3') and any(_size(one) for one in journals):
            return self._merge(file)
        return file

    def _unpack(self, file: Path) -> Path:
        target = self._copies(file, file.stat().st_size) / file.with_suffix('').name
        try:
            decompress_file(file, target)
        except ValueError as error:
            if not target.stat().st_size:
                raise BagError(
                    f'bag {file} is empty, cut short or damaged: {error}; record it again'
                ) from error
            self._own_notes.append(f'{file} is cut short or damaged; what comes after is lost')
        except OSError as error:
            raise _no_room(file, error) from error
        return target

    def _merge(self, file: Path) -> Path:
        """A copy of a database with what its recorder had not merged into it."""
        names = [file, *(_beside(file, suffix) for suffix in _JOURNALS)]
        folder = self._copies(file, sum(_size(one) for one in names))
        target = folder / file.name
        for _ in range(_ATTEMPTS):
            before = [_state(one) for one in names]
            try:
                for one in names:
                    if one.exists():
                        shutil.copyfile(one, folder / one.name)
            except OSError as error:
                raise _no_room(file, error) from error
            if before == [_state(one) for one in names]:
                break
        else:
            raise BagError(f'bag {file} is being written; stop its recorder first')
        written = _pages_in_log(_beside(target, '-wal'))
        try:
            # Opened for writing, SQLite takes in the log, or takes back what was half written.
            with closing(sqlite3.connect(target)) as database:
                database.execute('SELECT COUNT(*) FROM sqlite_master').fetchall()
                _, taken, _ = database.execute('PRAGMA wal_checkpoint(FULL)').fetchone()
                database.execute('PRAGMA journal_mode=DELETE').fetchall()
        except sqlite3.Error as error:
            raise BagError(
                f'bag {file} was not closed and its log {file.name}-wal or -journal cannot be '
                f'merged: {error}; try `sqlite3 {file.name} "PRAGMA wal_checkpoint(TRUNCATE)"` on '
                'a copy of both files'
            ) from error
        self._own_notes.append(
            f'{file} was not closed by its recorder: what its log held is read from a merged '
            'copy; the files are as they were'
        )
        lost = written - max(0, taken)
        if lost > 0:
            self._own_notes.append(
                f'{lost} of {written} pages in the log of {file} are damaged or were not written '
                'to the end: the messages in them are lost'
            )
        return target

    def _copies(self, file: Path, size: int) -> Path:
        """A folder of its own for copies, with room for so many bytes."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix='psd_depth_bag_')
        free = shutil.disk_usage(self._folder.name).free
        if size > free:
            raise BagError(
                f'bag {file} needs a copy of {size / 1e9:.2f} GB to be read, and '
                f'{self._folder.name} has room for {free / 1e9:.2f} GB; make room, or set TMPDIR '
                'to a folder that has it'
            )
        return Path(tempfile.mkdtemp(dir=self._folder.name))


def _read_metadata(path: Path) -> list[str]:
    """Names of the files that a metadata.yaml lists. Raises BagError."""
    try:
        content: Any = read_yaml(path)
    except ParseError as error:
        raise BagError(f'{path} {error}') from error
    try:
        information = content['rosbag2_bagfile_information']
        names = information['relative_file_paths']
        storage = information.get('storage_identifier', '')
    except (TypeError, KeyError, AttributeError, IndexError) as error:
        raise BagError(
            f'{path} is not the metadata of rosbag2: it has no list relative_file_paths under '
            'rosbag2_bagfile_information'
        ) from error
    if storage not in ('', 'mcap', 'sqlite3'):
        raise BagError(
            f'bag {path.parent} is stored by the plugin {storage!r}; expected mcap or sqlite3. '
            f'Convert it with `ros2 bag convert -i {path.parent.name} -o options.yaml`'
        )
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BagError(f'{path} lists {names!r} as relative_file_paths, expected names of files')
    if not names:
        raise BagError(f'{path} lists no files')
    return names


def _find(folder: Path, name: str) -> Path:
    """A listed file; while it is recorded it is listed before it is compressed."""
    file = folder / PurePath(name).name
    packed = [_beside(file, suffix) for suffix in _PACKED]
    plain = [file.with_suffix('')] if file.name.lower().endswith(_PACKED) else []
    return next((one for one in (file, *packed, *plain) if one.exists()), file)


def _stem(file: Path) -> str:
    name = file.name
    return next((name[: -len(one)] for one in BAG_SUFFIXES if name.lower().endswith(one)), name)


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _state(file: Path) -> tuple[int, int]:
    if not file.exists():
        return -1, -1
    facts = file.stat()
    return facts.st_size, facts.st_mtime_ns


def _pages_in_log(log: Path) -> int:
    """Pages that were written to a log of SQLite since it was begun, whole or not.

    Layout: https://www.sqlite.org/fileformat2.html#walformat. Those of an earlier round, which
    have another salt, do not count.
    """
    count = 0
    with suppress(OSError), log.open('rb') as stream:
        head = stream.read(32)
        if len(head) < 32:
            return 0
        (page,) = struct.unpack_from('>I', head, 8)
        frame = stream.read(24)
        while len(frame) == 24 and frame[8:16] == head[16:24]:
            count += 1
            stream.seek(page, 1)
            frame = stream.read(24)
    return count


def _no_room(file: Path, error: OSError) -> BagError:
    return BagError(
        f'bag {file} cannot be copied to be read: {error.strerror or error}; make room, or set '
        'TMPDIR to a folder that has it'
    )


def _describe_other(path: Path) -> str:
    """What to do about a file that is no bag by its name."""
    if path.suffix.lower() in _STREAMS:
        return (
            f'{path} is a raw stream without times; put it into a container with its rate, such '
            f'as `ffmpeg -r 30 -i {path.name} -c copy {path.stem}.mp4`'
        )
    if path.name == _METADATA:
        return f'{path} only describes a bag; name the folder that it lies in'
    return (
        f'{path} is not a bag; expected a file {_kinds()} or a rosbag2 folder, or else a video '
        '(.mp4 .avi .mkv .mov .webm ...) or a folder of images'
    )


def _kinds() -> str:
    return ' | '.join(f'*{suffix}' for suffix in _READERS)
