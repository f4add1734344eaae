"""Play a recording into the depth node and view the result: recording, node and RViz in one.

    ros2 launch psd_depth_ros replay.launch.py bag:=drive.mcap

The camera of the recording is found by itself. `--show-args` lists every argument.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from psd_depth_ros.replay.player import find_camera

SHARE = get_package_share_directory('psd_depth_ros')
BOOLEAN = ('true', 'false')
PASSED_ON = (
    'checkpoint', 'pixel_budget', 'device', 'params_file', 'namespace', 'rviz', 'viewer',
    'log_level',
)  # fmt: skip

ARGUMENTS = [
    DeclareLaunchArgument(
        'bag',
        description='What to play: a bag (rosbag2, .mcap, .db3, rosbag1), a video or a folder of '
        'images.',
    ),
    DeclareLaunchArgument(
        'image_topic',
        default_value='',
        description='Camera of the bag. Empty: its only one.',
    ),
    DeclareLaunchArgument(
        'fov',
        default_value='0.0',
        description='Horizontal field of view in degrees, for a video without calibration.',
    ),
    DeclareLaunchArgument(
        'rate',
        default_value='1.0',
        description='Recorded seconds played per second.',
    ),
    DeclareLaunchArgument(
        'loop',
        default_value='false',
        choices=BOOLEAN,
        description='Start again at the end, until Ctrl-C. Time then jumps back.',
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
        description='YAML file with the parameters of the depth node.',
    ),
    DeclareLaunchArgument(
        'namespace',
        default_value='',
        description='Namespace of the depth node and of its outputs.',
    ),
    DeclareLaunchArgument(
        'rviz',
        default_value='true',
        choices=BOOLEAN,
        description='Open RViz with camera, depth, confidence and coloured cloud.',
    ),
    DeclareLaunchArgument(
        'viewer',
        default_value='none',
        choices=('none', 'rviz', 'rerun'),
        description='Viewer beside RViz: rerun, served on loopback only (with '
        'rviz:=false where there is no RViz).',
    ),
    DeclareLaunchArgument(
        'log_level',
        default_value='info',
        choices=('debug', 'info', 'warn', 'error', 'fatal'),
        description='How much the depth node logs.',
    ),
]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context):
    """Make the actions, now that every argument has its value."""
    value = dict(context.launch_configurations)
    fov = float(value['fov'])
    camera = find_camera(
        value['bag'], value['image_topic'] or None, horizontal_fov_deg=fov or None
    )
    player = replay_node(value, fov)
    end = OnProcessExit(target_action=player, on_exit=what_follows(value))
    return [depth_node(value, camera), RegisterEventHandler(end), player]


def what_follows(value):
    """Leave the viewer open for looking; without one there is nothing to stay for."""
    if value['rviz'] == 'true' or value['viewer'] != 'none':
        return [LogInfo(msg='the recording is over; Ctrl-C ends')]
    return [Shutdown(reason='the recording is over')]


def replay_node(value, fov):
    return Node(
        package='psd_depth_ros',
        executable='replay_node',
        name='replay_node',
        parameters=[
            {
                'recording': value['bag'],
                'image_topic': value['image_topic'],
                'horizontal_fov_deg': fov,
                'rate': float(value['rate']),
                'loop': value['loop'] == 'true',
                # Nothing is lost while the network is loaded.
                'wait_for_subscribers_s': 120.0,
            }
        ],
        output='screen',
    )


def depth_node(value, camera):
    arguments = {name: value[name] for name in PASSED_ON}
    arguments |= {
        'image': camera.image_topic,
        'image_transport': camera.transport,
        'camera_info': camera.camera_info_topic,
        'fixed_frame': camera.frame_id,
        'use_sim_time': 'true',
    }
    return IncludeLaunchDescription(
        PythonLaunchDescriptionSource(os.path.join(SHARE, 'launch', 'depth.launch.py')),
        launch_arguments=arguments.items(),
    )
