"""The parts that the simple types share: float16 scales, their inverse, and two 4-bit quants in a byte."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from converters.quants.base import Weights

Bytes = npt.NDArray[np.uint8]


def half_bytes(x: Weights) -> Bytes:
    """float32, shape (n, k), as float16 bytes, shape (n, 2 * k). What is too large becomes infinity, as in ggml."""
    return x.astype("<f2").view(np.uint8)


def half_values(data: Bytes) -> Weights:
    """float16 bytes, shape (n, 2 * k), as float32, shape (n, k)."""
    return np.ascontiguousarray(data).view("<f2").astype(np.float32)


def inverse(d: Weights) -> Weights:
    """1 / d, and 0 for 0. A denormal d gives infinity, and so do its weights: ggml's own rule."""
    return np.where(d == 0, np.float32(0), np.float32(1) / d)


def pack_nibbles(quants: Bytes) -> Bytes:
    """Quants 0 to 15, shape (n, 32), as 16 bytes: quant i in the low half of byte i, quant i + 16 in its high half."""
    low, high = np.split(quants, 2, axis=1)
    return low | (high << np.uint8(4))


def unpack_nibbles(data: Bytes) -> Bytes:
    """The inverse of `pack_nibbles`."""
    return np.concatenate([data & np.uint8(15), data >> np.uint8(4)], axis=1)
