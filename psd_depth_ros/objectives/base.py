"""Terms, the context they share in a step, and their weighted sum.

A term is one loss of one paper. It reads what it needs from the `Context` of the step, which
computes each prediction, pose or warp when it is first asked for and keeps it: asking twice costs
once, and the order of terms does not matter. An `Objective` is the sum of weight(progress) * term.

Conventions of every transform are those of `geometry`. The depth of the network is canonical, so
that one rule Z = Z' fx / f_c serves the full image, an enlarged patch and a pasted part. Networks
run under the caller's autocast; depth, warping and losses are float32.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from psd_depth_ros.config import setting
from psd_depth_ros.data.frames import Sequence
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.geometry.warp import camera_matrix, invert
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.networks.bin_head import (
    BinPrediction,
    DepthOutput,
    expectation,
    expected_log_depth,
)
from psd_depth_ros.networks.pose_net import PoseNet
from psd_depth_ros.teachers import Teachers
from psd_depth_ros.visualisation import colour_depth

T = TypeVar('T')
Image = NDArray[np.uint8]  # (H, W, 3) RGB

FRAMES = ('target', 'earlier', 'later')
CLEAN_FRAMES = tuple(f'clean_{name}' for name in FRAMES)  # without the change of colours
EARLIER, LATER = 0, 1  # the sources of a triplet
STUDENT = 'student'
PHOTOMETRIC_WEIGHT = 'photometric weight'  # a result that a context keeps
POSE_INPUT_SCALE = 0.5  # side of the pose network's input over that of the depth network's
MIN_POSE_INPUT_PX = 64  # width of it, which the pose network halves six times


@dataclass(frozen=True)
class TermSettings:
    """The settings of every term: its weight over the progress (0 .. 1) of the run."""

    weight: float = setting(1.0, 'Weight of the term', minimum=0.0, maximum=1000.0)
    start: float = setting(
        0.0, 'Progress of the run at which the term begins', minimum=0.0, maximum=1.0
    )
    full: float = setting(
        0.0, 'Progress at which the weight is reached, rising linearly from `start`; up to '
        '`start`: at once', minimum=0.0, maximum=1.0,
    )  # fmt: skip
    end: float = setting(1.0, 'Progress after which the term ends', minimum=0.0, maximum=1.0)
    before: float = setting(0.0, 'Weight before `start`', minimum=0.0, maximum=1000.0)

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.start > self.end:
            raise SettingsError(f'start {self.start:g} is after end {self.end:g}')
        if self.full > self.end:
            raise SettingsError(f'full {self.full:g} is after end {self.end:g}')

    def weight_at(self, progress: float) -> float:
        """The weight at `progress` of the run; 0: the term is not computed."""
        if progress < self.start:
            return self.before
        if progress > self.end:
            return 0.0
        if progress >= self.full:
            return self.weight
        fraction = (progress - self.start) / (self.full - self.start)
        return self.before + fraction * (self.weight - self.before)


class Input(NamedTuple):
    """Images that a network sees."""

    image: Tensor  # (B, 3, H, W) uint8, or float in [0, 1]
    intrinsics: Tensor  # (B, 4) fx fy cx cy in pixels
    is_normalised: bool = False  # already as the network's encoder expects


@dataclass(frozen=True)
class Prediction:
    """Depth of some images, in metres as far as the scale of the network is known."""

    log_depth: Tensor  # (B, 1, H, W) u = ln Z at the size of the image
    sigma: Tensor  # (B, 1, H / 2, W / 2) standard deviation of u
    bins: BinPrediction | None  # see `predict` for its logits
    log_ratio: Tensor  # (B, 1, 1, 1) ln(fx / f_c): u minus canonical log-depth
    features: tuple[Tensor, ...] = ()  # five maps of the encoder, at strides 2 to 32
    decoder_maps: tuple[Tensor, ...] = ()  # of the decoder, at strides 16, 8, 4, 2

    @property
    def depth(self) -> Tensor:
        """Z (B, 1, H, W)."""
        return self.log_depth.exp()

    def rows(self, chosen: slice) -> Prediction:
        """The prediction of some of the images."""
        bins = None if self.bins is None else BinPrediction(*(one[chosen] for one in self.bins))
        return Prediction(
            self.log_depth[chosen],
            self.sigma[chosen],
            bins,
            self.log_ratio[chosen],
            tuple(one[chosen] for one in self.features),
            tuple(one[chosen] for one in self.decoder_maps),
        )


def predict(
    network: DepthModel, given: Input, canonical_focal_px: float, *, all_logits: bool = False
) -> Prediction:
    """Metric log-depth of images, Z = Z' fx / f_c.

    Args:
        network: Any depth network; it normalises the images as its encoder expects.
        given: Images and intrinsics.
        canonical_focal_px: f_c of the network's canonical depth.
        all_logits: Keep the logits of every pixel of the stride-2 map, as losses on the bins
            need; else those of every fourth of its pixels and rows, at half the time on a CPU.
    """
    intrinsics = given.intrinsics
    image = given.image if given.is_normalised else network.normalise(given.image)
    image = image.contiguous(memory_format=torch.channels_last)
    output, features, decoder_maps = network.predict_all(image, intrinsics)
    bins: BinPrediction | None = None
    with torch.autocast(image.device.type, enabled=False):
        if isinstance(output, DepthOutput):
            canonical, sigma = output.log_depth.float(), output.sigma
        elif all_logits:
            bins = output
            canonical, sigma, _ = expectation(bins)
        else:
            canonical, sigma, scores = expected_log_depth(output)
            bins = output._replace(logits=scores)
        log_ratio = (intrinsics[:, :1, None, None] / canonical_focal_px).log()
        log_depth = F.interpolate(canonical + log_ratio, image.shape[-2:], mode='bilinear')
    return Prediction(log_depth, sigma, bins, log_ratio, tuple(features), tuple(decoder_maps))


class Term(ABC):
    """One loss of one paper.

    A subclass in a module of this package, or offered under the entry point group
    `psd_depth_ros.terms`, can be named in a recipe. `settings` are checked when the recipe is
    read; `Settings` may add fields to `TermSettings`.
    """

    name: ClassVar[str]
    Settings: ClassVar[type[TermSettings]] = TermSettings
    # Batch fields that it reads (see data.fields): refused at the start where no recording has
    # them. What is in `optional` is provided, too, and may be unknown in every recording.
    needs: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    # Networks of `teachers` that it asks for, and terms that have to be in the recipe with it.
    teachers: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    # Where the term ties the scale of depth to metres: the field that says by what.
    metric_field: ClassVar[str] = ''
    # Whether it holds depth to the scale of the network that the run started from.
    keeps_scale: ClassVar[bool] = False
    # Whether it reads the logits of all pixels from `Prediction.bins`.
    all_logits: bool = False

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.others: Mapping[str, Any] = {}

    def bind(self, terms: Mapping[str, Term]) -> None:
        """Take the other terms of the recipe. Raises SettingsError where a required one lacks."""
        missing = sorted(self.requires - set(terms))
        if missing:
            raise SettingsError(
                f'term {self.name} builds on {", ".join(missing)}, which the objective of the '
                f'recipe lacks: add it, or leave {self.name} out'
            )
        self.others = terms

    @property
    def field_fractions(self) -> Mapping[str, float]:
        """Fields that it wants only in a fraction of the steps."""
        return {}

    @property
    def maps(self) -> Mapping[str, str]:
        """Fields that a frozen network or a folder of maps makes: what `data.maps` opens."""
        return {}

    @property
    def averages(self) -> Mapping[str, float]:
        """Teachers that are moving averages of the student, with their decay in a step."""
        return {}

    def look_at(self, sequences: Iterable[Sequence]) -> None:  # noqa: B027
        """See the recordings before training. Raises SettingsError where they do not fit."""

    def make_module(self, depth: DepthModel) -> nn.Module | None:
        """What the term trains or keeps beside the networks: `Context.module` gives it.

        It is saved with the state of the run, not with the checkpoint.
        """
        return None

    @abstractmethod
    def __call__(self, context: Context) -> Tensor:
        """The unweighted loss of each sample, (B,) float32."""

    def visualise(self, context: Context) -> dict[str, Image]:
        """Images of the first sample that show what the term looks at, by name."""
        return {}

    # What a term may add to the context of a step, whatever the order of terms.

    def extra_inputs(self, context: Context) -> Mapping[str, Input]:
        """Further images that the student sees, in the same pass as the target."""
        return {}

    def photometric_weight(self, context: Context) -> Tensor | None:
        """A factor (B, 1, H, W) of the photometric error of the image; None: 1.

        Patches and mixed images have the factors of the pixels that they show.
        """
        return None

    def refine_poses(self, context: Context, poses: Tensor) -> Tensor:
        """Improved poses (2, B, 4, 4) T_source_target."""
        return poses


class Context:
    """Everything the terms of one step share; computed when asked for, then kept.

    Args:
        objective: Networks and terms.
        batch: The fields that the terms need; `image` and `image_augmented` (B, 3, 3, H, W)
            uint8 hold target, earlier and later source.
        progress: Of the run, 0 .. 1.
        student: A network to look at in place of the one that is trained, such as its average.
    """

    def __init__(
        self,
        objective: Objective,
        batch: Any,
        progress: float,
        student: DepthModel | None = None,
    ) -> None:
        self.objective = objective
        self.batch = batch
        self.progress = progress
        self.terms = {
            term.name: term
            for term in objective.terms.values()
            if term.settings.weight_at(progress) > 0
        }
        self._student = student or objective.depth
        self._kept: dict[Hashable, Any] = {}
        self._has_grad = torch.is_grad_enabled()
        device = batch.intrinsics.device.type
        self._autocast = (
            device,
            torch.get_autocast_dtype(device),
            torch.is_autocast_enabled(device),
        )

    def __len__(self) -> int:
        """Give the number of samples B."""
        return len(self.batch.intrinsics)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The result of `make`, called for the first who asks: with gradient as the step has it.

        Whether the first who asks has switched gradients off does not matter.
        """
        if key not in self._kept:
            with torch.set_grad_enabled(self._has_grad):
                self._kept[key] = make()
        found: T = self._kept[key]
        return found

    def preset(self, **kept: Any) -> None:
        """Put results there that are known already, such as `poses`."""
        self._kept.update(kept)

    def zeros(self) -> Tensor:
        """A loss of nothing (B,)."""
        return torch.zeros(len(self), device=self.batch.intrinsics.device)

    @property
    def intrinsics(self) -> Tensor:
        """(B, 4) fx fy cx cy in pixels of the images."""
        intrinsics: Tensor = self.batch.intrinsics
        return intrinsics

    @property
    def K(self) -> Tensor:
        """(B, 3, 3) of the images."""
        return self.once('K', lambda: camera_matrix(self.intrinsics))

    @property
    def images(self) -> Tensor:
        """(3, B, 3, H, W) in [0, 1]: target, earlier, later, as losses compare them."""
        return self.once(
            'images',
            lambda: (self.batch.image.float() / 255.0).transpose(0, 1).contiguous(),
        )

    # Networks.

    def network(self, name: str) -> DepthModel:
        """The student, or a teacher by name."""
        return self._student if name == STUDENT else self.objective.teachers[name]

    def prediction(
        self, network: str = STUDENT, image: str = 'target', *, with_grad: bool = True
    ) -> Prediction:
        """Depth of a frame of the triplet, or of an extra input of a term, by a network.

        The student sees the target and all extra inputs in one pass. Teachers have no gradient.
        """
        apart = {*FRAMES[1:], *CLEAN_FRAMES}
        if network == STUDENT and image not in apart and with_grad:
            return self.once('student', self._predict_student)[image]
        return self.once(
            ('prediction', network, image),
            lambda: self.predict(
                self.network(network),
                self.input(image),
                with_grad=with_grad and network == STUDENT,
            ),
        )

    def features(self, network: str = STUDENT, image: str = 'target') -> tuple[Tensor, ...]:
        """The five maps of the encoder, at strides 2 to 32, in the pass of `prediction`."""
        return self.prediction(network, image).features

    def decoder_maps(self, network: str = STUDENT, image: str = 'target') -> tuple[Tensor, ...]:
        """The decoder's maps at strides 16, 8, 4, 2, in the pass of `prediction`."""
        return self.prediction(network, image).decoder_maps

    def module(self, term: str) -> nn.Module:
        """What a term has made by `Term.make_module`."""
        return self.objective.owned[term]

    def predict(self, network: DepthModel, given: Input, *, with_grad: bool = True) -> Prediction:
        """Depth of any images; nothing of it is kept."""
        objective = self.objective
        with self._networks_run(with_grad):
            return predict(
                network, given, objective.canonical_focal_px, all_logits=objective.all_logits
            )

    def input(self, image: str) -> Input:
        """What networks see of a frame of the triplet, or the extra input of a term.

        Names are those of `FRAMES`, `CLEAN_FRAMES`, and of extra inputs.
        """
        if image in FRAMES:
            return Input(self.batch.image_augmented[:, FRAMES.index(image)], self.intrinsics)
        if image in CLEAN_FRAMES:
            return Input(self.batch.image[:, CLEAN_FRAMES.index(image)], self.intrinsics)
        return self.extra_inputs[image]

    @property
    def extra_inputs(self) -> Mapping[str, Input]:
        """The extra inputs of all terms by name."""

        def gather() -> dict[str, Input]:
            found: dict[str, Input] = {}
            for term in self.terms.values():
                found.update(term.extra_inputs(self))
            return found

        return self.once('extra inputs', gather)

    def _predict_student(self) -> dict[str, Prediction]:
        inputs = {'target': self.input('target'), **self.extra_inputs}
        if len(inputs) == 1:
            return {'target': self.predict(self._student, inputs['target'])}
        together = Input(
            torch.cat([self._student.normalise(one.image) for one in inputs.values()]),
            torch.cat([one.intrinsics for one in inputs.values()]),
            is_normalised=True,
        )
        both = self.predict(self._student, together)
        found, start = {}, 0
        for name, one in inputs.items():
            stop = start + len(one.intrinsics)
            found[name] = both.rows(slice(start, stop))
            start = stop
        return found

    @contextmanager
    def _networks_run(self, with_grad: bool) -> Iterator[None]:
        """The autocast of the caller, whatever the term that asks has switched off."""
        device, dtype, enabled = self._autocast
        with (
            torch.autocast(device, dtype, enabled=enabled),
            torch.set_grad_enabled(with_grad and torch.is_grad_enabled()),
        ):
            yield

    # Motion.

    def poses(self) -> Tensor:
        """T_source_target of both sources, (2, B, 4, 4), as the terms have refined them."""

        def refine() -> Tensor:
            poses = self.network_poses()
            for term in self.terms.values():
                poses = term.refine_poses(self, poses)
            return poses

        return self.once('poses', refine)

    @property
    def has_refined_poses(self) -> bool:
        """Whether a term has put other poses in the place of the pose network's."""
        return self.poses() is not self.network_poses()

    def network_poses(self) -> Tensor:
        """T_source_target (2, B, 4, 4): the pose prior where known, and a learned correction.

        The pose network sees frames in the order of time; the motion to the earlier source is the
        inverse of what it says.
        """
        return self.once('network poses', self._network_poses)

    def _network_poses(self) -> Tensor:
        pose_net = self.objective.pose
        assert pose_net is not None, 'an objective with a pose network'
        images = self.batch.image_augmented.float()
        height, width = (round(POSE_INPUT_SCALE * side) for side in images.shape[-2:])
        size = (height, max(width, MIN_POSE_INPUT_PX))
        with self._networks_run(with_grad=True):
            small = F.interpolate(images.flatten(0, 1), size, mode='area') / 127.5 - 1.0
            target, earlier, later = small.unflatten(0, images.shape[:2]).unbind(1)
            found = pose_net(torch.cat([earlier, target]), torch.cat([target, later])).float()
        with torch.autocast(images.device.type, enabled=False):
            to_target, to_later = found.chunk(2)
            poses = torch.stack([invert(to_target), to_later])
            prior = self.batch.get('pose_prior')
            if prior is None:
                return poses
            prior = prior.transpose(0, 1)
            known = torch.isfinite(prior).all(dim=(-2, -1))[..., None, None]
            return torch.where(known, prior, torch.eye(4, device=poses.device)) @ poses

    # Photometry.

    @property
    def photometric_weight(self) -> Tensor | None:
        """Product of the factors that terms put on the photometric error; None: 1 everywhere."""

        def multiply() -> Tensor | None:
            product: Tensor | None = None
            for term in self.terms.values():
                factor = term.photometric_weight(self)
                if factor is not None:
                    product = factor if product is None else product * factor
            return product

        return self.once(PHOTOMETRIC_WEIGHT, multiply)


