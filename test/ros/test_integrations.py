"""docs/integrations: what the consumers of depth demand, by their source, and whether they get it.

`INPUTS` has one entry for each subscription: its name there, type and quality of service. The
sources are those of docs/integrations.md. The recipes are read as launch and the consumers would
read them, and stand-ins with this quality of service listen to a real node over DDS.
"""

from collections.abc import Callable
from dataclasses import dataclass
import json
from pathlib import Path
import runpy
import sys
from typing import Any

from launch_files import install, named, StandIn, values
import numpy as np
import pytest
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
import yaml

from psd_depth_ros.config import build
from psd_depth_ros.replay import TOPICS
from psd_depth_ros.ros.depth_node.outputs import OUTPUTS
from psd_depth_ros.ros.depth_node.settings import DepthNodeSettings

FOLDER = Path(__file__).resolve().parents[2] / 'docs' / 'integrations'
OURS = {output.topic: output.message_type for output in OUTPUTS}
RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
# rmw_qos_profile_system_default: the DDS decides; readers of Fast DDS get best effort.
SYSTEM_DEFAULT = QoSProfile(
    history=HistoryPolicy.SYSTEM_DEFAULT,
    depth=5,
    reliability=ReliabilityPolicy.SYSTEM_DEFAULT,
    durability=DurabilityPolicy.SYSTEM_DEFAULT,
)


def keep_last(depth: int, reliability: ReliabilityPolicy = RELIABLE) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=reliability,
        durability=DurabilityPolicy.VOLATILE,
    )


@dataclass(frozen=True)
class Input:
    """A subscription: node of the recipe, name before remapping, type, QoS."""

    node: str
    name: str
    kind: type
    profile: QoSProfile


INPUTS = (
    # navigation2@f4108e5 (Jazzy), @aa3dab8 (Lyrical; there the recipe overrides the reliability)
    Input('depth_layer', 'points', PointCloud2, keep_last(50, BEST_EFFORT)),
    Input('depth_layer', 'points', PointCloud2, keep_last(50)),
    Input('depth_layer', 'points_clearing', PointCloud2, keep_last(50, BEST_EFFORT)),
    Input('depth_layer', 'points_clearing', PointCloud2, keep_last(50)),
    # rtabmap_ros@aec4f91: depth `topic_queue_size`, reliability `qos`
    Input('rtabmap', 'depth/image', Image, keep_last(30)),
    Input('rtabmap', 'rgb/camera_info', CameraInfo, keep_last(30)),
    # isaac_ros_nvblox@319438a, isaac_ros_common@d716470: `input_qos`
    Input('nvblox_node', 'camera_0/depth/image', Image, keep_last(10)),
    Input('nvblox_node', 'camera_0/depth/camera_info', CameraInfo, keep_last(10)),
    Input('nvblox_node', 'camera_0/color/camera_info', CameraInfo, keep_last(10)),
    # image_pipeline@30b982a (5.0.1, Jazzy), @0460beb (rolling)
    Input('depth_cloud', 'image_rect', Image, SYSTEM_DEFAULT),
    Input('depth_cloud', 'camera_info', CameraInfo, SYSTEM_DEFAULT),
    Input('colour_cloud', 'depth_registered/image_rect', Image, keep_last(10)),
    Input('colour_cloud', 'depth_registered/image_rect', Image, SYSTEM_DEFAULT),
    Input('colour_cloud', 'camera_info', CameraInfo, keep_last(10)),
    # image_pipeline@30b982a: that of the publisher, or of sensors where there is none yet
    Input('decimate_depth', 'in/image_raw', Image, keep_last(5)),
    Input('decimate_depth', 'in/image_raw', Image, keep_last(5, BEST_EFFORT)),
    Input('decimate_depth', 'in/camera_info', CameraInfo, keep_last(5)),
    Input('decimate_depth', 'in/camera_info', CameraInfo, keep_last(5, BEST_EFFORT)),
    # foxglove-sdk@ca8a1ce: reliable where all publishers are, as many as they keep
    Input('foxglove_bridge', '/points', PointCloud2, keep_last(2)),
    Input('foxglove_bridge', '/points_clearing', PointCloud2, keep_last(2)),
    Input('foxglove_bridge', '/depth/camera_info', CameraInfo, keep_last(2)),
    Input('foxglove_bridge', '/depth/colored', Image, keep_last(2)),
    Input('foxglove_bridge', '/depth/confidence', Image, keep_last(2)),
)
# What the nodes of a recipe hear or tell each other, beside the topics of depth_node.
OTHERS = {
    'rtabmap': {'rgb/image': 'image_rect'},
    'nvblox_node': {'camera_0/color/image': 'image_rect'},
    'depth_cloud': {'points': 'depth_cloud'},
    'colour_cloud': {'rgb/image_rect_color': 'image_rect', 'points': 'colour_cloud'},
    'decimate_depth': {'out/image_raw': 'depth_small/image_rect'},
    'rectify': {'image': '/camera/image_raw'},
}


