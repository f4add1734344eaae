"""Folders of maps: which map is of which frame, and what a file holds."""

import cv2
import numpy as np
import pytest

from psd_depth_ros.errors import SettingsError
from psd_depth_ros.teachers import open_depth_teacher, open_semantic_expert


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.npy':
        np.save(path, values)
    elif path.suffix == '.npz':
        np.savez(path, values)
    else:
        assert cv2.imwrite(str(path), values)


def names(found):
    return [one and one.name for one in found]


def test_frames_are_found_by_name_or_number(tmp_path):
    for frame in ('000000', '000012', 'b'):
        write(tmp_path / 'depth' / 'street' / f'{frame}.png', np.ones((2, 3), np.uint16))
    folder = open_depth_teacher(str(tmp_path / 'depth'))
    frames = [('000012',), ('b',), ('0', '400'), ('12', '500'), ('7', '000000'), ('c',)]
    found = folder.find(['drive', 'street'], frames, is_only=False)
    assert names(found) == ['000012.png', 'b.png', '000000.png', '000012.png', '000000.png', None]
    assert names(folder.find(['other'], frames, is_only=True)) == [None] * 6


def test_maps_in_the_folder_itself_are_of_the_only_recording(tmp_path):
    write(tmp_path / 'depth' / 'a.npy', np.ones((2, 3)))
    folder = open_depth_teacher(str(tmp_path / 'depth'))
    assert names(folder.find(['any'], [('a',)], is_only=True)) == ['a.npy']
    assert folder.find(['any'], [('a',)], is_only=False) == [None]


@pytest.mark.parametrize('suffix', ['.png', '.npy', '.npz'])
def test_depth_and_disparity(tmp_path, suffix):
    values = np.array([[0, 2], [4, 8]], np.uint16 if suffix == '.png' else np.float32)
    path = tmp_path / f'a{suffix}'
    write(path, values)
    depth = open_depth_teacher(f'{tmp_path}?output=depth').read(path)
    np.testing.assert_array_equal(depth, [[np.nan, 1 / 2], [1 / 4, 1 / 8]])
    disparity = open_depth_teacher(f'{tmp_path}?output=disparity').read(path)
    first = np.nan if suffix == '.png' else 0  # a float has NaN for what is unknown
    np.testing.assert_array_equal(disparity, [[first, 2], [4, 8]])


def test_classes_are_counted_and_255_is_unknown(tmp_path):
    write(tmp_path / 'a.png', np.array([[0, 2], [255, 1]], np.uint8))
    write(tmp_path / 'b.png', np.array([[255, 255]], np.uint8))
    expert = open_semantic_expert(str(tmp_path))
    found = expert.read(tmp_path / 'a.png')
    nan = np.nan
    wanted = [[[1, 0], [nan, 0]], [[0, 0], [nan, 1]], [[0, 1], [nan, 0]]]
    np.testing.assert_array_equal(found, wanted)
    assert np.isnan(expert.read(tmp_path / 'b.png')).all()
    (tmp_path / 'maps.yaml').write_text('classes: 19\nname: cityscapes\n')
    told = open_semantic_expert(str(tmp_path))
    assert told.read(tmp_path / 'a.png').shape == (19, 2, 2)
    assert told.name == 'cityscapes'


def test_an_id_follows_the_content(tmp_path):
    write(tmp_path / 'depth' / 'a.npy', np.ones((2, 3)))
    ids = {open_depth_teacher(str(tmp_path / 'depth')).id}
    write(tmp_path / 'depth' / 'a.npy', np.full((2, 3), 2.0))
    ids.add(open_depth_teacher(str(tmp_path / 'depth')).id)
    (tmp_path / 'depth').rename(tmp_path / 'other_depth')
    ids.add(open_depth_teacher(str(tmp_path / 'other_depth')).id)
    assert len(ids) == 2


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        (np.ones((2, 3), np.uint8), '8 bits are a picture of depth'),
        (np.ones((2, 3, 3), np.uint16), 'one channel'),
    ],
)
def test_what_is_no_depth_is_refused(tmp_path, values, message):
    write(tmp_path / 'a.png', values)
    folder = open_depth_teacher(f'{tmp_path}?output=depth')
    with pytest.raises(SettingsError, match=message):
        folder.read(tmp_path / 'a.png')


def test_a_folder_without_maps_or_meaning_is_refused(tmp_path):
    with pytest.raises(SettingsError, match='has no maps; expected FOLDER/RECORDING/FRAME'):
        open_depth_teacher(str(tmp_path))
    write(tmp_path / 'maps' / 'a.png', np.ones((2, 3), np.uint16))
    with pytest.raises(SettingsError, match=r'folder .*maps: its name does not tell'):
        open_depth_teacher(str(tmp_path / 'maps'))
    (tmp_path / 'maps' / 'b.png').write_bytes(b'no picture')
    folder = open_depth_teacher(f'{tmp_path}/maps?output=depth')
    with pytest.raises(SettingsError, match=r'b\.png is damaged'):
        folder.read(tmp_path / 'maps' / 'b.png')
