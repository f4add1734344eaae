"""Inference: the engine, the libraries it can run on, metric scale and point clouds."""

from psd_depth_ros.inference.engine import DepthEngine, DepthFrame, Scale, settle_scale

__all__ = ['DepthEngine', 'DepthFrame', 'Scale', 'settle_scale']
