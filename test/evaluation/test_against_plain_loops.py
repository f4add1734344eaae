"""Every metric once more, in plain Python floats and loops, on images of random depth."""

from itertools import pairwise
import math
import random
import statistics

import numpy as np
import pytest

from psd_depth_ros.evaluation.evaluate import Evaluation, measure_frame
from psd_depth_ros.evaluation.metrics import (
    average_bands,
    boundary_f1,
    DRIVING_BANDS_M,
    match,
    measure,
    measure_bands,
    measure_confidence,
)
from psd_depth_ros.evaluation.protocols import find_protocol

HEIGHT, WIDTH = 23, 31
NEAR, FAR = 1e-3, 80.0
EXACT = pytest.approx  # relative 1e-6, float64 on both sides


def make_image(seed):
    """Give predicted depth, truth and confidence as rows; some of both is missing."""
    draw = random.Random(seed)
    truth, depth, trust = [], [], []
    for _ in range(HEIGHT):
        far = [draw.lognormvariate(2.3, 1.2) for _ in range(WIDTH)]
        truth.append([0.0 if draw.random() < 0.2 else one for one in far])
        depth.append([one * draw.lognormvariate(0.4, 0.35) for one in far])
        trust.append([draw.random() for _ in range(WIDTH)])
    depth[3][4], depth[5][6], depth[7][8] = math.nan, math.inf, -math.inf
    truth[5][6] = truth[7][8] = 12.0
    return depth, truth, trust


def usable(depth, truth, trust, scaled):
    """Give (prediction, truth, trust) of each pixel that counts, and the scale."""
    rows = []
    for y in range(HEIGHT):
        for x in range(WIDTH):
            p, t = depth[y][x], truth[y][x]
            if NEAR < t < FAR and p == p:
                rows.append((p, t, trust[y][x]))
    scale = 1.0
    if scaled:
        scale = statistics.median(t for _, t, _ in rows) / statistics.median(p for p, _, _ in rows)
    return [(min(max(p * scale, NEAR), FAR), t, c) for p, t, c in rows], scale


def loops(rows):
    n = len(rows)
    logs = [math.log(p / t) for p, t, _ in rows]
    mean_log = math.fsum(logs) / n
    within = [
        sum(1 for p, t, _ in rows if p / t < limit and t / p < limit) / n
        for limit in (1.25, 1.5625, 1.953125)
    ]
    return {
        'abs_rel': math.fsum(abs(p - t) / t for p, t, _ in rows) / n,
        'sq_rel': math.fsum((p - t) ** 2 / t for p, t, _ in rows) / n,
        'rmse': math.sqrt(math.fsum((p - t) ** 2 for p, t, _ in rows) / n),
        'rmse_log': math.sqrt(math.fsum(d * d for d in logs) / n),
        'a1': within[0],
        'a2': within[1],
        'a3': within[2],
        'silog': math.sqrt(math.fsum(d * d for d in logs) / n - mean_log**2),
        'log10': math.fsum(abs(math.log10(p) - math.log10(t)) for p, t, _ in rows) / n,
    }


def arrays(image):
    return [np.array(rows, dtype=np.float64) for rows in image]


@pytest.mark.parametrize('scaled', [True, False])
@pytest.mark.parametrize('seed', range(3))
def test_errors(seed, scaled):
    image = make_image(seed)
    depth, truth, _ = arrays(image)
    found = measure(depth, truth, median_scaled=scaled)
    rows, scale = usable(*image, scaled)
    for name, expected in loops(rows).items():
        assert getattr(found, name) == EXACT(expected), name
    assert found.scale == EXACT(scale)


def test_errors_by_distance_and_their_means():
    images, expected = [], {name: [] for name in ('0-10', '10-20', '20-40', '40-80')}
    for seed in range(3):
        image = make_image(seed)
        depth, truth, _ = arrays(image)
        images.append(measure_bands(match(depth, truth, median_scaled=True), DRIVING_BANDS_M))
        rows, _ = usable(*image, True)
        for name, parts in expected.items():
            low, high = (float(end) for end in name.split('-'))
            band = [row for row in rows if low <= row[1] < high]
            bias = statistics.median(math.log(p) - math.log(t) for p, t, _ in band)
            values = loops(band)
            share = len(band) / len(rows)
            parts.append((values['abs_rel'], values['a1'], bias, share, len(band)))
    means = average_bands(images, DRIVING_BANDS_M)
    for name, parts in expected.items():
        *columns, counts = zip(*parts, strict=True)
        for key, column in zip(('abs_rel', 'a1', 'bias', 'share'), columns, strict=True):
            assert means[name][key] == EXACT(math.fsum(column) / 3), (name, key)
        pooled = math.fsum(a * n for a, n in zip(columns[0], counts, strict=True)) / sum(counts)
        assert means[name]['pooled_abs_rel'] == EXACT(pooled)
        assert (means[name]['pixels'], means[name]['frames']) == (sum(counts), 3)


