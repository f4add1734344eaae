"""Videos as phones and screen recorders make them: uneven times, turned, cut short, damaged."""

import os
import struct
import subprocess
import sys

import cv2
import numpy as np
import pytest

from psd_depth_ros.cli.main import main
from psd_depth_ros.data.open import open_frames
from psd_depth_ros.data.readers.files import VideoClock
from psd_depth_ros.errors import BagError, CalibrationError
from psd_depth_ros.geometry import Camera

CAMERA = Camera(64, 48, 60, 60, 31.5, 23.5)
TIMES_MS = [0, 33, 66, 100, 300, 333, 366, 1400, 1433]


def picture(index):
    return np.full((48, 64, 3), 20 * index, np.uint8)


def element(number, content):
    """An element of EBML, whose sizes are always written in 8 bytes here."""
    return bytes.fromhex(number) + struct.pack('>Q', (1 << 56) | len(content)) + content


def number(value):
    return struct.pack('>Q', value)


def matroska(times_ms, first_ms=0):
    """A .mkv of JPEG pictures with a time of their own each."""
    head = element('1A45DFA3', element('4282', b'matroska'))
    video = element('B0', number(64)) + element('BA', number(48))
    track = element('D7', number(1)) + element('73C5', number(1)) + element('83', number(1))
    track += element('86', b'V_MJPEG') + element('E0', video)
    duration = element('4489', struct.pack('>d', times_ms[-1] + 33.0))
    info = element('1549A966', element('2AD7B1', number(1_000_000)) + duration)
    blocks = element('E7', number(first_ms))
    for index, time_ms in enumerate(times_ms):
        jpeg = cv2.imencode('.jpg', picture(index))[1].tobytes()
        blocks += element('A3', b'\x81' + struct.pack('>hB', time_ms, 0x80) + jpeg)
    tracks = element('1654AE6B', element('AE', track))
    return head + element('18538067', info + tracks + element('1F43B675', blocks))


def write_mp4(path, count=20):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 25.0, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(count):
        writer.write(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    writer.release()
    return path


def turn(path, degrees):
    """Write into the track's header that its pictures are turned, as phones do."""
    content = bytearray(path.read_bytes())
    cos, sin = {90: (0, 1), 180: (-1, 0)}[degrees]
    place = content.index(b'tkhd') + 4 + 40
    rows = (cos, sin, 0, -sin, cos, 0, 0, 0, 0x4000)
    content[place : place + 36] = struct.pack('>9i', *(value << 16 for value in rows))
    path.write_bytes(content)
    return path


def read(path, **options):
    with open_frames(path, **options) as source:
        frames = list(source.frames())
        again = [frame.stamp_ns for frame in source.frames()]
    assert again == [frame.stamp_ns for frame in frames]
    return frames, source


@pytest.mark.parametrize('first_ms', [0, 5000])
def test_frames_have_the_times_of_the_container(tmp_path, first_ms):
    path = tmp_path / 'phone.mkv'
    path.write_bytes(matroska(TIMES_MS, first_ms))
    frames, source = read(path, camera=CAMERA)
    assert [frame.stamp_ns for frame in frames] == [1_000_000 * time for time in TIMES_MS]
    assert [round(frame.rgb.mean() / 20) for frame in frames] == list(range(len(TIMES_MS)))
    assert source.span_ns[1] >= frames[-1].stamp_ns
    assert not source.notes


def test_a_decoder_that_knows_no_times(tmp_path):
    """OpenCV 4.6 says 0 for the last frames of H.264, some containers say it of all."""
    clock = VideoClock(25.0)
    stamps = [clock.stamp(ms) for ms in (12.0, 42.0, 72.0, 132.0, 0.0, 0.0)]
    assert stamps == [0, 30_000_000, 60_000_000, 120_000_000, 160_000_000, 200_000_000]
    assert clock.guessed == 2
    clock = VideoClock(25.0)
    assert [clock.stamp(0.0) for _ in range(4)] == [0, 40_000_000, 80_000_000, 120_000_000]


def test_pictures_come_upright_and_so_must_the_calibration(tmp_path):
    path = turn(write_mp4(tmp_path / 'phone.mp4', 3), 90)
    frames, source = read(path, camera=Camera(48, 64, 60, 60, 23.5, 31.5))
    assert frames[0].rgb.shape == (64, 48, 3)
    assert 'turned by' in source.notes[0]
    with pytest.raises(CalibrationError, match=r'64x48 .* 48x64.*turned by .* degrees.*upright'):
        read(path, camera=CAMERA)
    _, source = read(turn(write_mp4(tmp_path / 'b.mp4', 3), 180), camera=CAMERA)
    assert 'turned by 180 degrees' in source.notes[0]


def test_frames_that_are_missing_are_counted(tmp_path):
    path = write_mp4(tmp_path / 'whole.mp4')
    content = bytearray(path.read_bytes())
    start, stop = content.index(b'mdat') + 4, content.rindex(b'moov')
    content[start + (stop - start) // 2 : stop] = bytes(stop - start - (stop - start) // 2)
    damaged = tmp_path / 'damaged.mp4'
    damaged.write_bytes(content)
    frames, source = read(damaged, camera=CAMERA)
    assert 5 <= len(frames) < 20
    assert source.skipped_by_reason == {'image': 20 - len(frames)}
    assert 'lists 20 frames' in source.skipped[0].detail
    assert not read(path, camera=CAMERA)[1].skipped
    cut = tmp_path / 'cut.mkv'
    whole = matroska(TIMES_MS)
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    frames, source = read(cut, camera=CAMERA)
    assert 3 <= len(frames) <= 6
    assert 'says it is 1.5 s long and ends after 0.' in source.notes[0]


def test_inspect_shows_a_video_without_calibration(tmp_path, capfd):
    path = write_mp4(tmp_path / 'drive.mp4')
    assert main(['inspect', str(path), '--quick']) == 0
    printed = capfd.readouterr().out
    assert '20, 25.0 Hz, 64x48' in printed
    assert 'none that can be used' in printed
    assert '--fov DEGREES' in printed


def test_ffmpeg_is_silent_where_that_is_wanted(tmp_path):
    path = tmp_path / 'noise.mp4'
    path.write_bytes(write_mp4(tmp_path / 'whole.mp4').read_bytes()[:-300])
    for silent in (False, True):
        code = f"""
from psd_depth_ros.cli.options import silence_decoders
if {silent}: silence_decoders()
import cv2
assert not cv2.VideoCapture({str(path)!r}).isOpened()
"""
        # Commands that ran in this process may have set these.
        loud = {key: value for key, value in os.environ.items() if not key.startswith('OPENCV_')}
        done = subprocess.run(
            [sys.executable, '-c', code], capture_output=True, check=True, env=loud
        )
        assert bool(done.stderr) != silent
    with pytest.raises(BagError, match='cannot be opened'):
        read(path, camera=CAMERA)
