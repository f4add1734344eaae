"""The node among peers of another middleware than its own: nothing depends on Fast DDS."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import pytest

PEER = Path(__file__).with_name('cyclone_peer.py')
# What ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST means, for Cyclone DDS.
ON_THIS_MACHINE = """<CycloneDDS><Domain>
  <General><Interfaces>
    <NetworkInterface address="127.0.0.1" multicast="false"/>
  </Interfaces></General>
  <Discovery>
    <ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>
    <Peers><Peer Address="127.0.0.1"/></Peers>
  </Discovery>
</Domain></CycloneDDS>"""


def test_a_camera_on_cyclone_dds_gets_depth_and_cloud_back(
    bench: Any, depth_node: Callable[..., Any]
) -> None:
    pytest.importorskip('cyclonedds')
    if not has_fast_dds_2():
        pytest.skip('cyclonedds does not hear Fast DDS 3: see findings/')
    depth_node()
    peer = subprocess.run(
        [sys.executable, str(PEER), str(bench.domain)],
        env={**os.environ, 'CYCLONEDDS_URI': ON_THIS_MACHINE},
        capture_output=True,
        text=True,
        timeout=90.0,
    )
    assert not peer.returncode, peer.stderr
    found = json.loads(peer.stdout)
    assert found == {
        'frame': 'camera_optical',
        'nanosec': 500,
        'encoding': '32FC1',
        'size': [64, 48],
        'bytes': 4 * 64 * 48,
        'fields': ['x', 'y', 'z', 'rgb'],
        'cloud_bytes': [16 * 64 * 48] * 2,
    }


def has_fast_dds_2() -> bool:
    """Whether the wheels of ROS are those of Jazzy."""
    try:
        return version('ros-rmw-fastrtps-cpp').startswith('8.')
    except PackageNotFoundError:
        return False
