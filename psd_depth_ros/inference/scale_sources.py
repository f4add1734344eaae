"""Measurements of the metric scale: from odometry, camera height or lidar.

Each source measures on one rectified frame the factor s from its depth to metres, or says why it
cannot. `scale` filters the measurements over time. Those of odometry and lidar also give the
points of known depth that they measure with (`Samples`), for networks that lack more than a factor
(`affine`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.geometry import Camera, Extrinsics
from psd_depth_ros.geometry.pose import relative, rotation_vector, transform
from psd_depth_ros.odometry.essential import epipolar_distance, find_epipolar_motion, refine_motion
from psd_depth_ros.odometry.lengths import weighted_median
from psd_depth_ros.odometry.tracking import Tracker

Array = NDArray[np.float64]
Map = NDArray[np.float32]

MIN_TRANSLATION_M = 0.2
_MAX_GAP_NS = 5_000_000_000
_PATIENCE_NS = 500_000_000
_REST_NS = 90_000_000  # every other frame of a camera at 10 Hz
_WORKING_WIDTH = 480
_TRACKER = Tracker(300, 0.01, 8, window_px=15, levels=4, return_px=0.5)
_MIN_TRACKS = 40
_MIN_PARALLAX_PX = 1.0
_TRACK_SIGMA_PX = 0.25
_MAX_EPIPOLAR_PX = 1.0
# The start has a standard deviation of 1 degree and a tenth of the motion; weighted by a quarter,
# the information in a robust loss whose width is two standard deviations.
_START_INFORMATION = 0.25 * np.diag([1 / math.radians(1.0) ** 2] * 3 + [1 / 0.1**2] * 2)
_ASSUMED_LEVER_ARM_M = 1.5
_MAX_RELATIVE_SIGMA = 0.1  # of 1/Z of corners: a short motion tells scale from shift badly
_MAX_ASTRAY = math.radians(8.0)  # between the motion of the images and that of odometry
_MIN_POINTS = 200
_ASTRAY = (
    ': the pose of the lidar is wrong, or the frame of the images is not an optical one (z ahead, '
    'y down: REP 103)'
)
_MAX_POINTS = 20_000
_LIDAR_SIGMA = 0.02  # of ln Z of a point
_MAX_MEDIAN_M = 1000.0  # a lidar with a larger median uses another unit
DEPTH_SIGMA = 0.15  # of ln Z at a pixel: error of the network from place to place
MIN_SIGMA = 0.01  # of ln s: no frame is more precise
_COARSE_COLUMNS = 64  # of the grid for the ground fit and the strata
_GROUND_PARTS = 25  # image regions with independent errors of ln Z
_MIN_DIP = math.sin(math.radians(4.0))  # minimum angle of rays below the horizon
_GROUND_SIGMA = 0.05  # of ln s: scatter of the ground's scale against everything else
_MOUNTING_SIGMA = math.radians(2.5)
_MAX_TILT = math.radians(10.0)
_LEVEL_UP = np.array([0.0, -1.0, 0.0])
_MIN_SLOPE = 0.6  # of ln Z against that of the plane
_MIN_GROUND = 0.3  # fraction of the pixels below the horizon


@dataclass(frozen=True)
class ScaleMeasurement:
    """ln s and its variance as measured by one source, from `support` points.

    The variance is random only; the systematic error of a source is handled by
    `scale_filter.ScaleFilter`.
    """

    source: str
    log_scale: float
    variance: float
    support: int

    def scaled(self, factor: float) -> ScaleMeasurement:
        """The measurement for depth before it was multiplied by `factor`."""
        return replace(self, log_scale=self.log_scale + math.log(factor))


@dataclass(frozen=True)
class Samples:
    """Points of known depth in one view, N of them.

    Attributes:
        inverse_m: (N,) 1/Z in 1/m; triangulated ones scatter around 0 where they are far.
        sigma: (N,) standard deviation of `inverse_m`.
        row, column: (N,) pixels of the view, integers.
        log_variance: Variance of the logarithm of what all of them share, the length of a motion.
    """

    inverse_m: Array
    sigma: Array
    row: NDArray[np.intp]
    column: NDArray[np.intp]
    log_variance: float = 0.0

    @property
    def relative_sigma(self) -> float:
        """Median error of 1/Z, as a fraction of it."""
        return float(np.median(self.sigma / np.maximum(self.inverse_m, self.sigma)))


@dataclass(frozen=True)
class ScaleView:
    """One rectified frame with the inputs of the sources.

    `rgb` (H, W, 3); `depth` (H, W) in the unit to be scaled, or whatever else the network gives
    where only samples are wanted; `odometry` (4, 4) pose of the body in the odometry frame;
    `lidar` (N, 3) points in the lidar frame; None where unknown. `extrinsics` are those of the
    rectified view.
    """

    stamp_ns: int
    rgb: NDArray[np.uint8]
    depth: Map
    camera: Camera
    odometry: Array | None = None
    lidar: Map | None = None
    extrinsics: Extrinsics = field(default_factory=Extrinsics)


@dataclass(frozen=True)
class _Key:
    """The earlier frame of a pair."""

    stamp_ns: int
    grey: NDArray[np.uint8]
    camera: Camera
    odometry: Array
    T_body_camera: Array | None


@dataclass(frozen=True)
class _Pair:
    """Two frames between which odometry has moved.

    `T_key_present` is the motion of the camera by odometry, None where the mounting is unknown:
    then only its length is known, and `log_variance` is that of its logarithm.
    """

    key: _Key
    present: _Key
    moved_m: float
    T_key_present: Array | None
    log_variance: float

    @property
    def working_camera(self) -> Camera:
        """The camera of the images that corners are followed in."""
        height, width = self.present.grey.shape
        return self.present.camera.resize(width, height)


class OdometrySource:
    """Compares depth with corners triangulated over the motion of the odometry.

    Corners of an earlier frame are tracked into the present one (KLT with backward check) once
    odometry has moved 0.2 m. Rotation and direction of the motion are refined on the epipolar
    distance of the tracks, which does not depend on the network's depth. The start, which decides
    where the images do not (a wall), is odometry's motion where the mounting is known, else PnP
    with RANSAC on the depth. The length of the motion is odometry's. s is the weighted median of
    triangulated over estimated depth: corners are weighted by their parallax and image regions
    equally (`Strata`), so that near and far count as with a lidar, and moving objects are
    outvoted.

    Camera and body travel equally far only without rotation. `T_body_camera` makes that exact.
    Without it, a turn by angle a moves the camera by up to its lever arm times a; 1.5 m is assumed
    and added to the variance.
    """

    name = 'odometry'
    is_prompt = False
    systematic_sigma = 0.02  # worn wheels; corners are no random sample of the pixels

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Drop the earlier frame."""
        self._key: _Key | None = None
        self._measured_ns: int | None = None

    def measure(self, view: ScaleView) -> ScaleMeasurement | str:
        """Measure against the earlier frame, or return the reason why that is not possible."""
        pair = self._pair(view)
        if isinstance(pair, str):
            return pair
        found = _triangulate_ratios(pair, view.depth)
        if not self._conclude(pair, found is not None):
            return 'too few corners could be followed'
        assert found is not None, 'else it was not concluded'
        log_scale, variance, support = found
        return ScaleMeasurement(self.name, log_scale, variance + pair.log_variance, support)

    def sample(self, view: ScaleView) -> Samples | str:
        """Corners triangulated against the earlier frame, or the reason why there are none.

        No depth is used: the start of the motion is odometry's where the mounting is known, else
        that of the essential matrix.
        """
        pair = self._pair(view)
        if isinstance(pair, str):
            return pair
        found = _triangulate_samples(pair, (view.camera.height, view.camera.width))
        if isinstance(found, str):
            self._conclude(pair, has_measured=False)
            return found
        age_ns = view.stamp_ns - pair.key.stamp_ns
        if found.relative_sigma > _MAX_RELATIVE_SIGMA and age_ns < _PATIENCE_NS:
            return 'waits for a longer motion'
        self._conclude(pair, has_measured=True)
        return found

    def _pair(self, view: ScaleView) -> _Pair | str:
        """The earlier frame and this one, or the reason why there is no pair yet."""
        if view.odometry is None:
            return 'no pose of odometry at the stamp of the image'
        key = self._key
        if key is None or key.camera != view.camera or not self._is_near(key, view):
            self._key = _make_key(view) if self._is_rested(view) else None
            return 'waits for a second picture'
        motion, lever_arm_m = _body_motion(key, view)
        moved_m = float(np.linalg.norm(motion[:3, 3]))
        if moved_m < MIN_TRANSLATION_M:
            return f'odometry has moved less than {MIN_TRANSLATION_M:g} m'
        angle = float(np.linalg.norm(rotation_vector(motion[:3, :3])))
        log_variance = (lever_arm_m * angle / moved_m) ** 2
        known = None if lever_arm_m else motion
        return _Pair(key, _make_key(view), moved_m, known, log_variance)

    def _conclude(self, pair: _Pair, has_measured: bool) -> bool:
        """Choose the earlier frame of the next pair; returns `has_measured`."""
        if has_measured:
            self._key, self._measured_ns = None, pair.present.stamp_ns
        elif pair.present.stamp_ns - pair.key.stamp_ns >= _PATIENCE_NS:
            self._key = pair.present  # too little or too much motion
        return has_measured

    def _is_near(self, key: _Key, view: ScaleView) -> bool:
        """Whether both frames may show the same scene."""
        return 0 <= view.stamp_ns - key.stamp_ns <= _MAX_GAP_NS

    def _is_rested(self, view: ScaleView) -> bool:
        """Whether the last measurement is at least `_REST_NS` ago."""
        last = self._measured_ns
        return last is None or not 0 <= view.stamp_ns - last < _REST_NS


