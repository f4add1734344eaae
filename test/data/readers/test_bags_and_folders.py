"""Frames of bags, videos and folders: the same faces, stamps, cameras and failures."""

from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
from pack_clouds import pack_cloud
import pytest

from psd_depth_ros.data.bags import BagWriter
from psd_depth_ros.data.frames import LensChoice, SourceOptions
from psd_depth_ros.data.open import kind_of, open_frames, open_with_depth
from psd_depth_ros.data.settings import DataSettings
from psd_depth_ros.data.triplets.prepare import prepare_sequences
from psd_depth_ros.errors import BagError, CalibrationError, MessageError, SettingsError
from psd_depth_ros.geometry import Camera
from psd_depth_ros.geometry.pose import make_pose
from psd_depth_ros.messages import (
    camera_info_fields,
    compressed_fields,
    header_fields,
    image_fields,
    odometry_fields,
)
from psd_depth_ros.replay.player import find_camera
from psd_depth_ros.replay.recordings import open_recording

CAMERA = Camera(16, 12, 20, 20, 7.5, 5.5)
YAML = 'fx: 20\nfy: 20\ncx: 7.5\ncy: 5.5\nwidth: 16\nheight: 12\n'
STEP_NS = 100_000_000


def make_rgb(index):
    return np.full((12, 16, 3), 10 * (index % 25), np.uint8)


def write_image(writer, index, fields=None):
    fields = image_fields(make_rgb(index), 'rgb8') if fields is None else fields
    compressed = 'format' in fields
    msgtype = f'sensor_msgs/msg/{"CompressedImage" if compressed else "Image"}'
    writer.write('/cam/image', msgtype, fields, index * STEP_NS, 'optical')


def write_info(writer, index, camera=CAMERA):
    fields = camera_info_fields(camera) if isinstance(camera, Camera) else camera
    writer.write(
        '/cam/camera_info', 'sensor_msgs/msg/CameraInfo', fields, index * STEP_NS, 'optical'
    )


@pytest.fixture
def bag(tmp_path):
    return BagWriter(tmp_path / 'drive.mcap')


def read(path, **options):
    with open_frames(path, **options) as source:
        return list(source.frames()), source


def test_bag_frames_carry_stamp_frame_and_camera(bag):
    with bag:
        for index in range(3):
            write_image(bag, index)
            write_info(bag, index)
    frames, source = read(bag.path)
    assert source.count == 3
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert [frame.stamp_ns for frame in frames] == [0, STEP_NS, 2 * STEP_NS]
    assert all(frame.frame_id == 'optical' and frame.camera == CAMERA for frame in frames)
    assert np.array_equal(frames[2].rgb, make_rgb(2))
    assert frames[0].pose is None
    assert not source.skipped


def test_some_of_the_frames_of_a_bag(bag):
    with bag:
        for index in range(6):
            write_image(bag, index)
            write_info(bag, index)
    with open_frames(bag.path) as source:
        source.select(slice(1, 5, 2))
        assert [frame.index for frame in source.frames()] == [1, 3]
        assert len(source.selected) == 2
        source.select(slice(7, None))
        assert not source.selected


def test_a_bag_that_counts_too_few_images_gives_them_all(bag, monkeypatch):
    with bag:
        for index in range(3):
            write_image(bag, index)
            write_info(bag, index)
    with open_frames(bag.path) as source:
        monkeypatch.setattr(source, '_count', 1)
        assert [frame.index for frame in source.frames()] == [0, 1, 2]


def test_a_zoom_goes_with_the_image_of_its_stamp(bag):
    wide, near = CAMERA, replace(CAMERA, fx=40.0, fy=40.0)
    with bag:
        write_image(bag, 0)
        write_info(bag, 0, wide)
        write_info(bag, 1, near)
        write_image(bag, 1)
        write_image(bag, 2)
    frames, _ = read(bag.path)
    assert [frame.camera.fx for frame in frames] == [20, 40, 40]


def test_a_camera_info_that_comes_late_serves_the_images_before_it(bag):
    with bag:
        for index in range(5):
            write_image(bag, index)
        write_info(bag, 4)
    frames, _ = read(bag.path)
    assert len(frames) == 5


def test_one_camera_info_after_many_images_serves_them_all(bag):
    with bag:
        for index in range(230):
            write_image(bag, index)
        write_info(bag, 500)
    with open_frames(bag.path) as source:
        frames = source.frames()
        assert next(frames).camera == CAMERA
        assert sum(1 for _ in frames) == 229