# What is in the files.


def load_yaml(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding='utf-8'))


def launched(name: str) -> dict[str, Any]:
    """Nodes and components of a launch file by name; needs the stand-ins of launch."""
    space = runpy.run_path(str(FOLDER / name))
    description = space['generate_launch_description']()
    actions = description.arguments[0]
    if 'start' in space:
        actions = [*actions, *space['start'](values(space))]
    nodes = named(actions, 'Node')
    for container in named(actions, 'ComposableNodeContainer'):
        nodes += container['composable_node_descriptions']
    return {node['name']: node for node in nodes}


@pytest.fixture(scope='module')
def nodes() -> dict[str, Any]:
    """Nodes of all launch files by name."""
    paths = sorted(FOLDER.glob('*.launch.py'))
    assert len(paths) == 4
    with pytest.MonkeyPatch.context() as patch:  # a real node needs the real ones
        install(patch)
        return {name: node for path in paths for name, node in launched(path.name).items()}


def costmap() -> dict[str, Any]:
    return load_yaml('nav2_costmap.yaml')['local_costmap']['local_costmap']['ros__parameters']


def beside(image: str) -> str:
    """image_transport::getCameraInfoTopic of image_common@f6e4ab6."""
    return '/'.join([*image.split('/')[:-1], 'camera_info'])


def topic_of(one: Input, nodes: dict[str, Any]) -> str:
    """The topic that an input of a consumer listens to in the recipe, as OUTPUTS names it."""
    if one.node == 'depth_layer':
        return str(costmap()['depth_layer'][one.name]['topic']).removeprefix('/')
    if one.node == 'foxglove_bridge':
        return one.name.removeprefix('/')
    remappings = dict(nodes[one.node]['remappings'])
    if one.name in remappings:
        return str(remappings[one.name])
    images = {other.name for other in INPUTS if (other.node, other.kind) == (one.node, Image)}
    (image,) = (image for image in images if beside(image) == one.name)
    return beside(remappings[image])


def layout_topics() -> set[str]:
    """Topics that the panels of the Foxglove layout show."""
    found = set()
    for panel in load_layout()['configById'].values():
        found |= set(panel.get('topics', {}))
        mode = panel.get('imageMode', {})
        found |= {mode[key] for key in ('imageTopic', 'calibrationTopic') if key in mode}
        found |= {panel[key] for key in ('topicToRender',) if key in panel}
    return found


def load_layout() -> Any:
    return json.loads((FOLDER / 'foxglove_layout.json').read_text(encoding='utf-8'))


def test_every_input_is_a_topic_of_its_type(nodes: dict[str, Any]) -> None:
    for one in INPUTS:
        assert OURS[topic_of(one, nodes)] is one.kind, one


def test_every_remapping_is_known(nodes: dict[str, Any]) -> None:
    for name, node in nodes.items():
        known = {one.name for one in INPUTS if one.node == name}
        other = OTHERS.get(name, {})
        for old, new in node['remappings']:
            assert old in known or other.get(old) == new, f'{name}: {old} -> {new}'
        assert other.items() <= set(node['remappings']), name


def test_topics_of_different_nodes_stay_apart(nodes: dict[str, Any]) -> None:
    made = [OTHERS[name].get('points') for name in ('depth_cloud', 'colour_cloud')]
    made.append(OTHERS['decimate_depth']['out/image_raw'])
    assert len({*made, *OURS}) == len(made) + len(OURS)


@pytest.mark.parametrize('name', ['nav2_costmap.yaml', 'mapping.yaml'])
def test_parameters_of_depth_node_exist_and_fit(name: str) -> None:
    tree = load_yaml(name)
    build(DepthNodeSettings, tree.get('depth_node', tree.get('/**'))['ros__parameters'])


