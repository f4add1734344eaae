"""The depth engine: image and camera in, metric depth and confidence out.

One engine owns one network on one device and serves any number of cameras. It is plain Python:
nodes, the command line and tests call the same `infer_batch`. It is not safe for several threads
at once. Where the metric scale comes from is left to `scale`.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from psd_depth_ros.checkpoint import Checkpoint, load_checkpoint
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.view import view_mask
from psd_depth_ros.inference.backends import Backend, choose_device, make_backend
from psd_depth_ros.inference.cloud import build_cloud, CloudSettings, PackedCloud
from psd_depth_ros.inference.conversion import Shape, SubprocessConverter
from psd_depth_ros.inference.postprocess import ConfidenceModel, DepthSettings, finish_depth
from psd_depth_ros.inference.scale import ScaleTracker
from psd_depth_ros.networks.depth_model import load_model
from psd_depth_ros.preprocess import network_size, Preprocessor, Rectifier

Image = NDArray[np.uint8]
Map = NDArray[np.float32]
Request = tuple[Image, Camera]

_MOST_CAMERAS = 16


class Scale(NamedTuple):
    """A factor on the network's depth, and the variance of its logarithm."""

    factor: float = 1.0
    variance: float = 0.0


@dataclass(frozen=True)
class DepthFrame:
    """Depth of one image, in its rectified geometry.

    `depth_m` (H, W) float32 metres along Z: NaN untrusted or not seen, +Inf sky or beyond range,
    -Inf nearer than range (REP 117). `confidence` (H, W) float32 in [0, 1]. `camera` is the camera
    of the depth image. `maps` are both on the engine's device, `finish` makes them for a scale.
    """

    depth_m: Map
    confidence: Map
    camera: Camera
    image: Image = field(repr=False)
    rectifier: Rectifier = field(repr=False)
    maps: tuple[Tensor, Tensor] = field(repr=False)
    finish: Callable[[Scale], DepthFrame] = field(repr=False)

    @cached_property
    def rgb(self) -> Image:
        """The image that belongs to the depth: rectified, of its size, uint8 (H, W, 3)."""
        rgb = self.rectifier.rectify(self.image)
        size = (self.camera.height, self.camera.width)
        if rgb.shape[:2] == size:
            return rgb
        pixels = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
        small = torch.nn.functional.interpolate(
            pixels, size, mode='bilinear', antialias=True, align_corners=False
        )
        return small[0].permute(1, 2, 0).contiguous().numpy()

    def rescaled(self, scale: Scale) -> DepthFrame:
        """The frame with another scale, as if the engine had been given it at first.

        The network is not run again; what was beyond the range before may be within it now. Only
        until the engine's next batch. On a GPU it waits once more for the result.
        """
        frame = self.finish(scale)
        if 'rgb' in self.__dict__:
            frame.__dict__['rgb'] = self.rgb
        return frame

    def cloud(self, settings: CloudSettings | None = None) -> PackedCloud:
        """The point cloud in the optical frame, built where the maps are."""
        settings = settings or CloudSettings()
        on_cpu = self.maps[0].device.type == 'cpu'
        depth, confidence = (self.depth_m, self.confidence) if on_cpu else self.maps
        rgb = self.rgb if settings.colour else None
        return build_cloud(depth, confidence, rgb, self.camera, settings)


def settle_scale(frame: DepthFrame, tracker: ScaleTracker, stamp_ns: int) -> DepthFrame:
    """Give a frame that was observed the scale that it has measured itself, where it should wait.

    Depth of the scale that was foretold for it stays as it is.
    """
    own = tracker.measured
    if not tracker.is_prompt or own is None or own.stamp_ns != stamp_ns:
        return frame
    return frame.rescaled(Scale(own.factor, own.variance))


