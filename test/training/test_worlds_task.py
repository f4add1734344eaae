from dataclasses import replace
import math
from pathlib import Path

import cv2
import pytest
import torch

from psd_depth_ros.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from psd_depth_ros.config import dump
from psd_depth_ros.errors import CheckpointError, SettingsError
from psd_depth_ros.networks import Architecture, DepthModel, load_model, Normalisation, preset
from psd_depth_ros.networks.encoders import EncoderWeights
from psd_depth_ros.objectives.supervised import nearest_of_four
from psd_depth_ros.training import worlds_task
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.recipe import change_recipe, find_recipe, read_recipe
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.task import CANONICAL_FOCAL_PX, start_network
from psd_depth_ros.training.worlds import (
    canonical_target,
    Frames,
    load_shard,
    plan_shards,
    render_shards,
    sample_batch,
    validation_batches,
)
from psd_depth_ros.training.worlds_task import validate, WorldsTask

RECIPE = change_recipe(
    read_recipe(find_recipe('starter')),
    {
        'name': 'tiny', 'steps': 40, 'batch': 4, 'pixel_budget': 6144, 'rate': 3e-3,
        'encoder_rate': 1e-3, 'budget_jitter': 1.0, 'frozen_maps': 0, 'warmup': 0.02,
        'validate_every': 100, 'average': 0.5, 'smallest_window': 0.9,
        'worlds.frames': 6, 'worlds.frames_per_world': 1, 'worlds.validation_frames': 3,
        'objective.gradients': 0.1,
    },
    'test',
)  # fmt: skip
FOCAL_PX = CANONICAL_FOCAL_PX
TINY = Architecture(decoder_channels=(32, 16, 16, 16), bins=16, token_width=32, blocks=1)


def stripes(count=4):
    """Frames whose colour tells the depth: dark is 2 m, bright 20 m, blue is sky."""
    depth = torch.full((count, 80, 120), 2.0)
    depth[:, :, 60:] = 20.0
    depth[:, :20] = math.inf
    rgb = torch.zeros(count, 80, 120, 3, dtype=torch.uint8)
    rgb[:, :, :60] = 40
    rgb[:, :, 60:] = 220
    rgb[:, :20] = torch.tensor([0, 0, 255], dtype=torch.uint8)
    intrinsics = torch.tensor([[240.0, 240.0, 59.5, 39.5]]).repeat(count, 1)
    return Frames(rgb, depth.half(), intrinsics)


def test_the_canonical_target_is_the_same_for_two_lenses_that_see_the_same():
    depth = torch.tensor([[[10.0, 500.0]]])
    target = canonical_target(RECIPE, FOCAL_PX, depth, fx=480.0)
    assert target[0, 0, 0].exp().item() == pytest.approx(5.0)
    assert math.isinf(target[0, 0, 1])
    assert torch.equal(
        canonical_target(RECIPE, FOCAL_PX, depth / 2, fx=240.0)[..., :1], target[..., :1]
    )


def test_thin_things_stay_whole_when_targets_shrink():
    target = torch.tensor([[3.0, 1.0, math.inf, math.inf], [3.0, 3.0, math.inf, math.nan]])
    small = nearest_of_four(target[None, None])
    assert small[0, 0, 0, 0].item() == 1.0
    assert math.isnan(small[0, 0, 0, 1])


def test_a_zoomed_window_keeps_canonical_depth_consistent_with_its_focal_length():
    batch = sample_batch(replace(RECIPE, smallest_window=0.5), FOCAL_PX, [stripes()], step=1)
    finite = torch.isfinite(batch.target)
    ratio = (batch.intrinsics[:, 0] / FOCAL_PX).view(-1, 1, 1, 1)
    metres = (batch.target.exp() * ratio)[finite]
    assert set(metres.round(decimals=2).tolist()) <= {2.0, 20.0}
    assert len(set(batch.intrinsics[:, 0].tolist())) > 1


def test_batches_repeat_with_the_seed_and_are_divided_among_processes():
    shards = [stripes()]
    whole = sample_batch(RECIPE, FOCAL_PX, shards, step=3)
    parts = [sample_batch(RECIPE, FOCAL_PX, shards, 3, rank, processes=2) for rank in (0, 1)]
    assert torch.equal(whole.image, torch.cat([part.image for part in parts]))
    assert torch.equal(whole.target, torch.cat([part.target for part in parts]))
    assert not torch.equal(whole.image, sample_batch(RECIPE, FOCAL_PX, shards, step=4).image)


def test_inputs_have_from_half_to_twice_the_pixels_where_sizes_are_drawn():
    recipe = replace(RECIPE, budget_jitter=2.0)
    sizes = [
        sample_batch(recipe, FOCAL_PX, [stripes()], step).image.shape[-2:] for step in range(1, 40)
    ]
    pixels = {height * width for height, width in sizes}
    assert min(pixels) >= 0.5 * 3072
    assert max(pixels) <= 2 * 6144
    assert len(pixels) >= 3
    assert sizes[2] == sample_batch(recipe, FOCAL_PX, [stripes()], 3).image.shape[-2:]
    plain = [sample_batch(RECIPE, FOCAL_PX, [stripes()], step).image.shape for step in (1, 2)]
    assert plain[0] == plain[1]


