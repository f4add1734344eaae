"""The loop and the report, with an engine whose answers are known."""

from dataclasses import replace
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from teacher_files import write_red

from psd_depth_ros.data.frames import LoadedFrames, TimedFrame
from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.evaluation.evaluate import evaluate, Evaluation, measure_frame
from psd_depth_ros.evaluation.protocols import find_protocol
from psd_depth_ros.evaluation.report import describe, render_html
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference import DepthEngine

CAMERA = Camera(40, 30, 30.0, 30.0, 19.5, 14.5)
OUTDOOR = find_protocol('outdoor')


class Engine:
    """Says that depth is 20 m, as far as the red of the image's corner is above 100."""

    checkpoint = SimpleNamespace(affine=False)

    def __init__(self):
        self.cameras = []

    def infer_batch(self, requests, settings, scales=None, moments=None):
        assert settings.min_confidence == 0.0
        ((rgb, camera),) = requests
        self.cameras.append(camera)
        depth = np.full(camera.size, 0.2 * rgb[0, 0, 0], np.float32)
        confidence = np.ones_like(depth)
        frame = {'depth_m': depth, 'confidence': confidence, 'rgb': rgb, 'camera': camera}
        return [SimpleNamespace(**frame, values=None)]


def sample(name, red, truth_m):
    rgb = np.zeros((30, 40, 3), np.uint8)
    rgb[..., 0] = red
    truth = None if truth_m is None else np.full((30, 40), truth_m, np.float32)
    return TimedFrame(0, 0, 'lens', rgb, CAMERA, depth_m=truth, name=name)


def source_of(*frames):
    return LoadedFrames(Path('made'), frames, lambda place, frame: frame)


def run(*frames, **options):
    return evaluate(Engine(), source_of(*frames), OUTDOOR, **options)


def test_figures_of_known_answers():
    found = run(sample('a', 100, 20.0), sample('b', 100, 40.0), sample('c', 50, None)).as_dict()
    assert found['frames'] == 2
    assert found['frames_without_truth'] == 1
    assert found['unscaled']['abs_rel'] == pytest.approx(0.25)
    assert found['unscaled']['a1'] == 0.5
    assert found['median_scaled']['abs_rel'] == pytest.approx(0.0, abs=1e-7)
    assert found['scale']['median'] == pytest.approx(1.5)
    assert found['by_distance']['20-40']['frames'] == 1
    assert found['by_distance']['0-10']['abs_rel'] is None
    assert found['unscaled']['by_distance']['40-80']['abs_rel'] == pytest.approx(0.5)
    assert found['temporal'] is None
    assert found['flip'] is None
    json.dumps(found, allow_nan=False)


def test_the_temporal_filter_is_reset_where_another_recording_begins():
    class Watched(Engine):
        def infer_batch(self, requests, settings, scales=None, moments=None):
            assert settings.temporal_s == 0.2
            ((temporal, stamp_ns),) = moments
            seen.append((stamp_ns, temporal._past is not None))
            grey = np.zeros((30, 40), np.uint8)
            temporal.update(np.zeros((15, 20), np.float32), grey, CAMERA, stamp_ns, 0.2)
            return super().infer_batch(requests, settings)

    seen = []
    frames = [
        replace(sample('a', 100, 20.0), sequence=sequence, stamp_ns=stamp_ns)
        for stamp_ns, sequence in enumerate(('one', 'one', 'two', '', ''))
    ]
    evaluate(Watched(), source_of(*frames), OUTDOOR, temporal_s=0.2)
    assert seen == [(0, False), (1, True), (2, False), (3, False), (4, False)]


def test_the_best_and_the_worst_are_kept():
    # The further from a flat 20 m, the worse: half of the image is twice as far.
    samples = []
    for index in range(7):
        one = sample(f'{index}', 100, 20.0)
        one.depth_m[:, : 2 * index] = 40.0
        samples.append(one)
    kept = run(*samples[::-1], examples=2).examples
    assert [one.name for one in kept.best] == ['0', '1']
    assert [one.name for one in kept.worst] == ['6', '5']
    few = run(*samples[:3], examples=2).examples
    assert [one.name for one in (*few.best, *few.worst)] == ['0', '1', '2']


