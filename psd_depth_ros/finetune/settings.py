"""Settings of fine-tuning: the options of the command and the parameters of the node.

How to train (rates, losses, patches) is in the recipe; `changes` changes it.
"""

from __future__ import annotations

from dataclasses import dataclass

from psd_depth_ros.config import section, setting
from psd_depth_ros.finetune.acceptance import AcceptanceSettings


@dataclass(frozen=True)
class FinetuneSettings:
    """Recordings, start weights, length of the run and limits for accepting its result."""

    bags: tuple[str, ...] = setting(
        (), 'recordings to learn from: bags, videos, folders of images; patterns such as *.mcap'
    )
    output: str = setting(
        '', 'folder of the run; gets best.safetensors, report.json and the state to resume from'
    )
    image_topic: str = setting('', 'image topic of the bags; empty: the only one')
    camera_info_topic: str = setting('', 'CameraInfo topic; empty: the one beside the images')
    camera: str = setting('', 'calibration file that replaces the recorded CameraInfo')
    horizontal_fov_deg: float = setting(
        0.0,
        'field of view of recordings without calibration; 0 is unknown',
        'deg',
        minimum=0.0,
        maximum=179.0,
    )
    rectify_alpha: float = setting(
        -1.0,
        'rectified view: below 0 that of P of camera_info; 0 only pixels that are seen, 1 all '
        'pixels of the image, or in between',
        minimum=-1.0,
        maximum=1.0,
    )
    strict: bool = setting(
        False, 'stop at a recording that cannot be read, instead of skipping it'
    )
    recipe: str = setting('finetune', 'name of a recipe that comes with the package, or a file')
    teacher: str = setting(
        '',
        'network of others that teaches, for a recipe with pseudo_depth such as distil: .onnx, '
        '.tflite, hf:OWNER/NAME, a checkpoint or a folder of maps',
    )
    changes: tuple[str, ...] = setting(
        (), 'settings of the recipe to change, such as objective.geometry=0.05'
    )
    checkpoint: str = setting(
        '',
        'weights to start from: a file, the name of weights that come with the package, or '
        'hf:OWNER/NAME of shared weights of this package; empty is `default`',
    )
    student: str = setting(
        '',
        'network to train, where it is not that of the start weights: lite or base is made anew, '
        'keeps the scale of the start weights, and has to be better than they are',
        choices=('', 'lite', 'base'),
    )
    imagenet: str = setting(
        '',
        'ImageNet weights (.npz) of the encoder of a student that is made anew; empty: random',
    )
    device: str = setting('auto', 'auto, cpu, cuda or cuda:N')
    steps: int = setting(
        0, 'steps of the optimiser; 0: as in the recipe', minimum=0, maximum=10_000_000
    )
    minutes: float = setting(
        0.0,
        'training ends after this time even if steps are left; 0: as in the recipe',
        'min',
        minimum=0.0,
        maximum=1e6,
    )
    patience: int = setting(
        6,
        'end early after this many validations in a row without improvement; 0: never',
        minimum=0,
        maximum=1_000_000,
    )
    acceptance: AcceptanceSettings = section(AcceptanceSettings)
