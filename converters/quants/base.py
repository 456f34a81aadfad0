"""What every type must offer: blocks of bytes to float32 and back.

A quantizer works on blocks alone, so a result can depend neither on threads nor on how a tensor was cut into rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from converters.dtypes import DType
from converters.quants.importance import WEIGHED_BY_ROW, Importance
from converters.quants.vector import Block, Machine, Reals

Blocks = npt.NDArray[np.uint8]  # (n_blocks, block_bytes)
Weights = npt.NDArray[np.float32]  # (n_blocks, block_size)

Quantize = Callable[[Machine, Reals, Block, Importance | None], None]
Dequantize = Callable[[Machine, Block, Reals], None]


class KernelModule(Protocol):
    """A module of this package that describes a type of blocks by two kernels."""

    @property
    def DTYPE(self) -> DType: ...
    @property
    def quantize(self) -> Quantize: ...
    @property
    def dequantize(self) -> Dequantize: ...


@dataclass(frozen=True)
class ImportanceMatrix:
    """What a search weighs errors by, for a run of whole rows.

    columns: float32, shape (n_columns,), the same for every row. row_mean_squares: float32, shape (n_blocks,), for each
    block the mean square of the row that it is in, or zeros for a type that takes no notice of rows.
    """

    columns: npt.NDArray[np.float32]
    row_mean_squares: npt.NDArray[np.float32]

    @classmethod
    def for_rows(
        cls, columns: npt.NDArray[np.float32], rows: npt.NDArray[np.float32], dtype: DType
    ) -> ImportanceMatrix:
        """For rows of weights, shape (n_rows, n_columns). Squares are added up one after the other, as ggml does."""
        n_rows, n_columns = rows.shape
        if columns.shape != (n_columns,):
            raise ValueError(f"importance of {columns.shape} columns for rows of {n_columns}")
        mean_squares = np.zeros(n_rows, np.float32)
        if dtype in WEIGHED_BY_ROW:
            for i, row in enumerate(rows):  # one at a time: a row is small, all sums on the way are not
                mean_squares[i] = np.add.accumulate(row * row)[-1] / np.float32(n_columns)
        blocks_in_row = n_columns // dtype.block_size
        return cls(np.ascontiguousarray(columns, np.float32), np.repeat(mean_squares, blocks_in_row))

    def of_blocks(self, start: int, stop: int, block_size: int) -> Weights:
        """The importance of each weight of some blocks, shape (stop - start, block_size)."""
        by_block = self.columns.reshape(-1, block_size)
        return by_block[np.arange(start, stop) % len(by_block)]


class Quant(Protocol):
    """A type's two directions."""

    @property
    def DTYPE(self) -> DType: ...

    @property
    def LIMIT(self) -> float | None:
        """Weights must be nearer to zero than this; None where every bit pattern is copied as it is."""
        ...

    def quantize_blocks(self, weights: Weights, importance: ImportanceMatrix | None = None) -> Blocks:
        """Pack float32 weights, shape (n_blocks, block_size), into uint8 blocks, shape (n_blocks, block_bytes)."""
        ...

    def dequantize_blocks(self, blocks: Blocks) -> Weights:
        """Unpack uint8 blocks, shape (n_blocks, block_bytes), into float32 weights, shape (n_blocks, block_size)."""
        ...
