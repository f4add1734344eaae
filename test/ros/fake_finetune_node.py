"""The fine-tuning node with a training that needs no data; see test/finetune."""

from pathlib import Path
import sys

from psd_depth_ros.ros.finetune_node import main

TRAINING = Path(__file__).parents[1] / 'finetune' / 'fake_finetune_process.py'

if __name__ == '__main__':
    sys.exit(main(command=(sys.executable, str(TRAINING))))
