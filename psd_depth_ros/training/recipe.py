"""The settings of training runs; recipes are YAML files of these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psd_depth_ros.config import build, section, setting
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.files import find_installed
from psd_depth_ros.parsing import ParseError, read_yaml, shorten, user_path

# Where the rates of a schedule end, as a share of where they were.
LOW = {'step': 0.1, 'cosine': 0.01, 'constant': 1.0}
_SCHEDULE = (
    'How the rates fall: a tenth from `drop_at` on, a cosine to a hundredth, or not at all, for '
    'an average over a long time'
)


@dataclass(frozen=True)
class WorldsSettings:
    """Which rendered worlds are learned from."""

    frames: int = setting(12000, 'Frames rendered for training', minimum=1, maximum=10_000_000)
    frames_per_world: int = setting(4, 'Frames taken of each world', minimum=1, maximum=1000)
    first_seed: int = setting(
        0, 'Seed of the first world; training uses seeds below 1 000 000', minimum=0,
        maximum=999_999,
    )  # fmt: skip
    validation_frames: int = setting(
        240, 'Frames held out, of worlds from seed 1 000 000 on', minimum=1, maximum=100_000
    )
    clear_share: float = setting(
        0.7, 'Share of worlds in clear weather; the rest is fog, rain, night or blur',
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    oversize: float = setting(
        1.25, 'Side of the rendered picture over that of the input, leaves room for crops',
        minimum=1.0, maximum=4.0,
    )  # fmt: skip


@dataclass(frozen=True)
class LossSettings:
    """Weights of the loss terms."""

    log_depth: float = setting(1.0, 'Weight of |u - u*|', minimum=0.0, maximum=100.0)
    edges: float = setting(1.0, 'Weight of the multi-scale gradient error', minimum=0.0,
                           maximum=100.0)  # fmt: skip
    bins: float = setting(0.2, 'Weight of the bin cross-entropy', minimum=0.0, maximum=100.0)
    uniformity: float = setting(1e-3, 'Weight of the bin widths\' KL divergence', minimum=0.0,
                                maximum=10.0)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What every training run has, whatever it learns from."""

    kind: str = setting('video', 'What is learned from', choices=('video', 'worlds'))
    name: str = setting('run', 'Name of the run and of its checkpoint')
    preset: str = setting('lite', 'Network preset', choices=('lite', 'base'))
    seed: int = setting(1, 'Seed of everything drawn while training', minimum=0)
    steps: int = setting(6000, 'Optimiser steps', minimum=1, maximum=10_000_000)
    max_minutes: float = setting(
        1e9, 'The schedule ends here even if steps are left', 'min', minimum=0.01
    )
    batch: int = setting(8, 'Images in a step, over all processes', minimum=1, maximum=4096)
    rate: float = setting(2e-4, 'Learning rate of what is no encoder', minimum=1e-8,
                          maximum=1.0)  # fmt: skip
    encoder_rate: float = setting(2e-4, 'Learning rate of the encoder', minimum=0.0, maximum=1.0)
    frozen_maps: int = setting(
        0, 'Of the five maps of an encoder that starts from weights, so many stay as they are, '
        'from the finest on: a step takes a sixth less with two', minimum=0, maximum=5,
    )  # fmt: skip
    schedule: str = setting('step', _SCHEDULE, choices=tuple(LOW))
    drop_at: float = setting(0.75, 'Share of the run after which `step` falls to a tenth',
                             minimum=0.0, maximum=1.0)  # fmt: skip
    warmup: float = setting(0.01, 'Share of the run in which the rates rise', minimum=0.0,
                            maximum=0.5)  # fmt: skip
    weight_decay: float = setting(0.01, 'AdamW weight decay', minimum=0.0, maximum=1.0)
    clip: float = setting(1.0, 'Largest gradient norm', minimum=1e-3, maximum=1e6)
    average: float = setting(0.998, 'Decay of the averaged weights that are kept', minimum=0.0,
                             maximum=1.0)  # fmt: skip
    average_power: float = setting(
        8.0, 'As long as the average is young, step k counts in it as k to this power; with 0 and '
        'decay 1 it is the mean of all steps, which forgets nothing', minimum=0.0, maximum=100.0,
    )  # fmt: skip
    precision: str = setting('bf16', 'Arithmetic of the networks; geometry and losses are float32',
                             choices=('bf16', 'fp32'))  # fmt: skip
    pixel_budget: int = setting(53248, 'Pixels of a training input', 'px', minimum=1024,
                                maximum=4_000_000)  # fmt: skip
    canonical_focal_px: float = setting(240.0, 'f_c of canonical depth', 'px', minimum=1.0,
                                        maximum=10000.0)  # fmt: skip
    validate_every: int = setting(500, 'Steps between validations', minimum=1)
    save_every: int = setting(200, 'Steps between savings of all that resuming needs', minimum=1)
    preview_every: int = setting(500, 'Steps between preview pictures; 0 for none', minimum=0)


