"""How good a depth image is: the only copy of each metric."""

from psd_depth_ros.evaluation.metrics import average, DepthMetrics, measure, median_scale

__all__ = ['DepthMetrics', 'average', 'measure', 'median_scale']
