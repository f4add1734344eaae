"""Measurements of the metric scale: from odometry, camera height or lidar.

Each source measures on one rectified frame the factor s from its depth to metres, or says why it
cannot. `scale` filters the measurements over time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.geometry import Camera, Extrinsics
from psd_depth_ros.geometry.pose import relative, rotation_vector, transform
from psd_depth_ros.odometry.essential import epipolar_distance, refine_motion
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
_MIN_POINTS = 200
_ASTRAY = (
    ': the pose of the lidar is wrong, or the frame of the images is not an optical one (z ahead, '
    'y down: REP 103)'
)
_MAX_POINTS = 20_000
_MAX_MEDIAN_M = 1000.0  # a lidar with a larger median uses another unit
_DEPTH_SIGMA = 0.15  # of ln Z at a pixel: error of the network from place to place
_MIN_SIGMA = 0.01  # of ln s: no frame is more precise
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
    `scale.ScaleFilter`.
    """

    source: str
    log_scale: float
    variance: float
    support: int

    def scaled(self, factor: float) -> ScaleMeasurement:
        """The measurement for depth before it was multiplied by `factor`."""
        return replace(self, log_scale=self.log_scale + math.log(factor))


@dataclass(frozen=True)
class ScaleView:
    """One rectified frame with the inputs of the sources.

    `rgb` (H, W, 3); `depth` (H, W) in the unit to be scaled; `odometry` (4, 4) pose of the body in
    the odometry frame; `lidar` (N, 3) points in the lidar frame; None where unknown.
    `extrinsics` are those of the rectified view.
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


class OdometrySource:
    """Compares depth with corners triangulated over the motion of the odometry.

    Corners of an earlier frame are tracked into the present one (KLT with backward check) once
    odometry has moved 0.2 m. Rotation and direction of the motion are refined on the epipolar
    distance of the tracks, which does not depend on the network's depth. The start, which decides
    where the images do not (a wall), is odometry's motion where the mounting is known, else PnP
    with RANSAC on the depth. The length of the motion is odometry's. s is the weighted median of
    triangulated over estimated depth: corners are weighted by their parallax and image regions
    equally (`_Strata`), so that near and far count as with a lidar, and moving objects are
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
        present = _make_key(view)
        start = None if lever_arm_m else motion
        found = _triangulate_ratios(key, present, view.depth, moved_m, start)
        if found is None:
            # Too little or too much motion: try the same earlier frame again, or restart here.
            self._key = key if view.stamp_ns - key.stamp_ns < _PATIENCE_NS else present
            return 'too few corners could be followed'
        self._key, self._measured_ns = None, view.stamp_ns
        log_scale, variance, support = found
        angle = float(np.linalg.norm(rotation_vector(motion[:3, :3])))
        variance += (lever_arm_m * angle / moved_m) ** 2
        return ScaleMeasurement(self.name, log_scale, variance, support)

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
    (`_Strata`) however densely the lidar scans them. Points that are occluded in the camera's view
    are too few to move a median.
    """

    name = 'lidar'
    is_prompt = True
    systematic_sigma = 0.02  # mounting, time between scan and image, region that is scanned

    def reset(self) -> None:
        """Do nothing: this source has no state."""

    def measure(self, view: ScaleView) -> ScaleMeasurement | str:
        """Measure on one frame, or return the reason why that is not possible."""
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
        z, column, row = points[inside, 2], column[inside], row[inside]
        depth = view.depth[row.astype(np.intp), column.astype(np.intp)]
        known = np.isfinite(depth) & (depth > 0)
        if np.count_nonzero(known) < _MIN_POINTS:
            hint = _ASTRAY if len(points) >= _MIN_POINTS and not len(z) else ''
            return (
                f'only {np.count_nonzero(known)} points fall on known depth, {_MIN_POINTS} are '
                f'needed ({len(z)} of {len(points)} are in the picture{hint})'
            )
        row, depth = row[known], depth[known]
        ratios = np.log(z[known] / depth)
        log_scale, variance = _Strata(view.depth).median(ratios, np.ones(len(ratios)), row, depth)
        return ScaleMeasurement(self.name, log_scale, variance, len(ratios))


class _Strata:
    """Post-stratification: regions of similar depth and image row weighted by their pixels.

    Corners and scan lines are no random sample of the pixels, and the errors of the network differ
    between near and far, ground and objects: each region counts by its pixels of known depth.
    """

    _ROWS = 6
    _LOG_STEP = 0.5
    _LOWEST = math.log(0.05)
    _BINS = 24

    def __init__(self, depth: Map) -> None:
        step = max(1, depth.shape[1] // _COARSE_COLUMNS)
        self._height = depth.shape[0]
        coarse = depth[::step, ::step]
        rows = np.broadcast_to(np.arange(coarse.shape[0])[:, None] * step, coarse.shape)
        with np.errstate(invalid='ignore'):
            known = np.isfinite(coarse) & (coarse > 0)
        self._pixels = np.bincount(
            self._index(rows[known], coarse[known]), minlength=self._ROWS * self._BINS
        ).astype(np.float64)

    def _index(self, row: Array, depth: Map) -> NDArray[np.intp]:
        band = (row * (self._ROWS / self._height)).astype(np.intp).clip(0, self._ROWS - 1)
        step = ((np.log(depth) - self._LOWEST) / self._LOG_STEP).astype(np.intp)
        index: NDArray[np.intp] = band * self._BINS + step.clip(0, self._BINS - 1)
        return index

    def median(self, values: Array, weights: Array, row: Array, depth: Map) -> tuple[float, float]:
        """Stratified weighted median of samples at these rows and depths, and its variance.

        The variance accounts for the number of samples and for regions without any.
        """
        part = self._index(row, depth)
        total = np.bincount(part, weights, minlength=len(self._pixels))
        # a region with one sample of little weight must not stand for all of its pixels
        represented = self._pixels * total / (total + 3.0 * weights.max())
        balanced = weights * (represented / np.maximum(total, 1e-12))[part]
        balanced /= balanced.sum()
        middle = weighted_median(values, balanced)
        spread = 1.4826 * weighted_median(np.abs(values - middle), balanced)
        unseen = 1.0 - represented.sum() / self._pixels.sum()
        parts = represented.sum() ** 2 / np.sum(represented**2)
        chance = 0.5 * math.pi * spread**2 * (np.sum(balanced**2) + unseen / parts)
        return middle, max(float(chance), _MIN_SIGMA**2)


def _triangulate_ratios(
    key: _Key, present: _Key, depth: Map, moved_m: float, T_key_present: Array | None
) -> tuple[float, float, int] | None:
    """ln s, its variance and the number of corners; None where the images do not suffice.

    `T_key_present` is the motion of the camera by odometry, None where the mounting is unknown.
    """
    start, end, _ = _TRACKER.follow(key.grey, present.grey, _TRACKER.find(key.grey))
    height, width = depth.shape
    shrink = present.grey.shape[1] / width
    full = np.rint((end + 0.5) / shrink - 0.5).astype(np.intp)
    z = depth[full[:, 1].clip(0, height - 1), full[:, 0].clip(0, width - 1)].astype(np.float64)
    inside = (full >= 0).all(axis=1) & (full[:, 0] < width) & (full[:, 1] < height)
    usable = inside & np.isfinite(z) & (z > 0)
    start, end, z = start[usable], end[usable], z[usable]
    if len(z) < _MIN_TRACKS:
        return None
    camera = present.camera.resize(present.grey.shape[1], present.grey.shape[0])
    motion = _solve_motion(camera.backproject(end, z), start.astype(np.float64), camera.K)
    if motion is None:
        return None
    before, now = _rays_of(start, camera), _rays_of(end, camera)
    began = motion if T_key_present is None else (T_key_present[:3, :3], T_key_present[:3, 3])
    # The start prevails where the images carry no information.
    rotation, translation = refine_motion(
        before, now, *began, lambda off: _loss_width(off, camera.fx), _START_INFORMATION
    )
    # In metres of odometry; the length in the network's unit gives the guess of s.
    guess = moved_m / float(np.linalg.norm(motion[1]))
    translation = translation * moved_m
    turned = now @ rotation.T
    expected = turned * (guess * z)[:, None] + translation
    with np.errstate(invalid='ignore', divide='ignore'):
        parallax = camera.fx * np.linalg.norm(
            expected[:, :2] / expected[:, 2:] - turned[:, :2] / turned[:, 2:], axis=1
        )
        across = np.cross(before, turned)
        square = np.maximum(np.sum(across**2, axis=1), 1e-18)
        found = -np.sum(across * np.cross(before, translation), axis=1) / square
        # Behind the camera: for the median the same as infinitely far.
        ratios = np.where(found > 0, np.log(np.maximum(found, 1e-9) / z), 10.0)
        off = epipolar_distance(before, now, rotation, translation / moved_m) * camera.fx
        chosen = (parallax >= _MIN_PARALLAX_PX) & (np.abs(off) <= _MAX_EPIPOLAR_PX)
    if np.count_nonzero(chosen) < _MIN_TRACKS:
        return None
    weights = 1.0 / (_DEPTH_SIGMA**2 + (_TRACK_SIGMA_PX / parallax[chosen]) ** 2)
    log_scale, variance = _Strata(depth).median(
        ratios[chosen], weights, end[chosen, 1] / shrink, z[chosen]
    )
    return log_scale, variance, int(np.count_nonzero(chosen))


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
        weights *= _GROUND_PARTS / _DEPTH_SIGMA**2 / weights.sum()
        weighted = points * weights[:, None]
        stiffness = level / (float(plane @ plane) * _MOUNTING_SIGMA**2)
        normal = weighted.T @ points + stiffness
        plane = np.linalg.solve(normal, weighted.sum(axis=0))
        width = max(0.05, 2.2 * float(np.median(np.abs(off).clip(max=0.4))))
    level_part = points @ plane
    on = np.abs(level_part - 1.0) < _DEPTH_SIGMA
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
