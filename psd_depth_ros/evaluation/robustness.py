"""How well depth bears corrupted images: DEE, mCE and mRR of the RoboDepth protocol.

With the depth estimation error DEE = (AbsRel - delta1 + 1) / 2 of an image (0 is perfect),
averaged over images and severities for each corruption i,

    mCE = mean_i DEE_i / DEE_i of a baseline        (below 100 %: more robust than the baseline)
    mRR = mean_i (1 - DEE_i) / (1 - DEE of the images as they are)    (100 %: nothing is lost)

AbsRel and delta1 are median-scaled, by the rules of an evaluation protocol. Source: L. Kong et
al., RoboDepth: Robust Out-of-Distribution Depth Estimation under Corruptions, NeurIPS 2023,
https://arxiv.org/abs/2310.15171. The corruptions are those of `augment.corruptions`, which are not
pixel by pixel those of the published benchmark: compare networks that were measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
import difflib
from pathlib import Path
from typing import Any
import zlib

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.augment.corruptions import corrupt, CORRUPTIONS, SEVERITIES
from psd_depth_ros.data.frames import FrameSource, TimedFrame
from psd_depth_ros.errors import EvaluationError, ParseError
from psd_depth_ros.evaluation.evaluate import align, check_measured, EVERYTHING, name_frame
from psd_depth_ros.evaluation.metrics import measure
from psd_depth_ros.evaluation.protocols import Protocol
from psd_depth_ros.inference import DepthEngine
from psd_depth_ros.parsing import read_json_object, shorten

Values = NDArray[np.float64]
Rgb = NDArray[np.uint8]
Map = NDArray[np.float32]


def depth_estimation_error(abs_rel: Values, a1: Values) -> Values:
    """DEE of AbsRel and delta1, of any shape; 0 is perfect, 1 is AbsRel 1 with no pixel right."""
    return (np.asarray(abs_rel, np.float64) - a1 + 1.0) / 2.0


def mean_corruption_error(dee: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """mCE in percent of DEE by corruption, against those of a baseline (100 for itself).

    Raises ValueError where the corruptions differ, there are none, or a baseline has no error.
    """
    if not dee or set(dee) != set(baseline):
        raise ValueError(f'corruptions {sorted(dee)} are compared with {sorted(baseline)}')
    if min(baseline.values()) <= 0.0:
        raise ValueError('the baseline has no error; nothing can be divided by it')
    return 100.0 * float(np.mean([dee[name] / baseline[name] for name in dee]))


def mean_resilience_rate(dee: Mapping[str, float], clean: float) -> float:
    """mRR in percent of DEE by corruption, against that of the images as they are.

    Raises ValueError where there are no corruptions, or a clean DEE of 1 or more leaves nothing to
    lose.
    """
    if not dee:
        raise ValueError('no corruptions')
    if clean >= 1.0:
        raise ValueError(f'DEE of images as they are is {clean:.3f}, expected less than 1')
    return 100.0 * float(np.mean([(1.0 - one) / (1.0 - clean) for one in dee.values()]))


# Of a corrupted image whose depth cannot be compared, such as one without a finite value: AbsRel
# and delta1.
NO_DEPTH = (1.0, 0.0)


@dataclass(frozen=True)
class Errors:
    """AbsRel and delta1, median-scaled: arrays of one shape."""

    abs_rel: Values
    a1: Values

    @property
    def dee(self) -> Values:
        """DEE, of the same shape."""
        return depth_estimation_error(self.abs_rel, self.a1)

    def mean(self) -> dict[str, float]:
        """Means by name."""
        return {
            'dee': float(self.dee.mean()),
            'abs_rel': float(self.abs_rel.mean()),
            'a1': float(self.a1.mean()),
        }


@dataclass(frozen=True)
class Measured:
    """A corrupted image, its depth and errors; the corruption is empty for the image as it is.

    `rgb` (H, W, 3) is rectified, `depth` (h, w) in metres is scaled by the median.
    """

    corruption: str
    severity: int
    abs_rel: float
    a1: float
    rgb: Rgb
    depth: Map

    @property
    def dee(self) -> float:
        """DEE."""
        return float(depth_estimation_error(np.array(self.abs_rel), np.array(self.a1)))


@dataclass(frozen=True)
class Examples:
    """One frame as it is and under every corruption; `truth` (h, w) in metres."""

    name: str
    truth: Map
    shown: tuple[Measured, ...]


@dataclass(frozen=True)
class Robustness:
    """Errors of every image, as it is and corrupted.

    Attributes:
        protocol: the rules of measuring.
        severities: S of them, ascending.
        seed: of the corruptions.
        names: of N frames.
        fingerprint: of the images as recorded; differs where one of them does.
        clean: of the images as they are, (N,).
        corrupted: by corruption, (S, N).
        examples: one frame, where it was asked for.
    """

    protocol: Protocol
    severities: tuple[int, ...]
    seed: int
    names: tuple[str, ...]
    fingerprint: str
    clean: Errors
    corrupted: Mapping[str, Errors]
    examples: Examples | None = None

    @property
    def dee(self) -> dict[str, float]:
        """DEE by corruption, the mean over severities and frames."""
        return {name: float(errors.dee.mean()) for name, errors in self.corrupted.items()}

    @property
    def clean_dee(self) -> float:
        """DEE of the images as they are."""
        return float(self.clean.dee.mean())

    @property
    def mrr(self) -> float | None:
        """mRR in percent; None where the network knows nothing of the images as they are."""
        clean = self.clean_dee
        return mean_resilience_rate(self.dee, clean) if clean < 1.0 else None

    def resilience(self, name: str) -> float | None:
        """The term of mRR of one corruption, in percent."""
        clean = self.clean_dee
        return mean_resilience_rate({name: self.dee[name]}, clean) if clean < 1.0 else None

    def as_dict(self, baseline: Baseline | None = None) -> dict[str, Any]:
        """All figures by name, as in the JSON report; mce and ce are None without a baseline."""
        dee = self.dee
        return {
            'corruptions': list(self.corrupted),
            'severities': list(self.severities),
            'seed': self.seed,
            'protocol': self.protocol.name,
            'max_depth_m': self.protocol.maximum_m,
            'frames': len(self.names),
            'fingerprint': self.fingerprint,
            'mrr': self.mrr,
            'mce': None if baseline is None else mean_corruption_error(dee, baseline.dee),
            'baseline': None if baseline is None else baseline.checkpoint,
            'clean': self.clean.mean(),
            'mean': {
                name: float(np.mean([errors.mean()[name] for errors in self.corrupted.values()]))
                for name in ('dee', 'abs_rel', 'a1')
            },
            'by_corruption': {
                name: {
                    **errors.mean(),
                    'rr': self.resilience(name),
                    'ce': None
                    if baseline is None
                    else mean_corruption_error({name: dee[name]}, {name: baseline.dee[name]}),
                    'by_severity': {
                        str(severity): Errors(errors.abs_rel[row], errors.a1[row]).mean()
                        for row, severity in enumerate(self.severities)
                    },
                }
                for name, errors in self.corrupted.items()
            },
            'per_frame': {
                'names': list(self.names),
                'clean': _lists(self.clean),
                'corrupted': {name: _lists(errors) for name, errors in self.corrupted.items()},
            },
        }


def _lists(errors: Errors) -> dict[str, Any]:
    return {'abs_rel': errors.abs_rel.tolist(), 'a1': errors.a1.tolist()}


def measure_robustness(
    engine: DepthEngine,
    source: FrameSource,
    protocol: Protocol,
    *,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    examples: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Robustness:
    """Measure an engine on every frame of a source, as it is and under every corruption.

    Images are corrupted as recorded, before they are rectified and resized, as a camera in such
    weather would deliver them. True depth stays what it is, also under the corruptions that shift
    pixels a little (elastic_transform, zoom_blur, glass_blur). A corrupted image whose depth
    cannot be compared counts as AbsRel 1 and delta1 0.

    Args:
        engine: The network.
        source: Frames with true depth; one without does not count.
        protocol: The rules of measuring.
        corruptions: Of `augment.corruptions.CORRUPTIONS`.
        severities: Ascending, of 1 to 5.
        seed: Of the corruptions; every frame has its own textures and noise.
        examples: Keep the first frame under every corruption at the middle severity.
        progress: Called with the images done and their number, corrupted ones included.

    Raises EvaluationError where no frame can be measured, ValueError for unknown corruptions or
    severities, or none.
    """
    if not corruptions or not set(corruptions) <= set(CORRUPTIONS):
        raise ValueError(f'corruptions are {list(corruptions)}, expected of {list(CORRUPTIONS)}')
    if not severities or not set(severities) <= set(SEVERITIES):
        raise ValueError(f'severities are {list(severities)}, expected of {list(SEVERITIES)}')
    conditions = [(name, severity) for name in corruptions for severity in severities]
    middle = severities[len(severities) // 2]
    total = (1 + len(conditions)) * len(source.selected)
    names: list[str] = []
    clean: list[tuple[float, float]] = []
    corrupted: dict[tuple[str, int], list[tuple[float, float]]] = {one: [] for one in conditions}
    kept: Examples | None = None
    digest = without_truth = 0
    for place, frame in enumerate(source.frames()):
        done = place * (1 + len(conditions)) + 1
        unchanged = _measure(engine, frame, '', 0, frame.rgb, protocol)
        if unchanged is None:
            without_truth += 1
            continue
        names.append(name_frame(frame))
        clean.append((unchanged.abs_rel, unchanged.a1))
        digest = zlib.crc32(frame.rgb.tobytes(), digest)
        shown = [_keep(unchanged)]
        frame_seed = _frame_seed(seed, frame.index)
        for step, (name, severity) in enumerate(conditions):
            if progress is not None:
                progress(done + step, total)
            rgb = corrupt(frame.rgb, name, severity, frame_seed)
            found = _measure(engine, frame, name, severity, rgb, protocol)
            errors = NO_DEPTH if found is None else (found.abs_rel, found.a1)
            corrupted[name, severity].append(errors)
            if examples and kept is None and found is not None and severity == middle:
                shown.append(_keep(found))
        if examples and kept is None:
            assert frame.depth_m is not None, 'it was measured'
            kept = Examples(names[-1], frame.depth_m, tuple(shown))
    check_measured(len(names), without_truth, protocol)
    if progress is not None:
        progress(total, total)
    return Robustness(
        protocol=protocol,
        severities=tuple(severities),
        seed=seed,
        names=tuple(names),
        fingerprint=f'{digest:08x}',
        clean=_errors(clean),
        corrupted={
            name: _errors([corrupted[name, severity] for severity in severities])
            for name in corruptions
        },
        examples=kept,
    )


def _measure(
    engine: DepthEngine,
    frame: TimedFrame,
    corruption: str,
    severity: int,
    rgb: Rgb,
    protocol: Protocol,
) -> Measured | None:
    """Measure an image in place of the frame's own; None where no pixel can be compared."""
    if frame.depth_m is None:
        return None
    predicted = engine.infer_batch([(rgb, frame.camera)], settings=EVERYTHING)[0]
    predicted, _ = align(predicted, frame, protocol)
    depth = frame.on_depth_grid(predicted.depth_m)
    metrics = measure(
        depth,
        protocol.restrict(frame.depth_m),
        median_scaled=True,
        minimum_m=protocol.minimum_m,
        maximum_m=protocol.maximum_m,
        truth_maximum_m=protocol.truth_limit_m,
    )
    if metrics is None:
        return None
    scaled = depth * np.float32(metrics.scale)
    return Measured(corruption, severity, metrics.abs_rel, metrics.a1, predicted.rgb, scaled)


