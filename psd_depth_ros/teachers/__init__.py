"""Networks that teach, and are not trained."""

from psd_depth_ros.teachers.teachers import EMA, INITIAL, TEACHER, Teachers, update_average

__all__ = ['EMA', 'INITIAL', 'TEACHER', 'Teachers', 'update_average']
