import argparse

import cv2
import numpy as np
from pack_clouds import pack_cloud, pack_rgb
import pytest

from psd_depth_ros.cli import demo
from psd_depth_ros.cli.demo_recording import (
    CONFIDENCE,
    count_messages,
    DEPTH,
    POINTS,
    read_drops,
    read_preview,
    read_status,
    REPLAY_STATUS,
)
from psd_depth_ros.cli.main import main
from psd_depth_ros.cli.preview import (
    choose_extent,
    depth_colours,
    draw_preview,
    PreviewFrame,
    ROOM,
    STREET,
)
from psd_depth_ros.data.bags import BagReader, BagWriter
from psd_depth_ros.data.calibration_file import ASSUMED_FOV_DEG
from psd_depth_ros.errors import BagError, CalibrationError
from psd_depth_ros.evaluation.recording import compare_depth, time_depth
from psd_depth_ros.geometry import Camera
from psd_depth_ros.messages import (
    camera_info_fields,
    compressed_fields,
    header_fields,
    image_fields,
)
from psd_depth_ros.visualisation import MARGIN, PANEL, SKY

IMAGE_TYPE = 'sensor_msgs/msg/Image'
IMAGE, TRUTH = '/camera/image', '/truth'
MS = 1_000_000


@pytest.fixture
def recording(tmp_path):
    """Five images 100 ms apart; depth of the middle three 20, 30 and 40 ms later, 10 % too far."""
    path = tmp_path / 'depth.mcap'
    rgb, depth = np.full((4, 6, 3), 9, np.uint8), np.full((4, 6), 5.5, np.float32)
    with BagWriter(path) as writer:
        for index in range(5):
            stamp = index * 100 * MS + 1
            header = {'header': header_fields(stamp, 'lens')}
            arrival = 10**9 + stamp
            writer.write(IMAGE, IMAGE_TYPE, header | image_fields(rgb, 'rgb8'), arrival)
            if index in (1, 2, 3):
                arrival += (index + 1) * 10 * MS
                writer.write(DEPTH, IMAGE_TYPE, header | image_fields(depth, '32FC1'), arrival)
    return path


@pytest.fixture
def truth(tmp_path):
    path = tmp_path / 'truth.mcap'
    with BagWriter(path) as writer:
        for index in range(5):
            depth = np.full((4, 6), 5.0, np.float32)
            fields = image_fields(depth, '32FC1')
            writer.write(TRUTH, IMAGE_TYPE, fields, index * 100 * MS + 1, 'lens')
    return path


def test_times_are_differences_of_arrival(recording):
    timing = time_depth(recording, IMAGE, DEPTH)
    assert timing.frames == 3
    assert timing.latency_ms_p50 == pytest.approx(30.0)
    assert timing.latency_ms_p95 == pytest.approx(39.0)
    assert timing.fps == pytest.approx(2 / 0.22)


def test_a_recorder_that_saw_depth_before_its_image_tells_no_latency(recording, tmp_path):
    late = tmp_path / 'late.mcap'
    with BagReader(recording) as bag, BagWriter(late) as writer:
        for item in bag.messages():
            behind = 50 * MS if item.topic == IMAGE else 0
            writer.write_raw(item.topic, item.msgtype, item.cdr, item.timestamp_ns + behind)
    timing = time_depth(late, IMAGE, DEPTH)
    assert (timing.frames, timing.latency_ms_p50, timing.latency_ms_p95) == (3, None, None)
    assert timing.fps == pytest.approx(2 / 0.22)


def test_without_depth_there_are_no_times(recording):
    timing = time_depth(recording, IMAGE, '/other')
    assert timing == type(timing)(0, None, None, None)


def test_errors_against_the_truth_of_the_same_stamp(recording, truth):
    scaled, unscaled = compare_depth(recording, DEPTH, truth, TRUTH)
    assert scaled.abs_rel == pytest.approx(0.0, abs=1e-6)
    assert unscaled.abs_rel == pytest.approx(0.1, abs=1e-6)


