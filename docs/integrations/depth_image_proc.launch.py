"""Clouds made by depth_image_proc from the depth image, say on another computer.

    ros2 launch docs/integrations/depth_image_proc.launch.py image:=/camera/image_raw

With depth_node:=false where that runs elsewhere. Gives `depth_cloud` and, with the colours of
`image_rect`, `colour_cloud`, both organised. `points` is the cloud of depth_node: without
remapping all three would have that name.
"""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import ComposableNodeContainer
from launch_ros.descriptions import ComposableNode

FOLDER = os.path.dirname(os.path.abspath(__file__))


def generate_launch_description() -> LaunchDescription:
    depth_cloud = ComposableNode(
        package='depth_image_proc',
        plugin='depth_image_proc::PointCloudXyzNode',
        name='depth_cloud',
        # camera_info is the one beside the image: depth/camera_info.
        remappings=[('image_rect', 'depth/image_rect'), ('points', 'depth_cloud')],
    )
    colour_cloud = ComposableNode(
        package='depth_image_proc',
        plugin='depth_image_proc::PointCloudXyzrgbNode',
        name='colour_cloud',
        # All three have the stamp of the image; 30 of them wait for the depth.
        parameters=[{'exact_sync': True, 'queue_size': 30}],
        remappings=[
            ('depth_registered/image_rect', 'depth/image_rect'),
            ('rgb/image_rect_color', 'image_rect'),
            ('camera_info', 'depth/camera_info'),  # the name beside image_rect
            ('points', 'colour_cloud'),
        ],
    )
    container = ComposableNodeContainer(
        package='rclcpp_components',
        executable='component_container',
        name='depth_image_proc_container',
        namespace='',
        composable_node_descriptions=[depth_cloud, colour_cloud],
        output='screen',
    )
    image_proc = PythonLaunchDescriptionSource(os.path.join(FOLDER, 'image_proc.launch.py'))
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'image',
                default_value='/camera/image_raw',
                description='Image topic of the camera; its camera_info is expected beside it.',
            ),
            DeclareLaunchArgument(
                'use_sim_time',
                default_value='false',
                choices=('true', 'false'),
                description='Take the time from /clock, as when a bag is played.',
            ),
            DeclareLaunchArgument(
                'depth_node',
                default_value='true',
                choices=('true', 'false'),
                description='Start image_proc and depth_node too; false where they run elsewhere.',
            ),
            IncludeLaunchDescription(
                image_proc,
                condition=IfCondition(LaunchConfiguration('depth_node')),
                launch_arguments={
                    name: LaunchConfiguration(name) for name in ('image', 'use_sim_time')
                }.items(),
            ),
            container,
        ]
    )
