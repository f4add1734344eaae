"""Rectified view of a camera: sampling map, visible fraction, choice of another view.

P of a CameraInfo is the default view. A P that does not suit the lens (especially a fisheye)
leaves most of the view without image or discards most of the image; `with_view` chooses a view by
the `alpha` of OpenCV's `getOptimalNewCameraMatrix` and of image_proc, for every lens model.
"""

from __future__ import annotations

from dataclasses import replace
import math
import re

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.errors import CalibrationError
from psd_depth_ros.geometry.camera import Camera

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

# tan of 80 degrees: for rays further off the axis a flat view grows without bound.
_MAX_RADIUS = 5.67
_GRID = (64, 48)
_BORDER = 33
# Visible fraction of the view below which a warning is given.
LITTLE_SEEN = 0.4
# Topic names of image_proc, stereo_image_proc and drivers for rectified images.
_RECTIFIED = re.compile(r'(?:^|[/_])rect(?:ified)?(?=[/_]|$)')


def sampling_map(camera: Camera, view: Camera) -> NDArray[np.float32]:
    """Raw-image position of each pixel of a rectified `view`, (h, w, 2) x, y in pixels.

    NaN where the camera does not see it: behind the lens, beyond the valid radius of the lens
    model, or outside the image, whose edge pixels extend half a pixel beyond their centres.
    """
    rays = view.rays()
    pixels = _raw_pixels(camera, rays.reshape(-1, 2)).reshape(rays.shape)
    inside = _is_inside(camera, pixels)
    pixels = np.clip(pixels, 0.0, (camera.width - 1.0, camera.height - 1.0))
    return np.where(inside[..., None], pixels, np.nan).astype(np.float32)


def view_mask(camera: Camera, view: Camera) -> Mask:
    """Mask (h, w) of the pixels of a rectified `view` that the camera sees."""
    return np.isfinite(sampling_map(camera, view)[..., 0])


def seen_fraction(camera: Camera) -> float:
    """Fraction of the rectified view that the camera sees; the rest has no depth."""
    if camera.is_rectified:
        return 1.0
    view = camera.rectified()
    small = view.resize(min(view.width, _GRID[0]), min(view.height, _GRID[1]))
    return float(view_mask(camera, small).mean())


def kept_fraction(camera: Camera) -> float:
    """Fraction of the raw image inside the rectified view."""
    if camera.is_rectified:
        return 1.0
    small = camera.resize(min(camera.width, _GRID[0]), min(camera.height, _GRID[1]))
    columns, rows = np.meshgrid(np.arange(small.width), np.arange(small.height))
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=1)
    rays = small.backproject(pixels, np.ones(len(pixels)))
    view = small.rectified()
    return float(_is_inside(view, view.project(_turned(camera, rays))).mean())


def with_view(camera: Camera, alpha: float) -> Camera:
    """The camera with a rectified view chosen by `alpha` instead of P.

    0 is the largest view of which every pixel is seen; 1 is the smallest that contains every pixel
    of the image up to 80 degrees off the axis. In between the intrinsics are interpolated, as in
    OpenCV's `getOptimalNewCameraMatrix`; the aspect ratio of the pixels is that of K, as in
    `fisheye.estimateNewCameraMatrixForUndistortRectify`. Without anything to rectify, the view is
    that of K.

    Raises CalibrationError for an alpha outside 0 .. 1, or a lens without a ray in the middle of
    its image.
    """
    if not 0.0 <= alpha <= 1.0:
        raise CalibrationError(f'rectify_alpha is {alpha:g}, expected 0 to 1')
    plain = replace(camera, rectified_intrinsics=None)
    if plain.is_rectified:
        return plain
    inner, outer = _inner_view(plain), _outer_view(plain)
    fx, fy, cx, cy = ((1.0 - alpha) * inner + alpha * outer).tolist()
    return replace(plain, rectified_intrinsics=(fx, fy, cx, cy))


def describe_camera(camera: Camera) -> str:
    """Camera as one line of text."""
    return f'{camera.width}x{camera.height}, {describe_lens(camera)}; {describe_view(camera)}'


