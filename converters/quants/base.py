"""What every type must offer: blocks of bytes to float32 and back.

A quantizer works on blocks alone, so a result can depend neither on threads nor on how a tensor was cut into rows.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from converters.dtypes import DType
from converters.quants.importance_matrix import ImportanceMatrix
from converters.quants.kernel_types import Dequantize, Quantize

Blocks = npt.NDArray[np.uint8]  # (n_blocks, block_bytes)
Weights = npt.NDArray[np.float32]  # (n_blocks, block_size)


class KernelModule(Protocol):
    """A module of this package that describes a type of blocks by two kernels."""

    @property
    def DTYPE(self) -> DType: ...
    @property
    def quantize(self) -> Quantize: ...
    @property
    def dequantize(self) -> Dequantize: ...


class Quant(Protocol):
    """A type's two directions, into memory that is there already: fresh memory may cost as much time as the work."""

    @property
    def DTYPE(self) -> DType: ...

    @property
    def LIMIT(self) -> float | None:
        """Weights must be nearer to zero than this; None where every bit pattern is copied as it is."""
        ...

    def quantize_into(self, out: Blocks, weights: Weights, importance: ImportanceMatrix | None = None) -> None:
        """Pack float32 weights, shape (n_blocks, block_size), into uint8 blocks, shape (n_blocks, block_bytes)."""
        ...

    def dequantize_into(self, out: Weights, blocks: Blocks) -> None:
        """Unpack uint8 blocks, shape (n_blocks, block_bytes), into float32 weights, shape (n_blocks, block_size)."""
        ...
