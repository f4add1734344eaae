"""Files that are whole or not there, whatever happens to who writes them."""

import os
import stat

import pytest
import torch

from psd_depth_ros.checkpoint import pack, unpack
from psd_depth_ros.files import atomic_path, FolderLock, remove_abandoned, write_atomically
from psd_depth_ros.parsing import ParseError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_as_a_whole_with_the_rights_of_a_new_one(tmp_path):
    path = tmp_path / 'file'
    former = os.umask(0o027)
    try:
        write_atomically(path, b'old')
        write_atomically(path, b'new')
    finally:
        os.umask(former)
    assert path.read_bytes() == b'new'
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ['file']


def test_names_of_what_is_being_written_cannot_be_guessed(tmp_path):
    seen = set()
    for _ in range(3):
        with atomic_path(tmp_path / 'file') as part:
            seen.add(part.name)
    assert len(seen) == 3
    assert all(str(os.getpid()) not in name.split('.') for name in seen)


def test_what_nobody_holds_is_removed_and_what_somebody_writes_is_not(tmp_path):
    (tmp_path / '.file.0123.part').write_bytes(b'of a process that was killed')
    (tmp_path / '.file.4567.part').mkdir()
    (tmp_path / '.file.89.part').symlink_to(tmp_path / 'precious')
    (tmp_path / '.other.0123.part').touch()
    (tmp_path / 'precious').touch()
    with atomic_path(tmp_path / 'file') as ours:
        ours.write_bytes(b'ours')
        write_atomically(tmp_path / 'file', b'theirs')
        remove_abandoned(tmp_path / 'file')
        assert ours.exists()
    assert (tmp_path / 'file').read_bytes() == b'ours'
    assert names(tmp_path) == ['.file.89.part', '.other.0123.part', 'file', 'precious']


def test_a_body_that_fails_leaves_what_was_there(tmp_path):
    write_atomically(tmp_path / 'file', b'old')

    def fail(folder):
        with atomic_path(tmp_path / 'file', folder=folder) as part:
            assert part.is_dir() == folder
            raise RuntimeError

    for folder in (False, True):
        with pytest.raises(RuntimeError):
            fail(folder)
    assert names(tmp_path) == ['file']


def test_of_two_that_make_a_folder_the_faster_wins(tmp_path):
    with atomic_path(tmp_path / 'made', folder=True) as slow:
        (slow / 'slow').touch()
        with atomic_path(tmp_path / 'made', folder=True) as fast:
            (fast / 'fast').touch()
    assert names(tmp_path) == ['made']
    assert names(tmp_path / 'made') == ['fast']


def test_a_pipe_is_written_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    reader = os.open(tmp_path / 'pipe', os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_atomically(tmp_path / 'pipe', b'report')
        assert os.read(reader, 100) == b'report'
    finally:
        os.close(reader)
    assert stat.S_ISFIFO((tmp_path / 'pipe').stat().st_mode)


def test_a_very_long_name(tmp_path):
    path = tmp_path / ('ä' * 120)
    write_atomically(path, b'x')
    assert path.read_bytes() == b'x'


def test_a_folder_is_held_by_one_and_nothing_is_left_in_it(tmp_path):
    first = FolderLock(tmp_path)
    assert first.is_held
    assert not FolderLock(tmp_path).is_held
    first.release()
    first.release()
    assert FolderLock(tmp_path).is_held, 'and one that nobody keeps is free again'
    assert FolderLock(tmp_path).is_held
    assert not names(tmp_path)


TENSORS = {'w': torch.tensor([1.0, 2.0]), 'n': torch.tensor(3)}


def test_every_flipped_bit_is_seen():
    content = pack(TENSORS, {'about': 'a "sha256":"0" in quotes'})
    tensors, metadata = unpack(content, sealed=True)
    assert torch.equal(tensors['w'], TENSORS['w'])
    assert metadata['about'] == 'a "sha256":"0" in quotes'
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        with pytest.raises(ParseError):
            unpack(bytes(changed), sealed=True)
    for size in range(0, len(content), 7):
        with pytest.raises(ParseError, match='is not a whole safetensors file'):
            unpack(content[:size])
