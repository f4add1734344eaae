"""A camera and a reader of depth that run on Cyclone DDS, without ROS: `cyclone_peer.py DOMAIN`.

Publishes images and their calibration until depth and a cloud of one of them have come back, then
prints what came. The types are those of the IDL of ROS 2 messages, under the names of rmw.
"""

from dataclasses import dataclass
import json
import sys
import time

from cyclonedds import idl
from cyclonedds.core import Policy, Qos
from cyclonedds.domain import DomainParticipant
from cyclonedds.idl import annotations, types
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic

WIDTH, HEIGHT = 64, 48
PATIENCE_S = 60.0
RELIABLE = Qos(Policy.Reliability.Reliable(10**9), Policy.History.KeepLast(5))
BEST_EFFORT = Qos(Policy.Reliability.BestEffort, Policy.History.KeepLast(5))


@dataclass
@annotations.final
class Time(idl.IdlStruct, typename='builtin_interfaces::msg::dds_::Time_'):
    sec: types.int32
    nanosec: types.uint32


@dataclass
@annotations.final
class Header(idl.IdlStruct, typename='std_msgs::msg::dds_::Header_'):
    stamp: Time
    frame_id: str


@dataclass
@annotations.final
class Image(idl.IdlStruct, typename='sensor_msgs::msg::dds_::Image_'):
    header: Header
    height: types.uint32
    width: types.uint32
    encoding: str
    is_bigendian: types.uint8
    step: types.uint32
    data: types.sequence[types.uint8]


@dataclass
@annotations.final
class RegionOfInterest(idl.IdlStruct, typename='sensor_msgs::msg::dds_::RegionOfInterest_'):
    x_offset: types.uint32
    y_offset: types.uint32
    height: types.uint32
    width: types.uint32
    do_rectify: bool


@dataclass
@annotations.final
class CameraInfo(idl.IdlStruct, typename='sensor_msgs::msg::dds_::CameraInfo_'):
    header: Header
    height: types.uint32
    width: types.uint32
    distortion_model: str
    d: types.sequence[types.float64]
    k: types.array[types.float64, 9]
    r: types.array[types.float64, 9]
    p: types.array[types.float64, 12]
    binning_x: types.uint32
    binning_y: types.uint32
    roi: RegionOfInterest


@dataclass
@annotations.final
class PointField(idl.IdlStruct, typename='sensor_msgs::msg::dds_::PointField_'):
    name: str
    offset: types.uint32
    datatype: types.uint8
    count: types.uint32


@dataclass
@annotations.final
class PointCloud2(idl.IdlStruct, typename='sensor_msgs::msg::dds_::PointCloud2_'):
    header: Header
    height: types.uint32
    width: types.uint32
    fields: types.sequence[PointField]
    is_bigendian: bool
    point_step: types.uint32
    row_step: types.uint32
    data: types.sequence[types.uint8]
    is_dense: bool


def main(domain):
    participant = DomainParticipant(domain)

    def topic(name, kind):
        return Topic(participant, f'rt/{name}', kind)

    images = DataWriter(participant, topic('image', Image), RELIABLE)
    infos = DataWriter(participant, topic('camera_info', CameraInfo), RELIABLE)
    depths = DataReader(participant, topic('depth/image_rect', Image), BEST_EFFORT)
    clouds = DataReader(participant, topic('points', PointCloud2), RELIABLE)
    depth = cloud = None
    end = time.monotonic() + PATIENCE_S
    sec = 0
    while not (depth and cloud):
        if time.monotonic() > end:
            sys.exit(f'waited {PATIENCE_S:g} s: depth {depth is not None}, cloud {cloud}')
        sec += 1
        header = Header(Time(sec, 500), 'camera_optical')
        f, cx, cy = 60.0, (WIDTH - 1) / 2, (HEIGHT - 1) / 2
        infos.write(
            CameraInfo(
                header, HEIGHT, WIDTH, 'plumb_bob', [0.0] * 5,
                [f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0],
                [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
                [f, 0.0, cx, 0.0, 0.0, f, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
                0, 0, RegionOfInterest(0, 0, 0, 0, False),
            )
        )  # fmt: skip
        pixels = [100] * (3 * WIDTH * HEIGHT)
        images.write(Image(header, HEIGHT, WIDTH, 'rgb8', 0, 3 * WIDTH, pixels))
        time.sleep(0.1)
        for sample in depths.take(10):
            depth = sample
        for sample in clouds.take(10):
            cloud = sample
    found = {
        'frame': depth.header.frame_id,
        'nanosec': depth.header.stamp.nanosec,
        'encoding': depth.encoding,
        'size': [depth.width, depth.height],
        'bytes': len(depth.data),
        'fields': [one.name for one in cloud.fields],
        'cloud_bytes': [len(cloud.data), cloud.row_step * cloud.height],
    }
    sys.stdout.write(json.dumps(found))


if __name__ == '__main__':
    main(int(sys.argv[1]))