def test_a_checkpoint_tells_which_sizes_it_has_seen():
    task = WorldsTask(replace(RECIPE, budget_jitter=2.0), [stripes(1)], [stripes(1)])
    info = task.describe(task.depth, 1, {})
    assert (info.input.smallest_pixels, info.input.largest_pixels) == (3072, 12288)
    plain = WorldsTask(RECIPE, [stripes(1)], [stripes(1)])
    assert plain.describe(plain.depth, 1, {}).input.largest_pixels == 0


def test_validation_gives_every_frame_once():
    batches = list(validation_batches(RECIPE, FOCAL_PX, [stripes(3), stripes(2)]))
    assert sum(len(batch.image) for batch in batches) == 5
    assert torch.equal(batches[0].image[0], batches[1].image[0])


def scores_of(monkeypatch, blur_px=0.0, factor=1.0, unsure_of_errors=True):
    """The scores of a network that sees the truth of `stripes` blurred, and `factor` too far."""

    def predict(_, batch):
        sky = torch.isinf(batch.target)
        log_depth = torch.where(sky, math.log(20.0), batch.target) + math.log(factor)
        if blur_px:
            log_depth = torch.stack([
                torch.from_numpy(cv2.GaussianBlur(one[0].numpy(), (0, 0), blur_px))[None]
                for one in log_depth
            ])  # fmt: skip
        error = (log_depth - batch.target).abs().nan_to_num(posinf=0.0)
        return log_depth, error if unsure_of_errors else -error, sky.float()

    monkeypatch.setattr(worlds_task, 'predict', predict)
    return validate(None, RECIPE, FOCAL_PX, [stripes(2)])[0]


def test_scores_by_hand(monkeypatch):
    exact = scores_of(monkeypatch)
    assert (exact.abs_rel, exact.boundary_f1, exact.score) == pytest.approx(
        (0.0, 1.0, 0.0), abs=1e-3
    )
    assert (exact.sky_recall, exact.sky_false) == (1.0, 0.0)
    far = scores_of(monkeypatch, factor=1.1)
    assert far.abs_rel == pytest.approx(0.0, abs=1e-3)
    assert far.abs_rel_metric == pytest.approx(0.1, abs=1e-3)
    assert far.score == pytest.approx(0.05, abs=1e-3)  # 0.1 x (1 - 1 / 2): all edges are right


def test_of_two_networks_the_sharper_one_is_kept(monkeypatch):
    sharp, soft, softer = (scores_of(monkeypatch, blur, 1.1) for blur in (0.0, 1.0, 6.0))
    assert sharp.boundary_f1 - 0.3 > soft.boundary_f1 > softer.boundary_f1
    assert sharp.score < soft.score < softer.score
    assert soft.score == pytest.approx(soft.abs_rel_metric * (1 - soft.boundary_f1 / 2))


def test_scores_tell_whether_the_uncertainty_knows_the_errors(monkeypatch):
    assert scores_of(monkeypatch, 6.0).aurg > 0.01
    assert scores_of(monkeypatch, 6.0, unsure_of_errors=False).aurg < 0.0


def test_it_learns_a_clip_by_heart(tmp_path):
    seen = []
    task = WorldsTask(RECIPE, [stripes()], [stripes(2)], model=DepthModel(TINY))
    outcome = run_training(task, RunFolder(tmp_path / 'run'), device='cpu', report=seen.append)
    assert seen[-1].loss < 0.4 * seen[0].loss
    assert [progress.step for progress in seen] == list(range(1, RECIPE.steps + 1))
    assert seen[-1].scores['abs_rel_metric'] < 0.5
    assert {'score', 'boundary_f1', 'aurg'} <= seen[-1].scores.keys()
    checkpoint = load_checkpoint(outcome.path)
    assert checkpoint.info.training['steps'] == RECIPE.steps
    assert checkpoint.info.output.metric
    load_model(checkpoint)
    assert list((tmp_path / 'run' / 'previews').glob('000040_*.jpg'))


def test_a_run_goes_on_from_a_checkpoint_of_the_same_shape(tmp_path):
    path = tmp_path / 'start.safetensors'
    model = DepthModel(preset('lite'))
    save_checkpoint(path, CheckpointInfo('start', dump(model.architecture)), model.state_dict())
    again = start_network(RECIPE, load_checkpoint(path))
    assert torch.equal(again.head.queries, model.head.queries)
    with pytest.raises(CheckpointError, match=r"start.*the recipe wants preset 'base'"):
        start_network(replace(RECIPE, preset='base'), load_checkpoint(path))


