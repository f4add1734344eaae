"""The value of every term of every shipped recipe, at stages of the run, for one batch.

The values were recorded before terms were classes, those of newer recipes when these came (random
weights, seeds below, float32 on one x86-64 CPU), and agreed to 1e-5 there.
"""

from dataclasses import replace
import json
from pathlib import Path

from golden_batch import golden_arrays, HEIGHT, SAMPLES, WIDTH
import numpy as np
import pytest
import torch

from psd_depth_ros.data.triplets.batch import TripletBatch
from psd_depth_ros.networks import DepthModel, Normalisation, preset
from psd_depth_ros.networks.encoders import freeze_norm
from psd_depth_ros.networks.pose_net import PoseNet
from psd_depth_ros.objectives.base import Objective
from psd_depth_ros.teachers import INITIAL, Teachers
from psd_depth_ros.training.recipe import change_recipe, find_recipe, LEARNED, read_recipe
from psd_depth_ros.training.worlds import WorldsBatch

GOLDEN = json.loads(Path(__file__).with_name('golden_terms.json').read_text())
CHANGES = {
    'ss_mde': ('objective.pseudo_depth.teacher=golden',),  # its maps are in the batch
    'starter': ('objective.bins.everywhere=true', 'objective.gradients=1.0'),
}
RELATIVE = 1e-3  # other processors round otherwise, and a pixel may change sides of a mask


def make_network(seed, preset_name, head):
    torch.manual_seed(seed)
    network = DepthModel(replace(preset(preset_name, head), separable=False))
    network.encoder.normalisation = Normalisation()  # as it was for all encoders
    return network


@pytest.mark.parametrize('name', [name for name in GOLDEN if name != 'starter'])
def test_values_of_terms_stay(name):
    recipe = change_recipe(read_recipe(find_recipe(name)), CHANGES.get(name, ()), 'test')
    teachers = Teachers()
    teachers.add_copy(INITIAL, make_network(6, recipe.preset, recipe.head))
    network = make_network(5, recipe.preset, recipe.head)
    torch.manual_seed(7)
    objective = Objective(
        recipe.make_terms(), network, canonical_focal_px=240.0, pose=PoseNet(), teachers=teachers
    )
    objective.train()
    freeze_norm(network.encoder, everywhere=recipe.freeze_norm)
    fields = {key: torch.from_numpy(value) for key, value in golden_arrays().items()}
    if recipe.poses == LEARNED:
        del fields['pose_prior']
    with torch.no_grad():
        for progress, expected in GOLDEN[name].items():
            terms = objective(TripletBatch(**fields), float(progress))
            found = {key: float(value) for key, value in terms.items()}
            expected = {key: value for key, value in expected.items() if key in found or value}
            given = {key: value for key, value in found.items() if key in expected or value}
            assert given == pytest.approx(expected, rel=RELATIVE, abs=1e-7), progress


def test_values_of_supervised_terms_stay():
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    depth_m = (3 + 40 * np.exp(-y / 20.0) + 0.02 * x) * np.array([1, 1.1, 1.2, 0.9]).reshape(
        SAMPLES, 1, 1, 1
    )
    target = torch.from_numpy(np.log(depth_m).astype(np.float32))
    target[:, :, :8] = torch.inf
    target[1, :, 20:30, 50:60] = torch.nan
    arrays = golden_arrays()
    batch = WorldsBatch(
        torch.from_numpy(arrays['image'][:, 0]).float() / 255,
        torch.from_numpy(arrays['intrinsics']),
        target,
        target.exp() * torch.from_numpy(arrays['intrinsics'][:, 0]).view(-1, 1, 1, 1) / 240.0,
    )
    recipe = change_recipe(read_recipe(find_recipe('starter')), CHANGES['starter'], 'test')
    network = make_network(5, recipe.preset, 'bins')
    objective = Objective(recipe.make_terms(), network, canonical_focal_px=240.0).train()
    found = {key: float(value.detach()) for key, value in objective(batch, 0.5).items()}
    assert found == pytest.approx(GOLDEN['starter']['0.5'], rel=RELATIVE, abs=1e-7)