def _keep(measured: Measured) -> Measured:
    """A copy of an image that the engine may write over."""
    return replace(measured, rgb=measured.rgb.copy())


def _errors(pairs: Sequence[object]) -> Errors:
    """Errors of nested lists of (AbsRel, delta1)."""
    values = np.array(pairs, np.float64)
    return Errors(values[..., 0], values[..., 1])


def _frame_seed(seed: int, index: int) -> int:
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])


@dataclass(frozen=True)
class Baseline:
    """What a JSON report of `--robust` says of a network that others are compared with."""

    path: Path
    checkpoint: str
    dee: Mapping[str, float]
    measured: Mapping[str, Any]

    def check_options(
        self, protocol: Protocol, corruptions: Sequence[str], severities: Sequence[int]
    ) -> None:
        """Raise EvaluationError where it was measured in another way than is asked for."""
        self._check('corruptions', list(corruptions), '--corruptions')
        self._check('severities', list(severities), '--severities')
        self._check('protocol', protocol.name, '--protocol')
        self._check('max_depth_m', protocol.maximum_m, '--max-depth')

    def check_images(self, robustness: Robustness) -> None:
        """Raise EvaluationError where it was measured on other images, or with another seed."""
        self._check('frames', len(robustness.names), 'DATA and --frames')
        self._check('fingerprint', robustness.fingerprint, 'DATA and --frames')
        self._check('seed', robustness.seed, 'seed')

    def _check(self, name: str, wanted: object, options: str) -> None:
        found = self.measured[name]
        if found != wanted:
            raise EvaluationError(
                f'--baseline {self.path} was measured with {name} {_words(found)}, this run has '
                f'{_words(wanted)}: give both runs the same {options}'
            )