def describe_lens(camera: Camera) -> str:
    """K and lens model as text, with what preprocessing corrects."""
    lens = 'none' if camera.distortion is None else camera.distortion.model
    text = (
        f'fx {camera.fx:.2f} fy {camera.fy:.2f} cx {camera.cx:.2f} cy {camera.cy:.2f}, '
        f'distortion {lens}'
    )
    if camera.skew:
        text += f', skew {camera.skew:.2f} px (rectified with it)'
    view = camera.rectified()
    if not are_square(view):
        text += f', pixels {view.fx / view.fy:.2f} : 1 (made square for the network)'
    return text


def describe_view(camera: Camera) -> str:
    """Rectified view as text: visible fraction, and fraction of the image inside it."""
    if camera.is_rectified:
        return 'the image is the rectified view'
    return (
        f'{100 * seen_fraction(camera):.0f} % of the rectified view is seen, '
        f'{100 * kept_fraction(camera):.0f} % of the image is in it'
    )


def are_square(view: Camera) -> bool:
    """Whether the pixels of a rectified view count as square, within 3 %."""
    return abs(math.log(view.fx / view.fy)) < 0.03


def find_doubts(camera: Camera, image_topic: str = '') -> list[str]:
    """Probable mistakes of a usable calibration, each with the next step.

    `image_topic` is the topic of the images, '' where they come from files.
    """
    doubts = []
    if _RECTIFIED.search(image_topic) and not camera.is_rectified:
        doubts.append(
            f'the images of {image_topic} are rectified already by their name, but their '
            'calibration is that of a lens, so they are rectified twice; set image_is_rectified '
            '(--rectified), or take the raw images'
        )
    seen = seen_fraction(camera)
    if seen < LITTLE_SEEN:
        doubts.append(
            f'the camera sees only {100 * seen:.0f} % of its rectified view, the rest has no '
            'depth; choose a view that suits the lens with rectify_alpha (0: only what is seen, '
            '1: the whole image), or calibrate again for another P'
        )
    centres = {'K': (camera.cx, camera.cy)}
    if camera.rectified_intrinsics is not None:
        centres['P'] = camera.rectified_intrinsics[2:]
    for name, (cx, cy) in centres.items():
        across, down = 2 * (cx + 0.5) / camera.width, 2 * (cy + 0.5) / camera.height
        if abs(across - down) < 0.15 * max(across, down, 1.0) and not 0.7 < across < 1.4:
            width, height = across * camera.width, down * camera.height
            doubts.append(
                f'the principal point of {name}, ({cx:.1f}, {cy:.1f}), would suit images of about '
                f'{width:.0f}x{height:.0f}, but these are of {camera.width}x{camera.height}: '
                f'check that {name} is of this image size'
            )
            break
    return doubts


def _is_inside(camera: Camera, pixels: Array) -> Mask:
    """Where pixels (..., 2) lie in the image, edges included; not where they are NaN."""
    x, y = pixels[..., 0], pixels[..., 1]
    return (x >= -0.5) & (x <= camera.width - 0.5) & (y >= -0.5) & (y <= camera.height - 0.5)


def _raw_pixels(camera: Camera, rays: Array) -> Array:
    """Raw pixels (N, 2) of rays (x/z, y/z) of the rectified frame; NaN without one."""
    directions = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
    if camera.rectification is not None:
        # X_rectified = R X_raw, so rows times R give R^T X: back into the raw frame.
        directions = directions @ np.asarray(camera.rectification)
    return camera.project(directions)


def _turned(camera: Camera, rays: Array) -> Array:
    """Rays (N, 3) rotated from the raw to the rectified frame."""
    if camera.rectification is None:
        return rays
    return rays @ np.asarray(camera.rectification).T


def _intrinsics(camera: Camera, fx: float, middle: Array) -> Array:
    """`fx fy cx cy` of a view centred on a ray (x/z, y/z), with the pixel aspect ratio of K."""
    fy = fx * camera.fy / camera.fx
    cx = 0.5 * (camera.width - 1) - fx * middle[0]
    cy = 0.5 * (camera.height - 1) - fy * middle[1]
    return np.array([fx, fy, cx, cy])


