"""Structure-centric depth, top to bottom: bad conditions, Retinex, graphs of a semantic expert.

Chen et al. 2024, "Structure-Centric Robust Monocular Depth Estimation via Knowledge
Distillation", ACCV 2024, https://arxiv.org/abs/2410.06982. The abstract and the captions of its
figures could be read, its equations and tables could not. [stated] marks what those say, [ours]
the equations and rules that were made here in the spirit of it.

1. Depth follows structure, not weather [stated]: an image is seen a second time in bad conditions
   that keep its geometry (`augment.adverse`), and the clean images judge that depth (`adverse`)
   [ours, as in Robust-Depth, Saunders et al. 2023]; it agrees with what a slow teacher says of the
   clean image (`adverse_consistency`) [ours].
2. Recordings that exist only in bad conditions learn from a teacher alone (`adverse_recordings`)
   [md4all, Gasperini et al. 2023].
3. Less reliance on local texture, by Retinex's split of an image into illumination and
   reflectance [stated]: photometry of reflectance (`reflectance`), and depth edges licensed by
   edges of illumination, not of texture (`illumination_smoothness`) [ours].
4. Semantic-structural correlation: learnable isomorphic graphs between the features of the student
   and those of a frozen semantic expert (`graph`) [stated]; the graph itself is [ours].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from psd_depth_ros.augment.adverse import (
    Condition,
    KINDS,
    nominal_depth,
    paint,
    sample_conditions,
)
from psd_depth_ros.config import setting
from psd_depth_ros.data.fields import recording_id
from psd_depth_ros.data.frames import Sequence
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.losses.depth import huber
from psd_depth_ros.losses.photometric import masked_mean, Reprojection, smoothness
from psd_depth_ros.networks import DepthModel
from psd_depth_ros.objectives.base import (
    Context,
    draw_depth,
    Image,
    Input,
    STUDENT,
    Term,
    TermSettings,
)
from psd_depth_ros.objectives.photometric import Photometric
from psd_depth_ros.teachers import INITIAL, TEACHER
from psd_depth_ros.visualisation import draw_heat

CLEAN = 'clean_target'
ALL = 'all'
STRIDE_16 = 3  # index of the encoder's map of that stride
CHOICE_SEED, CONDITION_SEED = 4, 5  # added to a sample's seed for draws that are independent
DARK = 0.01  # added to the illumination, of images in [0, 1]
RETINEX_SHRINK, RETINEX_RADIUS = 4, 4  # the filter works on a quarter of the size
UNKNOWN_SCORE = -1e9
MIN_KNOWN = 0.5  # of the pixels, for an expert to teach
EDGE_SCORE = 2.0  # of a node with itself, before the softmax over nodes
RETINEX_CONTRAST = 0.2  # relative: weaker edges than this are smoothed away in the illumination


@dataclass(frozen=True)
class SlowTeacherSettings(TermSettings):
    """Settings of a term with a teacher that is a slow average of the student."""

    decay: float = setting(
        0.99, 'Decay in a step of the slow teacher, which all terms that have one share: the same '
        'in each of them', minimum=0.0, maximum=1.0,
    )  # fmt: skip


# 1. Pairs of a clean image and one in bad conditions.


@dataclass(frozen=True)
class AdverseSettings(SlowTeacherSettings):
    """What is painted into how many images."""

    fraction: float = setting(
        0.5, 'Fraction of the images of a step that are seen in bad conditions, too; those stand '
        'for the others', minimum=0.001, maximum=1.0,
    )  # fmt: skip
    kinds: tuple[str, ...] = setting(
        (ALL,), 'Conditions that are painted, or all of them', choices=(ALL, *KINDS)
    )
    minimum_severity: float = setting(
        0.2, 'Least severity; 0 leaves the image as it is', minimum=0.0, maximum=1.0
    )
    maximum_severity: float = setting(1.0, 'Greatest severity', minimum=0.0, maximum=1.0)
    combined: float = setting(
        0.3, 'Probability that weather and a fault of the camera come together', minimum=0.0,
        maximum=1.0,
    )  # fmt: skip
    metric_depth: bool = setting(
        False, 'Depth of the network is in metres, and fog is as dense as it says per metre; else '
        'the median depth of an image is taken for 10 m',
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse an empty range and an empty choice."""
        super().__post_init__()
        if self.minimum_severity > self.maximum_severity:
            raise SettingsError(
                f'minimum_severity {self.minimum_severity:g} is above maximum_severity '
                f'{self.maximum_severity:g}'
            )
        if not self.kinds or (ALL in self.kinds and len(self.kinds) > 1):
            raise SettingsError(
                f'kinds is {list(self.kinds)}, expected [{ALL}] or some of {", ".join(KINDS)}'
            )

    @property
    def chosen_kinds(self) -> tuple[str, ...]:
        """The names of the conditions."""
        return KINDS if ALL in self.kinds else self.kinds


