"""The rooms and the doors between them: an import that goes uphill fails here."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = 'psd_depth_ros'
ROOT = Path(__file__).parent.parent / PACKAGE
FLOORS = [
    {'cli', 'ros'},
    {'training', 'replay'},
    {'evaluation'},
    {'inference'},
    {'data', 'augment', 'losses', 'networks'},
    {'checkpoint', 'messages', 'preprocess', 'synth'},
    {'geometry', 'config', 'files', 'installed', 'parsing', 'tensor_files', 'yaml_text', 'errors'},
]
# Doors on one floor: every room may raise our errors.
SAME_FLOOR = {
    ('geometry', 'errors'),
    ('config', 'errors'),
    ('config', 'parsing'),
    ('parsing', 'errors'),
    ('tensor_files', 'parsing'),
    ('installed', 'parsing'),
    ('parsing', 'yaml_text'),
    ('yaml_text', 'errors'),
}
LEVEL = {room: len(FLOORS) - index for index, floor in enumerate(FLOORS) for room in floor}
ROS_LIBRARIES = {
    'ament_index_python',
    'builtin_interfaces',
    'cv_bridge',
    'diagnostic_msgs',
    'geometry_msgs',
    'launch',
    'launch_ros',
    'lifecycle_msgs',
    'nav_msgs',
    'rcl_interfaces',
    'rclpy',
    'rosgraph_msgs',
    'sensor_msgs',
    'sensor_msgs_py',
    'std_msgs',
    'std_srvs',
    'tf2_msgs',
    'tf2_ros',
    'tf_transformations',
}
FILES = sorted(ROOT.rglob('*.py'))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    """The room of a file: the folder, or the module, right below the package."""
    return path.relative_to(ROOT).parts[0].removesuffix('.py')


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in the file it does."""
    yield from imports_of(ast.parse(path.read_text(encoding='utf-8')), path)


def imports_of(tree: ast.Module, path: Path) -> Iterator[str]:
    package = (PACKAGE, *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = '.'.join((*base, *([node.module] if node.module else [])))
            yield module
            if module == PACKAGE:
                yield from (f'{PACKAGE}.{alias.name}' for alias in node.names)


def rooms_entered(path: Path) -> set[str]:
    ours = (name.split('.') for name in imports(path) if name.startswith(f'{PACKAGE}.'))
    return {parts[1] for parts in ours if parts[1] in LEVEL}


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_imports_go_down(path):
    room = room_of(path)
    if room == '__init__':
        assert not [name for name in imports(path) if name.startswith(PACKAGE)]
        return
    assert room in LEVEL, f'{room} is no room of the plan: give it a floor in this test'
    uphill = {
        other
        for other in rooms_entered(path) - {room}
        if LEVEL[other] >= LEVEL[room] and (room, other) not in SAME_FLOOR
    }
    assert not uphill, f'{name_of(path)} imports {sorted(uphill)} from its own floor or above'


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_ros_is_met_in_one_room_only(path):
    libraries = {name.split('.')[0] for name in imports(path)} & ROS_LIBRARIES
    assert room_of(path) == 'ros' or not libraries, f'{name_of(path)} imports {libraries}'


def test_grid_sample_has_one_home():
    homes = {name_of(path) for path in FILES if 'grid_sample(' in path.read_text(encoding='utf-8')}
    assert homes <= {'geometry/warp.py'}, 'use geometry.warp.sample'


def test_an_uphill_import_would_be_seen():
    source = ast.parse('from psd_depth_ros import cli\nfrom ..ros import qos\nimport rclpy.node')
    fake = ROOT / 'geometry' / 'fake.py'
    found = list(imports_of(source, fake))
    assert found == ['psd_depth_ros', 'psd_depth_ros.cli', 'psd_depth_ros.ros', 'rclpy.node']
