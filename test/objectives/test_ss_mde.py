"""Terms of SS-MDE on scenes and numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from psd_depth_ros.data.triplets.batch import TripletBatch
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.losses.photometric import smoothness
from psd_depth_ros.networks import DepthModel, preset
from psd_depth_ros.objectives.base import Context, Objective, Prediction, TermSettings
from psd_depth_ros.objectives.photometric import Photometric, PhotometricSettings
from psd_depth_ros.objectives.ss_mde import (
    AdaptiveForgetting,
    align_pseudo_depth,
    disagreement,
    DynamicNormals,
    DynamicRanking,
    EmaTeacher,
    EmaTeacherSettings,
    explains_better,
    FIRST_STEPS,
    Masks,
    MultiScale,
    MultiScaleSettings,
    PseudoDepth,
    PseudoDepthSettings,
    RankingSettings,
    ScaleHeads,
)
from psd_depth_ros.teachers import TEACHER

HEIGHT, WIDTH, FOCAL = 48, 80, 60.0
WALL_M, SQUARE_M, STEP_M = 20.0, 8.0, 0.4
SQUARE = (slice(None), slice(None), slice(16, 32), slice(32, 48))


# A wall, and a square before it that moves between the views.


def wall(square_m: float = SQUARE_M, shift_px: int = 0) -> torch.Tensor:
    """Depth (1, 1, H, W) of a wall, with a square 16 pixels wide."""
    depth = torch.full((1, 1, HEIGHT, WIDTH), WALL_M)
    depth[:, :, 16:32, 32 + shift_px : 48 + shift_px] = square_m
    return depth


def seen(depth: torch.Tensor) -> Prediction:
    """What a network says."""
    return Prediction(depth.log(), torch.zeros(1, 1, 24, 40), None, torch.zeros(1, 1, 1, 1))


def look(
    terms: list, student: torch.Tensor, teacher: torch.Tensor, progress: float = 0.5, **fields
) -> Context:
    """A context in which both networks have said something, and the square has moved."""
    objective = Objective(terms, nn.Identity(), canonical_focal_px=FOCAL)
    image = torch.zeros(1, 3, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    batch = TripletBatch(
        image=image,
        image_augmented=image,
        intrinsics=torch.tensor([[FOCAL, FOCAL, 39.5, 23.5]]),
        valid=torch.ones(1, 1, HEIGHT, WIDTH, dtype=torch.bool),
        seeds=torch.tensor([3]),
        **fields,
    )
    poses = torch.eye(4).repeat(2, 1, 1, 1)
    poses[0, 0, 0, 3], poses[1, 0, 0, 3] = STEP_M, -STEP_M
    context = Context(objective, batch, progress)
    context.preset(student={'target': seen(student)}, poses=poses)
    for name, depth in (
        ('clean_target', teacher),
        ('clean_earlier', wall(shift_px=-18)),
        ('clean_later', wall(shift_px=18)),
    ):
        context.once(('prediction', TEACHER, name), lambda depth=depth: seen(depth))
    return context


def ema(**settings) -> EmaTeacher:
    return EmaTeacher(EmaTeacherSettings(**settings))


# 1. Pseudo-depth.


def test_the_weight_is_forgotten_part_by_part():
    settings = PseudoDepthSettings(weight=0.1, teacher='maps')
    found = [settings.weight_at(part / 20) for part in range(21)]
    assert found[:4] == pytest.approx([0.1, 0.07, 0.049, 0.0343])
    assert settings.weight_at(0.049) == pytest.approx(0.1)
    assert found[8] == pytest.approx(0.1 * 0.7**8)
    assert found[9:] == [0.0] * 12  # 0.7^9 is below 5 %
    kept = PseudoDepthSettings(weight=0.1, teacher='maps', forgetting='none')
    assert kept.weight_at(1.0) == 0.1


def test_the_weight_follows_the_photometric_error_down_only():
    state = AdaptiveForgetting()
    for _ in range(FIRST_STEPS):
        state.update(torch.tensor(0.2))
    assert state.factor == 1.0
    state.update(torch.tensor(0.1))  # average 0.199
    assert state.factor.item() == pytest.approx(0.995)
    for _ in range(1000):
        state.update(torch.tensor(0.1))
    assert state.factor.item() == pytest.approx(0.5, abs=1e-4)
    for _ in range(1000):
        state.update(torch.tensor(0.3))
    assert state.factor.item() == pytest.approx(0.5, abs=1e-4)


def test_adaptive_forgetting_resumes_where_it_was():
    errors = 0.2 + 0.1 * torch.rand(300, generator=torch.Generator().manual_seed(0))
    whole, first, second = (AdaptiveForgetting() for _ in range(3))
    for error in errors:
        whole.update(error)
    for error in errors[:70]:
        first.update(error)
    second.load_state_dict(first.state_dict())
    for error in errors[70:]:
        second.update(error)
    assert whole.factor < 1.0
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize('training', [True, False])
def test_only_training_moves_the_weight(training):
    settings = PseudoDepthSettings(teacher='maps', forgetting='adaptive')
    terms = [Photometric(PhotometricSettings()), PseudoDepth(settings)]
    context = look(terms, wall(), wall(), pseudo_depth=1.0 / wall())
    with torch.set_grad_enabled(training):
        terms[1](context)
    state = context.module('pseudo_depth')
    assert isinstance(state, AdaptiveForgetting)
    assert state.count == float(training)


def test_a_prior_without_a_teacher_is_refused():
    for settings in (PseudoDepthSettings(), PseudoDepthSettings(forgetting='none')):
        with pytest.raises(SettingsError, match=r'teacher=PATH.*objective\.pseudo_depth=off'):
            look([PseudoDepth(settings)], wall(), wall())
    assert PseudoDepth(PseudoDepthSettings(teacher='a/b')).maps == {'pseudo_depth': 'a/b'}


@pytest.mark.parametrize('pixels', ['all', 'not_dynamic', 'static'])
def test_pseudo_depth_counts_on_the_pixels_that_were_asked_for(pixels):
    settings = PseudoDepthSettings(weight=0.1, teacher='maps', forgetting='none', pixels=pixels)
    depth = wall() + torch.linspace(0, 60, WIDTH)
    pseudo = 3.0 / depth - 1.0
    pseudo[SQUARE] = 9.0  # wrong about what moves
    pseudo[:, :, :5, :5] = 9.0  # and about what is noisy
    terms = [PseudoDepth(settings), ema()]
    context = look(terms, depth, wall(), pseudo_depth=pseudo)
    masks = ema_masks(moving=True)
    masks.static[:, :, :5, :5] = False
    masks.noisy[:, :, :5, :5] = True
    context.once('ema_teacher', lambda: masks)
    found = terms[0](context).item()
    unfiltered = terms[0](look([terms[0]], depth, wall(), pseudo_depth=pseudo)).item()
    if pixels == 'static':
        assert found == pytest.approx(0.0, abs=1e-4)
    else:
        assert found > 0.1
    assert (found == unfiltered) == (pixels == 'all')
    assert unfiltered > 1.0


def ema_masks(moving: bool) -> Masks:
    """Masks in which the square moves, or nothing does."""
    dynamic = torch.zeros(1, 1, HEIGHT, WIDTH, dtype=torch.bool)
    dynamic[SQUARE] = moving
    return Masks(~dynamic, dynamic, torch.zeros_like(dynamic), 1.0 - dynamic.float())


# 2. Teacher and filter.


def test_what_moves_has_no_photometric_error_and_no_teacher():
    term = ema()
    student = wall() * 1.05
    student[SQUARE] *= 3.0
    context = look([term], student, wall())
    masks = term.masks(context)
    assert masks.dynamic[SQUARE].all()
    assert masks.dynamic.sum() == 16 * 16
    weight = context.photometric_weight
    assert weight is not None
    assert (weight[SQUARE] == 0).all()
    assert (weight[masks.static] == 1).all()
    d = math.log(1.05)
    assert term(context).item() == pytest.approx(d**2 / 0.1, rel=1e-3)  # the square is not taught


def test_without_the_filter_all_is_taught():
    term = ema(filter=False)
    context = look([term], wall(), wall())
    assert context.photometric_weight is None
    assert term.masks(context).static.all()


def test_an_image_in_which_most_seems_to_move_is_not_believed():
    term = ema()
    context = look([term], wall(), wall() * 3.0)
    masks = term.masks(context)
    assert not masks.dynamic.any()
    assert (masks.weight == 1).all()


def test_a_car_that_hides_at_infinity_is_found_by_pseudo_depth():
    """It moves as the camera does: every view agrees that it is far away."""
    hidden = torch.full((1, 1, HEIGHT, WIDTH), WALL_M) + torch.linspace(0, 5, WIDTH)
    truth = hidden.clone()
    hidden[SQUARE], truth[SQUARE] = 500.0, 8.0
    pseudo = 2.0 / truth + 0.7
    valid = torch.ones_like(pseudo, dtype=torch.bool)
    found = disagreement(hidden, pseudo, valid, 0.3)
    assert found[SQUARE].all()
    assert found.sum() == 16 * 16
    too_near = truth.clone()
    too_near[SQUARE] = 3.0
    assert torch.equal(disagreement(too_near, pseudo, valid, 0.3), found)
    assert not disagreement(truth * 1.5, pseudo, valid, 0.3).any()  # scale is no difference
    pseudo[SQUARE] = torch.nan
    assert not disagreement(hidden, pseudo, valid, 0.3).any()


def test_what_the_noise_of_the_map_explains_has_not_moved():
    generator = torch.Generator().manual_seed(0)
    disparity = 0.1 + 0.9 * torch.rand(1, 1, HEIGHT, WIDTH, generator=generator)
    noise = 0.02 * torch.randn(disparity.shape, generator=generator)
    valid = torch.ones_like(disparity, dtype=torch.bool)
    found = disagreement(1 / disparity, 5.0 * (disparity + noise), valid, 0.05)
    assert found.float().mean() < 0.01  # beyond three standard deviations
    assert ((disparity + noise) / disparity).log().abs().gt(0.05).float().mean() > 0.2


def test_the_filter_takes_the_word_of_pseudo_depth_where_asked():
    depth = wall() + torch.linspace(0, 0.5, WIDTH)
    pseudo = 2.0 / depth
    pseudo[:, :, 5:10, 5:10] = 2.0 / 5.0  # views agree that the wall is there
    part = (slice(None), slice(None), slice(5, 10), slice(5, 10))
    for term, moves in ((ema(), False), (ema(pseudo_difference=0.5), True)):
        context = look([term], wall(), depth, pseudo_depth=pseudo)
        # and so do the images: the texture goes by as far as that of a wall
        context.once('images', lambda: passing_texture(FOCAL * STEP_M / WALL_M))
        masks = term.masks(context)
        assert masks.dynamic[part].all() == moves
        assert masks.static[part].all() != moves
        assert not (masks.static & masks.dynamic).any()


def test_where_the_prior_explains_the_images_better_the_network_is_wrong():
    network, prior = wall(), 1.0 / torch.full_like(wall(), SQUARE_M)
    prior[..., :48] = 1.0 / WALL_M  # most of the map fits the network
    inner = (..., slice(4, -4), slice(48, -24))  # seen by a source, whatever the depth
    for metres, better in ((WALL_M, True), (SQUARE_M, False)):
        context = look([ema()], network, network, pseudo_depth=prior)
        context.once('images', lambda metres=metres: passing_texture(FOCAL * STEP_M / metres))
        found = explains_better(context, torch.full_like(network, WALL_M), prior)
        assert found[inner].float().mean().item() == pytest.approx(float(better), abs=0.02)


def passing_texture(shift_px: float) -> torch.Tensor:
    """Images (3, 1, 3, H, W) of a plane: points go right in the earlier one, left in the later."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing='ij')
    images = []
    for shift in (0.0, shift_px, -shift_px):
        place = x - shift
        waves = [
            (0.5 * place + 0.3 * y).sin(),
            (0.31 * place - 0.4 * y).sin(),
            (0.7 * place).sin(),
        ]
        images.append(0.5 + 0.4 * torch.stack(waves)[None])
    return torch.stack(images)


