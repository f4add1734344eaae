from collections.abc import Callable
from pathlib import Path
from typing import Any

from sensor_msgs.msg import Image

Start = Callable[..., Any]
PROGRAM = 'psd_depth_ros.ros.wait_until_active'


def test_it_ends_when_the_node_is_active_and_heard_and_says_why_it_never_will_be(
    bench: Any, start: Start, depth_node: Start, tmp_path: Path
) -> None:
    lost = start(PROGRAM, node='other_node', timeout_s=0.5)
    depth_node(checkpoint=str(tmp_path / 'missing.safetensors'))
    refused = start(PROGRAM)
    assert refused.wait() == 1
    assert 'depth_node: ' in refused.output
    assert 'missing.safetensors: no such checkpoint file' in refused.output
    assert lost.wait() == 1
    assert 'other_node is not ready after 0.5 s: no diagnostics' in lost.output
    assert bench.set_parameter('checkpoint', '') == (True, '')
    assert bench.change_state('configure')
    assert bench.change_state('activate')
    unheard = start(PROGRAM, outputs=['depth'], timeout_s=5.0)
    assert unheard.wait() == 1
    assert 'it is active, but nobody subscribes to depth' in unheard.output
    bench.listen(Image, '/depth/image_rect')
    ready = start(PROGRAM, outputs=['depth'])
    assert ready.wait() == 0, ready.output