def read_baseline(path: Path) -> Baseline:
    """Read the JSON report of an evaluation with `--robust`. Raises EvaluationError."""
    try:
        report = read_json_object(path)
    except ParseError as error:
        raise EvaluationError(f'--baseline {path}: {error}') from error
    measured = report.get('robustness')
    if not isinstance(measured, dict):
        raise EvaluationError(
            f'--baseline {path} has no figures of corrupted images; make it with psd-depth '
            'evaluate BASELINE DATA --robust --json FILE'
        )
    try:
        dee = {str(name): float(one['dee']) for name, one in measured['by_corruption'].items()}
        names = ('corruptions', 'severities', 'protocol', 'max_depth_m', 'frames', 'fingerprint')
        facts = {name: measured[name] for name in (*names, 'seed')}
        positive = all(0.0 < one < np.inf for one in dee.values())
        if not positive or list(dee) != facts['corruptions']:
            raise ValueError('errors that are not above 0, or of other corruptions')
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EvaluationError(
            f'--baseline {path} is damaged ({type(error).__name__}: {error}); make it again with '
            'psd-depth evaluate BASELINE DATA --robust --json FILE'
        ) from error
    return Baseline(path, str(report.get('checkpoint')), dee, facts)


def parse_corruptions(text: str | None) -> tuple[str, ...]:
    """Read `fog,snow`, None is all; in the order of `CORRUPTIONS`. Raises EvaluationError."""
    if text is None:
        return tuple(CORRUPTIONS)
    asked = {name.strip() for name in text.split(',')}
    for name in sorted(asked - set(CORRUPTIONS)):
        near = difflib.get_close_matches(shorten(name), CORRUPTIONS, n=1)
        hint = f'did you mean {near[0]!r}?' if near else f'known: {", ".join(CORRUPTIONS)}'
        raise EvaluationError(f'--corruptions: unknown corruption {shorten(name)!r}; {hint}')
    return tuple(name for name in CORRUPTIONS if name in asked)


def parse_severities(text: str | None) -> tuple[int, ...]:
    """Read `1,3,5`, None is all; ascending. Raises EvaluationError."""
    if text is None:
        return SEVERITIES
    asked = {part.strip() for part in text.split(',')}
    if not asked <= {str(severity) for severity in SEVERITIES}:
        raise EvaluationError(
            f'--severities is {shorten(text)!r}, expected numbers from 1 to 5, such as 1,3,5'
        )
    return tuple(sorted(int(part) for part in asked))


def _words(value: object) -> str:
    return shorten(', '.join(map(str, value)) if isinstance(value, list) else value)