def test_frozen_maps_of_a_start_stay_and_the_rest_learns(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / 'start.safetensors'
    model = DepthModel(preset('lite'))
    save_checkpoint(path, CheckpointInfo('start', dump(model.architecture)), model.state_dict())
    recipe = replace(RECIPE, frozen_maps=2, steps=1, warmup=0.0)
    assert all(p.requires_grad for p in start_network(recipe, None).parameters())
    network = start_network(recipe, load_checkpoint(path))
    task = WorldsTask(recipe, [stripes()], [stripes(1)], model=network)
    run_training(task, RunFolder(tmp_path / 'run'), device='cpu')
    before = dict(model.encoder.named_parameters())
    for name, parameter in network.encoder.named_parameters():
        frozen = int(name.split('.')[1]) <= 3
        assert torch.equal(parameter, before[name]) == frozen, name


def test_worlds_are_rendered_once_and_never_overlap_with_validation(tmp_path):
    recipe = replace(RECIPE, pixel_budget=1024)
    training = plan_shards(recipe, tmp_path, validation=False)
    held_out = plan_shards(recipe, tmp_path, validation=True)
    seeds = [seed for shard in training for seed in shard.seeds]
    assert len(seeds) == len(set(seeds)) == 6
    assert min(seed for shard in held_out for seed in shard.seeds) >= 1_000_000 > max(seeds)
    reports = []
    render_shards(training[:1], 1, lambda done, total: reports.append((done, total)))
    render_shards(training[:1], 1, lambda done, total: reports.append((done, total)))
    assert reports == [(0, 1), (1, 1), (1, 1)]
    frames = load_shard(training[0])
    assert frames.rgb.shape[:3] == frames.depth.shape
    assert (frames.depth > 0).all()


def test_training_never_reaches_the_seeds_of_validation(tmp_path):
    recipe = replace(RECIPE, worlds=replace(RECIPE.worlds, first_seed=999_995))
    with pytest.raises(SettingsError, match='reach seed 1000000, expected seeds below 1000000'):
        plan_shards(recipe, tmp_path, validation=False)
    plan_shards(recipe, tmp_path, validation=True)


def test_recipes_that_share_a_folder_do_not_share_unlike_frames(tmp_path):
    foggy = replace(RECIPE, worlds=replace(RECIPE.worlds, clear_fraction=0.1))
    one, two = (
        {shard.path for shard in plan_shards(recipe, tmp_path, validation=False)}
        for recipe in (RECIPE, foggy)
    )
    assert not one & two


def test_the_recipe_that_made_the_weights_is_read():
    recipe = read_recipe(find_recipe('starter'))
    assert recipe.preset == 'lite'
    assert recipe.worlds.first_seed + recipe.worlds.frames < 1_000_000


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('stepz: 3', "r.yaml: unknown setting 'stepz'; did you mean 'steps'"),
        ('steps: 0', 'steps is 0'),
        (
            'kind: worlds\nworlds: {clear_fraction: 2.0}',
            'worlds.clear_fraction is 2.0, expected 0 .. 1',
        ),
        ('', 'recipe is empty'),
        ('[', 'recipe is not YAML'),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path, text, message):
    path = tmp_path / 'r.yaml'
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_recipe(path)
    assert message in str(caught.value)


def test_recipes_that_are_not_there():
    with pytest.raises(SettingsError, match='no recipe'):
        find_recipe('nothing')
    with pytest.raises(SettingsError, match='cannot be read'):
        read_recipe(Path('nothing.yaml'))


def test_a_run_tells_of_the_runs_before_it(tmp_path):
    def kept_after(start, steps):
        task = WorldsTask(RECIPE, [stripes(1)], [stripes(1)], start)
        info = task.describe(task.depth, steps, {})
        info = replace(info, training={**info.training, 'minutes': 1.5, 'device': 'cpu'})
        path = tmp_path / f'{steps}.safetensors'
        save_checkpoint(path, info, task.depth.state_dict())
        return load_checkpoint(path)

    first = kept_after(None, 3)
    second = kept_after(first, 5)
    third = kept_after(second, 7).info.training
    assert 'start' not in first.info.training
    assert (third['steps'], third['images']) == (7, 7 * RECIPE.batch)
    middle = third['start']
    assert (middle['id'], middle['steps'], middle['minutes']) == (second.id, 5, 1.5)
    assert 'recipe' not in middle, 'that of the last run is enough'
    assert middle['start']['id'] == first.id


def test_provenance_names_what_the_encoder_started_with():
    def names(start):
        task = WorldsTask(RECIPE, [stripes(1)], [stripes(1)], start)
        return [one['name'] for one in task.describe(task.depth, 1, {}).data]

    worlds = 'psd_depth_ros synthetic worlds'
    encoder = dict(DepthModel(preset('lite')).encoder.state_dict())
    weights = EncoderWeights(encoder, 'toy encoder weights', 'MIT', 'abc', Normalisation())
    assert names(None) == [worlds]
    assert names(weights) == ['toy encoder weights', worlds]


def test_pictures_of_another_renderer_have_other_files(tmp_path, monkeypatch):
    ours = {shard.path.name for shard in plan_shards(RECIPE, tmp_path, validation=False)}
    monkeypatch.setattr('psd_depth_ros.training.worlds.RENDERER_VERSION', 999)
    others = {shard.path.name for shard in plan_shards(RECIPE, tmp_path, validation=False)}
    assert ours.isdisjoint(others)
