"""The structure-centric terms on a rendered street: pairs, Retinex, graphs, bad recordings."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from golden_batch import golden_arrays
import numpy as np
import pytest
import torch
from torch import nn

from psd_depth_ros.data.fields import recording_id
from psd_depth_ros.data.triplets.batch import TripletBatch
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.losses.photometric import smoothness
from psd_depth_ros.networks import DepthModel, preset
from psd_depth_ros.networks.pose_net import PoseNet
from psd_depth_ros.objectives import photometric, structure
from psd_depth_ros.objectives.base import Context, Objective, STUDENT
from psd_depth_ros.objectives.structure import (
    choose_samples,
    isomorphism_loss,
    make_graph,
    split_light,
    unused_nodes,
)
from psd_depth_ros.teachers import INITIAL, TEACHER, Teachers
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.recipe import (
    build_recipe,
    change_recipe,
    find_recipe,
    read_recipe,
    VideoRecipe,
)
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.video_task import VideoTask

CLIP = 'synth:street:2000005?frames=8&size=192x64&focal_px=110'
PHOTOMETRIC = {'term': 'photometric'}


class Named:
    """A sequence of which only the name counts."""

    semantics = None
    fingerprint = ''

    def __init__(self, name: str) -> None:
        self.name = name
        self.names = (name, f'folder_of_{name}')


def make_objective(*terms: dict[str, Any], names: tuple[str, ...] = ()) -> Objective:
    torch.manual_seed(5)
    network = DepthModel(preset('lite'))
    kept = Teachers()
    kept.add_copy(INITIAL, network)
    recipe = build_recipe(VideoRecipe, {'objective': list(terms)})
    return Objective(
        recipe.make_terms(),
        network,
        canonical_focal_px=240.0,
        pose=PoseNet(),
        teachers=kept,
        sequences=[Named(name) for name in names],  # type: ignore[misc]
    ).train()


@cache
def arrays() -> dict[str, np.ndarray]:
    return golden_arrays()


def make_batch(**changes: torch.Tensor) -> TripletBatch:
    fields = {key: torch.from_numpy(value) for key, value in arrays().items()}
    return TripletBatch(**{**fields, **changes})


# Pairs.


def test_equally_many_samples_are_chosen_each_as_often() -> None:
    counts = np.zeros(4)
    for step in range(200):
        chosen = choose_samples([100 * step + i for i in range(4)], 0.5)
        assert len(chosen) == 2
        counts[chosen] += 1
    assert counts == pytest.approx([100] * 4, abs=25)
    assert len(choose_samples([3, 4], 0.1)) == 1


def test_an_adverse_image_is_judged_by_the_clean_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of severity 0 it is the image itself, and so are its loss and its depth."""
    adverse = {'term': 'adverse', 'fraction': 1.0, 'minimum_severity': 0.0}
    objective = make_objective(
        PHOTOMETRIC, {**adverse, 'maximum_severity': 0.0}, {'term': 'adverse_consistency'}
    ).eval()
    batch = make_batch()
    batch = batch.replace(image_augmented=batch.image)
    with torch.no_grad():
        context = Context(objective, batch, 0.0)
        found = objective.evaluate(context)
        assert torch.equal(context.input('adverse').image, batch.image[:, 0] / 255.0)
        assert torch.equal(context.input('adverse').intrinsics, batch.intrinsics)
    assert found['adverse'].item() == pytest.approx(found['photometric'].item(), rel=1e-4)
    assert found['adverse_consistency'].item() == pytest.approx(0.0, abs=1e-6)

    compared, warped = [], []
    compare, warp = structure.Photometric.compare, photometric.inverse_warp

    def spy_compare(self: Any, target: Any, *rest: Any) -> Any:
        compared.append(target.image)
        return compare(self, target, *rest)

    def spy_warp(source: torch.Tensor, depth: torch.Tensor, *rest: Any) -> Any:
        if not torch.equal(depth, context.prediction().depth):  # that of the adverse image
            warped.append(source)
        return warp(source, depth, *rest)

    monkeypatch.setattr(structure.Photometric, 'compare', spy_compare)
    monkeypatch.setattr(photometric, 'inverse_warp', spy_warp)
    objective = make_objective(PHOTOMETRIC, {**adverse, 'kinds': ['night']})
    context = Context(objective, make_batch(), 0.0)  # whose colours are changed, too
    terms = objective.evaluate(context)
    assert (context.input('adverse').image - context.images[0]).abs().mean() > 0.02
    assert len(compared) == 2
    assert all(torch.equal(image, context.images[0]) for image in compared)
    assert len(warped) == 2
    assert all(torch.equal(*pair) for pair in zip(warped, context.images[1:], strict=True))
    terms['adverse'].backward()
    pose = objective.pose
    assert pose is not None
    assert all(one.grad is None for one in pose.parameters())
    assert next(objective.depth.encoder.parameters()).grad is not None


