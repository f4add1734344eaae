"""The launch files, run against stand-ins: the `launch` packages are in a distribution only."""

from pathlib import Path
import runpy

from launch_files import install, named, values
import numpy as np
import pytest

from psd_depth_ros.config import specs
from psd_depth_ros.data.bags import BagWriter
from psd_depth_ros.errors import BagError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import camera_info_fields, compressed_fields

ROOT = Path(__file__).parent.parent
LAUNCH_FILES = sorted((ROOT / 'launch').glob('*.launch.py'))
CONTRACT = {
    'depth.launch.py': {
        'image', 'camera_info', 'checkpoint', 'pixel_budget', 'device', 'rviz', 'params_file',
        'namespace', 'use_sim_time', 'autostart', 'viewer', 'log_level',
    },
    'finetune.launch.py': {
        'bags', 'output', 'image_topic', 'recipe', 'checkpoint', 'deploy_to', 'device',
        'params_file', 'namespace', 'auto_start', 'log_level',
    },
    'replay.launch.py': {'bag', 'rate', 'loop', 'rviz', 'checkpoint', 'pixel_budget', 'device'},
}  # fmt: skip


@pytest.fixture
def load(monkeypatch):
    install(monkeypatch)
    return lambda name: runpy.run_path(str(ROOT / 'launch' / name))


@pytest.mark.parametrize('path', LAUNCH_FILES, ids=lambda path: path.name)
def test_every_argument_is_declared_and_described(load, path):
    declared = load(path.name)['generate_launch_description']().arguments[0]
    arguments = named(declared, 'DeclareLaunchArgument')
    assert {one.arguments[0] for one in arguments} >= CONTRACT[path.name]
    for one in arguments:
        text = one['description']
        assert len(text) > 15, one.arguments
        assert text[0].isupper(), text
        assert text.endswith('.'), text
        default = one.keywords.get('default_value', '')
        assert default in one.keywords.get('choices', [default]), one.arguments


def test_all_launch_files_are_there():
    assert [path.name for path in LAUNCH_FILES] == sorted(CONTRACT)


def test_depth_passes_topics_and_parameters_on(load):
    space = load('depth.launch.py')
    given = {'checkpoint': '/c.safetensors', 'pixel_budget': '106496'}
    context = values(space, image='/cam/image', namespace='front', **given)
    (node,) = named(space['start'](context), 'LifecycleNode')
    assert node['executable'] == 'depth_node'
    assert node['namespace'] == 'front'
    assert ('image', '/cam/image') in node['remappings']
    assert ('image/compressed', '/cam/image/compressed') in node['remappings']
    file, overrides = node['parameters']
    assert Path(file).is_file()
    assert overrides == {
        'use_sim_time': False,
        'autostart': True,
        'checkpoint': '/c.safetensors',
        'pixel_budget': 106496,
    }


def test_autostart_is_left_to_the_node(load):
    space = load('depth.launch.py')
    for given in (True, False):
        (node,) = space['start'](values(space, autostart=str(given).lower()))
        assert node['parameters'][1]['autostart'] is given


def test_shared_memory_is_left_to_the_node_or_switched_off(load):
    space = load('depth.launch.py')
    (node,) = named(space['start'](values(space)), 'LifecycleNode')
    assert node['additional_env'] == {}
    (node,) = named(space['start'](values(space, shared_memory='false')), 'LifecycleNode')
    assert node['additional_env'] == {'FASTDDS_BUILTIN_TRANSPORTS': 'DEFAULT'}


@pytest.mark.parametrize('given', [{'rviz': 'true'}, {'viewer': 'rviz'}])
def test_without_rviz_the_way_out_is_named(load, given):
    space = load('depth.launch.py')
    with pytest.raises(RuntimeError, match='viewer:=rerun'):
        space['start'](values(space, **given))


def test_rerun_viewer_gets_the_same_topics(load):
    space = load('depth.launch.py')
    actions = space['start'](values(space, viewer='rerun', image='/cam/image'))
    (viewer,) = named(actions, 'Node')
    assert viewer['executable'] == 'rerun_viewer'
    assert ('image', '/cam/image') in viewer['remappings']


@pytest.fixture
def bag(tmp_path):
    camera = Camera.from_K([[50, 0, 16], [0, 50, 12], [0, 0, 1]], 32, 24)
    rgb = np.zeros((24, 32, 3), np.uint8)
    path = tmp_path / 'drive.mcap'
    with BagWriter(path) as writer:
        info = camera_info_fields(camera)
        writer.write('/front/camera_info', 'sensor_msgs/msg/CameraInfo', info, 1, 'lens')
        fields = compressed_fields(rgb)
        kind = 'sensor_msgs/msg/CompressedImage'
        writer.write('/front/image/compressed', kind, fields, 1, 'lens')
    return str(path)


def test_replay_finds_the_camera_of_the_recording(load, bag):
    space = load('replay.launch.py')
    actions = space['start'](values(space, bag=bag, rate='2', loop='true'))
    (include,) = named(actions, 'IncludeLaunchDescription')
    arguments = dict(include['launch_arguments'])
    assert arguments['image'] == '/front/image'
    assert arguments['image_transport'] == 'compressed'
    assert arguments['camera_info'] == '/front/camera_info'
    assert arguments['fixed_frame'] == 'lens'
    assert arguments['use_sim_time'] == 'true'
    (player,) = named(actions, 'Node')
    (given,) = player['parameters']
    assert (given['recording'], given['rate'], given['loop']) == (bag, 2.0, True)
    node = pytest.importorskip('psd_depth_ros.ros.replay_node')
    assert set(given) <= {spec.name for spec in specs(node.ReplaySettings)}
    declared = {one.arguments[0] for one in load('depth.launch.py')['ARGUMENTS']}
    assert set(arguments) <= declared


@pytest.mark.parametrize(('viewer', 'kind'), [('none', 'Shutdown'), ('rerun', 'LogInfo')])
def test_replay_ends_with_the_recording_unless_somebody_looks(load, bag, viewer, kind):
    space = load('replay.launch.py')
    actions = space['start'](values(space, bag=bag, rviz='false', viewer=viewer))
    (handler,) = named(actions, 'RegisterEventHandler')
    (follows,) = handler.arguments[0]['on_exit']
    assert type(follows).__name__ == kind


def test_replay_of_a_recording_that_is_not_there_says_so(load, tmp_path):
    space = load('replay.launch.py')
    with pytest.raises(BagError, match=r'gone\.mcap is not there'):
        space['start'](values(space, bag=str(tmp_path / 'gone.mcap')))


def test_finetune_tells_the_node_what_was_given_and_nothing_else(load):
    space = load('finetune.launch.py')
    (node,) = space['start'](values(space, bags='a.mcap, b/*.mcap', deploy_to='/depth_node'))
    assert node['executable'] == 'finetune_node'
    file, overrides = node['parameters']
    assert Path(file).is_file()
    assert overrides == {
        'bags': ['a.mcap', 'b/*.mcap'],
        'deploy_to': '/depth_node',
        'auto_start': True,
    }
    settings = pytest.importorskip('psd_depth_ros.ros.finetune_node')
    known = {spec.name for spec in specs(settings.FinetuneNodeSettings)}
    assert {*overrides, *space['OVERRIDES']} <= known
    (node,) = space['start'](values(space, auto_start='false'))
    assert node['parameters'][1] == {'auto_start': False}
