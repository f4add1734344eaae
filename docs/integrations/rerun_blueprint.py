"""A recording of depth as one file for Rerun, its views laid out: cloud, depth and confidence.

    psd-depth run drive_bag --output depth.mcap
    python docs/integrations/rerun_blueprint.py depth.mcap depth.rrd
    rerun depth.rrd

Needs rerun-sdk. A live node is shown by `viewer:=rerun` of depth.launch.py.
"""

import sys

import rerun
import rerun.blueprint as views


def blueprint() -> views.Blueprint:
    """Views of the topics of a recording; the one of the cloud is in its frame."""
    pictures = views.Vertical(
        views.Spatial2DView(origin='/depth/image_rect', name='depth'),
        views.Spatial2DView(origin='/depth/confidence', name='confidence'),
    )
    cloud = views.Spatial3DView(origin='/points', contents=['/points'], name='cloud')
    return views.Blueprint(views.Horizontal(cloud, pictures, column_shares=[3, 2]))


def main(recording: str, output: str) -> None:
    """Write the messages of an .mcap file and the blueprint to an .rrd file."""
    rerun.init('psd_depth_ros')
    rerun.save(output, default_blueprint=blueprint())
    rerun.log_file_from_path(recording)


if __name__ == '__main__':
    if len(sys.argv) != 3:
        sys.exit(f'usage: {sys.argv[0]} RECORDING.mcap OUTPUT.rrd')
    main(*sys.argv[1:])
