"""Camera: intrinsics that follow every crop, resize, zoom and flip.

Lens models are in `distortion`; `preprocess` and `warp` sample images. Formulas: Hartley and
Zisserman, Multiple View Geometry, chapter 6, and the CameraInfo definition of ROS (K for raw
images, R and P for rectified ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
import math

import numpy as np
import numpy.typing as npt

from psd_depth_ros.errors import CalibrationError
from psd_depth_ros.geometry.distortion import Distortion

Array = npt.NDArray[np.float64]
Intrinsics = tuple[float, float, float, float]
Matrix3 = tuple[tuple[float, float, float], ...]

MAX_SIDE = 16384
# Skew over fx: 0.25 slants the columns by 14 degrees.
_MAX_SKEW = 0.25
_MIN_SHIFT_PX = 1 / 64


@dataclass(frozen=True)
class Camera:
    """A pinhole camera with an optional lens model and an optional rectified view.

    `fx fy cx cy` are pixels of the raw image (K) and `skew` is `K[0, 1]`; the rectified view has
    no skew. `rectification` rotates the raw optical frame into the rectified one (R) and
    `rectified_intrinsics` are `fx fy cx cy` of the rectified view (P[:3, :3]); both None where
    the raw view is kept.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: Distortion | None = None
    rectification: Matrix3 | None = None
    rectified_intrinsics: Intrinsics | None = None
    skew: float = 0.0

    def __post_init__(self) -> None:
        """Refuse sizes and intrinsics that no camera can have."""
        if not (1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE):
            raise CalibrationError(
                f'camera size is {self.width}x{self.height}, expected sides of 1 to {MAX_SIDE} '
                'pixels; check width and height of the CameraInfo or camera.yaml'
            )
        _check_intrinsics('K', (self.fx, self.fy, self.cx, self.cy))
        if not abs(self.skew) <= _MAX_SKEW * self.fx:
            raise CalibrationError(
                f'K has a skew of {self.skew:g} px beside fx {self.fx:g}: no camera has pixels so '
                'slanted; calibrate again, with CALIB_FIX_SKEW where the calibrator has it'
            )
        if self.rectified_intrinsics is not None:
            _check_intrinsics('P', self.rectified_intrinsics)
        if self.rectification is not None:
            _check_rotation(np.asarray(self.rectification))

    @classmethod
    def from_K(
        cls,
        K: npt.ArrayLike,
        width: int,
        height: int,
        distortion: Distortion | Sequence[float] | None = None,
    ) -> Camera:
        """Make a camera from a 3x3 matrix in pixels.

        `distortion` is a `Distortion`, or coefficients: 4 or 5 mean plumb_bob, 8 mean
        rational_polynomial. A skew that moves no pixel by 1/64 px is left out, as are lenses that
        change nothing. Raises CalibrationError for a K that is not a finite upper-triangular
        camera matrix, and with `uncalibrated` set where K is all zero.
        """
        matrix = np.asarray(K, dtype=np.float64)
        if matrix.shape != (3, 3):
            raise CalibrationError(f'K has shape {matrix.shape}, expected (3, 3)')
        if matrix[0, 0] == 0:
            raise CalibrationError(
                'K[0] is 0, which marks an uncalibrated camera; calibrate it (camera_calibration) '
                'and publish its CameraInfo',
                uncalibrated=True,
            )
        if not np.allclose(matrix[[1, 2, 2, 2], [0, 0, 1, 2]], [0, 0, 0, 1], atol=1e-9):
            raise CalibrationError(
                f'K is {matrix.tolist()}, expected [[fx, skew, cx], [0, fy, cy], [0, 0, 1]]'
            )
        if distortion is not None and not isinstance(distortion, Distortion):
            distortion = Distortion.from_coefficients(distortion)
        if distortion is not None and distortion.is_zero:
            distortion = None
        fx, cx, fy, cy = (float(matrix[i, j]) for i, j in ((0, 0), (0, 2), (1, 1), (1, 2)))
        skew = float(matrix[0, 1])
        camera = cls(int(width), int(height), fx, fy, cx, cy, distortion, skew=skew)
        reach = max(cy + 0.5, camera.height - 0.5 - cy) / fy
        return replace(camera, skew=0.0) if abs(skew) * reach < _MIN_SHIFT_PX else camera

    @property
    def K(self) -> Array:
        """The 3x3 camera matrix of the raw image, pixels."""
        return np.array([[self.fx, self.skew, self.cx], [0, self.fy, self.cy], [0, 0, 1]])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    @property
    def is_rectified(self) -> bool:
        """Whether the raw image already is the rectified one: no lens model, R = I, P = K."""
        return (
            self.distortion is None
            and self.skew == 0.0
            and self.rectification is None
            and self.rectified_intrinsics in (None, (self.fx, self.fy, self.cx, self.cy))
        )

    def rectified(self) -> Camera:
        """The camera of the rectified view at the same size: P where there is one, else K."""
        intrinsics = self.rectified_intrinsics or (self.fx, self.fy, self.cx, self.cy)
        return Camera(self.width, self.height, *intrinsics)

    def crop(self, x: float, y: float, width: int, height: int) -> Camera:
        """The camera of the window whose top-left pixel centre is (x, y)."""
        return self._mapped(1.0, 1.0, -x, -y, width, height)

    def resize(self, width: int, height: int) -> Camera:
        """The camera of the whole image resized, pixel centres moving by s (c + 0.5) - 0.5."""
        sx, sy = width / self.width, height / self.height
        return self._mapped(sx, sy, 0.5 * sx - 0.5, 0.5 * sy - 0.5, width, height)

    def zoom(self, scale: float, x: float, y: float, width: int, height: int) -> Camera:
        """The camera of a patch: resize by `scale`, then crop at (x, y) of the resized image.

        K' = [[s fx, 0, s (cx + 1/2) - 1/2 - x], ...] (PSD patch branch, half-pixel aware).
        """
        shift = 0.5 * scale - 0.5
        return self._mapped(scale, scale, shift - x, shift - y, width, height)

    def flip(self) -> Camera:
        """The camera of the image mirrored left to right; only for rectified cameras."""
        if not self.is_rectified:
            raise CalibrationError('only a rectified camera can be mirrored; rectify it first')
        return replace(self, cx=self.width - 1 - self.cx, rectified_intrinsics=None)

    def canonical_ratio(self, canonical_focal_px: float) -> float:
        """Factor from canonical depth Z' to Z: fx / f_c at this size."""
        return self.fx / canonical_focal_px

    def rays(self) -> Array:
        """Directions (x/z, y/z) of every pixel of the rectified view, (H, W, 2)."""
        view = self.rectified()
        x = (np.arange(self.width) - view.cx) / view.fx
        y = (np.arange(self.height) - view.cy) / view.fy
        return np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)

    def project(self, points: npt.ArrayLike) -> Array:
        """Pixels (N, 2) of points (N, 3) in the raw camera frame, metres; NaN behind it."""
        points = np.asarray(points, dtype=np.float64)
        z = np.where(points[:, 2] > 0, points[:, 2], np.nan)
        x, y = points[:, 0] / z, points[:, 1] / z
        if self.distortion is not None:
            x, y = self.distortion.distort(x, y)
        return np.stack([self.fx * x + self.skew * y + self.cx, self.fy * y + self.cy], axis=1)

    def backproject(self, pixels: npt.ArrayLike, depth_m: npt.ArrayLike) -> Array:
        """Points (N, 3) in metres of raw pixels (N, 2) at depths (N,) along Z."""
        x, y = self.unproject_linearly(pixels).T
        if self.distortion is not None:
            x, y = self.distortion.undistort(x, y)
        z = np.asarray(depth_m, dtype=np.float64)
        return np.stack([x * z, y * z, z], axis=1)

    def unproject_linearly(self, pixels: npt.ArrayLike) -> Array:
        """Points (N, 2) of raw pixels (N, 2) on the image plane at distance 1, lens included."""
        pixels = np.asarray(pixels, dtype=np.float64)
        y = (pixels[:, 1] - self.cy) / self.fy
        x = (pixels[:, 0] - self.cx - self.skew * y) / self.fx
        return np.stack([x, y], axis=1)

    def _mapped(
        self, sx: float, sy: float, tx: float, ty: float, width: int, height: int
    ) -> Camera:
        """Apply u' = sx u + tx, v' = sy v + ty to both the raw and the rectified intrinsics."""

        def moved(values: Intrinsics) -> Intrinsics:
            fx, fy, cx, cy = values
            return sx * fx, sy * fy, sx * cx + tx, sy * cy + ty

        fx, fy, cx, cy = moved((self.fx, self.fy, self.cx, self.cy))
        view = self.rectified_intrinsics
        return replace(
            self,
            width=width,
            height=height,
            fx=fx,
            fy=fy,
            cx=cx,
            cy=cy,
            skew=sx * self.skew,
            rectified_intrinsics=None if view is None else moved(view),
        )


def _check_intrinsics(name: str, intrinsics: Intrinsics) -> None:
    fx, fy, cx, cy = intrinsics
    if not all(math.isfinite(value) for value in intrinsics):
        raise CalibrationError(
            f'{name} holds a value that is not finite (fx {fx}, fy {fy}, cx {cx}, cy {cy}); '
            'expected pixels; calibrate the camera again'
        )
    if fx <= 0 or fy <= 0:
        raise CalibrationError(
            f'{name} has focal lengths fx {fx:g}, fy {fy:g}, expected positive pixels'
        )


def _check_rotation(matrix: Array) -> None:
    good = matrix.shape == (3, 3) and np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3)
    if not good or np.linalg.det(matrix) < 0:
        raise CalibrationError(
            f'the rectification R is {matrix.tolist()}, expected a 3x3 rotation matrix; publish '
            'the identity (or zeros) where there is no stereo pair'
        )
