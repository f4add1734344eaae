"""Lens models: distortion of normalised image coordinates, and its inverse.

Coordinates are normalised (x/z, y/z, no unit), never pixels; `Camera` applies K. The polynomial of
a lens is valid up to the radius where it stops growing; beyond it two rays fall on one pixel, so
rays and pixels there become NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from psd_depth_ros.errors import CalibrationError

Array = NDArray[np.float64]

# Valid numbers of coefficients. `plumb_bob` and `rational_polynomial` are one formula in OpenCV
# and in image_geometry, which distinguish them by the number alone.
_BROWN_COUNTS = (4, 5, 8, 12, 14)
COUNTS = {
    'plumb_bob': _BROWN_COUNTS,
    'rational_polynomial': _BROWN_COUNTS,
    'equidistant': (4,),
}

# tan of 87.1 degrees; no useful pinhole view extends further off the axis.
_MAX_RADIUS = 20.0
_TABLE_SIZE = 4096
_NEWTON_STEPS = 8
_TOLERANCE = 1e-9
_MAX_TILT = 0.7
# Long lenses have large ones, k3 above all; beyond this their products overflow.
_MAX_COEFFICIENT = 1e15


@dataclass(frozen=True)
class Distortion:
    """A lens model and its coefficients, in the order of OpenCV and of `CameraInfo.d`.

    - `plumb_bob`, `rational_polynomial`: k1 k2 p1 p2 [k3 [k4 k5 k6 [s1 s2 s3 s4 [tx ty]]]]
      (OpenCV's `projectPoints`, thin prism and tilted sensor included).
    - `equidistant`: k1 k2 k3 k4 of theta (1 + k1 theta^2 + ...), Kannala & Brandt 2006, OpenCV's
      `fisheye`.

    Raises CalibrationError for an unknown model, a wrong count or a coefficient not finite or
    too large.
    """

    model: str
    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        """Convert the coefficients to a tuple of floats and check them."""
        object.__setattr__(self, 'coefficients', _check(self.model, self.coefficients))

    @classmethod
    def from_coefficients(cls, coefficients: Sequence[float]) -> Distortion:
        """Choose the model by the number: 4 or 5 is plumb_bob, 8 or more rational_polynomial."""
        values = tuple(coefficients)
        return cls('plumb_bob' if len(values) < 8 else 'rational_polynomial', values)

    @property
    def is_zero(self) -> bool:
        """Whether the model is the identity; a fisheye with zero coefficients is not."""
        return self.model != 'equidistant' and not any(self.coefficients)

    @cached_property
    def max_radius(self) -> float:
        """Largest valid undistorted radius (x/z): up to it the radial part grows."""
        if self.model == 'equidistant':
            theta = _smallest_positive_root(_derivative_in_square(self.coefficients))
            limit = float(np.arctan(_MAX_RADIUS))
            return float(np.tan(min(theta, limit)))
        return min(_brown_fold(self._brown), _MAX_RADIUS)

    def distort(self, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        """Distort x/z and y/z, arrays of one shape; NaN beyond `max_radius`."""
        x = np.asarray(x, np.float64)
        y = np.asarray(y, np.float64)
        xd, yd = self._apply(x, y)
        if self._tilt is not None:
            xd, yd = _map(self._tilt, xd, yd)
        outside = ~(np.hypot(x, y) <= self.max_radius)
        return np.where(outside, np.nan, xd), np.where(outside, np.nan, yd)

    def undistort(self, xd: ArrayLike, yd: ArrayLike) -> tuple[Array, Array]:
        """Undistort x/z and y/z, arrays of one shape; NaN where no ray falls.

        A table inverts the radial part; a few Newton steps on both coordinates then reach 1e-9.
        """
        xd = np.asarray(xd, np.float64)
        yd = np.asarray(yd, np.float64)
        if self._tilt is not None:
            xd, yd = _map(np.asarray(np.linalg.inv(self._tilt), np.float64), xd, yd)
        x, y = self._undistort_radially(xd, yd)
        with np.errstate(invalid='ignore', over='ignore', divide='ignore'):
            for _ in range(_NEWTON_STEPS):
                x, y, error = self._newton_step(x, y, xd, yd)
                if not np.any(error > _TOLERANCE):
                    break
            error = np.hypot(*np.subtract(self._apply(x, y), (xd, yd)))
            bad = ~((error < 1e-6) & (np.hypot(x, y) <= self.max_radius))
        return np.where(bad, np.nan, x), np.where(bad, np.nan, y)

    @cached_property
    def _brown(self) -> Array:
        """k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4, padded with zeros."""
        padded = np.zeros(12)
        padded[: min(12, len(self.coefficients))] = self.coefficients[:12]
        return padded

    @cached_property
    def _tilt(self) -> Array | None:
        """Homography of a tilted sensor (OpenCV's computeTiltProjectionMatrix), or None."""
        if not any(self.coefficients[12:]):
            return None
        (cx, cy), (sx, sy) = np.cos(self.coefficients[12:]), np.sin(self.coefficients[12:])
        turn_x = np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
        turn_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
        turn = turn_y @ turn_x
        z = turn[2, 2]
        return np.array([[z, 0, -turn[0, 2]], [0, z, -turn[1, 2]], [0, 0, 1]]) @ turn

    def _radial(self, r: Array) -> Array:
        """Distorted radius of an undistorted radius, without the tangential part."""
        if self.model == 'equidistant':
            theta = np.arctan(r)
            return theta * _series(self.coefficients, theta * theta)
        k1, k2, _, _, k3, k4, k5, k6 = self._brown[:8]
        return r * _series((k1, k2, k3), r * r) / _series((k4, k5, k6), r * r)

    def _apply(self, x: Array, y: Array) -> tuple[Array, Array]:
        """Distort without checking the radius."""
        r = np.hypot(x, y)
        ratio = np.divide(self._radial(r), r, out=np.ones_like(r), where=r > 0)
        if self.model == 'equidistant':
            return x * ratio, y * ratio
        p1, p2, s1, s2, s3, s4 = self._brown[[2, 3, 8, 9, 10, 11]]
        r2, xy = r * r, x * y
        xd = x * ratio + 2 * p1 * xy + p2 * (r2 + 2 * x * x) + r2 * (s1 + s2 * r2)
        yd = y * ratio + 2 * p2 * xy + p1 * (r2 + 2 * y * y) + r2 * (s3 + s4 * r2)
        return xd, yd

    def _undistort_radially(self, xd: Array, yd: Array) -> tuple[Array, Array]:
        """Initial value of `undistort`, inside the valid circle."""
        radii = np.linspace(0.0, self.max_radius, _TABLE_SIZE)
        if self.model == 'equidistant':
            radii = np.tan(np.linspace(0.0, np.arctan(self.max_radius), _TABLE_SIZE))
        rd = np.hypot(xd, yd)
        r = np.interp(rd, self._radial(radii), radii)
        ratio = np.divide(r, rd, out=np.ones_like(rd), where=rd > 0)
        return xd * ratio, yd * ratio

    def _newton_step(self, x: Array, y: Array, xd: Array, yd: Array) -> tuple[Array, Array, Array]:
        """One Newton step towards distort(x, y) = (xd, yd), and the error before it."""
        step = 1e-6
        fx, fy = self._apply(x, y)
        right, left = self._apply(x + step, y), self._apply(x - step, y)
        below, above = self._apply(x, y + step), self._apply(x, y - step)
        a, c = ((p - m) / (2 * step) for p, m in zip(right, left, strict=True))
        b, d = ((p - m) / (2 * step) for p, m in zip(below, above, strict=True))
        ex, ey = fx - xd, fy - yd
        determinant = a * d - b * c
        # Near the maximum the Jacobian is singular: stay, the caller turns the error into NaN.
        determinant = np.where(np.abs(determinant) < 1e-9, np.inf, determinant)
        return (
            x - (d * ex - b * ey) / determinant,
            y - (a * ey - c * ex) / determinant,
            np.hypot(ex, ey),
        )


def _check(model: str, coefficients: Sequence[float]) -> tuple[float, ...]:
    """Coefficients as floats. Raises CalibrationError."""
    if model not in COUNTS:
        raise CalibrationError(
            f'distortion model {model!r} is not known; expected one of '
            f'{", ".join(COUNTS)}. Calibrate with one of these, or rectify upstream and send '
            'an empty D.'
        )
    try:
        values = tuple(float(value) for value in coefficients)
    except (TypeError, ValueError) as error:
        raise CalibrationError(
            f'distortion coefficients of {model} must be numbers, found {coefficients!r}'
        ) from error
    if len(values) not in COUNTS[model]:
        expected = ' or '.join(str(count) for count in COUNTS[model])
        raise CalibrationError(
            f'distortion model {model} needs {expected} coefficients, found {len(values)}: '
            f'{list(values)}. Check D in the camera_info.'
        )
    if not all(abs(value) <= _MAX_COEFFICIENT for value in values):
        raise CalibrationError(
            f'distortion coefficients of {model} must be finite and at most '
            f'{_MAX_COEFFICIENT:g}, found {list(values)}. Calibrate the camera again.'
        )
    if any(abs(value) > _MAX_TILT for value in values[12:]):
        raise CalibrationError(
            f'distortion model {model} has a sensor tilted by {list(values[12:])} radians, '
            f'expected at most {_MAX_TILT:g}. Calibrate without CALIB_TILTED_MODEL.'
        )
    return values


def _map(homography: Array, x: Array, y: Array) -> tuple[Array, Array]:
    """Map points of a plane by a homography."""
    a, b, c = (row[0] * x + row[1] * y + row[2] for row in homography)
    return a / c, b / c


def _series(coefficients: Sequence[float], square: Array) -> Array:
    """1 + c1 s + c2 s^2 + ... by Horner's rule."""
    total = np.zeros_like(square)
    for coefficient in reversed(tuple(coefficients)):
        total = (total + coefficient) * square
    return total + 1.0


def _derivative_in_square(coefficients: Sequence[float]) -> np.polynomial.Polynomial:
    """d/dt of t (1 + c1 t^2 + c2 t^4 + ...) as a polynomial in t^2."""
    terms = [(2 * i + 1) * c for i, c in enumerate((1.0, *coefficients))]
    return np.polynomial.Polynomial(terms)


def _brown_fold(brown: Array) -> float:
    """Radius at which r N(r^2) / D(r^2) stops growing or has a pole."""
    numerator = np.polynomial.Polynomial([1.0, brown[0], brown[1], brown[4]])
    denominator = np.polynomial.Polynomial([1.0, brown[5], brown[6], brown[7]])
    square = np.polynomial.Polynomial([0.0, 1.0])
    slope = numerator * denominator + 2 * square * (
        numerator.deriv() * denominator - numerator * denominator.deriv()
    )
    return min(_smallest_positive_root(slope), _smallest_positive_root(denominator))


def _smallest_positive_root(polynomial_in_square: np.polynomial.Polynomial) -> float:
    """Smallest t > 0 with p(t^2) = 0; infinity without one."""
    roots = polynomial_in_square.trim().roots()
    real = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)]
    return float(np.sqrt(real.min())) if real.size else float('inf')
