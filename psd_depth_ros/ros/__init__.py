"""Nodes: the edge where rclpy, message types, exit codes and log output live.

Nothing here computes: callbacks turn messages into arrays and hand them to the subpackages below.
Nothing is imported here, so `ros.depth_node.settings` can be read where no ROS is installed.
"""
