"""Depth engine: image and camera in, metric depth and confidence out.

One engine owns one network on one device and serves any number of cameras. It is plain Python:
nodes, the command line and tests call the same `infer_batch`. Not thread-safe. `scale` estimates
the metric scale.

On a CPU all but the network is NumPy and OpenCV, and a network that was converted before is read
from disk: torch, a second and 150 MB of every start, is imported only where it runs or converts.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
import math
import os
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.checkpoint import check_pixel_budget, Checkpoint, load_checkpoint
from psd_depth_ros.errors import DeviceError, SettingsError
from psd_depth_ros.external.hub import find_folder, find_own, is_hub_network
from psd_depth_ros.external.open import is_external, open_depth_network
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.view import view_mask
from psd_depth_ros.inference.affine import Affine
from psd_depth_ros.inference.backends import Backend
from psd_depth_ros.inference.choose import (
    choose_device,
    convert_here,
    is_cpu,
    load_here,
    make_backend,
)
from psd_depth_ros.inference.cloud import build_cloud, CloudSettings, PackedCloud
from psd_depth_ros.inference.conversion import Convert, Shape, SubprocessConverter
from psd_depth_ros.inference.exported import (
    check_camera,
    describe_exported,
    Exported,
    ExportedBackend,
    Parity,
    read_exported,
)
from psd_depth_ros.inference.external import describe, ExternalBackend, ExternalView
from psd_depth_ros.inference.network_store import (
    find_place,
    is_known,
    is_storable,
    StoredConverter,
)
from psd_depth_ros.inference.postprocess import ConfidenceModel, DepthSettings, finish_depth
from psd_depth_ros.inference.scale import Scale, ScaleTracker
from psd_depth_ros.inference.temporal import TemporalFilter
from psd_depth_ros.preprocess import network_size, Preprocessor, Rectifier, ViewSampler

Image = NDArray[np.uint8]
Map = NDArray[np.float32]
Request = tuple[Image, Camera]
Moment = tuple[TemporalFilter, int]

_MOST_CAMERAS = 16


class View(Protocol):
    """Images of one camera on their way into a network, and its maps on their way back.

    Attributes:
        size: Height and width of the network's input.
        camera: Of the whole rectified image at the scale of the input.
    """

    size: tuple[int, int]
    camera: Camera

    def __call__(self, rgb: Image) -> Any:
        """Input of the network for an image (H, W, 3) of the camera, its first side 1."""

    def colours(self, given: Any) -> Image | None:
        """The rectified image (h, w, 3) that an input of the network shows; None if it cannot."""

    def depth_ratio(self, canonical_focal_px: float) -> float:
        """Factor from the network's depth to that of the camera."""

    def whole(self, maps: Any) -> Any:
        """Maps (C, h, w) of the input as maps of the whole image."""