def test_samples_that_are_seen_clean_count_by_those_that_are_not() -> None:
    term = {'term': 'adverse', 'fraction': 0.5, 'kinds': ['fog']}
    objective = make_objective(PHOTOMETRIC, term)
    with torch.no_grad():
        context = Context(objective, make_batch(), 0.0)
        adverse = objective.terms['adverse']
        loss, pairs = adverse(context), adverse.pairs(context)
        bad = adverse._reprojection(context, pairs).loss
    assert len(pairs.rows) == 2
    assert torch.equal(loss.nonzero().flatten(), pairs.rows)
    assert loss.mean().item() == pytest.approx(bad.mean().item())


# Recordings that exist only in bad conditions.


@pytest.mark.parametrize('teacher', ['initial', 'slow'])
def test_bad_recordings_have_no_photometry_and_a_teacher(teacher: str) -> None:
    objective = make_objective(
        PHOTOMETRIC,
        {'term': 'adverse_recordings', 'recordings': ['*_night_?'], 'teacher': teacher},
        names=('night_1', 'day'),
    )
    names = ['day', 'night_1', 'day', 'night_1']
    batch = make_batch(recording=torch.tensor([recording_id(Named(name)) for name in names]))
    with torch.no_grad():
        for parameter in objective.depth.head.parameters():
            parameter.mul_(1.5)
        context = Context(objective, batch, 0.0)
        weight = context.photometric_weight
        loss = objective.terms['adverse_recordings'](context)
    assert weight is not None
    assert weight.shape == (4, 1, *batch.image.shape[-2:])
    assert weight.flatten(1).amin(1).tolist() == [1, 0, 1, 0] == weight.flatten(1).amax(1).tolist()
    assert (loss > 0).tolist() == [False, True, False, True]
    assert (TEACHER in objective.teachers) == (teacher == 'slow')


def test_a_pattern_without_a_recording_is_refused() -> None:
    with pytest.raises(SettingsError, match=r'recordings is empty.*of day or'):
        make_objective(PHOTOMETRIC, {'term': 'adverse_recordings'}, names=('day',))
    with pytest.raises(
        SettingsError,
        match=r"'dusk', which no recording.*there are night or folder_of_night; day or",
    ):
        make_objective(
            PHOTOMETRIC,
            {'term': 'adverse_recordings', 'recordings': ['dusk', 'night']},
            names=('night', 'day'),
        )


# Retinex.


def test_twice_the_light_is_the_same_reflectance() -> None:
    image = torch.from_numpy(arrays()['image'][:, 0]).float() / 255.0
    image = 0.2 + 0.3 * image
    one, two = split_light(image), split_light(2.0 * image)
    assert two.illumination == pytest.approx(2.0 * one.illumination, rel=1e-3)
    assert (two.reflectance / one.reflectance - 1.0).abs().max() < 0.05  # 0.01 beside 0.2


