"""Calibration of the metric scale by distances that a person has measured, and its file.

A tape measure, or a wall whose distance is known: each sample is a place in the depth image and
its depth Z, the distance along the optical axis. For networks that lack a factor only it is the
median of ln(metres / depth of the network); networks of disparity up to scale and shift get one of
both (`affine.fit_few`). The file has one calibration for each camera, and keeps the samples, so
that a later one is fitted with those before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
import math
import os
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
import yaml

from psd_depth_ros.checkpoint import Checkpoint
from psd_depth_ros.config import build, dump, section, setting, validate
from psd_depth_ros.errors import ParseError, SettingsError
from psd_depth_ros.files import make_folder, write_file
from psd_depth_ros.geometry import Camera
from psd_depth_ros.inference.affine import Affine, AffineFit, FEW_AGREE, fit_few
from psd_depth_ros.inference.engine import DepthFrame
from psd_depth_ros.inference.postprocess import DepthSettings
from psd_depth_ros.inference.scale import Scale
from psd_depth_ros.inference.scale_sources import DEPTH_SIGMA
from psd_depth_ros.parsing import read_yaml, shorten, user_path

Array = NDArray[np.float64]
Map = NDArray[np.float32]
Image = NDArray[np.uint8]
T = TypeVar('T')

# What the network gives anywhere, whatever its unit.
ALL_DEPTH = DepthSettings(min_depth_m=0.001, max_depth_m=10000.0, min_confidence=0.0, sky=False)
MOST_SAMPLES = 100
MAX_METRES = 1000.0
_REACH_PX = 2  # around a sample of one pixel: 5 x 5 px
_LEAST_KNOWN = 0.5  # of the pixels of a place, and of the images
_MAX_STEP = 1.3  # between the quartiles of depth in a place: 2 standard deviations of the network
_PLACES_SIGMA = 0.08  # of ln s: that of walls and other flat things against everything else
_SAME_FOCAL = 0.01  # of fx in widths of the image
_ADVICE = 'mend the file, or delete it and calibrate the scale again'
_HEADER = (
    '# Metric scale of the cameras of a node: written by ~/calibrate_scale and psd-depth '
    'calibrate-scale.\n'
)


@dataclass(frozen=True)
class Spot:
    """A place in the depth image whose depth was measured.

    `place` is u v of a pixel, or u0 v0 u1 v1 of a box without its last column and row; `metres`
    is Z, along the optical axis.
    """

    name: str
    place: tuple[int, ...]
    metres: float

    @classmethod
    def parse(cls, name: str, numbers: Sequence[float]) -> Spot:
        """Make it of u v metres or u0 v0 u1 v1 metres. Raises SettingsError."""
        expected = 'expected u v METRES of a pixel, or u0 v0 u1 v1 METRES of a box'
        if len(numbers) not in (3, 5):
            raise SettingsError(f'{len(numbers)} numbers, {expected}')
        if not all(math.isfinite(number) for number in numbers):
            raise SettingsError(f'a number that is not finite, {expected}')
        *pixels, metres = numbers
        if not 0 < metres <= MAX_METRES:
            raise SettingsError(
                f'{metres:g} m, expected a distance above 0 and up to {MAX_METRES:g} m, from the '
                'lens along the optical axis'
            )
        place = tuple(round(pixel) for pixel in pixels)
        if len(place) == 4 and not (place[0] < place[2] and place[1] < place[3]):
            raise SettingsError(f'the box {place} is empty, expected u0 < u1 and v0 < v1')
        return cls(name, place, float(metres))

    def read(self, values: Map, is_disparity: bool) -> float | str:
        """The median of what the network gives there, or why that tells nothing.

        `values` (H, W) are depth, or disparity of unknown scale and shift, not finite where there
        is none.
        """
        height, width = values.shape
        if len(self.place) == 2:
            u, v = self.place
            inside = 0 <= u < width and 0 <= v < height
            left, top, right, bottom = u - _REACH_PX, v - _REACH_PX, u + _REACH_PX, v + _REACH_PX
            window = values[max(0, top) : bottom + 1, max(0, left) : right + 1]
        else:
            left, top, right, bottom = self.place
            inside = 0 <= left and right <= width and 0 <= top and bottom <= height
            window = values[max(0, top) : bottom, max(0, left) : right]
        if not inside:
            return f'{self.place} is outside of the depth image of {width}x{height} px'
        known = window[np.isfinite(window)]
        if known.size < _LEAST_KNOWN * window.size or not known.size:
            return (
                f'only {known.size} of the {window.size} px there have depth; choose another place'
            )
        if not is_disparity:
            near, far = np.quantile(known, (0.25, 0.75))
            if far > _MAX_STEP * near:
                return (
                    f'depth in that place reaches from {near:.3g} to {far:.3g}; choose a smaller '
                    'one, on one thing'
                )
        return float(np.median(known))


class SpotEngine(Protocol):
    """What `SpotReader` needs of `DepthEngine`."""

    checkpoint: Checkpoint

    def infer_batch(
        self,
        requests: Sequence[tuple[Image, Camera]],
        *,
        scales: Sequence[Scale] | None = None,
        settings: DepthSettings | None = None,
        full_size: bool = True,
    ) -> list[DepthFrame]:
        """One DepthFrame for each image (H, W, 3) uint8 RGB and its camera."""


class SpotReader:
    """What a network gives at some places of a camera's image, over several images.

    Not thread-safe: one thread may add and another look at `count`.

    Attributes:
        spots: The places.
        checkpoint: The network.
        camera: That of the depth images, None before the first.
        count: Images that were added.
        problem: Why images give nothing, '' where they do.
    """

    def __init__(self, spots: Sequence[Spot], checkpoint: Checkpoint) -> None:
        self.spots = tuple(spots)
        self.checkpoint = checkpoint
        self.camera: Camera | None = None
        self.count = 0
        self.problem = ''
        self._found: list[list[float]] = [[] for _ in spots]
        self._problems = [''] * len(spots)

    def add(self, engine: SpotEngine, rgb: Image, camera: Camera, full_size: bool = True) -> None:
        """Run the network on an image (H, W, 3) and read the places of its depth.

        `full_size` is whether places are pixels of the full image, see `DepthEngine.infer_batch`.
        """
        if engine.checkpoint.id != self.checkpoint.id:
            self.problem = 'another checkpoint was loaded meanwhile; call again'
            return
        frame = engine.infer_batch(
            [(rgb, camera)], scales=[Scale()], settings=ALL_DEPTH, full_size=full_size
        )[0]
        values = frame.values if self.checkpoint.affine else frame.depth_m
        assert values is not None, 'networks of scale and shift give disparity'
        for index, spot in enumerate(self.spots):
            found = spot.read(values, self.checkpoint.affine)
            if isinstance(found, str):
                self._problems[index] = found
            else:
                self._found[index].append(found)
        self.camera = frame.camera
        self.count += 1

    def samples(self) -> tuple[list[Sample], dict[str, str]]:
        """The medians over the images, and by name why others gave none."""
        samples, problems = [], {}
        for spot, found, problem in zip(self.spots, self._found, self._problems, strict=True):
            if len(found) < _LEAST_KNOWN * self.count or not found:
                problems[spot.name] = problem
            else:
                samples.append(Sample(spot.name, spot.place, spot.metres, float(np.median(found))))
        return samples, problems


@dataclass(frozen=True)
class Sample:
    """A place, its depth, what the network gives there, and how far the fit is off."""

    name: str = setting('', 'what the place is called')
    place: tuple[int, ...] = setting((), 'u v, or u0 v0 u1 v1 of the depth image', 'px')
    metres: float = setting(0.0, 'measured Z', 'm', minimum=1e-3, maximum=MAX_METRES)
    network: float = setting(
        0.0, 'what the network gives, before scale', minimum=-1e9, maximum=1e9
    )
    residual: float = setting(
        0.0, 'depth by the fit over metres, less 1', minimum=-1e9, maximum=1e9
    )


class SampleFit(NamedTuple):
    """The scale of some samples, None where they do not agree: then `problem` says why.

    `residuals` (N,) are depth by the fit over the measured one, less 1: without a fit by what most
    agree with, NaN where nothing can be said. `used` (N,) are those that agree.
    """

    scale: Scale | None
    residuals: Array
    used: NDArray[np.bool_]
    problem: str = ''


def fit_samples(samples: Sequence[Sample], is_disparity: bool) -> SampleFit:
    """Fit a factor, or scale and shift where the network gives `is_disparity` of both unknown.

    Samples agree where they are within two standard deviations (30 %) of the network's own error
    from place to place. More than half have to; those that do not are left out. One alone is taken
    as it is. The variance is that of the mean, with the network's own error as one more sample;
    those that are left out make it larger, too. To it comes what places that are measured have
    in common against all others.
    """
    metres = np.array([one.metres for one in samples])
    network = np.array([one.network for one in samples])
    return _fit_both(metres, network) if is_disparity else _fit_factor(metres, network)


def _fit_factor(metres: Array, network: Array) -> SampleFit:
    log_ratio, limit = np.log(metres / network), FEW_AGREE * DEPTH_SIGMA
    agree = np.abs(log_ratio[:, None] - log_ratio) <= limit
    used = agree[int(np.argmax(agree.sum(axis=1)))]
    if 2 * used.sum() <= len(metres) and len(metres) > 1:
        residuals = np.exp(np.median(log_ratio) - log_ratio) - 1.0
        low, high = np.exp(log_ratio.min()), np.exp(log_ratio.max())
        problem = (
            f'the samples contradict each other: they give factors from {low:.3g} to {high:.3g}, '
            f'expected more than half of them within {limit:.0%} of one'
        )
        return SampleFit(None, residuals, np.zeros_like(used), problem)
    log_scale = float(np.median(log_ratio[used]))
    errors = np.clip(log_ratio - log_scale, -limit, limit)
    variance = (DEPTH_SIGMA**2 + float(np.sum(errors**2))) / float(used.sum()) ** 2
    scale = Scale(math.exp(log_scale), variance + _PLACES_SIGMA**2)
    return SampleFit(scale, np.exp(log_scale - log_ratio) - 1.0, used)


def _fit_both(metres: Array, disparity: Array) -> SampleFit:
    fit, by_line, used = fit_few(disparity, 1.0 / metres)
    with np.errstate(divide='ignore', invalid='ignore'):
        residuals = np.where(by_line > 0, 1.0 / by_line, np.inf) / metres - 1.0
    residuals[np.isnan(by_line)] = np.nan
    if not isinstance(fit, AffineFit):
        if len(metres) == 1:
            fit = 'scale and shift need two samples at least, at different distances, in one call'
        return SampleFit(None, residuals, np.zeros_like(used), fit)
    pair = fit.measurements('', fit.centre, fit.spread, 0.0)
    assert pair is not None, 'fit_few gives lines above 0'
    level, slope = pair
    shape = Affine(fit.centre, fit.spread, math.exp(slope.log_scale), slope.variance)
    scale = Scale(math.exp(level.log_scale), level.variance + _PLACES_SIGMA**2, shape)
    return SampleFit(scale, residuals, used)


@dataclass(frozen=True)
class _Shape:
    centre: float = setting(0.0, 'm of d', minimum=-1e9, maximum=1e9)
    spread: float = setting(0.0, 'w of d; 0 where the network lacks a factor only', minimum=0.0)
    slope: float = setting(0.0, 'k of 1/Z = (1 + k (d - m) / w) / factor', minimum=0.0)
    slope_variance: float = setting(0.0, 'variance of ln k', minimum=0.0, maximum=100.0)


@dataclass(frozen=True)
class _View:
    width: int = setting(0, 'of the rectified images', 'px', minimum=1, maximum=100_000)
    height: int = setting(0, 'of the rectified images', 'px', minimum=1, maximum=100_000)
    fx: float = setting(0.0, 'focal length', 'px', minimum=1e-3, maximum=1e6)
    fy: float = setting(0.0, 'focal length', 'px', minimum=1e-3, maximum=1e6)


@dataclass(frozen=True)
class Calibration:
    """The scale of one camera with one checkpoint, as it is in the file."""

    checkpoint: str = setting('', 'content id of the weights')
    date: str = setting('', 'when it was measured, ISO 8601')
    factor: float = setting(0.0, 's: Z is s times that of the network', minimum=1e-6, maximum=1e6)
    variance: float = setting(0.0, 'variance of ln s', minimum=0.0, maximum=100.0)
    affine: _Shape = section(_Shape)
    camera: _View = section(_View)
    samples: tuple[Sample, ...] = ()

    def __post_init__(self) -> None:
        """Refuse half of a shape, and what no weights are named by."""
        if not self.checkpoint:
            raise SettingsError('checkpoint is missing, expected the content id of the weights')
        if (self.affine.spread > 0) != (self.affine.slope > 0):
            raise SettingsError('affine has one of spread and slope only, expected both above 0')

    def __str__(self) -> str:
        """The scale in words."""
        text = f'factor {self.factor:.4g}'
        if self.affine.spread > 0:
            text += f', slope {self.affine.slope:.3g}'
        return f'{text}, uncertain by {100 * math.sqrt(self.variance):.1f} %'

    def doubt(self, view: Camera) -> str:
        """Why the metres of a camera that the calibration is used for may be off, '' else."""
        was, camera = self.camera, view.rectified()
        ratio = (camera.fx / camera.width) / (was.fx / was.width)  # depth is proportional to it
        if abs(ratio - 1.0) <= _SAME_FOCAL:
            return ''
        return (
            f'the scale was calibrated with fx {was.fx:.4g} of images {was.width} px wide, the '
            f'camera now has {camera.fx:.4g} of {camera.width}: metres may be {ratio - 1:+.0%} '
            'off; calibrate it again'
        )

    @property
    def scale(self) -> Scale:
        """What the tracker takes."""
        one = self.affine
        shape = Affine(one.centre, one.spread, one.slope, one.slope_variance)
        return Scale(self.factor, self.variance, shape if one.spread > 0 else None)


class Renewal(NamedTuple):
    """A calibration by new samples and those from before; None where they do not agree.

    `samples` have the residuals of the fit; the last `kept` are those from before.
    """

    calibration: Calibration | None
    samples: tuple[Sample, ...]
    kept: int
    fit: SampleFit

    def verdict(self, name: str) -> tuple[bool, str]:
        """Whether the sample of a name was used, and its residual in words."""
        index = next(i for i, one in enumerate(self.samples) if one.name == name)
        sample, count = self.samples[index], int(self.fit.used.sum())
        text = f'residual {100 * sample.residual:+.1f} %'
        if math.isnan(sample.residual):
            text = 'no residual'
        if self.calibration is None:
            former = ', '.join(one.name for one in self.samples[len(self.samples) - self.kept :])
            hint = f'; of before is {former}: measure that again, too' if former else ''
            return False, f'{text}; nothing was changed: {self.fit.problem}{hint}'
        if not self.fit.used[index]:
            return False, f'{text} against the {count} that agree: left out, measure it again'
        unchecked = 1 if self.calibration.scale.affine is None else 2
        if count <= unchecked:
            return True, f'{text}, unchecked: {unchecked + 1} samples would check each other'
        return True, f'{text}, {count} samples agree'


def renew(
    former: Calibration | None,
    samples: Sequence[Sample],
    checkpoint: Checkpoint,
    camera: Camera,
) -> Renewal:
    """Fit new samples together with those of a former calibration of other names.

    Args:
        former: Whose samples count if it is of the same checkpoint and camera.
        samples: New ones, 1 to MOST_SAMPLES.
        checkpoint: The network.
        camera: That of the depth image.
    """
    view = _View(camera.width, camera.height, float(camera.fx), float(camera.fy))
    names = {one.name for one in samples}
    kept: list[Sample] = []
    if former is not None and (former.checkpoint, former.camera) == (checkpoint.id, view):
        kept = [
            one
            for one in former.samples
            if one.name not in names and (checkpoint.affine or one.network > 0)
        ]
    kept = kept[: MOST_SAMPLES - len(samples)]
    together = [*samples, *kept]
    fit = fit_samples(together, checkpoint.affine)
    told = tuple(
        replace(one, residual=float(residual))
        for one, residual in zip(together, fit.residuals, strict=True)
    )
    if fit.scale is None:
        return Renewal(None, told, len(kept), fit)
    shape = _Shape() if fit.scale.affine is None else _Shape(*fit.scale.affine)
    calibration = Calibration(
        checkpoint.id,
        datetime.now().astimezone().isoformat(timespec='seconds'),
        fit.scale.factor,
        fit.scale.variance,
        shape,
        view,
        tuple(one for one, used in zip(told, fit.used, strict=True) if used),
    )
    return Renewal(calibration, told, len(kept), fit)


def default_file(node_name: str) -> Path:
    """The file of a node by its name with namespace, beside what ROS keeps of cameras."""
    home = user_path(os.environ.get('ROS_HOME') or '~/.ros')
    return home / 'psd_depth_ros' / 'scale' / f'{node_name.strip("/")}.yaml'


class Found(NamedTuple):
    """What a file says of a camera: its scale, None where there is none that can be used.

    `source` says so in words; `warning` says why not where one was expected.
    """

    scale: Scale | None = None
    source: str = ''
    warning: str = ''


@dataclass(frozen=True)
class CalibrationFile:
    """The calibrations of a file by camera, none where it is not there yet.

    `is_named`: a person has named the file, and expects it to be there.
    """

    path: Path = Path()
    is_named: bool = False
    cameras: Mapping[str, Calibration] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, is_named: bool = False) -> CalibrationFile:
        """Read a file. Raises SettingsError, naming file and key, for anything but such a file."""
        where = shorten(path)
        try:
            content = read_yaml(path)
        except ParseError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return cls(path, is_named)
            raise SettingsError(f'{where} {error}; {_ADVICE}') from error
        cameras = content.get('cameras') if isinstance(content, dict) else None
        if not isinstance(cameras, dict) or not all(isinstance(name, str) for name in cameras):
            raise SettingsError(f'{where} has no mapping `cameras` by name; {_ADVICE}')
        parsed = {name: _parse(one, f'{where}: cameras.{name}') for name, one in cameras.items()}
        return cls(path, is_named, parsed)

    def find(self, camera: str, checkpoint_id: str, view: Camera | None = None) -> Found:
        """What it says of a camera with some weights.

        It is used, but doubted, where the `view` of the camera is another than it was.
        """
        one = self.cameras.get(camera)
        if one is None:
            warning = f'{self.path} has no calibration of {camera}; calibrate its scale'
            return Found(warning=warning if self.is_named or self.cameras else '')
        if one.checkpoint != checkpoint_id:
            return Found(
                warning=f'the calibration of {camera} in {self.path} is of checkpoint '
                f'{one.checkpoint}, this is {checkpoint_id}: it is not used; calibrate the scale '
                'again, or take that checkpoint'
            )
        source = f'calibrated {one.date} with {len(one.samples)} samples, {self.path}'
        doubt = '' if view is None else one.doubt(view)
        return Found(one.scale, source, f'{self.path}: {doubt}' if doubt else '')

    def only(self, checkpoint_id: str) -> Scale:
        """The scale of `camera`, or of the only one, for a recording. Raises SettingsError."""
        (name,) = self.cameras if len(self.cameras) == 1 else ('camera',)
        found = self.find(name, checkpoint_id)
        if found.scale is None:
            raise SettingsError(found.warning)
        return found.scale

    def renewed(self, camera: str, calibration: Calibration) -> CalibrationFile:
        """Write it with another calibration of a camera, atomically.

        What others have written meanwhile is kept. Raises SettingsError for a file that is none,
        TrainingError where it cannot be written.
        """
        cameras = {**self.load(self.path).cameras, camera: calibration}
        plain = {
            name: {**dump(one), 'samples': [dump(sample) for sample in one.samples]}
            for name, one in cameras.items()
        }
        for name, one in cameras.items():
            if one.scale.affine is None:
                del plain[name]['affine']
        text = yaml.safe_dump({'cameras': plain}, sort_keys=False, default_flow_style=None)
        make_folder(self.path.parent)
        write_file(self.path, (_HEADER + text).encode())
        return replace(self, cameras=cameras)


def _parse(mapping: Any, source: str) -> Calibration:
    if not isinstance(mapping, dict) or not isinstance(mapping.get('samples', []), list):
        raise SettingsError(f'{source}: expected a mapping with a list of samples; {_ADVICE}')
    values = {key: value for key, value in mapping.items() if key != 'samples'}
    samples = [
        _build(Sample, one, f'{source}.samples[{number}]')
        for number, one in enumerate(mapping.get('samples', []))
    ]
    return replace(_build(Calibration, values, source), samples=tuple(samples))


def _build(cls: type[T], mapping: Any, source: str) -> T:
    """Settings that are all in their range, given or not."""
    if not isinstance(mapping, dict):
        raise SettingsError(f'{source} is {shorten(repr(mapping))}, expected a mapping; {_ADVICE}')
    built = build(cls, mapping, source)
    validate(built, source)
    return built
