"""From the settings of fine-tuning to the recipe of a run. Light: nothing here needs torch."""

from __future__ import annotations

from dataclasses import replace

from psd_depth_ros.config import change, specs, validate
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.training.finetune_settings import FinetuneSettings
from psd_depth_ros.training.recipe import find_recipe, read_recipe, VideoRecipe


def make_recipe(settings: FinetuneSettings) -> VideoRecipe:
    """The recipe with everything that the settings say about it. Raises SettingsError."""
    validate(settings)
    for name in ('bags', 'output'):
        if not getattr(settings, name):
            raise SettingsError(f'{name} is empty; expected {_describe(name)}')
    if settings.camera and settings.horizontal_fov_deg:
        raise SettingsError(
            'camera and horizontal_fov_deg both say what the lens is; give one of them'
        )
    recipe = read_recipe(find_recipe(settings.recipe))
    if not isinstance(recipe, VideoRecipe):
        raise SettingsError(
            f'recipe {settings.recipe} is of kind {recipe.kind!r}, expected video, which learns '
            'from recordings'
        )
    recipe = change(recipe, settings.changes, 'changes')
    data = replace(
        recipe.data,
        paths=settings.bags,
        image_topic=settings.image_topic or recipe.data.image_topic,
        camera_info_topic=settings.camera_info_topic or recipe.data.camera_info_topic,
        camera=settings.camera or recipe.data.camera,
        horizontal_fov_deg=settings.horizontal_fov_deg or recipe.data.horizontal_fov_deg,
        rectify_alpha=(
            settings.rectify_alpha if settings.rectify_alpha >= 0 else recipe.data.rectify_alpha
        ),
        strict=settings.strict or recipe.data.strict,
    )
    return replace(
        recipe,
        data=data,
        steps=settings.steps or recipe.steps,
        max_minutes=settings.minutes or recipe.max_minutes,
    )


def _describe(name: str) -> str:
    return next(spec.description for spec in specs(FinetuneSettings) if spec.name == name)