class Objective(nn.Module):
    """The networks, and the weighted sum of terms that trains them.

    Args:
        terms: With settings; names are unique. The same in every process.
        depth: The network that is trained.
        canonical_focal_px: f_c of its canonical depth.
        pose: The pose network, for triplets.
        teachers: Other networks by name. They are no part of the module: neither trained nor
            saved with it, but moved with it.
        sequences: The recordings that are learned from, for terms that look at them.

    Raises:
        SettingsError: a term lacks another one, or a teacher, or does not fit the recordings.
    """

    def __init__(
        self,
        terms: Iterable[Term],
        depth: DepthModel,
        *,
        canonical_focal_px: float,
        pose: PoseNet | None = None,
        teachers: Teachers | None = None,
        sequences: Iterable[Sequence] = (),
    ) -> None:
        super().__init__()
        self.depth = depth
        self.pose = pose
        self.canonical_focal_px = canonical_focal_px
        self._teachers = [teachers or Teachers()]  # in a list: no submodule
        self.terms = bind_terms(terms, self.teachers)
        known = list(sequences)
        self.owned = nn.ModuleDict()
        for name, term in self.terms.items():
            term.look_at(known)
            module = term.make_module(depth)
            if module is not None:
                self.owned[name] = module
            for teacher, decay in term.averages.items():
                self.teachers.add_average(teacher, depth, decay)

    @property
    def teachers(self) -> Teachers:
        """The other networks."""
        return self._teachers[0]

    @property
    def fields(self) -> frozenset[str]:
        """Batch fields that the terms read."""
        return frozenset[str]().union(
            *(term.needs | term.optional | term.maps.keys() for term in self.terms.values())
        )

    @property
    def field_fractions(self) -> dict[str, float]:
        """Fields that are wanted only in a fraction of the steps."""
        found: dict[str, float] = {}
        for term in self.terms.values():
            for field, fraction in term.field_fractions.items():
                found[field] = max(fraction, found.get(field, 0.0))
        return found

    @property
    def all_logits(self) -> bool:
        """Whether a term reads the logits of all pixels."""
        return any(term.all_logits for term in self.terms.values())

    def forward(self, batch: Any, progress: float) -> dict[str, Tensor]:
        """The weighted terms of a step by name, 0-dim float32; their sum is the loss."""
        return self.evaluate(Context(self, batch, progress))

    def evaluate(self, context: Context) -> dict[str, Tensor]:
        """The weighted terms of a context, each a mean over the samples."""
        with torch.autocast(context.intrinsics.device.type, enabled=False):
            return {
                name: term.settings.weight_at(context.progress) * term(context).mean()
                for name, term in context.terms.items()
            }

    def visualise(self, batch: Any, network: DepthModel) -> dict[str, Image]:
        """Image, depth, and what the terms show of a batch at the end of a run, by name.

        `network` takes the place of the one that is trained.
        """
        context = Context(self, batch, 1.0, network)
        with torch.no_grad(), torch.autocast(context.intrinsics.device.type, enabled=False):
            found: dict[str, Image] = {
                'image': batch.image[0, 0].permute(1, 2, 0).cpu().numpy(),
                'depth': draw_depth(context, context.prediction().log_depth[0, 0]),
            }
            for term in context.terms.values():
                found.update(term.visualise(context))
        return found

    def _apply(self, function: Callable[..., Any], recurse: bool = True) -> Objective:
        """Move the teachers with the module."""
        self.teachers.apply(function)
        super()._apply(function, recurse)
        return self


def bind_terms(terms: Iterable[Term], teachers: Teachers) -> dict[str, Term]:
    """Terms by name, each knowing the others. Raises SettingsError as `Objective` does."""
    found = {term.name: term for term in terms}
    averages = {name for term in found.values() for name in term.averages}
    for term in found.values():
        term.bind(found)
        teachers.check(term.name, term.teachers - averages)
    return found


def draw_depth(context: Context, log_depth: Tensor) -> Image:
    """Depth (H, W), coloured over the range of the first sample's full image."""
    full = context.prediction().log_depth[0, 0].exp()
    low, high = np.quantile(full.float().cpu().numpy(), (0.02, 0.98))
    metres = log_depth.exp().float().cpu().numpy()
    return colour_depth(metres, float(low), float(max(high, 1.01 * low)))
