"""The depth node with an engine that needs no weights."""

import sys

from fake_engine import FakeFactory

from psd_depth_ros.ros.depth_node.node import main

if __name__ == '__main__':
    sys.exit(main(factory=FakeFactory()))