class CameraHeightSource:
    """Compares the known height of the camera with its height above the estimated ground plane.

    On a plane 1 / Z is linear in the pixel: d (p . ray) = 1 with p = n / h in the unit of the
    depth d. p is fitted by robust least squares over all pixels below the horizon, starting at the
    most frequent height above a level ground. The expected normal is `extrinsics.up`, or that of a
    level camera, with a standard deviation of 2.5 degrees: a tilted or nodding camera is followed,
    a road that the network bends is not. s = height |p|.
    """

    name = 'camera_height'
    is_prompt = True
    systematic_sigma = 0.08  # of the network: scale of the ground against everything else

    def __init__(self) -> None:
        self._grid: tuple[Camera, int, Array] | None = None

    def reset(self) -> None:
        """Do nothing: this source has no state."""

    def measure(self, view: ScaleView) -> ScaleMeasurement | str:
        """Measure on one frame, or return the reason why that is not possible."""
        height_m, up = view.extrinsics.camera_height_m, view.extrinsics.up
        if height_m is None:
            return 'the height of the camera is not known'
        down = -(_LEVEL_UP if up is None else up)
        step, rays = self._rays(view.camera)
        depth = view.depth[::step, ::step].reshape(-1).astype(np.float64)
        with np.errstate(invalid='ignore'):
            usable = np.isfinite(depth) & (depth > 0)
            usable &= rays @ down > _MIN_DIP * np.linalg.norm(rays, axis=1)
        points = rays[usable] * depth[usable][:, None]
        if len(points) < _MIN_POINTS:
            return 'too little is seen below the horizon'
        found = _fit_ground(points, down)
        if found is None:
            return 'no level ground is seen'
        plane, variance, support = found
        variance += _GROUND_SIGMA**2
        log_scale = math.log(height_m * float(np.linalg.norm(plane)))
        return ScaleMeasurement(self.name, log_scale, variance, support)

    def _rays(self, camera: Camera) -> tuple[int, Array]:
        """Step of a coarse pixel grid, and its rays (N, 3) with Z = 1."""
        if self._grid is None or self._grid[0] != camera:
            step = max(1, camera.width // _COARSE_COLUMNS)
            flat = camera.rays()[::step, ::step].reshape(-1, 2)
            self._grid = camera, step, np.column_stack([flat, np.ones(len(flat))])
        return self._grid[1:]


class LidarSource:
    """Compares depth with the lidar points that project into the image.

    s = median(z / Z) over at least 200 points, weighted so that image regions count equally
    (`Strata`) however densely the lidar scans them. Points that are occluded in the camera's view
    are too few to move a median.
    """

    name = 'lidar'
    is_prompt = True
    systematic_sigma = 0.02  # mounting, time between scan and image, region that is scanned

    def reset(self) -> None:
        """Do nothing: this source has no state."""

    def measure(self, view: ScaleView) -> ScaleMeasurement | str:
        """Measure on one frame, or return the reason why that is not possible."""
        found = _project_lidar(view)
        if isinstance(found, str):
            return found
        z, row, column = found
        depth = view.depth[row, column]
        ratios = np.log(z / depth)
        log_scale, variance = Strata(view.depth).median(ratios, np.ones(len(ratios)), row, depth)
        return ScaleMeasurement(self.name, log_scale, variance, len(ratios))

    def sample(self, view: ScaleView) -> Samples | str:
        """The points on pixels where the network gives something, or why there are none."""
        found = _project_lidar(view, positive=False)
        if isinstance(found, str):
            return found
        z, row, column = found
        return Samples(1.0 / z, _LIDAR_SIGMA / z, row, column)


def _project_lidar(
    view: ScaleView, *, positive: bool = True
) -> tuple[Array, NDArray[np.intp], NDArray[np.intp]] | str:
    """Z in metres, row and column (N,) of the points on known depth, or why they are too few.

    With `positive` depth is known where it is above 0, else wherever it is finite.
    """
    T_camera_lidar = view.extrinsics.T_camera_lidar
    if T_camera_lidar is None:
        return 'the pose of the lidar is not known'
    if view.lidar is None:
        return 'no cloud near the stamp of the image'
    step = max(1, len(view.lidar) // _MAX_POINTS)
    points = transform(T_camera_lidar, view.lidar[::step])
    points = points[np.isfinite(points).all(axis=1)]
    middle = float(np.median(np.abs(points).max(axis=1))) if len(points) else 0.0
    if middle > _MAX_MEDIAN_M:
        return f'half of the points are {middle:.0f} m away and more; are they in millimetres?'
    with np.errstate(invalid='ignore'):
        column, row = np.rint(view.camera.project(points)).T
        inside = (points[:, 2] > 0) & (column >= 0) & (column < view.camera.width)
        inside &= (row >= 0) & (row < view.camera.height)
    z, column, row = points[inside, 2], column[inside].astype(np.intp), row[inside].astype(np.intp)
    depth = view.depth[row, column]
    known = np.isfinite(depth)
    if positive:
        known &= depth > 0
    if np.count_nonzero(known) < _MIN_POINTS:
        hint = _ASTRAY if len(points) >= _MIN_POINTS and not len(z) else ''
        return (
            f'only {np.count_nonzero(known)} points fall on known depth, {_MIN_POINTS} are '
            f'needed ({len(z)} of {len(points)} are in the picture{hint})'
        )
    return z[known], row[known], column[known]


class Strata:
    """Post-stratification: regions of similar depth and image row weighted by their pixels.

    Corners and scan lines are no random sample of the pixels, and the errors of the network differ
    between near and far, ground and objects: each region counts by its pixels of known depth.

    Args:
        values: (H, W) what the network gives; pixels that are not finite are unknown.
        edges: Between regions; those of depth by default, for which values above 0 are known.
    """

    _ROWS = 6
    _LOG_EDGES = 0.05 * np.exp(0.5 * np.arange(1, 24))  # metres

    def __init__(self, values: Map, edges: Array | None = None) -> None:
        step = max(1, values.shape[1] // _COARSE_COLUMNS)
        self._height = values.shape[0]
        self._edges = self._LOG_EDGES if edges is None else edges
        coarse = values[::step, ::step]
        rows = np.broadcast_to(np.arange(coarse.shape[0])[:, None] * step, coarse.shape)
        known = np.isfinite(coarse)
        if edges is None:
            known &= coarse > 0
        self._pixels = np.bincount(
            self._index(rows[known], coarse[known]),
            minlength=self._ROWS * (len(self._edges) + 1),
        ).astype(np.float64)

    def _index(self, row: NDArray, values: NDArray) -> NDArray[np.intp]:
        band = (row * (self._ROWS / self._height)).astype(np.intp).clip(0, self._ROWS - 1)
        step = np.searchsorted(self._edges, values, side='right')
        index: NDArray[np.intp] = band * (len(self._edges) + 1) + step
        return index

    def balance(self, weights: Array, row: NDArray, values: NDArray) -> tuple[Array, float]:
        """Weights (N,) that make regions count by their pixels, of sum 1, and the loss of others.

        The second is the share of pixels in regions without samples, over the number of regions
        with some: what it adds to the variance of a mean beside the squares of the weights.
        """
        part = self._index(row, values)
        total = np.bincount(part, weights, minlength=len(self._pixels))
        # a region with one sample of little weight must not stand for all of its pixels
        represented = self._pixels * total / (total + 3.0 * weights.max())
        balanced = weights * (represented / np.maximum(total, 1e-12))[part]
        unseen = 1.0 - represented.sum() / self._pixels.sum()
        parts = represented.sum() ** 2 / np.sum(represented**2)
        return balanced / balanced.sum(), float(unseen / parts)

    def median(
        self, values: Array, weights: Array, row: NDArray, depth: Map
    ) -> tuple[float, float]:
        """Stratified weighted median of samples at these rows and depths, and its variance.

        The variance accounts for the number of samples and for regions without any.
        """
        balanced, unseen = self.balance(weights, row, depth)
        middle = weighted_median(values, balanced)
        spread = 1.4826 * weighted_median(np.abs(values - middle), balanced)
        chance = 0.5 * math.pi * spread**2 * (np.sum(balanced**2) + unseen)
        return middle, max(float(chance), MIN_SIGMA**2)


def _triangulate_ratios(pair: _Pair, depth: Map) -> tuple[float, float, int] | None:
    """ln s, its variance and the number of corners; None where the images do not suffice."""
    start, end, full, shrink = _follow(pair, depth.shape)
    z = depth[full[:, 1], full[:, 0]].astype(np.float64)
    usable = np.isfinite(z) & (z > 0)
    start, end, z = start[usable], end[usable], z[usable]
    if len(z) < _MIN_TRACKS:
        return None
    camera = pair.working_camera
    motion = _solve_motion(camera.backproject(end, z), start.astype(np.float64), camera.K)
    if motion is None:
        return None
    # The start prevails where the images carry no information.
    known = pair.T_key_present
    began = motion if known is None else (known[:3, :3], known[:3, 3])
    rays = _Rays.refined(start, end, camera, began, pair.moved_m)
    # In metres of odometry; the length in the network's unit gives the guess of s.
    guess = pair.moved_m / float(np.linalg.norm(motion[1]))
    expected = rays.turned * (guess * z)[:, None] + rays.translation
    with np.errstate(invalid='ignore', divide='ignore'):
        parallax = camera.fx * np.linalg.norm(
            expected[:, :2] / expected[:, 2:] - rays.turned[:, :2] / rays.turned[:, 2:], axis=1
        )
        across = np.cross(rays.before, rays.turned)
        square = np.maximum(np.sum(across**2, axis=1), 1e-18)
        found = -np.sum(across * np.cross(rays.before, rays.translation), axis=1) / square
        # Behind the camera: for the median the same as infinitely far.
        ratios = np.where(found > 0, np.log(np.maximum(found, 1e-9) / z), 10.0)
        chosen = (parallax >= _MIN_PARALLAX_PX) & (np.abs(rays.off_px) <= _MAX_EPIPOLAR_PX)
    if np.count_nonzero(chosen) < _MIN_TRACKS:
        return None
    weights = 1.0 / (DEPTH_SIGMA**2 + (_TRACK_SIGMA_PX / parallax[chosen]) ** 2)
    log_scale, variance = Strata(depth).median(
        ratios[chosen], weights, end[chosen, 1] / shrink, z[chosen]
    )
    return log_scale, variance, int(np.count_nonzero(chosen))


def _triangulate_samples(pair: _Pair, size: tuple[int, int]) -> Samples | str:
    """Corners with their 1/Z from the motion alone, or why the images do not suffice.

    1/Z is linear in the tracks: before x (turned + t / Z) = 0, by least squares
    1/Z = -(before x turned) . (before x t) / |before x t|^2, and unbiased however far they are.
    """
    start, end, full, _ = _follow(pair, size)
    if len(end) < _MIN_TRACKS:
        return 'too few corners could be followed'
    camera, known = pair.working_camera, pair.T_key_present
    if known is None:
        cv2.setRNGSeed(0)  # deterministic
        found = find_epipolar_motion(end, start, camera.K, _MAX_EPIPOLAR_PX)
        if found is None or np.count_nonzero(found.agreeing) < _MIN_TRACKS:
            return 'the images tell no motion'
        began = found.rotation, found.direction
    else:
        began = known[:3, :3], known[:3, 3]
    rays = _Rays.refined(start, end, camera, began, pair.moved_m)
    if known is not None:
        cosine = float(rays.translation @ known[:3, 3]) / pair.moved_m**2
        astray = math.acos(min(1.0, max(-1.0, cosine)))
        if astray > _MAX_ASTRAY:
            return (
                f'the images move {math.degrees(astray):.0f} degrees off the way that odometry '
                'says: is the pose of the camera on the robot right?'
            )
    across = np.cross(rays.before, rays.turned)
    along = np.cross(rays.before, rays.translation)
    length = np.maximum(np.linalg.norm(along, axis=1), 1e-9)
    inverse = -np.sum(across * along, axis=1) / length**2
    sigma = _TRACK_SIGMA_PX / camera.fx / length
    chosen = (np.abs(rays.off_px) <= _MAX_EPIPOLAR_PX) & (inverse > -3.0 * sigma)
    if np.count_nonzero(chosen) < max(_MIN_TRACKS, len(end) // 2):
        return 'too few corners move as odometry says'
    column, row = full[chosen].T
    return Samples(inverse[chosen], sigma[chosen], row, column, pair.log_variance)


def _follow(pair: _Pair, size: tuple[int, ...]) -> tuple[Map, Map, NDArray[np.intp], float]:
    """Corners before and now (N, 2) in the working image, their pixels (N, 2) of the view.

    And the factor from the view to the working image.
    """
    start, end, _ = _TRACKER.follow(pair.key.grey, pair.present.grey, _TRACKER.find(pair.key.grey))
    height, width = size
    shrink = pair.present.grey.shape[1] / width
    full = np.rint((end + 0.5) / shrink - 0.5).astype(np.intp)
    inside = (full >= 0).all(axis=1) & (full[:, 0] < width) & (full[:, 1] < height)
    return start[inside], end[inside], full[inside], shrink


@dataclass(frozen=True)
class _Rays:
    """Tracks as rays (N, 3) of the earlier frame, with the refined motion between the frames.

    `before` are those of the earlier frame, `turned` those of the later one turned into it,
    `translation` (3,) metres, `off_px` (N,) the distance to epipolar lines.
    """

    before: Array
    turned: Array
    translation: Array
    off_px: Array

    @classmethod
    def refined(
        cls, start: Map, end: Map, camera: Camera, began: tuple[Array, Array], moved_m: float
    ) -> _Rays:
        """From corners (N, 2) and a first guess of rotation and translation."""
        before, now = _rays_of(start, camera), _rays_of(end, camera)
        rotation, direction = refine_motion(
            before, now, *began, lambda off: _loss_width(off, camera.fx), _START_INFORMATION
        )
        with np.errstate(invalid='ignore', divide='ignore'):
            off = epipolar_distance(before, now, rotation, direction) * camera.fx
        return cls(before, now @ rotation.T, direction * moved_m, off)


def _solve_motion(points: Array, pixels: Array, K: Array) -> tuple[Array, Array] | None:
    """PnP with RANSAC: rotation and translation from points (N, 3) to pixels (N, 2), or None."""
    cv2.setRNGSeed(0)  # deterministic
    solved, rotation, translation, inliers = cv2.solvePnPRansac(
        points, pixels, K, None, iterationsCount=200, reprojectionError=2.0, confidence=0.999
    )
    if not solved or inliers is None or len(inliers) < max(_MIN_TRACKS, len(points) // 2):
        return None
    if not float(np.linalg.norm(translation)) > 0:
        return None
    return cv2.Rodrigues(rotation)[0], translation.ravel()


def _loss_width(off: Array, focal_px: float) -> float:
    """Twice the robust standard deviation of distances (N,) to epipolar lines."""
    sigma = max(1.4826 * float(np.median(np.abs(off))), 0.5 * _TRACK_SIGMA_PX / focal_px)
    return 2.0 * sigma


def _rays_of(pixels: Map, camera: Camera) -> Array:
    """Rays (N, 3) with Z = 1 of pixels (N, 2) of a rectified camera."""
    return camera.backproject(pixels, np.ones(len(pixels)))


def _make_key(view: ScaleView) -> _Key:
    assert view.odometry is not None, 'views without odometry are not measured'
    shrink = min(1.0, _WORKING_WIDTH / view.camera.width)
    grey = _grey(view.rgb, shrink)
    return _Key(view.stamp_ns, grey, view.camera, view.odometry, view.extrinsics.T_body_camera)


def _body_motion(key: _Key, view: ScaleView) -> tuple[Array, float]:
    """Motion (4, 4) of the camera, else of the body, and the lever arm to allow for then."""
    assert view.odometry is not None, 'views without odometry are not measured'
    before, now = key.odometry, view.odometry
    T_before, T_now = key.T_body_camera, view.extrinsics.T_body_camera
    lever_arm_m = _ASSUMED_LEVER_ARM_M
    if T_before is not None and T_now is not None:
        before, now, lever_arm_m = before @ T_before, now @ T_now, 0.0
    return relative(before, now), lever_arm_m


def _grey(rgb: NDArray[np.uint8], shrink: float) -> NDArray[np.uint8]:
    """Grey image, reduced, with equalised contrast so that dark road has corners too."""
    grey: NDArray[np.uint8] = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if shrink < 1.0:
        grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return cv2.createCLAHE(clipLimit=4.0, tileGridSize=(8, 8)).apply(grey)


def _fit_ground(points: Array, down: Array) -> tuple[Array, float, int] | None:
    """Ground plane p with p . X = 1 of points (N, 3), variance of ln |p|, number of inliers.

    None where too few points lie on it, it is not level, or the points do not get farther where
    the plane does, as those of a wall. Errors of ln Z are correlated between neighbours: all
    points together count as 25.
    """
    heights = points @ down  # all above 0, for the rays look down
    logs = np.log(heights)
    first = float(logs.min())
    counts = np.bincount(((logs - first) / 0.05).astype(np.intp)).astype(np.float64)
    counts = np.convolve(counts, np.ones(5), 'same')
    plane = down / math.exp(first + 0.05 * (int(np.argmax(counts)) + 0.5))
    level = np.eye(3) - np.outer(down, down)
    width = 0.2
    for _ in range(6):
        off = points @ plane - 1.0
        weights = 1.0 / (1.0 + (off / width) ** 2) ** 2
        weights *= _GROUND_PARTS / DEPTH_SIGMA**2 / weights.sum()
        weighted = points * weights[:, None]
        stiffness = level / (float(plane @ plane) * _MOUNTING_SIGMA**2)
        normal = weighted.T @ points + stiffness
        plane = np.linalg.solve(normal, weighted.sum(axis=0))
        width = max(0.05, 2.2 * float(np.median(np.abs(off).clip(max=0.4))))
    level_part = points @ plane
    on = np.abs(level_part - 1.0) < DEPTH_SIGMA
    count = int(np.count_nonzero(on))
    tilt = math.atan2(float(np.linalg.norm(level @ plane)), float(down @ plane))
    if count < max(_MIN_POINTS, _MIN_GROUND * len(points)) or tilt > _MAX_TILT:
        return None
    seen = np.log(points[on, 2])
    expected = seen - np.log(level_part[on])
    expected -= expected.mean()
    if seen @ expected < _MIN_SLOPE * (expected @ expected):
        return None
    square = float(plane @ plane)
    variance = float(plane @ np.linalg.solve(normal, plane)) / square**2
    return plane, variance, count
