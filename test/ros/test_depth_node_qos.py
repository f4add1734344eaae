from collections.abc import Callable
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image

Start = Callable[..., Any]


def test_reliability_follows_the_cameras_that_come_and_go(bench: Any, depth_node: Start) -> None:
    depths = bench.listen(Image, '/depth/image_rect')
    best_effort = bench.listen(Image, '/depth/confidence', reliable=False)
    depth_node()
    reliable = bench.camera()
    reliable.wait_for_reader()
    reliable.send_until(lambda: depths and best_effort, 'depth for both kinds of reader')
    assert bench.value(': camera', 'reliability') in ('', 'reliable')
    poor = bench.camera(reliable=False)
    depths.clear()
    poor.send_until(lambda: depths, 'depth of a best-effort camera')
    bench.spin_until(
        lambda: bench.value(': camera', 'reliability') == 'best_effort', 'best effort'
    )
    bench.node.destroy_publisher(poor.images)
    bench.node.destroy_publisher(poor.infos)
    bench.spin_until(lambda: bench.value(': camera', 'reliability') == 'reliable', 'reliable')
    depths.clear()
    reliable.send_until(lambda: depths, 'depth of the reliable camera again')


def test_a_calibration_latched_before_the_node_came_is_heard(
    bench: Any, depth_node: Start
) -> None:
    camera = bench.camera()
    bench.node.destroy_publisher(camera.infos)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    infos = bench.node.create_publisher(CameraInfo, '/camera_info', latched)
    infos.publish(camera.info())
    depths = bench.listen(Image, '/depth/image_rect')
    depth_node()

    def depth_comes() -> bool:
        camera.images.publish(camera.image())
        bench.spin_for(0.05)
        return bool(depths)

    bench.spin_until(depth_comes, 'depth')
    # Another driver takes its place, which publishes the calibration with every image.
    bench.node.destroy_publisher(infos)
    bench.spin_until(lambda: bench.node.count_publishers('/camera_info') == 0, 'its end')
    other = bench.camera(size=(96, 64))
    depths.clear()
    other.send_until(lambda: depths and depths[-1].width == 96, 'depth of the other one')
    # And both at once: what is latched goes to those who ask, so everybody has to be heard.
    bench.node.create_publisher(CameraInfo, '/camera_info', latched)
    bench.spin_until(lambda: bench.node.count_publishers('/camera_info') == 2, 'both')
    depths.clear()
    other.send_until(lambda: depths, 'depth still')


def test_a_mismatch_is_said_once_with_both_sides(bench: Any, depth_node: Start) -> None:
    node = depth_node(image_reliability='reliable')
    camera = bench.camera(reliable=False)
    bench.spin_until(lambda: 'on /image;' in node.output, 'the mismatch of the image')
    assert (
        '/bench offers [best_effort, volatile], this node asks for [reliable, volatile] on /image'
    ) in node.output
    for _ in range(5):
        camera.send()
        bench.spin_for(0.2)
    assert node.output.count('on /image;') == 1


def test_a_reader_that_cannot_hear_is_named(bench: Any, depth_node: Start) -> None:
    node = depth_node()
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    bench.node.create_subscription(Image, '/depth/image_rect', lambda message: None, latched)
    bench.spin_until(lambda: 'it will receive nothing' in node.output, 'the mismatch')
    assert (
        '/bench asks for [reliable, transient_local], this node offers [reliable, volatile] on '
        '/depth/image_rect'
    ) in node.output


def test_qos_overrides_are_heeded(bench: Any, depth_node: Start) -> None:
    depth_node(
        '-p', 'qos_overrides./image.subscription.reliability:=best_effort',
        '-p', 'qos_overrides./image.subscription.depth:=3',
        '-p', 'qos_overrides./depth/image_rect.publisher.reliability:=best_effort',
    )  # fmt: skip
    bench.wait_for_state('active')
    (image,) = bench.spin_until(
        lambda: bench.node.get_subscriptions_info_by_topic('/image'), 'the subscription'
    )
    assert image.qos_profile.reliability.name == 'BEST_EFFORT'
    (depth,) = bench.node.get_publishers_info_by_topic('/depth/image_rect')
    assert depth.qos_profile.reliability.name == 'BEST_EFFORT'
    assert bench.get_parameter('qos_overrides./image.subscription.depth') == 3