@dataclass(frozen=True)
class WorldsRecipe(Recipe):
    """A supervised run on rendered worlds."""

    kind: str = setting('worlds', 'What is learned from', choices=('worlds',))
    batch: int = setting(12, 'Images in a step, over all processes', minimum=1, maximum=4096)
    rate: float = setting(4e-4, 'Learning rate of what is no encoder', minimum=1e-8,
                          maximum=1.0)  # fmt: skip
    schedule: str = setting('cosine', _SCHEDULE, choices=tuple(LOW))
    warmup: float = setting(0.02, 'Share of the run in which the rates rise', minimum=0.0,
                            maximum=0.5)  # fmt: skip
    max_depth_m: float = setting(120.0, 'Depth beyond this counts as far, like sky', 'm',
                                 minimum=1.0, maximum=1000.0)  # fmt: skip
    smallest_window: float = setting(0.6, 'Smallest crop, as a share of the side', minimum=0.1,
                                     maximum=1.0)  # fmt: skip
    worlds: WorldsSettings = section(WorldsSettings)
    losses: LossSettings = section(LossSettings)


@dataclass(frozen=True)
class FarSettings:
    """What helps the depth of far things in the full image itself; nothing of it by default."""

    start: float = setting(
        0.0, 'Share of the run after which it begins; where motions are learned, too, the image '
        'must have a shape by then', minimum=0.0, maximum=1.0,
    )  # fmt: skip
    fine_weight: float = setting(
        0.0, 'Weight of the depth of the full image, judged in a far part of every image by '
        'pixels as fine as those of the patches', minimum=0.0, maximum=10.0,
    )  # fmt: skip
    unmasked_px: float = setting(
        0.0, 'The mask of what does not move leaves out what depth says to move by less: far '
        'things that are taken for too near would be kept there',
        'px', minimum=0.0, maximum=1000.0,
    )  # fmt: skip

    def unmasked_at(self, share: float) -> float:
        """`unmasked_px` from `start` on, 0 before it."""
        return self.unmasked_px if share >= self.start else 0.0