def test_the_costmap_clears_what_nothing_is_in() -> None:
    layer = costmap()['depth_layer']
    sources = layer['observation_sources'].split()
    given = load_yaml('nav2_costmap.yaml')['depth_node']['ros__parameters']['points']
    settings = build(DepthNodeSettings, {'points': given}).points
    assert settings.clearing
    assert [layer[one]['marking'] for one in sources] == [True, False]
    for one in (layer[source] for source in sources):
        assert one['clearing']
        assert one['data_type'] == 'PointCloud2'
        # Defaults of both are 0: everything would be left out.
        assert one['min_obstacle_height'] < layer['min_obstacle_height']
        assert one['max_obstacle_height'] > layer['max_obstacle_height']
        # A ray that meets nothing ends at max_range_m, and must not end within the map.
        assert settings.max_range_m >= one['raytrace_max_range']
        assert 2 * one['raytrace_max_range'] <= costmap()['width']
    # A ray ends as high as half of a view of 100 degrees lets it.
    assert layer['points_clearing']['max_obstacle_height'] > 1.2 * settings.max_range_m
    profiles = {one.profile.reliability for one in INPUTS if one.node == 'depth_layer'}
    overrides = costmap()['qos_overrides']
    assert set(overrides) == {layer[one]['topic'] for one in sources}
    assert {RELIABLE, BEST_EFFORT} == profiles


def test_quality_of_service_is_that_of_the_recipes(nodes: dict[str, Any]) -> None:
    (rtabmap,) = nodes['rtabmap']['parameters']
    nvblox = load_yaml('nvblox.yaml')['/**']['ros__parameters']
    assert (rtabmap['qos'], nvblox['input_qos']) == (int(RELIABLE), 'DEFAULT')
    for one in INPUTS:
        if one.node == 'rtabmap':
            assert one.profile.depth == rtabmap['topic_queue_size']
    (rectify,) = nodes['rectify']['parameters']
    assert rectify['qos_overrides./image_rect.publisher.reliability'] == 'reliable'


def test_the_rectified_image_reaches_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    space = runpy.run_path(str(FOLDER / 'image_proc.launch.py'))
    actions = space['start'](values(space, image='/front/image_raw'))
    (include,) = named(actions, 'IncludeLaunchDescription')
    given = dict(include['launch_arguments'])
    assert (given['image'], given['camera_info']) == ('image_rect', '/front/camera_info')
    parameters = yaml.safe_load(Path(given['params_file']).read_text(encoding='utf-8'))
    assert parameters['/**']['ros__parameters']['image_is_rectified'] is True
    declared = runpy.run_path(str(FOLDER.parents[1] / 'launch' / 'depth.launch.py'))['ARGUMENTS']
    assert set(given) <= {one.arguments[0] for one in declared}


def test_the_foxglove_layout_shows_topics_of_the_node() -> None:
    layout = load_layout()
    names: list[str] = []

    def walk(item: Any) -> None:
        if isinstance(item, str):
            names.append(item)
        else:
            walk(item['first'])
            walk(item['second'])

    walk(layout['layout'])
    assert sorted(names) == sorted(layout['configById'])
    listed = {one.name for one in INPUTS if one.node == 'foxglove_bridge'}
    assert layout_topics() - listed == {'/image', '/camera_info', '/diagnostics'}
    for panel in layout['configById'].values():
        mode = panel.get('imageMode', {})
        # Floats are drawn as grey from 0 to 1, whatever the unit: metres would all be white.
        if mode.get('imageTopic', '').startswith('/depth'):
            assert mode['imageTopic'] in ('/depth/colored', '/depth/confidence')
            assert mode['calibrationTopic'] == '/depth/camera_info'


def test_the_rerun_blueprint_shows_topics_of_a_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    rerun, blueprint = StandIn('rerun'), StandIn('rerun.blueprint')
    rerun.blueprint = blueprint
    monkeypatch.setitem(sys.modules, 'rerun', rerun)
    monkeypatch.setitem(sys.modules, 'rerun.blueprint', blueprint)
    made = runpy.run_path(str(FOLDER / 'rerun_blueprint.py'))['blueprint']()
    cloud, pictures = made.arguments[0].arguments
    shown = {one['origin'].removeprefix('/') for one in (cloud, *pictures.arguments)}
    assert shown <= set(TOPICS.values())
    assert OURS[cloud['origin'].removeprefix('/')] is PointCloud2


# What comes over DDS.


@dataclass
class StandInReader:
    """A subscription of a consumer, by the name of the topic in OUTPUTS."""

    topic: str
    messages: list[Any]


@pytest.fixture
def readers(bench: Any, nodes: dict[str, Any]) -> list[StandInReader]:
    """One for each input."""
    made = []
    for one in INPUTS:
        reader = StandInReader(topic_of(one, nodes), [])
        bench.node.create_subscription(
            one.kind, f'/{reader.topic}', reader.messages.append, one.profile
        )
        made.append(reader)
    return made


def stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)


def distorted(bench: Any, camera: Any) -> CameraInfo:
    """A lens whose K, D and P differ: what is rectified has P."""
    info: CameraInfo = camera.info(60.0)
    info.d = [-0.2, 0.05, 0.0, 0.0, 0.0]
    info.p[0] = info.p[5] = 50.0
    return info


def test_every_consumer_gets_what_its_source_demands(
    bench: Any, depth_node: Callable[..., Any], readers: list[StandInReader], tmp_path: Path
) -> None:
    files = [FOLDER / name for name in ('mapping.yaml', 'nav2_costmap.yaml')]
    depth_node(*(part for path in files for part in ('--params-file', str(path))))
    assert bench.get_parameter('points.decimation') == 4
    assert bench.get_parameter('image_is_rectified') is True
    camera = bench.camera()
    camera.wait_for_reader()
    info = distorted(bench, camera)

    def send_until_all_heard() -> None:
        for reader in readers:
            reader.messages.clear()
        camera.send_until(
            lambda: all(reader.messages for reader in readers), 'a message for each', info=info
        )

    def heard(topic: str) -> list[Any]:
        return [one for reader in readers if reader.topic == topic for one in reader.messages]

    send_until_all_heard()
    for message in (one for reader in readers for one in reader.messages):
        assert message.header.frame_id == 'camera_optical', 'that of the image, as it is in TF'
    check_depth(heard('depth/image_rect'), camera, np.float32(5.0))
    check_infos(heard('depth/camera_info'), camera)
    pairs = set(map(stamp_ns, heard('depth/image_rect'))) & set(
        map(stamp_ns, heard('depth/camera_info'))
    )
    assert pairs, 'exact synchronisation would find none'
    assert pairs <= set(range(camera.stamp_ns, 10**9, -100_000_000)), 'nor one with colour'
    for message in heard('points'):
        # (64, 48) by 4 in both directions.
        assert check_cloud(message).tolist() == pytest.approx([5.0] * 16 * 12)

    (sky := tmp_path / 'sky').write_text('wall id=sky depth=inf')
    assert bench.set_parameter('checkpoint', str(sky)) == (True, '')
    bench.spin_until(lambda: bench.value(': engine', 'checkpoint') == 'wall sky', 'the sky')
    send_until_all_heard()
    send_until_all_heard()
    check_depth(heard('depth/image_rect')[-1:], camera, np.float32(np.inf))
    assert check_cloud(heard('points')[-1]).size == 0
    clearing = check_cloud(heard('points_clearing')[-1])
    assert clearing.tolist() == pytest.approx([8.0] * 16 * 12)


def check_depth(messages: list[Image], camera: Any, metres: np.float32) -> None:
    """RTAB-Map, nvblox and depth_image_proc take 32FC1 for metres."""
    for message in messages:
        assert (message.encoding, message.is_bigendian) == ('32FC1', 0)
        assert (message.width, message.height) == camera.size
        assert message.step == 4 * message.width
        assert set(np.frombuffer(message.data, np.float32)) == {metres}


def check_infos(messages: list[CameraInfo], camera: Any) -> None:
    """The lens has K = 60 px, P = 50 px; depth is in the view of P.

    nvblox reads K, depth_image_proc P, RTAB-Map both and D; a P[3] would mean stereo to it.
    """
    for message in messages:
        assert list(message.k) == [50.0, 0.0, 31.5, 0.0, 50.0, 23.5, 0.0, 0.0, 1.0]
        assert list(message.p) == [50, 0, 31.5, 0, 0, 50, 23.5, 0, 0, 0, 1, 0]
        assert not any(message.d)
        assert list(message.r) == [1, 0, 0, 0, 1, 0, 0, 0, 1]
        assert (message.width, message.height) == camera.size
        assert (message.binning_x, message.binning_y, message.roi.width) == (0, 0, 0)


def check_cloud(message: PointCloud2) -> Any:
    """Z of the points, read as PointCloud2Iterator<float> and tf2_sensor_msgs do it."""
    fields = [(one.name, one.offset, one.datatype, one.count) for one in message.fields]
    assert fields == [('x', 0, 7, 1), ('y', 4, 7, 1), ('z', 8, 7, 1)]  # 7: FLOAT32
    assert not message.is_bigendian
    assert message.point_step == 12
    assert message.row_step == 12 * message.width
    assert len(message.data) == message.row_step * message.height
    points = np.frombuffer(message.data, np.float32).reshape(-1, 3)
    assert np.isfinite(points).all()
    return points[:, 2]
