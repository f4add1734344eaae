"""The self-supervised objective on a rendered street, with a network that knows the truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn, Tensor
import torch.nn.functional as F

from psd_depth_ros.data.triplets.batch import TripletBatch
from psd_depth_ros.geometry.pose import relative
from psd_depth_ros.geometry.warp import pixel_grid, sample
from psd_depth_ros.networks import DepthModel, DepthOutput, Normalisation, preset
from psd_depth_ros.networks.depth_model import NetworkPass
from psd_depth_ros.networks.pose_net import PoseNet
from psd_depth_ros.objectives import psd
from psd_depth_ros.objectives.base import Context, Objective
from psd_depth_ros.objectives.photometric import find_parallax, Smoothness
from psd_depth_ros.synth import World, WorldSettings
from psd_depth_ros.teachers import EMA, Teachers
from psd_depth_ros.training.recipe import build_recipe, change_recipe, VideoRecipe

HEIGHT, WIDTH = 96, 320
SKY_M = 500.0


class Oracle(nn.Module):
    """A depth network that reads the truth at the rays of whatever it is shown."""

    has_bins = False
    normalise = staticmethod(Normalisation().apply)

    def __init__(self, depth_m: Tensor, intrinsics: Tensor, focal: float = 240.0) -> None:
        super().__init__()
        self.depth_m, self.intrinsics, self.focal = depth_m, intrinsics, focal
        self.gain = nn.Parameter(torch.zeros(()))  # added to every log-depth

    def forward(self, image: Tensor, intrinsics: Tensor) -> DepthOutput:
        height, width = (side // 2 for side in image.shape[-2:])
        pixels = ((pixel_grid(height, width) + 0.5) * 2 - 0.5).expand(len(image), -1, -1, -1)
        scale = (self.intrinsics[:, :2] / intrinsics[:, :2])[:, None, None]
        there = (pixels - intrinsics[:, None, None, 2:]) * scale + self.intrinsics[
            :, None, None, 2:
        ]
        depth = sample(self.depth_m.expand(len(image), -1, -1, -1), there.round())
        canonical = (depth * self.focal / intrinsics[:, :1, None, None]).log() + self.gain
        return DepthOutput(canonical, torch.full_like(canonical, 0.05), canonical * 0)

    def predict_all(self, image: Tensor, intrinsics: Tensor) -> NetworkPass:
        return NetworkPass(self(image, intrinsics), [], [])


@pytest.fixture(scope='module')
def street() -> tuple[TripletBatch, Tensor, Tensor]:
    """A batch of one triplet, the fine depth (1, 1, 2H, 2W) and its intrinsics (1, 4)."""
    settings = WorldSettings(layout='dense', width=2 * WIDTH, height=2 * HEIGHT, moving_objects=0)
    world = World(7, settings)
    frames = [world.render(index) for index in (10, 9, 11)]
    fine = torch.stack([frame.rgb for frame in frames]).permute(0, 3, 1, 2)[None]
    clean = F.interpolate(fine[0].float(), (HEIGHT, WIDTH), mode='area').round().byte()[None]
    camera = world.camera.rectified()
    fine_intrinsics = torch.tensor([[camera.fx, camera.fy, camera.cx, camera.cy]])
    small = camera.resize(WIDTH, HEIGHT)
    motions = np.stack(
        [relative(frame.T_world_camera, frames[0].T_world_camera) for frame in frames[1:]]
    )
    depth = frames[0].depth_m.clamp(max=SKY_M)[None, None]
    batch = TripletBatch(
        image=clean,
        image_augmented=clean,
        intrinsics=torch.tensor([[small.fx, small.fy, small.cx, small.cy]]),
        valid=torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.bool),
        pose_prior=torch.from_numpy(motions).float()[None],
        distance_m=torch.from_numpy(np.linalg.norm(motions[:, :3, 3], axis=1)).float()[None],
        camera_height_m=torch.full((1,), float('nan')),
        lidar=torch.zeros(1, 0, 3),
        seeds=torch.tensor([7]),
        fine=fine,
        fine_augmented=fine[:, 0],
    )
    return batch, depth, fine_intrinsics.float()


def still_pose() -> PoseNet:
    """A pose network that adds nothing to the odometry."""
    pose = PoseNet()
    nn.init.zeros_(pose.motion.weight)
    return pose


TERMS = [
    {'term': 'photometric', 'weight': 0.5},
    {'term': 'smoothness', 'weight': 5e-4},
    {'term': 'pose_prior', 'weight': 0.1},
    {'term': 'patch', 'weight': 0.5},
    {'term': 'patch_smoothness', 'weight': 5e-4},
    {'term': 'patch_level', 'weight': 0.05},
    {'term': 'distillation', 'weight': 0.1, 'masked': False},
]
MIX = [
    {'term': 'mix', 'weight': 0.5, 'fraction': 1.0},
    {'term': 'mix_consistency', 'weight': 0.07},
]
NO_PATCH = ('objective.patch=off', 'objective.photometric=1.0')


def recipe(*changes: str, extra: list[dict[str, Any]] = []) -> VideoRecipe:  # noqa: B006
    """Everything from the first step on, but no PatchMix."""
    base = build_recipe(VideoRecipe, {'head': 'disparity', 'objective': [*TERMS, *extra]})
    return change_recipe(base, changes, 'test')


Street = tuple[TripletBatch, Tensor, Tensor]


def make_objective(
    settings: VideoRecipe, network: Any, pose: PoseNet, **teachers: Any
) -> Objective:
    kept = Teachers()
    for name, teacher in teachers.items():
        kept.add(name, teacher)
    return Objective(
        settings.make_terms(), network, canonical_focal_px=240.0, pose=pose, teachers=kept
    )


class Seen:
    """What the terms of a step have looked at."""

    def __init__(self, objective: Objective, context: Context) -> None:
        terms = objective.terms
        self.full = context.prediction()
        self.reprojection = terms['photometric'].reprojection(context)
        if 'patch' in terms and terms['patch'].is_seen(context):
            self.patches = terms['patch'].view(context).patches
            self.patch = terms['patch'].levelled(context)[0]
            self.taught = terms['distillation'].result(context).mask


def run(street: Street, settings: VideoRecipe, gain: float = 0.0) -> tuple[dict[str, Tensor], Any]:
    batch, depth, intrinsics = street
    oracle = Oracle(depth, intrinsics)
    nn.init.constant_(oracle.gain, gain)
    objective = make_objective(settings, oracle, still_pose())
    context = Context(objective, batch, 1.0)
    return objective.evaluate(context), Seen(objective, context)


def test_the_true_depth_explains_image_and_patch(street: Street) -> None:
    right, seen = run(street, recipe())
    assert seen.reprojection.auto_mask.float().mean() > 0.5  # better than unwarped
    for gain in (-0.3, 0.3):
        wrong, _ = run(street, recipe(), gain)
        assert right['photometric'] < 0.9 * wrong['photometric']
        assert right['patch'] < 0.98 * wrong['patch']  # far: little moves


def test_a_patch_is_canonical_not_metric(street: Street) -> None:
    """Z = s Z': taken for metric, the depth of a patch would be too near by its zoom."""
    right, _ = run(street, recipe())
    wrong, seen = run(
        street, recipe('objective.patch.convention=metric', 'objective.patch.largest_offset=10')
    )
    assert right['patch'] < 0.8 * wrong['patch']
    full = sample(seen.full.log_depth, seen.patches.pixels())
    offset = (full - seen.patch.log_depth).median()
    assert offset.item() == pytest.approx(float(seen.patches.zoom.log()), abs=0.05)