class _View:
    """Everything about one camera that does not change from frame to frame."""

    def __init__(self, camera: Camera, checkpoint: Checkpoint, device: torch.device) -> None:
        info = checkpoint.info
        self.preprocess = Preprocessor(
            camera,
            network_size(camera, info.input.pixel_budget),
            info.input.mean,
            info.input.std,
            device,
        )
        self.rectifier = Rectifier(camera)
        self.masks: dict[bool, Tensor | None] = {True: None, False: None}
        seen = self.preprocess.camera
        if not camera.is_rectified:
            assert self.rectifier.mask is not None
            self.masks[True] = torch.from_numpy(self.rectifier.mask).to(device)
            self.masks[False] = torch.from_numpy(view_mask(camera, seen)).to(device)
        values = [seen.fx, seen.fy, seen.cx, seen.cy]
        self.intrinsics = torch.tensor([values], dtype=torch.float32, device=device)
        self.gain = seen.canonical_ratio(info.output.canonical_focal_px)


class DepthEngine:
    """A checkpoint on a device. Make it with `from_checkpoint`."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        backend: Backend,
        device: torch.device,
        aside: SubprocessConverter | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self._aside = aside
        self._backend = backend
        self._device = device
        self._views: OrderedDict[Camera, _View] = OrderedDict()
        self._pixel_budget = checkpoint.info.input.pixel_budget
        output = checkpoint.info.output
        self._confidence = ConfidenceModel(output.sigma_gain, output.sigma_floor)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str] | None = None,
        device: str = 'auto',
        backend: str = 'auto',
        *,
        aside: bool = False,
    ) -> DepthEngine:
        """Load a checkpoint; None means the one that comes with the package.

        `aside` leaves the heavy part of it to another process, so that an engine at work in this
        one is not held up; that takes a few seconds longer. Raises CheckpointError for an unusable
        file and DeviceError where the device or backend asked for is not there.
        """
        chosen = choose_device(device)
        checkpoint = load_checkpoint(path)
        model = load_model(checkpoint)
        other = SubprocessConverter(model, checkpoint.info)
        made = make_backend(backend, model, chosen, other if aside else None)
        return cls(checkpoint, made, chosen, other)

    @property
    def device(self) -> str:
        """The device in words: `cpu`, or the GPU's index and name."""
        if self._device.type != 'cuda':
            return str(self._device)
        return f'{self._device} ({torch.cuda.get_device_name(self._device)})'

    @property
    def backend(self) -> str:
        """The library that runs the network."""
        return self._backend.name

    @property
    def memory_bytes(self) -> int:
        """Memory taken on the GPU; 0 on a CPU, whose memory is the process's."""
        return torch.cuda.memory_reserved(self._device) if self._device.type == 'cuda' else 0

    def infer(self, rgb: Image, camera: Camera, scale: Scale | None = None) -> DepthFrame:
        """Depth of one image (H, W, 3) uint8 RGB; see `infer_batch`."""
        return self.infer_batch([(rgb, camera)], scales=[scale])[0]

    @torch.inference_mode()
    def infer_batch(
        self,
        requests: Sequence[Request],
        *,
        scales: Sequence[Scale | None] | None = None,
        settings: DepthSettings | None = None,
        full_size: bool = True,
    ) -> list[DepthFrame]:
        """Depth of several images in one pass, one DepthFrame for each.

        `scales` multiply the depth; None keeps what the checkpoint says, with its own uncertainty.
        `full_size` off gives depth at the network's input size. Raises MessageError where an image
        is not uint8 RGB of its camera's size.
        """
        scales = scales or [None] * len(requests)
        settings = settings or DepthSettings()
        views = [self._view(camera) for _, camera in requests]
        groups: dict[tuple[int, int], list[int]] = {}
        for index, view in enumerate(views):
            groups.setdefault(view.preprocess.size, []).append(index)
        frames: dict[int, DepthFrame] = {}
        for indices in groups.values():
            images = [views[i].preprocess(requests[i][0]) for i in indices]
            intrinsics = [views[i].intrinsics for i in indices]
            maps = self._backend.run(_stack(images), _stack(intrinsics))
            for row, i in enumerate(indices):
                frames[i] = self._finish(
                    maps[row : row + 1], views[i], requests[i], scales[i], settings, full_size
                )
        return [frames[i] for i in range(len(requests))]

    def is_ready(self, cameras: Sequence[Camera]) -> bool:
        """Whether images of these cameras, in one batch, need no compiling first."""
        return all(self._backend.is_ready(shape) for shape in self._shapes(cameras))

    def prepare(self, cameras: Sequence[Camera]) -> None:
        """Compile for images of these cameras, which come alone and all in one batch.

        Safe in another thread while `infer_batch` is at work, which it holds up little: the heavy
        part is done in another process. Raises DeviceError where that cannot be.
        """
        self._backend.prepare(self._single_and_joint_shapes(cameras), self._aside)

    def warm_up(self, cameras: Sequence[Camera]) -> None:
        """Compile and run for these cameras, so that the first frame is not late.

        They come alone, and all in one batch.
        """
        self._backend.prepare(self._single_and_joint_shapes(cameras))
        requests = [(np.zeros((one.height, one.width, 3), np.uint8), one) for one in cameras]
        batches = [[one] for one in {one[1].size: one for one in requests}.values()]
        for batch in [*batches, requests] if len(requests) > 1 else batches:
            for _ in range(2):
                self.infer_batch(batch)

    def close(self) -> None:
        """Give the network's memory back; the engine is of no use afterwards.

        A `prepare` at work in another thread ends soon, with DeviceError or without.
        """
        if self._aside is not None:
            self._aside.cancel()
        self._backend.close()
        self._views.clear()

    def _shapes(self, cameras: Sequence[Camera]) -> list[Shape]:
        """What the backend gets where images of all these cameras come in one batch."""
        sizes = Counter(network_size(one, self._pixel_budget) for one in cameras)
        return [(count, 3, *size) for size, count in sizes.items()]

    def _single_and_joint_shapes(self, cameras: Sequence[Camera]) -> list[Shape]:
        single = [shape for one in cameras for shape in self._shapes([one])]
        return list(dict.fromkeys([*single, *self._shapes(cameras)]))

    def _view(self, camera: Camera) -> _View:
        view = self._views.pop(camera, None) or _View(camera, self.checkpoint, self._device)
        self._views[camera] = view
        if len(self._views) > _MOST_CAMERAS:
            self._views.popitem(last=False)
        return view

    def _finish(
        self,
        maps: Tensor,
        view: _View,
        request: Request,
        scale: Scale | None,
        settings: DepthSettings,
        full_size: bool,
    ) -> DepthFrame:
        """Maps (1, 3, h, w) of one image to its frame."""
        camera = view.rectifier.camera if full_size else view.preprocess.camera
        if scale is None:
            output = self.checkpoint.info.output
            scale = Scale(1.0, output.scale_sigma**2 if output.metric else 0.0)
        finished = finish_depth(
            *maps.unbind(1),
            gain=[view.gain * scale.factor],
            size=(camera.height, camera.width),
            settings=settings,
            confidence_model=self._confidence,
            scale_variance=scale.variance,
            mask=view.masks[full_size],
        )
        depth, confidence = (one[0] for one in finished)
        arrays = _download(depth, confidence)

        def finish(another: Scale) -> DepthFrame:
            return self._finish(maps, view, request, another, settings, full_size)

        return DepthFrame(*arrays, camera, request[0], view.rectifier, (depth, confidence), finish)


def _stack(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _download(depth: Tensor, confidence: Tensor) -> tuple[Map, Map]:
    """Both maps (H, W) as arrays: shared on a CPU, one copy from a GPU."""
    if depth.device.type == 'cpu':
        return depth.numpy(), confidence.numpy()
    both = torch.stack([depth, confidence]).cpu().numpy()
    return both[0], both[1]
