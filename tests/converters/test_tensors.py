"""Tensors over tensors: rows in another order, read in parts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from converters import dtypes
from converters.architectures.rows import halves_from_pairs, pairs_from_halves
from converters.tensors import Bytes, ReorderedTensor, TensorInfo

HEAD, N_HEADS = 16, 3
INFO = TensorInfo("q", dtypes.F32, (HEAD * N_HEADS, 2))


@dataclass
class _Counted:
    """Row n is the number n. read: how many rows were asked for, and how often."""

    info: TensorInfo = INFO
    origin: str = "memory"
    position: tuple[str, int] = ("", 0)
    read: list[int] = field(default_factory=list)

    def read_rows(self, start: int, stop: int) -> Bytes:
        assert 0 <= start < stop <= self.info.n_rows
        self.read.append(stop - start)
        rows = np.arange(start, stop, dtype="<u4")
        return np.repeat(rows, 2).reshape(-1, 2).view(np.uint8)


@pytest.mark.parametrize("order", [pairs_from_halves(HEAD), halves_from_pairs(HEAD), tuple(reversed(range(HEAD)))])
@pytest.mark.parametrize("step", [1, 3, 4, 8, 16, 20, 48])
def test_any_part_of_a_head_reads_little_more_than_its_rows(order: tuple[int, ...], step: int) -> None:
    inner = _Counted()
    tensor = ReorderedTensor(inner, order)
    expected = [head * HEAD + row for head in range(N_HEADS) for row in order]
    for start in range(0, HEAD * N_HEADS, step):
        stop = min(start + step, HEAD * N_HEADS)
        rows = tensor.read_rows(start, stop)
        assert rows.shape == (stop - start, 8)
        assert rows.view("<u4")[:, 0].tolist() == expected[start:stop]
    assert sum(inner.read) <= 2 * HEAD * N_HEADS
    assert max(inner.read) <= max(2 * step, 1)
    assert len(inner.read) <= 4 * -(-HEAD * N_HEADS // step)
