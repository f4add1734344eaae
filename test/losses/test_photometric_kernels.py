"""What Numba keeps between processes may be missing, damaged, or have no place to be."""

from pathlib import Path

import numba
import numpy as np
import pytest

from psd_depth_ros.losses.photometric_kernels import compile_kernels, Kernels


def error_of(kernels: Kernels) -> float:
    """Of one grey of 0.2 beside 0.4: SSIM is the factor of the means alone."""
    plane = np.ones((1, 1), np.float32)
    x, t = 0.2 * plane[None], 0.4 * plane[None]
    constants = np.array([1e-4, 9e-4, 0.85], np.float32)
    error = np.empty_like(plane)
    kernels.find_error(x, t, t, t * t, plane, constants, error)
    return float(error[0, 0])


def test_compiled_code_that_is_damaged_or_cannot_be_kept_is_compiled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssim = (2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4)
    expected = pytest.approx(0.85 * (1 - ssim) / 2 + 0.15 * 0.2, rel=1e-3)
    monkeypatch.setattr(numba.config, 'CACHE_DIR', str(tmp_path / 'kept'))
    assert error_of(compile_kernels()) == expected
    kept = [one for one in tmp_path.rglob('*.nb?') if one.is_file()]
    assert len(kept) == 4  # an index and the code of two functions
    for one in kept:
        one.write_bytes(one.read_bytes()[:40])
    assert error_of(compile_kernels()) == expected
    (tmp_path / 'file').touch()
    monkeypatch.setattr(numba.config, 'CACHE_DIR', str(tmp_path / 'file' / 'below'))
    assert error_of(compile_kernels()) == expected