def test_a_patch_off_by_its_zoom_is_judged_by_its_shape(street: Street) -> None:
    """Off by ln s, of which `largest_offset` is left; the rest is a term of its own."""
    right, _ = run(street, recipe())
    wrong, seen = run(
        street, recipe('objective.patch.convention=metric', 'objective.patch.largest_offset=0')
    )
    assert wrong['patch'].item() == pytest.approx(right['patch'].item(), rel=0.02)
    level = 0.1 * 0.5 * float(seen.patches.zoom.log())  # weight, half of the step is the patch's
    assert wrong['patch_level'].item() == pytest.approx(level, rel=0.05)
    assert right['patch_level'].item() == 0.0


def test_patch_and_image_agree_on_the_truth(street: Street) -> None:
    terms, seen = run(street, recipe())
    offset = (sample(seen.full.log_depth, seen.patches.pixels()) - seen.patch.log_depth).median()
    assert abs(offset.item()) < 0.02
    assert terms['distillation'] < 0.1 * 0.06  # only edges differ, by the size of a pixel
    assert seen.taught.float().mean() > 0.05


def test_the_full_image_is_judged_by_the_fine_pixels_of_its_patch(street: Street) -> None:
    """Patch and image know the same depth here, so both explain the patch alike."""
    distant = 'objective.distant=0.5'
    right, _ = run(street, recipe(distant))  # half of the step is the patch's
    ratio = (right['distant'] / right['patch']).item()
    assert ratio == pytest.approx(1.0, rel=0.02)
    alone, _ = run(street, recipe(distant, 'objective.patch.weight=0'))
    assert alone['distant'] == right['distant']
    wrong, _ = run(street, recipe(distant), gain=0.3)
    assert right['distant'] < 0.98 * wrong['distant']


