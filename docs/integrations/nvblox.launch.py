"""A voxel map with nvblox (Isaac ROS, an NVIDIA GPU) from one camera.

    ros2 launch docs/integrations/nvblox.launch.py image:=/camera/image_raw

Wants TF odom -> base_link -> camera. Colours (use_color in nvblox.yaml) want images in rgb8 or
bgra8.
"""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

FOLDER = os.path.dirname(os.path.abspath(__file__))


def generate_launch_description() -> LaunchDescription:
    nvblox = Node(
        package='nvblox_ros',
        executable='nvblox_node',
        name='nvblox_node',
        parameters=[
            os.path.join(FOLDER, 'nvblox.yaml'),
            {'use_sim_time': LaunchConfiguration('use_sim_time')},
        ],
        remappings=[
            ('camera_0/depth/image', 'depth/image_rect'),
            ('camera_0/depth/camera_info', 'depth/camera_info'),
            ('camera_0/color/image', 'image_rect'),
            ('camera_0/color/camera_info', 'depth/camera_info'),
        ],
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
            IncludeLaunchDescription(
                image_proc,
                launch_arguments={
                    name: LaunchConfiguration(name) for name in ('image', 'use_sim_time')
                }.items(),
            ),
            nvblox,
        ]
    )