# 3. What moves.


def test_order_of_what_moves_by_hand():
    ranking = DynamicRanking(RankingSettings(pairs=64))
    flat = torch.full((1, 1, HEIGHT, WIDTH), WALL_M).requires_grad_()
    context = look([ema(), ranking], flat, wall())
    loss = ranking(context)
    assert loss.item() == pytest.approx(math.log(2.0))  # no difference where 8 m should be nearer
    loss.sum().backward()
    assert flat.grad is not None
    moving = torch.zeros_like(flat, dtype=torch.bool)
    moving[SQUARE] = True
    assert (flat.grad[~moving] == 0).all()
    assert (flat.grad[moving] >= 0).all()
    assert flat.grad[moving].sum() > 0  # comes nearer
    right = ranking(look([ema(), ranking], wall(), wall())).item()
    assert right == pytest.approx(math.log(1 + SQUARE_M / WALL_M))
    few = DynamicRanking(RankingSettings(pairs=1024))
    found = few(look([ema(), few], flat.detach(), wall())).item()
    assert found == pytest.approx(math.log(2.0) * 256 / 1024)


def test_pseudo_depth_has_the_word_about_order():
    ranking = DynamicRanking(RankingSettings(pairs=64))
    behind = wall(60.0)  # the map says that the square is behind the wall
    pseudo = 5.0 / (behind + torch.linspace(0, 5, WIDTH)) + 1.0
    teacher = wall() + torch.linspace(0, 5, WIDTH)
    teacher[0, 0, 0, 0] = 100.0  # labels are no farther than the teacher sees
    context = look([ema(), ranking], wall(), teacher, pseudo_depth=pseudo)
    context.once('ema_teacher', lambda: ema_masks(moving=True))
    expected = math.log(1 + WALL_M / SQUARE_M)  # 8 m, and should be behind 20 m
    assert ranking(context).item() == pytest.approx(expected, rel=1e-4)


