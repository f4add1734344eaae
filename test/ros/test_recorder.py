from collections.abc import Callable
from pathlib import Path
import signal
import time
from typing import Any

from psd_depth_ros.data.bags import BagReader
from psd_depth_ros.ros.recorder import Recorder


def test_records_what_arrives_untouched_and_closes_on_sigint(
    bench: Any, start: Callable[..., Any], tmp_path: Path
) -> None:
    output = tmp_path / 'out.mcap'
    recorder = start(
        'psd_depth_ros.ros.recorder',
        topics=['/camera_info sensor_msgs/msg/CameraInfo', '/image'],
        output=str(output),
    )
    camera = bench.camera()
    camera.wait_for_reader()
    before_ns = time.time_ns()
    stamps = [camera.send() for _ in range(3)]
    camera.wait_until_received()
    bench.spin_for(0.3)
    recorder.signal(signal.SIGINT)
    assert recorder.wait() == 0, recorder.output
    with BagReader(output) as bag:
        images = list(bag.messages(['/image']))
        found = [one.message.header.stamp for one in images]
        assert [one.sec * 10**9 + one.nanosec for one in found] == stamps
        assert bytes(images[0].message.data) == bytes(camera.image().data)
        assert before_ns < images[0].timestamp_ns < time.time_ns()
        assert bag.topics['/camera_info'].count == 3


def test_ends_by_itself_once_nothing_comes_any_more(
    bench: Any, in_process: Callable[..., Any], tmp_path: Path
) -> None:
    output = tmp_path / 'out.mcap'
    (tmp_path / '.out.mcap.0123456789abcdef.part').write_bytes(b'of a recorder that was killed')
    recorder = in_process(
        Recorder,
        topics=['/camera_info', '/image'],
        output=str(output),
        idle_end_s=1.0,
    )
    camera = bench.camera()
    camera.wait_for_reader()
    camera.send()
    assert recorder.wait() == 0, recorder.output
    with BagReader(output) as bag:
        assert bag.topics['/image'].count == 1
    assert (tmp_path / 'out_cut_1.mcap').read_bytes() == b'of a recorder that was killed'
    assert 'a recorder was killed: what it had written is in' in recorder.output


def test_what_it_needs_is_said(refusal: Callable[..., str]) -> None:
    assert "output=''" in refusal(Recorder, topics=['/image'])
    unknown = refusal(Recorder, topic=['/image'], output='out.mcap')
    assert "no parameter 'topic'; did you mean 'topics'?" in unknown
