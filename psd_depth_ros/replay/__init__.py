"""Recordings played again: as live topics with a clock, or through the engine into a bag.

`player` and `recordings` say what is due when, for `ros.replay_node`; `offline` runs a recording
through the engine without topics. This module imports nothing large: the parser of the command
line needs it.
"""

from __future__ import annotations

from psd_depth_ros.errors import SettingsError

# Topic of each output; the depth node has more (see `ros.depth_node.outputs`).
TOPICS = {
    'depth': 'depth/image_rect',
    'camera_info': 'depth/camera_info',
    'confidence': 'depth/confidence',
    'points': 'points',
}
OUTPUTS = tuple(TOPICS)


def topic_name(topic: str, relative: bool) -> str:
    """Name of an output topic; depth up to an unknown factor goes below `depth_relative`.

    `depth/image_rect` then is `depth_relative/image_rect`, `points` is `depth_relative/points`.
    """
    return f'depth_relative/{topic.removeprefix("depth/")}' if relative else topic


def choose_outputs(text: str) -> tuple[str, ...]:
    """The outputs of a list such as `depth,points`, in their usual order. Raises SettingsError."""
    names = {name.strip() for name in text.split(',') if name.strip()}
    unknown = sorted(names - {*OUTPUTS})
    if unknown or not names:
        raise SettingsError(
            f'topics are {", ".join(unknown) or "none"}, expected some of {",".join(OUTPUTS)}'
        )
    return tuple(name for name in OUTPUTS if name in names)
