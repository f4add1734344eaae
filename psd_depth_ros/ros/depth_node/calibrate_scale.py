"""The service `~/calibrate_scale`: metric scale from a few distances that a person has measured.

Each parameter of the request is a sample, [u, v, metres] or [u0, v0, u1, v1, metres], each result
its verdict. The places are read in the next images of the camera, whoever subscribes; fit and file
are those of `inference.scale_calibration`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import time

from rcl_interfaces.msg import Parameter, SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future

from psd_depth_ros.checkpoint import Checkpoint
from psd_depth_ros.errors import PsdDepthError, SettingsError
from psd_depth_ros.inference.scale import ScaleSettings
from psd_depth_ros.inference.scale_calibration import (
    CalibrationFile,
    MOST_SAMPLES,
    renew,
    Spot,
    SpotReader,
)
from psd_depth_ros.ros.depth_node.camera import CameraStream

IMAGES = 5  # that samples are the median of
PATIENCE_S = 5.0
_POLL_S = 0.05

Key = tuple[str, str]  # camera and sample
Verdict = tuple[bool, str]


class ScaleCalibrator:
    """The service, from the request to the file.

    Args:
        node: The node that offers it.
        cameras: Its cameras.
        checkpoint: The network in use, None where the node is not active.
        settings: Where the scale comes from now.
        load: Reads the file of calibrations.
        apply: Takes the file with another calibration.
    """

    def __init__(
        self,
        node: Node,
        cameras: Sequence[CameraStream],
        checkpoint: Callable[[], Checkpoint | None],
        settings: Callable[[], ScaleSettings],
        load: Callable[[], CalibrationFile],
        apply: Callable[[CalibrationFile], None],
    ) -> None:
        self._node = node
        self._cameras = {camera.name: camera for camera in cameras}
        self._checkpoint = checkpoint
        self._settings = settings
        self._load = load
        self._apply = apply
        # A group of its own: an answer that waits must not keep every other callback waiting.
        self._service = node.create_service(
            SetParameters,
            '~/calibrate_scale',
            self._on_request,
            callback_group=MutuallyExclusiveCallbackGroup(),
        )

    async def _on_request(
        self, request: SetParameters.Request, response: SetParameters.Response
    ) -> SetParameters.Response:
        """Answer with a verdict on every sample."""
        spots: list[tuple[str, Spot] | str] = [
            self._parse(parameter) for parameter in request.parameters or [Parameter()]
        ]
        given: dict[str, dict[str, Spot]] = {}
        for one in spots:
            if not isinstance(one, str):
                given.setdefault(one[0], {})[one[1].name] = one[1]
        verdicts = await self._judge(given)
        response.results = [
            SetParametersResult(successful=successful, reason=reason)
            for one in spots
            for successful, reason in [
                (False, one) if isinstance(one, str) else verdicts[one[0], one[1].name]
            ]
        ]
        return response

    def _parse(self, parameter: Parameter) -> tuple[str, Spot] | str:
        """Camera and place of a sample, or what is wrong with it."""
        camera, _, name = parameter.name.rpartition('/')
        if not camera and len(self._cameras) == 1:
            (camera,) = self._cameras
        if camera not in self._cameras or not name:
            return (
                f'sample {parameter.name!r} names no camera; write CAMERA/NAME, with a camera of '
                f'{", ".join(self._cameras)}'
            )
        value = parameter.value
        try:
            return camera, Spot.parse(
                name, list(value.double_array_value) or list(value.integer_array_value)
            )
        except SettingsError as error:
            return str(error)

    async def _judge(self, given: Mapping[str, Mapping[str, Spot]]) -> dict[Key, Verdict]:
        """Read places, given by camera and name, and calibrate; the verdict on every one."""
        checkpoint = self._checkpoint()
        if checkpoint is None or any(len(spots) > MOST_SAMPLES for spots in given.values()):
            why = f'expected {MOST_SAMPLES} samples of a camera at most'
            if checkpoint is None:
                why = 'the node is not active; activate it, in scale.mode relative if need be'
            return {(camera, name): (False, why) for camera in given for name in given[camera]}
        readers = {
            camera: SpotReader(list(spots.values()), checkpoint) for camera, spots in given.items()
        }
        if readers:
            await self._read(readers)
        return {
            (camera, name): verdict
            for camera, reader in readers.items()
            for name, verdict in self._calibrate(camera, reader).items()
        }

    async def _read(self, readers: Mapping[str, SpotReader]) -> None:
        """Let the worker read the places in the next images, until there are enough."""
        done: Future = Future()
        end_s = time.monotonic() + PATIENCE_S

        def poll() -> None:
            enough = all(one.count >= IMAGES or one.problem for one in readers.values())
            if enough or time.monotonic() >= end_s:
                done.set_result(None)

        for camera, reader in readers.items():
            self._cameras[camera].spots = reader
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        timer = self._node.create_timer(_POLL_S, poll, clock=steady)
        try:
            await done
        finally:
            self._node.destroy_timer(timer)
            for camera in readers:
                self._cameras[camera].spots = None

    def _calibrate(self, camera: str, reader: SpotReader) -> dict[str, Verdict]:
        """Fit, save and use what was read of a camera; the verdict on every place of it."""
        if reader.camera is None:
            topic = self._cameras[camera].report().image_topic
            why = reader.problem or (
                f'no depth of {camera} came in {PATIENCE_S:g} s: are images published on {topic}, '
                'with their camera_info?'
            )
            return {spot.name: (False, why) for spot in reader.spots}
        samples, problems = reader.samples()
        verdicts = {name: (False, problem) for name, problem in problems.items()}
        if not samples:
            return verdicts
        note = ''
        try:
            file = self._load()
            renewal = renew(file.cameras.get(camera), samples, reader.checkpoint, reader.camera)
            if renewal.calibration is not None:
                self._apply(file.renewed(camera, renewal.calibration))
                result = f'{renewal.calibration}, {self._describe_use()}, saved to {file.path}'
                self._node.get_logger().info(f'{camera}: scale calibrated: {result}')
                note = f'; {result}'
        except PsdDepthError as error:
            return verdicts | {sample.name: (False, str(error)) for sample in samples}
        for sample in samples:
            successful, text = renewal.verdict(sample.name)
            verdicts[sample.name] = (successful, text + note)
        return verdicts

    def _describe_use(self) -> str:
        settings = self._settings()
        if settings.needs_metric_checkpoint:
            return 'in use'
        if settings.mode == 'fixed':
            return 'not in use, for scale.factor goes before it: set that to 0'
        return f'not in use in scale.mode {settings.mode}, but in fixed'
