"""What the engine does around a network on a GPU, with torch: images in, depth and clouds out.

On a CPU `preprocess`, `postprocess` and `cloud` do the same with OpenCV and NumPy, several times
as fast as torch would there. All functions work on any device, so that tests compare both.
"""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor
import torch.nn.functional as F

from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.view import sampling_map
from psd_depth_ros.geometry.warp import sample
from psd_depth_ros.inference.cloud import (
    CloudSettings,
    describe_points,
    field_names,
    PackedCloud,
    rays,
)
from psd_depth_ros.inference.postprocess import ConfidenceModel, DepthSettings, LN_DELTA1
from psd_depth_ros.preprocess import (
    check_image,
    choose_sampling,
    halved_size,
    halvings_to_resize,
    normalisation,
)

Image = NDArray[np.uint8]
Map = NDArray[np.float32]


class DeviceSteps:
    """The steps of an engine whose network runs on `device`; see `engine.Steps`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def array(self, values: NDArray) -> Tensor:
        """An array as a tensor on the device."""
        return torch.from_numpy(values).to(self._device)

    def stack(self, inputs: Sequence[Tensor]) -> Tensor:
        """Inputs of several images as those of a batch."""
        return inputs[0] if len(inputs) == 1 else torch.cat(list(inputs))

    def preprocessor(
        self, camera: Camera, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> DevicePreprocessor:
        """From images of a camera to network input of a size."""
        return DevicePreprocessor(camera, size, mean, std, self._device)

    @torch.inference_mode()
    def finish(
        self, maps: Sequence[Tensor], **options: Any
    ) -> tuple[tuple[Map, Map], tuple[Tensor, Tensor]]:
        """Depth and confidence of maps (3, h, w): as arrays, in one copy, and on the device."""
        found = finish_depth(*maps, **options)
        both = torch.stack(found).cpu().numpy()
        return (both[0], both[1]), found


class DevicePreprocessor:
    """Turns uint8 RGB images of one camera into normalised network input on a device.

    Everything that depends on the camera alone is computed here, once. Parts of the output that
    the camera does not see hold 0, which is the mean colour.

    Args:
        camera: The camera of the images.
        size: Height and width of the network input.
        mean: Of the network, of colours in [0, 1].
        std: Likewise.
        device: Of the output.
    """

    def __init__(
        self,
        camera: Camera,
        size: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str,
    ) -> None:
        self.source = camera
        self.size = size
        self.device = torch.device(device)
        self.camera = camera.rectified().resize(size[1], size[0])
        gain, offset = normalisation(mean, std)
        self._gain = torch.tensor(gain, device=self.device).view(1, 3, 1, 1)
        self._offset = torch.tensor(offset, device=self.device).view(1, 3, 1, 1)
        self._remap: _Remap | None = None
        if not camera.is_rectified:
            self._remap = _Remap(camera, self.camera, self.device)

    @torch.inference_mode()
    def __call__(self, rgb: Image) -> Tensor:
        """Give (1, 3, h, w) float32 on the device for `rgb` (H, W, 3).

        Raises MessageError where the image is not uint8 RGB of the camera's size.
        """
        image = torch.from_numpy(check_image(rgb, self.source)).permute(2, 0, 1)[None]
        # non_blocking: pageable memory is read before this returns, the GPU is not waited for
        image = image.to(self.device, non_blocking=True)
        if self._remap is not None:
            return self._remap.sample(self._normalise(image))
        if image.shape[-2:] != self.size:
            times = halvings_to_resize(rgb.shape[:2], self.size)
            image = F.interpolate(
                _halve(image.float(), times),
                self.size, mode='bilinear', align_corners=False, antialias=True,
            )  # fmt: skip
        return self._normalise(image)

    def colours(self, planes: Tensor) -> None:
        """Nothing: they are sampled anew where wanted, rather than waited for."""

    def depth_ratio(self, canonical_focal_px: float) -> float:
        """Factor from canonical depth to that of the camera."""
        return self.camera.canonical_ratio(canonical_focal_px)

    def whole(self, maps: Tensor) -> Tensor:
        """Maps (C, h, w) of the input as maps of the whole image, which the input shows."""
        return maps

    def _normalise(self, image: Tensor) -> Tensor:
        """(x / 255 - mean) / std as one multiply and one add, float32, contiguous."""
        out = torch.empty(image.shape, dtype=torch.float32, device=image.device)
        return torch.mul(image, self._gain, out=out).add_(self._offset)


class _Remap:
    """Samples normalised images through a map on any device."""

    def __init__(self, camera: Camera, view: Camera, device: torch.device) -> None:
        self._halvings, self._over = choose_sampling(camera, view)
        height, width = halved_size(camera.size, self._halvings)
        fine = view.resize(self._over * view.width, self._over * view.height)
        pixels = sampling_map(camera.resize(width, height), fine)
        seen = np.isfinite(pixels[..., 0])
        self._pixels = torch.from_numpy(np.nan_to_num(pixels))[None].to(device)  # (1, kh, kw, 2)
        self._seen = torch.from_numpy(seen)[None, None].to(device, torch.float32)

    def sample(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) float32 -> (1, 3, h, w); 0 where nothing is seen."""
        fine = sample(_halve(image, self._halvings), self._pixels) * self._seen
        return fine if self._over == 1 else F.avg_pool2d(fine, self._over)


