"""DEE, mCE and mRR by hand, and the loop with an engine whose answers are known."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from psd_depth_ros.augment import corruptions
from psd_depth_ros.data.frames import LoadedFrames, TimedFrame
from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.evaluation.evaluate import evaluate
from psd_depth_ros.evaluation.protocols import find_protocol
from psd_depth_ros.evaluation.report import render_html, robustness_columns, robustness_rows
from psd_depth_ros.evaluation.robustness import (
    depth_estimation_error,
    mean_corruption_error,
    mean_resilience_rate,
    measure_robustness,
    parse_corruptions,
    parse_severities,
    read_baseline,
)
from psd_depth_ros.geometry import Camera

CAMERA = Camera(40, 30, 30.0, 30.0, 19.5, 14.5)
OUTDOOR = find_protocol('outdoor')


def test_the_depth_estimation_error_of_known_images():
    found = depth_estimation_error(np.array([0.0, 0.2, 1.0]), np.array([1.0, 0.8, 0.0]))
    assert found == pytest.approx([0.0, 0.2, 1.0])


def test_mce_is_the_mean_of_ratios():
    baseline = {'fog': 0.2, 'snow': 0.4}
    # 0.1 / 0.2 and 0.6 / 0.4; the ratio of the means would be 7 / 6
    assert mean_corruption_error({'snow': 0.6, 'fog': 0.1}, baseline) == pytest.approx(100.0)
    assert mean_corruption_error({'fog': 0.1, 'snow': 0.2}, baseline) == pytest.approx(50.0)
    assert mean_corruption_error(baseline, baseline) == pytest.approx(100.0)
    for other in ({'fog': 0.2}, {'fog': 0.2, 'frost': 0.4}):
        with pytest.raises(ValueError, match='compared'):
            mean_corruption_error(baseline, other)
    with pytest.raises(ValueError, match='no error'):
        mean_corruption_error({'fog': 0.1}, {'fog': 0.0})


def test_mrr_is_what_is_left_of_the_accuracy():
    # (1 - 0.2) / (1 - 0.1) and (1 - 0.55) / (1 - 0.1)
    found = mean_resilience_rate({'fog': 0.2, 'snow': 0.55}, 0.1)
    assert found == pytest.approx(100 * (8 / 9 + 0.5) / 2)
    with pytest.raises(ValueError, match='expected less than 1'):
        mean_resilience_rate({'fog': 0.2}, 1.0)


class Engine:
    """Depth from the image: 10 m at the left, a tenth of red in metres at the right."""

    checkpoint = SimpleNamespace(affine=False)

    def __init__(self):
        self.seen = []

    def infer_batch(self, requests, settings, scales=None, moments=None):
        assert settings.min_confidence == 0.0
        ((rgb, camera),) = requests
        self.seen.append(rgb.copy())
        depth = np.full(camera.size, 10.0, np.float32)
        depth[:, 20:] = 0.1 * rgb[:, 20:, 0]
        confidence = np.ones_like(depth)
        frame = {'depth_m': depth, 'confidence': confidence, 'rgb': rgb, 'camera': camera}
        return [SimpleNamespace(**frame, values=None)]


def frame(index, truth_m=10.0):
    rgb = np.full((30, 40, 3), 100, np.uint8)
    truth = None if truth_m is None else np.full((30, 40), truth_m, np.float32)
    return TimedFrame(index, 0, 'lens', rgb, CAMERA, depth_m=truth, name=f'{index}')


def source_of(*frames):
    return LoadedFrames(Path('made'), frames, lambda place, one: one)


def run(*frames, engine=None, **options):
    return measure_robustness(engine or Engine(), source_of(*frames), OUTDOOR, **options)


def test_figures_of_known_corruptions():
    steps = []
    found = run(
        frame(0),
        frame(1),
        corruptions=('brightness', 'contrast'),
        severities=(2, 4),
        progress=lambda done, total: steps.append((done, total)),
    )
    assert found.clean_dee == pytest.approx(0.0)
    assert found.corrupted['brightness'].dee.shape == (2, 2)
    # Grey 100 becomes 151, then 202: 15.1 m and 20.2 m in half of the image. The median is the
    # mean of both halves, so all of it is scaled by 10 / 12.55 and 10 / 15.1.
    errors = [(2.55 / 12.55, 0.5), (5.1 / 15.1, 0.0)]
    for row, (abs_rel, a1) in enumerate(errors):
        assert found.corrupted['brightness'].abs_rel[row] == pytest.approx([abs_rel] * 2, 1e-5)
        assert found.corrupted['brightness'].a1[row] == pytest.approx([a1] * 2)
    dee = ((2.55 / 12.55 + 0.5) / 2 + (5.1 / 15.1 + 1.0) / 2) / 2
    assert found.dee == pytest.approx({'brightness': dee, 'contrast': 0.0}, abs=1e-6)
    assert found.mrr == pytest.approx(100 * (1 - dee / 2), abs=1e-4)
    assert steps[-1] == (10, 10)
    figures = found.as_dict()
    assert figures['by_corruption']['brightness']['by_severity']['4']['a1'] == 0.0
    assert figures['per_frame']['corrupted']['brightness']['a1'] == [[0.5, 0.5], [0.0, 0.0]]
    assert figures['mce'] is None
    json.dumps(figures, allow_nan=False)


def test_without_an_effect_nothing_is_lost(monkeypatch):
    same = {'fog': lambda rgb, severity, rng: rgb}
    monkeypatch.setattr(corruptions, 'CORRUPTIONS', same)
    image = frame(0, 14.0)
    image.rgb[:, 20:, 0] = 160
    image.depth_m[:, :10] = 7.0
    found = run(image, corruptions=('fog',))
    assert found.clean_dee > 0.1
    assert found.mrr == pytest.approx(100.0)
    assert mean_corruption_error(found.dee, found.dee) == pytest.approx(100.0)
    one = evaluate(Engine(), source_of(image), OUTDOOR).median_scaled
    assert (found.clean.abs_rel[0], found.clean.a1[0]) == (one.abs_rel, one.a1)


def test_a_corrupted_image_without_depth_counts_as_wrong():
    class Blind(Engine):
        def infer_batch(self, requests, settings):
            (found,) = super().infer_batch(requests, settings)
            if requests[0][0].max() > 100:
                found.depth_m[:] = np.nan
            return [found]

    found = run(frame(0), engine=Blind(), corruptions=('brightness',), severities=(1,))
    assert found.dee == {'brightness': 1.0}
    assert found.mrr == 0.0


def test_frames_differ_in_their_noise_and_runs_do_not():
    first, second = Engine(), Engine()
    for engine in (first, second):
        run(frame(0), frame(1), engine=engine, corruptions=('gaussian_noise',), severities=(2,))
    assert all(np.array_equal(a, b) for a, b in zip(first.seen, second.seen, strict=True))
    assert np.array_equal(first.seen[0], first.seen[2])
    assert not np.array_equal(first.seen[1], first.seen[3])


def test_frames_without_truth_are_left_out():
    found = run(frame(0, None), frame(1), corruptions=('contrast',), severities=(1,))
    assert found.names == ('1',)
    with pytest.raises(EvaluationError, match='of 1 images none'):
        run(frame(0, None))


@pytest.mark.parametrize(
    'wrong', [{'corruptions': ('mist',)}, {'corruptions': ()}, {'severities': (0,)}]
)
def test_unknown_corruptions_are_refused_before_anything_is_measured(wrong):
    engine = Engine()
    with pytest.raises(ValueError, match='expected of'):
        run(frame(0), engine=engine, **wrong)
    assert not engine.seen


def report_of(found, path):
    path.write_text(json.dumps({'checkpoint': 'abc', 'robustness': found.as_dict()}))
    return path


def test_a_baseline_is_compared_on_the_same_images_only(tmp_path):
    options = {'corruptions': ('brightness',), 'severities': (1, 5)}
    found = run(frame(0), **options)
    baseline = read_baseline(report_of(found, tmp_path / 'base.json'))
    baseline.check_options(OUTDOOR, ['brightness'], [1, 5])
    baseline.check_images(found)
    figures = found.as_dict(baseline)
    assert figures['mce'] == pytest.approx(100.0)
    assert figures['by_corruption']['brightness']['ce'] == pytest.approx(100.0)
    assert [len(cells) for _, cells in robustness_rows(figures)] == [
        len(robustness_columns(figures))
    ] * 3
    for protocol, names, severities, said in (
        (OUTDOOR, ['fog'], [1, 5], '--corruptions'),
        (OUTDOOR, ['brightness'], [1], 'severities 1, 5, this run has 1:'),
        (find_protocol('indoor'), ['brightness'], [1, 5], '--protocol'),
        (OUTDOOR.capped(50.0), ['brightness'], [1, 5], '--max-depth'),
    ):
        with pytest.raises(EvaluationError, match=said):
            baseline.check_options(protocol, names, severities)
    other = frame(0)
    other.rgb[0, 0] = 0
    with pytest.raises(EvaluationError, match=r'fingerprint .* --frames'):
        baseline.check_images(run(other, **options))


def test_a_report_without_corruptions_is_no_baseline(tmp_path):
    path = tmp_path / 'report.json'
    path.write_text('{"checkpoint": "abc"}')
    with pytest.raises(EvaluationError, match='--robust --json'):
        read_baseline(path)
    path.write_text('{"robustness": {"by_corruption": {"fog": {"dee": "x"}}}}')
    with pytest.raises(EvaluationError, match='damaged'):
        read_baseline(path)


def test_options_are_read_in_the_order_of_the_protocol():
    assert parse_corruptions('snow, fog') == ('fog', 'snow')
    assert len(parse_corruptions(None)) == 18
    assert parse_severities('5,1') == (1, 5)
    with pytest.raises(EvaluationError, match="did you mean 'defocus_blur'"):
        parse_corruptions('fog,defocus')
    for text in ('0', '6', '1-3', ''):
        with pytest.raises(EvaluationError, match='from 1 to 5'):
            parse_severities(text)


def test_the_report_shows_one_frame_under_each_corruption():
    options = {'corruptions': ('brightness', 'fog'), 'severities': (1, 3, 5)}
    found = run(frame(0), frame(1), examples=True, **options)
    assert found.examples.name == '0'
    shown = [(one.corruption, one.severity) for one in found.examples.shown]
    assert shown == [('', 0), ('brightness', 3), ('fog', 3)]
    bright = corruptions.corrupt(frame(0).rgb, 'brightness', 3)
    assert np.array_equal(found.examples.shown[1].rgb, bright)
    facts = {
        'checkpoint': 'abc', 'checkpoint_path': 'x', 'data': '/a', 'device': 'cpu',
        'backend': 'torch', 'robustness': found.as_dict(),
    }  # fmt: skip
    evaluation = evaluate(Engine(), source_of(frame(0)), OUTDOOR)
    page = render_html({**facts, **evaluation.as_dict()}, evaluation, found)
    assert page.count('<img src="data:image/') == 3
    assert 'brightness 3: DEE' in page
