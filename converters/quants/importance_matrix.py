"""What a search weighs errors by, for a run of whole rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from converters.dtypes import DType
from converters.quants import row_folds
from converters.quants.importance import WEIGHED_BY_ROW


@dataclass(frozen=True)
class ImportanceMatrix:
    """columns: float32, shape (n_columns,), the same for every row. row_mean_squares: float32, shape (n_blocks,), for
    each block the mean square of the row that it is in, or zeros for a type that takes no notice of rows.
    """

    columns: npt.NDArray[np.float32]
    row_mean_squares: npt.NDArray[np.float32]

    @classmethod
    def for_rows(
        cls, columns: npt.NDArray[np.float32], weights: npt.NDArray[np.float32], dtype: DType
    ) -> ImportanceMatrix:
        """For rows of weights, shape (n_rows, n_columns)."""
        n_rows, n_columns = weights.shape
        if columns.shape != (n_columns,):
            raise ValueError(f"importance of {columns.shape} columns for rows of {n_columns}")
        n_blocks = n_columns // dtype.block_size
        if dtype in WEIGHED_BY_ROW:
            row_mean_squares = np.repeat(row_folds.sum_of_squares(weights) / np.float32(n_columns), n_blocks)
        else:
            row_mean_squares = np.zeros(n_rows * n_blocks, np.float32)
        return cls(np.ascontiguousarray(columns, np.float32), row_mean_squares)

    def of_blocks(self, start: int, stop: int, block_size: int) -> npt.NDArray[np.float32]:
        """The importance of each weight of some blocks, shape (stop - start, block_size)."""
        by_block = self.columns.reshape(-1, block_size)
        return by_block[np.arange(start, stop) % len(by_block)]
