"""What rows fold into: in both machines the very same number as a loop in C would have."""

from __future__ import annotations

import numpy as np
import pytest

from converters.quants import row_folds
from converters.quants.row_folds import RowFold

MACHINES = pytest.mark.parametrize("with_llvm", [True, False], ids=["llvm", "numpy"])


@MACHINES
@pytest.mark.parametrize("shape", [(1, 32), (7, 64), (8, 576), (33, 4096)])
def test_squares_are_added_up_one_after_the_other(shape: tuple[int, int], with_llvm: bool) -> None:
    rows = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    fold = RowFold(row_folds.sum_of_squares.fold, with_llvm)
    expected = np.add.accumulate(rows * rows, axis=1)[:, -1]  # np.sum would add in pairs
    np.testing.assert_array_equal(fold(rows), expected)


@MACHINES
def test_rows_out_of_a_larger_array_are_folded(with_llvm: bool) -> None:
    rows = np.random.default_rng(8).integers(0, 9, (20, 128)).astype(np.float32)[::2, :64]
    fold = RowFold(row_folds.sum_of_squares.fold, with_llvm)
    np.testing.assert_array_equal(fold(rows), (rows * rows).sum(axis=1))


@MACHINES
def test_no_rows_and_no_columns(with_llvm: bool) -> None:
    fold = RowFold(row_folds.sum_of_squares.fold, with_llvm)
    assert fold(np.empty((0, 64), np.float32)).shape == (0,)
    np.testing.assert_array_equal(fold(np.empty((2, 0), np.float32)), [0.0, 0.0])
