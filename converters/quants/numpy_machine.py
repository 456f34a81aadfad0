"""Kernels carried out with numpy: the portable machine, and the one that the other is held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from converters.quants.vector import Block, Machine, Mask, PointError, Raw, Real, Reals, Table, Whole, Wholes

_REAL_OPS: dict[str, Any] = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}
_COMPARE: dict[str, Any] = {
    "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal, "==": np.equal,
}  # fmt: skip
_WHOLE_OPS: dict[str, Any] = {
    "+": np.add, "-": np.subtract, "*": np.multiply, "&": np.bitwise_and, "|": np.bitwise_or, "^": np.bitwise_xor,
    "<<": np.left_shift, "min": np.minimum, "max": np.maximum,
}  # fmt: skip

_QUIET = np.int32(1 << 22)  # the bit that x86 sets in any NaN that it converts


@dataclass
class Cell:
    value: Raw


@dataclass
class NumpyMachine(Machine):
    """A value is an array with an element for each of n_lanes blocks, or a single number for all of them."""

    n_lanes: int
    _numbers: dict[float, np.float32] = field(default_factory=dict)

    def loop(self, start: int, stop: int, unroll: int = 4) -> Iterator[int]:
        return iter(range(start, stop))

    def repeat(self, n: int, until: Callable[[], Mask]) -> Iterator[int]:
        for i in range(n):
            yield i
            if np.all(until().raw):
                return

    def either(self, when: Mask) -> Iterator[bool]:
        return iter([bool(np.all(when.raw))])

    def reals(self, n: int) -> Reals:
        return Reals(self, np.zeros((n, self.n_lanes), np.float32))

    def wholes(self, n: int) -> Wholes:
        return Wholes(self, np.zeros((n, self.n_lanes), np.int32))

    def table(self, numbers: Sequence[int]) -> Table:
        return Table(self, np.asarray(numbers, np.int32))

    def look_up(self, memory: Raw, index: Raw) -> Raw:
        return memory[index]

    def least(
        self,
        table: Table,
        first: Whole,
        last: Whole,
        given: Sequence[Real],
        n: int,
        bits: int,
        error: PointError,
    ) -> Whole:
        n_entries = last.raw + 1
        starts = np.cumsum(n_entries) - n_entries
        lane = np.repeat(np.arange(self.n_lanes), n_entries)
        entries = table.memory[np.arange(len(lane)) + (first.raw - starts)[lane]]
        spread = [Real(self, np.broadcast_to(value.raw, self.n_lanes)[lane]) for value in given]
        points = Whole(self, entries)
        total = self.sum(error(spread, i, points >> bits * i & (1 << bits) - 1) for i in range(n))
        costs = np.fmin(total.raw, np.finfo(np.float32).max)  # NaN counts as the largest
        best = np.flatnonzero(costs == np.minimum.reduceat(costs, starts)[lane])
        return Whole(self, entries[best[np.searchsorted(lane[best], np.arange(self.n_lanes))]])

    def as_real(self, value: Real | float) -> Real:
        return value if isinstance(value, Real) else Real(self, np.float32(value))

    def as_whole(self, value: Whole | int) -> Whole:
        return value if isinstance(value, Whole) else Whole(self, np.int32(value))

    def read(self, memory: Raw, index: int) -> Raw:
        return memory[index].copy()  # a value stays what it was when the memory is written again

    def write(self, memory: Raw, index: int, value: Raw) -> None:
        memory[index] = value

    def cell(self, value: Raw) -> Raw:
        return Cell(value)

    def cell_value(self, cell: Raw) -> Raw:
        return cell.value

    def set_cell(self, cell: Raw, value: Raw) -> None:
        cell.value = value

    def real_op(self, op: str, a: Raw, b: Raw) -> Raw:
        return _REAL_OPS[op](a, b)

    def whole_op(self, op: str, a: Raw, b: Raw) -> Raw:
        if op == ">>":
            return (np.asarray(a).view(np.uint32) >> np.uint32(b)).view(np.int32)
        return _WHOLE_OPS[op](a, b)

    def real_compare(self, op: str, a: Raw, b: Raw) -> Raw:
        return ~np.less(a, b) if op == "not <" else _COMPARE[op](a, b)

    def whole_equal(self, a: Raw, b: Raw) -> Raw:
        return np.equal(a, b)

    def both(self, a: Raw, b: Raw) -> Raw:
        return np.logical_and(a, b)

    def opposite(self, a: Raw) -> Raw:
        return np.logical_not(a)

    def choose(self, when: Raw, yes: Raw, no: Raw) -> Raw:
        return np.where(when, yes, no)

    def square_root(self, a: Raw) -> Raw:
        return np.sqrt(a)

    def real_to_bits(self, a: Raw) -> Raw:
        return np.asarray(a).view(np.int32)

    def bits_to_real(self, a: Raw) -> Raw:
        return np.asarray(a).view(np.float32)

    def whole_to_real(self, a: Raw) -> Raw:
        return np.asarray(a).astype(np.float32)

    def real_to_whole(self, a: Raw) -> Raw:
        fits = np.abs(a) < np.float32(2**31)
        return np.where(fits, np.where(fits, a, np.float32(0)).astype(np.int32), np.int32(-(2**31)))

    def half_to_real(self, a: Raw) -> Raw:
        real = np.asarray(a).astype(np.uint16).view(np.float16).astype(np.float32)
        return np.where(np.isnan(real), (real.view(np.int32) | _QUIET).view(np.float32), real)

    def real_to_half(self, a: Raw) -> Raw:
        return np.asarray(a).astype(np.float16).view(np.uint16).astype(np.int32)


@dataclass
class NumpyBlock(Block):
    """Blocks of bytes, uint8, shape (n_lanes, block_bytes)."""

    machine: Machine
    data: npt.NDArray[np.uint8]

    def load(self, at: int, n_words: int) -> Wholes:
        part = np.ascontiguousarray(self.data[:, at : at + 4 * n_words])
        return Wholes(self.machine, np.ascontiguousarray(part.view("<i4").T))

    def store(self, at: int, words: Wholes, n_words: int) -> None:
        part = np.ascontiguousarray(words.memory[words.first : words.first + n_words].T)
        self.data[:, at : at + 4 * n_words] = part.astype("<i4").view(np.uint8)

    def load_short(self, at: int) -> Whole:
        part = np.ascontiguousarray(self.data[:, at : at + 2])
        return Whole(self.machine, part.view("<u2")[:, 0].astype(np.int32))

    def store_short(self, at: int, value: Whole) -> None:
        self.data[:, at : at + 2] = np.asarray(value.raw).astype("<u2")[..., None].view(np.uint8)
