"""Which camera a recording has once it is played: what a depth node has to listen to.

Choosing topics is left to `data.topics`, playing to `recordings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.data.file_frames import FRAME_ID
from psd_depth_ros.data.sources import kind_of, open_frames
from psd_depth_ros.data.topics import base_topic, camera_info_beside
from psd_depth_ros.errors import BagError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import image_size
from psd_depth_ros.parsing import user_path
from psd_depth_ros.replay.recordings import CAMERA_INFO_TOPIC, IMAGE_TOPIC


@dataclass(frozen=True)
class PlayedCamera:
    """Topics of one camera.

    `image_topic` is without its transport (`raw` or `compressed`), as nodes want it; messages are
    on `message_topic`. `frames` is the number of images, as far as the recording says; `width` and
    `height` are those of the first.
    """

    image_topic: str
    camera_info_topic: str
    transport: str
    frame_id: str
    frames: int
    width: int
    height: int

    @property
    def message_topic(self) -> str:
        """Where the image messages are."""
        compressed = self.transport == 'compressed'
        return f'{self.image_topic}/compressed' if compressed else self.image_topic


def find_camera(
    path: str | Path,
    image_topic: str | None = None,
    camera: Camera | None = None,
    horizontal_fov_deg: float | None = None,
) -> PlayedCamera:
    """Find the camera of a bag, video or image folder.

    `camera` or `horizontal_fov_deg` stand for a calibration that the recording lacks. Raises
    BagError, listing the topics, where a bag leaves a choice or has no camera, and
    CalibrationError where nothing is known of the lens of a video or folder.
    """
    path = user_path(path)
    if kind_of(path) == 'bag':
        return _camera_of_bag(path, image_topic, calibrated=camera is not None)
    with open_frames(path, camera=camera, horizontal_fov_deg=horizontal_fov_deg) as source:
        height, width = next(source.frames()).rgb.shape[:2]
        return PlayedCamera(
            IMAGE_TOPIC, CAMERA_INFO_TOPIC, 'raw', FRAME_ID, source.count, width, height
        )


def _camera_of_bag(path: Path, wanted: str | None, calibrated: bool) -> PlayedCamera:
    with BagReader(path) as bag:
        topic = bag.pick_image_topic(wanted)
        info = camera_info_beside(topic) if calibrated else bag.pick_camera_info_topic(topic)
        compressed = bag.topics[topic].msgtype.endswith('/CompressedImage')
        if compressed and topic == base_topic(topic):
            raise BagError(
                f'{topic} of {path} holds compressed images, but nodes look for them on '
                f'{topic}/compressed; play it under that name'
            )
        first = next(bag.messages([topic])).message
        width, height = image_size(first)
        return PlayedCamera(
            image_topic=base_topic(topic) if compressed else topic,
            camera_info_topic=info,
            transport='compressed' if compressed else 'raw',
            frame_id=first.header.frame_id,
            frames=bag.topics[topic].count,
            width=width,
            height=height,
        )
