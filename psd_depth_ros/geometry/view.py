"""The rectified view of a camera: where its pixels lie, how much is seen, the choice of another.

What P of a CameraInfo says is the default view. A P that does not suit the lens (a fisheye's
above all) leaves most of the view without image, or throws most of the image away; `with_view`
chooses one by the `alpha` of OpenCV's `getOptimalNewCameraMatrix` and of image_proc, for every
lens model. Resampling itself is left to `preprocess`.
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

# tan of 80 degrees: rays further off the axis blow a flat view up without end.
_WIDEST = 5.67
_GRID = (64, 48)
_BORDER = 33
# Less of the view than this being seen is worth a warning.
LITTLE_SEEN = 0.4
# What image_proc, stereo_image_proc and drivers call pictures that are rectified.
_RECTIFIED = re.compile(r'(?:^|[/_])rect(?:ified)?(?=[/_]|$)')


def sampling_map(camera: Camera, view: Camera) -> NDArray[np.float32]:
    """Where each pixel of a rectified `view` lies in the raw image, (h, w, 2) px.

    NaN where the camera does not see it: behind the lens, past the fold of its polynomial, or
    outside the image, whose edge pixels reach half a pixel beyond their centres.
    """
    rays = view.rays()
    pixels = _raw_pixels(camera, rays.reshape(-1, 2)).reshape(rays.shape)
    inside = _is_inside(camera, pixels)
    pixels = np.clip(pixels, 0.0, (camera.width - 1.0, camera.height - 1.0))
    return np.where(inside[..., None], pixels, np.nan).astype(np.float32)


def view_mask(camera: Camera, view: Camera) -> Mask:
    """Tell (h, w) where a rectified `view` is seen by the camera."""
    return np.isfinite(sampling_map(camera, view)[..., 0])


def seen_share(camera: Camera) -> float:
    """Which share of the rectified view the camera sees, 0 to 1; the rest has no depth."""
    if camera.is_rectified:
        return 1.0
    view = camera.rectified()
    small = view.resize(min(view.width, _GRID[0]), min(view.height, _GRID[1]))
    return float(view_mask(camera, small).mean())


def kept_share(camera: Camera) -> float:
    """Which share of the raw image lies inside the rectified view, 0 to 1."""
    if camera.is_rectified:
        return 1.0
    small = camera.resize(min(camera.width, _GRID[0]), min(camera.height, _GRID[1]))
    columns, rows = np.meshgrid(np.arange(small.width), np.arange(small.height))
    pixels = np.stack([columns.ravel(), rows.ravel()], axis=1)
    rays = small.backproject(pixels, np.ones(len(pixels)))
    view = small.rectified()
    return float(_is_inside(view, view.project(_turned(camera, rays))).mean())


def with_view(camera: Camera, alpha: float) -> Camera:
    """The same camera with a rectified view chosen by `alpha` instead of P.

    0 is the largest view all of whose pixels are seen, 1 the smallest that keeps every pixel of
    the image, as far as a flat view can: up to 80 degrees off the axis. In between the intrinsics
    are interpolated, as in OpenCV's `getOptimalNewCameraMatrix`; unlike there the view's pixels
    keep the aspect ratio of K, as in `fisheye.estimateNewCameraMatrixForUndistortRectify`. Where
    there is nothing to rectify, the view is K's. Raises CalibrationError for another alpha, or a
    lens without a ray in the middle of its image.
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
    """A camera in one line."""
    return f'{camera.width}x{camera.height}, {describe_lens(camera)}; {describe_view(camera)}'


def describe_lens(camera: Camera) -> str:
    """K and the lens in words, with what is made good before the network sees an image."""
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
    """The rectified view in words: how much of it is seen, how much of the image it holds."""
    if camera.is_rectified:
        return 'the image is the rectified view'
    return (
        f'{100 * seen_share(camera):.0f} % of the rectified view is seen, '
        f'{100 * kept_share(camera):.0f} % of the image is in it'
    )


def are_square(view: Camera) -> bool:
    """Whether the pixels of a rectified view count as square, within 3 %."""
    return abs(math.log(view.fx / view.fy)) < 0.03


def find_doubts(camera: Camera, image_topic: str = '') -> list[str]:
    """What is probably wrong with a calibration that can be used, each with the next step.

    `image_topic` is where the images come from, '' where that is no topic.
    """
    doubts = []
    if _RECTIFIED.search(image_topic) and not camera.is_rectified:
        doubts.append(
            f'the images of {image_topic} are rectified already by their name, but their '
            'calibration is that of a lens, so they are rectified twice; set image_is_rectified '
            '(--rectified), or take the raw images'
        )
    seen = seen_share(camera)
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
    """Rays (N, 3) of the raw frame in the rectified one."""
    if camera.rectification is None:
        return rays
    return rays @ np.asarray(camera.rectification).T


def _intrinsics(camera: Camera, fx: float, middle: Array) -> Array:
    """`fx fy cx cy` of the view about a ray (x/z, y/z), its pixels with the aspect of K."""
    fy = fx * camera.fy / camera.fx
    cx = 0.5 * (camera.width - 1) - fx * middle[0]
    cy = 0.5 * (camera.height - 1) - fy * middle[1]
    return np.array([fx, fy, cx, cy])


def _outer_view(camera: Camera) -> Array:
    """Intrinsics of the smallest view that holds all pixels of the image."""
    columns = np.linspace(-0.5, camera.width - 0.5, _GRID[0] + 1)
    rows = np.linspace(-0.5, camera.height - 0.5, _GRID[1] + 1)
    pixels = np.stack([one.ravel() for one in np.meshgrid(columns, rows)], axis=1)
    rays = camera.backproject(pixels, np.ones(len(pixels)))
    lost = ~np.isfinite(rays[:, 0])
    if lost.any():  # past the widest ray of the lens: the widest one in the same direction
        off = camera.unproject_linearly(pixels[lost])
        limit = _WIDEST if camera.distortion is None else camera.distortion.max_radius
        off *= (min(limit, _WIDEST) / np.hypot(*off.T))[:, None]
        rays[lost] = np.concatenate([off, np.ones((len(off), 1))], axis=1)
    x, y, z = _turned(camera, rays).T
    radius = np.hypot(x, y)
    wide = ~(radius <= _WIDEST * z)
    shrink = np.where(wide, _WIDEST / np.maximum(radius, 1e-12), 1.0 / np.where(wide, 1.0, z))
    x, y = x * shrink, y * shrink
    width, height = x.max() - x.min(), y.max() - y.min()
    fx = min(camera.width / width, camera.height / height * camera.fx / camera.fy)
    return _intrinsics(camera, fx, np.array([x.max() + x.min(), y.max() + y.min()]) / 2)


def _inner_view(camera: Camera) -> Array:
    """Intrinsics of the largest view all of whose pixels are seen.

    A pattern search over the middle of the view; for each the largest view by bisection. What a
    lens sees has no holes, so looking along the border is enough.
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
    """Border pixels of the view about its middle (N, 2), in half widths of it along x."""
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
    """Half the width (x/z) of the largest view about a ray that is all seen; 0 below `beyond`."""
    low, high = max(beyond, 1e-6), _WIDEST
    if low >= high or not _is_seen(camera, border * low + middle):
        return 0.0
    for _ in range(24):
        half = 0.5 * (low + high)
        if _is_seen(camera, border * half + middle):
            low = half
        else:
            high = half
    return low
