"""Point clouds from depth images, packed as the data of a PointCloud2 message.

A point is x y z, then rgb and confidence where asked for, 4 bytes each, little-endian.

Measured for 640x480 with rgb on one x86 core: 1.3 ms, flying pixels and compaction included. On a
GPU `on_device` does the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.config import setting
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import cloud_fields, CloudField

Map = NDArray[np.float32]
Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_FLOAT32 = 7  # sensor_msgs/PointField
_CLEARING_STRIDE = 4  # a costmap cell is many pixels wide
# Of rows that are worked on at once: larger arrays come new from the kernel for every image, which
# doubles the time of a cloud of 1920x1080.
_BAND_PIXELS = 350_000


@dataclass(frozen=True)
class CloudSettings:
    """Which pixels become points, and which fields a point has."""

    min_range_m: float = setting(
        0.3, 'drop points nearer than this along Z', 'm', minimum=0.0, maximum=1000.0
    )
    max_range_m: float = setting(
        60.0, 'drop points farther than this along Z', 'm', minimum=0.01, maximum=10000.0
    )
    min_confidence: float = setting(
        0.5, 'drop points with less confidence; 0 keeps all', '', minimum=0.0, maximum=1.0
    )
    flying_pixels: float = setting(
        0.1,
        'drop a point between two surfaces: farther than one neighbour and nearer than another '
        'by more than this fraction of its depth; 0 keeps all',
        '',
        minimum=0.0,
        maximum=1.0,
    )
    decimation: int = setting(
        1, 'keep every n-th pixel of every n-th row', 'px', minimum=1, maximum=64
    )
    organised: bool = setting(
        False, 'organised cloud (rows and columns), NaN where there is no point'
    )
    colour: bool = setting(True, 'add the colour of the pixel to each point')
    confidence: bool = setting(False, 'add a field confidence to each point')
    clearing: bool = setting(
        False, 'also publish points at max_range_m where nothing is nearer, for costmaps'
    )

    def __post_init__(self) -> None:
        """Refuse an empty range."""
        if not self.min_range_m < self.max_range_m:
            raise SettingsError(
                f'min_range_m is {self.min_range_m:g} and max_range_m is {self.max_range_m:g}, '
                'expected a minimum below the maximum; set both in one call'
            )


@dataclass(frozen=True)
class PackedCloud:
    """Data of a cloud, flat uint8 of height x width x point_step bytes, and its layout."""

    data: Image
    width: int
    height: int
    point_step: int
    fields: tuple[CloudField, ...]
    is_dense: bool

    def message_fields(self) -> dict[str, Any]:
        """Fields of a sensor_msgs/PointCloud2 without its header."""
        return cloud_fields(
            self.data,
            self.fields,
            self.width,
            self.height,
            point_step=self.point_step,
            is_dense=self.is_dense,
        )

    def xyz(self) -> Map:
        """Points (N, 3) in metres, a view."""
        return self.data.view(np.float32).reshape(-1, self.point_step // 4)[:, :3]


def build_cloud(
    depth: Map,
    confidence: Map,
    rgb: Image | None,
    camera: Camera,
    settings: CloudSettings,
) -> PackedCloud:
    """Point cloud in the optical frame of a camera.

    A cloud contains the pixels within range, of enough confidence, that are not flying pixels.
    Flying pixels lie on the slope that bilinear enlargement puts between a surface and what is
    behind it: some of the 3x3 neighbours is nearer, and some farther, by more than `flying_pixels`
    (sky counts as farther). Both edges of the slope are kept. So is ground, unless it is seen so
    flatly that one row makes such a difference: 10 % is 10 rows below the horizon.

    Args:
        depth: (H, W) metres of the rectified view, NaN and Inf as in REP 117.
        confidence: (H, W) in [0, 1].
        rgb: (H, W, 3) uint8, or None for points without colour.
        camera: Camera of the depth image.
        settings: Which pixels become points.
    """
    if not settings.colour:
        rgb = None
    # Bytes of points are those of float32, whatever the caller has.
    depth = depth.astype(np.float32, copy=False)
    confidence = confidence.astype(np.float32, copy=False)
    step, (height, width) = settings.decimation, depth.shape
    if depth.shape != camera.size:
        raise ValueError(f'depth is {depth.shape}, expected {camera.size} as its camera says')
    names = field_names(rgb is not None, settings)
    shape = math.ceil(height / step), math.ceil(width / step)
    rows = step * max(1, _BAND_PIXELS // (width * step))
    bands = (
        _build_rows(slice(first, first + rows), depth, confidence, rgb, camera, settings)
        for first in range(0, height, rows)
    )
    point_bytes = 4 * len(names)
    data = next(bands) if rows >= height else _join(bands, point_bytes * math.prod(shape))
    if not settings.organised:
        shape = 1, data.size // point_bytes
    return describe_points(data, names, *shape, settings.organised)


def _build_rows(
    rows: slice,
    depth: Map,
    confidence: Map,
    rgb: Image | None,
    camera: Camera,
    settings: CloudSettings,
) -> Image:
    """Bytes of the points of some rows, the first of which is kept by the decimation."""
    above = min(1, rows.start)  # with a row more on each side, for neighbours
    around = slice(rows.start - above, rows.stop + 1)
    keep = _find_points(depth[around], confidence[around], settings)
    step = settings.decimation
    every = (slice(rows.start, rows.stop, step), slice(None, None, step))
    z = np.ascontiguousarray(depth[every])
    keep = keep[above::step, ::step][: len(z)]
    if settings.organised:
        z = np.where(keep, z, np.float32(math.nan))
    x, y = rays(camera, step)
    y = y[rows.start // step :][: len(z)]
    with np.errstate(invalid='ignore'):  # 0 times Inf in the pixels that are dropped
        columns = [x * z, y * z, z]
    if rgb is not None:
        columns.append(_pack_colours(rgb[every]))
    if settings.confidence:
        columns.append(np.ascontiguousarray(confidence[every]))
    return _pack(cv2.merge(columns), keep, settings.organised)


def build_clearing_cloud(depth: Map, camera: Camera, settings: CloudSettings) -> PackedCloud:
    """Points at `max_range_m` where depth is beyond it or +Inf: rays that are known to be free.

    Costmaps clear obstacles along the rays to these points (navigation2#4297). Every fourth pixel
    of every fourth row, or every n-th where `decimation` is larger: wider gaps would leave cells
    that are never cleared.
    """
    step = max(_CLEARING_STRIDE, settings.decimation)
    free = depth[::step, ::step] > settings.max_range_m
    # Never by promotion: what a float32 and a Python float make differs between NumPy 1 and 2.
    z = np.full(free.shape, settings.max_range_m, np.float32)
    x, y = rays(camera, step)
    data = _pack(cv2.merge([x * z, y * z, z]), free, organised=False)
    return describe_points(data, ('x', 'y', 'z'), 1, data.size // 12, organised=False)


def _find_points(depth: Map, confidence: Map, settings: CloudSettings) -> Mask:
    """True (H, W) for the pixels that become points."""
    keep = (depth >= settings.min_range_m) & (depth <= settings.max_range_m)
    if settings.min_confidence > 0:
        keep &= confidence >= settings.min_confidence
    if settings.flying_pixels > 0:
        window, jump = np.ones((3, 3), np.uint8), np.float32(1.0 + settings.flying_pixels)
        nearest = cv2.erode(cv2.patchNaNs(depth.copy(), math.inf), window)
        farthest = cv2.dilate(cv2.patchNaNs(depth.copy(), 0.0), window)
        with np.errstate(over='ignore'):  # unknown neighbours are as near or far as can be
            keep &= ~((depth > jump * nearest) & (farthest > jump * depth))
    return keep


def _pack_colours(rgb: Image) -> Map:
    """(h, w, 3) -> (h, w) float32 with the bits 0x00RRGGBB, as RViz and PCL read it."""
    bgra = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGRA)
    packed = bgra.view('<u4')[..., 0]
    # An alpha of 255 would make many colours a NaN.
    np.bitwise_and(packed, 0x00FFFFFF, out=packed)
    return packed.view(np.float32)


def _join(bands: Iterator[Image], most: int) -> Image:
    """Bytes one after the other, each copied while it is at hand; there are `most` at most."""
    joined, end = np.empty(most, np.uint8), 0
    for band in bands:
        joined[end : end + band.size] = band
        end += band.size
    return joined[:end]


def _pack(points: Map, keep: Mask, organised: bool) -> Image:
    """Bytes of `points` (h, w, C): of all of them, or of those to keep one after the other."""
    columns = points.shape[-1]
    assert points.dtype == np.float32, f'points are packed as float32, found {points.dtype}'
    if not organised:
        # Moving each point as one opaque item is ten times as fast as indexing rows of floats.
        points = points.reshape(-1, columns).view(f'V{4 * columns}')[:, 0][keep.reshape(-1)]
    return points.reshape(-1).view(np.uint8)


@lru_cache(maxsize=16)
def rays(camera: Camera, step: int) -> tuple[Map, Map]:
    """x/z (1, w) and y/z (h, 1) of every `step`-th column and row of the rectified view."""
    view = camera.rectified()
    x = (np.arange(0, view.width, step) - view.cx) / view.fx
    y = (np.arange(0, view.height, step) - view.cy) / view.fy
    return x.astype(np.float32)[None, :], y.astype(np.float32)[:, None]


def field_names(colour: bool, settings: CloudSettings) -> tuple[str, ...]:
    """Names of the fields of a point, in their order."""
    optional = (('rgb', colour), ('confidence', settings.confidence))
    return ('x', 'y', 'z', *(name for name, wanted in optional if wanted))


def describe_points(
    data: Image, names: tuple[str, ...], height: int, width: int, organised: bool
) -> PackedCloud:
    """Cloud of flat bytes whose columns have these names."""
    fields = tuple(CloudField(name, 4 * i, _FLOAT32) for i, name in enumerate(names))
    return PackedCloud(data, width, height, 4 * len(names), fields, is_dense=not organised)
