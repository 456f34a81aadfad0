"""What every type must offer: blocks of bytes to float32 and back.

A quantizer works on blocks alone, so a result can depend neither on threads nor on how a tensor was cut into rows.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from converters.dtypes import DType

Blocks = npt.NDArray[np.uint8]  # (n_blocks, block_bytes)
Weights = npt.NDArray[np.float32]  # (n_blocks, block_size)


class Quant(Protocol):
    """One module of this package: a type's two directions."""

    @property
    def DTYPE(self) -> DType: ...

    @property
    def LIMIT(self) -> float | None:
        """Weights must be nearer to zero than this; None where every bit pattern is copied as it is."""
        ...

    def quantize_blocks(self, weights: Weights) -> Blocks:
        """Pack float32 weights, shape (n_blocks, block_size), into uint8 blocks, shape (n_blocks, block_bytes)."""
        ...

    def dequantize_blocks(self, blocks: Blocks) -> Weights:
        """Unpack uint8 blocks, shape (n_blocks, block_bytes), into float32 weights, shape (n_blocks, block_size)."""
        ...
