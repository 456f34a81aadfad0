"""Matrices in parts: every range of rows is what the whole matrix has there."""

from __future__ import annotations

import numpy as np
import pytest

from converters import dtypes
from converters.joined_tensors import SideBySideTensor, StackedTensor
from converters.tensors import TensorInfo
from tests.fakes import memory_llama
from tests.fakes.memory_llama import TensorInMemory

WHOLE = np.arange(7 * 6, dtype=np.float32).reshape(7, 6)


def test_stacked_parts_may_differ_in_height() -> None:
    joined = StackedTensor(tuple(memory_llama.tensor("w", part) for part in np.split(WHOLE, [1, 4])))
    assert joined.info == TensorInfo("w", dtypes.F32, (7, 6))
    assert joined.origin == "memory and 2 more"
    for start in range(7):
        for stop in range(start + 1, 8):
            rows = joined.read_rows(start, stop).view(np.float32)
            np.testing.assert_array_equal(rows, WHOLE[start:stop])


@pytest.mark.parametrize("cuts", [[2, 4], [1], []])
def test_parts_side_by_side_may_differ_in_width(cuts: list[int]) -> None:
    joined = SideBySideTensor(tuple(memory_llama.tensor("w", part) for part in np.split(WHOLE, cuts, axis=1)))
    assert joined.info == TensorInfo("w", dtypes.F32, (7, 6))
    for start in range(7):
        rows = joined.read_rows(start, 7).view(np.float32)
        np.testing.assert_array_equal(rows, WHOLE[start:])


def test_blocks_stay_whole() -> None:
    blocks = np.arange(2 * 3 * 18, dtype=np.uint8).reshape(2, 54)
    parts = tuple(
        TensorInMemory(TensorInfo("w", dtypes.Q4_0, (2, 32)), blocks[:, start : start + 18]) for start in (0, 18, 36)
    )
    joined = SideBySideTensor(parts)
    assert joined.info.shape == (2, 96)
    np.testing.assert_array_equal(joined.read_rows(0, 2), blocks)
    assert joined.position == ("", 0)
