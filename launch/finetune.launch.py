"""Fine-tune the network on recordings, beside whatever runs, and hand the result to a depth node.

    ros2 launch psd_depth_ros finetune.launch.py bags:=drive.mcap output:=run \
        deploy_to:=/depth_node

`--show-args` lists every argument. The node's own parameters are in config/finetune_node.yaml.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

SHARE = get_package_share_directory('psd_depth_ros')
BOOLEAN = ('true', 'false')

ARGUMENTS = [
    DeclareLaunchArgument(
        'bags',
        default_value='',
        description='What to learn from: bags (rosbag2, .mcap, .db3, rosbag1), videos or folders '
        'of images; several with commas between them, patterns such as *.mcap. Empty: as in '
        'params_file.',
    ),
    DeclareLaunchArgument(
        'output',
        default_value='',
        description='Folder of the run; one that was stopped goes on. Empty: as in params_file.',
    ),
    DeclareLaunchArgument(
        'image_topic',
        default_value='',
        description='Camera of the bags. Empty: as in params_file, or their only one.',
    ),
    DeclareLaunchArgument(
        'camera_info_topic',
        default_value='',
        description='CameraInfo of that camera. Empty: as in params_file, or the one beside it.',
    ),
    DeclareLaunchArgument(
        'recipe',
        default_value='',
        description='Recipe of the training: a name or a YAML file. Empty: as in params_file.',
    ),
    DeclareLaunchArgument(
        'teacher',
        default_value='',
        description='Network of others that teaches, with recipe:=distil: .onnx, .tflite, '
        'hf:OWNER/NAME or a folder of maps. Empty: as in params_file.',
    ),
    DeclareLaunchArgument(
        'student',
        default_value='',
        description='Network to train where it is another than that of the checkpoint: lite or '
        'base. Empty: as in params_file.',
    ),
    DeclareLaunchArgument(
        'checkpoint',
        default_value='',
        description='Checkpoint to start from: a file (.safetensors), the name of weights of '
        'this package, or hf:OWNER/NAME of shared ones. Empty: the one of params_file, or '
        '`default`.',
    ),
    DeclareLaunchArgument(
        'deploy_to',
        default_value='',
        description='Depth node that gets accepted weights, such as /depth_node. Empty: the one '
        'of params_file, or none.',
    ),
    DeclareLaunchArgument(
        'device',
        default_value='',
        description='Where to train: auto, cpu, cuda, cuda:1 ... Empty: as in params_file.',
    ),
    DeclareLaunchArgument(
        'auto_start',
        default_value='true',
        choices=BOOLEAN,
        description='Start at once. false: call the service ~/start.',
    ),
    DeclareLaunchArgument(
        'params_file',
        default_value=os.path.join(SHARE, 'config', 'finetune_node.yaml'),
        description='YAML file with the parameters of the node.',
    ),
    DeclareLaunchArgument(
        'namespace',
        default_value='',
        description='Namespace of the node.',
    ),
    DeclareLaunchArgument(
        'log_level',
        default_value='info',
        choices=('debug', 'info', 'warn', 'error', 'fatal'),
        description='How much the node logs.',
    ),
]
OVERRIDES = (
    'output',
    'image_topic',
    'camera_info_topic',
    'recipe',
    'teacher',
    'student',
    'checkpoint',
    'deploy_to',
    'device',
)


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])


def start(context):
    """Make the actions, now that every argument has its value."""
    value = context.launch_configurations
    settings = {name: value[name] for name in OVERRIDES if value[name]}
    bags = [bag.strip() for bag in value['bags'].split(',') if bag.strip()]
    settings |= {'bags': bags} if bags else {}
    return [
        Node(
            package='psd_depth_ros',
            executable='finetune_node',
            name='finetune_node',
            namespace=value['namespace'],
            parameters=[
                value['params_file'],
                {**settings, 'auto_start': value['auto_start'] == 'true'},
            ],
            arguments=['--ros-args', '--log-level', value['log_level']],
            output='screen',
        )
    ]
