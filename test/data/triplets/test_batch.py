"""Batches of triplets: what is in them, and that seed and step alone decide it."""

from collections import Counter
import math

import numpy as np
import pytest
import torch

from psd_depth_ros.data.fields import ALWAYS, check_fields, Provider, PROVIDERS
from psd_depth_ros.data.frames import Sequence
from psd_depth_ros.data.triplets.batch import TripletBatches
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import make_pose

FRAMES = 12


def make_sequence(height=16, width=32, offset=0, **changes):
    """Frame i is grey of value offset + i, with a mark in the left half."""
    rgb = np.zeros((FRAMES, height, width, 3), np.uint8)
    rgb += (offset + np.arange(FRAMES, dtype=np.uint8))[:, None, None, None]
    rgb[:, :, : width // 2] += 100
    targets = np.arange(1, FRAMES - 1, dtype=np.int32)
    triplets = np.stack([targets, targets - 1, targets + 1], axis=1)
    valid = np.ones((height, width), bool)
    valid[:, :4] = False
    values = {
        'name': 'made',
        'rgb': rgb,
        'camera': Camera(width, height, 40.0, 40.0, 12.5, 7.5),
        'stamps_ns': np.arange(FRAMES),
        'valid': valid,
        'triplets': triplets[:7],
        'held_out': triplets[7:],
        'fine_factor': 2,
    }
    return Sequence(**{**values, **changes})


def make_batches(*sequences, **changes):
    options = {'batch': 4, 'seed': 3, 'fields': frozenset(PROVIDERS), 'augment': False}
    return TripletBatches(sequences, **{**options, **changes})


def targets(batch):
    return batch.image[:, 0, 0, 0, -1].tolist()


def test_a_sample_holds_target_and_sources_at_both_sizes():
    batch = make_batches(make_sequence()).batch(1)
    assert batch.image.shape == (4, 3, 3, 8, 16)
    assert batch.fine.shape == (4, 3, 3, 16, 32)
    assert batch.fine_augmented.shape == (4, 3, 16, 32)
    values = batch.fine[:, :, 0, 0, -1].int()
    assert (values[:, 0] - values[:, 1] == 1).all()
    assert (values[:, 2] - values[:, 0] == 1).all()
    assert torch.equal(batch.image[:, :, 0, 0, -1].int(), values)
    assert torch.equal(batch.image_augmented, batch.image)
    # Half the size: c' = (c + 1/2) / 2 - 1/2.
    assert batch.intrinsics[0].tolist() == [20.0, 20.0, 6.0, 3.5]
    assert batch.valid[0, 0, 0].tolist() == [False] * 2 + [True] * 14
    assert batch.lidar.shape == (4, 0, 3)
    assert batch.distance_m.isnan().all()
    assert batch.pose_prior.isnan().all()
    assert batch.camera_height_m.isnan().all()


def test_every_triplet_comes_once_before_any_comes_again():
    batches = make_batches(make_sequence())
    seen = [value for step in range(1, 8) for value in targets(batches.batch(step))]
    assert [Counter(seen[i : i + 7]) for i in (0, 7, 14, 21)] == [Counter(range(1, 8))] * 4
    assert seen[:7] != seen[7:14]


def test_batches_hold_one_size_and_all_sizes_come():
    batches = make_batches(make_sequence(), make_sequence(height=32))
    shapes = [batches.batch(step).image.shape[-2:] for step in range(1, 9)]
    assert Counter(shapes) == {(8, 16): 4, (16, 16): 4}


def test_the_step_alone_decides_and_processes_share_it():
    sequence = make_sequence()
    whole = make_batches(sequence, augment=True).batch(9)
    parts = make_batches(sequence, augment=True)
    parts.batch(2)
    halves = [parts.batch(9, rank, 2) for rank in (1, 0)][::-1]
    for name, value in whole.fields().items():
        joined = torch.cat([half.fields()[name] for half in halves])
        torch.testing.assert_close(joined, value, rtol=0, atol=0, equal_nan=True)
    assert len(set(whole.seeds.tolist())) == 4
    with pytest.raises(SettingsError, match='batch is 4, which 3 processes cannot share'):
        parts.batch(1, 0, 3)


def test_a_focal_length_that_is_a_guess_varies_and_the_image_does_not():
    guessed = make_sequence(focal_deviation=0.1)
    known, varied = (
        make_batches(one, augment=True, smallest_window=1.0, batch=64).batch(1)
        for one in (make_sequence(), guessed)
    )
    assert set(known.intrinsics[:, 0].tolist()) == {20.0}
    factors = varied.intrinsics[:, 0].double().log() - math.log(20.0)
    assert float(factors.std()) == pytest.approx(0.1, abs=0.03)
    torch.testing.assert_close(varied.intrinsics[:, 0], varied.intrinsics[:, 1])
    assert torch.equal(varied.image, known.image)
    assert torch.equal(varied.intrinsics[:, 2:], known.intrinsics[:, 2:])
    plain = make_batches(guessed, batch=7).batch(1)
    assert set(plain.intrinsics[:, 0].tolist()) == {20.0}, 'held out: as it is'


@pytest.mark.parametrize(
    ('share', 'steps'), [(0.25, [4, 8]), (0.3, [4, 7]), (1.0, list(range(1, 9))), (0.0, [])]
)
def test_patches_come_in_an_even_share_of_the_steps(share, steps):
    batches = make_batches(make_sequence(), fractions={'fine_augmented': share})
    made = [batches.batch(step) for step in range(1, 9)]
    assert [step for step in range(1, 9) if 'fine_augmented' in made[step - 1]] == steps
    assert all('fine' in batch for batch in made)
    assert 'fine_augmented' in next(batches.held_out_batches())


def test_mirrored_samples_keep_the_geometry():
    """The camera moves 1 m to the right each frame; in a mirror it moves to the left."""
    poses = np.stack([make_pose(np.eye(3), (float(i), 0.0, 2.0)) for i in range(FRAMES)])
    points = tuple(np.array([[4.0, 6.0, 9.0]], np.float32) for _ in range(FRAMES))
    sequence = make_sequence(poses=poses, lidar=points, camera_height_m=1.5)
    batches = make_batches(sequence, augment=True)
    kinds = set()
    for step in range(1, 6):
        batch = batches.batch(step)
        for i in range(4):
            bright_left = bool(batch.image[i, 0, 0, 0, 0] > 50)
            kinds.add(bright_left)
            sign = 1.0 if bright_left else -1.0
            # X_source = X_target - t: the earlier source lies to the left, so points move right.
            assert batch.pose_prior[i, :, 0, 3].tolist() == [sign, -sign]
            assert batch.distance_m[i].tolist() == [1.0, 1.0]
            cx, x = (6.0, 1.75) if bright_left else (9.0, 13.25)
            assert batch.intrinsics[i, 2] == cx
            assert batch.lidar[i].tolist() == [[x, 2.75, 9.0]]
            assert batch.valid[i, 0, 0, 0] != bright_left
            assert batch.camera_height_m[i] == 1.5
    assert kinds == {True, False}


def test_windows_keep_the_geometry():
    """Frames whose red and green are their own pixel coordinates, and a point of known pixel."""
    y, x = np.mgrid[0:32, 0:64]
    ramps = np.stack([4 * x, 7 * y, 0 * x], axis=-1).astype(np.uint8)
    points = tuple(np.array([[41.0, 13.0, 9.0]], np.float32) for _ in range(FRAMES))
    camera = Camera(64, 32, 80.0, 80.0, 30.0, 15.0)
    sequence = make_sequence(
        height=32, width=64, rgb=np.stack([ramps] * FRAMES), camera=camera, lidar=points
    )
    batches = make_batches(sequence, augment=True, smallest_window=0.5)
    focal_lengths, seen = set(), 0
    for step in range(1, 11):
        batch = batches.batch(step)
        for i in range(4):
            fx, fy, cx, cy = batch.intrinsics[i].tolist()
            focal_lengths.add(fx)
            mirrored = bool(batch.image[i, 0, 0, 8, 0] > batch.image[i, 0, 0, 8, -1])
            sign = -1.0 if mirrored else 1.0
            # Whatever the window, a pixel looks along the ray it looked along in the frame.
            u, v = 9, 6
            frame_x = 30.0 + 80.0 * sign * (u - cx) / fx
            frame_y = 15.0 + 80.0 * (v - cy) / fy
            assert batch.image[i, 0, 0, v, u] == pytest.approx(4 * frame_x, abs=1.6)
            assert batch.image[i, 0, 1, v, u] == pytest.approx(7 * frame_y, abs=1.6)
            if batch.lidar[i].isfinite().all():
                seen += 1
                u, v, depth_m = batch.lidar[i, 0].tolist()
                assert 30.0 + 80.0 * sign * (u - cx) / fx == pytest.approx(41.0, abs=1e-3)
                assert 15.0 + 80.0 * (v - cy) / fy == pytest.approx(13.0, abs=1e-3)
                assert depth_m == 9.0
            across = np.arange(32)
            frame_x = 30.0 + 80.0 * sign * (across - cx) / fx
            valid = batch.valid[i, 0, 0].numpy()
            assert valid[frame_x > 5.5].all()  # the frame's first four columns are not
            assert not valid[frame_x < 3.5].any()
    assert len(focal_lengths) > 20
    assert min(focal_lengths) >= 40.0
    assert 70.0 < max(focal_lengths) <= 80.5
    assert 10 < seen < 40


def test_colours_change_alike_in_the_frames_of_a_sample():
    rgb = np.full((FRAMES, 16, 32, 3), 90, np.uint8)
    batch = make_batches(make_sequence(rgb=rgb), augment=True).batch(1)
    assert (batch.image == 90).all()
    for i in range(4):
        assert (batch.image_augmented[i] == batch.image_augmented[i, 0, :, :1, :1]).all()
        assert (batch.fine_augmented[i] == batch.image_augmented[i, 0, :, :1, :1]).all()
    assert len({tuple(batch.image_augmented[i, 0, :, 0, 0].tolist()) for i in range(4)}) == 4


def test_odometry_of_a_body_gives_distances_alone():
    poses = np.stack([make_pose(np.eye(3), (0.0, 0.5 * i, 0.0)) for i in range(FRAMES)])
    poses[0] = np.nan
    batch = make_batches(make_sequence(poses=poses, poses_are_of_camera=False), batch=7).batch(1)
    assert batch.pose_prior.isnan().all()
    known = batch.distance_m[~batch.distance_m.isnan()]
    assert known.tolist() == [0.5] * 13


def test_held_out_triplets_come_once_and_unchanged():
    batches = make_batches(make_sequence(), make_sequence(height=32, offset=20), augment=True)
    held = list(batches.held_out_batches())
    assert [targets(batch) for batch in held] == [[8, 9, 10], [28, 29, 30]]
    assert all(torch.equal(batch.image_augmented, batch.image) for batch in held)
    again = list(batches.held_out_batches())
    assert torch.equal(held[1].seeds, again[1].seeds)
    assert [len(batch.image) for batch in batches.held_out_batches(most=4)] == [2, 2]


def test_nothing_to_train_on():
    with pytest.raises(SettingsError, match='no triplets to train on'):
        make_batches(make_sequence(triplets=np.zeros((0, 3), np.int32)))


class FrameNumber(Provider):
    """() int64: which frame of its sequence the target is."""

    name = 'frame_number'
    remedy = 'number the frames'

    def is_in(self, sequence):
        return sequence.name == 'numbered'

    def make(self, example):
        return torch.tensor(example.triplet[0])


def test_a_field_is_one_provider_and_its_entry(monkeypatch):
    monkeypatch.setitem(PROVIDERS, FrameNumber.name, FrameNumber())
    batches = make_batches(make_sequence(), fields=frozenset({'frame_number'}))
    batch = batches.batch(1)
    assert set(batch.fields()) == ALWAYS | {'frame_number'}
    assert batch.frame_number.tolist() == batch.image[:, 0, 0, 0, -1].tolist()
    assert batch.to(torch.device('cpu')).frame_number.tolist() == batch.frame_number.tolist()


def test_what_was_not_asked_for_is_missing_by_name():
    batch = make_batches(make_sequence(), fields=frozenset({'lidar'})).batch(1)
    assert 'lidar' in batch
    assert batch.get('fine') is None
    with pytest.raises(AttributeError, match='no field fine; it has image'):
        _ = batch.fine
    with pytest.raises(SettingsError, match='no provider makes the batch field liadr'):
        make_batches(make_sequence(), fields=frozenset({'liadr'}))


def test_fields_that_no_recording_has_are_refused_with_the_way_out(monkeypatch):
    monkeypatch.setitem(PROVIDERS, FrameNumber.name, FrameNumber())
    plain = make_sequence()
    points = (np.zeros((1, 3), np.float32),) * FRAMES
    poses = np.full((FRAMES, 4, 4), np.nan)
    check_fields({'fine', 'fine_augmented'}, [plain])
    check_fields({'lidar'}, [plain, make_sequence(lidar=points)])
    check_fields({'frame_number'}, [make_sequence(name='numbered')])
    for field, sequence, remedy in (
        ('lidar', plain, 'data.lidar_topic'),
        ('distance_m', make_sequence(poses=poses), 'record odometry'),
        ('pose_prior', make_sequence(poses=poses), 'set poses: tracked'),
        ('camera_height_m', plain, 'data.camera_height_m'),
        ('frame_number', plain, 'number the frames'),
    ):
        with pytest.raises(SettingsError, match=f'no recording has {field}.*{remedy}'):
            check_fields({field}, [sequence])
