"""Fields of a training batch, one provider each.

A loss names the fields it reads; the loader makes those and no others. To add a field, write a
`Provider` and list it in `PROVIDERS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray
import torch
from torch import Tensor

from psd_depth_ros.augment.colour import Colours
from psd_depth_ros.augment.crops import centred_window, Window
from psd_depth_ros.data.frames import SEMANTIC_STRIDE, Sequence
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import relative

MOST_LIDAR_POINTS = 2048
_MIRROR = np.diag([-1.0, 1.0, 1.0, 1.0])


class ScaledSequence:
    """A sequence whose frames are `factor` times the size (height, width) of the network."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.factor = sequence.fine_factor
        height, width = sequence.camera.size
        self.size = (height // self.factor, width // self.factor)
        self.whole = centred_window((height, width), (height, width))


@dataclass(frozen=True)
class Example:
    """One sample of a batch: a triplet, the window of its frames, the change of colours.

    `triplet` holds the indices of the target, the earlier and the later source frame. `colours`
    is None where they stay as they are, `focal_factor` is of a focal length that is a guess.
    """

    scaled: ScaledSequence
    triplet: tuple[int, ...]
    window: Window
    colours: Colours | None
    seed: int
    focal_factor: float = 1.0

    @property
    def sequence(self) -> Sequence:
        """The sequence of the triplet."""
        return self.scaled.sequence

    @cached_property
    def fine_frames(self) -> list[NDArray[np.uint8]]:
        """The window of the three frames, each (f H, f W, 3)."""
        return [self.window.image(self.sequence.rgb[index]) for index in self.triplet]

    @cached_property
    def frames(self) -> list[NDArray[np.uint8]]:
        """The window of the three frames at the network's size, each (H, W, 3).

        Those of a whole frame are the pixels that a node would see.
        """
        if replace(self.window, mirrored=False) != self.scaled.whole:
            return [self.sequence.shrink(frame) for frame in self.fine_frames]
        frames = [self.sequence.network_image(index) for index in self.triplet]
        return [cv2.flip(one, 1) for one in frames] if self.window.mirrored else frames

    @property
    def camera(self) -> Camera:
        """The camera of `frames`."""
        height, width = self.scaled.size
        return self.window.camera(self.sequence.camera).resize(width, height)

    @cached_property
    def motions(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """T_source_target (2, 4, 4) of the camera and distances (2,) in metres; NaN if unknown."""
        sequence = self.sequence
        poses, distance_m = np.full((2, 4, 4), np.nan), np.full(2, np.nan)
        if sequence.poses is not None:
            target, *sources = (sequence.poses[index] for index in self.triplet)
            for number, source in enumerate(sources):
                distance_m[number] = np.linalg.norm(source[:3, 3] - target[:3, 3])
                if sequence.poses_are_of_camera:
                    poses[number] = relative(source, target)
        estimated = sequence.pair_poses or {}
        for number, source in enumerate(self.triplet[1:]):
            if np.isnan(poses[number]).any():
                poses[number] = estimated.get((self.triplet[0], source), np.nan)
        return poses, distance_m

    def recoloured(self, frames: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """The frames with the sample's change of colours."""
        return frames if self.colours is None else [self.colours.change(one) for one in frames]


class Provider(ABC):
    """Makes one field of a batch.

    `name` is the field's. `remedy` tells a user what a recording needs to have the field.
    """

    name: str
    remedy = ''

    def is_in(self, sequence: Sequence) -> bool:
        """Whether any sample of the sequence has a known value."""
        return True

    @abstractmethod
    def make(self, example: Example) -> Tensor:
        """The field of one sample; NaN, or no rows, where nothing is known."""

    def collate(self, values: list[Tensor]) -> Tensor:
        """The field of a batch (B, ...) of the samples'."""
        return torch.stack(values)


class Image(Provider):
    """(3, 3, H, W) uint8: the frames as they are; what losses compare."""

    name = 'image'

    def make(self, example: Example) -> Tensor:
        """The three frames."""
        return _planes(example.frames)


class ImageAugmented(Provider):
    """(3, 3, H, W) uint8: the frames with other colours; what networks see."""

    name = 'image_augmented'

    def make(self, example: Example) -> Tensor:
        """The three frames, recoloured alike."""
        return _planes(example.recoloured(example.frames))


class Fine(Provider):
    """(3, 3, f H, f W) uint8: the frames at a whole multiple of the network's size."""

    name = 'fine'

    def make(self, example: Example) -> Tensor:
        """The three frames."""
        return _planes(example.fine_frames)


class FineAugmented(Provider):
    """(3, f H, f W) uint8: the target frame of `fine` with other colours."""

    name = 'fine_augmented'

    def make(self, example: Example) -> Tensor:
        """The target frame, recoloured as `image_augmented` is."""
        return _planes(example.recoloured(example.fine_frames[:1]))[0]


class Intrinsics(Provider):
    """(4,) float32: fx, fy, cx, cy in pixels of `image`."""

    name = 'intrinsics'

    def make(self, example: Example) -> Tensor:
        """The camera of the sample's window."""
        camera = example.camera
        fx, fy = (example.focal_factor * focal for focal in (camera.fx, camera.fy))
        return torch.tensor([fx, fy, camera.cx, camera.cy])


class Valid(Provider):
    """(1, H, W) bool: false on the bonnet, other fixed regions and the border."""

    name = 'valid'

    def make(self, example: Example) -> Tensor:
        """The pixels that are valid throughout."""
        coverage = example.window.coverage(example.sequence.valid)
        size = example.scaled.size[::-1]
        valid = cv2.resize(coverage, size, interpolation=cv2.INTER_AREA) > 0.999
        return torch.from_numpy(valid)[None]


class Seeds(Provider):
    """() int64: a seed for random draws inside the objective."""

    name = 'seeds'

    def make(self, example: Example) -> Tensor:
        """The seed."""
        return torch.tensor(example.seed, dtype=torch.int64)


class PosePrior(Provider):
    """(2, 4, 4) float32: T_source_target of the camera, known or estimated; NaN if neither."""

    name = 'pose_prior'
    remedy = (
        'record an odometry topic and the transform from its body to the camera, or set '
        'poses: tracked'
    )

    def is_in(self, sequence: Sequence) -> bool:
        """Whether poses of the camera are known or were estimated."""
        known = sequence.poses is not None and sequence.poses_are_of_camera
        return (known and _any_finite(sequence.poses)) or bool(sequence.pair_poses)

    def make(self, example: Example) -> Tensor:
        """The motions, mirrored where the window is."""
        poses, _ = example.motions
        if example.window.mirrored:
            poses = _MIRROR @ poses @ _MIRROR
        return torch.from_numpy(poses).float()


class Distance(Provider):
    """(2,) float32: metres from the target to each source; NaN if unknown."""

    name = 'distance_m'
    remedy = 'record odometry'

    def is_in(self, sequence: Sequence) -> bool:
        """Whether there are poses."""
        return _any_finite(sequence.poses)

    def make(self, example: Example) -> Tensor:
        """The distances between the recorded poses; estimated motions have no scale."""
        return torch.from_numpy(example.motions[1]).float()


class CameraHeight(Provider):
    """() float32: metres of the camera above the ground; NaN if unknown."""

    name = 'camera_height_m'
    remedy = 'give data.camera_height_m, or record the transform of the camera to the ground'

    def is_in(self, sequence: Sequence) -> bool:
        """Whether the height is known."""
        return sequence.camera_height_m is not None

    def make(self, example: Example) -> Tensor:
        """The height, the same for a whole sequence."""
        height_m = example.sequence.camera_height_m
        return torch.tensor(np.nan if height_m is None else height_m, dtype=torch.float32)


class Lidar(Provider):
    """(M, 3) float32: x, y in pixels of `image` and Z in metres of points in the target frame.

    M differs from sample to sample; a batch is filled with NaN.
    """

    name = 'lidar'
    remedy = (
        'name the point cloud topic (data.lidar_topic), and record the transform from the lidar '
        'or give data.lidar_pose'
    )

    def is_in(self, sequence: Sequence) -> bool:
        """Whether any frame has points."""
        return sequence.lidar is not None and any(len(points) for points in sequence.lidar)

    def make(self, example: Example) -> Tensor:
        """At most `MOST_LIDAR_POINTS` of the points inside the image."""
        lidar, scaled = example.sequence.lidar, example.scaled
        if lidar is None:
            return torch.zeros(0, 3)
        points = lidar[example.triplet[0]]
        points = points[:: max(1, -(-len(points) // MOST_LIDAR_POINTS))].astype(np.float32)
        points[:, :2] = (example.window.pixels(points[:, :2]) + 0.5) / scaled.factor - 0.5
        beyond = np.array(scaled.size[::-1]) - 0.5
        inside = ((points[:, :2] >= -0.5) & (points[:, :2] <= beyond)).all(axis=1)
        return torch.from_numpy(points[inside])

    def collate(self, values: list[Tensor]) -> Tensor:
        """(B, M, 3), filled with NaN up to the largest M."""
        most = max(map(len, values))
        padded = torch.full((len(values), most, 3), torch.nan)
        for row, points in zip(padded, values, strict=True):
            row[: len(points)] = points
        return padded


class Depth(Provider):
    """(1, H, W) float32: metres along Z of the target frame, NaN unknown, +Inf sky."""

    name = 'depth_m'
    remedy = 'give RGB-D recordings or rendered worlds, which have depth for every pixel'

    def is_in(self, sequence: Sequence) -> bool:
        """Whether any frame has depth."""
        depth = sequence.depth
        return depth is not None and any(np.isfinite(one).any() for one in depth)

    def make(self, example: Example) -> Tensor:
        """The nearest depth to each pixel, never a mean across an edge."""
        height, width = example.scaled.size
        depth = example.sequence.depth
        if depth is None:
            return torch.full((1, height, width), torch.nan)
        window = replace(example.window, output_height=height, output_width=width)
        return torch.from_numpy(window.depth(depth[example.triplet[0]].astype(np.float32)))[None]


class Recording(Provider):
    """() int64: `recording_id` of the recording that a sample is from."""

    name = 'recording'

    def make(self, example: Example) -> Tensor:
        """The number of the sequence."""
        return torch.tensor(recording_id(example.sequence), dtype=torch.int64)


def recording_id(sequence: Sequence) -> int:
    """A number that stands for a recording in a batch, the same in every run."""
    return zlib.crc32(f'{sequence.name} {sequence.fingerprint}'.encode())


class TeacherMap(Provider):
    """A map of a teacher for the target frame, from a sequence that has them."""

    def maps(self, sequence: Sequence) -> NDArray[np.float16] | None:
        """The maps (N, ..., h, w) of all frames, None where there are none."""
        maps: NDArray[np.float16] | None = getattr(sequence, self.name)
        return maps

    def is_in(self, sequence: Sequence) -> bool:
        """Whether the map of any frame has a known value."""
        maps = self.maps(sequence)
        return maps is not None and any(np.isfinite(one).any() for one in maps)

    def window(self, example: Example, output: tuple[int, int], channels: int) -> Tensor:
        """The window of the map at a size; NaN in so many channels where there are none."""
        maps = self.maps(example.sequence)
        if maps is None:
            return torch.full((channels, *output), torch.nan)
        found = example.window.map(maps[example.triplet[0]], example.sequence.camera.size, output)
        return torch.from_numpy(found.reshape(-1, *output))


class PseudoDepth(TeacherMap):
    """(1, H, W) float32: disparity by a depth teacher, in a scale and shift of its own."""

    name = 'pseudo_depth'
    remedy = 'name a depth teacher in the term that asks for it (docs/teachers.md)'

    def make(self, example: Example) -> Tensor:
        """The window of the map."""
        return self.window(example, example.scaled.size, 1)


class Semantics(TeacherMap):
    """(C, ceil(H / 8), ceil(W / 8)) float32: class probabilities or features by an expert.

    C is 0 where the run has no expert.
    """

    name = 'semantics'
    remedy = 'name a semantic expert in the term that asks for it (docs/teachers.md)'

    def make(self, example: Example) -> Tensor:
        """The window of the maps."""
        height, width = example.scaled.size
        output = (-(-height // SEMANTIC_STRIDE), -(-width // SEMANTIC_STRIDE))
        return self.window(example, output, 0)


# What every batch has, and what it has where a loss asks for it.
ALWAYS = frozenset({'image', 'image_augmented', 'intrinsics', 'valid', 'seeds'})
PROVIDERS: dict[str, Provider] = {
    provider.name: provider
    for provider in (
        *(Image(), ImageAugmented(), Intrinsics(), Valid(), Seeds()),
        *(Fine(), FineAugmented(), PosePrior(), Distance(), CameraHeight(), Lidar(), Recording()),
        *(PseudoDepth(), Semantics(), Depth()),
    )
}


def providers_of(fields: Iterable[str]) -> tuple[Provider, ...]:
    """The providers of some fields and of those every batch has, in the order of `PROVIDERS`.

    Raises SettingsError naming a field that nothing provides.
    """
    wanted = ALWAYS | frozenset(fields)
    if unknown := sorted(wanted - PROVIDERS.keys()):
        raise SettingsError(
            f'no provider makes the batch field {unknown[0]}; expected one of '
            f'{", ".join(sorted(PROVIDERS))}: see psd_depth_ros/data/fields.py'
        )
    return tuple(provider for name, provider in PROVIDERS.items() if name in wanted)


def check_fields(fields: Iterable[str], sequences: Iterable[Sequence]) -> None:
    """Refuse fields that no sample of any sequence has a known value of.

    Raises SettingsError naming the field and what a recording needs to have it.
    """
    known = list(sequences)
    for provider in providers_of(fields):
        if not any(provider.is_in(sequence) for sequence in known):
            raise SettingsError(
                f'no recording has {provider.name}, which the objective needs: {provider.remedy}'
            )


def count_known(field: str, sequences: Iterable[Sequence]) -> tuple[int, int]:
    """How many training triplets have a known value of a field, and how many there are."""
    known = total = 0
    provider = PROVIDERS[field]
    for sequence in sequences:
        scaled = ScaledSequence(sequence)
        for triplet in sequence.triplets.tolist():
            value = provider.make(Example(scaled, tuple(triplet), scaled.whole, None, 0))
            known += bool(torch.isfinite(value).any())
            total += 1
    return known, total


def _any_finite(poses: NDArray[np.float64] | None) -> bool:
    return poses is not None and bool(np.isfinite(poses).all(axis=(1, 2)).any())


def _planes(frames: list[NDArray[np.uint8]]) -> Tensor:
    """(n, 3, H, W) of n images (H, W, 3)."""
    planes = np.empty((len(frames), 3, *frames[0].shape[:2]), np.uint8)
    for frame, out in zip(frames, planes, strict=True):
        cv2.split(frame, [out[0], out[1], out[2]])
    return torch.from_numpy(planes)