class Pairs(NamedTuple):
    """Image i is sample `rows[i]` in bad conditions."""

    rows: Tensor  # (n,) ascending
    image: Tensor  # (n, 3, H, W) in [0, 1]


class Adverse(Term):
    """Photometric error of clean images by the depth of the same image in bad conditions.

    L = mean_p min_s pe(I_t, I_s<pi(K T Z(A(I_t)) K^-1 p)>): images, sources and poses are the
    clean ones, and only depth is from the image A(I_t). No gradient reaches the poses. [stated:
    training for weather, blur and night; ours: this loss]
    """

    name = 'adverse'
    Settings = AdverseSettings
    settings: AdverseSettings
    requires = frozenset({'photometric'})

    @property
    def averages(self) -> Mapping[str, float]:
        """The slow teacher, whose depth says how dense fog is."""
        return {TEACHER: self.settings.decay}

    def __call__(self, context: Context) -> Tensor:
        """0 for samples that are seen clean only; the others stand for these."""
        pairs = self.pairs(context)
        if pairs is None:
            return context.zeros()
        return spread(context, pairs.rows, self._reprojection(context, pairs).loss)

    def extra_inputs(self, context: Context) -> Mapping[str, Input]:
        """The images in bad conditions."""
        pairs = self.pairs(context)
        return {self.name: Input(pairs.image, context.intrinsics[pairs.rows])} if pairs else {}

    def pairs(self, context: Context) -> Pairs | None:
        """Which samples are seen in bad conditions, and these images; None without any."""

        def make() -> Pairs | None:
            if self.name not in context.terms:
                return None
            chosen = choose_samples(context.batch.seeds.tolist(), self.settings.fraction)
            rows = torch.tensor(chosen).to(context.intrinsics.device, non_blocking=True)
            return Pairs(rows, self._paint(context, rows, chosen))

        return context.once('adverse pairs', make)

    def visualise(self, context: Context) -> dict[str, Image]:
        """The first sample in bad conditions, and its depth there."""
        rows = torch.zeros(1, dtype=torch.long, device=context.intrinsics.device)
        image = self._paint(context, rows, [0])
        found = context.predict(
            context.network(STUDENT), Input(image, context.intrinsics[:1]), with_grad=False
        )
        return {
            'adverse': to_picture(image[0]),
            'adverse_depth': draw_depth(context, found.log_depth[0, 0]),
        }

    def _paint(self, context: Context, rows: Tensor, chosen: list[int]) -> Tensor:
        settings = self.settings
        depth = context.prediction(TEACHER, CLEAN).depth[rows]
        severity = (settings.minimum_severity, settings.maximum_severity)
        seeds = [int(context.batch.seeds[i]) + CONDITION_SEED for i in chosen]
        conditions: list[tuple[Condition, ...]] = [
            sample_conditions(seed, settings.chosen_kinds, severity, settings.combined)
            for seed in seeds
        ]
        shown = context.batch.image_augmented[:, 0][rows] / 255.0
        return paint(shown, depth if settings.metric_depth else nominal_depth(depth), conditions)

    def _reprojection(self, context: Context, pairs: Pairs) -> Reprojection:
        photometric: Photometric = self.others['photometric']
        rows, images = pairs.rows, context.images[:, pairs.rows]
        weight = context.photometric_weight
        return photometric.reproject(
            photometric.prepare_target(images[0], images[1:], context.batch.valid[rows]),
            images[1:],
            context.prediction(image=self.name).depth,
            context.poses()[:, rows].detach(),
            context.intrinsics[rows],
            photometric.exempt_px(context.progress),
            None if weight is None else weight[rows],
        )


