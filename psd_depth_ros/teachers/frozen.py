"""Frozen networks of other people: depth teachers and semantic experts.

What they say of a frame depends on the frame alone, so it is computed once and kept
(`data.maps`). A specification names a network (see `external.options`):

- NAME.safetensors, or what `package` made of one: a checkpoint of this package,
- `hf:OWNER/NAME`, or a folder with config.json: a network of Hugging Face `transformers`,
- NAME.onnx, NAME.tflite,
- any other folder: maps that were computed before, see `folder.MapFolder`,
- several networks of depth, ` + ` between them: their mean, see `MeanTeacher`.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Items
from dataclasses import replace
import hashlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
import torch

from psd_depth_ros.checkpoint import load_checkpoint, refuse_pickle
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.external.files import FileNetwork
from psd_depth_ros.external.hub import (
    find_folder,
    find_own,
    HubNetwork,
    is_hub_network,
    read_defaults,
)
from psd_depth_ros.external.network import Network, run_mirrored
from psd_depth_ros.external.open import is_external, open_depth_network
from psd_depth_ros.external.options import (
    DISPARITY,
    FILES,
    HUB,
    LOG_DEPTH,
    NetworkOptions,
    parse_spec,
)
from psd_depth_ros.external.placement import place
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.resample import resize
from psd_depth_ros.networks import load_model
from psd_depth_ros.preprocess import network_size
from psd_depth_ros.teachers.folder import CLASSES, DEPTH, MapFolder, one_hot, UNKNOWN_LICENCE

Image = NDArray[np.uint8]
Map = NDArray[np.float32]
Provenance = tuple[Mapping[str, Any], ...]

_CHECKPOINT = '.safetensors'
AND = ' + '  # between the specifications of teachers whose mean is taken


class _Frozen:
    """What depth teachers and semantic experts share: a network, and how it is used.

    Args:
        network: Gives one map for an image, or one for each class.
        name: For people.
        options: How to use it; `output` says what a network of depth gives.
    """

    def __init__(self, network: Network, name: str, options: NetworkOptions) -> None:
        self._network = network
        self._options = options
        self.name = options.name or name
        self.id = options.identify(network.content)
        self.provenance: Provenance = (
            {'name': self.name, 'licence': options.licence or UNKNOWN_LICENCE},
        )

    def _run(self, rgb: Image, camera: Camera) -> Map:
        """Maps (C, h, w) of the whole image (H, W, 3), placed as the options say."""
        size = self._network.input_size(rgb.shape[:2])
        placement = place(rgb.shape[:2], camera, size, self._options)
        image = placement.image(rgb)
        if not self._options.flip:
            return placement.whole(self._maps(image))
        maps, mirrored = run_mirrored(self._maps, image)
        return placement.whole(np.float32(0.5) * (maps + mirrored))

    def _maps(self, image: Image) -> Map:
        return self._read(self._network.run(image))

    def _read(self, output: NDArray) -> Map:
        """The maps (C, h, w) of an output, NaN where unknown."""
        raise NotImplementedError


class DepthTeacher(_Frozen):
    """A network that gives relative depth; see `_Frozen`."""

    @property
    def gives_depth(self) -> bool:
        """Whether its maps lack a scale only, no shift."""
        return self._options.output != DISPARITY or self._options.metric

    def __call__(self, rgb: Image, camera: Camera) -> Map:
        """Disparity (h, w) of the whole image, at a size of its own.

        Args:
            rgb: (H, W, 3).
            camera: Of the image, rectified.

        Returns:
            float32, up to an unknown scale and shift, larger is nearer, NaN where unknown.
        """
        output = self._run(rgb, camera)[0]
        if self._options.output == DISPARITY:
            return output
        if self._options.output == LOG_DEPTH:
            return np.exp(-output)
        with np.errstate(divide='ignore', invalid='ignore'):
            return 1.0 / output

    def _read(self, output: NDArray) -> Map:
        found = np.asarray(output, np.float32).reshape(-1, *output.shape[-2:])
        if len(found) != 1:
            raise SettingsError(
                f'teacher {self.name} gives {len(found)} maps, expected one of depth; name the '
                'output of depth as output_name, or bring it as a semantic expert'
            )
        known = np.isfinite(found)
        if self._options.output == DEPTH:
            known &= found > 0
        return np.where(known, found, np.float32(np.nan))


class SemanticExpert(_Frozen):
    """A network that gives classes, or features, of every pixel; see `_Frozen`."""

    def __call__(self, rgb: Image, camera: Camera) -> Map:
        """Probabilities of classes, or features, (C, h, w) of the whole image.

        Args:
            rgb: (H, W, 3).
            camera: Of the image, rectified.

        Returns:
            float32 at a size of its own, NaN where unknown.
        """
        return self._run(rgb, camera)

    def _read(self, output: NDArray) -> Map:
        if np.issubdtype(output.dtype, np.integer):
            classes = self._options.classes
            if not classes:
                raise SettingsError(
                    f'{self.name} gives numbers of classes; say how many classes there are, such '
                    f'as {self.name}?classes=21'
                )
            return one_hot(output.reshape(output.shape[-2:]), classes, self.name)
        scores = np.asarray(output, np.float32)
        if scores.ndim != 3 or self._options.features:
            return scores.reshape(-1, *scores.shape[-2:])
        is_probability = scores.min() >= 0 and np.allclose(scores.sum(axis=0), 1, atol=1e-2)
        return scores if is_probability else _softmax(scores)


def open_depth_teacher(spec: str) -> DepthTeacher | MapFolder:
    """Open a depth teacher, or a folder of depth maps, by its specification.

    Raises SettingsError where it cannot be read or what its output means is unclear, and
    CheckpointError for a damaged checkpoint.
    """
    if AND in spec:
        return MeanTeacher([open_depth_teacher(one.strip()) for one in spec.split(AND)])
    where, options = parse_spec(spec)
    refuse_pickle(where)
    path = Path(where)
    if path.suffix == _CHECKPOINT:
        return CheckpointTeacher(path, options)
    folder = find_folder(where) if is_hub_network(where) else None
    if folder is not None and (own := find_own(folder, where)) is not None:
        return CheckpointTeacher(own, options)
    if is_external(where):
        opened = open_depth_network(spec, folder=folder)
        return DepthTeacher(opened.network, opened.name, opened.options)
    return MapFolder(_folder(path, spec), DEPTH, options)


def open_semantic_expert(spec: str) -> SemanticExpert | MapFolder:
    """Open a semantic expert, or a folder of class maps; see `open_depth_teacher`."""
    where, options = parse_spec(spec)
    path = Path(where)
    if path.suffix == _CHECKPOINT:
        raise SettingsError(
            f'{path} is a checkpoint of a depth network, which knows no classes; expected '
            'hf:OWNER/NAME, a folder with config.json, .onnx, .tflite, or a folder of maps'
        )
    if path.suffix in FILES:
        return SemanticExpert(FileNetwork(path, options), path.stem, options)
    if is_hub_network(where):
        return _open_hub_expert(where, spec)
    return MapFolder(_folder(path, spec), CLASSES, options)


def _open_hub_expert(where: str, spec: str) -> SemanticExpert:
    folder = find_folder(where)
    _, options = parse_spec(spec, **read_defaults(folder, where))
    network = HubNetwork(folder, where, options, False)
    if not network.has_classes:
        options = replace(options, features=True)
    return SemanticExpert(network, _hub_name(where), options)


def _hub_name(where: str) -> str:
    return where.removeprefix(HUB) if where.startswith(HUB) else Path(where).name


class CheckpointTeacher(DepthTeacher):
    """A depth network of this package."""

    def __init__(self, path: Path, options: NetworkOptions) -> None:
        checkpoint = load_checkpoint(path)
        self._info = checkpoint.info
        self._model = load_model(checkpoint).eval()
        self._device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        self._model.to(self._device)
        self._flips = options.flip
        self.name = options.name or checkpoint.info.name
        self.id = options.identify(checkpoint.id)
        own = {'name': self.name, 'licence': options.licence or UNKNOWN_LICENCE}
        self.provenance = (*checkpoint.info.data, own)

    @property
    def gives_depth(self) -> bool:
        """See `DepthTeacher.gives_depth`."""
        return True

    @torch.inference_mode()
    def __call__(self, rgb: Image, camera: Camera) -> Map:
        """See `DepthTeacher.__call__`; in 1/metres where the checkpoint is metric."""
        height, width = network_size(camera, self._info.input.pixel_budget)
        small = camera.resize(width, height)
        image = cv2.resize(
            np.ascontiguousarray(rgb), (width, height), interpolation=cv2.INTER_AREA
        )
        disparity = self._predict(image, small)
        if self._flips:
            mirrored = self._predict(np.ascontiguousarray(image[:, ::-1]), small.flip())
            disparity = np.float32(0.5) * (disparity + mirrored[:, ::-1])
        return disparity

    def _predict(self, image: Image, camera: Camera) -> Map:
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].to(self._device)
        intrinsics = torch.tensor([[camera.fx, camera.fy, camera.cx, camera.cy]]).float()
        output = self._model(self._model.normalise(tensor), intrinsics.to(self._device))
        ratio = camera.canonical_ratio(self._info.output.canonical_focal_px)
        disparity = (-output.log_depth[0, 0].float()).exp() / ratio
        return disparity.cpu().numpy()


class MeanTeacher(DepthTeacher):
    """The geometric mean of several teachers of depth, each brought to the same median first.

    Networks that were trained apart are wrong in different places: their mean is better than the
    best of them where they are about as good as each other. Raises SettingsError where one of
    them gives disparity of unknown shift, or is a folder.
    """

    def __init__(self, teachers: Items[DepthTeacher | MapFolder]) -> None:
        self._teachers: list[DepthTeacher] = []
        for one in teachers:
            if not isinstance(one, DepthTeacher) or not one.gives_depth:
                raise SettingsError(
                    f'teacher {one.name} gives no depth, of which a mean could be taken; leave it '
                    f'out of the teachers joined by "{AND.strip()}"'
                )
            self._teachers.append(one)
        self.name = AND.join(one.name for one in self._teachers)
        self.id = hashlib.sha256('+'.join(one.id for one in self._teachers).encode()).hexdigest()
        self.provenance = tuple(entry for one in self._teachers for entry in one.provenance)

    @property
    def gives_depth(self) -> bool:
        """See `DepthTeacher.gives_depth`."""
        return True

    def __call__(self, rgb: Image, camera: Camera) -> Map:
        """Disparity (h, w) at the size of the finest map, 1 in the middle; NaN where any is."""
        maps = [one(rgb, camera) for one in self._teachers]
        size = max((one.shape for one in maps), key=lambda shape: shape[0] * shape[1])
        logarithms = np.log(np.stack([resize(one, (size[0], size[1])) for one in maps]))
        known = np.isfinite(logarithms).all(axis=0)
        if not known.any():
            return np.full(size, np.nan, np.float32)
        logarithms -= np.median(logarithms[:, known], axis=1)[:, None, None]
        mean: Map = np.exp(logarithms.mean(axis=0))
        return np.where(known, mean, np.float32(np.nan))


def _folder(path: Path, spec: str) -> Path:
    if path.is_dir():
        return path
    raise SettingsError(
        f'teacher {spec}: there is no such folder; expected a checkpoint (.safetensors), '
        'hf:OWNER/NAME, a folder with config.json, an .onnx or .tflite file, or a folder of maps'
    )


def _softmax(scores: Map) -> Map:
    exponentials = np.exp(scores - scores.max(axis=0))
    result: Map = exponentials / exponentials.sum(axis=0)
    return result
