"""Stand-ins for the `launch` packages, which are in a ROS distribution only."""

from pathlib import Path
import sys
from types import ModuleType, SimpleNamespace

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    *('launch', 'launch.actions', 'launch.event_handlers', 'launch.events'),
    *('launch.conditions', 'launch.launch_description_sources', 'launch.substitutions'),
    *('launch_ros', 'launch_ros.actions', 'launch_ros.descriptions', 'launch_ros.event_handlers'),
    *('launch_ros.events', 'launch_ros.events.lifecycle'),
)


class Recorded:
    """Stands for any class of launch: keeps what it was made with."""

    def __init__(self, *arguments, **keywords):
        self.arguments = arguments
        self.keywords = keywords

    def __getitem__(self, name):
        return self.keywords[name]


class StandIn(ModuleType):
    """A module in which every capitalised name is a class of its own."""

    __path__ = ()

    def __getattr__(self, name):
        if not name[0].isupper():
            return lambda *arguments: (name, *arguments)
        made = type(name, (Recorded,), {})
        setattr(self, name, made)
        return made


def install(monkeypatch):
    """Put the stand-ins in place of the `launch` packages; only this package is installed."""
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, StandIn(name))
    index = ModuleType('ament_index_python.packages')
    index.PackageNotFoundError = KeyError
    index.get_package_share_directory = lambda _: str(ROOT)
    index.get_package_prefix = {}.__getitem__
    monkeypatch.setitem(sys.modules, 'ament_index_python', ModuleType('ament_index_python'))
    monkeypatch.setitem(sys.modules, 'ament_index_python.packages', index)


def values(space, **given):
    """The launch configurations: defaults, and what was given on the command line."""
    defaults = {one.arguments[0]: one['default_value'] for one in space['ARGUMENTS']
                if 'default_value' in one.keywords}  # fmt: skip
    return SimpleNamespace(launch_configurations={**defaults, **given})


def named(actions, kind):
    return [action for action in actions if type(action).__name__ == kind]
