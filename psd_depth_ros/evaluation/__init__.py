"""How good depth is: the only copy of each metric, benchmarks to measure on, and the report."""

from psd_depth_ros.evaluation.metrics import average, DepthMetrics, measure, median_scale

__all__ = ['DepthMetrics', 'average', 'measure', 'median_scale']