class AdverseConsistency(Term):
    """Depth in bad conditions is what the slow teacher sees in the clean image.

    L = mean_p h(u(A(I)) - sg u_T(I)), h the Huber loss with delta 0.05 and u = ln Z. [ours]
    """

    name = 'adverse_consistency'
    teachers = frozenset({TEACHER})
    requires = frozenset({Adverse.name})

    def __call__(self, context: Context) -> Tensor:
        """0 for samples that are seen clean only; the others stand for these."""
        adverse: Adverse = self.others[Adverse.name]
        pairs = adverse.pairs(context)
        if pairs is None:
            return context.zeros()
        wanted = context.prediction(TEACHER, CLEAN).log_depth[pairs.rows]
        difference = context.prediction(image=adverse.name).log_depth - wanted
        found = masked_mean(huber(difference), context.batch.valid[pairs.rows])
        return spread(context, pairs.rows, found)


def choose_samples(seeds: list[int], fraction: float) -> list[int]:
    """Which of some samples are seen in bad conditions: ever equally many, at least one.

    Those whose seeds draw the smallest numbers, so that each is as likely as any other. A fixed
    number keeps the shapes of tensors, and so the speed of a GPU.
    """
    draws = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed + CHOICE_SEED)
        draws.append(float(torch.rand((), generator=generator)))
    count = min(len(seeds), max(1, round(fraction * len(seeds))))
    return sorted(sorted(range(len(seeds)), key=draws.__getitem__)[:count])


def spread(context: Context, rows: Tensor, loss: Tensor) -> Tensor:
    """Losses (n,) of some samples as losses (B,) of all, with the mean of the n."""
    return context.zeros().index_add(0, rows, loss * (len(context) / len(rows)))


# 2. Recordings that exist only in bad conditions.


@dataclass(frozen=True)
class AdverseRecordingsSettings(SlowTeacherSettings):
    """Which recordings are bad throughout, and who teaches on them."""

    recordings: tuple[str, ...] = setting(
        (), 'Names of recordings or of their folders, or patterns of them with * and ?'
    )
    teacher: str = setting(
        'initial', 'Who teaches: the network that the run began with, or the slow average',
        choices=('initial', 'slow'),
    )  # fmt: skip