def test_truth_of_another_recording_is_refused(recording, tmp_path):
    other = tmp_path / 'other.mcap'
    with BagWriter(other) as writer:
        fields = image_fields(np.ones((4, 6), np.float32), '32FC1')
        writer.write(TRUTH, IMAGE_TYPE, fields, 77, 'lens')
    with pytest.raises(BagError, match='same stamp'):
        compare_depth(recording, DEPTH, other, TRUTH)


@pytest.mark.parametrize('name', ['file', 'file/below', 'taken'])
def test_an_output_that_cannot_be_made_is_said(tmp_path, capsys, name):
    pytest.importorskip('rclpy')
    (tmp_path / 'file').write_text('')
    (tmp_path / 'taken' / 'depth.mcap').mkdir(parents=True)
    assert main(['demo', '--output', str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert f'--output {tmp_path / name}: the folder cannot be made or written to' in said
    assert 'Traceback' not in said


def test_reasons_add_up_to_what_is_missing():
    said = {'dropped.newer_frame': '3', 'dropped.failed': '0', 'received': '9'}
    assert read_drops(said, 10, 6) == {'newer_frame': 3, 'not_received': 1}
    assert read_drops(said, 9, 6) == {'newer_frame': 3}
    assert read_drops(said, 10, 4) == {'newer_frame': 3, 'not_received': 1, 'not_recorded': 2}
    assert read_drops({'received': '4'}, 4, 4) == {}
    unheard = {'received': '4', 'dropped': '1', 'dropped.failed': '1', 'unwanted': '2'}
    assert read_drops(unheard, 4, 1) == {'failed': 1, 'nobody_listened': 2}


def test_the_last_status_of_the_player_tells_how_many_images_there_were(tmp_path):
    path = tmp_path / 'depth.mcap'
    with BagWriter(path) as writer:
        for images in (0, 3, 8):
            pairs = [{'key': 'state', 'value': 'playing'}, {'key': 'images', 'value': str(images)}]
            status = {'name': 'replay_node: replay', 'values': pairs}
            fields = {'status': [status]}
            writer.write(REPLAY_STATUS, 'diagnostic_msgs/msg/DiagnosticArray', fields, images + 1)
    assert read_status(path, REPLAY_STATUS)['images'] == '8'
    assert read_status(path) == {}


def test_count_of_messages_in_the_first_seconds(recording):
    assert count_messages(recording, IMAGE) == 5
    assert count_messages(recording, IMAGE, duration_s=0.25) == 3
    assert count_messages(recording, '/other') == 0


def test_the_frame_in_the_middle_is_drawn_with_its_truth(recording, truth):
    frame = read_preview(recording, IMAGE, truth, TRUTH)
    assert frame.depth[0, 0] == np.float32(5.5)
    assert frame.truth is not None
    assert frame.truth[0, 0] == 5.0
    assert frame.confidence is None
    assert frame.points.shape == (0, 3)


def test_frames_that_were_dropped_do_not_move_the_middle(tmp_path):
    path = tmp_path / 'depth.mcap'
    with BagWriter(path) as writer:
        for index in range(10):
            header = {'header': header_fields(index * 100 * MS + 1, 'lens')}
            rgb, depth = np.zeros((4, 6, 3), np.uint8), np.full((4, 6), index + 1.0, np.float32)
            writer.write(IMAGE, IMAGE_TYPE, header | image_fields(rgb, 'rgb8'), index + 1)
            if index in (0, 1, 2, 5, 9):
                writer.write(DEPTH, IMAGE_TYPE, header | image_fields(depth, '32FC1'), index + 1)
    assert read_preview(path, IMAGE, None, '').depth[0, 0] == 6.0


def test_a_recording_without_depth_cannot_be_drawn(truth):
    with pytest.raises(BagError, match='no depth image'):
        read_preview(truth, TRUTH, None, '')


def test_invalid_depth_has_colours_of_its_own():
    picture = depth_colours(np.array([[np.nan, np.inf, 2.0, 80.0]], np.float32))
    assert tuple(picture[0, 0]) == PANEL
    assert tuple(picture[0, 1]) == SKY
    near, far = picture[0, 2].astype(int), picture[0, 3].astype(int)
    assert near[0] > near[2], 'near is red'
    assert far[2] > far[1], 'far is blue'


def test_the_street_of_the_demo_has_colour_and_a_car_near_on_either_side():
    street = demo.make_street()
    camera, (columns, rows) = street.camera, np.meshgrid(np.arange(640), np.arange(384))
    for index in (23, 24, 25):  # the middle of 50 frames, in which one or the other is drawn
        frame = street.render(index)
        rgb, depth = frame.rgb.numpy().astype(int), frame.depth_m.numpy()
        assert (rgb.max(axis=2) - rgb.min(axis=2)).mean() > 20
        height_m = frame.T_world_camera[2, 3] - (rows - camera.cy) / camera.fy * depth
        side_m = (columns - camera.cx) / camera.fx * depth
        near = (depth < 12) & (np.abs(side_m) < 4.5) & (height_m > 0.3) & (height_m < 1.8)
        for half in (near[:, :320], near[:, 320:]):
            assert 0.02 < half.mean() < 0.15, 'seen, and not in the way'


def test_a_room_has_colours_and_a_cloud_of_its_own_extent():
    near = np.full((4, 6), 2.0, np.float32)
    assert choose_extent(near) is ROOM
    assert choose_extent(np.full((4, 6), 12.0, np.float32)) is STREET
    with_sky = near.copy()
    with_sky[0, 0] = np.inf
    assert choose_extent(with_sky) is STREET
    assert choose_extent(np.full((4, 6), np.nan, np.float32)) is STREET
    picture = depth_colours(np.array([[0.5, 9.0]], np.float32), ROOM).astype(int)
    assert picture[0, 0, 0] > picture[0, 0, 2]
    assert picture[0, 1, 2] > picture[0, 1, 1]


@pytest.mark.parametrize('known', [True, False])
def test_preview_has_five_panels_with_and_without_truth(known):
    depth = np.full((48, 80), 10.0, np.float32)
    points = np.array([[0.0, 1.0, 10.0]], np.float32)
    frame = PreviewFrame(
        rgb=np.full((48, 80, 3), 200, np.uint8),
        depth=depth,
        confidence=np.ones_like(depth) if known else None,
        truth=depth if known else None,
        points=points,
        colours=np.array([[255, 0, 0]], np.uint8),
    )
    picture = draw_preview(frame, 'title', 'facts')
    assert picture.dtype == np.uint8
    assert picture.shape[1] > 1600
    cloud = picture[:, -picture.shape[1] // 3 :]
    assert (cloud == (255, 0, 0)).all(axis=2).any(), 'the red point is in the cloud from above'


def test_without_a_truth_no_panel_is_empty():
    rows, columns = np.mgrid[:96, :160]
    depth = np.where(rows > 48, 60.0 / np.maximum(rows - 48, 1), np.inf).astype(np.float32)
    rgb = np.stack([40 + rows, 40 + columns, 90 + 0 * rows], axis=2).astype(np.uint8)
    points = np.array([[0.0, 1.0, 10.0]], np.float32)
    frame = PreviewFrame(rgb, depth, depth / 100, None, points, np.full((1, 3), 255, np.uint8))
    picture = draw_preview(frame, 'title', 'facts')
    panel = picture[-384 - MARGIN : -MARGIN, 640 + 2 * MARGIN :][:, :640]
    assert not (panel == PANEL).all(axis=2).any()
    # At 5 m of this road y - 48 is 12, at 10 m 6 and at 20 m 3, in a picture four times as large.
    lines = depth_colours(np.array([[5.0, 10.0, 20.0]], np.float32))[0]
    for colour, row in zip(lines, (60, 54, 51), strict=True):
        found = np.nonzero((panel == colour).all(axis=2))[0]
        assert abs(np.median(found) - 4 * row) < 4


def options(**given):
    parser = argparse.ArgumentParser()
    demo.add_parser(parser.add_subparsers())
    arguments = [part for name, value in given.items() for part in (f'--{name}', str(value))]
    return parser.parse_args(['demo', *arguments])


def test_a_compressed_camera_is_played_under_our_names(tmp_path):
    path = tmp_path / 'drive.mcap'
    camera = Camera.from_K([[50, 0, 16], [0, 50, 12], [0, 0, 1]], 32, 24)
    with BagWriter(path) as writer:
        info = camera_info_fields(camera)
        writer.write('/front/camera_info', 'sensor_msgs/msg/CameraInfo', info, 1, 'lens')
        fields = compressed_fields(np.zeros((24, 32, 3), np.uint8))
        writer.write('/front/image/compressed', 'sensor_msgs/msg/CompressedImage', fields, 1, 'l')
    drive = demo._take(options(bag=path))
    assert drive.image_topic == '/camera/image/compressed'
    assert (drive.frames_in, drive.size, drive.truth_topic) == (1, (32, 24), '')
    assert drive.told['topics'] == ['/front/image/compressed', '/front/camera_info']


def test_a_video_of_an_unknown_lens_is_played_with_an_assumption_that_is_said(tmp_path, capsys):
    cv2.imwrite(str(tmp_path / '0.png'), np.zeros((24, 32, 3), np.uint8))
    drive = demo._take(options(video=tmp_path))
    assert drive.told['horizontal_fov_deg'] == ASSUMED_FOV_DEG
    assert '60 degrees is assumed' in capsys.readouterr().out
    known = demo._take(options(video=tmp_path, fov=80))
    assert known.told['horizontal_fov_deg'] == 80.0


def test_a_wrong_calibration_is_not_replaced_by_an_assumption(tmp_path):
    cv2.imwrite(str(tmp_path / '0.png'), np.zeros((24, 32, 3), np.uint8))
    calibration = tmp_path / 'lens.yaml'
    calibration.write_text('fx: 10\nfy: 10\ncx: 5\ncy: 5\nwidth: 99\nheight: 99\n')
    with pytest.raises(CalibrationError, match='99'):
        demo._take(options(video=tmp_path, camera=calibration))


def test_parameters_reach_ros_as_what_they_are():
    told = demo._parameters({'checkpoint': '', 'rate': 2.0, 'topics': ['/a', '/b'], 'loop': False})
    assert told == ['-p', 'checkpoint:=""', '-p', 'rate:=2.0', '-p', 'topics:=["/a", "/b"]',
                    '-p', 'loop:=false']  # fmt: skip


def test_points_of_the_cloud_come_with_their_colours(tmp_path):
    path = tmp_path / 'cloud.mcap'
    with BagWriter(path) as writer:
        for topic, fields in (
            (IMAGE, image_fields(np.zeros((4, 6, 3), np.uint8), 'rgb8')),
            (DEPTH, image_fields(np.ones((4, 6), np.float32), '32FC1')),
            (CONFIDENCE, image_fields(np.ones((4, 6), np.float32), '32FC1')),
        ):
            writer.write(topic, IMAGE_TYPE, fields, 5, 'lens')
        xyz = {
            name: np.array([value], np.float32)
            for name, value in zip('xyz', (1, 2, 3), strict=True)
        }
        cloud = pack_cloud(xyz | {'rgb': pack_rgb(np.array([[10, 20, 30]], np.uint8))})
        writer.write(POINTS, 'sensor_msgs/msg/PointCloud2', cloud, 5, 'lens')
    frame = read_preview(path, IMAGE, None, '')
    assert frame.points.tolist() == [[1.0, 2.0, 3.0]]
    assert frame.colours.tolist() == [[10, 20, 30]]
    assert frame.confidence is not None
