"""ROS messages to NumPy and back: images, calibration, clouds, motion.

One decoder for bags and live topics: messages of `rosbags` and of rclpy have the same field names,
so these modules read fields and import no message type. `*_fields` functions return field values
as a dictionary, from which the owner of a message class fills a message.
"""

from psd_depth_ros.messages.calibration import camera_from_info, camera_info_fields, check_sizes
from psd_depth_ros.messages.clouds import (
    cloud_fields,
    CloudField,
    decode_cloud,
    decode_points,
    unpack_rgb,
)
from psd_depth_ros.messages.compressed import (
    compressed_fields,
    decode_compressed,
)
from psd_depth_ros.messages.images import (
    decode,
    decode_depth,
    decode_image,
    DEPTH_ENCODINGS,
    depth_to_millimetres,
    ENCODINGS,
    header_fields,
    image_fields,
    image_size,
    ImageDecoder,
    is_compressed,
    stamp_ns,
    time_fields,
)
from psd_depth_ros.messages.motion import (
    odometry_fields,
    odometry_pose,
    transform_fields,
    transform_pose,
)

__all__ = [
    'DEPTH_ENCODINGS',
    'ENCODINGS',
    'CloudField',
    'ImageDecoder',
    'camera_from_info',
    'camera_info_fields',
    'check_sizes',
    'cloud_fields',
    'compressed_fields',
    'decode',
    'decode_cloud',
    'decode_compressed',
    'decode_depth',
    'decode_image',
    'decode_points',
    'depth_to_millimetres',
    'header_fields',
    'image_fields',
    'image_size',
    'is_compressed',
    'odometry_fields',
    'odometry_pose',
    'stamp_ns',
    'time_fields',
    'transform_fields',
    'transform_pose',
    'unpack_rgb',
]