def test_aligned_pseudo_depth_is_the_depth():
    truth = wall() + torch.linspace(0, 5, WIDTH)
    found, known = align_pseudo_depth(truth.log(), 4.0 / truth - 2.0, truth > 0)
    assert known.all()
    torch.testing.assert_close(found, truth.log(), rtol=1e-4, atol=1e-4)


def test_normals_of_what_moves_by_hand():
    normals = DynamicNormals(TermSettings())
    flat, tilted = (torch.full((1, 1, HEIGHT, WIDTH), WALL_M) for _ in range(2))
    x = (torch.arange(WIDTH) - 39.5) / FOCAL
    tilted[...] = WALL_M / (1.0 - x)  # Z = 20 m + X: a wall at 45 degrees
    teacher = wall()
    teacher[SQUARE] = tilted[SQUARE] * 0.4
    context = look([ema(), normals], flat, teacher)
    context.once('ema_teacher', lambda: inner_masks())
    assert normals(context).item() == pytest.approx(1 - math.cos(math.pi / 4), rel=1e-3)
    flat.requires_grad_()
    context = look([ema(), normals], flat, torch.full_like(flat, WALL_M).detach())
    context.once('ema_teacher', lambda: inner_masks())
    assert normals(context).item() == pytest.approx(0.0, abs=1e-6)