class AdverseRecordings(Term):
    """Recordings in bad conditions throughout learn from a clean teacher, not from photometry.

    Their photometric weight is 0 and their loss is mean_p h(u(I) - sg u_T(I)); other terms, such
    as smoothness and geometry, stay. [md4all: pure distillation where photometry fails]
    """

    name = 'adverse_recordings'
    Settings = AdverseRecordingsSettings
    settings: AdverseRecordingsSettings
    needs = frozenset({'recording'})

    def __init__(self, settings: AdverseRecordingsSettings) -> None:
        super().__init__(settings)
        self._teacher = INITIAL if settings.teacher == 'initial' else TEACHER
        self.teachers = frozenset({self._teacher})
        self._chosen: tuple[int, ...] = ()

    @property
    def averages(self) -> Mapping[str, float]:
        """The slow teacher, where it teaches."""
        return {TEACHER: self.settings.decay} if self._teacher == TEACHER else {}

    def look_at(self, sequences: Iterable[Sequence]) -> None:
        """Find the recordings. Raises SettingsError without any, or where a pattern has none."""
        known = list(sequences)
        there = '; '.join(dict.fromkeys(' or '.join(one.names) for one in known)) or 'none'
        if not self.settings.recordings:
            raise SettingsError(
                f'objective.{self.name}.recordings is empty; name those that are bad throughout, '
                f'of {there}, or leave {self.name} out of the objective'
            )
        chosen = set()
        for pattern in self.settings.recordings:
            matching = {
                recording_id(one)
                for one in known
                if any(fnmatchcase(name, pattern) for name in one.names)
            }
            if not matching:
                raise SettingsError(
                    f'objective.{self.name}.recordings has {pattern!r}, which no recording '
                    f'matches; there are {there}'
                )
            chosen.update(matching)
        self._chosen = tuple(sorted(chosen))

    def __call__(self, context: Context) -> Tensor:
        """0 for samples of other recordings."""
        wanted = context.prediction(self._teacher).log_depth
        difference = context.prediction().log_depth - wanted
        found = masked_mean(huber(difference), context.batch.valid)
        return torch.where(self.is_adverse(context), found, 0.0)

    def photometric_weight(self, context: Context) -> Tensor:
        """(B, 1, H, W): 0 for the recordings, 1 for others."""
        weight = (~self.is_adverse(context)).float()
        return weight[:, None, None, None].expand_as(context.batch.valid)

    def is_adverse(self, context: Context) -> Tensor:
        """Which samples are of the recordings, (B,) bool."""

        def find() -> Tensor:
            known: Tensor = context.batch.recording
            chosen = torch.tensor(self._chosen).to(known.device, non_blocking=True)
            return (known[:, None] == chosen[None]).any(dim=1)

        return context.once('adverse recordings', find)


# 3. Retinex.


class Retinex(NamedTuple):
    """The split of images I = R (L + 0.01)."""

    reflectance: Tensor  # R (B, 3, H, W), about 0 to 1
    illumination: Tensor  # L (B, 1, H, W), above 0


def split_light(image: Tensor) -> Retinex:
    """Reflectance and illumination of images (B, 3, H, W) in [0, 1].

    L is the largest colour of each pixel, smoothed by the guided filter with itself as guide (He,
    Sun, Tang 2013; at a quarter of the size, as in their Fast Guided Filter 2015), and
    R = I / (L + 0.01). [stated: the Retinex split; ours: how] The filter's regularisation is
    relative to the light, L = a m + b with a = var / (var + (0.2 mean)^2), b = (1 - a) mean, so
    that twice the light gives twice L and the same R (as far as 0.01 is small).
    """
    light = image.amax(dim=1, keepdim=True)
    small = F.avg_pool2d(light, RETINEX_SHRINK)
    mean = _box(small)
    variance = (_box(small.square()) - mean.square()).clamp(min=0.0)
    a = variance / (variance + (RETINEX_CONTRAST * mean).square() + 1e-8)
    gain, offset = _box(a), _box((1.0 - a) * mean)
    gain, offset = (
        F.interpolate(one, light.shape[-2:], mode='bilinear') for one in (gain, offset)
    )
    illumination = (gain * light + offset).clamp(min=0.0)
    return Retinex(image / (illumination + DARK), illumination)


def _box(maps: Tensor) -> Tensor:
    size = 2 * RETINEX_RADIUS + 1
    return F.avg_pool2d(maps, size, 1, RETINEX_RADIUS, count_include_pad=False)


class Reflectance(Term):
    """Photometric error of reflectance, which light does not change.

    L = mean_p min_s pe(R_t, R_s<p_s>) by the depth and poses of the full image, with the rules of
    the term `photometric`, its auto-mask applied to reflectance. [stated: Retinex; ours: the loss]
    """

    name = 'reflectance'
    requires = frozenset({'photometric'})

    def __call__(self, context: Context) -> Tensor:
        """Mean error of each sample."""
        photometric: Photometric = self.others['photometric']
        reflectance = retinex_of(context).reflectance
        return photometric.reproject(
            photometric.prepare_target(reflectance[0], reflectance[1:], context.batch.valid),
            reflectance[1:],
            context.prediction().depth,
            context.poses(),
            context.intrinsics,
            photometric.exempt_px(context.progress),
            context.photometric_weight,
        ).loss

    def visualise(self, context: Context) -> dict[str, Image]:
        """Reflectance and illumination of the target."""
        found = retinex_of(context)
        return {
            'reflectance': to_picture(found.reflectance[0, 0]),
            'illumination': to_picture(found.illumination[0, 0].expand(3, -1, -1)),
        }


