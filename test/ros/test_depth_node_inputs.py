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


def fisheye_info(camera: Any) -> CameraInfo:
    """An ideal fisheye whose P is five times too wide."""
    info = camera.info()
    info.distortion_model, info.d = 'fisheye', [0.0] * 4
    info.p = [10.0, 0.0, 31.5, 0.0, 0.0, 10.0, 23.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    return info


def test_a_view_that_is_mostly_empty_is_said(running: Any) -> None:
    bench, node, camera = running.bench, running.node, running.camera
    info = fisheye_info(camera)
    camera.send_until(lambda: 'of its rectified view' in node.output, 'the warning', info=info)
    # Seen are 0.64 rad by 0.48 rad: 10 px times the tangents are 7 of 32 px and 5 of 24.
    bench.spin_until(lambda: bench.value(': camera', 'view_seen') == '0.05', 'the share')
    camera.send_until(lambda: running.depths, 'depth of what is seen', info=info)
    camera.send_until(lambda: bench.level(': camera') == 1, 'a warning', info=info)
    assert 'only 5 %' in bench.status(': camera').message


def test_alpha_chooses_a_view_that_is_seen(bench: Any, depth_node: Start) -> None:
    infos = bench.listen(CameraInfo, '/depth/camera_info')
    bench.listen(Image, '/depth/image_rect')
    depth_node(rectify_alpha=0.0)
    camera = bench.camera()
    camera.wait_for_reader()
    info = fisheye_info(camera)
    camera.send_until(lambda: infos, 'depth', info=info)
    # The last pixel of the middle column touches the edge of the image: 23.5 / tan(24 / 50).
    assert abs(infos[-1].p[0] - 45.14) < 0.01
    camera.send_until(lambda: bench.level(': camera') == 0, 'that all is well', info=info)
    assert bench.value(': camera', 'view_seen') == '1.00'


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


def test_images_without_stamps_are_said_until_they_have_some(running: Any) -> None:
    bench, node, camera = running.bench, running.node, running.camera

    def unstamped() -> bool:
        camera.stamp_ns = -100_000_000
        camera.send()
        return 'have no stamps (header.stamp is 0)' in node.output

    camera.send_until(lambda: running.depths, 'depth')
    bench.spin_until(unstamped, 'the warning')
    bench.spin_until(lambda: unstamped() and bench.level(': camera') == 1, 'a warning')
    assert 'let the driver stamp its images' in bench.value(': camera', 'problem')
    camera.stamp_ns = 5_000_000_000
    camera.send_until(lambda: bench.level(': camera') == 0, 'all well')


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


def test_odd_calibrations_compile_nothing_and_stop_nothing(
    bench: Any, depth_node: Start, tmp_path: Any
) -> None:
    checkpoint = tmp_path / 'slow_to_compile'
    checkpoint.write_text('wall compile_ms=3600000')
    node = depth_node(checkpoint=str(checkpoint), image_width=64, image_height=48)
    depths = bench.listen(Image, '/depth/image_rect')
    camera = bench.camera()
    camera.wait_for_reader()
    camera.send_until(lambda: depths, 'depth')
    for number in range(8):
        info = camera.info()
        info.width, info.height = 100 + 37 * number, 90 + 21 * number
        camera.infos.publish(info)
        uncalibrated = CameraInfo(width=64, height=48)
        camera.infos.publish(uncalibrated)
        count = len(depths)
        for _ in range(3):
            camera.send()
            bench.spin_for(0.05)
        bench.spin_until(lambda n=count: len(depths) > n, 'depth of the good frames')
    assert 'compiling' not in node.output
    assert not bench.node.get_publishers_info_by_topic('/depth_relative/image_rect')


def test_images_of_a_new_size_wait_for_the_network_and_others_go_on(
    bench: Any, depth_node: Start, tmp_path: Any
) -> None:
    checkpoint, other = tmp_path / 'slow_to_compile', tmp_path / 'other'
    checkpoint.write_text('wall compile_ms=3000')
    other.write_text('wall id=other compile_ms=never')
    node = depth_node(checkpoint=str(checkpoint), image_width=64, image_height=48)
    depths = bench.listen(Image, '/depth/image_rect')
    camera, large = bench.camera(), bench.camera(size=(128, 96))
    camera.wait_for_reader()

    def step() -> bool:
        for one in (large, camera):
            one.send()
            bench.spin_for(0.05)
        return bool(depths) and 'compiling for' in node.output

    bench.spin_until(step, 'depth of known images, and compiling for others')
    assert {one.width for one in depths} == {64}
    bench.spin_until(
        lambda: bench.value(': camera', 'dropped.compiling') not in ('', '0'), 'the count'
    )
    assert bench.value(': engine', 'compiling') == '128x96'
    assert bench.set_parameter('points.decimation', 2) == (True, '')  # nothing waits for it
    assert bench.set_parameter('depth.min_confidence', 0.1) == (True, '')
    large.send_until(lambda: depths[-1].width == 128, 'depth of the new size')
    assert node.output.count('compiling for') == 1
    assert node.output.count('being compiled for images of 128x96') == 1
    bench.spin_until(lambda: bench.value(': engine', 'compiling') == '', 'an end')
    assert bench.set_parameter('checkpoint', str(other)) == (True, '')
    large.send_until(
        lambda: bench.value(': engine', 'checkpoint') == 'wall other', 'another network'
    )
    depths.clear()
    large.send_until(lambda: depths, 'depth of the size it was made ready for')
    odd = bench.camera(size=(96, 96))
    odd.send_until(
        lambda: 'no depth of images of 96x96: nothing can be compiled' in node.output, 'the reason'
    )
    large.send_until(lambda: depths[-1].width == 128, 'the others to go on')


def test_while_it_compiles_the_node_can_be_stopped(
    bench: Any, depth_node_process: Start, tmp_path: Any
) -> None:
    checkpoint = tmp_path / 'slow_to_compile'
    checkpoint.write_text('wall compile_ms=2000')
    node = depth_node_process(checkpoint=str(checkpoint), image_width=320, image_height=240)
    camera = bench.camera()
    camera.wait_for_reader()
    # Nobody listens yet, and still it gets ready for the images that come.
    camera.send_until(lambda: 'compiling for (48, 64)' in node.output, 'compiling')
    assert bench.change_state('deactivate')
    assert bench.change_state('cleanup')
    assert 'engine closed' in node.output
    assert bench.change_state('configure')
    assert bench.change_state('activate')
    camera.wait_for_reader()
    depths = bench.listen(Image, '/depth/image_rect')
    camera.send_until(lambda: depths, 'depth')
    assert node.output.count('compiling for') == 1, 'the size is known by now'
    assert 'Traceback' not in node.output


def test_the_first_calibration_after_many_images_is_taken(running: Any) -> None:
    bench, camera, depths = running.bench, running.camera, running.depths
    for _ in range(120):
        camera.images.publish(camera.image())
        bench.spin_for(0.005)
    bench.spin_until(lambda: int(bench.value(': camera', 'received') or 0) > 20, 'many images')
    assert not depths
    camera.send_until(lambda: depths, 'depth')
