"""Rectify with image_proc and estimate the depth of what it gives: colour and depth that fit.

    ros2 launch docs/integrations/image_proc.launch.py image:=/camera/image_raw

Gives `image_rect`, everything that depth_node gives, and `depth_small/image_rect` with its
camera_info for those who want less: half the size, each pixel one of the depth image. The other
launch files of this folder include this one.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import ComposableNodeContainer
from launch_ros.descriptions import ComposableNode

SHARE = get_package_share_directory('psd_depth_ros')
ARGUMENTS = [
    DeclareLaunchArgument(
        'image',
        default_value='/camera/image_raw',
        description='Image topic of the camera; its camera_info is expected beside it.',
    ),
    DeclareLaunchArgument(
        'params_file',
        default_value=os.path.join(os.path.dirname(os.path.abspath(__file__)), 'mapping.yaml'),
        description='YAML file with the parameters of depth_node.',
    ),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='false',
        choices=('true', 'false'),
        description='Take the time from /clock, as when a bag is played.',
    ),
]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context):
    """Make the actions, now that every argument has its value."""
    value = context.launch_configurations
    time = {'use_sim_time': value['use_sim_time'] == 'true'}
    rectify = ComposableNode(
        package='image_proc',
        plugin='image_proc::RectifyNode',
        name='rectify',
        # Without a camera at its start it would offer best effort, which reliable readers of
        # image_rect do not hear.
        parameters=[{'qos_overrides./image_rect.publisher.reliability': 'reliable', **time}],
        remappings=[('image', value['image'])],
    )
    decimate = ComposableNode(
        package='image_proc',
        plugin='image_proc::CropDecimateNode',
        name='decimate_depth',
        parameters=[{'decimation_x': 2, 'decimation_y': 2, **time}],  # nearest, so no new depths
        remappings=[
            ('in/image_raw', 'depth/image_rect'),
            ('out/image_raw', 'depth_small/image_rect'),
        ],
    )
    container = ComposableNodeContainer(
        package='rclcpp_components',
        executable='component_container',
        name='image_proc_container',
        namespace='',
        composable_node_descriptions=[rectify, decimate],
        output='screen',
    )
    depth = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(os.path.join(SHARE, 'launch', 'depth.launch.py')),
        launch_arguments={
            'image': 'image_rect',
            'camera_info': value['image'].rpartition('/')[0] + '/camera_info',
            'params_file': value['params_file'],
            'use_sim_time': value['use_sim_time'],
        }.items(),
    )
    return [container, depth]