@dataclass(frozen=True)
class PatchSettings:
    """The patch branch of PSD: far regions, enlarged and cropped."""

    enabled: bool = setting(True, 'Switch of the whole patch branch')
    weight: float = setting(1.0, 'Weight of the patch against the full image', minimum=0.0,
                            maximum=10.0)  # fmt: skip
    minimum_zoom: float = setting(1.5, 'Smallest enlargement', minimum=1.0, maximum=8.0)
    maximum_zoom: float = setting(2.5, 'Largest enlargement', minimum=1.0, maximum=8.0)
    width_share: float = setting(0.6, 'Width of the patch over that of the network\'s input',
                                 minimum=0.1, maximum=1.0)  # fmt: skip
    height_share: float = setting(0.75, 'Height of the patch over that of the network\'s input',
                                  minimum=0.1, maximum=1.0)  # fmt: skip
    share: float = setting(
        1.0, 'Share of the images that get a patch: all of a step or none, for a network is slow '
        'at few', minimum=0.0, maximum=1.0,
    )  # fmt: skip
    start: float = setting(0.1, 'Share of the run after which patches begin', minimum=0.0,
                           maximum=1.0)  # fmt: skip
    choice: str = setting(
        'far', 'Where patches are cut: far and textured, at random, or about the principal point',
        choices=('far', 'random', 'centre'),
    )  # fmt: skip
    largest_offset: float = setting(
        0.2, 'Largest difference of the median log-depth of a patch from the full image\'s; what '
        'is beyond is taken off before the patch is judged', minimum=0.0, maximum=10.0,
    )  # fmt: skip
    level: float = setting(0.1, 'Weight of the difference beyond', minimum=0.0, maximum=10.0)
    convention: str = setting(
        'canonical', 'Depth of a patch: canonical (Z = s Z\'), or metric as the control of the '
        'ablation', choices=('canonical', 'metric'),
    )  # fmt: skip


@dataclass(frozen=True)
class DistillationSettings:
    """Self-distillation: the depth of the patch is a pseudo-label of the full image."""

    enabled: bool = setting(True, 'Switch of the self-distillation')
    weight: float = setting(0.1, 'Weight', minimum=0.0, maximum=10.0)
    start: float = setting(0.2, 'Share of the run at which the ramp begins', minimum=0.0,
                           maximum=1.0)  # fmt: skip
    full: float = setting(0.4, 'Share of the run at which the weight is reached', minimum=0.0,
                          maximum=1.0)  # fmt: skip
    masked: bool = setting(
        True, 'Only where the patch explains the images better, or nothing does'
    )
    teacher: bool = setting(False, 'Take the patch depth of the averaged network')


@dataclass(frozen=True)
class PatchMixSettings:
    """PatchMix: parts of another image pasted into what the network sees, then unmixed."""

    enabled: bool = setting(True, 'Switch of PatchMix')
    weight: float = setting(0.5, 'Weight of the photometric term', minimum=0.0, maximum=10.0)
    consistency: float = setting(0.07, 'Weight of the agreement with the clean prediction',
                                 minimum=0.0, maximum=10.0)  # fmt: skip
    share: float = setting(0.25, 'Share of the images of a step that are mixed', minimum=0.0,
                           maximum=1.0)  # fmt: skip
    start: float = setting(0.1, 'Share of the run after which mixing begins', minimum=0.0,
                           maximum=1.0)  # fmt: skip


@dataclass(frozen=True)
class ObjectiveSettings:
    """Weights of the self-supervised terms; 0 switches a term off."""

    smoothness: float = setting(1e-3, 'Edge-aware smoothness', minimum=0.0, maximum=10.0)
    geometry: float = setting(0.0, 'Consistency of depth between frames', minimum=0.0,
                              maximum=10.0)  # fmt: skip
    auto_mask: bool = setting(True, 'No gradient where the unwarped source fits better')
    minimum_reprojection: bool = setting(True, 'The better of both sources, else their mean')
    brightness: bool = setting(False, 'Fit a gain and an offset between the frames of a pair')
    uniformity: float = setting(1e-3, 'KL divergence of bin widths from uniform', minimum=0.0,
                                maximum=10.0)  # fmt: skip
    bin_usage: float = setting(1e-4, 'Negative entropy of the mean use of bins', minimum=0.0,
                               maximum=10.0)  # fmt: skip
    velocity: float = setting(0.0, 'Distances of the pose network against odometry', minimum=0.0,
                              maximum=10.0)  # fmt: skip
    camera_height: float = setting(0.0, 'Height of the camera above the ground it sees',
                                   minimum=0.0, maximum=10.0)  # fmt: skip
    lidar: float = setting(0.0, 'Depth against lidar points', minimum=0.0, maximum=10.0)
    pose_prior: float = setting(0.1, 'Size of the correction to known poses', minimum=0.0,
                                maximum=10.0)  # fmt: skip
    anchor: float = setting(
        0.0, 'Agreement with the network the run started from, against forgetting', minimum=0.0,
        maximum=10.0,
    )  # fmt: skip
    anchor_scale: float = setting(
        0.0, 'Agreement of the mean log-depth with the network the run started from', minimum=0.0,
        maximum=10.0,
    )  # fmt: skip


