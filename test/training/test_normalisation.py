"""Training gives a network its input as its encoder expects it, and says so in the checkpoint."""

from dataclasses import replace

import pytest
import torch

from psd_depth_ros.checkpoint import CheckpointInfo, InputInfo, load_checkpoint, save_checkpoint
from psd_depth_ros.config import dump
from psd_depth_ros.networks import DepthModel, preset
from psd_depth_ros.training.recipe import change_recipe, find_recipe, read_recipe
from psd_depth_ros.training.task import start_network
from psd_depth_ros.training.worlds import Frames
from psd_depth_ros.training.worlds_task import WorldsTask

TORCHVISION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ODD = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
RECIPE = change_recipe(
    read_recipe(find_recipe('starter')),
    {'name': 'tiny', 'batch': 2, 'pixel_budget': 6144, 'smallest_window': 0.9},
    'test',
)


def frames():
    rgb = torch.full((2, 80, 120, 3), 51, dtype=torch.uint8)
    intrinsics = torch.tensor([[240.0, 240.0, 59.5, 39.5]]).repeat(2, 1)
    return Frames(rgb, torch.full((2, 80, 120), 5.0).half(), intrinsics)


def seen_by_the_encoder(task):
    """Mean of each channel of the images that the encoder gets in a step."""
    seen = []
    task.depth.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    batch = task.batch(1, 0, 1)
    task.losses(task.module, replace(batch, image=torch.full_like(batch.image, 0.2)), 0.5)
    return seen[0].mean(dim=(0, 2, 3))


@pytest.mark.parametrize(
    ('preset_name', 'mean', 'std'),
    [('lite', (0.5,) * 3, (0.5,) * 3), ('base', *TORCHVISION)],
)
def test_each_encoder_gets_its_own_normalisation(preset_name, mean, std):
    recipe = replace(RECIPE, preset=preset_name)
    task = WorldsTask(recipe, [frames()], [frames()], model=start_network(recipe, None))
    expected = (0.2 - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(seen_by_the_encoder(task), expected, atol=1e-4, rtol=1e-4)
    found = task.describe(task.depth, 0, {}).input
    assert found.mean == pytest.approx(mean)
    assert found.std == pytest.approx(std)


def test_a_checkpoint_of_another_normalisation_is_a_start(tmp_path):
    path = tmp_path / 'start.safetensors'
    model = DepthModel(preset('lite'))
    info = CheckpointInfo('odd', dump(model.architecture), input=InputInfo(64, 96, *ODD))
    save_checkpoint(path, info, model.state_dict())
    model = start_network(RECIPE, load_checkpoint(path))
    task = WorldsTask(RECIPE, [frames()], [frames()], model=model)
    expected = (0.2 - torch.tensor(ODD[0])) / torch.tensor(ODD[1])
    torch.testing.assert_close(seen_by_the_encoder(task), expected, atol=1e-4, rtol=1e-4)
    assert task.describe(model, 0, {}).input.mean == ODD[0]