def _outer_view(camera: Camera) -> Array:
    """Intrinsics of the smallest view that contains all pixels of the image."""
    columns = np.linspace(-0.5, camera.width - 0.5, _GRID[0] + 1)
    rows = np.linspace(-0.5, camera.height - 0.5, _GRID[1] + 1)
    pixels = np.stack([one.ravel() for one in np.meshgrid(columns, rows)], axis=1)
    rays = camera.backproject(pixels, np.ones(len(pixels)))
    lost = ~np.isfinite(rays[:, 0])
    if lost.any():  # past the widest ray of the lens: the widest one in the same direction
        off = camera.unproject_linearly(pixels[lost])
        limit = _MAX_RADIUS if camera.distortion is None else camera.distortion.max_radius
        off *= (min(limit, _MAX_RADIUS) / np.hypot(*off.T))[:, None]
        rays[lost] = np.concatenate([off, np.ones((len(off), 1))], axis=1)
    x, y, z = _turned(camera, rays).T
    radius = np.hypot(x, y)
    wide = ~(radius <= _MAX_RADIUS * z)
    shrink = np.where(wide, _MAX_RADIUS / np.maximum(radius, 1e-12), 1.0 / np.where(wide, 1.0, z))
    x, y = x * shrink, y * shrink
    width, height = x.max() - x.min(), y.max() - y.min()
    fx = min(camera.width / width, camera.height / height * camera.fx / camera.fy)
    return _intrinsics(camera, fx, np.array([x.max() + x.min(), y.max() + y.min()]) / 2)


def _inner_view(camera: Camera) -> Array:
    """Intrinsics of the largest view of which every pixel is seen.

    Pattern search over the centre of the view, and bisection of its size for each centre. The
    visible region has no holes, so it suffices to check the border.
    """
    middle = np.array([[0.5 * (camera.width - 1), 0.5 * (camera.height - 1)]])
    x, y, z = _turned(camera, camera.backproject(middle, [1.0]))[0]
    middle = np.array([x / z, y / z]) if z > 0 else np.full(2, np.nan)
    border = _border(camera)
    reach = _largest(camera, border, middle, 0.0)
    if not reach > 0.0:
        raise CalibrationError(
            'no ray of the rectified view meets the middle of the image, so no view of only seen '
            'pixels can be chosen; K, D and R do not belong together: calibrate the camera again'
        )
    step = 0.25 * reach
    while step > 1e-4 * reach:
        for move in ((step, 0.0), (-step, 0.0), (0.0, step), (0.0, -step)):
            found = _largest(camera, border, middle + move, 1.0005 * reach)
            if found > reach:
                middle, reach = middle + move, found
                break
        else:
            step *= 0.5
    whole = _border(camera, every=True)
    while not _is_seen(camera, whole * reach + middle):
        reach *= 0.999
    return _intrinsics(camera, 0.5 * camera.width / reach, middle)


def _border(camera: Camera, every: bool = False) -> Array:
    """Border pixels (N, 2) of the view relative to its centre, in half widths."""
    counts = (camera.width, camera.height) if every else (_BORDER, _BORDER)
    x, y = (np.linspace(-1.0, 1.0, max(2, count)) for count in counts)
    x = x * (camera.width - 1) / camera.width
    y = y * (camera.height - 1) / camera.width * camera.fx / camera.fy
    across = [np.stack([x, np.full_like(x, end)], axis=1) for end in (y[0], y[-1])]
    down = [np.stack([np.full_like(y, end), y], axis=1) for end in (x[0], x[-1])]
    return np.concatenate([*across, *down])


def _is_seen(camera: Camera, rays: Array) -> bool:
    return bool(_is_inside(camera, _raw_pixels(camera, rays)).all())


def _largest(camera: Camera, border: Array, middle: Array, beyond: float) -> float:
    """Half width (x/z) of the largest fully visible view about a ray; 0 if below `beyond`."""
    low, high = max(beyond, 1e-6), _MAX_RADIUS
    if low >= high or not _is_seen(camera, border * low + middle):
        return 0.0
    for _ in range(24):
        half = 0.5 * (low + high)
        if _is_seen(camera, border * half + middle):
            low = half
        else:
            high = half
    return low