def test_camera_infos_that_cannot_be_read_are_counted(bag):
    noise = b'\x00\x01\x00\x00' + b'\xff' * 30
    with bag:
        for index in range(3):
            write_image(bag, index)
            bag.write_raw('/cam/camera_info', 'sensor_msgs/msg/CameraInfo', noise, index)
    expected = r'none of the 3 CameraInfo can be read on /cam/camera_info .*--camera .*--fov'
    with pytest.raises(BagError, match=expected):
        read(bag.path)
    with BagWriter(bag.path) as bag:
        for index in range(3):
            write_image(bag, index)
            write_info(bag, index)
            bag.write_raw('/cam/camera_info', 'sensor_msgs/msg/CameraInfo', noise, index)
    frames, source = read(bag.path)
    assert len(frames) == 3
    assert source.notes[0].startswith('3 messages on /cam/camera_info could not be read')


def test_images_without_stamps_take_those_of_recording_when_told_to(bag):
    with bag:
        for index in range(3):
            header = {'header': header_fields(0, 'optical')}
            fields = {**header, **image_fields(make_rgb(index), 'rgb8')}
            bag.write('/cam/image', 'sensor_msgs/msg/Image', fields, 7 + index * STEP_NS)
            info = {**header, **camera_info_fields(replace(CAMERA, fx=20.0 + index))}
            bag.write('/cam/camera_info', 'sensor_msgs/msg/CameraInfo', info, 7 + index * STEP_NS)
    expected = r'no stamps: header\.stamp of the first 3 is 0, .*--stamps recorded'
    with pytest.raises(BagError, match=expected):
        read(bag.path)
    frames, _ = read(bag.path, stamps='recorded')
    assert [frame.stamp_ns for frame in frames] == [7, 7 + STEP_NS, 7 + 2 * STEP_NS]
    assert [frame.camera.fx for frame in frames] == [20, 21, 22]


def test_images_that_all_have_one_stamp_have_none(bag):
    with bag:
        for index in range(12):
            header = {'header': header_fields(1_500_000_000, 'optical')}
            fields = {**header, **image_fields(make_rgb(index), 'rgb8')}
            bag.write('/cam/image', 'sensor_msgs/msg/Image', fields, index * STEP_NS)
            write_info(bag, index)
    with pytest.raises(BagError, match=r'header\.stamp of the first 10 is 1\.5, .*--stamps rec'):
        read(bag.path)
    frames, _ = read(bag.path, stamps='recorded')
    assert [frame.stamp_ns for frame in frames] == [index * STEP_NS for index in range(12)]


def test_a_simulation_whose_clock_starts_late(bag):
    with bag:
        write_info(bag, 0)
        for index in (0, 0, 0, 1, 2):
            write_image(bag, index)
    assert [frame.stamp_ns for frame in read(bag.path)[0]] == [0, 0, 0, STEP_NS, 2 * STEP_NS]


def test_the_camera_of_the_caller_goes_first(bag):
    with bag:
        write_image(bag, 0)
    with pytest.raises(BagError, match='no CameraInfo topic'):
        read(bag.path)
    mine = replace(CAMERA, fx=99.0)
    assert read(bag.path, camera=mine)[0][0].camera == mine
    assert read(bag.path, horizontal_fov_deg=90)[0][0].camera.fx == pytest.approx(8)


def test_a_size_that_differs_shows_both(bag):
    with bag:
        write_image(bag, 0)
        write_info(bag, 0, Camera(32, 24, 20, 20, 15, 11))
    with pytest.raises(CalibrationError, match=r'32x24 .* image is 16x12'):
        read(bag.path)


def test_an_uncalibrated_bag_says_so(bag):
    with bag:
        write_image(bag, 0)
        write_info(bag, 0, camera_info_fields(CAMERA) | {'k': np.zeros(9)})
    with pytest.raises(CalibrationError, match='uncalibrated'):
        read(bag.path)


