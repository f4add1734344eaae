"""Networks that teach, and are not trained."""

from psd_depth_ros.teachers.teachers import EMA, INITIAL, Teachers

__all__ = ['EMA', 'INITIAL', 'Teachers']
