"""Converted networks kept on disk: converting one takes longer than the rest of a start.

Each is a file in the user's cache folder, named by all that it was made from: weights, shape,
versions of the libraries, our code. It is written at once and sealed with a checksum, so that a
damaged one, or two processes at a time, do no harm. The files can be deleted at any time.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
import hashlib
from importlib.metadata import PackageNotFoundError, version
import json
import os
from pathlib import Path
import platform
import tempfile
from typing import Any

import numpy as np

from psd_depth_ros.checkpoint import Checkpoint, pack_arrays, unpack_arrays
from psd_depth_ros.files import cache_folder, hash_sources, write_atomically
from psd_depth_ros.inference.conversion import (
    Convert,
    read_files,
    read_parts,
    Shape,
    write_parts,
)
from psd_depth_ros.parsing import ARRAY_BYTES, ParseError, read_bytes

OWN_ENCODERS = ('mobilenet_v2', 'resnet18')
LIBRARIES = ('torch', 'openvino', 'onnx', 'onnxscript')
_MOST_FILES = 32  # of 8 MB each for `lite`; those that were used last stay
_SOURCES = (
    Path(__file__).parents[1] / 'networks',
    Path(__file__).with_name('conversion.py'),
    Path(__file__).with_name('torch_conversion.py'),
)


def store_folder() -> Path:
    """Where converted networks are, see `files.cache_folder`."""
    return cache_folder('networks')


def is_storable(checkpoint: Checkpoint) -> bool:
    """Whether all code of a network is ours: that of encoders of others may change unnoticed."""
    return checkpoint.info.architecture.get('encoder') in OWN_ENCODERS


def is_known(checkpoint_id: str) -> bool:
    """Whether weights were converted before, for any shape: they are those of a network."""
    start = _start_of_name(checkpoint_id)
    return next(store_folder().glob(f'{start}_*.safetensors'), None) is not None


def find_place(checkpoint_id: str, kind: str, shape: Shape) -> Path:
    """The file of a converted network, whether it is there or not."""
    made_from = {
        'kind': kind,
        'shape': shape,
        'libraries': {name: _version(name) for name in LIBRARIES},
        'machine': platform.machine(),
    }
    digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    return store_folder() / f'{_start_of_name(checkpoint_id)}_{digest[:16]}.safetensors'


def keep(path: Path, files: Mapping[str, bytes]) -> None:
    """Store the files of `conversion.write_parts` in one place, where it can be written."""
    arrays = {name: np.frombuffer(content, np.uint8) for name, content in files.items()}
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, pack_arrays(arrays, {}))
        _forget_oldest(path.parent)


class StoredConverter:
    """A `Convert` that does not convert again what is stored.

    Where the folder cannot be read or written it converts every time.

    Args:
        convert: Does the work.
        checkpoint_id: Content id of the weights.
        stores: False only looks for what is stored: storing would delay an engine at work, and a
            process that converts does so itself.
    """

    def __init__(self, convert: Convert, checkpoint_id: str, stores: bool = True) -> None:
        self._convert = convert
        self._checkpoint_id = checkpoint_id
        self._stores = stores

    def __call__(self, kind: str, shape: Shape) -> tuple[Any, ...]:
        """The parts of the network, see `conversion.Convert`."""
        path = find_place(self._checkpoint_id, kind, shape)
        with suppress(ParseError, OSError):  # not there, or damaged
            stored, _ = unpack_arrays(read_bytes(path, ARRAY_BYTES), sealed=True)
            os.utime(path)
            return read_parts(kind, {name: one.tobytes() for name, one in stored.items()})
        parts = self._convert(kind, shape)
        if self._stores:
            with tempfile.TemporaryDirectory() as name:
                write_parts(kind, parts, Path(name))
                keep(path, read_files(Path(name)))
        return parts


def _start_of_name(checkpoint_id: str) -> str:
    return f'{checkpoint_id}_{_identify_code()[:16]}'


def _forget_oldest(folder: Path) -> None:
    """Remove all files but those that were used last."""
    files = sorted(folder.glob('*.safetensors'), key=lambda path: path.stat().st_mtime)
    for path in files[:-_MOST_FILES]:
        path.unlink(missing_ok=True)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ''


def _identify_code() -> str:
    """A digest of our own code that makes networks and converts them."""
    return hash_sources(_SOURCES)
