"""PSD depth for ROS 2: metric depth and point clouds from one camera.

This file only carries the version. Import the subpackages by name, for instance
`from psd_depth_ros.inference import DepthEngine`.
"""

__version__ = '0.1.0'