def test_pixels_without_pseudo_depth_teach_nothing():
    terms = [DynamicNormals(TermSettings()), DynamicRanking(RankingSettings())]
    flat = torch.full((1, 1, HEIGHT, WIDTH), WALL_M).requires_grad_()
    pseudo = 2.0 / wall()
    pseudo[SQUARE] = torch.nan
    context = look([ema(), *terms], flat, wall(), pseudo_depth=pseudo)
    context.once('ema_teacher', lambda: ema_masks(moving=True))
    loss = torch.cat([term(context) for term in terms])
    assert (loss == 0).all()
    loss.sum().backward()
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def inner_masks() -> Masks:
    """Masks in which the inner part of the square moves, away from its border."""
    masks = ema_masks(moving=True)
    masks.dynamic[:] = False
    masks.dynamic[:, :, 18:30, 34:46] = True
    return masks


def test_movers_need_the_filter():
    with pytest.raises(SettingsError, match=r'dynamic_ranking.*filter'):
        look([ema(filter=False), DynamicRanking(RankingSettings())], wall(), wall())
    with pytest.raises(SettingsError, match=r'dynamic_normals builds on ema_teacher'):
        look([DynamicNormals(TermSettings())], wall(), wall())


# 4. Several scales.


def test_scales_fade():
    settings = MultiScaleSettings()
    found = [settings.weight_at(progress) for progress in (0.0, 0.25, 0.49, 0.5, 0.9)]
    assert found == pytest.approx([0.5, 0.25, 0.01, 0.0, 0.0])


def test_scales_start_in_the_middle_and_learn():
    torch.manual_seed(0)
    depth = DepthModel(preset('lite'))
    heads = ScaleHeads(depth)
    maps = tuple(torch.zeros(1, c, 2, 4) for c in (128, 96, 64))
    middle = 0.5 * (math.log(0.2) + math.log(1000.0))
    for found in heads(maps):
        torch.testing.assert_close(found, torch.full((1, 1, 2, 4), middle))
    photometric, scales = Photometric(PhotometricSettings()), MultiScale(MultiScaleSettings())
    objective = Objective([photometric, scales], depth, canonical_focal_px=FOCAL)
    assert {name.split('.')[0] for name, _ in objective.owned.named_parameters()} == {
        'multi_scale'
    }
    image = torch.randint(0, 255, (1, 3, 3, 64, 96), dtype=torch.uint8)
    batch = TripletBatch(
        image=image,
        image_augmented=image,
        intrinsics=torch.tensor([[FOCAL, FOCAL, 47.5, 31.5]]),
        valid=torch.ones(1, 1, 64, 96, dtype=torch.bool),
        seeds=torch.tensor([3]),
    )
    context = Context(objective, batch, 0.1)
    poses = torch.eye(4).repeat(2, 1, 1, 1)
    poses[:, 0, 0, 3] = STEP_M
    context.preset(poses=poses)
    scales(context).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.owned.parameters())
    assert depth.decoder.stages[0][0].weight.grad.abs().sum() > 0
    assert [one.shape[-2:] for one in scales.log_depths(context)] == [(32, 48)] * 3
    rough = MultiScale(MultiScaleSettings(smoothness=4.0))
    rough.bind(objective.terms)
    half = torch.nn.functional.avg_pool2d(context.images[0], 2)
    smooth = [smoothness((-one).exp(), half) for one in scales.log_depths(context)]
    expected = sum(4.0 / stride * one for stride, one in zip((16, 8, 4), smooth, strict=True)) / 3
    torch.testing.assert_close(rough(context) - scales(context), expected * (1 - 1e-3 / 4))
