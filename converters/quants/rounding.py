"""ggml's three ways from a float to a small integer. They differ on halves, and a byte depends on it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from converters.quants.base import Weights

_FITS = np.float32(2**31)


def truncated(x: Weights) -> npt.NDArray[np.uint8]:
    """`(int8_t) x`, the low byte: towards zero; 0 for NaN and what no int32 holds, as x86 does it."""
    return np.where(np.abs(x) < _FITS, x, np.float32(0)).astype(np.int32).astype(np.uint8)


def half_away(x: Weights) -> npt.NDArray[np.uint8]:
    """`(int8_t) roundf(x)`, the low byte: to nearest, halves away from zero."""
    size = np.abs(x)
    whole = np.trunc(size)
    whole += size - whole >= np.float32(0.5)
    return truncated(np.copysign(whole, x))
