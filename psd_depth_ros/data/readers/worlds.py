"""Drives through rendered worlds as recordings, named by text instead of by a file.

`synth:KIND:SEEDS?NAME=VALUE&...`, such as `synth:street:0-7?frames=40&condition=fog`: one
recording for every seed. NAME is `frames`, `size` (WIDTHxHEIGHT) or a setting of a world.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TYPE_CHECKING
from urllib.parse import parse_qsl

from psd_depth_ros.config import build
from psd_depth_ros.data.frames import FrameSource, LensChoice, Reader, TimedFrame
from psd_depth_ros.errors import SettingsError
from psd_depth_ros.parsing import parse_yaml, ParseError, shorten

if TYPE_CHECKING:
    from psd_depth_ros.synth import WorldSettings

PREFIX = 'synth:'
_DEFAULTS: dict[str, Any] = {'frames': 60, 'size': '832x256'}
_FORM = 'expected synth:KIND:SEEDS?NAME=VALUE&..., such as synth:street:0-7?frames=40'


class WorldFrames(FrameSource):
    """The frames of one world, rendered when they are asked for, with exact depth and poses."""

    def __init__(self, name: str) -> None:
        super().__init__(Path(name), LensChoice())
        (seed, *others), self._count, settings = _parse(name)
        if others:
            raise SettingsError(f'{name} names several worlds, expected one; name one seed')
        # The renderer needs torch, which takes a second to import: not for every recording.
        from psd_depth_ros.synth import World

        self._world = World(seed, settings)
        self.camera_height_m = self._world.camera_height_m

    @property
    def count(self) -> int:
        """Number of frames asked for."""
        return self._count

    @property
    def span_ns(self) -> tuple[int, int]:
        """First and last stamp."""
        return 0, round((self._count - 1) * 1e9 / self._world.settings.frame_rate_hz)

    def close(self) -> None:
        """Nothing stays open."""

    def frames(self) -> Iterator[TimedFrame]:
        """Render the frames."""
        self._begin()
        for index in self.selected:
            frame = self._world.render(index)
            yield self._use(
                TimedFrame(
                    index,
                    frame.stamp_ns,
                    'camera_optical',
                    frame.rgb.numpy(),
                    self._world.camera,
                    frame.T_world_camera,
                    depth_m=frame.depth_m.numpy(),
                    moving=frame.moving.numpy(),
                    sequence=str(self.path),
                )
            )


def list_worlds(name: str) -> list[str]:
    """Name every world of a text with several seeds on its own. Raises SettingsError."""
    seeds, _, settings = _parse(name)
    _, separator, query = name.partition('?')
    return [f'{PREFIX}{settings.kind}:{seed}{separator}{query}' for seed in seeds]


def _parse(name: str) -> tuple[list[int], int, WorldSettings]:
    """Seeds, number of frames and settings."""
    from psd_depth_ros.synth import WorldSettings

    body, _, query = name.partition('?')
    kind, _, seeds = body.removeprefix(PREFIX).partition(':')
    try:
        given = {key: parse_yaml(text) for key, text in parse_qsl(query)}
    except (ParseError, ValueError) as error:  # more than a query may hold
        raise SettingsError(f'{shorten(name)}: a value {error}; {_FORM}') from error
    values = {**_DEFAULTS, **given}
    frames, size = values.pop('frames'), str(values.pop('size')).lower().split('x')
    first, _, last = seeds.partition('-')
    numbers = [first or '0', last or first or '0', *size]
    if len(size) != 2 or not all(text.isdigit() for text in numbers):
        raise SettingsError(f'{name} is no rendered world; {_FORM}')
    if not isinstance(frames, int) or frames < 1:
        raise SettingsError(f'{name}: frames is {frames!r}, expected a whole number from 1')
    start, stop, width, height = (int(text) for text in numbers)
    if stop < start:
        raise SettingsError(f'{name}: seeds {seeds} go down, expected FIRST-LAST')
    settings = {'kind': kind, 'width': width, 'height': height, **values}
    return list(range(start, stop + 1)), frames, build(WorldSettings, settings, name)


def is_world(path: Path) -> bool:
    """Whether a path is the name of a world, not a file."""
    return str(path).startswith(PREFIX)


READER = Reader(
    'world',
    is_world,
    lambda path, options: WorldFrames(str(path)),
    has_depth=True,
    takes_lens=False,
)
