"""setup.py, package.xml and the executables say the same as the code."""

import ast
import contextlib
import os
from pathlib import Path
import re
import runpy
import signal
import stat
import subprocess
import sys
import sysconfig
import time
import xml.etree.ElementTree as ElementTree

import pytest
import setuptools

import psd_depth_ros

ROOT = Path(__file__).parent.parent
NAME = 'psd_depth_ros'
# What is imported -> the rosdep key, and the requirement of setup.py.
LIBRARIES = {
    'accelerate': (None, 'accelerate'),
    'cv2': ('python3-opencv', 'opencv-python-headless'),
    'numpy': ('python3-numpy', 'numpy'),
    'rich': ('python3-rich', 'rich'),
    'rosbags': (None, 'rosbags'),
    'safetensors': (None, 'safetensors'),
    'scipy': ('python3-scipy', 'scipy'),
    'torch': ('python3-torch', 'torch'),
    'tqdm': ('python3-tqdm', 'tqdm'),
    'yaml': ('python3-yaml', 'PyYAML'),
}
OPTIONAL = {
    'numba': 'numba',
    'onnx': 'onnxruntime',
    'onnxruntime': 'onnxruntime',
    'onnxscript': 'onnxruntime',
    'openvino': 'openvino',
    'rerun': 'rerun',
    'huggingface_hub': 'transformers',
    'transformers': 'transformers',
}
ROS_GUARDED = {'cv_bridge', 'sensor_msgs_py', 'tf_transformations'}


@pytest.fixture(scope='module')
def setup_arguments():
    kept = {}
    patch = pytest.MonkeyPatch()
    patch.setattr(setuptools, 'setup', lambda **arguments: kept.update(arguments))
    patch.chdir(ROOT)
    runpy.run_path(str(ROOT / 'setup.py'))
    patch.undo()
    return kept


@pytest.fixture(scope='module')
def manifest():
    return ElementTree.parse(ROOT / 'package.xml').getroot()


@pytest.fixture(scope='module')
def imported():
    """Every library imported by the package and its launch files."""
    files = [*(ROOT / NAME).rglob('*.py'), *(ROOT / 'launch').glob('*.py')]
    names = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split('.')[0])
    return names - set(sys.stdlib_module_names) - {NAME, '__future__'}


def requirement_names(requirements):
    return {re.match(r'[A-Za-z0-9_.-]+', one).group() for one in requirements}


def depends(manifest):
    return {element.text for element in manifest.findall('exec_depend')}


def test_manifest_is_one_that_colcon_takes_for_ament_python(manifest):
    assert manifest.tag == 'package'
    assert manifest.get('format') == '3'
    assert manifest.findtext('export/build_type') == 'ament_python'
    assert manifest.findtext('name') == NAME
    assert manifest.findtext('license') == 'Apache-2.0'
    assert 'Apache License' in (ROOT / manifest.find('license').get('file')).read_text()
    keys = [element.text for element in manifest if element.tag.endswith('_depend')]
    assert len(keys) == len(set(keys)), 'a dependency is named twice'


def test_one_version_everywhere(manifest, setup_arguments):
    assert manifest.findtext('version') == psd_depth_ros.__version__ == setup_arguments['version']


