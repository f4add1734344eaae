"""`psd-depth package`: make a folder of a run that a hub of models can take."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        'package',
        help='make a folder of weights that can be shared, with a model card',
        description='Make FOLDER of the best weights of RUN: safetensors, config.json, a model '
        'card from their provenance, and a picture. Uploaded to Hugging Face, '
        'checkpoint:=hf:OWNER/NAME loads it back.',
    )
    parser.add_argument('run', metavar='RUN', type=Path, help='of train or finetune, or weights')
    parser.add_argument('--output', metavar='FOLDER', type=Path, required=True)
    parser.set_defaults(execute=execute)


def execute(options: argparse.Namespace) -> int:
    """Package and list the files."""
    from psd_depth_ros.sharing import package

    for path in package(options.run, options.output):
        print(path)
    print('read README.md before you share it: licences of the data bind the weights')
    return 0
