"""One build for both worlds: `pip install .` and `colcon build`.

Besides the Python package it installs what ROS looks for in a prefix: the marker of the ament
index, package.xml, launch files, settings, weights (share/) and the executables of `ros2 run`
(lib/). The nodes are on PATH as well, for machines without ROS. An editable install (`pip install
-e`) installs no share/ and no lib/.
"""

from glob import glob
from pathlib import Path
import re

from setuptools import find_packages, setup

NAME = 'psd_depth_ros'
HERE = Path(__file__).resolve().parent  # `colcon build --symlink-install` links to this file
VERSION = re.search(
    r"__version__ = '([^']+)'", (HERE / NAME / '__init__.py').read_text(encoding='utf-8')
).group(1)


def ros_wheels(rclpy, ament_index, messages):
    """Wheels of a ROS 2 client library and its messages, for machines without a distribution.

    Never in install_requires: a colcon build finds these in the distribution.
    """
    names = (
        'sensor-msgs',
        'geometry-msgs',
        'nav-msgs',
        'std-msgs',
        'diagnostic-msgs',
        'visualization-msgs',
        'std-srvs',
    )
    return [
        f'ros-rclpy[fastrtps]=={rclpy}',
        f'ros-ament-index-python=={ament_index}',
        *(f'ros-{name}=={messages}' for name in names),
        'transforms3d>=0.4.2',  # in a distribution it comes with tf_transformations
    ]


TENSORBOARD = ['tensorboard>=2.14', 'pillow']  # torch writes its pictures with Pillow
EXTRAS = {
    'ros': ros_wheels('7.1.6', '1.8.1', '5.3.6'),  # Jazzy
    'ros-kilted': ros_wheels('9.1.2', '1.11.0', '5.5.1'),
    'openvino': ['openvino>=2025.0'],
    'numba': ['numba>=0.61'],
    'nncf': ['openvino>=2025.0', 'nncf>=3.4'],
    'onnxruntime': ['onnxruntime>=1.22', 'onnx>=1.18', 'onnxscript>=0.6.2'],
    'rerun': ['rerun-sdk>=0.24'],
    'tensorboard': TENSORBOARD,
    'transformers': ['transformers>=4.49', 'huggingface_hub'],
    'test': [
        'pytest',
        'pytest-timeout',
        'pytest-xdist',
        *TENSORBOARD,
        'cyclonedds; python_version < "3.14"',  # another middleware than that of the wheels
    ],
    'lint': ['ruff', 'mypy', 'types-PyYAML', 'codespell'],
    'docs': [
        'mkdocs>=1.6',
        'mkdocs-material>=9.5',
        'mkdocstrings-python>=2',
        'latex2mathml>=3.77',
    ],
}
EXTRAS['all'] = sorted(
    {one for name, group in EXTRAS.items() if name != 'ros-kilted' for one in group}
)


# Nodes that a person starts, on PATH under their own names: bin/ beside what `ros2 run` finds in
# lib/psd_depth_ros. recorder and wait_until_active are too general names for PATH.
NODES = {
    'depth_node': 'depth_node.node',
    'finetune_node': 'finetune_node',
    'replay_node': 'replay_node',
    'rerun_viewer': 'rerun_viewer',
}


def files(pattern):
    return sorted(path for path in glob(pattern) if Path(path).is_file())


setup(
    name=NAME,
    version=VERSION,
    description='Metric depth and point clouds from one camera, as a ROS 2 node.',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The psd_depth_ros maintainers',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=[NAME, f'{NAME}.*']),
    package_data={NAME: ['py.typed']},
    zip_safe=False,
    install_requires=[
        'numpy>=1.26.4',
        'opencv-python-headless>=4.6',
        'PyYAML>=6.0',
        'accelerate>=1.0',
        'rich>=13',
        'rosbags>=0.11',
        'safetensors>=0.4.3',
        'torch>=2.9',
    ],
    extras_require=EXTRAS,
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        (f'share/{NAME}/launch', files('launch/*.launch.py')),
        (f'share/{NAME}/config', files('config/*')),
        (f'share/{NAME}/config/recipes', files('config/recipes/*')),
        (f'share/{NAME}/weights', files('weights/*')),
        (f'lib/{NAME}', files('scripts/*')),
    ],
    entry_points={
        'console_scripts': [
            'psd-depth = psd_depth_ros.cli.main:main',
            *(f'{node} = {NAME}.ros.{module}:main' for node, module in NODES.items()),
        ]
    },
)