def test_a_step_with_patches_stands_for_those_without(street: Street) -> None:
    """One image in four has a patch, so that its terms count four times; without, they are 0."""
    always, _ = run(street, recipe())
    seldom, _ = run(street, recipe('objective.patch.fraction=0.25'))
    none, _ = run((street[0].replace(fine_augmented=None), *street[1:]), recipe())
    assert always.keys() == seldom.keys() == none.keys()
    for name in ('patch', 'patch_smoothness', 'distillation'):
        torch.testing.assert_close(seldom[name], 4.0 * always[name])
        assert always[name] > 0.0
        assert none[name] == 0.0
    assert none['photometric'] == always['photometric']


def test_parallax_is_the_larger_shift_of_both_sources() -> None:
    """1 m sideways moves what is 50 m away by f / 50; 2 m ahead by (x - cx) / (25 - 1)."""
    motions = torch.eye(4).repeat(2, 1, 1, 1)
    motions[0, 0, 0, 3] = 1.0
    motions[1, 0, 2, 3] = -2.0
    K = torch.tensor([[[100.0, 0.0, 0.0], [0.0, 100.0, 0.0], [0.0, 0.0, 1.0]]])
    found = find_parallax(torch.full((1, 1, 1, 97), 50.0), motions, K, torch.full((1, 2), 100.0))
    assert found[0, 0, 0, 0].item() == pytest.approx(2.0)
    assert found[0, 0, 0, 96].item() == pytest.approx(96 / 24 * 50 / 48)


def test_far_things_taken_for_near_are_freed_of_the_mask(street: Street) -> None:
    """A fifth of the true distance: unwarped fits better, but where little moves it counts."""
    _, plain = run(street, recipe(), gain=-1.6)
    _, freed = run(
        street, recipe('objective.photometric.exempt_from_auto_mask_px=1000'), gain=-1.6
    )
    assert plain.reprojection.auto_mask.float().mean() < 0.7
    inside = plain.reprojection.error < 10.0
    assert freed.reprojection.auto_mask[inside].all()


def test_what_photometry_cannot_be_wrong_about_has_no_switch_left_on(street: Street) -> None:
    terms, _ = run(street, recipe(*NO_PATCH))
    assert set(terms) == {'smoothness', 'pose_prior', 'photometric'}


def test_distillation_teaches_the_full_image_alone(street: Street) -> None:
    """No gradient of it reaches the patch."""
    torch.manual_seed(0)
    network = DepthModel(preset('lite'))
    objective = make_objective(recipe(), network, still_pose())
    context = Context(objective, street[0], 1.0)
    terms, seen = objective.evaluate(context), Seen(objective, context)
    seen.patch.log_depth.retain_grad()
    seen.full.log_depth.retain_grad()
    (100.0 * terms['distillation']).backward()
    assert seen.patch.log_depth.grad is None
    assert seen.full.log_depth.grad is not None


