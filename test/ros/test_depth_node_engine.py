"""The node with the real engine and a tiny network whose weights are random."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_srvs.srv import Trigger
import torch

from psd_depth_ros.checkpoint import CheckpointInfo, InputInfo, OutputInfo, save_checkpoint
from psd_depth_ros.config import dump
from psd_depth_ros.networks import Architecture, DepthModel
from psd_depth_ros.ros.conversions import cloud_message

Start = Callable[..., Any]
NODE = 'psd_depth_ros.ros.depth_node.node'
TINY = Architecture(decoder_channels=(16, 16, 16, 16), bins=8, token_width=32, blocks=1)
QUICK = {'backend': 'torch', 'image_width': 96, 'image_height': 64, 'diagnostics_period_s': 0.2}


def save_tiny(path: Path, seed: int, metric: bool = True, licence: str = 'CC0') -> str:
    torch.manual_seed(seed)
    info = CheckpointInfo(
        'tiny',
        dump(TINY),
        input=InputInfo(height=64, width=96),
        output=OutputInfo(metric=metric, canonical_focal_px=80.0),
        data=({'name': 'drives', 'licence': licence},),
    )
    return save_checkpoint(path, info, DepthModel(TINY).state_dict())


def test_the_real_engine_is_loaded_replaced_and_protected(
    bench: Any, start: Start, tmp_path: Path
) -> None:
    path, other, cut = (tmp_path / f'{name}.safetensors' for name in ('one', 'other', 'cut'))
    first, second = save_tiny(path, 0), save_tiny(other, 1, licence='CC BY-NC 4.0')
    cut.write_bytes(path.read_bytes()[:-1000])
    depths = bench.listen(Image, '/depth/image_rect')
    clouds = bench.listen(PointCloud2, '/points')
    node = start(NODE, checkpoint=str(path), **QUICK, depth__min_confidence=0.0)
    camera = bench.camera(size=(96, 64))
    camera.wait_for_reader()
    camera.send_until(lambda: depths and clouds, 'depth and cloud')
    depth = np.frombuffer(depths[0].data, np.float32)
    assert depth.size == 96 * 64
    assert np.isfinite(depth).any()
    assert f'tiny ({first}) runs on cpu with torch' in node.output
    infos = bench.listen(CameraInfo, '/depth/camera_info')
    bent = camera.info(80.0)
    bent.d = [-0.2, 0.0, 0.0, 0.0, 0.0]
    camera.send_until(
        lambda: infos and infos[-1].k[0] == 80.0, 'depth of a camera with a lens', info=bent
    )
    assert not any(infos[-1].d)
    assert list(infos[-1].p[[0, 1, 2, 4, 5, 6]]) == list(bent.k[:6])
    accepted, reason = bench.set_parameter('checkpoint', str(cut))
    assert not accepted
    assert 'is not a whole safetensors file' in reason
    assert bench.set_parameter('checkpoint', str(other)) == (True, '')
    camera.send_until(
        lambda: bench.value(': engine', 'checkpoint') == f'tiny {second}', 'the other network'
    )
    bench.spin_until(lambda: 'for research only' in node.output, 'the licence, logged after it')
    assert node.output.count('for research only') == 1
    assert 'these weights are for research only: drives (CC BY-NC 4.0)' in node.output
    depths.clear()
    camera.send_until(lambda: depths, 'its depth')
    assert not np.array_equal(np.frombuffer(depths[-1].data, np.float32), depth, equal_nan=True)
    assert float(bench.value(': engine', 'inference_ms_p50')) > 0


def test_unusable_checkpoints_leave_a_node_that_can_be_mended(
    bench: Any, start: Start, tmp_path: Path
) -> None:
    bad = {
        name: tmp_path / f'{name}.safetensors' for name in ('cut', 'pickle', 'other', 'relative')
    }
    save_tiny(bad['cut'], 0)
    bad['cut'].write_bytes(bad['cut'].read_bytes()[:1000])
    bad['pickle'].write_bytes(b'\x80\x04cos\nsystem\n(S"touch owned"\ntR.')
    wrong = CheckpointInfo('tiny', {**dump(TINY), 'bins': 16})
    save_checkpoint(bad['other'], wrong, DepthModel(TINY).state_dict())
    save_tiny(bad['relative'], 0, metric=False)
    node = start(NODE, autostart=False, **QUICK)
    for name in ('cut', 'pickle', 'other'):
        assert bench.set_parameter('checkpoint', str(bad[name])) == (True, '')
        assert not bench.change_state('configure')
        assert bench.state() == 'unconfigured'
        assert f'{name}.safetensors' in node.output
    assert bench.set_parameter('checkpoint', str(bad['relative'])) == (True, '')
    assert bench.change_state('configure')
    assert not bench.change_state('activate')
    assert bench.state() == 'inactive'
    assert 'relative.safetensors is not metric' in node.output
    assert 'Traceback' not in node.output
    save_tiny(bad['relative'], 0)
    assert bench.call(Trigger, '/depth_node/reload', Trigger.Request()).success
    assert bench.change_state('activate')


def test_images_without_any_depth_are_published_and_a_problem_of_their_camera(
    bench: Any, depth_node: Start, tmp_path: Path
) -> None:
    path = tmp_path / 'nothing'
    path.write_text('wall depth=nan')
    depths = bench.listen(Image, '/depth/image_rect')
    node = depth_node(checkpoint=str(path), diagnostics_period_s=0.2)
    camera = bench.camera()
    camera.wait_for_reader()
    camera.send_until(
        lambda: depths and 'gave no depth' in bench.value(': camera', 'problem'), 'the problem'
    )
    assert np.isnan(np.frombuffer(depths[0].data, np.float32)).all()
    bench.spin_until(lambda: 'gave no depth' in node.output, 'the log, written after it')
    assert node.output.count('network wall gave no depth') == 1, 'once in a while'


def test_a_lidar_gives_the_scale_that_the_checkpoint_lacks(
    bench: Any, depth_node: Start, tmp_path: Path
) -> None:
    path = tmp_path / 'relative'
    path.write_text('wall metric=no')
    depths = bench.listen(Image, '/depth/image_rect')
    pose = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    depth_node(checkpoint=str(path), scale__mode='lidar', scale__lidar_pose=pose)
    camera = bench.camera()
    camera.wait_for_reader()
    lidar = bench.node.create_publisher(PointCloud2, '/lidar', 5)
    camera.send_until(lambda: bench.value(': camera', 'dropped.scale_unknown'), 'depth kept back')
    assert not depths
    assert 'nothing was measured yet' in bench.value(': camera', 'problem')
    x, y = np.meshgrid(np.linspace(-4, 4, 30), np.linspace(-3, 3, 20))
    points = np.stack([x.ravel(), y.ravel(), np.full(x.size, 10.0)], axis=1, dtype=np.float32)
    cloud = cloud_message(camera.image().header, pack(points))

    def step() -> bool:
        stamp = camera.stamp_ns + 100_000_000
        cloud.header.stamp.sec, cloud.header.stamp.nanosec = divmod(stamp, 10**9)
        lidar.publish(cloud)
        bench.spin_for(0.05)
        camera.send()
        bench.spin_for(0.05)
        return bool(depths) and abs(wall(depths[-1]) - 10.0) < 0.1

    bench.spin_until(step, 'a wall 10 m away')
    bench.spin_until(lambda: 'accepted' in bench.value(': camera', 'scale_source'), 'its source')
    assert float(bench.value(': camera', 'scale')) == pytest.approx(2.0, rel=0.02)


def wall(depth: Any) -> float:
    return float(np.frombuffer(depth.data, np.float32)[0])


def pack(points: Any) -> dict[str, Any]:
    from pack_clouds import pack_cloud

    return pack_cloud({name: points[:, index] for index, name in enumerate('xyz')})


def test_a_network_of_other_people_is_served_and_exchanged_like_ours(
    bench: Any, start: Start, tmp_path: Path
) -> None:
    """Depth is ten times red: known at every pixel, also behind a lens, and in the cloud."""
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    from teacher_files import write_red

    own = tmp_path / 'own.safetensors'
    save_tiny(own, 0)
    path = write_red(tmp_path / 'net.onnx', 'out', (1, 3, 64, 96))
    depths = bench.listen(Image, '/depth/image_rect')
    clouds = bench.listen(PointCloud2, '/points')
    confidences = bench.listen(Image, '/depth/confidence')
    infos = bench.listen(CameraInfo, '/depth/camera_info')
    node = start(NODE, checkpoint=str(own), **{**QUICK, 'backend': 'auto'})
    camera = bench.camera(size=(96, 64))
    camera.wait_for_reader()
    camera.send_until(lambda: depths, 'depth of our network')
    accepted, reason = bench.set_parameter('checkpoint', f'{path}?metrc=true')
    assert not accepted
    assert "unknown setting 'metrc'" in reason
    (tmp_path / 'net.yaml').write_text('output: depth\nmetric: true\nunit_m: 10\nlicence: CC0\n')
    assert bench.set_parameter('checkpoint', str(path)) == (True, '')
    camera.send_until(
        lambda: bench.value(': engine', 'checkpoint').startswith('net '), 'the other network'
    )
    assert bench.value(': engine', 'backend') == 'onnxruntime'
    for heard in (depths, clouds, confidences):
        heard.clear()
    camera.send_until(lambda: depths and clouds and confidences, 'its depth and cloud')
    red = np.arange(96 * 64 * 3, dtype=np.uint8).reshape(64, 96, 3)[..., 0]
    depth = np.frombuffer(depths[-1].data, np.float32).reshape(64, 96)
    known = red * (10 / 255) >= 0.3
    np.testing.assert_allclose(depth[known], red[known] * (10 / 255), rtol=1e-4)
    assert np.isneginf(depth[~known & (red > 0)]).all()
    assert np.isnan(np.frombuffer(confidences[-1].data, np.float32)).all()
    assert clouds[-1].width > 0
    bent = camera.info(80.0)
    bent.d = [-0.2, 0.0, 0.0, 0.0, 0.0]
    camera.send_until(
        lambda: infos and infos[-1].k[0] == 80.0, 'depth of a camera with a lens', info=bent
    )
    assert not any(infos[-1].d)
    assert 'Traceback' not in node.output
