import array
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

Start = Callable[..., Any]


def test_bad_images_are_said_counted_and_survived(running: Any) -> None:
    bench, node = running.bench, running.node
    camera, depths = running.camera, running.depths
    unknown, short, huge, empty = (camera.image() for _ in range(4))
    unknown.encoding = 'bgr888'
    short.data = short.data[:-1]
    huge.width = 1_000_000
    empty.width = 0
    texts = ["'bgr888'", str(64 * 48 * 3 - 1), '1000000x48', '0x48']
    for count, (image, text) in enumerate(
        zip((unknown, short, huge, empty), texts, strict=True), start=1
    ):
        camera.send(image=image)
        bench.spin_until(
            lambda n=str(count): bench.value(': camera', 'dropped.undecodable') == n, 'a drop'
        )
        assert text in bench.value(': camera', 'problem')
        assert bench.level(': camera') == 2
    assert not depths
    assert node.output.count('[ERROR]') == 2  # one for each encoding
    camera.send()
    bench.spin_until(lambda: depths, 'depth of a good image')
    bench.spin_until(lambda: bench.level(': camera') == 0, 'all well again')


def test_calibration_of_another_size_is_refused_with_both(running: Any) -> None:
    bench, node = running.bench, running.node
    camera, depths = running.camera, running.depths
    info = camera.info()
    info.width, info.height = 640, 480
    camera.send_until(lambda: '640x480' in node.output, 'the refusal', info=info)
    assert '64x48' in node.output
    assert int(bench.value(': camera', 'dropped.size_mismatch') or 1) > 0
    assert not depths
    camera.send_until(lambda: depths, 'depth with the right calibration')


def test_nan_in_k_is_refused_until_a_good_one_comes(running: Any) -> None:
    bench, node = running.bench, running.node
    camera, depths = running.camera, running.depths
    info = camera.info()
    info.k[0] = np.nan
    camera.send_until(lambda: 'not finite' in node.output, 'the refusal', info=info)
    bench.spin_until(
        lambda: bench.value(': camera', 'calibration') == 'camera_info refused', 'the state'
    )
    assert not depths
    camera.send_until(lambda: depths, 'depth with the right calibration')


def test_unknown_lens_model_is_named(running: Any) -> None:
    node, camera, depths = running.node, running.camera, running.depths
    info = camera.info()
    info.distortion_model, info.d = 'kannala_juho', [0.1] * 4
    camera.send_until(lambda: 'kannala_juho' in node.output, 'the refusal', info=info)
    assert not depths


def test_uncalibrated_gives_relative_depth_without_a_cloud(running: Any) -> None:
    bench, node = running.bench, running.node
    camera, depths = running.camera, running.depths
    relative = bench.listen(Image, '/depth_relative/image_rect')
    clouds = bench.listen(PointCloud2, '/points')
    relative_clouds = bench.listen(PointCloud2, '/depth_relative/points')
    camera.send_until(lambda: relative, 'relative depth', info=CameraInfo(width=64, height=48))
    bench.spin_until(lambda: bench.level(': camera') == 2, 'an error')
    assert 'uncalibrated' in bench.value(': camera', 'calibration')
    assert node.output.count('depth_relative') == 1
    assert not depths
    assert not clouds
    assert not relative_clouds


def test_camera_info_that_never_comes_is_said(running: Any) -> None:
    bench, node, camera = running.bench, running.node, running.camera
    assert bench.set_parameter('camera_info_timeout_s', 0.3) == (True, '')
    bench.node.destroy_publisher(camera.infos)

    def step() -> bool:
        camera.images.publish(camera.image())
        bench.spin_for(0.05)
        return 'no camera_info on /camera_info' in node.output

    bench.spin_until(step, 'the warning')
    bench.spin_until(lambda: bench.level(': camera') == 1, 'a warning')
    assert node.output.count('no camera_info') == 1
    assert not running.depths
    assert bench.set_parameter('camera_info_timeout_s', 5.0) == (True, '')


def test_an_image_just_before_its_first_calibration_is_not_lost(running: Any) -> None:
    bench, camera, depths = running.bench, running.camera, running.depths
    bench.spin_until(lambda: bench.value(': camera', 'subscribed'), 'matching')
    image, info = camera.image(), camera.info()
    camera.images.publish(image)
    bench.spin_for(0.5)
    camera.infos.publish(info)
    bench.spin_until(lambda: depths, 'its depth')


def test_a_camera_of_12_bits_is_said_once_and_put_right_while_running(running: Any) -> None:
    bench, node, camera = running.bench, running.node, running.camera
    deep = camera.image()
    values = np.linspace(0, 4095, 64 * 48).astype(np.uint16)
    deep.encoding, deep.step = 'mono16', 2 * 64
    deep.data = array.array('B', values.tobytes())
    said = 'set sixteen_bit_range to 12bit or percentile'
    camera.send_until(lambda: said in node.output, 'the warning', image=deep)
    camera.send_until(lambda: bench.level(': camera') == 1, 'a warning', image=deep)
    assert said in bench.value(': camera', 'problem')
    assert node.output.count(said) == 1
    assert running.depths
    assert not bench.set_parameter('sixteen_bit_range', '12')[0]
    assert bench.set_parameter('sixteen_bit_range', '12bit') == (True, '')
    camera.send_until(lambda: bench.level(': camera') == 0, 'all well', image=deep)
    assert bench.set_parameter('sixteen_bit_range', 'full') == (True, '')


def test_a_corrupt_jpeg_is_skipped_counted_and_said_once(bench: Any, depth_node: Start) -> None:
    depths = bench.listen(Image, '/depth/image_rect')
    node = depth_node(image_transport='compressed')
    camera = bench.camera(compressed=True)
    camera.wait_for_reader()
    pixels = np.zeros((48, 64, 3), np.uint8)
    jpeg = cv2.imencode('.jpg', pixels)[1].tobytes()

    def send(data: bytes) -> None:
        camera.send(image=CompressedImage(format='jpeg', data=array.array('B', data)))

    def wait_for(count: int, key: str) -> None:
        bench.spin_until(lambda: bench.value(': camera', key) == str(count), f'{count} {key}')

    send(jpeg)
    wait_for(1, 'processed')
    for count in (1, 2):
        send(jpeg[: len(jpeg) // 10])
        wait_for(count, 'dropped.undecodable')
    send(jpeg)
    wait_for(2, 'processed')
    bench.spin_until(lambda: len(depths) == 2, 'both depths')
    assert node.output.count('[ERROR]') == 1
