"""Training and serving give the network the same pixels of the same recorded frame."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from psd_depth_ros.data.bags import BagWriter
from psd_depth_ros.data.fields import PROVIDERS
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.data.triplets.batch import TripletBatches
from psd_depth_ros.data.triplets.prepare import prepare_sequences
from psd_depth_ros.geometry import Camera, Distortion
from psd_depth_ros.messages import camera_info_fields, image_fields
from psd_depth_ros.preprocess import network_size, Preprocessor

BARREL = Distortion('plumb_bob', (-0.28, 0.07, 2e-4, -1e-4, 0.0))
FISHEYE = Distortion('equidistant', (-0.012, 0.004, -0.0035, 0.0006))
BUDGET = 128 * 96
FRAMES = 8


def make_camera(width, height, lens):
    focal = 0.66 * width
    return Camera(width, height, focal, focal, width / 2 - 1.5, height / 2 + 1.0, lens)


def make_images(camera):
    """A fine texture that moves to the left, with detail that shrinking has to filter out."""
    rng = np.random.default_rng(0)
    fine = rng.integers(0, 256, (camera.height, camera.width + 200, 3), np.uint8)
    soft = cv2.GaussianBlur(fine, (0, 0), 3.0)
    wall = cv2.addWeighted(cv2.normalize(soft, None, 0, 255, cv2.NORM_MINMAX), 0.7, fine, 0.3, 0)
    step = camera.width // 50
    return [wall[:, step * i : step * i + camera.width] for i in range(FRAMES)]


@pytest.mark.parametrize('lens', [None, BARREL, FISHEYE])
@pytest.mark.parametrize('size', [(160, 120), (640, 480), (1280, 720)])
def test_training_sees_the_pixels_that_serving_sees(tmp_path, size, lens):
    camera = make_camera(*size, lens)
    images = make_images(camera)
    with BagWriter(tmp_path / 'drive.mcap') as writer:
        for index, image in enumerate(images):
            info, stamp_ns = camera_info_fields(camera), index * 100_000_000
            writer.write('/camera_info', 'sensor_msgs/msg/CameraInfo', info, stamp_ns, 'c')
            fields = image_fields(np.ascontiguousarray(image), 'rgb8')
            writer.write('/image', 'sensor_msgs/msg/Image', fields, stamp_ns, 'c')
    settings = DataSettings(paths=(str(tmp_path / 'drive.mcap'),))
    settings = replace(settings, triplets=replace(settings.triplets, held_out=0.0))
    (sequence,) = prepare_sequences(
        settings, pixel_budget=BUDGET, cache=tmp_path / 'cache'
    ).sequences
    serve = Preprocessor(camera, network_size(camera, BUDGET), (0.5,) * 3, (0.5,) * 3)
    batches = TripletBatches(
        [sequence], batch=1, seed=0, fields=frozenset(PROVIDERS), augment=False
    )
    batch = batches.batch(1)
    expected = [float(getattr(serve.camera, name)) for name in ('fx', 'fy', 'cx', 'cy')]
    assert batch.intrinsics[0].tolist() == pytest.approx(expected, rel=1e-5)
    trained = batch.image[0].float() / 127.5 - 1.0  # (3, 3, h, w), -1 to 1
    served = torch.cat([torch.from_numpy(serve(np.ascontiguousarray(one))) for one in images])
    inside = cv2.erode(batch.valid[0, 0].numpy().astype(np.uint8), np.ones((3, 3))) > 0
    assert inside.mean() > 0.5
    differences = (trained[:, None] - served).abs().amax(dim=2)[..., torch.from_numpy(inside)]
    same = differences.amax(dim=2) < 2.0 / 255.0  # (3, FRAMES)
    # Each of the three is one of the frames that were served, and a different one.
    assert same.sum(dim=1).tolist() == [1, 1, 1]
    assert len(set(same.int().argmax(dim=1).tolist())) == 3