def test_the_mirror_image_has_a_mirrored_camera_and_is_averaged_in_disparity():
    engine = Engine()
    rgb = np.zeros((30, 40, 3), np.uint8)
    rgb[:, :20, 0], rgb[:, 20:, 0] = 50, 150  # 10 m, and 30 m for the mirror image
    camera = Camera(40, 30, 30.0, 30.0, 10.0, 14.5)
    depth = np.full((30, 40), 15.0, np.float32)
    frame = TimedFrame(0, 0, 'lens', rgb, camera, depth_m=depth)
    found = evaluate(engine, source_of(frame), OUTDOOR, flip=True).as_dict()
    assert [one.cx for one in engine.cameras] == [10.0, 29.0]
    assert found['unscaled']['abs_rel'] == pytest.approx(1 / 3)
    assert found['flip']['unscaled']['abs_rel'] == pytest.approx(0.0, abs=1e-6)


def test_moving_things_are_measured_apart():
    depth, truth = np.full((4, 6), 10.0, np.float32), np.full((4, 6), 10.0, np.float32)
    truth[:2, :2] = 20.0  # a car, taken for the wall behind which it is
    moving = truth > 15.0
    found = measure_frame(depth, truth, OUTDOOR, moving=moving)
    assert found.moving.abs_rel == pytest.approx(0.5)
    assert found.moving.pixels == 4
    report = Evaluation(OUTDOOR, (found, measure_frame(depth, truth, OUTDOOR))).as_dict()
    assert report['moving']['abs_rel'] == pytest.approx(0.5)
    assert report['moving']['frames'] == 1
    assert any('moving things: abs_rel 0.500' in line for line in describe(report))
    still = measure_frame(depth, truth, OUTDOOR, moving=np.zeros((4, 6), bool))
    assert still.moving is None


def test_nothing_to_measure_is_an_error():
    with pytest.raises(EvaluationError, match=r'of 2 images none .* 80 m .* protocol outdoor'):
        run(sample('a', 100, None), sample('b', 100, 2000.0))


def test_one_depth_image_is_measured_by_bands():
    found = measure_frame(np.full((4, 6), 2.0), np.full((4, 6), 4.0), OUTDOOR, 'x')
    assert found.errors.unscaled.abs_rel == 0.5
    assert found.name == 'x'
    assert found.bands['0-10'].abs_rel == 0.0


def test_the_report_is_one_file_with_its_pictures(tmp_path):
    evaluation = run(*(sample(f'<{index}>', 100, 15.0 + index) for index in range(6)), examples=2)
    facts = {
        'checkpoint': 'abc',
        'checkpoint_path': 'x',
        'data': '/a & b',
        'device': 'cpu',
        'backend': 'torch',
    }
    page = render_html({**facts, **evaluation.as_dict()}, evaluation)
    assert page.count('<img src="data:image/') == 16
    assert 'src="http' not in page
    assert 'a &amp; b' in page
    assert '&lt;5&gt;' in page
    assert '<script' not in page


def test_a_network_of_unknown_scale_and_shift_is_fitted_to_each_truth(tmp_path):
    """Red is d; 1/Z is 0.5 d + 0.1 in one image and 0.2 d in the other: no error is left."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    path = write_red(tmp_path / 'net.onnx', 'disparity', (1, 3, 30, 40))
    ramp = np.tile(np.arange(50, 210, 4, dtype=np.uint8), (30, 1))
    frames = []
    for rate, offset in ((0.5, 0.1), (0.2, 0.0)):
        rgb = np.stack([ramp] * 3, axis=-1)
        truth = (1.0 / (rate * (ramp / 255.0) + offset)).astype(np.float32)
        frames.append(TimedFrame(0, 0, 'lens', rgb, CAMERA, depth_m=truth))
    found = evaluate(DepthEngine.from_checkpoint(str(path)), source_of(*frames), OUTDOOR)
    report = found.as_dict()
    assert report['unscaled']['abs_rel'] == pytest.approx(0.0, abs=1e-5)
    assert 'metres were not tested' in describe(report)[0]