@dataclass(frozen=True)
class VideoRecipe(Recipe):
    """A self-supervised run on recordings."""

    head: str = setting(
        'bins', 'Depth head of a network made anew: adaptive bins, or one disparity map as in '
        'monodepth2', choices=('bins', 'disparity'),
    )  # fmt: skip
    freeze_norm: bool = setting(True, 'Keep the batch norm of the encoder as it starts')
    pose_rate: float = setting(2e-4, 'Learning rate of the pose network', minimum=0.0, maximum=1.0)
    pose_warmup: float = setting(
        0.0, 'Share of the run in which only the pose network learns', minimum=0.0, maximum=0.9
    )
    smallest_window: float = setting(
        1.0, 'Smallest window of the pictures that fills the whole input, as a share of the side: '
        'few recordings are seen at many sizes', minimum=0.4, maximum=1.0,
    )  # fmt: skip
    pose_width: float = setting(0.5, 'Side of the pose network\'s input over that of the depth '
                                'network\'s', minimum=0.25, maximum=1.0)  # fmt: skip
    refine_from: float = setting(
        1.0, 'Share of the run from which the images of a pair are aligned by a few Gauss-Newton '
        'steps, beginning with what the pose network says; depth must have a shape by then. '
        '1: never', minimum=0.0, maximum=1.0,
    )  # fmt: skip
    refine_until: float = setting(
        1.0, 'Share of the run after which that ends, and the pose network, having learned from '
        'it, goes on by itself: motions that fit every image hide errors of far depth',
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    use_known_poses: bool = setting(
        True, 'Start from the poses of the recording, where it has those of the camera'
    )
    estimate_poses: bool = setting(
        False, 'Where there are none, start from the motion of tracked corners, as long as the '
        'depth of the network at the start of the run says',
    )  # fmt: skip
    data: DataSettings = section(DataSettings)
    objective: ObjectiveSettings = section(ObjectiveSettings)
    far: FarSettings = section(FarSettings)
    patch: PatchSettings = section(PatchSettings)
    distillation: DistillationSettings = section(DistillationSettings)
    patch_mix: PatchMixSettings = section(PatchMixSettings)


KINDS: dict[str, type[Recipe]] = {'worlds': WorldsRecipe, 'video': VideoRecipe}


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with the package."""
    path = user_path(name)
    if path.suffix in ('.yaml', '.yml'):
        return path
    found = find_installed(f'config/recipes/{name}.yaml')
    if found is None:
        raise SettingsError(
            f'no recipe {shorten(name)!r} comes with the package; give a name such as starter, or '
            'a .yaml file'
        )
    return found


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; SettingsError where it is missing, not YAML, or has a wrong setting."""
    try:
        values: Any = read_yaml(path)
    except ParseError as error:
        raise SettingsError(f'{shorten(path)}: recipe {error}') from error
    if not isinstance(values, dict):
        raise SettingsError(f'{path}: recipe is empty, expected settings such as "steps: 6000"')
    kind = values.get('kind', 'video')
    if not isinstance(kind, str) or kind not in KINDS:
        raise SettingsError(
            f'{path}: kind is {shorten(repr(kind))}, expected one of {", ".join(KINDS)}'
        )
    return build(KINDS[kind], values, str(path))