def test_means_over_images_of_the_crop():
    protocol = find_protocol('kitti')
    images = [make_image(seed) for seed in range(2)]
    results = tuple(measure_frame(*arrays(image)[:2], protocol) for image in images)
    found = Evaluation(protocol, results).as_dict()
    top, bottom = int(0.40810811 * HEIGHT), int(0.99189189 * HEIGHT)
    left, right = int(0.03594771 * WIDTH), int(0.96405229 * WIDTH)
    for way, scaled in (('median_scaled', True), ('unscaled', False)):
        singles = []
        for depth, truth, trust in images:
            cropped = [
                [t if top <= y < bottom and left <= x < right else 0.0 for x, t in enumerate(line)]
                for y, line in enumerate(truth)
            ]
            singles.append(loops(usable(depth, cropped, trust, scaled)[0]))
        for name in singles[0]:
            expected = sum(one[name] for one in singles) / 2
            assert found[way][name] == EXACT(expected), (way, name)


def test_areas_of_sparsification():
    image = make_image(5)
    depth, truth, trust = arrays(image)
    found = measure_confidence(match(depth, truth, median_scaled=True), trust)
    rows, _ = usable(*image, True)
    errors = {
        'abs_rel': (lambda p, t: abs(p - t) / t, lambda mean: mean),
        'rmse': (lambda p, t: (p - t) ** 2, math.sqrt),
        'a1': (lambda p, t: 0.0 if max(p / t, t / p) < 1.25 else 1.0, lambda mean: mean),
    }
    for name, (error, finish) in errors.items():
        by_trust = [error(p, t) for p, t, _ in sorted(rows, key=lambda row: -row[2])]
        by_error = sorted(by_trust)

        def area(values, finish=finish):
            curve = []
            for i in range(50):
                left = values[: len(values) - len(values) * i // 50]
                curve.append(finish(math.fsum(left) / len(left)))
            curve.append(0.0)
            return sum((a + b) / 2 / 50 for a, b in pairwise(curve))

        everything = finish(math.fsum(by_trust) / len(by_trust))
        assert found[name].ause == EXACT(area(by_trust) - area(by_error)), name
        assert found[name].aurg == EXACT(everything - area(by_trust)), name


def test_boundary_f1():
    depth, truth, _ = make_image(7)
    depth[3][4] = depth[5][6] = depth[7][8] = 3.0
    known = [[t > 0 for t in line] for line in truth]
    filled = [[t or 1.0 for t in line] for line in truth]
    scores, weights = [], []
    for step in range(10):
        ratio = 1.05 + 0.2 * step / 9
        hits = found = there = 0
        for y in range(HEIGHT):
            for x in range(WIDTH):
                for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                    for far in (1, 2, 3):
                        v, u = y + far * dy, x + far * dx
                        if not (0 <= v < HEIGHT and 0 <= u < WIDTH) or known[v][u]:
                            break
                    if not (known[y][x] and 0 <= v < HEIGHT and 0 <= u < WIDTH and known[v][u]):
                        continue
                    # nearer than the neighbour, in 1/Z as the definition has it
                    p = (1 / depth[y][x]) / (1 / depth[v][u]) > ratio
                    t = (1 / truth[y][x]) / (1 / truth[v][u]) > ratio
                    found += p
                    there += t
                    hits += p and t
        precision, recall = hits / found, hits / there
        scores.append(2 * precision * recall / (precision + recall))
        weights.append(ratio)
    expected = sum(s * w for s, w in zip(scores, weights, strict=True)) / sum(weights)
    assert 0.2 < expected < 0.95
    assert boundary_f1(np.log(depth), np.log(filled), np.array(known)) == EXACT(expected)
