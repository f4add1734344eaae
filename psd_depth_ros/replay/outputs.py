"""What an offline run can write of a frame, by name; quick to import, for the help of commands."""

from __future__ import annotations

from psd_depth_ros.errors import SettingsError

OUTPUTS = ('depth', 'camera_info', 'confidence', 'points')


def choose_outputs(text: str) -> tuple[str, ...]:
    """The outputs of a list such as `depth,points`, in their usual order. Raises SettingsError."""
    names = {name.strip() for name in text.split(',') if name.strip()}
    unknown = sorted(names - {*OUTPUTS})
    if unknown or not names:
        raise SettingsError(
            f'topics are {", ".join(unknown) or "none"}, expected some of {",".join(OUTPUTS)}'
        )
    return tuple(name for name in OUTPUTS if name in names)
