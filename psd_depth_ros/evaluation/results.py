"""What an evaluation found: of each image, and the means under the names of the JSON report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
import math
from typing import Any

import numpy as np

from psd_depth_ros.evaluation.examples import Examples
from psd_depth_ros.evaluation.metrics import (
    average,
    average_bands,
    BandMetrics,
    DepthMetrics,
    EdgeMetrics,
    Sparsification,
    TwoWays,
)
from psd_depth_ros.evaluation.protocols import Protocol
from psd_depth_ros.evaluation.stability import StabilityResult

Bands = Mapping[str, BandMetrics]


@dataclass(frozen=True)
class FrameResult:
    """The errors of one image.

    `edges` is None where the truth is not dense, `confidence` where there was none, `flipped`
    where the mirror image was not asked for. `bands` are median-scaled.
    """

    name: str
    errors: TwoWays
    bands: Bands
    unscaled_bands: Bands
    edges: EdgeMetrics | None = None
    confidence: Mapping[str, Sparsification] | None = None
    flipped: TwoWays | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Evaluation:
    """The errors of all images; each figure is a mean over images that count the same."""

    protocol: Protocol
    frames: tuple[FrameResult, ...]
    without_truth: int = 0
    unreadable: Mapping[str, int] = field(default_factory=dict)
    stability: StabilityResult | None = None
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
            'coverage': self.unscaled.coverage,
            'scale': self._scale(),
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


def _figures(metrics: DepthMetrics) -> dict[str, float]:
    """Without what is the same for both ways of scaling, or not a figure of its own."""
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
        'boundary_f1': None if frame.edges is None else frame.edges.boundary_f1,
    }


def _mean(values: Iterable[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else None
