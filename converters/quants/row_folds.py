"""What has to be known of rows of weights before they are quantized: a number that each folds into.

The numbers are added up one after the other, as ggml does, so it is the rows that lie side by side in the lanes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from converters.quants.kernel_types import FoldRow
from converters.quants.machine_code import MachineCode
from converters.quants.numpy_machine import NumpyMachine
from converters.quants.vector import Machine, Real, Reals

if TYPE_CHECKING:
    from converters.quants.llvm import Width

N = 32  # weights of each row that are taken at once


@dataclass
class RowFold:
    """fold(v, x, so_far) takes in N more weights of each row; it begins with 0. with_llvm=False keeps it on numpy."""

    fold: FoldRow
    with_llvm: bool = True
    _code: MachineCode = field(init=False)

    def __post_init__(self) -> None:
        self._code = MachineCode(self.fold.__name__, self.code)

    def __call__(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """rows: shape (n_rows, n_columns), n_columns a multiple of N. Returns shape (n_rows,)."""
        rows = np.ascontiguousarray(rows)
        n_rows, n_columns = rows.shape
        kernel = self._code.get() if self.with_llvm else None
        if kernel is None or n_columns == 0:
            return self._with_numpy(rows)
        out = np.empty(-(-n_rows // kernel.n_lanes) * kernel.n_lanes, np.float32)
        n_tiles, rest = divmod(n_rows, kernel.n_lanes)
        kernel(rows.ctypes.data, out.ctypes.data, n_tiles, n_blocks_in_row=n_columns // N)
        if rest:
            last = np.zeros((kernel.n_lanes, n_columns), np.float32)
            last[:rest] = rows[-rest:]
            kernel(last.ctypes.data, out[-kernel.n_lanes :].ctypes.data, 1, n_blocks_in_row=n_columns // N)
        return out[:n_rows]

    def _with_numpy(self, rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        machine = NumpyMachine(len(rows))
        so_far = Real(machine, np.zeros(len(rows), np.float32))
        for start in range(0, rows.shape[1], N):
            so_far = self.fold(machine, Reals(machine, np.ascontiguousarray(rows[:, start : start + N].T)), so_far)
        return np.asarray(so_far.raw)

    def code(self, width: Width) -> str:
        from converters.quants import llvm_tile

        return llvm_tile.write_row_fold(self.fold, N, width)


def _sum_of_squares(v: Machine, x: Reals, so_far: Real) -> Real:
    return v.sum((x[i] * x[i] for i in v.loop(0, N, unroll=8)), start=so_far)


sum_of_squares = RowFold(_sum_of_squares)