class IlluminationSmoothness(Term):
    """Smoothness of mean-normalised disparity but at edges of the light, in place of `smoothness`.

    L = mean |dx d*| e^{-|dx ln L|} + |dy d*| e^{-|dy ln L|}, d* = d / mean(d), with L the
    illumination of `split_light` plus 0.01: edges of texture do not license edges of depth. [ours]
    """

    name = 'illumination_smoothness'

    def __call__(self, context: Context) -> Tensor:
        """Mean of each sample."""
        light = (retinex_of(context).illumination[0] + DARK).log()
        return smoothness((-context.prediction().log_depth).exp(), light)


def retinex_of(context: Context) -> Retinex:
    """The split of the three clean frames, (3, B, ., H, W) each; no gradient."""

    def split() -> Retinex:
        with torch.no_grad():
            found = split_light(context.images.flatten(0, 1))
        return Retinex(*(one.unflatten(0, (3, -1)) for one in found))

    return context.once('retinex', split)


# 4. Isomorphic graphs.


@dataclass(frozen=True)
class GraphSettings(SlowTeacherSettings):
    """The graph, and whose features teach it."""

    expert: str = setting(
        '', 'What makes the features that teach, the field semantics: a network, or a folder of '
        'maps; empty: the encoder of the slow teacher, for the clean image',
    )  # fmt: skip
    nodes: int = setting(16, 'Nodes of the graphs', minimum=2, maximum=256)
    width: int = setting(64, 'Numbers that describe a node', minimum=2, maximum=1024)
    temperature: float = setting(
        0.5, 'Of the softmax by which nodes gather pixels: smaller is sharper', minimum=0.01,
        maximum=100.0,
    )  # fmt: skip
    usage: float = setting(
        0.001, 'Weight in the term of nodes that are not used', minimum=0.0, maximum=10.0
    )


class Graph(NamedTuple):
    """Graphs of some images, with n nodes of width d."""

    nodes: Tensor  # V (B, n, d)
    edges: Tensor  # A (B, n, n), rows sum to 1
    assignment: Tensor  # P (B, n, N): where each node looks, sums to 1 over the N pixels
    membership: Tensor  # Q (B, n, N): which node each pixel is of, sums to 1 over the nodes, or 0