def test_even_light_on_a_texture_is_found() -> None:
    """Weak stripes are reflectance; a strong step of light stays in the illumination."""
    stripes = 1.0 + 0.05 * torch.where(torch.arange(256) % 4 < 2, 1.0, -1.0)
    light = torch.where(torch.arange(256) < 128, 0.8, 0.2)
    image = (stripes * light).expand(1, 3, 64, 256)
    found = split_light(image).illumination[0, 0, 32]
    assert found[32:80].std() < 0.3 * image[0, 0, 32, 32:80].std()
    assert found[120:126].mean() > 3.0 * found[130:136].mean()


def test_edges_of_texture_license_no_edge_of_depth() -> None:
    """Weak stripes lower the price of a depth edge for `smoothness`, not for the light's."""
    stripes = 0.5 * (1.0 + 0.1 * torch.where(torch.arange(64) % 8 < 4, 1.0, -1.0))
    image = stripes.expand(1, 3, 64, 64)
    disparity = torch.where(torch.arange(64) % 8 < 4, 1.2, 0.8).expand(1, 1, 64, 64)
    flat = smoothness(disparity, torch.zeros(1, 1, 64, 64))
    light = (split_light(image).illumination + 0.01).log()
    by_light, by_image = smoothness(disparity, light), smoothness(disparity, image.log())
    assert by_light > 0.95 * flat
    assert by_image < 0.85 * flat


# Graphs.


def layers(seed: int = 0) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(seed)
    assign, project = nn.Linear(12, 4, bias=False), nn.Linear(12, 6, bias=False)
    return assign.requires_grad_(False), project.requires_grad_(False)


def test_equal_graphs_cost_nothing_and_permuted_ones_something() -> None:
    assign, project = layers()
    pixels = torch.randn(2, 30, 12)
    graph = make_graph(pixels, assign, project, 0.5)
    assert graph.edges.sum(dim=2) == pytest.approx(torch.ones(2, 4))
    assert graph.assignment.sum(dim=2) == pytest.approx(torch.ones(2, 4))
    assert isomorphism_loss(graph, graph) == pytest.approx(torch.zeros(2), abs=1e-6)
    order = torch.tensor([1, 2, 3, 0])
    other = graph._replace(nodes=graph.nodes[:, order], edges=graph.edges[:, order][:, :, order])
    assert isomorphism_loss(graph, other).min() > 0.1
    # the order of pixels is none of the graph
    mixed = make_graph(pixels[:, torch.randperm(30)], assign, project, 0.5)
    assert isomorphism_loss(graph, mixed) == pytest.approx(torch.zeros(2), abs=1e-5)


def test_unknown_pixels_are_no_part_of_a_graph() -> None:
    assign, project = layers()
    pixels = torch.randn(1, 30, 12)
    some = make_graph(pixels[:, :20], assign, project, 0.5)
    known = (torch.arange(30) < 20)[None]
    masked = make_graph(pixels, assign, project, 0.5, known)
    assert isomorphism_loss(some, masked).item() == pytest.approx(0.0, abs=1e-5)
    assert masked.assignment[..., 20:].sum() == 0 == masked.membership[..., 20:].sum()
    assert unused_nodes(masked).item() == pytest.approx(unused_nodes(some).item(), rel=1e-4)


def test_unused_nodes_cost_their_logarithm() -> None:
    assign, project = layers()
    graph = make_graph(torch.randn(1, 30, 12), assign, project, 0.5)
    one = torch.zeros(1, 4, 30)
    one[:, 0] = 1.0
    assert unused_nodes(graph._replace(membership=one)).item() == pytest.approx(np.log(4))
    even = torch.full((1, 4, 30), 0.25)
    assert unused_nodes(graph._replace(membership=even)).item() == pytest.approx(0.0, abs=1e-6)