class Steps(Protocol):
    """What is done around the network: with arrays on a CPU, with tensors on a device."""

    def array(self, values: NDArray) -> Any:
        """An array where the network is."""

    def stack(self, inputs: Sequence[Any]) -> Any:
        """Inputs of several images as those of a batch."""

    def preprocessor(
        self, camera: Camera, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> View:
        """From images of a camera to network input of a size (height, width)."""

    def finish(self, maps: Any, **options: Any) -> tuple[tuple[Map, Map], tuple[Any, Any] | None]:
        """Depth and confidence (H, W) of maps (3, h, w), and both on the device if it is one.

        The options are those of `postprocess.finish_depth`.
        """


class HostSteps:
    """The steps on a CPU."""

    def array(self, values: NDArray) -> NDArray:
        """See `Steps.array`."""
        return values

    def stack(self, inputs: Sequence[Map]) -> Map:
        """See `Steps.stack`."""
        return inputs[0] if len(inputs) == 1 else np.concatenate(inputs)

    def preprocessor(
        self, camera: Camera, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> View:
        """See `Steps.preprocessor`."""
        return Preprocessor(camera, size, mean, std)

    def finish(self, maps: Sequence[Map], **options: Any) -> tuple[tuple[Map, Map], None]:
        """See `Steps.finish`."""
        return finish_depth(*maps, **options), None


@dataclass(frozen=True)
class DepthFrame:
    """Depth of one image in its rectified view.

    `depth_m` (H, W) float32 metres along Z: NaN unknown or not trusted, +Inf sky or beyond range,
    -Inf nearer than range (REP 117). `confidence` (H, W) float32 in [0, 1], the probability that
    depth is within 25 %, NaN where the network claims none. `camera` is the camera of the depth
    image. `maps` are depth and confidence on the engine's device, None on a CPU; `finish` computes
    the frame for another scale; `input_colours` gives the image as the network saw it, where that
    has the size of the depth. `disparity` (h, w) is what a network of unknown scale and shift
    gives, None of others. `problem` says why no pixel has depth, '' where some have; it is looked
    for on a CPU only.
    """

    depth_m: Map
    confidence: Map
    camera: Camera
    image: Image = field(repr=False)
    rectifier: Rectifier = field(repr=False)
    maps: tuple[Any, Any] | None = field(repr=False)
    finish: Callable[[Scale], DepthFrame] = field(repr=False)
    input_colours: Callable[[], Image | None] = field(repr=False)
    claims_confidence: bool = True
    disparity: Map | None = field(default=None, repr=False)
    problem: str = ''

    @cached_property
    def values(self) -> Map | None:
        """`disparity` at the size of the depth, NaN outside of what the camera sees."""
        if self.disparity is None:
            return None
        size = (self.camera.width, self.camera.height)
        values: Map = cv2.resize(self.disparity, size, interpolation=cv2.INTER_LINEAR)
        mask = self.rectifier.mask
        if mask is not None and mask.shape == values.shape:
            values[~mask] = np.nan
        return values

    @cached_property
    def rgb(self) -> Image:
        """The rectified image at the size of the depth, uint8 (H, W, 3)."""
        seen = self.input_colours()
        return self.rectifier.rectify_to(self.image, self.camera.size) if seen is None else seen

    def rescaled(self, scale: Scale) -> DepthFrame:
        """The frame with another scale, as if the engine had been given that scale.

        The network is not run again. Valid until the engine's next batch; on a GPU this waits for
        the result once more.
        """
        frame = self.finish(scale)
        if 'rgb' in self.__dict__:
            frame.__dict__['rgb'] = self.rgb
        return frame

    def cloud(self, settings: CloudSettings | None = None) -> PackedCloud:
        """Point cloud in the optical frame, computed on the device of the maps.

        No point is dropped for its confidence where the network claims none.
        """
        settings = settings or CloudSettings()
        if not self.claims_confidence:
            settings = replace(settings, min_confidence=0.0)
        rgb = self.rgb if settings.colour else None
        if self.maps is None:
            return build_cloud(self.depth_m, self.confidence, rgb, self.camera, settings)
        from psd_depth_ros.inference import on_device

        return on_device.build_cloud(*self.maps, rgb, self.camera, settings)


def apply_measured_scale(frame: DepthFrame, tracker: ScaleTracker, stamp_ns: int) -> DepthFrame:
    """Rescale a frame by the measurement made on it, for sources whose measurements are prompt.

    Otherwise the frame is returned as it is, with the scale predicted for it.
    """
    own = tracker.measured
    if not tracker.is_prompt or own is None or own.stamp_ns != stamp_ns:
        return frame
    return frame.rescaled(own.scale)


class _View:
    """What the engine keeps for one camera from frame to frame."""

    def __init__(
        self,
        camera: Camera,
        preprocess: View,
        canonical_focal_px: float,
        steps: Steps,
    ) -> None:
        self.preprocess = preprocess
        self.rectifier = Rectifier(camera)
        self.masks: dict[bool, Any] = {True: None, False: None}
        seen = self.preprocess.camera
        if not camera.is_rectified:
            assert self.rectifier.mask is not None
            self.masks[True] = steps.array(self.rectifier.mask)
            self.masks[False] = steps.array(view_mask(camera, seen))
        values = np.array([[seen.fx, seen.fy, seen.cx, seen.cy]], np.float32)
        self.intrinsics = steps.array(values)
        self.gain = preprocess.depth_ratio(canonical_focal_px)
        self._source = camera

    @cached_property
    def _sampler(self) -> ViewSampler:
        return ViewSampler(self._source, self.preprocess.camera.size)

    def grey(self, rgb: Image, given: Any) -> Image:
        """The rectified image (h, w) at the scale of the network's input, which is `given`."""
        colours = self.preprocess.colours(given)
        if colours is None:
            colours = self._sampler.sample(rgb)
        grey: Image = cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY)
        return grey

    def colours(self, given: Any, full_size: bool) -> Image | None:
        """The image at the size of the depth if the input of the network, `given`, has it."""
        if full_size and self.rectifier.camera.size != self.preprocess.size:
            return None
        return self.preprocess.colours(given)


class DepthEngine:
    """A checkpoint on a device. Make it with `from_checkpoint`.

    Attributes:
        checkpoint: Its description.
        pixel_budget: Most pixels of the network's input.
        parity: Difference of an exported file to float32 torch, None for other networks.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        backend: Backend,
        device: Any = 'cpu',
        converter: Convert | None = None,
        pixel_budget: int = 0,
        make_view: Callable[[Camera], View] | None = None,
        claims_confidence: bool = True,
        network_device: str = '',
        cancel: Callable[[], None] | None = None,
        check: Callable[[], object] | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self._network_device = network_device or str(device)
        self._check = check
        self._own_view = make_view
        self._claims_confidence = claims_confidence
        self.pixel_budget = pixel_budget or checkpoint.info.input.pixel_budget
        self.parity: Parity | None = None
        self._converter = converter
        self._cancel = cancel
        self._backend = backend
        self._steps = _make_steps(str(device))
        self._views: OrderedDict[Camera, _View] = OrderedDict()
        output = checkpoint.info.output
        self._confidence = ConfidenceModel(output.sigma_gain, output.sigma_floor)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str] | None = None,
        device: str = 'auto',
        backend: str = 'auto',
        *,
        pixel_budget: int = 0,
        in_subprocess: bool = False,
    ) -> DepthEngine:
        """Load a checkpoint or a network of other people.

        Args:
            path: A checkpoint by file or name, None for the one that comes with the package; or
                the specification of an external network, see `external.options`.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            backend: `auto`, `torch`, `openvino` or `onnxruntime`.
            pixel_budget: Most pixels of the network's input; 0 is the size that the checkpoint
                names. More gives finer depth, fewer are faster.
            in_subprocess: Convert the network in another process, so that an engine at work in
                this one is not delayed; takes a few seconds longer.

        Raises CheckpointError for an unusable file, DeviceError where the device or backend is
        not available, SettingsError for a budget that no image can have, or a network of others
        that cannot be found or served.
        """
        check_pixel_budget(pixel_budget)
        if path is not None and (exported := read_exported(Path(path))) is not None:
            return cls._from_exported(exported, device, backend, pixel_budget)
        chosen = 'cpu' if is_cpu(device) else str(choose_device(device))
        if path is not None:
            spec = os.fspath(path)
            where = spec.partition('?')[0]
            if is_hub_network(where):
                folder = find_folder(where)
                path = find_own(folder, where)
                if path is None:
                    return cls._from_external(spec, chosen, backend, pixel_budget, folder)
            elif is_external(spec):
                return cls._from_external(spec, chosen, backend, pixel_budget)
        checkpoint = load_checkpoint(path)

        @cache
        def model() -> Any:
            return load_here(checkpoint)

        stored = is_storable(checkpoint)
        place = partial(find_place, checkpoint.id) if stored else None
        elsewhere = SubprocessConverter(checkpoint, place)
        here = convert_here(model)
        converter: Convert = elsewhere
        if stored:
            here = StoredConverter(here, checkpoint.id)
            converter = StoredConverter(converter, checkpoint.id, stores=False)
        made = make_backend(backend, model, chosen, converter if in_subprocess else here)
        is_checked = stored and is_known(checkpoint.id)
        if not in_subprocess and not is_checked:
            model()  # refuses weights that are not those of the network
        return cls(
            checkpoint,
            made,
            chosen,
            converter,
            pixel_budget,
            cancel=elsewhere.cancel,
            check=None if is_checked else model,
        )

    @classmethod
    def _from_external(
        cls,
        spec: str,
        device: str,
        backend: str,
        pixel_budget: int,
        folder: Path | None = None,
    ) -> DepthEngine:
        changes = {'pixel_budget': pixel_budget} if pixel_budget else {}
        external = open_depth_network(spec, device, folder, **changes)
        made = ExternalBackend(external)
        _check_backend(backend, made.name, external.where)

        def make_view(camera: Camera) -> ExternalView:
            return ExternalView(camera, external)

        return cls(
            describe(external),
            made,
            'cpu',  # of the maps, wherever the network runs
            make_view=make_view,
            claims_confidence=external.options.flip,
            network_device=external.network.device,
        )

    @classmethod
    def _from_exported(
        cls, exported: Exported, device: str, backend: str, pixel_budget: int
    ) -> DepthEngine:
        where, size = str(exported.path), exported.shape[2:]
        _check_backend(backend, exported.library, where)
        if device != 'auto' and not is_cpu(device):
            raise DeviceError(f'network {where} runs on the CPU only; choose device cpu, or auto')
        if pixel_budget and pixel_budget != size[0] * size[1]:
            raise SettingsError(
                f'{where} takes images of {size[1]}x{size[0]} only; leave out pixel_budget'
            )
        given = exported.info.input

        def make_view(camera: Camera) -> Preprocessor:
            check_camera(exported, camera)
            return Preprocessor(camera, (size[0], size[1]), given.mean, given.std)

        engine = cls(
            describe_exported(exported),
            ExportedBackend(exported),
            pixel_budget=size[0] * size[1],
            make_view=make_view,
        )
        engine.parity = exported.check()
        return engine

    @property
    def device(self) -> str:
        """The device of the network as text: `cpu`, or index and name of the GPU."""
        device = self._network_device
        if not device.startswith('cuda'):
            return device
        import torch

        return f'{device} ({torch.cuda.get_device_name(device)})'

    @property
    def backend(self) -> str:
        """Name of the library that runs the network."""
        return self._backend.name

    @property
    def memory_bytes(self) -> int:
        """Memory reserved on the GPU; 0 on a CPU."""
        if not self._network_device.startswith('cuda'):
            return 0
        import torch

        return torch.cuda.memory_reserved(self._network_device)

    def infer(self, rgb: Image, camera: Camera, scale: Scale | None = None) -> DepthFrame:
        """Depth of one image (H, W, 3) uint8 RGB; see `infer_batch`."""
        return self.infer_batch([(rgb, camera)], scales=[scale])[0]

    def infer_batch(
        self,
        requests: Sequence[Request],
        *,
        scales: Sequence[Scale | None] | None = None,
        settings: DepthSettings | None = None,
        full_size: bool = True,
        moments: Sequence[Moment] | None = None,
    ) -> list[DepthFrame]:
        """Depth of several images in one forward pass per input size.

        Args:
            requests: Images (H, W, 3) uint8 RGB with their cameras.
            scales: Metric scale of each image; None keeps the checkpoint's own, with its
                uncertainty.
            settings: Which depths are returned as numbers, and whether they are filtered.
            full_size: False gives depth at the network's input size.
            moments: The temporal filter of each image's camera, and the stamp of the image in
                nanoseconds; without them nothing is filtered.

        Returns:
            One DepthFrame per request. On a CPU its arrays are valid until the next call.

        Raises MessageError where an image is not uint8 RGB of its camera's size.
        """
        scales = scales or [None] * len(requests)
        settings = settings or DepthSettings()
        if not self._claims_confidence:
            settings = replace(settings, min_confidence=0.0)
        views = [self._view(camera) for _, camera in requests]
        groups: dict[tuple[int, int], list[int]] = {}
        for index, view in enumerate(views):
            groups.setdefault(view.preprocess.size, []).append(index)
        frames: dict[int, DepthFrame] = {}
        for indices in groups.values():
            given = [views[i].preprocess(requests[i][0]) for i in indices]
            intrinsics = [views[i].intrinsics for i in indices]
            maps = self._backend.run(self._steps.stack(given), self._steps.stack(intrinsics))
            for row, i in enumerate(indices):
                own = views[i].preprocess.whole(maps[row])
                if moments is not None:
                    grey = partial(views[i].grey, requests[i][0], given[row])
                    own = self._filter(own, views[i], grey, scales[i], settings, moments[i])
                colours = partial(views[i].colours, given[row], full_size)
                frames[i] = self._finish(
                    own, views[i], requests[i], scales[i], settings, full_size, colours
                )
        return [frames[i] for i in range(len(requests))]

    def is_ready(self, cameras: Sequence[Camera]) -> bool:
        """Whether images of these cameras, in one batch, need no compilation."""
        return all(self._backend.is_ready(shape) for shape in self._shapes(cameras))

    def prepare(self, cameras: Sequence[Camera]) -> None:
        """Compile for images of these cameras, one at a time and all in one batch.

        Safe in another thread while `infer_batch` runs, which it delays little: the conversion
        runs in another process. Raises DeviceError where it fails.
        """
        self._backend.prepare(self._single_and_joint_shapes(cameras), self._converter)

    def warm_up(self, cameras: Sequence[Camera]) -> None:
        """Compile and run for these cameras, so that the first frame is not late.

        As in `prepare`, one at a time and all in one batch. Without any it is only made sure that
        the weights are those of the network.
        """
        if not cameras and self._check is not None:
            self._check()
        self._backend.prepare(self._single_and_joint_shapes(cameras))
        requests = [(np.zeros((one.height, one.width, 3), np.uint8), one) for one in cameras]
        batches = [[one] for one in {one[1].size: one for one in requests}.values()]
        for batch in [*batches, requests] if len(requests) > 1 else batches:
            for _ in range(2):
                self.infer_batch(batch)

    def close(self) -> None:
        """Free the network's memory; the engine cannot be used afterwards.

        A `prepare` that runs in another thread ends soon, possibly with DeviceError.
        """
        if self._cancel is not None:
            self._cancel()
        self._backend.close()
        self._views.clear()

    def _shapes(self, cameras: Sequence[Camera]) -> list[Shape]:
        """Input shapes of one batch with an image of each of these cameras."""
        if self._own_view is not None:  # nothing is compiled
            return []
        sizes = Counter(network_size(one, self.pixel_budget) for one in cameras)
        return [(count, 3, *size) for size, count in sizes.items()]

    def _single_and_joint_shapes(self, cameras: Sequence[Camera]) -> list[Shape]:
        single = [shape for one in cameras for shape in self._shapes([one])]
        return list(dict.fromkeys([*single, *self._shapes(cameras)]))

    def _view(self, camera: Camera) -> _View:
        view = self._views.pop(camera, None) or self._make_view(camera)
        self._views[camera] = view
        if len(self._views) > _MOST_CAMERAS:
            self._views.popitem(last=False)
        return view

    def _make_view(self, camera: Camera) -> _View:
        given, output = self.checkpoint.info.input, self.checkpoint.info.output
        preprocess: View
        if self._own_view is not None:
            preprocess = self._own_view(camera)
        else:
            size = network_size(camera, self.pixel_budget)
            preprocess = self._steps.preprocessor(camera, size, given.mean, given.std)
        return _View(camera, preprocess, output.canonical_focal_px, self._steps)

    def _filter(
        self,
        maps: Any,
        view: _View,
        grey: Callable[[], Image],
        scale: Scale | None,
        settings: DepthSettings,
        moment: Moment,
    ) -> Any:
        """Output maps (3, h, w) of one image with filtered depth."""
        temporal, stamp_ns = moment
        if not settings.temporal_s > 0:
            temporal.reset()
            return maps
        on_host = isinstance(maps, np.ndarray)
        depth = maps[0] if on_host else maps[0].cpu().numpy()
        shape = None
        if self.checkpoint.affine:
            shape = _find_shape(depth, scale)
            depth = np.log(shape.relative_depth(depth))
        camera = view.preprocess.camera
        depth = temporal.update(
            depth, grey(), camera, stamp_ns, settings.temporal_s, self.checkpoint.id
        )
        if shape is not None:
            depth = shape.values(np.exp(depth))
        filtered = maps.copy() if on_host else maps.clone()
        filtered[0] = self._steps.array(depth)
        return filtered

    def _finish(
        self,
        maps: Any,
        view: _View,
        request: Request,
        scale: Scale | None,
        settings: DepthSettings,
        full_size: bool,
        input_colours: Callable[[], Image | None],
    ) -> DepthFrame:
        """Output maps (3, h, w) of one image to its frame."""
        camera = view.rectifier.camera if full_size else view.preprocess.camera
        if scale is None:
            output = self.checkpoint.info.output
            scale = Scale(1.0, output.scale_sigma**2 if output.metric else 0.0)
        log_depth, sigma, sky = maps
        scale_variance: float | Map = scale.variance
        if self.checkpoint.affine:
            log_depth, sigma, scale_variance = _place(log_depth, sigma, scale, settings)
        arrays, on_device = self._steps.finish(
            (log_depth, sigma, sky),
            gain=view.gain * scale.factor,
            size=(camera.height, camera.width),
            settings=settings,
            confidence_model=self._confidence,
            scale_variance=scale_variance,
            mask=view.masks[full_size],
        )

        def finish(another: Scale) -> DepthFrame:
            return self._finish(maps, view, request, another, settings, full_size, input_colours)

        return DepthFrame(
            *arrays,
            camera,
            request[0],
            view.rectifier,
            on_device,
            finish,
            input_colours,
            self._claims_confidence,
            maps[0] if self.checkpoint.affine else None,
            self._find_problem(maps),
        )

    def _find_problem(self, maps: Any) -> str:
        """Why output maps (3, h, w) tell nothing of any pixel, '' where they do."""
        if not isinstance(maps, np.ndarray):  # looking would wait for the network
            return ''
        if np.isfinite(maps[0]).any() or (maps[2] > 0.5).any():
            return ''
        return (
            f'network {self.checkpoint.info.name} gave no depth for a whole image, only NaN, Inf '
            'or values that are not above 0; look at that image, and at the values that the '
            'network gets (mean, std, input_max)'
        )


def _check_backend(wanted: str, own: str, where: str) -> None:
    """Raise DeviceError where another library is asked for than the one that runs a network."""
    if wanted not in ('auto', own):
        raise DeviceError(f'network {where} runs with {own}; choose that backend, or auto')


def _make_steps(device: str) -> Steps:
    """The steps for a device."""
    if device == 'cpu':
        return HostSteps()
    import torch

    from psd_depth_ros.inference.on_device import DeviceSteps

    return DeviceSteps(torch.device(device))


def _place(
    disparity: Map, sigma: Map, scale: Scale, settings: DepthSettings
) -> tuple[Map, Map, Map]:
    """Log-depth up to the factor of the scale, its sigma, and the variance of ln s at each pixel.

    Without a shift the median of disparity is taken for the middle of the range.
    """
    shape = _find_shape(disparity, scale)
    depth = shape.relative_depth(disparity)
    if scale.affine is None:
        middle_m = math.sqrt(settings.min_depth_m * settings.max_depth_m)
        return np.log(depth * middle_m), sigma * np.float32(np.nan), np.zeros_like(depth)
    variance = scale.variance + (1.0 - depth) ** 2 * shape.slope_variance
    spread = sigma * depth * np.float32(shape.slope / shape.spread)
    return np.log(depth), spread, variance


def _find_shape(disparity: Map, scale: Scale | None) -> Affine:
    """What makes disparity (h, w) depth; it is taken for 1/Z while its shift is unknown."""
    if scale is not None and scale.affine is not None:
        return scale.affine
    known = disparity[np.isfinite(disparity)]
    median = float(np.median(known)) if known.size else 1.0
    level = median if median > 0 else float(np.abs(known).max()) or 1.0
    return Affine(level, level, 1.0)
