"""Self-supervised training on recordings, as a task for the loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import torch
from torch import nn, Tensor

from psd_depth_ros.checkpoint import Checkpoint, CheckpointInfo, InputInfo, OutputInfo
from psd_depth_ros.config import dump
from psd_depth_ros.data.fields import check_fields, count_known
from psd_depth_ros.data.frames import Sequence, VIDEO_SUFFIXES
from psd_depth_ros.data.maps import compute_maps, open_teachers
from psd_depth_ros.data.triplets.batch import TripletBatch, TripletBatches
from psd_depth_ros.data.triplets.motions import estimate_motions
from psd_depth_ros.data.triplets.prepare import Preparation, prepare_sequences
from psd_depth_ros.evaluation.metrics import measure
from psd_depth_ros.geometry.warp import sample
from psd_depth_ros.networks import DepthModel, load_model
from psd_depth_ros.networks.encoders import freeze_norm
from psd_depth_ros.networks.pose_net import PoseNet
from psd_depth_ros.objectives.base import (
    bind_terms,
    Context,
    Image,
    Objective,
    PHOTOMETRIC_WEIGHT,
    Prediction,
)
from psd_depth_ros.objectives.photometric import align_poses, Photometric, PhotometricSettings
from psd_depth_ros.runtime import autocast
from psd_depth_ros.teachers import EMA, INITIAL, Teachers
from psd_depth_ros.training.recipe import LEARNED, TRACKED, VideoRecipe
from psd_depth_ros.training.task import (
    canonical_focal_px,
    depth_groups,
    NewStudent,
    ParameterGroup,
    Start,
    start_network,
    start_provenance,
    Task,
    training_record,
)
from psd_depth_ros.visualisation import draw_tiles

FINE_FACTOR = 2
MAX_HELD_OUT = 96  # triplets of a validation
MAX_LIDAR_M = 1e4  # no lidar point is too far
PREVIEWS = 2
MIN_METRIC_FRACTION = 0.01  # of the triplets with a quantity that ties the scale to metres


@dataclass(frozen=True)
class _Measurements:
    """Values of a validation, one per sample."""

    photometric: list[float]
    loss: list[float]  # of the objective, where it has no photometric error
    offset: list[float]  # median ln(Z / Z_start) of each image
    stretch: list[float]  # ln of the ratio of both standard deviations of log-depth
    change: list[float]  # mean |ln Z - ln Z_start| of each image after removing its median
    lidar: list[float]
    depth: list[float]


class VideoTask(Task):
    """A depth and a pose network that learn from triplets of recordings.

    Args:
        recipe: Terms and settings.
        data: The decoded recordings.
        start: A checkpoint, encoder weights, or None for random weights.
        report: Called with the number of frames done and of all frames, where motions are
            estimated (`poses: tracked`) and where teachers of the terms make maps.
        announce: Called with what begins, such as 'tracking drive'.
        cache: Folder that keeps the maps of teachers; None: they are kept in memory.
        model: The depth network, in place of that of the recipe and the start.
        student: Makes the network of the recipe anew. The start, a checkpoint of any shape, is
            then the network that terms hold to and validations compare with.

    Raises:
        CheckpointError: the checkpoint does not fit the recipe.
        SettingsError: no recording has a batch field of a term, or the run lacks a teacher.
    """

    recipe: VideoRecipe

    def __init__(
        self,
        recipe: VideoRecipe,
        data: Preparation,
        start: Start = None,
        report: Callable[[int, int], None] = lambda done, total: None,
        cache: Path | None = None,
        model: DepthModel | None = None,
        student: NewStudent | None = None,
        announce: Callable[[str], None] = lambda subject: None,
    ) -> None:
        data.check()
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        own = start if student is None else student.encoder
        self._depth = start_network(recipe, own, recipe.head) if model is None else model
        self._focal_px = canonical_focal_px(start)
        pose = PoseNet()
        teachers = Teachers()
        if isinstance(start, Checkpoint):
            teachers.add_copy(INITIAL, self._depth if student is None else load_model(start))
        self._start = start
        self._student = student
        self.start_id = start.id if isinstance(start, Checkpoint) else ''
        self._keeps_norm = recipe.freeze_norm and own is not None
        terms = recipe.make_terms()
        bind_terms(terms, teachers)  # what does not fit is said before hours of preparation
        map_teachers = open_teachers(terms)
        needs = frozenset[str]().union(*(term.needs for term in terms))
        check_fields(needs - map_teachers.keys(), data.sequences)
        data = self._with_poses(data, teachers.get(INITIAL), report, announce)
        self._map_teachers: dict[str, dict[str, str]] = {}  # not the networks, which have done
        self._map_provenance: list[Mapping[str, Any]] = []
        for field, teacher in map_teachers.items():
            announce(f'maps of {teacher.name}')
            maps = compute_maps(data.sequences, teacher, field, cache, report)
            data = replace(data, sequences=maps.sequences, notes=(*data.notes, *maps.notes))
            self._map_teachers[field] = {'name': maps.name, 'id': maps.id}
            self._map_provenance += maps.provenance
        check_fields(needs | map_teachers.keys(), data.sequences)
        self._data = data
        self._objective = Objective(
            terms,
            self._depth,
            canonical_focal_px=self._focal_px,
            pose=pose,
            teachers=teachers,
            sequences=data.sequences,
        )
        self.module: nn.Module = self._objective
        photometric = self._objective.terms.get(Photometric.name)
        # A source of a mixed run without that error needs none; fine-tuning is judged by it.
        self._is_compared = photometric is not None or model is None
        photometric = photometric or Photometric(PhotometricSettings())
        assert isinstance(photometric, Photometric)
        self._photometric = photometric
        self._tied = self._count_tied()
        self._depth_groups = depth_groups(recipe, self._depth)
        fields = self._objective.fields
        self._batches = TripletBatches(
            data.sequences,
            batch=recipe.batch,
            seed=recipe.seed,
            fields=self._with_prior(fields),
            fractions=self._objective.field_fractions,
            smallest_window=recipe.smallest_window,
        )
        self._held_out = TripletBatches(
            data.sequences,
            batch=recipe.batch,
            seed=recipe.seed,
            fields=self._with_prior(
                fields | {'lidar'} | ({'depth_m'} if recipe.data.depth else set())
            ),
            augment=False,
        )

    def _with_prior(self, fields: frozenset[str]) -> frozenset[str]:
        """The fields of the terms, and the pose prior unless poses are learned alone."""
        if self.recipe.poses == LEARNED:
            return fields - {'pose_prior'}
        return fields | {'pose_prior'}

    def _with_poses(
        self,
        data: Preparation,
        initial: DepthModel | None,
        report: Callable[[int, int], None],
        announce: Callable[[str], None],
    ) -> Preparation:
        """The recordings, with estimated motions where the recipe has `poses: tracked`."""
        if self.recipe.poses != TRACKED:
            return data
        sequences = []
        for sequence in data.sequences:
            if sequence.poses is None or not sequence.poses_are_of_camera:
                announce(f'tracking {sequence.name}')
                found = estimate_motions(
                    sequence,
                    self._depth if initial is None else initial,
                    self._focal_px,
                    knows_nothing=initial is None,
                    report=report,
                    store=data.store,
                )
                sequence = replace(sequence, pair_poses=found)
            sequences.append(sequence)
        return replace(data, sequences=tuple(sequences))

    def _count_tied(self) -> dict[str, dict[str, int]]:
        """Number of training triplets with a quantity that ties the scale, by batch field."""
        found = {}
        for term in self._objective.terms.values():
            if term.metric_field and term.settings.weight > 0:
                known, total = count_known(term.metric_field, self._data.sequences)
                found[term.metric_field] = {'known': known, 'triplets': total}
        return found

    @classmethod
    def from_recipe(
        cls,
        recipe: VideoRecipe,
        start: Start,
        report: Callable[[int, int], None],
        model: DepthModel | None = None,
        student: NewStudent | None = None,
        announce: Callable[[str], None] = lambda subject: None,
    ) -> VideoTask:
        """Decode the recordings of the recipe, or find them in the cache, and make the task.

        `report` is called with the frames done and the total of each recording, `announce` before
        that with what begins, such as 'preparing drive'.
        """

        def decoded(name: str, done: int, total: int) -> None:
            announce(f'preparing {name}')
            report(done, total)

        data = prepare_sequences(
            recipe.data,
            pixel_budget=recipe.pixel_budget,
            fine_factor=FINE_FACTOR,
            report=decoded,
        )
        assert data.store is not None
        task = cls(recipe, data, start, report, data.store.folder, model, student, announce)
        data.store.make_room()
        return task

    def describe_cache(self, *, resumed: bool = False) -> tuple[str, ...]:
        """Where the frames are, and which a resumed run had to decode again."""
        data = self._data
        again = ''
        if resumed and data.decoded:
            again = f'{", ".join(data.decoded)}: decoded again, no longer in the cache'
        return tuple(text for text in (again, data.store and data.store.describe()) if text)

    @property
    def depth(self) -> DepthModel:
        """The depth network."""
        return self._depth

    @property
    def teacher(self) -> DepthModel | None:
        """The averaged network, set by the loop."""
        return self._objective.teachers.get(EMA)

    @teacher.setter
    def teacher(self, network: DepthModel) -> None:
        self._objective.teachers.add(EMA, network)

    def data_description(self) -> dict[str, Any]:
        """Recordings, their frames and triplets, what was rejected, teachers of maps."""
        description = describe_data(self._data)
        if self._map_teachers:
            description['teachers'] = self._map_teachers
        return description

    def groups(self) -> list[ParameterGroup]:
        """The encoder, the rest of the depth network, the pose network, what terms own."""
        assert self._objective.pose is not None
        pose = tuple(self._objective.pose.parameters())
        groups = [*self._depth_groups, ParameterGroup('pose', pose, self.recipe.pose_rate)]
        owned = tuple(self._objective.owned.parameters())
        return [*groups, ParameterGroup('terms', owned, self.recipe.rate)] if owned else groups

    @property
    def kept(self) -> nn.Module:
        """The slow teachers."""
        return self._objective.teachers.averages

    def after_step(self, step: int) -> None:
        """Draw the slow teachers towards the student."""
        self._objective.teachers.update(self._depth, step)

    def prepare(self, progress: float) -> None:
        """Set train mode; the encoder's batch norm is frozen where the recipe says so."""
        self.module.train()
        freeze_norm(self._depth.encoder, everywhere=self._keeps_norm)

    def batch(self, step: int, rank: int, processes: int) -> TripletBatch:
        """Augmented triplets, seeded by the recipe, the step and the place in the batch."""
        return self._batches.batch(step, rank, processes)

    def losses(self, module: nn.Module, batch: TripletBatch, progress: float) -> dict[str, Tensor]:
        """The weighted terms of the objective."""
        terms: dict[str, Tensor] = module(batch, progress)
        return terms

    @property
    def held_out_count(self) -> int:
        """Number of triplets of a validation."""
        return self._held_out.held_out_count(MAX_HELD_OUT)

    def validate(
        self, depth: DepthModel, advance: Callable[[int], None] = lambda triplets: None
    ) -> dict[str, float]:
        """Photometric error of the held-out triplets, and the change of depth since the start.

        An objective without that error has no poses that are worth anything: what it learns, its
        loss at the end of a run, is the score then.

        Translations of the pose network are rescaled to the depth network that is measured, so
        that an old network is not measured with the scale of a new one.

        Args:
            depth: The network to measure.
            advance: Called with the number of triplets of each batch.

        Returns:
            score; photometric (not for a source of a mixed run that lacks the term); without that
            term loss; with a start checkpoint scale_drift, stretch and change (see
            `finetune.acceptance`); with lidar lidar_abs_rel, with true depth depth_abs_rel, which
            is then the score.
        """
        found = _Measurements([], [], [], [], [], [], [])
        with torch.no_grad():
            for batch in self._held_out_batches():
                self._measure(depth, batch, found)
                advance(len(batch.image))
        scores = {'score': float('nan')}
        if found.photometric:
            scores['photometric'] = scores['score'] = float(np.mean(found.photometric))
        if found.loss:
            scores['loss'] = scores['score'] = float(np.mean(found.loss))
        if found.offset:
            scores['scale_drift'] = float(np.median(found.offset))
            scores['stretch'] = float(np.median(found.stretch))
            scores['change'] = float(np.mean(found.change))
        if found.lidar:
            scores['lidar_abs_rel'] = scores['score'] = float(np.mean(found.lidar))
        if found.depth:
            scores['depth_abs_rel'] = scores['score'] = float(np.mean(found.depth))
        return scores

    def previews(self, depth: DepthModel) -> Mapping[str, NDArray[np.uint8]]:
        """Images of the terms (`visualise`) for some held-out frames, tiled."""
        return {
            f'held_out_{index}': draw_tiles(
                _in_pairs(self._objective.visualise(batch, depth)), *batch.image.shape[-2:]
            )
            for index, batch in enumerate(self._held_out_batches(PREVIEWS))
        }

    def describe(
        self, depth: DepthModel, step: int, scores: Mapping[str, float]
    ) -> CheckpointInfo:
        """Metadata of the checkpoint; metric where data tied the scale, or a term kept it."""
        recipe, start, student = self.recipe, self._start, self._student
        old = start.info if isinstance(start, Checkpoint) else None
        output = OutputInfo(self._focal_px)
        if old is not None:  # of which a new student keeps the scale only, no confidence
            output = old.output
            if student is not None:
                output = OutputInfo(self._focal_px, scale_sigma=old.output.scale_sigma)
        record = training_record(recipe, start, step, scores, student)
        trained = {**record, 'scale': self._tied}
        licence = recipe.data.licence or 'of the recording'
        return CheckpointInfo(
            name=recipe.name,
            licence=recipe.licence,
            architecture=dump(depth.architecture),
            encoder_options=depth.encoder_options,
            input=self._input(depth),
            output=replace(output, metric=self._is_metric(old)),
            training=trained,
            data=(
                *start_provenance(start),
                *(start_provenance(student.encoder) if student is not None else ()),
                *self._map_provenance,
                *({'name': _full_name(s), 'licence': licence} for s in self._data.sequences),
            ),
        )

    def _is_metric(self, old: CheckpointInfo | None) -> bool:
        tied = any(
            0 < one['known'] >= MIN_METRIC_FRACTION * one['triplets']
            for one in self._tied.values()
        )
        kept = any(
            term.keeps_scale and term.settings.weight > 0
            for term in self._objective.terms.values()
        )
        return tied or (kept and old is not None and old.output.metric)

    def _input(self, depth: DepthModel) -> InputInfo:
        first = self._data.sequences[0]
        height, width = (side // first.fine_factor for side in first.camera.size)
        trained = InputInfo(height, width, *depth.normalisation)
        start = self._start
        if not isinstance(start, Checkpoint) or self._student is not None:
            return trained
        return trained.trained_from(start.info.input)

    def _held_out_batches(self, most: int = MAX_HELD_OUT) -> Iterator[TripletBatch]:
        device = next(self.module.parameters()).device
        for batch in self._held_out.held_out_batches(most):
            yield batch.to(device)

    def _measure(self, depth: DepthModel, batch: TripletBatch, found: _Measurements) -> None:
        """Add the values of one batch."""
        with autocast(batch.image.device.type):
            context = Context(self._objective, batch, 1.0, depth)
            new = context.predict(depth, context.input('target'))
            old = context.prediction(INITIAL) if INITIAL in self._objective.teachers else None
        context.preset(student={'target': new})
        if Photometric.name not in self._objective.terms:
            given = Context(self._objective, batch, 1.0, depth)
            given.preset(student={'target': new})
            found.loss.append(float(sum(self._objective.evaluate(given).values())))
        if self._is_compared:
            found.photometric.extend(self._reproject(context, new))
        if old is not None:
            difference = (new.log_depth - old.log_depth).flatten(1)
            offset = difference.median(dim=1).values
            found.offset.extend(offset.tolist())
            found.stretch.extend((_spread(new) / _spread(old)).log().tolist())
            found.change.extend((difference - offset[:, None]).abs().mean(dim=1).tolist())
        found.lidar.extend(_lidar_abs_rel(new.log_depth, batch.lidar))
        if 'depth_m' in batch:
            found.depth.extend(_depth_abs_rel(new.log_depth, batch.depth_m))

    def _reproject(self, context: Context, new: Prediction) -> list[float]:
        """Photometric error of every image of a batch, with aligned poses.

        Poses are aligned whatever the recipe says: depth is measured here, not the pose network.
        Factors that terms put on the error do not count: those of teachers change from one
        validation to the next, and the scores would tell of them.
        """
        with autocast(context.batch.image.device.type):
            own = context.predict(self._depth, context.input('target'))
            poses = context.network_poses().clone()
        ratio = (new.log_depth - own.log_depth).flatten(1).median(dim=1).values.exp()
        poses[..., :3, 3] *= ratio[:, None]
        context.preset(**{PHOTOMETRIC_WEIGHT: None})
        context.preset(poses=align_poses(context, poses))
        errors: list[float] = self._photometric.reprojection(context).loss.tolist()
        return errors


def _full_name(sequence: Sequence) -> str:
    """The name of a recording; that of a video alone, such as clip_00, would tell little."""
    origin = sequence.origin
    if origin is None or origin.path.suffix.lower() not in VIDEO_SUFFIXES:
        return sequence.name
    return f'{origin.path.parent.name}/{sequence.name}'


def describe_data(data: Preparation) -> dict[str, Any]:
    """Recordings as JSON: name, fingerprint, time range, frames, triplets, rejected frames."""
    recordings = [
        {
            'name': sequence.name,
            'fingerprint': sequence.fingerprint,
            'frames': len(sequence.rgb),
            'from_ns': int(sequence.stamps_ns[0]),
            'to_ns': int(sequence.stamps_ns[-1]),
            'triplets': len(sequence.triplets),
            'held_out': len(sequence.held_out),
        }
        for sequence in data.sequences
    ]
    unreadable = [{'path': one.path, 'reason': one.reason} for one in data.unreadable]
    return {
        'recordings': recordings,
        'rejected': data.rejected,
        'unreadable': unreadable,
        'notes': list(data.notes),
    }


def _in_pairs(images: Mapping[str, Image]) -> list[list[Image]]:
    """Rows of two images, the last one padded with black."""
    shown = list(images.values())
    if len(shown) % 2:
        shown.append(np.zeros((1, 1, 3), np.uint8))
    return [shown[index : index + 2] for index in range(0, len(shown), 2)]


def _spread(prediction: Prediction) -> Tensor:
    """The standard deviation of each image's log-depth (B,)."""
    return prediction.log_depth.flatten(1).std(dim=1).clamp(min=1e-6)


def _depth_abs_rel(log_depth: Tensor, truth_m: Tensor) -> list[float]:
    """AbsRel in metres of every image (B, 1, H, W) that has true depth."""
    values = []
    for depth, truth in zip(log_depth.exp(), truth_m, strict=True):
        measured = measure(
            depth.cpu().numpy(), truth.cpu().numpy(), median_scaled=False, maximum_m=MAX_LIDAR_M
        )
        values += [measured.abs_rel] if measured is not None else []
    return values


def _lidar_abs_rel(log_depth: Tensor, lidar: Tensor) -> list[float]:
    """AbsRel at the lidar points of every image that has some."""
    values = []
    for depth, points in zip(log_depth.exp(), lidar, strict=True):
        known = points[torch.isfinite(points).all(dim=1)]
        if len(known):
            found = sample(depth[None], known[None, None, :, :2])[0, 0, 0]
            measured = measure(
                found.cpu().numpy(), known[:, 2].cpu().numpy(), median_scaled=False,
                maximum_m=MAX_LIDAR_M,
            )  # fmt: skip
            values += [measured.abs_rel] if measured is not None else []
    return values
