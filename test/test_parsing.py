"""Files as data: what is read right, and every kind of damage as one kind of error."""

import io
import struct
import zipfile

import numpy as np
import pytest

from psd_depth_ros.data.calibration_file import load_camera
from psd_depth_ros.data.depth import read_depth
from psd_depth_ros.data.frames import LensChoice
from psd_depth_ros.data.readers.files import FolderFrames
from psd_depth_ros.data.readers.kitti import read_split
from psd_depth_ros.errors import PsdDepthError
from psd_depth_ros.networks.encoders import read_encoder_weights
from psd_depth_ros.parsing import (
    parse_json,
    parse_yaml,
    ParseError,
    read_array,
    read_arrays,
    read_json_object,
    read_table,
    read_yaml,
)
from psd_depth_ros.training.recipe import read_recipe


def test_plain_values_come_as_they_are_written():
    assert parse_yaml('a: 1\nb: [1.5, true, null, x]\nc: {d: "1"}') == {
        'a': 1, 'b': [1.5, True, None, 'x'], 'c': {'d': '1'},
    }  # fmt: skip
    assert parse_yaml('') is None
    assert parse_yaml('--- \na: 1\n---\n') == {'a': 1}, 'as ros2 topic echo ends it'
    assert parse_yaml('0x10') == 16
    assert parse_yaml('18446744073709551615') == 2**64 - 1


def test_a_date_stays_the_text_it_is():
    assert parse_yaml('name: 2026-02-31') == {'name': '2026-02-31'}


def test_aliases_and_merges_that_end_are_followed():
    assert parse_yaml('a: &d [0, 0]\nb: *d\nc: &m {x: 1}\nd: {<<: *m, y: 2}') == {
        'a': [0, 0], 'b': [0, 0], 'c': {'x': 1}, 'd': {'x': 1, 'y': 2},
    }  # fmt: skip


BOMB = 'a0: &a0 [x, x]\n' + '\n'.join(
    f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]' for i in range(1, 12)
)


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('a: [1, 2', 'in line 1, column 9'),
        ('a: 1\nb: 2\na: 3', "gives 'a' twice, the second time in line 3"),
        ('{x: {y: 1, y: 1}}', "gives 'y' twice"),
        ('[' * 60 + ']' * 60, 'nested deeper than 50 levels'),
        ('[' * 100_000, 'nested deeper'),
        ('- ' * 2000 + 'x', 'nested deeper'),
        ('&a [*a]', 'holds a value inside itself'),
        ('&a {b: {c: *a}}', 'holds a value inside itself'),
        (BOMB, 'more than 200000 values'),
        ('9' * 5000, 'a whole number of 5000 digits'),
        ('0x' + 'f' * 5000, 'a whole number'),
        ('36893488147419103232', 'a whole number of 20 digits'),
        ('{[1]: 2}', 'unhashable'),
        ('!!python/object/apply:os.system [x]', 'could not determine a constructor'),
        ('!!int x', 'is not YAML'),
        ('!!int ""', 'is not YAML'),
        ('!!bool x', 'is not YAML'),
        ('!!binary "é"', 'is not YAML'),
        ('!!timestamp x', 'is not YAML'),
        ('a\0b', 'is not YAML'),
        ('--- 1\n--- 2', 'a second document in line 2'),
        ('x' * 1_000_001, 'more than the 1000000'),
    ],
    ids=lambda value: value[:20],
)
def test_yaml_that_is_refused(text, told):
    with pytest.raises(ParseError) as caught:
        parse_yaml(text)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('{"a": 1', 'is not JSON'),
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ('[' * 60 + ']' * 60, 'nested deeper'),
        ('[' * 200_000, 'is not JSON'),
        ('1' * 5000, 'a whole number of 5000 digits'),
        ('1' * 30, 'a whole number of 30 digits'),
        (b'\xff\xfe', 'is not JSON'),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_json_that_is_refused(text, told):
    with pytest.raises(ParseError) as caught:
        parse_json(text)
    assert told in str(caught.value)


