"""A map with RTAB-Map from one camera and the odometry of the robot.

    ros2 launch docs/integrations/rtabmap.launch.py image:=/camera/image_raw

Wants TF odom -> base_link -> camera. Odometry is that of the robot: depth that is estimated from
single images is no measure of the motion between them.
"""

import os

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

FOLDER = os.path.dirname(os.path.abspath(__file__))
RELIABLE = 1  # 0 is the default of the DDS: best effort for readers of Fast DDS


def generate_launch_description() -> LaunchDescription:
    rtabmap = Node(
        package='rtabmap_slam',
        executable='rtabmap',
        name='rtabmap',
        parameters=[
            {
                'use_sim_time': LaunchConfiguration('use_sim_time'),
                'frame_id': 'base_link',
                'odom_frame_id': 'odom',  # by TF, at the stamp of the depth; no topic
                'subscribe_depth': True,
                'subscribe_rgb': True,
                # Colour, depth and camera_info have the same stamp; 30 colour images wait.
                'approx_sync': False,
                'topic_queue_size': 30,
                'sync_queue_size': 30,
                'qos': RELIABLE,
                'wait_for_transform': 0.2,
                'Grid/Sensor': '1',  # from depth
                'Grid/RangeMax': '5.0',
                'Grid/RayTracing': 'true',
                'Kp/MaxDepth': '8.0',
                'Vis/MaxDepth': '8.0',
            }
        ],
        remappings=[
            ('rgb/image', 'image_rect'),
            ('depth/image', 'depth/image_rect'),
            ('rgb/camera_info', 'depth/camera_info'),  # no distortion, K = P: that of image_rect
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
            rtabmap,
        ]
    )
