"""Clouds for tests, as fields of a sensor_msgs/PointCloud2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from psd_depth_ros.messages import cloud_fields, CloudField

# sensor_msgs/PointField
DATATYPES = {'i1': 1, 'u1': 2, 'i2': 3, 'u2': 4, 'i4': 5, 'u4': 6, 'f4': 7, 'f8': 8}


def pack_rgb(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Pack colours (N, 3) uint8 into the `rgb` field of RViz and PCL: (N,) float32, 0x00RRGGBB."""
    red, green, blue = (rgb[..., channel].astype(np.uint32) for channel in range(3))
    return ((red << 16) | (green << 8) | blue).view(np.float32)


def pack_cloud(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Fields of an unorganised PointCloud2 from arrays by name, (N,) or (N, count) each."""
    parts = {name: np.asarray(values) for name, values in arrays.items()}
    dtype = np.dtype([(name, part.dtype, part.shape[1:]) for name, part in parts.items()])
    points = np.empty(len(next(iter(parts.values()))), dtype)
    for name, part in parts.items():
        points[name] = part
    fields = []
    for name, (part_type, offset, *_) in dtype.fields.items():
        base, shape = part_type.subdtype or (part_type, ())
        count = int(np.prod(shape, dtype=int))
        fields.append(CloudField(name, offset, DATATYPES[base.str[1:]], count))
    data = points.view(np.uint8) if len(points) else np.empty(0, np.uint8)
    return cloud_fields(data, fields, len(points), point_step=dtype.itemsize)
