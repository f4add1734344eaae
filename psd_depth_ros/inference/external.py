"""Networks of other people in the engine.

The engine meets such a network as it meets one of this package: an image goes in through a `View`,
u', sigma and the sky probability come out of a `Backend`. A network that states no uncertainty
gets a sigma of NaN: no confidence is claimed, and no depth is dropped for it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psd_depth_ros.checkpoint import Checkpoint, CheckpointInfo, InputInfo, OutputInfo
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.external.network import Network, run_mirrored
from psd_depth_ros.external.open import ExternalNetwork
from psd_depth_ros.external.options import DEPTH, DISPARITY, NetworkOptions
from psd_depth_ros.external.placement import place
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.resample import resize
from psd_depth_ros.inference.backends import LoadedBackend
from psd_depth_ros.preprocess import ViewSampler

Image = NDArray[np.uint8]
Map = NDArray[np.float32]

NOMINAL_IMAGE = (480, 640)  # height and width of the image for which an input size is stated
_CANONICAL_FOCAL_PX = 240.0  # any: gains are made with the same one


class ExternalView:
    """Images of one camera on their way into a network, and its maps on their way back.

    Attributes:
        size: Height and width of the network's input.
        camera: Of the whole rectified image at the scale of the input.
    """

    def __init__(self, camera: Camera, external: ExternalNetwork) -> None:
        options = external.options
        rectified = camera.rectified()
        image_size = (rectified.height, rectified.width)
        self.size = external.network.input_size(image_size)
        self._placement = place(image_size, rectified, self.size, options)
        rectangle = self._placement
        rows, columns = rectangle.bottom - rectangle.top, rectangle.right - rectangle.left
        self._sampler = ViewSampler(camera, (rows, columns))
        self.camera = self._sampler.camera
        self._focal_px = options.canonical_focal_px

    def __call__(self, rgb: Image) -> Image:
        """Input (1, h, w, 3) uint8 for an image (H, W, 3) of the camera, rectified and placed."""
        return self._placement.image(self._sampler.sample(rgb))[None]

    def depth_ratio(self, canonical_focal_px: float) -> float:
        """See `engine.View.depth_ratio`: the network has a focal length of its own, or none."""
        return self.camera.canonical_ratio(self._focal_px) if self._focal_px else 1.0

    def colours(self, given: Any) -> None:
        """Nothing: its input has borders, and may have been squeezed."""

    def whole(self, maps: Map) -> Map:
        """Maps (3, h, w) of the input as maps of the whole image; NaN where it saw nothing."""
        return np.ascontiguousarray(self._placement.whole(maps))


class ExternalBackend(LoadedBackend):
    """Runs a network of other people; see `Backend`."""

    def __init__(self, external: ExternalNetwork) -> None:
        self._network: Network | None = external.network
        self._options = external.options
        self._where = external.where
        self.name = external.network.library

    def run(self, image: Image, intrinsics: Map) -> Map:
        """Inputs (B, h, w, 3) uint8 to maps (B, 3, h', w'); the intrinsics are not looked at."""
        return np.stack([self._maps(one) for one in image])

    def close(self) -> None:
        """Drop the network."""
        self._network = None

    def _maps(self, image: Image) -> Map:
        """(3, h', w'): u', sigma (NaN where not asked for) and sky probability.

        Of a network of unknown scale and shift: disparity in place of u', sigma that of disparity.
        """
        assert self._network is not None, 'the engine was closed'
        run = partial(read_maps, self._network, self._options, self._where)
        if not self._options.flip:
            log_depth, sky = run(image)
            return np.stack([log_depth, np.full_like(log_depth, np.nan), sky])
        first, second = run_mirrored(run, image)
        mean = np.float32(0.5) * (first + second)
        return np.stack([mean[0], np.abs(first[0] - second[0]), mean[1]])


def read_maps(network: Network, options: NetworkOptions, where: str, image: Image) -> Map:
    """Run a network: logarithm of depth, and the probability of sky, (2, h', w').

    Sky is 0 where the network has no output of it. Raises SettingsError where an output is not
    what the options say.
    """
    output, sky = network.run_with_sky(image)
    log_depth = read_log_depth(output, options, where)
    if sky is None:
        return np.stack([log_depth, np.zeros_like(log_depth)])
    return np.stack([log_depth, _read_sky(sky, options, where, log_depth.shape)])


def _read_sky(output: NDArray, options: NetworkOptions, where: str, size: tuple[int, ...]) -> Map:
    """The probability of sky at the size of the depth; 0 where it is NaN."""
    found = np.asarray(output, np.float32).reshape(-1, *output.shape[-2:])
    name = options.sky_output
    if len(found) != 1:
        raise SettingsError(
            f'network {where}: output {name!r} holds {len(found)} maps, expected one of the '
            'probability of sky'
        )
    sky = np.nan_to_num(found[0], nan=-np.inf if options.sky_logits else 0.0)
    if options.sky_logits:
        sky = 0.5 + 0.5 * np.tanh(0.5 * np.clip(sky, -50.0, 50.0))
    elif sky.min() < -0.01 or sky.max() > 1.01:
        raise SettingsError(
            f'network {where}: output {name!r} reaches from {sky.min():g} to {sky.max():g}, '
            'expected probabilities of sky from 0 to 1; give sky_logits=true where it holds '
            'logits, or leave out sky_output'
        )
    return resize(sky.astype(np.float32), (size[0], size[1]))


def read_log_depth(output: NDArray, options: NetworkOptions, where: str) -> Map:
    """Logarithm of depth (h, w) of what a network gives, NaN where that is no depth.

    Of a network of unknown scale and shift it is disparity as it is.

    Raises SettingsError where the output has several maps.
    """
    found = np.asarray(output, np.float32).reshape(-1, *output.shape[-2:])
    if len(found) != 1:
        raise SettingsError(
            f'network {where} gives {len(found)} maps, expected one of depth; name the output of '
            'depth as output_name'
        )
    values = found[0]
    with np.errstate(divide='ignore', invalid='ignore'):
        if options.is_affine:
            return np.where(np.isfinite(values), values, np.float32(np.nan))
        if options.output == DEPTH:
            values = np.log(values)
        elif options.output == DISPARITY:
            values = -np.log(values)
        values = values + np.float32(np.log(options.unit_m))
    return np.where(np.isfinite(values), values, np.float32(np.nan))


def describe(external: ExternalNetwork) -> Checkpoint:
    """What the engine and its users read of a checkpoint, for a network of other people.

    Raises SettingsError where it cannot be served, see `find_obstacle`.
    """
    network, options = external.network, external.options
    if obstacle := find_obstacle(external):
        raise SettingsError(f'network {external.where}: {obstacle}')
    height, width = network.input_size(NOMINAL_IMAGE)
    info = CheckpointInfo(
        name=external.name,
        licence=options.licence,
        architecture={'encoder': f'{network.library}: {external.where}'},
        input=InputInfo(height, width),
        output=OutputInfo(
            _CANONICAL_FOCAL_PX, options.metric, max_depth_m=options.max_depth_m
        ),
        data=({'name': external.name, 'licence': options.licence or 'not stated'},),
    )  # fmt: skip
    return Checkpoint(
        external.where,
        info,
        {},
        options.identify(network.content)[:12],
        affine=options.is_affine,
    )


def find_obstacle(external: ExternalNetwork) -> str:
    """Why a network cannot be served, in words, '' where it can; it is run once, on noise.

    Raises SettingsError where it refuses its input or gives no map.
    """
    height, width = external.network.input_size(NOMINAL_IMAGE)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    found, _ = read_maps(external.network, external.options, external.where, noise)
    if not np.isfinite(found).any():
        return (
            'gives no depth for a test image, only NaN, Inf or values that are not above 0; check '
            'mean, std, input_max and what output means'
        )
    return ''