def test_a_teacher_is_judged_by_its_own_errors(street: Street) -> None:
    """What the average says of the patch teaches by what that explains, not the student's."""
    batch, depth, intrinsics = street
    taught = {}
    for teacher_is_right in (True, False):
        student = Oracle(depth, intrinsics)
        teacher = (Oracle if teacher_is_right else PatchesOff)(depth, intrinsics)
        settings = recipe(
            'objective.distillation.teacher=true', 'objective.distillation.masked=true',
            'objective.patch.largest_offset=10',
        )  # fmt: skip
        nn.init.constant_(student.gain, 0.1)
        objective = make_objective(settings, student, still_pose(), **{EMA: teacher})
        context = Context(objective, batch, 1.0)
        patch = objective.terms['patch']
        own, its = (patch.reprojection(context, who) for who in ('student', EMA))
        inputs = objective.terms['distillation']._inputs(
            context, patch, EMA, patch.levelled(context, EMA)[0]
        )
        torch.testing.assert_close(inputs.patch_error, F.avg_pool2d(its.error, 2))
        assert not torch.equal(own.error, its.error)
        taught[teacher_is_right] = objective.terms['distillation'].result(context).mask.sum()
    assert taught[True] > 2 * taught[False]


class PatchesOff(Oracle):
    """Right about the image, and a fifth too far in whatever is enlarged."""

    def forward(self, image: Tensor, intrinsics: Tensor) -> DepthOutput:
        found = super().forward(image, intrinsics)
        is_patch = intrinsics[0, 0] > 1.2 * self.intrinsics[0, 0] / 2
        ramp = torch.linspace(-0.3, 0.3, found.log_depth.shape[-1])
        return found._replace(log_depth=found.log_depth + is_patch * ramp)


def test_terms_may_stand_in_any_order(street: Street) -> None:
    batch = with_two(street)
    torch.manual_seed(0)
    network = DepthModel(preset('lite'))
    settings = recipe('objective.geometry=0.1', 'objective.distant=0.5', extra=MIX)
    found = []
    for step in (1, -1):
        objective = Objective(
            settings.make_terms()[::step], network, canonical_focal_px=240.0, pose=still_pose()
        ).eval()
        terms = objective(batch, 1.0)
        torch.stack(list(terms.values())).sum().backward()
        gradient = torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None])
        network.zero_grad()
        found.append((terms, gradient))
    assert list(found[0][0]) == list(found[1][0])[::-1]
    for name, value in found[0][0].items():
        assert value == found[1][0][name], name
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)


def with_two(street: Street) -> TripletBatch:
    """The batch and its mirror image: K follows (cx -> W - 1 - cx), poses are conjugated."""
    batch = street[0]
    mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    fx, fy, cx, cy = batch.intrinsics[0].tolist()
    return TripletBatch(
        image=torch.cat([batch.image, batch.image.flip(-1)]),
        image_augmented=torch.cat([batch.image_augmented, batch.image_augmented.flip(-1)]),
        intrinsics=torch.tensor([[fx, fy, cx, cy], [fx, fy, WIDTH - 1 - cx, cy]]),
        valid=batch.valid.expand(2, -1, -1, -1),
        pose_prior=torch.cat([batch.pose_prior, mirror @ batch.pose_prior @ mirror]),
        distance_m=batch.distance_m.expand(2, -1),
        camera_height_m=batch.camera_height_m.expand(2),
        lidar=batch.lidar.expand(2, -1, -1),
        seeds=torch.tensor([7, 8]),
        fine=torch.cat([batch.fine, batch.fine.flip(-1)]),
        fine_augmented=torch.cat([batch.fine_augmented, batch.fine_augmented.flip(-1)]),
    )


