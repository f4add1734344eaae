"""Measurements of the metric scale: from odometry, from the camera's height, from a lidar.

Each source looks at frames of a rectified view and says, now and then, by which factor its depth
must be multiplied to be metres. Fusing measurements over time is left to `scale`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
import math

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.geometry import Camera, Extrinsics
from psd_depth_ros.geometry.pose import relative, rotation_vector, transform

Array = NDArray[np.float64]
Map = NDArray[np.float32]

MIN_TRANSLATION_M = 0.2
_MAX_GAP_NS = 5_000_000_000
_PATIENCE_NS = 500_000_000
_REST_NS = 300_000_000  # tracking costs as much as a small network: thrice a second at most
_WORKING_WIDTH = 640
_CORNERS = 400
_MIN_TRACKS = 40
_MIN_FLOW_PX = 2.0
_MIN_NOISE_PX2 = 0.1**2
_ASSUMED_LEVER_ARM_M = 1.5
_MIN_POINTS = 200
_NORMAL_GRID = 96  # columns of the coarse grid on which ground normals are taken
_UP_COSINE = math.cos(math.radians(10.0))
_MAX_HEIGHT_SPREAD = 0.3
_LEVEL_UP = np.array([0.0, -1.0, 0.0])


@dataclass(frozen=True)
class ScaleMeasurement:
    """ln s and its variance as one source sees it, from so many points."""

    source: str
    log_scale: float
    variance: float
    support: int

    def scaled(self, factor: float) -> ScaleMeasurement:
        """Same measurement for depth that had not been multiplied by `factor`."""
        return replace(self, log_scale=self.log_scale + math.log(factor))


@dataclass(frozen=True)
class ScaleView:
    """One rectified frame: image (H, W, 3), depth (H, W) in the unit to be scaled, and the rest.

    `odometry` is the pose of the moving frame in a fixed one, `lidar` (N, 3) points in the frame
    of the lidar; None where there is none. `extrinsics` are those of the rectified view.
    """

    stamp_ns: int
    rgb: NDArray[np.uint8]
    depth: Map
    camera: Camera
    odometry: Array | None = None
    lidar: Map | None = None
    extrinsics: Extrinsics = field(default_factory=Extrinsics)


@dataclass(frozen=True)
class _SeenMotion:
    """Length of the camera's motion in the depth's unit, variance of its logarithm, tracks."""

    length: float
    variance: float
    tracks: int


class OdometrySource:
    """Compares how far odometry moved with how far the picture says the camera moved.

    Corners of an earlier frame, lifted to 3-D by its depth, are tracked into the present frame
    (KLT, forth and back); PnP with RANSAC gives the camera's motion in the unit of the depth, and
    s = |t_odometry| / |t_camera| once odometry has moved 0.2 m.

    The lengths of both motions only agree where camera and body move alike. `T_body_camera` of
    both views makes that exact. Without it, a turn by an angle a moves a camera mounted off the
    turning point by up to its lever arm times a; 1.5 m is assumed for that and widens the
    variance.
    """

    def __init__(self, sigma: float) -> None:
        self._variance = sigma**2
        self.reset()

    def reset(self) -> None:
        """Forget the earlier frame."""
        self._key: ScaleView | None = None
        self._measured_ns: int | None = None

    def measure(self, view: ScaleView) -> ScaleMeasurement | None:
        """Compare with the earlier frame once the base has moved; None otherwise."""
        if view.odometry is None:
            return None
        key = self._key
        if key is None or not self._is_comparable(key, view):
            self._key = view if self._is_rested(view) else None
            return None
        moved_m, angle, lever_arm_m = _body_motion(key, view)
        if moved_m < MIN_TRANSLATION_M:
            return None
        found = _track_motion(key, view)
        if found is None:
            # Too little seems to have moved yet, or too much: look again, or start from here.
            self._key = key if view.stamp_ns - key.stamp_ns < _PATIENCE_NS else view
            return None
        self._key, self._measured_ns = None, view.stamp_ns
        variance = self._variance + found.variance + (lever_arm_m * angle / moved_m) ** 2
        log_scale = math.log(moved_m / found.length)
        return ScaleMeasurement('odometry', log_scale, variance, found.tracks)

    def _is_comparable(self, key: ScaleView, view: ScaleView) -> bool:
        """Whether the two may show the same things."""
        return key.camera == view.camera and 0 <= view.stamp_ns - key.stamp_ns <= _MAX_GAP_NS

    def _is_rested(self, view: ScaleView) -> bool:
        """Whether the last measurement is long enough ago."""
        last = self._measured_ns
        return last is None or not 0 <= view.stamp_ns - last < _REST_NS


class CameraHeightSource:
    """Compares the known height of the camera with that above the ground it sees.

    Ground is what lies in the lower half of the picture, below the camera, with a normal within
    10 degrees of `extrinsics.up`, that of a level camera where it is not known.
    s = h / median(|n . X|). The error grows with that of the pitch.
    """

    def __init__(self, sigma: float) -> None:
        self._variance = sigma**2

    def reset(self) -> None:
        """Nothing is kept from frame to frame."""

    def measure(self, view: ScaleView) -> ScaleMeasurement | None:
        """Scale of one frame; None where too little ground is seen, or it is too uneven."""
        height_m, up = view.extrinsics.camera_height_m, view.extrinsics.up
        if height_m is None:
            return None
        up = _LEVEL_UP if up is None else up
        points, normals = _coarse_surface(view)
        normals *= np.sign(normals @ up)[..., None]  # towards the sky
        heights = -np.sum(normals * points, axis=-1)
        with np.errstate(invalid='ignore'):
            ground = (normals @ up > _UP_COSINE) & (heights > 0)
        heights = heights[ground]
        if len(heights) < _MIN_POINTS:
            return None
        low, middle, high = np.percentile(heights, (25, 50, 75))
        if (high - low) / middle > _MAX_HEIGHT_SPREAD:
            return None
        log_scale = math.log(height_m / middle)
        return ScaleMeasurement('camera_height', log_scale, self._variance, len(heights))


class LidarSource:
    """Compares depth with the points of a lidar where they fall into the picture.

    s = median(z / Z) over at least 200 points; points that the camera sees covered by something
    nearer are too few to move a median.
    """

    def __init__(self, sigma: float) -> None:
        self._variance = sigma**2

    def reset(self) -> None:
        """Nothing is kept from frame to frame."""

    def measure(self, view: ScaleView) -> ScaleMeasurement | None:
        """Scale of one frame; None where fewer than 200 points have a depth to compare."""
        T_camera_lidar = view.extrinsics.T_camera_lidar
        if T_camera_lidar is None or view.lidar is None or len(view.lidar) < _MIN_POINTS:
            return None
        points = transform(T_camera_lidar, view.lidar)
        pixels = view.camera.project(points)
        with np.errstate(invalid='ignore'):
            column, row = np.rint(pixels).T
            inside = (column >= 0) & (column < view.camera.width)
            inside &= (row >= 0) & (row < view.camera.height)
        z = points[inside, 2]
        depth = view.depth[row[inside].astype(np.intp), column[inside].astype(np.intp)]
        known = np.isfinite(depth) & (depth > 0) & np.isfinite(z)
        if np.count_nonzero(known) < _MIN_POINTS:
            return None
        log_scale = float(np.median(np.log(z[known] / depth[known])))
        return ScaleMeasurement('lidar', log_scale, self._variance, int(known.sum()))


def _body_motion(key: ScaleView, view: ScaleView) -> tuple[float, float, float]:
    """Metres and radians that the camera, or else the body, has moved; lever arm to allow for."""
    assert key.odometry is not None, 'views without odometry are never kept'
    assert view.odometry is not None, 'nor measured'
    before, now = key.odometry, view.odometry
    T_before, T_now = key.extrinsics.T_body_camera, view.extrinsics.T_body_camera
    lever_arm_m = _ASSUMED_LEVER_ARM_M
    if T_before is not None and T_now is not None:
        before, now, lever_arm_m = before @ T_before, now @ T_now, 0.0
    motion = relative(before, now)
    angle = float(np.linalg.norm(rotation_vector(motion[:3, :3])))
    return float(np.linalg.norm(motion[:3, 3])), angle, lever_arm_m


def _track_motion(key: ScaleView, view: ScaleView) -> _SeenMotion | None:
    """How the camera moved between two views; None where the picture does not tell."""
    shrink = min(1.0, _WORKING_WIDTH / key.camera.width)
    before, now = (_grey(one.rgb, shrink) for one in (key, view))
    camera = key.camera.resize(before.shape[1], before.shape[0])
    start, end = _track(before, now)
    depth = _depth_at(key, start, shrink)
    usable = np.isfinite(depth) & (depth > 0)
    start, end, depth = start[usable], end[usable], depth[usable]
    if len(start) < _MIN_TRACKS:
        return None
    if float(np.median(np.linalg.norm(end - start, axis=1))) < _MIN_FLOW_PX:
        return None
    return _solve_motion(camera.backproject(start, depth), end.astype(np.float64), camera.K)


def _solve_motion(points: Array, pixels: Array, K: Array) -> _SeenMotion | None:
    """Motion that brings points (N, 3) to pixels (N, 2), agreed on by half of them at least."""
    cv2.setRNGSeed(0)  # the same frames give the same scale
    solved, rotation, translation, inliers = cv2.solvePnPRansac(
        points, pixels, K, None, iterationsCount=200, reprojectionError=2.0, confidence=0.999
    )
    if not solved or inliers is None or len(inliers) < max(_MIN_TRACKS, len(points) // 2):
        return None
    length = float(np.linalg.norm(translation))
    if not length > 0:
        return None
    chosen = inliers.ravel()
    seen, jacobian = cv2.projectPoints(points[chosen], rotation, translation, K, None)
    noise = float(np.mean((seen.reshape(-1, 2) - pixels[chosen]) ** 2))
    # Of tx ty tz, from the least-squares covariance of all six: a far scene says little of t.
    normal = jacobian[:, :6].T @ jacobian[:, :6]
    covariance = max(noise, _MIN_NOISE_PX2) * np.linalg.pinv(normal)[3:, 3:]
    direction = translation.ravel() / length
    variance = float(direction @ covariance @ direction) / length**2
    return _SeenMotion(length, variance, len(chosen))


def _track(before: NDArray[np.uint8], now: NDArray[np.uint8]) -> tuple[Map, Map]:
    """Corners (N, 2) of one grey image and where they are in the next one."""
    corners = cv2.goodFeaturesToTrack(before, _CORNERS, 0.01, 8)
    if corners is None:
        return np.empty((0, 2), np.float32), np.empty((0, 2), np.float32)
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, now, corners, None, maxLevel=4)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(now, before, moved, None, maxLevel=4)
    error = np.linalg.norm(back - corners, axis=-1)
    good = (found.ravel() == 1) & (returned.ravel() == 1) & (error.ravel() < 0.5)
    return corners.reshape(-1, 2)[good], moved.reshape(-1, 2)[good]


def _grey(rgb: NDArray[np.uint8], shrink: float) -> NDArray[np.uint8]:
    """Grey image, shrunk, with contrast evened out so that dark road has corners too."""
    grey: NDArray[np.uint8] = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if shrink < 1.0:
        grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    return cv2.createCLAHE(clipLimit=4.0, tileGridSize=(8, 8)).apply(grey)


def _depth_at(view: ScaleView, pixels: Map, shrink: float) -> Map:
    """Depth (N,) at the nearest pixels of the full image."""
    full = np.rint((pixels + 0.5) / shrink - 0.5).astype(np.intp)
    height, width = view.depth.shape
    return view.depth[full[:, 1].clip(0, height - 1), full[:, 0].clip(0, width - 1)]


def _coarse_surface(view: ScaleView) -> tuple[Array, Array]:
    """Points and unit normals, both (h, w, 3), on a coarse grid of the lower half of a view."""
    step = max(1, view.camera.width // _NORMAL_GRID)
    rays = view.camera.rays()[view.camera.height // 2 :: step, ::step]
    z = view.depth[view.camera.height // 2 :: step, ::step].astype(np.float64)
    z[~np.isfinite(z)] = np.nan
    points = np.concatenate([rays, np.ones((*z.shape, 1))], axis=-1) * z[..., None]
    across = points[1:-1, 2:] - points[1:-1, :-2]
    down = points[2:, 1:-1] - points[:-2, 1:-1]
    normals = np.cross(across, down)
    length = np.linalg.norm(normals, axis=-1, keepdims=True)
    with np.errstate(invalid='ignore', divide='ignore'):
        return points[1:-1, 1:-1], normals / length
