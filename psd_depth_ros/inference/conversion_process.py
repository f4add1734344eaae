"""Converts one network for one input shape, in a process that stands back for all others.

    python -m psd_depth_ros.inference.conversion_process FOLDER FORMAT BATCH 3 HEIGHT WIDTH

reads the checkpoint in FOLDER and writes the converted files beside it; see `conversion`.
"""

from __future__ import annotations

from collections.abc import Sequence
import os
from pathlib import Path
import sys

NICE = 10


def main(arguments: Sequence[str]) -> int:
    """Convert; returns the exit code."""
    os.nice(NICE)
    import torch

    from psd_depth_ros.checkpoint import load_checkpoint
    from psd_depth_ros.inference.conversion import convert_here, WEIGHTS, write_converted
    from psd_depth_ros.networks import load_model

    torch.set_num_threads(1)
    folder, kind, shape = Path(arguments[0]), arguments[1], tuple(map(int, arguments[2:]))
    model = load_model(load_checkpoint(folder / WEIGHTS)).eval()
    write_converted(convert_here(model)(kind, shape), kind, folder)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
