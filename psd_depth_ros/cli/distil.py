"""`psd-depth distil`: fine-tune with another network as the teacher."""

from __future__ import annotations

from typing import Any

from psd_depth_ros.cli.finetune import add_options, execute

RECIPE = 'distil'


def add_parser(subparsers: Any) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        'distil',
        help='teach the weights what another network says of recordings of your own',
        description='Learn from what TEACHER says of recordings, and from their images. As with '
        'finetune, new weights are taken only where they are better on the end of the recordings, '
        'which is held out.',
    )
    parser.add_argument(
        'teacher',
        metavar='TEACHER',
        help='a network: .onnx, .tflite, hf:OWNER/NAME, a checkpoint or a folder of maps, such as '
        'net.onnx?output=depth; see docs/teachers.md',
    )
    add_options(parser)
    parser.set_defaults(execute=execute, recipe=RECIPE)
