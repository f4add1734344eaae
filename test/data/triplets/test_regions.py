"""What never moves is found, and sky and road are not."""

import numpy as np
import pytest

from psd_depth_ros.data.triplets.choose import find_fixed

SIZE = (64, 208)
CENTRE = (103.5, 28.0)
FRAMES = 60


@pytest.fixture(scope='module')
def drive():
    """A plane below and one above the horizon come nearer; in the middle of the top is sky."""
    rng = np.random.default_rng(5)
    texture = rng.integers(0, 256, (512, 512)).astype(np.float32)
    for axis in (0, 1):  # about four cells wide
        texture = sum(np.roll(texture, k, axis) for k in range(4)) / 4
    y, x = np.mgrid[: SIZE[0], : SIZE[1]].astype(float)
    depth = 40.0 / (np.abs(y - CENTRE[1]) + 0.7)
    across = (x - CENTRE[0]) * depth / 10
    frames = []
    for index in range(FRAMES):
        ahead = depth * 8 + 3.0 * index
        frames.append(texture[ahead.astype(int) % 512, across.astype(int) % 512])
    grey = np.array(frames)
    grey[:, (y < 20) & (np.abs(x - 110) < 35 - y)] = 255
    return np.clip(grey, 0, 255).astype(np.uint8), np.full(FRAMES - 1, 1.2, np.float32)


def bonnet():
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return ((x - 104) / 130) ** 2 + ((y - 68) / 20) ** 2 < 1


def test_a_drive_without_a_bonnet_keeps_everything(drive):
    assert find_fixed(*drive, CENTRE).mean() < 0.002


@pytest.mark.parametrize('kind', ['plain', 'patterned', 'mirroring'])
def test_a_bonnet_is_found(drive, kind):
    grey, flow = drive
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    look = np.full(SIZE, 45.0) if kind != 'patterned' else 80 + 40 * np.sin(x / 4) * np.cos(y / 3)
    wave = 6.0 * np.sin(np.arange(FRAMES) / 5) if kind == 'mirroring' else np.zeros(FRAMES)
    noise = np.random.default_rng(1).normal(0, 1.5, grey.shape)
    pasted = np.where(bonnet(), look + wave[:, None, None] + noise, grey)
    found = find_fixed(np.clip(pasted, 0, 255).astype(np.uint8), flow, CENTRE)
    assert found[bonnet()].mean() > 0.97
    assert found[~bonnet()].mean() < 0.06


def test_black_bars_and_writing_are_found(drive):
    grey, flow = drive
    grey = grey.copy()
    grey[:, :5] = 3
    grey[:, 50:54, 10:40] = 250
    found = find_fixed(grey, flow, CENTRE)
    assert found[:5].all()
    assert found[50:54, 10:40].mean() > 0.9
    assert found[8:45].mean() < 0.02


def test_a_recording_that_hardly_moves_tells_nothing(drive):
    grey, flow = drive
    assert not find_fixed(np.repeat(grey[:1], FRAMES, axis=0), 0 * flow, CENTRE).any()
    assert not find_fixed(grey[:10], flow[:9], CENTRE).any()
