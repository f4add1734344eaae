"""Crops of the published protocols in pixels, and ranges of frames."""

import numpy as np
import pytest

from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.evaluation.evaluate import parse_range
from psd_depth_ros.evaluation.protocols import find_protocol, GARG_CROP


@pytest.mark.parametrize('text', ['5', 'a:b', '1:2:3:4', '1:9:-1'])
def test_ranges_that_are_none(text):
    with pytest.raises(EvaluationError, match='START:STOP'):
        parse_range(text)


def test_garg_crop_of_kitti_in_pixels():
    rows, columns = GARG_CROP.window(375, 1242)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (153, 371, 44, 1197)
    truth = find_protocol('kitti').restrict(np.ones((375, 1242), np.float32))
    assert np.count_nonzero(truth == 1) == (371 - 153) * (1197 - 44)
    assert np.isnan(truth[152]).all()


def test_a_crop_in_pixels_must_fit():
    with pytest.raises(EvaluationError, match='leaves nothing of a truth of 64x48'):
        find_protocol('cityscapes').restrict(np.ones((48, 64), np.float32))
