import numpy as np

from psd_depth_ros.augment.colour import degrade, jitter


def test_colours_change_and_edges_stay_where_they_are():
    rgb = np.zeros((20, 30, 3), np.uint8)
    rgb[:, 15:] = (200, 150, 100)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        changed = degrade(rng, jitter(rng, rgb))
        assert changed.shape == rgb.shape
        assert changed.dtype == np.uint8
        brightness = changed.mean(axis=(0, 2))
        middle = 0.5 * (brightness[:10].mean() + brightness[20:].mean())
        assert abs(int(np.argmax(brightness > middle)) - 15) <= 1


def test_the_same_seed_gives_the_same_picture():
    rgb = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    one = degrade(np.random.default_rng(5), jitter(np.random.default_rng(5), rgb))
    two = degrade(np.random.default_rng(5), jitter(np.random.default_rng(5), rgb))
    assert np.array_equal(one, two)
