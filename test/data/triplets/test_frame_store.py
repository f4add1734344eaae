"""The cache of decoded frames: what is kept, found again, removed, and what a full one says."""

import os
import time

import numpy as np
import pytest

from psd_depth_ros.config import build
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.data.triplets import frame_store
from psd_depth_ros.data.triplets.frame_store import frames_folder, FrameStore
from psd_depth_ros.data.triplets.motions import cover_pairs, estimate_motions
from psd_depth_ros.data.triplets.prepare import prepare_sequences
from psd_depth_ros.networks import DepthModel, preset

FRAMES = 12


def add(folder, name, size, age_s):
    entry = folder / name
    entry.mkdir(parents=True)
    (entry / 'rgb.npy').write_bytes(bytes(size))
    used_s = time.time() - age_s
    os.utime(entry, (used_s, used_s))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'home'))
    return tmp_path / 'home' / 'psd_depth_ros' / 'frames'


@pytest.fixture
def bag(drives, tmp_path):
    return drives.write_bag(tmp_path / 'drive.mcap', drives.make_pictures(FRAMES))


def prepare(*paths, workers=1, **settings):
    built = build(DataSettings, {'paths': [str(path) for path in paths], **settings})
    return prepare_sequences(built, pixel_budget=192 * 128, workers=workers)


def test_what_was_unused_for_longest_makes_room(tmp_path):
    for name, age_s in (('new', 50), ('oldest', 900), ('old', 400)):
        add(tmp_path, name, 1000, age_s)
    store = FrameStore(tmp_path, 2500)
    store.make_room()
    assert names(tmp_path) == ['new', 'old']
    store.use(tmp_path / 'old')
    store.make_room(1000)
    assert names(tmp_path) == ['old']
    store.make_room(10_000)  # what was used by this command stays, whatever the limit
    assert names(tmp_path) == ['old']
    assert 'exceeds' not in store.describe()
    add(tmp_path, 'large', 9000, 0)
    store.make_room()
    assert '0.00 GB of at most 2.5e-06 GB' in store.describe()
    assert 'which this command alone exceeds' in store.describe()


def test_room_is_made_for_a_disk_that_is_nearly_full(tmp_path, monkeypatch):
    for name, age_s in (('new', 50), ('old', 400)):
        add(tmp_path, name, 1000, age_s)

    class Disk:
        @property
        def free(self):
            return 500 if (tmp_path / 'old').exists() else 1500

    monkeypatch.setattr(frame_store.shutil, 'disk_usage', lambda path: Disk())
    FrameStore(tmp_path, 1e9).make_room(1200)
    assert names(tmp_path) == ['new']


def test_frames_are_shared_below_the_home_of_the_user(own_home, bag):
    first = prepare(bag)
    assert first.decoded == ('drive',)
    assert first.store.folder == own_home == frames_folder()
    again = prepare(bag, camera_height_m=1.0)  # not what frames are made from
    assert again.decoded == ()
    assert len(names(own_home)) == 1
    other = prepare(bag, rectify_alpha=0.5)
    assert other.decoded == ('drive',)
    assert len(names(own_home)) == 2


def test_the_limit_holds_from_run_to_run(own_home, bag, drives, tmp_path):
    prepare(bag)
    (old,) = own_home.iterdir()
    os.utime(old, (1e9, 1e9))
    second = drives.write_bag(tmp_path / 'second.mcap', drives.make_pictures(FRAMES, seed=2))
    prepare(second, cache_gb=0.0)
    (kept,) = own_home.iterdir()
    assert kept.name.startswith('second')


def test_another_folder_is_a_setting(own_home, bag, tmp_path):
    prepared = prepare(bag, cache=str(tmp_path / 'mine'))
    assert prepared.store.folder == tmp_path / 'mine'
    assert not own_home.exists()


def test_new_code_decodes_again(own_home, bag, monkeypatch):
    prepare(bag)
    monkeypatch.setattr(frame_store, 'identify_code', lambda: 'newer')
    assert prepare(bag).decoded == ('drive',)


def motions(prepared, network, **options):
    (sequence,) = prepared.sequences
    return estimate_motions(sequence, network, 240.0, store=prepared.store, **options)


def same(one, other):
    assert list(one) == list(other)
    assert len(one) > 10
    for pair, pose in one.items():
        np.testing.assert_array_equal(pose, other[pair])


def test_tracked_motions_are_kept_for_every_network(own_home, bag, monkeypatch):
    network = DepthModel(preset('lite'))
    first = motions(prepare(bag), network)
    with monkeypatch.context() as patch:
        where = 'psd_depth_ros.data.triplets.motions'
        patch.setattr(f'{where}.predict_depth', None)
        patch.setattr(f'{where}.track_motion', None)
        same(first, motions(prepare(bag), network))
        patch.undo()
        patch.setattr(f'{where}.track_motion', None)
        other = motions(prepare(bag), DepthModel(preset('lite')))
    assert other.keys() == first.keys()
    lengths = [np.linalg.norm(found[pair][:3, 3]) for pair in first for found in (first, other)]
    assert len(set(lengths)) > len(first)
    for path in own_home.glob('*.safetensors'):  # damaged: found out, and made again
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    same(first, motions(prepare(bag), network))


def test_the_number_of_threads_changes_nothing(own_home, bag, tmp_path):
    network, found = DepthModel(preset('lite')), []
    for workers in (1, 3):
        prepared = prepare(bag, workers=workers, cache=str(tmp_path / str(workers)))
        found.append((prepared, motions(prepared, network, workers=workers)))
    (one, poses), (other, again) = found
    same(poses, again)
    assert one.sequences[0].fingerprint == other.sequences[0].fingerprint
    np.testing.assert_array_equal(one.sequences[0].rgb, other.sequences[0].rgb)
    np.testing.assert_array_equal(one.parts[0].neighbours, other.parts[0].neighbours)


def test_the_motion_back_is_the_inverse(own_home, bag):
    found = motions(prepare(bag), DepthModel(preset('lite')))
    both = [pair for pair in found if pair[::-1] in found]
    assert both
    for target, source in both:
        there, back = found[target, source], found[source, target]
        np.testing.assert_allclose(back @ there, np.eye(4), atol=1e-9)


def test_every_pair_has_a_frame_with_a_depth():
    chain = [(frame, frame + 1) for frame in range(9)]
    assert cover_pairs(chain) == [1, 3, 5, 7, 9]
    for pairs in (chain, [*chain, (0, 2), (2, 5), (6, 8)], [(3, 7)], []):
        chosen = cover_pairs(pairs)
        assert all(set(pair) & set(chosen) for pair in pairs)
