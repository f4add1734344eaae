"""Inference: the engine, the libraries it can run on, metric scale and point clouds."""

from psd_depth_ros.inference.engine import apply_measured_scale, DepthEngine, DepthFrame, Scale

__all__ = ['DepthEngine', 'DepthFrame', 'Scale', 'apply_measured_scale']
