"""A .npy file that grows frame by frame."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray


class ArrayFile:
    """Arrays of one shape and type, written one after another; `np.load` reads them.

    Written, not mapped: a full disk is an error of a write, but kills who writes to a mapping.
    """

    def __init__(self, path: Path) -> None:
        self._stream: BinaryIO = path.open('wb')
        self._shape: tuple[int, ...] = (0,)
        self._type = np.dtype(np.uint8)
        self._count = 0

    def append(self, array: NDArray) -> None:
        """Write one more array. Raises OSError where the disk is full."""
        if not self._count:
            self._shape, self._type = array.shape, array.dtype
            self._write_header()
        assert (array.shape, array.dtype) == (self._shape, self._type), 'one file, one shape'
        self._stream.write(np.ascontiguousarray(array).data)
        self._count += 1

    def close(self) -> None:
        """Write how many there are; a second time does nothing."""
        if not self._stream.closed:
            with self._stream:
                self._stream.seek(0)
                self._write_header()

    def _write_header(self) -> None:
        # NumPy leaves room in the header for the first number to grow.
        facts = {
            'descr': np.lib.format.dtype_to_descr(self._type),
            'fortran_order': False,
            'shape': (self._count, *self._shape),
        }
        np.lib.format.write_array_header_1_0(self._stream, facts)