def test_the_student_learns_from_the_graph_and_the_teacher_does_not() -> None:
    objective = make_objective(PHOTOMETRIC, {'term': 'graph', 'usage': 0.0})
    module = objective.owned['graph']
    context = Context(objective, make_batch(), 0.0)
    student = module.student(context.features(STUDENT)[3].float())
    teacher, unexplained = module.teacher(context.features(TEACHER, 'clean_target')[3].float())
    isomorphism_loss(student, teacher).sum().backward(retain_graph=True)
    assert module.student_assign.weight.grad.abs().sum() > 0
    assert module.student_project.weight.grad.abs().sum() > 0
    assert next(objective.depth.encoder.parameters()).grad.abs().sum() > 0
    assert module.teacher_assign.weight.grad is None
    assert module.teacher_project.weight.grad is None
    unexplained.sum().backward()
    assert module.teacher_assign.weight.grad.abs().sum() > 0
    assert not any(one.requires_grad for one in objective.teachers[TEACHER].parameters())


def test_an_expert_teaches_where_it_knows_something() -> None:
    batch = make_batch()
    height, width = batch.image.shape[-2:]
    semantics = torch.rand(4, 5, height // 8, width // 8)
    semantics[2] = torch.nan
    semantics[1, :, :2, :2] = torch.nan  # a pixel at stride 16: left out, the others teach
    sequence = Named('day')
    sequence.semantics = np.zeros((3, 5, 4, 4), np.float16)
    torch.manual_seed(5)
    recipe = build_recipe(
        VideoRecipe, {'objective': [PHOTOMETRIC, {'term': 'graph', 'expert': 'folder:maps'}]}
    )
    objective = Objective(
        recipe.make_terms(), DepthModel(preset('lite')), canonical_focal_px=240.0, pose=PoseNet(),
        sequences=[sequence],
    )  # fmt: skip
    term = objective.terms['graph']
    assert term.needs == {'semantics'}
    assert term.maps == {'semantics': 'folder:maps'}
    loss = term(Context(objective, batch.replace(semantics=semantics), 0.0))
    assert (loss > 0).tolist() == [True, True, False, True]
    loss.sum().backward()
    for parameter in objective.owned.parameters():
        assert torch.isfinite(parameter.grad).all()
    other = Named('night')
    other.semantics = np.zeros((3, 6, 4, 4), np.float16)
    with pytest.raises(SettingsError, match='5 in day, 6 in night'):
        term.look_at([sequence, other])


TERMS = ('adverse', 'adverse_consistency', 'reflectance', 'illumination_smoothness', 'graph')


def test_a_clip_is_learned_in_bad_conditions(tmp_path: Path) -> None:
    recipe = change_recipe(
        read_recipe(find_recipe('baseline')),
        (
            f'data.paths=["{CLIP}"]', 'steps=24', 'batch=2', 'pixel_budget=6144', 'rate=0.001',
            'encoder_rate=0.001', 'pose_rate=0.001', 'data.triplets.held_out=0.3',
            'data.triplets.mask_fixed_regions=false', 'validate_every=24', 'preview_every=0',
            'schedule=constant', *(f'objective.{name}=0.1' for name in TERMS),
        ),
        'test',
    )  # fmt: skip
    task = VideoTask.from_recipe(recipe, None, lambda done, total: None)

    @torch.no_grad()
    def losses() -> dict[str, float]:
        task.prepare(0.0)
        found = [task.losses(task.module, task.batch(step, 0, 1), 0.0) for step in range(1, 4)]
        return {name: sum(float(one[name]) for one in found) for name in found[0]}

    before = losses()
    run_training(task, RunFolder(tmp_path / 'run'), device='cpu', report=lambda progress: None)
    after = losses()
    for name in ('photometric', 'adverse', 'reflectance', 'graph'):
        assert after[name] < 0.97 * before[name], name


def test_all_terms_show_something() -> None:
    objective = make_objective(
        PHOTOMETRIC,
        *({'term': name} for name in TERMS),
    )
    shown = objective.visualise(make_batch(), objective.depth)
    wanted = {'adverse', 'adverse_depth', 'reflectance', 'illumination', 'nodes'}
    assert wanted <= set(shown)
    height, width = make_batch().image.shape[-2:]
    assert all(shown[name].shape == (height, width, 3) for name in wanted)
