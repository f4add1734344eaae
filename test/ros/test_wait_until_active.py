from collections.abc import Callable
from pathlib import Path
from typing import Any

from sensor_msgs.msg import Image

from psd_depth_ros.ros.wait_until_active import WaitUntilActive

Start = Callable[..., Any]


def test_it_ends_when_the_node_is_active_and_heard_and_says_why_it_never_will_be(
    bench: Any, in_process: Start, depth_node: Start, tmp_path: Path
) -> None:
    lost = in_process(WaitUntilActive, node='other_node', timeout_s=0.5)
    depth_node(checkpoint=str(tmp_path / 'missing.safetensors'))
    refused = in_process(WaitUntilActive)
    assert refused.wait() == 1
    assert '[wait_until_active]: depth_node: ' in refused.output
    assert 'missing.safetensors: no such checkpoint file' in refused.output
    assert lost.wait() == 1
    assert 'other_node is not ready after 0.5 s: no diagnostics' in lost.output
    assert bench.set_parameter('checkpoint', '') == (True, '')
    assert bench.change_state('configure')
    assert bench.change_state('activate')
    unheard = in_process(WaitUntilActive, outputs=['depth'], timeout_s=4.0)
    assert unheard.wait() == 1
    assert 'it is active, but nobody subscribes to depth' in unheard.output
    bench.listen(Image, '/depth/image_rect')
    ready = in_process(WaitUntilActive, outputs=['depth'])
    assert ready.wait() == 0, ready.output
