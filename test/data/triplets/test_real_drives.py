"""The limits of triplets on real recordings: what a person would keep is kept."""

import numpy as np
import pytest

from psd_depth_ros.config import build
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.data.triplets.prepare import prepare_sequences


@pytest.mark.parametrize(
    ('name', 'frames', 'least', 'near'),
    [
        ('kitti_raw_avenue', 91, 87, 1.0),
        ('kitti_raw_street', 268, 260, 1.0),
        ('rgbd_kitchen', 300, 270, 0.7),
    ],
)
def test_nearly_all_frames_survive(real_recording, tmp_path, name, frames, least, near):
    settings = build(DataSettings, {'paths': [str(real_recording(name))]})
    prepared = prepare_sequences(
        settings, pixel_budget=53248, fine_factor=1, keep_pixels=False, cache=tmp_path
    )
    (sequence,) = prepared.sequences
    assert len(sequence.rgb) == frames
    assert prepared.triplets + prepared.held_out >= least
    steps = np.abs(sequence.triplets[:, 1:] - sequence.triplets[:, :1])
    assert (steps == 1).mean() >= near
    assert sequence.valid.all()
