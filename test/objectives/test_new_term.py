"""A new loss with a teacher is one class and one line of a recipe."""

import numpy as np
import pytest
import torch

from psd_depth_ros.checkpoint import load_checkpoint
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.objectives.base import Context, Term
from psd_depth_ros.teachers import EMA
from psd_depth_ros.training.loop import run_training
from psd_depth_ros.training.recipe import change_recipe, find_recipe, read_recipe
from psd_depth_ros.training.run_folder import RunFolder
from psd_depth_ros.training.video_task import VideoTask

CLIP = 'synth:street:2000005?frames=8&size=192x64&focal_px=110'


class MeanTeacher(Term):
    """Mean difference of log-depth from that of the averaged network."""

    name = 'mean_teacher'
    teachers = frozenset({EMA})

    def __call__(self, context: Context) -> torch.Tensor:
        student, teacher = (context.prediction(network) for network in ('student', EMA))
        return (student.log_depth - teacher.log_depth).abs().mean(dim=(1, 2, 3))

    def visualise(self, context: Context) -> dict[str, np.ndarray]:
        return {'mean_teacher': np.full((8, 8, 3), 200, np.uint8)}


def make_task(*changes):
    recipe = change_recipe(
        read_recipe(find_recipe('baseline')),
        (
            f'data.paths=["{CLIP}"]', 'steps=4', 'batch=2', 'pixel_budget=6144',
            'data.triplets.held_out=0.3', 'data.triplets.mask_fixed_regions=false',
            'preview_every=4', 'validate_every=4', *changes,
        ),
        'test',
    )  # fmt: skip
    return VideoTask.from_recipe(recipe, None, lambda done, total: None)


def test_a_term_of_ones_own_learns_from_the_average(tmp_path):
    task = make_task('objective.mean_teacher=0.1')
    seen = []
    outcome = run_training(
        task, RunFolder(tmp_path / 'run'), device='cpu', report=lambda one: seen.append(one.losses)
    )
    assert all('mean_teacher' in losses for losses in seen)
    assert seen[-1]['mean_teacher'] > 0.0
    assert not any(p is q for p in task.teacher.parameters() for q in task.module.parameters())
    kept = load_checkpoint(outcome.path).info.training['recipe']['objective']
    assert kept[-1]['term'] == 'mean_teacher'
    assert list((tmp_path / 'run' / 'previews').glob('*.jpg'))


def test_a_teacher_that_the_run_lacks_is_named():
    with pytest.raises(SettingsError, match=r"anchor needs the teacher 'initial'.*checkpoint"):
        make_task('objective.anchor=0.1')


def test_data_that_no_recording_has_is_named():
    with pytest.raises(SettingsError, match='lidar'):
        make_task('objective.lidar=0.1')


def test_an_objective_without_photometry_shows_image_and_depth():
    task = make_task('objective.photometric=off', 'objective.velocity=0.1')
    for preview in task.previews(task.depth).values():
        assert preview.shape == (32, 2 * 96, 3)