class GraphModule(nn.Module):
    """What makes graphs of the features of student and teacher, and the teacher's back again."""

    def __init__(
        self, student: int, teacher: int, nodes: int, width: int, temperature: float
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.student_assign = nn.Linear(student, nodes, bias=False)
        self.student_project = nn.Linear(student, width, bias=False)
        self.teacher_assign = nn.Linear(teacher, nodes, bias=False)
        self.teacher_project = nn.Linear(teacher, width, bias=False)
        self.reconstruct = nn.Linear(width, teacher)
        for assign in (self.student_assign, self.teacher_assign):
            nn.init.normal_(assign.weight, std=assign.in_features**-0.5)
        if student == teacher:  # the same encoder: graphs begin alike, as far as features are
            self.student_assign.load_state_dict(self.teacher_assign.state_dict())
            self.student_project.load_state_dict(self.teacher_project.state_dict())

    def student(self, features: Tensor) -> Graph:
        """The graphs of maps (B, C, h, w) of the student."""
        return make_graph(
            flatten_pixels(features), self.student_assign, self.student_project, self.temperature
        )

    def teacher(self, features: Tensor) -> tuple[Graph, Tensor]:
        """The graphs of maps (B, C, h, w) of the teacher, and how badly they explain it (B,).

        Pixels with NaN in any channel are left out.
        """
        known = torch.isfinite(features).all(dim=1).flatten(1)  # (B, N)
        pixels = flatten_pixels(features.nan_to_num(0.0))
        graph = make_graph(
            pixels, self.teacher_assign, self.teacher_project, self.temperature, known
        )
        back = self.reconstruct(graph.membership.transpose(1, 2) @ graph.nodes)
        error = (back - pixels).square().mean(dim=2) * known
        return graph, error.sum(dim=1) / known.sum(dim=1).clamp(min=1)


class GraphTerm(Term):
    """Features of the student have the graph of those of an expert (learnable isomorphic graphs).

    For m of student and teacher, F the features at stride 16 with every pixel normalised:
    P = softmax_pixels(Phi F / tau), nodes V = P F^T W, edges A = softmax(V V^T / sqrt d), and
    L = mean (A_s - sg A_t)^2 + mean_k (1 - cos(V_s, sg V_t)) + |F_t - D(Q^T V_t)|^2
    + usage (2 ln n - H_s - H_t). [stated: learnable isomorphic graphs between flattened features
    of student and teacher; ours: all of the equation]

    Nodes have a fixed length (`make_graph`). Those of the same number are to correspond, which
    makes the graphs isomorphic. The teacher's
    Phi, W and D learn only from making its features again out of nodes. Q is the softmax of the
    same scores over nodes, and H the entropy of its mean over pixels: that of P is constant. The
    student's features are those of images in bad conditions, where there are some.
    """

    name = 'graph'
    Settings = GraphSettings
    settings: GraphSettings

    def __init__(self, settings: GraphSettings) -> None:
        super().__init__(settings)
        self._expert_channels = 0
        if settings.expert:
            self.needs = frozenset({'semantics'})
        else:
            self.teachers = frozenset({TEACHER})

    @property
    def averages(self) -> Mapping[str, float]:
        """The slow teacher, where there is no expert."""
        return {} if self.settings.expert else {TEACHER: self.settings.decay}

    @property
    def maps(self) -> Mapping[str, str]:
        """What the expert says of every frame."""
        return {'semantics': self.settings.expert} if self.settings.expert else {}

    def look_at(self, sequences: Iterable[Sequence]) -> None:
        """Learn how many channels the expert has. Raises SettingsError where they differ."""
        if not self.settings.expert:
            return
        counts = {}
        for one in sequences:
            if one.semantics is not None:
                counts[int(one.semantics.shape[1])] = one.name
        if len(counts) > 1:
            said = ', '.join(f'{count} in {name}' for count, name in sorted(counts.items()))
            raise SettingsError(
                f'the recordings have semantics of different numbers of channels: {said}; use '
                'one expert for all'
            )
        self._expert_channels = next(iter(counts), 0)

    def make_module(self, depth: DepthModel) -> GraphModule:
        """The projections of both sides."""
        channels = depth.encoder.channels[STRIDE_16]
        settings = self.settings
        expert = self._expert_channels if settings.expert else channels
        return GraphModule(channels, expert, settings.nodes, settings.width, settings.temperature)

    def __call__(self, context: Context) -> Tensor:
        """0 for samples of which the expert knows less than half of the pixels."""
        module = self._module(context)
        image, rows = self._seen(context)
        student = module.student(context.features(STUDENT, image)[STRIDE_16].float())
        features = self._taught(context, rows)
        teacher, unexplained = module.teacher(features)
        known = torch.isfinite(features).all(dim=1).flatten(1).float().mean(dim=1) > MIN_KNOWN
        unused = unused_nodes(student) + unused_nodes(teacher)
        loss = isomorphism_loss(student, teacher) + unexplained + self.settings.usage * unused
        return spread(context, rows, torch.where(known, loss, 0.0))

    def visualise(self, context: Context) -> dict[str, Image]:
        """The node that looks most at each pixel of the target, as a colour over the image."""
        features = context.features(STUDENT, 'target')[STRIDE_16][:1].float()
        graph = self._module(context).student(features)
        best = graph.assignment[0].argmax(dim=0).view(features.shape[-2:]).cpu().numpy()
        colours = draw_heat(best / max(1, self.settings.nodes - 1), cv2.COLORMAP_HSV)
        picture = to_picture(context.images[0, 0])
        size = (picture.shape[1], picture.shape[0])
        shown = cv2.resize(colours, size, interpolation=cv2.INTER_NEAREST)
        return {'nodes': cv2.addWeighted(picture, 0.5, shown, 0.5, 0.0).astype(np.uint8)}

    def _module(self, context: Context) -> GraphModule:
        module = context.module(self.name)
        assert isinstance(module, GraphModule)
        return module

    def _seen(self, context: Context) -> tuple[str, Tensor]:
        """The image whose features learn, and the samples that it is of."""
        adverse = self.others.get(Adverse.name)
        pairs = adverse.pairs(context) if adverse is not None else None
        if pairs is not None:
            return Adverse.name, pairs.rows
        return 'target', torch.arange(len(context), device=context.intrinsics.device)

    def _taught(self, context: Context, rows: Tensor) -> Tensor:
        """The teacher's maps (n, C, h, w) at stride 16, NaN where they are unknown."""
        if self.settings.expert:
            return F.avg_pool2d(context.batch.semantics[rows].float(), 2)
        return context.features(TEACHER, CLEAN)[STRIDE_16][rows].float()


def flatten_pixels(features: Tensor) -> Tensor:
    """vec F: maps (B, C, h, w) as (B, N, C), every pixel with mean 0 and variance 1."""
    return F.layer_norm(features.flatten(2).transpose(1, 2), features.shape[1:2], eps=1e-10)


def make_graph(
    pixels: Tensor,
    assign: nn.Module,
    project: nn.Module,
    temperature: float,
    known: Tensor | None = None,
) -> Graph:
    """The graphs of pixels (B, N, C): P = softmax_N(Phi F / tau), V = P F^T W, A = softmax(V V^T).

    Nodes get a fixed length, by which V V^T / sqrt d of a node with itself is `EDGE_SCORE`: left
    to themselves they grow, as that helps to make the features again, until A is the identity.

    Args:
        pixels: (B, N, C) of which every one has mean 0 and variance 1.
        assign: Phi, from C to n.
        project: W, from C to d.
        temperature: tau.
        known: (B, N) bool, pixels that count; None: all.
    """
    scores = assign(pixels).transpose(1, 2) / temperature  # (B, n, N)
    assignment, membership = scores.softmax(dim=2), scores.softmax(dim=1)
    if known is not None:
        assignment = scores.masked_fill(~known[:, None], UNKNOWN_SCORE).softmax(dim=2)
        membership = membership * known[:, None]
    nodes = project(assignment @ pixels)  # (B, n, d)
    scale = math.sqrt(nodes.shape[2])
    nodes = math.sqrt(EDGE_SCORE * scale) * F.normalize(nodes, dim=2)
    edges = (nodes @ nodes.transpose(1, 2) / scale).softmax(dim=2)
    return Graph(nodes, edges, assignment, membership)


def isomorphism_loss(student: Graph, teacher: Graph) -> Tensor:
    """Mean (A_s - sg A_t)^2 + mean_k (1 - cos(V_s, sg V_t)) of each image, (B,)."""
    edges = (student.edges - teacher.edges.detach()).square().mean(dim=(1, 2))
    alike = F.cosine_similarity(student.nodes, teacher.nodes.detach(), dim=2)
    return edges + (1.0 - alike).mean(dim=1)


def unused_nodes(graph: Graph) -> Tensor:
    """ln n minus the entropy of the mean use of the n nodes, (B,): 0 where all are used alike."""
    use = graph.membership.sum(dim=2)
    use = use / use.sum(dim=1, keepdim=True).clamp(min=1e-6)
    return (use * (use * use.shape[1]).clamp(min=1e-8).log()).sum(dim=1)


def to_picture(image: Tensor) -> Image:
    """An image (3, H, W) in [0, 1], clipped, as a picture (H, W, 3)."""
    picture = (255.0 * image.clamp(0.0, 1.0)).byte().permute(1, 2, 0)
    return np.ascontiguousarray(picture.cpu().numpy())