def _halve(image: Tensor, times: int) -> Tensor:
    """As `preprocess.halve`, without rounding: (1, 3, H, W)."""
    return F.avg_pool2d(image, 2**times) if times else image


def confidence_from_sigma(
    sigma: Tensor, model: ConfidenceModel, scale_variance: float | Tensor = 0.0
) -> Tensor:
    """As `postprocess.confidence_from_sigma`, of tensors of any device."""
    variance = (model.gain * sigma).square() + (model.floor**2 + scale_variance)
    return torch.erf(LN_DELTA1 / math.sqrt(2.0) * variance.clamp(min=1e-12).rsqrt())


def finish_depth(
    log_depth: Tensor,
    sigma: Tensor,
    sky_probability: Tensor,
    *,
    gain: float,
    size: tuple[int, int],
    settings: DepthSettings,
    confidence_model: ConfidenceModel,
    scale_variance: float | Tensor = 0.0,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """As `postprocess.finish_depth`, of tensors of any device."""
    confidence = confidence_from_sigma(sigma.float(), confidence_model, scale_variance)
    u = log_depth.float() + math.log(gain)
    maps = torch.stack([u, confidence, sky_probability.float()])[None]  # (1, 3, h, w)
    if maps.shape[-2:] != size:
        maps = F.interpolate(maps, size, mode='bilinear', align_corners=False)
    u, confidence, sky_probability = maps[0].unbind()  # (H, W) each
    depth = u.exp()
    too_near, too_far = depth < settings.min_depth_m, depth > settings.max_depth_m
    depth.masked_fill_(too_near, -math.inf).masked_fill_(too_far, math.inf)
    if settings.min_confidence > 0:
        depth.masked_fill_(~(confidence >= settings.min_confidence), math.nan)
    if settings.sky:
        depth.masked_fill_(sky_probability > 0.5, math.inf)
    if mask is not None:
        depth.masked_fill_(~mask, math.nan)
        confidence = confidence * mask
    return depth, confidence.contiguous()


@torch.inference_mode()
def build_cloud(
    depth: Tensor,
    confidence: Tensor,
    rgb: Image | None,
    camera: Camera,
    settings: CloudSettings,
) -> PackedCloud:
    """As `cloud.build_cloud`, of tensors of any device, with one copy to the host at the end."""
    if not settings.colour:
        rgb = None
    device, step, depth = depth.device, settings.decimation, depth.float()
    confidence = confidence.float()
    keep = _find_points(depth, confidence, settings)[::step, ::step]
    z = depth[::step, ::step]
    if settings.organised:
        z = z.masked_fill(~keep, math.nan)
    x, y = (torch.from_numpy(axis).to(device) for axis in rays(camera, step))
    # Integers all the way: colours seen as floats are subnormal, which a kernel may flush to 0.
    columns = [(x * z).view(torch.int32), (y * z).view(torch.int32)]
    columns.append(z.contiguous().view(torch.int32))
    if rgb is not None:
        colours = torch.as_tensor(rgb, device=device)[::step, ::step].to(torch.int32)
        columns.append((colours[..., 0] << 16) | (colours[..., 1] << 8) | colours[..., 2])
    if settings.confidence:
        columns.append(confidence[::step, ::step].contiguous().view(torch.int32))
    points = torch.stack(columns, dim=-1)  # (h, w, C)
    height, width = points.shape[:2]
    if not settings.organised:
        points = points[keep]  # (N, C)
        height, width = 1, len(points)
    data = points.cpu().numpy().reshape(-1).view(np.uint8)
    names = field_names(rgb is not None, settings)
    return describe_points(data, names, height, width, settings.organised)


def _find_points(depth: Tensor, confidence: Tensor, settings: CloudSettings) -> Tensor:
    """True (H, W) for the pixels that become points."""
    keep = (depth >= settings.min_range_m) & (depth <= settings.max_range_m)
    if settings.min_confidence > 0:
        keep &= confidence >= settings.min_confidence
    if settings.flying_pixels > 0:
        jump, unknown = 1.0 + settings.flying_pixels, depth.isnan()
        nearest = -_highest_neighbour(-depth.masked_fill(unknown, math.inf))
        farthest = _highest_neighbour(depth.masked_fill(unknown, 0.0))
        keep &= ~((depth > jump * nearest) & (farthest > jump * depth))
    return keep


def _highest_neighbour(values: Tensor) -> Tensor:
    """Maximum of each 3x3 neighbourhood, (H, W)."""
    return F.max_pool2d(values[None, None], 3, stride=1, padding=1)[0, 0]
