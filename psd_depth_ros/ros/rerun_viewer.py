"""A viewer for people without RViz: camera, depth, confidence and coloured cloud in a browser.

    ros2 launch psd_depth_ros depth.launch.py viewer:=rerun

Needs `rerun-sdk` (the extra `rerun`). Its viewer runs as a child process bound to loopback; the
in-process servers of rerun would listen on every interface, so they are not used. Its usage
statistics are switched off in temporary settings; those of the user are neither read nor written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import importlib
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from psd_depth_ros.config import setting
from psd_depth_ros.errors import PsdDepthError, SettingsError
from psd_depth_ros.messages import (
    camera_from_info,
    decode,
    decode_cloud,
    decode_depth,
    stamp_ns,
    unpack_rgb,
)
from psd_depth_ros.ros.common import run_node, ThrottledLogger
from psd_depth_ros.ros.parameters import NodeParameters
from psd_depth_ros.ros.qos import InputSubscription

LOOPBACK = '127.0.0.1'
REFRESH_S = 0.5
STOP_S = 5.0
CAMERA = 'camera'


@dataclass(frozen=True)
class RerunViewerSettings:
    """Parameters of the viewer."""

    image_transport: str = setting(
        'raw', 'show image or image/compressed', choices=('raw', 'compressed'), read_only=True
    )
    web_port: int = setting(
        9090, 'port of the page to open in a browser', '', minimum=1, maximum=65535, read_only=True
    )
    data_port: int = setting(
        9876, 'port the page gets its data from', '', minimum=1, maximum=65535, read_only=True
    )
    memory: str = setting(
        '1GB',
        'memory of the viewer for past messages, shown to pages opened later',
        read_only=True,
    )


class RerunViewer(Node):
    """Shows the messages that arrive, each under the stamp of its header."""

    def __init__(self) -> None:
        super().__init__('rerun_viewer')
        settings = NodeParameters(
            self, RerunViewerSettings, lambda *_: '', lambda *_: None
        ).settings
        self._throttled = ThrottledLogger(self.get_logger())
        self._home = tempfile.TemporaryDirectory(prefix='rerun_viewer_')
        program = _find_program()
        _switch_statistics_off(program, Path(self._home.name))
        self._rerun = _find_rerun()
        self._viewer = _start_viewer(program, settings)
        self._rerun.init('psd_depth_ros')
        self._rerun.connect_grpc(f'rerun+http://{LOOPBACK}:{settings.data_port}/proxy')
        self._rerun.send_blueprint(_layout(self._rerun))
        compressed = settings.image_transport == 'compressed'
        image = ('image/compressed', CompressedImage) if compressed else ('image', Image)
        self._inputs = [
            self._listen(image[0], image[1], self._show_image),
            self._listen('depth/camera_info', CameraInfo, self._show_camera),
            self._listen('depth/image_rect', Image, self._show_depth),
            self._listen('depth/confidence', Image, self._show_confidence),
            self._listen('points', PointCloud2, self._show_points),
        ]
        self.create_timer(REFRESH_S, self._refresh)
        self.get_logger().info(
            f'open http://{LOOPBACK}:{settings.web_port}'
            f'/?url=rerun%2Bhttp://{LOOPBACK}:{settings.data_port}/proxy'
        )

    def close(self) -> None:
        """End the viewer."""
        self._rerun.disconnect()
        self._viewer.terminate()
        try:
            self._viewer.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._viewer.kill()
            self._viewer.wait()
        self._home.cleanup()

    def _listen(
        self, topic: str, message_type: type[Any], show: Callable[[Any], None]
    ) -> InputSubscription:
        def callback(message: Any) -> None:
            self._rerun.set_time('stamp', timestamp=stamp_ns(message.header) / 1e9)
            try:
                show(message)
            except PsdDepthError as error:
                self._throttled.warn(topic, f'{topic}: {error}')

        return InputSubscription(self, message_type, topic, callback)

    def _show_image(self, message: Any) -> None:
        self._rerun.log('image', self._rerun.Image(decode(message)))

    def _show_camera(self, message: Any) -> None:
        camera = camera_from_info(message)
        pinhole = self._rerun.Pinhole(
            image_from_camera=camera.K,
            resolution=[camera.width, camera.height],
            camera_xyz=self._rerun.ViewCoordinates.RDF,
            image_plane_distance=1.0,
        )
        self._rerun.log(CAMERA, pinhole)

    def _show_depth(self, message: Any) -> None:
        depth = np.nan_to_num(decode_depth(message), nan=0.0, posinf=0.0, neginf=0.0)
        self._rerun.log(f'{CAMERA}/depth', self._rerun.DepthImage(depth, meter=1.0))

    def _show_confidence(self, message: Any) -> None:
        grey = (np.nan_to_num(decode_depth(message)) * 255).astype(np.uint8)
        self._rerun.log('confidence', self._rerun.Image(grey))

    def _show_points(self, message: Any) -> None:
        fields = decode_cloud(message)
        points = np.stack([fields[name] for name in 'xyz'], axis=1)
        colours = unpack_rgb(fields['rgb']) if 'rgb' in fields else None
        self._rerun.log('points', self._rerun.Points3D(points, colors=colours, radii=-1.5))

    def _refresh(self) -> None:
        for one in self._inputs:
            one.refresh()
        if self._viewer.poll() is not None:
            self._throttled.error(
                'viewer', f'the viewer of rerun ended with code {self._viewer.returncode}'
            )


def _find_rerun() -> Any:
    try:
        return importlib.import_module('rerun')
    except ImportError as error:
        raise SettingsError(
            'viewer rerun is not installed: pip install rerun-sdk (the extra `rerun`), or use '
            'RViz with rviz:=true'
        ) from error


def _find_program() -> str:
    """The viewer beside this Python, or on PATH. Raises SettingsError where it is missing."""
    beside = Path(sys.executable).with_name('rerun')
    program = str(beside) if beside.is_file() else shutil.which('rerun')
    if program is None:
        raise SettingsError(
            'the program `rerun` is not there: pip install --force-reinstall rerun-sdk (the extra '
            '`rerun`), or use RViz with rviz:=true'
        )
    return program


def _switch_statistics_off(program: str, home: Path) -> None:
    """Give rerun, here and in children, settings in `home` in which its analytics are disabled.

    Raises SettingsError where it does not take them.
    """
    os.environ['XDG_CONFIG_HOME'] = str(home / 'config')
    os.environ['XDG_DATA_HOME'] = str(home / 'data')
    done = subprocess.run(
        [program, 'analytics', 'disable'], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise SettingsError(
            f'the usage statistics of rerun cannot be switched off (`{program} analytics disable` '
            f'ended with code {done.returncode}): {done.stderr.strip()[-300:]}'
        )


def _start_viewer(program: str, settings: RerunViewerSettings) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            program,
            '--serve-web',
            *('--bind', LOOPBACK),
            *('--port', str(settings.data_port)),
            *('--web-viewer-port', str(settings.web_port)),
            *('--server-memory-limit', settings.memory),
        ],
        stdin=subprocess.DEVNULL,
    )


def _layout(rerun: Any) -> Any:
    views = importlib.import_module('rerun.blueprint')
    pictures = views.Vertical(
        views.Spatial2DView(origin='image', name='camera'),
        views.Spatial2DView(origin=CAMERA, name='depth'),
        views.Spatial2DView(origin='confidence', name='confidence'),
    )
    cloud = views.Spatial3DView(origin='/', contents=['points', CAMERA], name='cloud')
    return views.Blueprint(views.Horizontal(cloud, pictures, column_shares=[3, 2]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Show until told to stop; returns the exit code."""
    return run_node(RerunViewer, arguments)


if __name__ == '__main__':
    raise SystemExit(main())
