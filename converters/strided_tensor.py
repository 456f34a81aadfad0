"""A matrix whose weights lie apart in its file: transposed, or some columns of a wider one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from converters.tensors import Bytes, FileTensor

# What is read at a time; weights that belong to others are read along with those that are wanted.
_TILE_BYTES = 1 << 20


@dataclass(frozen=True)
class StridedTensor(FileTensor):
    """A matrix of plain numbers, of which weight [i, j] is element i * strides[0] + j * strides[1] from its first.

    strides: in elements, none of them 0. A vector is a matrix of one row. The file is read in tiles, so memory is
    bounded by the rows that are asked for, however far apart their weights lie.
    """

    strides: tuple[int, int]

    def read_rows(self, start: int, stop: int) -> Bytes:
        width, n_columns = self.info.dtype.block_bytes, self.info.n_columns
        rows = np.empty((stop - start, n_columns, width), np.uint8)
        across, down = self._tile(stop - start)
        # Along the file: what lies close together is read one after another.
        for row in range(start, stop, down):
            for column in range(0, n_columns, across):
                part = rows[row - start : row - start + down, column : column + across]
                part[...] = self._read_tile(row, column, part.shape[0], part.shape[1])
        return rows.reshape(stop - start, self.info.row_bytes)

    def _tile(self, n_rows: int) -> tuple[int, int]:
        """Columns and rows of a tile that spans few bytes: first along the smaller stride, then along the other."""
        most = _TILE_BYTES // self.info.dtype.block_bytes
        lengths, strides = (n_rows, self.info.n_columns), self.strides
        near = 0 if strides[0] < strides[1] else 1
        along = max(1, min(lengths[near], most // strides[near]))
        aside = max(1, (most - along * strides[near]) // strides[1 - near] + 1) if along == lengths[near] else 1
        return (aside, along) if near == 0 else (along, aside)

    def _read_tile(self, row: int, column: int, n_rows: int, n_columns: int) -> Bytes:
        width = self.info.dtype.block_bytes
        first = row * self.strides[0] + column * self.strides[1]
        n_elements = (n_rows - 1) * self.strides[0] + (n_columns - 1) * self.strides[1] + 1
        data = self.file.read_array(self.offset_in_file + first * width, n_elements * width, self.info.name)
        strides = (self.strides[0] * width, self.strides[1] * width, 1)
        return np.lib.stride_tricks.as_strided(data, (n_rows, n_columns, width), strides, writeable=False)