class TwoOracles(nn.Module):
    """The truth of the image, its mirror, and of images with parts pasted into each other."""

    has_bins = False
    normalise = staticmethod(Normalisation().apply)

    def __init__(self, truth: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.truth = truth

    def forward(self, image: Tensor, intrinsics: Tensor) -> DepthOutput:
        canonical = self.truth(image, intrinsics)
        return DepthOutput(canonical, torch.full_like(canonical, 0.05), canonical * 0)

    def predict_all(self, image: Tensor, intrinsics: Tensor) -> NetworkPass:
        return NetworkPass(self(image, intrinsics), [], [])


def test_pasted_parts_are_judged_by_their_own_geometry(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The true depth of a mixed image, pasted parts s times nearer, explains it."""
    batch = with_two(street)
    _, depth, _ = street
    small = depth[..., ::2, ::2]  # nearest of two: the truth at the input's size, all but
    truth = torch.cat([small, small.flip(-1)]).log()
    mixes: list[Any] = []
    draw = psd.sample_mix
    monkeypatch.setattr(psd, 'sample_mix', lambda *given: mixes.append(draw(*given)) or mixes[-1])

    def canonical(image: Tensor, intrinsics: Tensor, pasted_nearer: bool = True) -> Tensor:
        mix = mixes[-1]
        zoom = mix.zoom.log()[:, None, None, None] * (1.0 if pasted_nearer else 0.0)
        mixed = torch.where(mix.pasted, sample(truth.flip(0), mix.pixels) - zoom, truth)
        metric = torch.cat([truth, mixed])  # the network sees both in one pass
        ratio = (240.0 / intrinsics[:, :1, None, None]).log()
        return F.avg_pool2d(metric + ratio, 2)

    settings = recipe(*NO_PATCH, extra=MIX)
    results = {}
    for nearer in (True, False):
        mixes.clear()
        network = TwoOracles(lambda i, k, near=nearer: canonical(i, k, near))  # type: ignore[misc]
        objective = make_objective(settings, network, still_pose())
        results[nearer] = objective(batch, 1.0)
    assert results[True]['mix_consistency'] < 0.3 * results[False]['mix_consistency']
    assert results[True]['mix'] < results[False]['mix']
    # about the error of the clean images, seams and all
    assert results[True]['mix'] < 1.3 * 0.5 * results[True]['photometric']


def test_what_is_masked_in_the_image_is_masked_in_patches_and_mixed_images(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask of moving things takes their gradient away wherever they are seen."""
    batch = with_two(street)
    torch.manual_seed(0)
    network = DepthModel(preset('lite', 'disparity'))
    terms = ('objective.distant=0.5', 'objective.patch_smoothness=off')
    settings = recipe(*terms, 'objective.distillation=off', extra=MIX[:1])
    for factor, has_gradient in ((1.0, True), (0.0, False)):
        monkeypatch.setattr(
            Smoothness,
            'photometric_weight',
            lambda self, context, factor=factor: torch.full_like(context.images[0, :, :1], factor),
        )
        network.zero_grad()
        objective = make_objective(settings, network, still_pose())
        losses = objective(batch, 0.5)
        assert {'photometric', 'patch', 'distant', 'mix'} <= losses.keys()
        sum(losses[name] for name in ('patch', 'distant', 'mix')).backward()
        found = [float(p.grad.abs().sum()) for p in network.parameters() if p.grad is not None]
        assert (sum(found) > 0.0) == has_gradient


def test_a_batch_is_the_mean_of_its_parts(street: Street) -> None:
    batch = with_two(street)
    torch.manual_seed(0)
    objective = make_objective(recipe(), DepthModel(preset('lite')), PoseNet())
    objective.eval()  # batch norm would mix the samples
    whole = objective(batch, 1.0)

    def part(index: int) -> TripletBatch:
        fields = batch.fields()
        return TripletBatch(**{name: value[index : index + 1] for name, value in fields.items()})

    parts = [objective(part(index), 1.0) for index in (0, 1)]
    for name, value in whole.items():
        mean = (parts[0][name] + parts[1][name]) / 2
        torch.testing.assert_close(mean, value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ('progress', 'aligned'), [(0.1, False), (0.2, True), (0.5, True), (0.6, False), (1.0, False)]
)
def test_poses_are_aligned_for_a_part_of_the_run(
    street: Street, progress: float, aligned: bool
) -> None:
    settings = recipe('objective.pose_alignment.start=0.2', 'objective.pose_alignment.end=0.5')
    objective = make_objective(settings, Oracle(street[1], street[2]), still_pose())
    context = Context(objective, street[0], progress)
    assert ('pose_alignment' in objective.evaluate(context)) == aligned
    assert context.has_refined_poses == aligned


def test_odometry_ties_the_scale(street: Street) -> None:
    settings = recipe(*NO_PATCH, 'objective.velocity=1.0', 'objective.pose_prior=1.0')
    terms, _ = run(street, settings)
    assert terms['velocity'].item() == pytest.approx(0.0, abs=1e-4)
    assert terms['pose_prior'].item() == pytest.approx(0.0, abs=1e-6)
