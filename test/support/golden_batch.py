"""A batch of four triplets made by NumPy alone, for values that must not change."""

import numpy as np

HEIGHT, WIDTH, SAMPLES = 64, 192, 4


def golden_arrays() -> dict[str, np.ndarray]:
    """Every field of a TripletBatch."""
    rng = np.random.default_rng(1234)
    fine = np.empty((SAMPLES, 3, 3, 2 * HEIGHT, 2 * WIDTH), np.uint8)
    for sample in range(SAMPLES):
        waves = [
            (rng.uniform(-0.2, 0.2, 2), rng.uniform(0, 6.28, 3), rng.uniform(5, 18, 3))
            for _ in range(12)
        ]
        for frame, shift in enumerate((0, -3 + sample, 4)):
            y, x = np.mgrid[: 2 * HEIGHT, : 2 * WIDTH]
            moved = x + shift * (y > 40)  # the upper part does not move
            picture = 128.0 + sum(
                height[:, None, None] * np.cos(k[0] * moved + k[1] * y + phase[:, None, None])
                for k, phase, height in waves
            )
            picture += rng.uniform(-3, 3, picture.shape)
            fine[sample, frame] = picture.clip(0, 255)
    blocks = fine.reshape(SAMPLES, 3, 3, HEIGHT, 2, WIDTH, 2).astype(np.float64)
    image = blocks.mean(axis=(4, 6)).round().astype(np.uint8)
    gains = np.array([0.9, 1.0, 1.1, 1.2]).reshape(-1, 1, 1, 1, 1)
    image_augmented, fine_augmented = (
        (one * gains).clip(0, 255).astype(np.uint8) for one in (image, fine)
    )
    poses = np.tile(np.eye(4), (SAMPLES, 2, 1, 1))
    for sample in range(SAMPLES):
        for source, sign in enumerate((1.0, -1.0)):
            c, s = np.cos(0.01 * sign * (sample - 1)), np.sin(0.01 * sign * (sample - 1))
            poses[sample, source, :3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
            poses[sample, source, :3, 3] = sign * np.array(
                [0.05, 0.01 * sample, 0.5 + 0.1 * sample]
            )
    distance_m = np.linalg.norm(poses[..., :3, 3], axis=-1)
    poses[1], distance_m[2, 0] = np.nan, np.nan
    valid = np.ones((SAMPLES, 1, HEIGHT, WIDTH), bool)
    valid[:, :, -6:] = False
    valid[0, :, :, :5] = False
    lidar = np.full((SAMPLES, 60, 3), np.nan, np.float32)
    for sample, count in enumerate((60, 20, 0, 45)):
        unit = rng.random((count, 3))
        lidar[sample, :count] = unit * [WIDTH - 1, HEIGHT - 1, 30.0] + [0, 0, 2.0]
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    pseudo_depth = np.tile(0.2 + 0.01 * y + 0.002 * x, (SAMPLES, 1, 1, 1))
    intrinsics = [[160.0, 160.0, 95.5 + s, 31.5 - s] for s in range(SAMPLES)]
    return {
        'image': image,
        'image_augmented': image_augmented,
        'intrinsics': np.array(intrinsics, np.float32),
        'valid': valid,
        'pose_prior': poses.astype(np.float32),
        'distance_m': distance_m.astype(np.float32),
        'camera_height_m': np.array([1.5, np.nan, 1.6, 1.2], np.float32),
        'lidar': lidar,
        'pseudo_depth': pseudo_depth.astype(np.float32),
        'seeds': np.array([11, 12, 13, 14], np.int64),
        'fine': fine,
        'fine_augmented': fine_augmented[:, 0].copy(),
    }
