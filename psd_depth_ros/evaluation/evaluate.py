"""Measures a network on frames with exact depth: the loop, and what comes of it.

`evaluate` lets the engine make the depth: what is measured is what is served, at the size of the
image, enlarged bilinearly in ln Z (the Eigen protocol enlarges 1/Z; on smooth depth the two
differ by far less than the errors measured). Every pixel counts: there is no threshold on the
confidence, and depth beyond the protocol's cap is clamped to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
import math
from pathlib import Path
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.data.frames import FrameSource, SourceOptions, TimedFrame
from psd_depth_ros.data.open import open_with_depth
from psd_depth_ros.errors import EvaluationError
from psd_depth_ros.evaluation.metrics import (
    average,
    average_bands,
    average_parts,
    BandMetrics,
    DepthMetrics,
    EdgeMetrics,
    match,
    Matched,
    measure_bands,
    measure_confidence,
    measure_edges,
    measure_matched,
    measure_part,
    Sparsification,
    TwoWays,
)
from psd_depth_ros.evaluation.protocols import find_protocol, Protocol
from psd_depth_ros.evaluation.stability import Stability, StabilityResult
from psd_depth_ros.inference import DepthEngine, DepthFrame, Scale
from psd_depth_ros.inference.affine import align_least_squares
from psd_depth_ros.inference.postprocess import DepthSettings
from psd_depth_ros.inference.temporal import TemporalFilter

Map = NDArray[np.float32]
Bands = Mapping[str, BandMetrics]

AUTO = 'auto'
# Nothing is cut off here: the cap of the protocol comes after the scale.
EVERYTHING = DepthSettings(min_depth_m=0.001, max_depth_m=10000.0, min_confidence=0.0)
# Edges are measured where at least this fraction of the image has a depth: a depth camera, not a
# lidar.
DENSE_FRACTION = 0.5


def open_data(
    path: str | Path, protocol: str = AUTO, options: SourceOptions | None = None
) -> tuple[FrameSource, Protocol]:
    """Open what is to be measured, and choose how.

    `auto` takes the protocol that is usual for the layout; one that is asked for by name changes
    what is measured, not how files are read. Raises EvaluationError where no layout with exact
    depth is found.
    """
    if protocol != AUTO:
        find_protocol(protocol)
    source = open_with_depth(path, replace(options or SourceOptions(), protocol=protocol))
    return source, find_protocol(source.protocol if protocol == AUTO else protocol)


def parse_range(text: str) -> slice:
    """Read `START:STOP` or `START:STOP:STEP`, each may be left out. Raises EvaluationError."""
    parts = text.split(':')
    try:
        numbers = [int(part) if part else None for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or (len(numbers) == 3 and (numbers[2] or 1) < 1):
        raise EvaluationError(
            f'--frames is {text!r}, expected START:STOP or START:STOP:STEP, such as 240:300'
        )
    return slice(*numbers)


@dataclass(frozen=True)
class Example:
    """One image with its prediction and truth.

    `rgb` (H, W, 3) is rectified, `depth` and `truth` (h, w) are metres, not scaled, not cropped.
    """

    name: str
    errors: TwoWays
    rgb: NDArray[np.uint8]
    depth: Map
    truth: Map

    @property
    def abs_rel(self) -> float:
        """Median-scaled AbsRel, by which images are ordered."""
        return self.errors.median_scaled.abs_rel


@dataclass(frozen=True)
class Examples:
    """The best images, best first, and the worst ones, worst first; no image is in both."""

    best: tuple[Example, ...] = ()
    worst: tuple[Example, ...] = ()


class Extremes:
    """Takes images one by one and keeps the `most` best and the `most` worst."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[Example] = []

    def add(self, example: Example) -> None:
        """Take an image."""
        if self._most < 1:
            return
        self._kept.append(example)
        self._kept.sort(key=lambda one: one.abs_rel)
        if len(self._kept) > 2 * self._most:
            del self._kept[self._most]  # between the best and the worst

    @property
    def examples(self) -> Examples:
        """The images kept. Of few images, those in the better half are the best ones."""
        half = min(self._most, (len(self._kept) + 1) // 2)
        return Examples(tuple(self._kept[:half]), tuple(self._kept[half:][::-1]))


@dataclass(frozen=True)
class FrameResult:
    """The errors of one image.

    `edges` is None where the truth is not dense, `confidence` where it was not measured, `flipped`
    where the mirror image was not asked for, `moving` where nothing is known to move. `bands` and
    `moving` are median-scaled.
    """

    name: str
    errors: TwoWays
    bands: Bands
    unscaled_bands: Bands
    edges: EdgeMetrics | None = None
    confidence: Mapping[str, Sparsification] | None = None
    flipped: TwoWays | None = None
    moving: BandMetrics | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """The errors of all images; each figure is a mean over images that count the same."""

    protocol: Protocol
    frames: tuple[FrameResult, ...]
    without_truth: int = 0
    unreadable: Mapping[str, int] = field(default_factory=dict)
    stability: StabilityResult | None = None
    is_aligned: bool = False  # each image by scale and shift, see `align`
    examples: Examples = field(default_factory=Examples)

    @property
    def median_scaled(self) -> DepthMetrics:
        """The mean, each image scaled by its median."""
        return average([frame.errors.median_scaled for frame in self.frames])

    @property
    def unscaled(self) -> DepthMetrics:
        """The mean, depth taken as it is."""
        return average([frame.errors.unscaled for frame in self.frames])

    @property
    def by_distance(self) -> dict[str, dict[str, Any]]:
        """Errors by distance, median-scaled."""
        return average_bands([frame.bands for frame in self.frames], self.protocol.bands_m)

    @property
    def unscaled_by_distance(self) -> dict[str, dict[str, Any]]:
        """Errors by distance, depth taken as it is."""
        images = [frame.unscaled_bands for frame in self.frames]
        return average_bands(images, self.protocol.bands_m)

    @property
    def ratios(self) -> list[float]:
        """Median of the truth over median of the prediction, for each image."""
        return [frame.errors.median_scaled.scale for frame in self.frames]

    def as_dict(self) -> dict[str, Any]:
        """All figures by name, as in the JSON report; what was not measured is None."""
        return {
            'frames': len(self.frames),
            'frames_without_truth': self.without_truth,
            'frames_unreadable': dict(self.unreadable),
            'protocol': self.protocol.name,
            'protocol_rules': self.protocol.description,
            'median_scaled': _figures(self.median_scaled),
            'unscaled': {
                **_figures(self.unscaled),
                'by_distance': self.unscaled_by_distance,
            },
            'by_distance': self.by_distance,
            'moving': self._moving(),
            'coverage': self.unscaled.coverage,
            'scale': self._scale(),
            'aligned': self.is_aligned,
            **self._edges(),
            'ause': self._confidence('ause'),
            'aurg': self._confidence('aurg'),
            'temporal': None if self.stability is None else asdict(self.stability),
            'flip': self._flipped(),
            'seconds_per_frame': float(np.median([frame.seconds for frame in self.frames])),
            'per_frame': [_row(frame) for frame in self.frames],
        }

    def _scale(self) -> dict[str, float]:
        ratios = np.array(self.ratios)
        median = float(np.median(ratios))
        return {'median': median, 'std_over_median': float(np.std(ratios / median))}

    def _moving(self) -> dict[str, Any] | None:
        """Errors over moving things, median-scaled; None where nothing is known to move."""
        parts = [{'moving': one.moving} for one in self.frames if one.moving is not None]
        return average_parts(parts, ('moving',))['moving'] if parts else None

    def _edges(self) -> dict[str, float | None]:
        """Means over the images with dense truth; an edge metric without edges does not count."""
        rows = [asdict(frame.edges) for frame in self.frames if frame.edges is not None]
        names = {
            'boundary_f1': 'boundary_f1',
            'accuracy_px': 'edge_accuracy_px',
            'completeness_px': 'edge_completeness_px',
        }
        return {called: _mean(row[name] for row in rows) for name, called in names.items()}

    def _confidence(self, area: str) -> dict[str, float] | None:
        rows = [frame.confidence for frame in self.frames if frame.confidence is not None]
        if not rows:
            return None
        return {
            name: float(np.mean([getattr(row[name], area) for row in rows])) for name in rows[0]
        }

    def _flipped(self) -> dict[str, dict[str, float]] | None:
        found = [frame.flipped for frame in self.frames if frame.flipped is not None]
        if not found:
            return None
        return {
            'median_scaled': _figures(average([one.median_scaled for one in found])),
            'unscaled': _figures(average([one.unscaled for one in found])),
        }


def evaluate(
    engine: DepthEngine,
    source: FrameSource,
    protocol: Protocol,
    *,
    flip: bool = False,
    temporal_s: float = 0.0,
    examples: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure an engine on every frame of a source.

    With `flip` the mean of 1/Z of the image and of its mirror image is measured beside it.
    `temporal_s` is the time constant of the temporal filter, for frames that follow each other.
    `examples` best and as many worst frames are kept to be drawn. Raises EvaluationError where no
    frame can be measured.
    """
    frames: list[FrameResult] = []
    without_truth = 0
    stability = Stability(protocol.minimum_m, protocol.maximum_m)
    extremes = Extremes(examples)
    predictor = _Predictor(engine, protocol, temporal_s)
    for done, frame in enumerate(source.frames(), start=1):
        predicted, scale, seconds = predictor.predict(frame)
        stability.add(frame, source.view_pose(frame), predicted.rgb, predicted.depth_m)
        result = _measure_prediction(frame, predicted, protocol, seconds)
        if result is None:
            without_truth += 1
        else:
            frames.append(
                _add_flip(engine, frame, predicted, scale, protocol, result) if flip else result
            )
            extremes.add(_example(frame, predicted, frames[-1]))
        if progress is not None:
            progress(done, len(source.selected))
    check_measured(len(frames), without_truth, protocol)
    kept = extremes.examples
    unreadable = source.skipped_by_reason
    return Evaluation(
        protocol,
        tuple(frames),
        without_truth,
        unreadable,
        stability.result,
        engine.checkpoint.affine,
        kept,
    )


def measure_frame(
    depth: Map,
    truth: Map,
    protocol: Protocol,
    name: str = '',
    confidence: Map | None = None,
    moving: NDArray[np.bool_] | None = None,
    seconds: float = 0.0,
) -> FrameResult | None:
    """Measure one depth image; None where no pixel can be compared.

    `moving` (h, w) is true on things that move.
    """
    inside = protocol.restrict(truth)
    scaled = _match(depth, inside, protocol, median_scaled=True)
    unscaled = _match(depth, inside, protocol, median_scaled=False)
    if scaled is None or unscaled is None:
        return None
    known = np.count_nonzero(truth > 0) / truth.size
    if confidence is not None and np.isnan(confidence).all():
        confidence = None  # the network claims none
    edges = None
    if known >= DENSE_FRACTION:
        scaled_depth = depth * np.float32(scaled.scale)
        limits = {'minimum_m': protocol.minimum_m, 'maximum_m': protocol.maximum_m}
        edges = measure_edges(scaled_depth, truth, **limits)
    return FrameResult(
        name=name,
        errors=TwoWays(measure_matched(scaled), measure_matched(unscaled)),
        bands=measure_bands(scaled, protocol.bands_m),
        unscaled_bands=measure_bands(unscaled, protocol.bands_m),
        edges=edges,
        confidence=None if confidence is None else measure_confidence(scaled, confidence),
        moving=None if moving is None else measure_part(scaled, moving[scaled.mask]),
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


class _Predictor:
    """An engine with the temporal filter of one recording after the other."""

    def __init__(self, engine: DepthEngine, protocol: Protocol, temporal_s: float) -> None:
        self._engine, self._protocol = engine, protocol
        self._settings = replace(EVERYTHING, temporal_s=temporal_s)
        self._filter = TemporalFilter()
        self._sequence = ''

    def predict(self, frame: TimedFrame) -> tuple[DepthFrame, Scale | None, float]:
        """Depth of a frame, what it was aligned by, and the seconds that it took."""
        if not frame.sequence or frame.sequence != self._sequence:
            self._filter.reset()
        self._sequence = frame.sequence
        start = time.perf_counter()
        predicted = self._engine.infer_batch(
            [(frame.rgb, frame.camera)],
            settings=self._settings,
            moments=[(self._filter, frame.stamp_ns)],
        )[0]
        seconds = time.perf_counter() - start
        return *align(predicted, frame, self._protocol), seconds


def align(
    predicted: DepthFrame, frame: TimedFrame, protocol: Protocol
) -> tuple[DepthFrame, Scale | None]:
    """Depth of a network of unknown scale and shift, fitted to the truth of its image.

    By least squares of 1/Z over all pixels, as such networks are compared (Ranftl et al. 2022,
    MiDaS, eq. 5). Other depth is given back as it is, with None.
    """
    if predicted.values is None or frame.depth_m is None:
        return predicted, None
    truth = protocol.restrict(frame.depth_m)
    values = frame.on_depth_grid(predicted.values)
    with np.errstate(invalid='ignore'):
        known = (truth >= protocol.minimum_m) & (truth <= protocol.truth_limit_m)
    known &= np.isfinite(values)
    shape, factor = align_least_squares(values[known], 1.0 / truth[known])
    scale = Scale(factor, 0.0, shape)
    return predicted.rescaled(scale), scale


def name_frame(frame: TimedFrame) -> str:
    """The name of a frame in reports."""
    return frame.name or f'{frame.index:06d}'


def _measure_prediction(
    frame: TimedFrame, predicted: DepthFrame, protocol: Protocol, seconds: float
) -> FrameResult | None:
    if frame.depth_m is None:
        return None
    depth, confidence = map(frame.on_depth_grid, (predicted.depth_m, predicted.confidence))
    return measure_frame(
        depth, frame.depth_m, protocol, name_frame(frame), confidence, frame.moving, seconds
    )


def _add_flip(
    engine: DepthEngine,
    frame: TimedFrame,
    predicted: DepthFrame,
    scale: Scale | None,
    protocol: Protocol,
    result: FrameResult,
) -> FrameResult:
    """Measure the mean of 1/Z with the mirror image's depth, mirrored back."""
    assert frame.depth_m is not None, 'only what was measured is measured again'
    mirrored = np.ascontiguousarray(predicted.rgb[:, ::-1])
    request = (mirrored, predicted.camera.flip())
    flipped = engine.infer_batch([request], scales=[scale], settings=EVERYTHING)[0]
    other = flipped.depth_m[:, ::-1]
    nearest = np.float32(EVERYTHING.min_depth_m)  # for -Inf
    one, other = np.maximum(predicted.depth_m, nearest), np.maximum(other, nearest)
    with np.errstate(divide='ignore'):
        mean = 2.0 / (1.0 / one + 1.0 / other)
    truth = protocol.restrict(frame.depth_m)
    ways = [
        _match(frame.on_depth_grid(mean), truth, protocol, median_scaled=median_scaled)
        for median_scaled in (True, False)
    ]
    measured = [measure_matched(way) for way in ways if way is not None]
    return replace(result, flipped=TwoWays(*measured) if len(measured) == 2 else None)


def _example(frame: TimedFrame, predicted: DepthFrame, result: FrameResult) -> Example:
    assert frame.depth_m is not None, 'only what was measured can be shown'
    depth = frame.on_depth_grid(predicted.depth_m)
    return Example(result.name, result.errors, predicted.rgb, depth, frame.depth_m)


def check_measured(measured: int, others: int, protocol: Protocol) -> None:
    """Raise EvaluationError where of all images none could be measured."""
    if not measured:
        raise EvaluationError(
            f'of {others} images none has a true depth between {protocol.minimum_m:g} and '
            f'{protocol.truth_limit_m:g} m inside the crop of protocol {protocol.name}; expected '
            'metres (see --depth-scale), or choose another with --protocol'
        )


def _figures(metrics: DepthMetrics) -> dict[str, float]:
    """Without scale and coverage, which are reported on their own."""
    figures = asdict(metrics)
    return {name: figures[name] for name in figures if name not in ('scale', 'coverage')}


def _row(frame: FrameResult) -> dict[str, Any]:
    scaled, unscaled = frame.errors
    return {
        'name': frame.name,
        'abs_rel': scaled.abs_rel,
        'unscaled_abs_rel': unscaled.abs_rel,
        'a1': scaled.a1,
        'rmse': scaled.rmse,
        'scale': scaled.scale,
        'boundary_f1': None if frame.edges is None else _known(frame.edges.boundary_f1),
        'moving_abs_rel': None if frame.moving is None else frame.moving.abs_rel,
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean(values: Iterable[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else None
