"""Maps of teachers: computed once for a frame, kept, and cut like the images of a batch."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from psd_depth_ros.augment.crops import Window
from psd_depth_ros.data.fields import check_fields, Example, PROVIDERS, ScaledSequence
from psd_depth_ros.data.frames import Origin, Sequence
from psd_depth_ros.data.maps import compute_maps, open_teachers
from psd_depth_ros.data.triplets.batch import TripletBatches
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.teachers import open_depth_teacher, open_semantic_expert

FRAMES, HEIGHT, WIDTH = 5, 32, 64  # of the frames; the network's input is half of that


class Counted:
    """Says that disparity is the frame's red, at a quarter of its size, and counts its calls."""

    name, id, provenance = 'counted', 'a', ()

    def __init__(self, fails_at=None):
        self.calls = 0
        self._fails_at = fails_at

    def __call__(self, rgb, camera):
        if self.calls == self._fails_at:
            raise KeyboardInterrupt
        self.calls += 1
        return cv2.resize(rgb[..., 0].astype(np.float32), (WIDTH // 4, HEIGHT // 4))


def make_sequence(tmp_path, name='made', **changes):
    rgb = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    rgb += np.arange(1, FRAMES + 1, dtype=np.uint8)[:, None, None, None] * 10
    targets = np.arange(1, FRAMES - 1, dtype=np.int32)
    triplets = np.stack([targets, targets - 1, targets + 1], axis=1)
    names = tuple(f'frame_{index}' for index in range(FRAMES))
    values = {
        'rgb': rgb,
        'camera': Camera(WIDTH, HEIGHT, 60.0, 60.0, 31.5, 15.5),
        'stamps_ns': np.arange(FRAMES),
        'valid': np.ones((HEIGHT, WIDTH), bool),
        'triplets': triplets,
        'held_out': triplets[:0],
        'fine_factor': 2,
        'origin': Origin(tmp_path / name, names, np.arange(FRAMES)),
    }
    return Sequence(name=name, **{**values, **changes})


def test_no_frame_is_computed_twice(tmp_path):
    sequence = make_sequence(tmp_path)
    teacher, reports = Counted(), []

    def compute(**changes):
        return compute_maps(
            [replace(sequence, **changes)],
            teacher,
            'pseudo_depth',
            tmp_path / 'frames',
            lambda done, total: reports.append((done, total)),
        ).sequences[0]

    found = compute().pseudo_depth
    assert (found.shape, found.dtype) == ((FRAMES, HEIGHT // 2, WIDTH // 2), np.float16)
    assert (found == np.arange(10, 60, 10)[:, None, None]).all()
    assert teacher.calls == FRAMES
    assert reports[-1] == (FRAMES, FRAMES)
    assert [done for done, _ in reports[:FRAMES]] == [1, 2, 3, 4, 5]
    compute(triplets=sequence.triplets[:1])  # other triplets, the same frames
    assert teacher.calls == FRAMES
    compute(rgb=sequence.rgb + np.uint8(1))
    assert teacher.calls == 2 * FRAMES
    teacher.id = 'another'
    compute()
    assert teacher.calls == 3 * FRAMES


def test_what_is_damaged_or_cut_off_is_computed_again(tmp_path):
    sequence, cache = make_sequence(tmp_path), tmp_path / 'frames'
    with pytest.raises(KeyboardInterrupt):
        compute_maps([sequence], Counted(fails_at=3), 'pseudo_depth', cache)
    assert list(cache.iterdir()) == []
    teacher = Counted()
    compute_maps([sequence], teacher, 'pseudo_depth', cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:-100], whole[:20], b''):
        file.write_bytes(damaged)
        compute_maps([sequence], teacher, 'pseudo_depth', cache)
        assert file.read_bytes() == whole
    assert teacher.calls == 4 * FRAMES


def test_disparity_of_any_scale_fits_in_sixteen_bits(tmp_path):
    class Large(Counted):
        def __call__(self, rgb, camera):
            return np.array([[1e6, 5e5]], np.float32)

    sequence = make_sequence(tmp_path)
    found = compute_maps([sequence], Large(), 'pseudo_depth', None).sequences[0].pseudo_depth[0]
    assert found[0, 0] == 1.0
    assert found[0, -1] == 0.5


def write_folder(folder, frames):
    for index in frames:
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        labels[:, WIDTH // 4 :] = index
        labels[: HEIGHT // 2] = 255
        path = folder / f'frame_{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), labels)


def test_frames_and_recordings_without_maps_are_unknown(tmp_path):
    write_folder(tmp_path / 'maps' / 'made', (1, 2))
    with_maps, without = make_sequence(tmp_path), make_sequence(tmp_path, 'other')
    expert = open_semantic_expert(str(tmp_path / 'maps'))
    found = compute_maps([without, with_maps], expert, 'semantics', tmp_path / 'frames')
    assert found.notes == ('other has no maps of maps',)
    other, made = (one.semantics for one in found.sequences)
    assert other.shape == made.shape == (FRAMES, 3, 2, 4)
    assert np.isnan(other).all()
    assert np.isnan(made[[0, 3, 4]]).all()
    assert np.isnan(made[1, :, 0]).all()  # of class 255
    # Each covers 16 x 16 pixels of the label, whose left quarter is of class 0.
    np.testing.assert_array_equal(made[2, :, 1], [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]])
    batches = TripletBatches(
        found.sequences, batch=6, seed=0, fields=frozenset({'semantics'}), augment=False
    )
    batch = batches.batch(1)
    assert batch.semantics.shape == (6, 3, 2, 4)
    known = torch.isfinite(batch.semantics).any(dim=1).flatten(1).sum(dim=1)
    assert sorted(known.tolist()) == [0, 0, 0, 0, 4, 4]


def test_a_folder_that_fits_nothing_is_refused_with_names(tmp_path):
    write_folder(tmp_path / 'maps' / 'elsewhere', (1, 2))
    expert = open_semantic_expert(str(tmp_path / 'maps'))
    with pytest.raises(
        SettingsError,
        match=r'fit no recording; expected .*made or .*: frame_0 \.\.\. frame_4; '
        r'found elsewhere: frame_1 \.\.\. frame_2 \(2\)',
    ):
        compute_maps([make_sequence(tmp_path)], expert, 'semantics', None)


def test_maps_of_a_distorted_image_are_rectified(tmp_path):
    """The view is the left half of the recorded image; beyond its last row nothing is seen."""
    (tmp_path / 'depth').mkdir()
    for index in range(FRAMES):
        recorded = np.tile(np.arange(1, 2 * WIDTH + 1, dtype=np.uint16), (HEIGHT, 1))
        cv2.imwrite(str(tmp_path / 'depth' / f'frame_{index}.png'), recorded)
    rows, columns = np.mgrid[0 : HEIGHT // 2, 0 : WIDTH // 2].astype(np.float32)
    positions = np.stack([(columns + 0.5) / WIDTH, (rows + 0.5) / (HEIGHT // 2)], axis=-1)
    positions[-1] = np.nan
    sequence = make_sequence(tmp_path)
    origin = replace(sequence.origin, positions=positions)
    teacher = open_depth_teacher(f'{tmp_path}/depth?output=disparity')
    found = compute_maps([replace(sequence, origin=origin)], teacher, 'pseudo_depth', None)
    disparity = found.sequences[0].pseudo_depth[0]
    assert np.isnan(disparity[-1]).all()
    np.testing.assert_allclose(disparity[0], 2 * columns[0] + 1.5, atol=0.51)


@pytest.mark.parametrize('mirrored', [False, True])
@pytest.mark.parametrize('factor', [1, 2, 8])
def test_maps_are_cut_like_images(mirrored, factor):
    """A ramp whose value is the pixel's x, kept at a fraction of the image's size."""
    height, width = 64, 128
    ramp = np.tile(np.arange(width, dtype=np.float32), (height, 1))
    image = np.repeat(ramp[..., None], 3, axis=2)
    window = Window(20, 10, 64, 32, width, height, mirrored)
    wanted = cv2.resize(
        window.image(image)[..., 0], (width // factor, height // factor),
        interpolation=cv2.INTER_AREA,
    )  # fmt: skip
    small = cv2.resize(ramp, (width // factor, height // factor), interpolation=cv2.INTER_AREA)
    found = window.map(small[None], (height, width), wanted.shape)
    np.testing.assert_allclose(found[0], wanted, atol=0.26)
    inside = (slice(None), slice(1, -1))  # the image's own border is continued
    np.testing.assert_allclose(found[0][inside], wanted[inside], atol=1e-3)


def test_a_window_of_a_map_knows_what_is_unknown():
    values = np.array([[1.0, np.nan, 3.0, 4.0]], np.float32)
    found = Window(0, 0, 4, 1, 4, 1, True).map(values, (1, 4), (1, 4))
    np.testing.assert_array_equal(found, [[4, 3, np.nan, 1]])
    found = Window(2, 0, 2, 1, 4, 1, False).map(values, (1, 4), (1, 4))
    np.testing.assert_array_equal(found, [[3, 3.25, 3.75, 4]])


def test_fields_that_no_teacher_made_are_refused(tmp_path):
    sequence = make_sequence(tmp_path)
    with pytest.raises(SettingsError, match=r'has pseudo_depth.*name a depth teacher'):
        check_fields({'pseudo_depth'}, [sequence])
    empty = np.broadcast_to(np.float16(np.nan), (FRAMES, 1, 1, 1))
    with pytest.raises(SettingsError, match=r'has semantics.*name a semantic expert'):
        check_fields({'semantics'}, [replace(sequence, semantics=empty)])


def test_a_field_has_one_teacher(tmp_path):
    class Term:
        def __init__(self, name, maps):
            self.name, self.maps = name, maps

    np.save(tmp_path / 'a.npy', np.ones((2, 2)))
    spec = f'{tmp_path}?output=depth'
    terms = [
        Term('one', {'pseudo_depth': spec}),
        Term('two', {}),
        Term('same', {'pseudo_depth': spec}),
    ]
    assert list(open_teachers(terms)) == ['pseudo_depth']
    terms.append(Term('other', {'pseudo_depth': 'elsewhere'}))
    with pytest.raises(SettingsError, match='term other wants elsewhere to make pseudo_depth'):
        open_teachers(terms)
    with pytest.raises(SettingsError, match='no batch field depth'):
        open_teachers([Term('odd', {'depth': spec})])


@pytest.mark.parametrize('mirrored', [False, True])
def test_depth_of_a_window_is_the_nearest_and_never_a_mean(tmp_path, mirrored):
    """Columns of 1 m and 9 m, sky above; the window takes the upper right quarter."""
    depth = np.where(np.arange(WIDTH) // 8 % 2, 9.0, 1.0) * np.ones((HEIGHT, 1))
    depth[:8] = np.inf
    depth[-2:] = np.nan
    sequence = make_sequence(tmp_path, depth=np.stack([depth] * FRAMES).astype(np.float16))
    window = Window(WIDTH // 2, 0, WIDTH // 2, HEIGHT // 2, WIDTH, HEIGHT, mirrored)
    scaled = ScaledSequence(sequence)
    found = PROVIDERS['depth_m'].make(Example(scaled, (1, 0, 2), window, None, 0))[0].numpy()
    assert found.shape == scaled.size
    row = found[-1][::-1] if mirrored else found[-1]
    np.testing.assert_array_equal(row, np.repeat([1.0, 9.0, 1.0, 9.0], 8))
    assert np.isinf(found[0]).all()
    whole = PROVIDERS['depth_m'].make(Example(scaled, (1, 0, 2), scaled.whole, None, 0))[0]
    assert whole[-1].isnan().all()
    without = ScaledSequence(make_sequence(tmp_path, name='other'))
    none = PROVIDERS['depth_m'].make(Example(without, (1, 0, 2), window, None, 0))
    assert none.isnan().all()
    assert not PROVIDERS['depth_m'].is_in(without.sequence)
