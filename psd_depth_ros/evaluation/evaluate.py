"""Measures a network on samples with true depth: the loop, and what comes of it.

`evaluate` lets the engine make the depth: what is measured is what is served, at the size of the
image, enlarged bilinearly in ln Z (the Eigen protocol enlarges 1/Z; on smooth depth the two
differ by far less than the errors measured). Every pixel counts: there is no threshold on the
confidence, and what is said to be far is clamped to the protocol's cap. `measure_frames` measures
depth that is in memory already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
import time

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.evaluation.examples import Example, Extremes
from psd_depth_ros.evaluation.metrics import (
    match,
    Matched,
    measure_bands,
    measure_confidence,
    measure_edges,
    measure_matched,
    TwoWays,
)
from psd_depth_ros.evaluation.protocols import Protocol
from psd_depth_ros.evaluation.results import Evaluation, FrameResult
from psd_depth_ros.evaluation.samples import Sample, Samples
from psd_depth_ros.evaluation.stability import Stability
from psd_depth_ros.inference import DepthEngine, DepthFrame
from psd_depth_ros.inference.postprocess import DepthSettings

Map = NDArray[np.float32]

# Nothing is cut off here: the cap of the protocol comes after the scale.
EVERYTHING = DepthSettings(min_depth_m=0.001, max_depth_m=10000.0, min_confidence=0.0)
# Edges are measured where at least this share of the image has a truth: a depth camera, not lidar.
DENSE_SHARE = 0.5


def evaluate(
    engine: DepthEngine,
    samples: Samples,
    protocol: Protocol,
    *,
    flip: bool = False,
    examples: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure an engine on every sample.

    With `flip` the mean of 1/Z of the image and of its mirror image is measured beside it.
    `examples` best and as many worst frames are kept to be drawn. Raises EvaluationError where no
    sample can be measured.
    """
    frames: list[FrameResult] = []
    without_truth = 0
    stability = Stability(protocol.minimum_m, protocol.maximum_m)
    extremes = Extremes(examples)
    for done, sample in enumerate(samples, start=1):
        predicted, seconds = _predict(engine, sample)
        stability.add(sample, predicted.rgb, predicted.depth_m)
        result = _measure_sample(sample, predicted, protocol, seconds)
        if result is None:
            without_truth += 1
        else:
            frames.append(
                _add_flip(engine, sample, predicted, protocol, result) if flip else result
            )
            extremes.add(_example(sample, predicted, frames[-1]))
        if progress is not None:
            progress(done, samples.count)
    _check_measured(frames, without_truth, protocol)
    kept = extremes.examples
    unreadable = samples.unreadable
    return Evaluation(protocol, tuple(frames), without_truth, unreadable, stability.result, kept)


def measure_frames(
    pairs: Iterable[tuple[Map, Map]], protocol: Protocol, names: Iterable[str] = ()
) -> Evaluation:
    """Measure depth images against their truths, both (H, W) metres, without any network.

    Raises EvaluationError where no pixel of any pair can be compared.
    """
    given = iter(names)
    results = [
        measure_frame(depth, truth, protocol, next(given, f'{index:06d}'))
        for index, (depth, truth) in enumerate(pairs)
    ]
    frames = [result for result in results if result is not None]
    _check_measured(frames, len(results) - len(frames), protocol)
    return Evaluation(protocol, tuple(frames), len(results) - len(frames))


def measure_frame(
    depth: Map,
    truth: Map,
    protocol: Protocol,
    name: str = '',
    confidence: Map | None = None,
    seconds: float = 0.0,
) -> FrameResult | None:
    """Measure one depth image; None where no pixel can be compared."""
    inside = protocol.restrict(truth)
    scaled = _match(depth, inside, protocol, median_scaled=True)
    unscaled = _match(depth, inside, protocol, median_scaled=False)
    if scaled is None or unscaled is None:
        return None
    known = np.count_nonzero(truth > 0) / truth.size
    edges = None
    if known >= DENSE_SHARE:
        shape = depth * np.float32(scaled.scale)
        limits = {'minimum_m': protocol.minimum_m, 'maximum_m': protocol.maximum_m}
        edges = measure_edges(shape, truth, **limits)
    return FrameResult(
        name=name,
        errors=TwoWays(measure_matched(scaled), measure_matched(unscaled)),
        bands=measure_bands(scaled, protocol.bands_m),
        unscaled_bands=measure_bands(unscaled, protocol.bands_m),
        edges=edges,
        confidence=None if confidence is None else measure_confidence(scaled, confidence),
        seconds=seconds,
    )


def _match(depth: Map, truth: Map, protocol: Protocol, *, median_scaled: bool) -> Matched | None:
    return match(
        depth,
        truth,
        median_scaled=median_scaled,
        minimum_m=protocol.minimum_m,
        maximum_m=protocol.maximum_m,
        truth_maximum_m=protocol.truth_limit_m,
    )


def _predict(engine: DepthEngine, sample: Sample) -> tuple[DepthFrame, float]:
    """Depth of a sample, and the seconds it took."""
    start = time.perf_counter()
    request = (sample.rgb, sample.camera)
    frame = engine.infer_batch([request], settings=EVERYTHING)[0]
    return frame, time.perf_counter() - start


def _measure_sample(
    sample: Sample, predicted: DepthFrame, protocol: Protocol, seconds: float
) -> FrameResult | None:
    if sample.truth is None:
        return None
    depth, confidence = (sample.on_grid(one) for one in (predicted.depth_m, predicted.confidence))
    return measure_frame(depth, sample.truth, protocol, sample.name, confidence, seconds)


def _add_flip(
    engine: DepthEngine,
    sample: Sample,
    predicted: DepthFrame,
    protocol: Protocol,
    result: FrameResult,
) -> FrameResult:
    """Measure the mean of 1/Z with the mirror image's depth, mirrored back."""
    assert sample.truth is not None, 'only what was measured is measured again'
    mirrored = np.ascontiguousarray(predicted.rgb[:, ::-1])
    request = (mirrored, predicted.camera.flip())
    other = engine.infer_batch([request], settings=EVERYTHING)[0].depth_m[:, ::-1]
    nearest = np.float32(EVERYTHING.min_depth_m)  # for -Inf
    one, other = np.maximum(predicted.depth_m, nearest), np.maximum(other, nearest)
    with np.errstate(divide='ignore'):
        mean = 2.0 / (1.0 / one + 1.0 / other)
    truth = protocol.restrict(sample.truth)
    ways = [
        _match(sample.on_grid(mean), truth, protocol, median_scaled=median_scaled)
        for median_scaled in (True, False)
    ]
    measured = [measure_matched(way) for way in ways if way is not None]
    return replace(result, flipped=TwoWays(*measured) if len(measured) == 2 else None)


def _example(sample: Sample, predicted: DepthFrame, result: FrameResult) -> Example:
    assert sample.truth is not None, 'only what was measured can be shown'
    depth = sample.on_grid(predicted.depth_m)
    return Example(result.name, result.errors, predicted.rgb, depth, sample.truth)


def _check_measured(frames: list[FrameResult], others: int, protocol: Protocol) -> None:
    if not frames:
        raise EvaluationError(
            f'of {others} images none has a true depth between {protocol.minimum_m:g} and '
            f'{protocol.truth_limit_m:g} m inside the crop of protocol {protocol.name}; expected '
            'metres (see --depth-scale), or choose another with --protocol'
        )
