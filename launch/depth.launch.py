"""Start the depth node on one camera, bring it to active, and open a viewer where one is wanted.

    ros2 launch psd_depth_ros depth.launch.py image:=/camera/image_raw \
        camera_info:=/camera/camera_info rviz:=true

`--show-args` lists every argument. The node's own parameters are in config/depth_node.yaml.
"""

import os

from ament_index_python.packages import (
    get_package_prefix,
    get_package_share_directory,
    PackageNotFoundError,
)
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import LifecycleNode, Node

SHARE = get_package_share_directory('psd_depth_ros')
BOOLEAN = ('true', 'false')

ARGUMENTS = [
    DeclareLaunchArgument(
        'image',
        default_value='image',
        description='Image topic of the camera (sensor_msgs/Image). With image_transport:='
        'compressed its compressed twin, this name followed by /compressed, is read instead.',
    ),
    DeclareLaunchArgument(
        'image_transport',
        default_value='',
        choices=('', 'raw', 'compressed'),
        description='Whether images come as sensor_msgs/Image or as CompressedImage. Empty: as in '
        'params_file.',
    ),
    DeclareLaunchArgument(
        'camera_info',
        default_value='camera_info',
        description='CameraInfo topic of the camera.',
    ),
    DeclareLaunchArgument(
        'odom',
        default_value='odom',
        description='Odometry topic (nav_msgs/Odometry), read where scale.mode is odometry.',
    ),
    DeclareLaunchArgument(
        'lidar',
        default_value='lidar',
        description='PointCloud2 topic of a lidar, read where scale.mode is lidar.',
    ),
    DeclareLaunchArgument(
        'checkpoint',
        default_value='',
        description='Checkpoint file (.safetensors), or the name of weights of this package. '
        'Empty: the one of params_file, or `default`.',
    ),
    DeclareLaunchArgument(
        'pixel_budget',
        default_value='',
        description='Most pixels of the input of the network: more for finer depth, fewer for '
        'speed. Empty: as in params_file.',
    ),
    DeclareLaunchArgument(
        'device',
        default_value='',
        description='Where the network runs: auto, cpu, cuda, cuda:1 ... Empty: as in '
        'params_file.',
    ),
    DeclareLaunchArgument(
        'params_file',
        default_value=os.path.join(SHARE, 'config', 'depth_node.yaml'),
        description='YAML file with the parameters of the node.',
    ),
    DeclareLaunchArgument(
        'namespace',
        default_value='',
        description='Namespace of the node and of its relative topics.',
    ),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='false',
        choices=BOOLEAN,
        description='Take the time from /clock, as when a bag is played.',
    ),
    DeclareLaunchArgument(
        'autostart',
        default_value='true',
        choices=BOOLEAN,
        description='The node configures and activates itself. false: use `ros2 lifecycle set`.',
    ),
    DeclareLaunchArgument(
        'rviz',
        default_value='false',
        choices=BOOLEAN,
        description='Open RViz with camera, depth, confidence and coloured cloud.',
    ),
    DeclareLaunchArgument(
        'fixed_frame',
        default_value='',
        description='Fixed frame of RViz. Empty: as in config/depth.rviz, camera_optical.',
    ),
    DeclareLaunchArgument(
        'viewer',
        default_value='none',
        choices=('none', 'rviz', 'rerun'),
        description='Viewer: rviz (the same as rviz:=true), or rerun, served on '
        'loopback only, where there is no RViz (pip install rerun-sdk).',
    ),
    DeclareLaunchArgument(
        'shared_memory',
        default_value='true',
        choices=BOOLEAN,
        description='Let Fast DDS have a segment of shared memory (64 MB) that images fit into. '
        'FASTRTPS_DEFAULT_PROFILES_FILE, where it is set, goes before.',
    ),
    DeclareLaunchArgument(
        'log_level',
        default_value='info',
        choices=('debug', 'info', 'warn', 'error', 'fatal'),
        description='How much the node logs.',
    ),
]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context):
    """Make the actions, now that every argument has its value."""
    value = context.launch_configurations
    actions = [depth_node(value)]
    if value['rviz'] == 'true' or value['viewer'] == 'rviz':
        actions.append(rviz(value))
    if value['viewer'] == 'rerun':
        actions.append(rerun(value))
    return actions


def depth_node(value):
    settings = {name: value[name] == 'true' for name in ('use_sim_time', 'autostart')}
    overrides = ('image_transport', 'checkpoint', 'device')
    settings.update({name: value[name] for name in overrides if value[name]})
    if value['pixel_budget']:
        settings['pixel_budget'] = int(value['pixel_budget'])
    return LifecycleNode(
        package='psd_depth_ros',
        executable='depth_node',
        name='depth_node',
        namespace=value['namespace'],
        parameters=[value['params_file'], settings],
        remappings=remappings(value),
        additional_env=transport(value),
        arguments=['--ros-args', '--log-level', value['log_level']],
        output='screen',
    )


def remappings(value):
    pairs = [(name, value[name]) for name in ('image', 'camera_info', 'odom', 'lidar')]
    pairs.append(('image/compressed', value['image'] + '/compressed'))
    return [(name, topic) for name, topic in pairs if name != topic]


def transport(value):
    """The environment of a node: it chooses shared memory itself where nobody else did."""
    return {} if value['shared_memory'] == 'true' else {'FASTDDS_BUILTIN_TRANSPORTS': 'DEFAULT'}


def rviz(value):
    try:
        get_package_prefix('rviz2')
    except PackageNotFoundError:
        raise RuntimeError(
            'rviz2 is not installed: install ros-$ROS_DISTRO-rviz2, or use viewer:=rerun'
        ) from None
    frame = ['-f', value['fixed_frame']] if value['fixed_frame'] else []
    return Node(
        package='rviz2',
        executable='rviz2',
        name='rviz2',
        namespace=value['namespace'],
        arguments=['-d', os.path.join(SHARE, 'config', 'depth.rviz'), *frame],
        parameters=[{'use_sim_time': value['use_sim_time'] == 'true'}],
        remappings=[('image', value['image'])],
        output='log',
    )


def rerun(value):
    return Node(
        package='psd_depth_ros',
        executable='rerun_viewer',
        name='rerun_viewer',
        namespace=value['namespace'],
        parameters=[
            {
                'use_sim_time': value['use_sim_time'] == 'true',
                'image_transport': value['image_transport'] or 'raw',
            }
        ],
        remappings=remappings(value),
        output='screen',
    )
