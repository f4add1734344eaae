"""Networks that teach, and are not trained."""

from psd_depth_ros.teachers.folder import MapFolder
from psd_depth_ros.teachers.frozen import (
    DepthTeacher,
    open_depth_teacher,
    open_semantic_expert,
    SemanticExpert,
)
from psd_depth_ros.teachers.teachers import EMA, INITIAL, TEACHER, Teachers, update_average

__all__ = [
    'EMA',
    'INITIAL',
    'TEACHER',
    'DepthTeacher',
    'MapFolder',
    'SemanticExpert',
    'Teachers',
    'open_depth_teacher',
    'open_semantic_expert',
    'update_average',
]