def test_every_checkpoint_is_installed_with_its_card(setup_arguments):
    (files,) = (names for folder, names in setup_arguments['data_files'] if 'weights' in folder)
    tracked = subprocess.run(
        ['git', 'ls-files', 'weights'], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    assert 'weights/lite.safetensors' in files
    assert set(tracked) <= set(files)
    card = (ROOT / 'weights' / 'README.md').read_text()
    assert all(Path(name).name in card for name in files if name.endswith('.safetensors'))


def test_manifest_names_every_ros_package_and_library_imported(manifest, imported):
    libraries = {LIBRARIES[name][0] for name in imported & set(LIBRARIES)} - {None}
    ros = imported - set(LIBRARIES) - set(OPTIONAL)
    missing = (libraries | ros) - depends(manifest)
    assert not missing, f'package.xml lacks {sorted(missing)}'
    keys = {key for key, _ in LIBRARIES.values()} & depends(manifest)
    unused = keys - libraries
    assert not unused, f'package.xml has {sorted(unused)}, which nothing imports'


def test_requirements_of_pip_are_those_without_a_package_of_the_distribution(
    manifest, setup_arguments
):
    assert not [one for one in depends(manifest) if one.endswith('-pip')], 'no release with pip'
    wanted = {
        one
        for one in setup_arguments['install_requires']
        if re.match(r'\w+', one).group() in {'accelerate', 'rosbags', 'safetensors', 'torch'}
    }
    lines = (ROOT / 'requirements.txt').read_text(encoding='utf-8').splitlines()
    wanted |= set(setup_arguments['extras_require']['openvino'])
    assert {one for one in lines if not one.startswith('#')} == wanted


def test_setup_requires_what_is_imported_and_nothing_of_ros(setup_arguments, imported):
    required = requirement_names(setup_arguments['install_requires'])
    assert required == {LIBRARIES[name][1] for name in imported & set(LIBRARIES)}
    extras = {OPTIONAL[name] for name in imported & set(OPTIONAL)}
    assert extras <= set(setup_arguments['extras_require'])
    assert not required & ({'launch', 'rclpy'} | ROS_GUARDED)
    assert 'pytest' in setup_arguments['extras_require']['test'], 'colcon test looks for it'


def test_constraints_pin_every_requirement_of_make(setup_arguments):
    lines = (ROOT / 'constraints.txt').read_text().splitlines()
    pinned = {line.split('==')[0] for line in lines if '==' in line}
    extras = re.search(r'^extras\s*:=\s*(\S+)', (ROOT / 'Makefile').read_text(), re.M).group(1)
    wanted = list(setup_arguments['install_requires'])
    for extra in [*extras.replace('$(ros)', 'ros').split(','), 'docs']:
        wanted += setup_arguments['extras_require'][extra]
    assert requirement_names(wanted) <= pinned


def test_the_oldest_versions_claimed_are_the_oldest_tested(setup_arguments):
    lines = (ROOT / 'constraints-oldest.txt').read_text().splitlines()
    oldest = dict(line.split('==') for line in lines if '==' in line)
    extras = setup_arguments['extras_require']
    groups = (
        setup_arguments['install_requires'],
        *(extras[x] for x in ('numba', 'onnxruntime', 'ros', 'test', 'transformers')),
    )
    bounds = [one for group in (*groups, extras['openvino']) for one in group if '>=' in one]
    assert len(bounds) > 10
    for bound in bounds:
        name, version = bound.split('>=')
        pinned = oldest[name]
        assert (
            pinned == version
            or re.fullmatch(rf'{re.escape(version)}(\.0)+', pinned)
            or (
                name.startswith('opencv') and pinned.startswith(f'{version}.0.')  # builds count on
            )
        ), f'setup.py says {bound}, make test-oldest installs {pinned}'


def test_what_is_installed_for_ros_exists(setup_arguments):
    installed = dict(setup_arguments['data_files'])
    for folder in ('launch', 'config', 'weights'):
        assert installed[f'share/{NAME}/{folder}'], f'nothing for {folder}/'
    for files in installed.values():
        assert all((ROOT / file).is_file() for file in files)
    marker = installed['share/ament_index/resource_index/packages']
    assert marker == [f'resource/{NAME}']


def test_executables_run_a_module_that_is_there(setup_arguments):
    scripts = dict(setup_arguments['data_files'])[f'lib/{NAME}']
    assert {Path(one).name for one in scripts} >= {'depth_node', 'finetune_node', 'replay_node'}
    for script in map(Path, scripts):
        text = (ROOT / script).read_text(encoding='utf-8')
        assert text.startswith('#!/usr/bin/env python3\n')
        assert (ROOT / script).stat().st_mode & stat.S_IXUSR, f'{script} is not executable'
        module = re.search(rf'from {NAME}\.([\w.]+) import main', text).group(1)
        path = ROOT / NAME / Path(*module.split('.')).with_suffix('.py')
        assert 'def main(' in path.read_text(encoding='utf-8')


def test_nodes_are_on_path_under_the_names_that_ros2_run_knows(setup_arguments):
    commands = dict(one.split(' = ') for one in setup_arguments['entry_points']['console_scripts'])
    scripts = dict(setup_arguments['data_files'])[f'lib/{NAME}']
    names = {Path(one).name for one in scripts}
    assert commands.keys() - {'psd-depth'} == names - {'recorder', 'wait_until_active'}
    for name, target in commands.items():
        module, function = target.split(':')
        assert function == 'main'
        path = ROOT / Path(*module.split('.')).with_suffix('.py')
        assert 'def main(' in path.read_text(encoding='utf-8'), name
        if name in names:
            assert f'from {module} import main' in (ROOT / 'scripts' / name).read_text()


def test_setup_runs_from_a_link_to_it(tmp_path):
    """As `colcon build --symlink-install` calls it with the setuptools of Ubuntu 24.04."""
    (tmp_path / 'setup.py').symlink_to(ROOT / 'setup.py')
    found = subprocess.run(
        [sys.executable, 'setup.py', '--version'], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.stdout.strip() == psd_depth_ros.__version__, found.stderr


def test_the_command_of_the_readme_starts_from_a_plain_shell(ros_domains, tmp_path):
    """Where `pip install .` has been: nothing is sourced or exported, and PATH is enough."""
    folder = Path(sysconfig.get_path('scripts'))
    if not (folder / 'depth_node').is_file():
        pytest.skip('the package is not installed in this environment')
    pytest.importorskip('rclpy')
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    command = re.search(r'^depth_node --ros-args .*$', text, re.M).group().split()
    log = (tmp_path / 'log').open('wb')
    environment = {
        'PATH': f'{folder}:/usr/bin:/bin',
        'HOME': str(tmp_path),
        'ROS_DOMAIN_ID': str(next(ros_domains)),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
    }
    command += ['-p', 'autostart:=false']
    node = subprocess.Popen(
        ['/usr/bin/env', *command], cwd=ROOT, env=environment, stdout=log, stderr=log
    )
    try:
        deadline = time.monotonic() + 60.0
        while node.poll() is None and time.monotonic() < deadline:
            if not is_starting(node.pid):
                break
            time.sleep(0.1)
        assert node.poll() is None, (tmp_path / 'log').read_text()
    finally:
        node.send_signal(signal.SIGINT)
        code = node.wait(30.0)
    assert code == 0, (tmp_path / 'log').read_text()


def is_starting(pid):
    """Whether a node has no DDS participant yet: those have sockets of UDP open."""
    inodes = {line.split()[9] for line in Path('/proc/net/udp').read_text().splitlines()[1:]}
    wanted = {f'socket:[{inode}]' for inode in inodes}
    for one in Path(f'/proc/{pid}/fd').iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            if os.readlink(one) in wanted:
                return False
    return True


def test_no_editable_table_hides_the_entry_points():
    assert not re.search(r'^\[project', (ROOT / 'pyproject.toml').read_text(), re.M)


def test_installed_prefix_is_what_ros_looks_for(setup_arguments):
    """Where `pip install .` has been: share/ and lib/ are complete, and executable."""
    prefix = Path(sysconfig.get_path('data'))
    if not (prefix / 'share' / NAME / 'package.xml').is_file():
        pytest.skip('the package is not installed in this environment')
    for folder, files in setup_arguments['data_files']:
        for file in files:
            installed = prefix / folder / Path(file).name
            assert installed.is_file(), (
                f'{folder}/{file} was not there when the package was installed last: run '
                '`make install`'
            )
    for script in (prefix / 'lib' / NAME).iterdir():
        assert script.stat().st_mode & stat.S_IXUSR


def test_make_explains_every_command_of_the_contract():
    makefile = (ROOT / 'Makefile').read_text(encoding='utf-8')
    for command in ('demo', 'test', 'test-oldest', 'lint', 'docs', 'bench', 'install', 'clean'):
        assert re.search(rf'^{command}:.*##', makefile, re.M), f'make {command}'