def test_what_is_no_text_no_object_or_not_there(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes('höhe: 1'.encode('latin-1'))
    with pytest.raises(ParseError, match=r'no text in UTF-8 \(byte 0xf6 at 1\)'):
        read_yaml(path)
    path.write_bytes(b'\xef\xbb\xbfa: 1')  # as editors on Windows begin a file
    assert read_yaml(path) == {'a': 1}
    path.write_text('[1]')
    with pytest.raises(ParseError, match='holds a list instead of an object'):
        read_json_object(path)
    for gone in (tmp_path / 'gone', tmp_path / ('x' * 5000), tmp_path / 'a\0b', tmp_path):
        with pytest.raises(ParseError, match='cannot be read: '):
            read_yaml(gone)


def test_tables(tmp_path):
    path = tmp_path / 'table.csv'
    path.write_text('file,t\r\na.png,0.5\r\n\r\n"b,c.png",\r\n')
    assert read_table(path) == [{'file': 'a.png', 't': '0.5'}, {'file': 'b,c.png', 't': ''}]
    path.write_text('')
    assert read_table(path) == []
    for text, told in (
        ('a,b\n1\n', 'has 1 values in line 2, expected 2'),
        ('a,a\n1,2\n', "two columns named 'a'"),
        ('a\n"' + 'x' * 200_000 + '"\n', 'field larger'),
    ):
        path.write_text(text)
        with pytest.raises(ParseError, match=told):
            read_table(path)


def npy(array, **changes):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    content = buffer.getvalue()
    for old, new in changes.items():
        assert len(old) == len(new)
        content = content.replace(old.encode(), new.encode())
    return content


def test_arrays_come_back(tmp_path):
    wanted = {'a': np.arange(6.0).reshape(2, 3), 'b': np.zeros((0, 3), np.float32)}
    np.savez(tmp_path / 'x.npz', **wanted)
    found = read_arrays(tmp_path / 'x.npz')
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    np.save(tmp_path / 'x.npy', wanted['a'])
    np.testing.assert_array_equal(read_array(tmp_path / 'x.npy'), wanted['a'])


@pytest.mark.parametrize(
    'content',
    [
        b'',
        npy(np.arange(99))[:-1],
        npy(np.arange(99)) + b'x',
        npy(np.arange(99)).replace(b'(99,)', b'(9e9)'),
        npy(np.arange(99)).replace(b'(99,), }        ', b'(10**12,9,), }  '),
        npy(np.arange(99)).replace(b'(99,), }', b'(-9,), }'),
        npy(np.arange(99)).replace(b"'<i8'", b"'<q\0'"),
        npy(np.array([{}], object)),
    ],
    ids=['empty', 'short', 'long', 'not a tuple', 'huge', 'negative', 'type', 'pickled'],
)
def test_arrays_that_are_refused(tmp_path, content):
    path = tmp_path / 'x.npy'
    path.write_bytes(content)
    with pytest.raises(ParseError, match=r'is no whole \.npy file'):
        read_array(path)
    with zipfile.ZipFile(tmp_path / 'x.npz', 'w') as archive:
        archive.writestr('a.npy', content)
    with pytest.raises(ParseError, match=r'is no whole \.npz file'):
        read_arrays(tmp_path / 'x.npz')


def test_archives_that_are_refused(tmp_path):
    path = tmp_path / 'x.npz'
    np.savez(path, a=np.arange(99.0))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 1
    packed = whole.replace(struct.pack('<H', 0) + whole[10:14], b'\x63\0' + whole[10:14])
    for content in (whole[:-30], whole[:100], bytes(flipped), packed, b'PK\3\4'):
        path.write_bytes(content)
        with pytest.raises(ParseError, match=r'is no whole \.npz file of arrays'):
            read_arrays(path)
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a.npy', npy(np.zeros(200_000, np.uint8)))
    with pytest.raises(ParseError, match='more than the 100000 that are read at most'):
        read_arrays(path, most=100_000)


def folder_table(path):
    return FolderFrames(path.parent, LensChoice(horizontal_fov_deg=60.0))


READERS = {
    'recipe.yaml': lambda path: read_recipe(path),
    'camera.yaml': lambda path: load_camera(path),
    'split.txt': lambda path: read_split(path),
    'frames.csv': folder_table,
    'weights.npz': lambda path: read_encoder_weights(path),
    'truth.npy': lambda path: read_depth(path, 256.0),
}
DAMAGE = {
    'latin': 'höhe: 1, ä'.encode('latin-1'),
    'nothing': b'',
    'nul': b'a: \0',
    'deep': b'a: ' + b'[' * 3000,
    'cycle': b'a: &a [*a]',
    'long': b'a,b\n' + b'x' * 200_000 + b',1\n',
    'zip': b'PK\3\4' + bytes(60),
    'npy': b'\x93NUMPY\1\0v\0{(',
}


@pytest.mark.parametrize('name', READERS)
@pytest.mark.parametrize('damage', DAMAGE)
def test_whoever_reads_names_the_file(tmp_path, name, damage):
    path = tmp_path / name
    path.write_bytes(DAMAGE[damage])
    with pytest.raises(PsdDepthError) as caught:
        READERS[name](path)
    assert name in str(caught.value)
    assert not isinstance(caught.value, ParseError)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize('name', ['recipe.yaml', 'camera.yaml', 'weights.npz'])
def test_a_name_of_five_thousand_characters_is_a_file_that_is_not_there(tmp_path, name):
    with pytest.raises(PsdDepthError, match='File name too long') as caught:
        READERS[name](tmp_path / ('x' * 5000 + name))
    assert len(str(caught.value)) < 600