def test_a_damaged_jpeg_in_mid_stream_is_skipped_and_counted(bag):
    with bag:
        for index in range(5):
            fields = compressed_fields(make_rgb(index))
            if index == 2:
                fields['data'] = fields['data'][:40]
            write_image(bag, index, fields)
            write_info(bag, index)
    frames, source = read(bag.path)
    assert [frame.index for frame in frames] == [0, 1, 3, 4]
    assert source.skipped_by_reason == {'image': 1}
    assert (source.skipped[0].index, source.skipped[0].stamp_ns) == (2, 2 * STEP_NS)
    assert 'damaged' in source.skipped[0].detail


def test_an_image_of_another_size_than_its_camera_is_not_decoded(bag, monkeypatch):
    with bag:
        write_info(bag, 0)
        write_image(bag, 0, compressed_fields(make_rgb(0)))
        write_image(bag, 1, compressed_fields(np.zeros((2000, 3000, 3), np.uint8)))
        write_image(bag, 2, compressed_fields(make_rgb(2)))
    sizes = []
    real = cv2.imdecode

    def watched(*arguments):
        image = real(*arguments)
        sizes.append(image.shape)
        return image

    monkeypatch.setattr(cv2, 'imdecode', watched)
    frames, source = read(bag.path)
    assert [frame.index for frame in frames] == [0, 2]
    assert 'CameraInfo is for 16x12' in source.skipped[0].detail
    assert 'image is 3000x2000' in source.skipped[0].detail
    assert set(sizes) == {(12, 16, 3)}


def write_deep(bag, count=12):
    """Write mono16 of a camera of 12 bits: half of its range on the left, all on the right."""
    with bag:
        for index in range(count):
            values = np.zeros((12, 16), np.uint16)
            values[:, :8], values[:, 8:] = 819, 4095
            write_image(bag, index, image_fields(values, 'mono16'))
            write_info(bag, index)
    return bag.path


def test_a_bag_of_12_bits_says_so_and_is_read_by_its_range(bag):
    path = write_deep(bag)
    frames, source = read(path)
    assert frames[0].rgb[0, [0, 15], 0].tolist() == [3, 16]  # of 255: nearly black
    assert len(source.notes) == 1
    assert 'use 819..4095 only' in source.notes[0]
    assert 'set sixteen_bit_range to 12bit or percentile' in source.notes[0]
    frames, source = read(path, sixteen_bit_range='12bit')
    assert frames[0].rgb[0, [0, 15], 0].tolist() == [51, 255]
    assert source.notes == []
    with pytest.raises(SettingsError, match="sixteen_bit_range is '12'"):
        read(path, sixteen_bit_range='12')


def test_training_data_of_12_bits_say_so_each_time(bag, tmp_path):
    path = write_deep(bag)
    for _ in range(2):  # decoded, then found again
        options = {'pixel_budget': 1024, 'cache': tmp_path / 'cache'}
        settings = DataSettings(paths=(str(path),))
        notes = prepare_sequences(settings, **options).notes
        assert [note for note in notes if 'set sixteen_bit_range to 12bit' in note]
    deep = replace(settings, sixteen_bit_range='12bit')
    found = prepare_sequences(deep, **options)
    assert not [note for note in found.notes if 'sixteen_bit_range' in note]
    assert found.sequences[0].rgb.max() == 255
    with pytest.raises(SettingsError, match=r'data.sixteen_bit_range is'):
        replace(settings, sixteen_bit_range='deep')


@pytest.mark.parametrize('suffix', ['.png', '.tif'])
def test_files_of_16_bits_are_read_by_their_range(tmp_path, suffix):
    values = np.full((12, 16), 4095, np.uint16)
    values[:, :8] = 819
    for index in range(3):
        assert cv2.imwrite(str(tmp_path / f'{index}{suffix}'), values)
    (tmp_path / 'camera.yaml').write_text(YAML)
    frames, source = read(tmp_path)
    assert 'set sixteen_bit_range to 12bit' in source.notes[0]
    frames, source = read(tmp_path, sixteen_bit_range='12bit')
    assert frames[0].rgb[0, [0, 15]].tolist() == [[51] * 3, [255] * 3]
    assert source.notes == []


