"""The subpackages and their order: an import that goes uphill fails here."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = 'psd_depth_ros'
ROOT = Path(__file__).parent.parent / PACKAGE
FLOORS = [
    {'cli', 'ros'},
    {'finetune'},
    {'training', 'replay'},
    {'objectives', 'evaluation'},
    {'inference'},
    {'data'},
    {'odometry', 'augment', 'sharing'},
    {'teachers'},
    {'losses', 'networks', 'synth', 'external'},
    {'checkpoint', 'messages', 'preprocess', 'visualisation'},
    {'geometry', 'runtime'},
    {'config', 'files'},
    {'parsing'},
    {'yaml_text'},
    {'errors'},
]
LEVEL = {package: len(FLOORS) - index for index, floor in enumerate(FLOORS) for package in floor}
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
MODULES = {
    '.'.join(path.relative_to(ROOT.parent).with_suffix('').parts) for path in FILES
}  # packages not


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def subpackage_of(path: Path) -> str:
    """The subpackage of a file: the folder, or the module, right below the package."""
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
            names = [f'{module}.{alias.name}' for alias in node.names]
            submodules = [name for name in names if name in MODULES]
            if len(submodules) < len(names) or module == PACKAGE:
                yield module
            yield from names if module == PACKAGE else submodules


def packages_imported(path: Path) -> set[str]:
    ours = (name.split('.') for name in imports(path) if name.startswith(f'{PACKAGE}.'))
    return {parts[1] for parts in ours if parts[1] in LEVEL}


def test_imports_go_down():
    uphill = []
    for path in FILES:
        package = subpackage_of(path)
        if package == '__init__':
            assert not [name for name in imports(path) if name.startswith(PACKAGE)]
            continue
        assert package in LEVEL, f'{package} has no floor: give it one in this test'
        uphill += [
            f'{name_of(path)} imports {other} from its own floor or above'
            for other in sorted(packages_imported(path) - {package})
            if LEVEL[other] >= LEVEL[package]
        ]
    assert not uphill, '\n'.join(uphill)


def test_no_circle_of_files_not_even_in_functions():
    modules = {module_of(path): path for path in FILES}
    graph = {
        module: {name for name in imports(path) if name in modules and name != module}
        for module, path in modules.items()
    }
    sorter = TopologicalSorter(graph)
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail('files import each other: ' + ' -> '.join(error.args[1]))


def test_ros_is_imported_in_one_subpackage_only():
    found = {
        name_of(path): libraries
        for path in FILES
        if subpackage_of(path) != 'ros'
        and (libraries := {name.split('.')[0] for name in imports(path)} & ROS_LIBRARIES)
    }
    assert not found


def test_grid_sample_has_one_home():
    homes = {name_of(path) for path in FILES if 'grid_sample(' in path.read_text(encoding='utf-8')}
    assert homes <= {'geometry/warp.py'}, 'use geometry.warp.sample'


def test_an_uphill_import_would_be_seen():
    source = ast.parse('from psd_depth_ros import cli\nfrom ..ros import qos\nimport rclpy.node')
    fake = ROOT / 'geometry' / 'fake.py'
    found = list(imports_of(source, fake))
    assert found == ['psd_depth_ros', 'psd_depth_ros.cli', 'psd_depth_ros.ros.qos', 'rclpy.node']