def test_a_file_cut_in_the_middle_is_skipped(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    for index in range(3):
        cv2.imwrite(str(tmp_path / f'{index}.jpg'), cv2.resize(noise, (160, 120)))
    (tmp_path / 'camera.yaml').write_text(YAML.replace('16', '160').replace('12', '120'))
    data = (tmp_path / '1.jpg').read_bytes()
    (tmp_path / '1.jpg').write_bytes(data[: len(data) // 2] + data[-2:])
    frames, source = read(tmp_path)
    assert [frame.index for frame in frames] == [0, 2]
    assert '1.jpg is damaged: its pixels end before' in source.skipped[0].detail


def test_a_message_of_noise_is_skipped_and_counted(bag):
    with bag:
        for index in range(3):
            write_info(bag, index)
            write_image(bag, index)
        noise = b'\x00\x01\x00\x00' + b'\xff' * 30
        bag.write_raw('/cam/image', 'sensor_msgs/msg/Image', noise, 3 * STEP_NS)
    frames, source = read(bag.path)
    assert len(frames) == 3
    assert source.skipped_by_reason == {'image': 1}


def test_a_hopeless_recording_raises_before_its_end(bag):
    with bag:
        for index in range(150):
            write_info(bag, index)
            write_image(bag, index, image_fields(make_rgb(0), 'rgb8') | {'encoding': 'odd'})
    with open_frames(bag.path) as source:
        with pytest.raises(MessageError, match="'odd'"):
            list(source.frames())
        assert len(source.skipped) == 100


def test_odometry_is_interpolated_to_the_image(bag):
    with bag:
        for index in range(3):
            write_info(bag, index)
            write_image(bag, index)
            for half in (0, 1):
                stamp = index * STEP_NS + half * STEP_NS // 2 + STEP_NS // 4
                pose = make_pose(np.eye(3), [stamp / 1e9, 0, 0])
                fields = odometry_fields(pose, 'base_link')
                bag.write('/odom', 'nav_msgs/msg/Odometry', fields, stamp, 'odom')
    frames, _ = read(bag.path)
    assert frames[0].pose is None
    assert frames[1].pose[:3, 3] == pytest.approx([0.1, 0, 0])
    assert frames[2].pose[:3, 3] == pytest.approx([0.2, 0, 0])


def test_lidar_points_nearest_in_time(bag):
    with bag:
        for index in range(4):
            write_info(bag, index)
            write_image(bag, index)
            if index != 2:
                stamp = index * STEP_NS + 20_000_000
                points = pack_cloud({name: np.full(3, index, np.float32) for name in 'xyz'})
                bag.write('/points', 'sensor_msgs/msg/PointCloud2', points, stamp, 'lidar')
    frames, _ = read(bag.path)
    assert frames[0].lidar is None
    frames, _ = read(bag.path, with_lidar=True)
    assert [frame.lidar[0].tolist() for frame in frames] == [[0] * 3, [1] * 3, [1] * 3, [3] * 3]
    with pytest.raises(BagError, match=r'/cam/image of bag .* is sensor_msgs/msg/Image'):
        open_frames(bag.path, with_lidar=True, lidar_topic='/cam/image')


def test_a_bag_without_lidar_says_so(bag):
    with bag:
        write_info(bag, 0)
        write_image(bag, 0)
    with pytest.raises(BagError, match=r'has no point clouds .* its topics are:\s+/cam'):
        open_frames(bag.path, with_lidar=True)


def write_folder(folder, count=3, table=None, yaml=YAML):
    (folder / 'images').mkdir(parents=True)
    for index in range(count):
        cv2.imwrite(str(folder / 'images' / f'{index:03}.png'), make_rgb(index))
    if yaml:
        (folder / 'camera.yaml').write_text(yaml)
    if table:
        (folder / 'frames.csv').write_text(table)
    return folder


def test_folder_in_the_order_of_its_table(tmp_path):
    pose = '1,0,0,5,0,1,0,6,0,0,1,7'
    names = ','.join(f'T{row}{column}' for row in range(3) for column in range(4))
    table = f'frame,file,t_nominal_s,{names}\n0,images/002.png,0.5,{pose}\n'
    frames, source = read(write_folder(tmp_path / 'a', table=table))
    assert source.count == 1
    assert frames[0].stamp_ns == 500_000_000
    assert frames[0].pose[:3, 3].tolist() == [5, 6, 7]
    assert np.array_equal(frames[0].rgb, make_rgb(2))


def test_folder_by_names_at_10_hz(tmp_path):
    frames, _ = read(write_folder(tmp_path / 'a'))
    assert [frame.stamp_ns for frame in frames] == [0, STEP_NS, 2 * STEP_NS]
    inner, _ = read(tmp_path / 'a' / 'images')
    assert [frame.rgb[0, 0, 0] for frame in inner] == [0, 10, 20]


def test_folder_with_a_file_missing_or_damaged(tmp_path):
    folder = write_folder(tmp_path / 'a')
    (folder / 'images' / '001.png').write_bytes(b'no picture')
    frames, source = read(folder)
    assert [frame.index for frame in frames] == [0, 2]
    assert source.skipped_by_reason == {'image': 1}


@pytest.mark.parametrize(
    ('table', 'message'),
    [
        ('frame,name\n0,images/000.png\n', 'no rows with a column named file'),
        ('frame,file,t_nominal_s\n0,images/000.png,soon\n', 'wrong value in line 2'),
        ('frame,file,t_nominal_s\n0,images/000.png,1e12\n', 'line 2: 1e12 s is no time of ROS'),
    ],
)
def test_tables_that_are_wrong(tmp_path, table, message):
    with pytest.raises(BagError, match=rf'frames\.csv .*{message}'):
        read(write_folder(tmp_path / 'a', table=table))


def test_a_folder_of_nothing(tmp_path):
    with pytest.raises(BagError, match='has no images, and 0 sub-folders'):
        read(tmp_path)


def test_no_calibration_asks_for_one(tmp_path):
    with pytest.raises(CalibrationError, match=r'without a calibration .*--camera .*--fov'):
        read(write_folder(tmp_path / 'a', yaml=None))


@pytest.mark.parametrize(
    'names',
    [
        [f'{index}.png' for index in range(1, 25)],
        [f'frame_{index}.png' for index in range(24)],
        [f'cam0-{index:02}_left.png' for index in range(90, 114)],
    ],
)
def test_images_in_the_order_of_their_numbers(tmp_path, names):
    for index, name in enumerate(names):
        cv2.imwrite(str(tmp_path / name), make_rgb(index))
    (tmp_path / '._1.png').write_bytes(b'what macOS leaves beside files')
    frames, _ = read(tmp_path, camera=CAMERA)
    assert [frame.rgb[0, 0, 0] for frame in frames] == [10 * index for index in range(24)]
    assert frames[-1].stamp_ns == 23 * STEP_NS


@pytest.mark.parametrize(
    ('names', 'stamps_ns'),
    [  # EuRoC, TUM RGB-D, seconds whose zeros were cut, microseconds, milliseconds, numbers
        (['1403636579763555584', '1403636579813555456'], [0, 49999872]),
        (['1305031102.175304', '1305031102.211214'], [0, 35910000]),
        (['frame_1305031102.25', 'frame_1305031102.5'], [0, 250_000_000]),
        (['cam_1700000000123456', 'cam_1700000000133456'], [0, 10_000_000]),
        (['1700000000123', '1700000000156'], [0, 33_000_000]),
        (['0000000001', '0000000002'], [0, STEP_NS]),
        (['0000000000001', '0000000000002'], [0, STEP_NS]),
        (['1305031102.1', '2'], [STEP_NS, 0]),
        (['9403636579763555584', '9403636579813555456'], [0, STEP_NS]),  # beyond a ROS stamp
        (['0.25', '0.5'], [0, STEP_NS]),  # seconds of a simulation, whose zeros were cut
        (['9.5', '10.0'], [0, STEP_NS]),
        (['1.9', '1.10'], [0, STEP_NS]),  # images 9 and 10 of clip 1
    ],
)
def test_times_in_the_names_of_images(tmp_path, names, stamps_ns):
    for index, name in enumerate(names):
        cv2.imwrite(str(tmp_path / f'{name}.png'), make_rgb(index))
    frames, _ = read(tmp_path, camera=CAMERA)
    found = {int(frame.rgb[0, 0, 0]) // 10: frame.stamp_ns for frame in frames}
    first = min(found.values())
    assert [found[0] - first, found[1] - first] == stamps_ns


def write_video(path, count=8):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 25.0, (16, 12))
    for index in range(count):
        writer.write(make_rgb(index))
    writer.release()
    return path


def test_video_frames_are_stamped_by_their_rate(tmp_path):
    path = write_video(tmp_path / 'drive.avi')
    path.with_suffix('.yaml').write_text(YAML)
    frames, source = read(path)
    assert source.count == len(frames) == 8
    assert [frame.stamp_ns for frame in frames[:3]] == [0, 40_000_000, 80_000_000]
    assert frames[0].camera == CAMERA
    assert abs(int(frames[7].rgb.mean()) - 70) < 5


def test_red_stays_red(tmp_path):
    """Files are read by OpenCV, whose order is blue, green, red."""
    red = np.zeros((12, 16, 3), np.uint8)
    red[..., 0] = 200
    cv2.imwrite(str(tmp_path / '0.png'), red[..., ::-1])
    writer = cv2.VideoWriter(
        str(tmp_path / 'a.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 25.0, (16, 12)
    )
    writer.write(np.ascontiguousarray(red[..., ::-1]))
    writer.release()
    for path in (tmp_path, tmp_path / 'a.avi'):
        rgb = read(path, camera=CAMERA)[0][0].rgb
        assert np.abs(rgb.astype(int) - red).max() < 12


def test_video_without_calibration_or_of_another_size(tmp_path):
    path = write_video(tmp_path / 'drive.avi')
    with pytest.raises(CalibrationError, match=r'drive\.avi comes without a calibration'):
        read(path)
    with pytest.raises(CalibrationError, match=r'640x480 .* image is 16x12'):
        read(path, camera=Camera(640, 480, 500, 500, 320, 240))


def test_files_that_are_no_video(tmp_path):
    (tmp_path / 'a.mp4').write_bytes(b'nothing of the kind')
    with pytest.raises(BagError, match=r'a\.mp4 cannot be opened'):
        read(tmp_path / 'a.mp4', camera=CAMERA)


def test_options_that_mean_nothing_to_a_layout_are_refused(tmp_path):
    folder = write_folder(tmp_path / 'a')
    for options, message in (
        ({'image_topic': '/image'}, r'\(layout folder\) has no topics; leave out --image-topic$'),
        ({'stamps': 'recorded'}, 'has no topics; leave out --stamps recorded'),
        ({'lidar_topic': '/points', 'with_lidar': True}, 'has no lidar; leave out --lidar-topic'),
        ({'with_lidar': True}, 'has no lidar; choose another scale.mode than lidar'),
    ):
        with pytest.raises(SettingsError, match=message):
            open_frames(folder, **options)
        if 'image_topic' in options:
            with pytest.raises(SettingsError, match=message):
                open_recording(folder, **options)
            with pytest.raises(SettingsError, match=message):
                find_camera(folder, **options)
    with pytest.raises(SettingsError, match='no topics to choose from; leave out topics'):
        open_recording(folder, only=('/image',))
    world = 'synth:street:0?frames=2&size=64x32'
    with pytest.raises(SettingsError, match='a camera that is known exactly; leave out --fov'):
        open_frames(world, horizontal_fov_deg=20.0)
    for given, message in (
        ({'lens': LensChoice(CAMERA)}, r'leave out --camera$'),
        ({'split_file': tmp_path}, 'has no list of images; leave out --split-file'),
        ({'truth_folder': tmp_path}, 'leave out --truth'),
        ({'units_per_metre': 256.0}, 'has depth of a known unit; leave out --depth-scale'),
        ({'lidar_pose': (0.0,) * 7}, 'has no lidar; leave out --lidar-pose'),
        ({'depth_topic': '/depth'}, 'has no topics; leave out --depth-topic'),
    ):
        with pytest.raises(SettingsError, match=message):
            open_with_depth(world, SourceOptions(**given))


def test_kinds_are_told_by_name(tmp_path):
    with pytest.raises(BagError, match='is not there; expected a bag, a video file or a folder'):
        kind_of(tmp_path / 'gone')
    (tmp_path / 'notes.txt').write_text('')
    with pytest.raises(BagError, match=r'notes\.txt is not a bag; .*video .*folder of images'):
        open_frames(tmp_path / 'notes.txt')
    (tmp_path / 'a.H264').write_bytes(b'\0\0\0\1')
    with pytest.raises(BagError, match=r'a raw stream .*-i a\.H264 -c copy a\.mp4'):
        open_frames(tmp_path / 'a.H264')
    (tmp_path / 'metadata.yaml').write_text('')
    with pytest.raises(BagError, match='only describes a bag; name the folder that it lies in'):
        open_frames(tmp_path / 'metadata.yaml')
    (tmp_path / 'a.PNG').write_bytes(b'')
    with pytest.raises(BagError, match=r'a\.PNG is a single image; name the folder'):
        open_frames(tmp_path / 'a.PNG')


def test_the_calibration_of_euroc_lies_beside_its_images(tmp_path):
    data = tmp_path / 'cam0' / 'data'
    data.mkdir(parents=True)
    for stamp in (1403636579763555584, 1403636579813555456):
        cv2.imwrite(str(data / f'{stamp}.png'), make_rgb(1))
    (tmp_path / 'cam0' / 'sensor.yaml').write_text(
        'sensor_type: camera\nrate_hz: 20\nresolution: [16, 12]\ncamera_model: pinhole\n'
        'intrinsics: [20.0, 21.0, 7.5, 5.5]\ndistortion_model: radial-tangential\n'
        'distortion_coefficients: [-0.28, 0.07, 0.0002, 0.00002]\n'
    )
    for folder in (data, data.parent):
        frames, _ = read(folder)
        assert [frame.stamp_ns for frame in frames] == [1403636579763555584, 1403636579813555456]
        assert (frames[0].camera.fx, frames[0].camera.fy) == (20.0, 21.0)
        assert frames[0].camera.distortion.coefficients[0] == -0.28


def test_a_folder_of_bags_is_told_apart(bag, tmp_path):
    with bag:
        write_image(bag, 0)
        write_info(bag, 0)
    for name in ('rosbag2_1', 'rosbag2_2'):
        (tmp_path / 'all' / name).mkdir(parents=True)
        (tmp_path / 'all' / name / 'A.MCAP').write_bytes(bag.path.read_bytes())
    with pytest.raises(BagError, match='holds 2 bags in folders of their own; name one: rosbag2'):
        read(tmp_path / 'all')
    assert len(read(tmp_path / 'all' / 'rosbag2_1')[0]) == 1
    assert len(read(tmp_path / 'all' / 'rosbag2_1' / 'A.MCAP')[0]) == 1


RECORDINGS = [
    ('bags/kitti_avenue_40', 40, (375, 1242), 721.5377, False),
    ('kitti_raw_avenue', 91, (375, 1242), 721.5377, False),
    ('rgbd_kitchen', 300, (480, 640), 585.0, True),
    ('kitti_odometry_grey_a', 51, (370, 1226), 707.0912, True),
]


@pytest.mark.parametrize(('name', 'count', 'size', 'focal', 'has_pose'), RECORDINGS)
def test_real_recordings(real_recording, name, count, size, focal, has_pose):
    with open_frames(real_recording(name)) as source:
        assert source.count == count
        frames = [frame for _, frame in zip(range(5), source.frames(), strict=False)]
    assert all(frame.rgb.shape[:2] == size and frame.camera.fx == focal for frame in frames)
    assert all((frame.pose is not None) == has_pose for frame in frames)
    assert all(a.stamp_ns < b.stamp_ns for a, b in pairwise(frames))


def test_a_real_video(real_recording):
    path = real_recording('highway_dashcam/solidWhiteRight.mp4')
    with open_frames(path, horizontal_fov_deg=60) as source:
        assert source.count == 221
        frame = next(source.frames())
    assert frame.rgb.shape == (540, 960, 3)


@pytest.mark.parametrize('topics', [('/odom',), ('/wheel/odom', '/visual/odom')])
def test_odometry_that_no_image_can_use_is_noted(tmp_path, topics):
    """Poses 5 s after the images, or two topics to choose from."""
    with BagWriter(tmp_path / 'a.mcap') as bag:
        for index in range(4):
            stamp_ns = (10 + index) * 10**9
            image = image_fields(np.zeros((24, 32, 3), np.uint8), 'rgb8')
            bag.write('/image', 'sensor_msgs/msg/Image', image, stamp_ns, 'camera')
            for topic in topics:
                fields = odometry_fields(np.eye(4), 'base_link')
                bag.write(topic, 'nav_msgs/msg/Odometry', fields, stamp_ns + 5 * 10**9, 'odom')
    with open_frames(tmp_path / 'a.mcap', camera=Camera(32, 24, 30, 30, 15.5, 11.5)) as source:
        assert [frame.pose for frame in source.frames()] == [None] * 4
        notes = ' '.join(source.notes)
    if len(topics) == 1:
        assert '4 of 4 images have no pose of odometry; most often: ' in notes
    else:
        assert 'odometry is not used, for there are several: /visual/odom, /wheel/odom' in notes
