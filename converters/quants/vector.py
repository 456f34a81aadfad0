"""The few words in which a kernel is written: an algorithm for one block, carried out on many blocks at once.

A kernel reads as if it treated a single block of weights. Each of its values is in truth a vector with one lane for
each of many blocks, so that no lane ever waits for another, the order of every addition is the one written down, and
every rounding is the same however many lanes there are. Nothing is fused, nothing re-associated: a product is rounded
before it is added.

The same kernel runs on two machines: `numpy_machine` carries it out at once on arrays, `llvm` writes it down as machine
code. What a kernel may do is what stands here:

    Real, Whole, Mask   a float32, an int32, a truth in each lane, with the usual operators; a Python number is the same
                        in every lane; whole numbers wrap around, `>>` shifts zeros in
    Reals, Wholes       rows of them in memory, read and written by index
    Table               numbers that never change, looked up by an index of each lane's own; `least` of a list in it
    Block               the bytes of a quantized block in each lane, as little-endian words
    Machine             makes these, and the words that are no operator: loop, repeat, sum, fold, keep, select, sqrt,
                        nearest_whole, truncate, half and back
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Raw = Any  # what a machine has in a value's place: an array, or a line of code

T = TypeVar("T", "Real", "Whole")

# 1.5 * 2**23: a float32 added to it has no bits left for a fraction, so it is rounded to the nearest whole number (ties
# to even), which then stands in the low 22 bits.
_MAGIC = 12582912.0


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    machine: Machine
    raw: Raw

    def __and__(self, other: Mask) -> Mask:
        return Mask(self.machine, self.machine.both(self.raw, other.raw))

    def __invert__(self) -> Mask:
        return Mask(self.machine, self.machine.opposite(self.raw))


@dataclass(frozen=True, slots=True, eq=False)
class Real:
    """A float32 in each lane. Comparisons with NaN are false, as in C."""

    machine: Machine
    raw: Raw

    def _with(self, op: str, other: Real | float, *, swapped: bool = False) -> Real:
        raw = self.machine.as_real(other).raw
        a, b = (raw, self.raw) if swapped else (self.raw, raw)
        return Real(self.machine, self.machine.real_op(op, a, b))

    def _compared(self, op: str, other: Real | float) -> Mask:
        return Mask(self.machine, self.machine.real_compare(op, self.raw, self.machine.as_real(other).raw))

    def __add__(self, other: Real | float) -> Real:
        return self._with("+", other)

    def __radd__(self, other: float) -> Real:
        return self._with("+", other, swapped=True)

    def __sub__(self, other: Real | float) -> Real:
        return self._with("-", other)

    def __rsub__(self, other: float) -> Real:
        return self._with("-", other, swapped=True)

    def __mul__(self, other: Real | float) -> Real:
        return self._with("*", other)

    def __rmul__(self, other: float) -> Real:
        return self._with("*", other, swapped=True)

    def __truediv__(self, other: Real | float) -> Real:
        return self._with("/", other)

    def __rtruediv__(self, other: float) -> Real:
        return self._with("/", other, swapped=True)

    def __neg__(self) -> Real:
        return (self.bits() ^ -(2**31)).as_bits()

    def __abs__(self) -> Real:
        return (self.bits() & (2**31 - 1)).as_bits()

    def __lt__(self, other: Real | float) -> Mask:
        return self._compared("<", other)

    def __le__(self, other: Real | float) -> Mask:
        return self._compared("<=", other)

    def __gt__(self, other: Real | float) -> Mask:
        return self._compared(">", other)

    def __ge__(self, other: Real | float) -> Mask:
        return self._compared(">=", other)

    def equals(self, other: Real | float) -> Mask:
        return self._compared("==", other)

    def not_below(self, other: Real | float) -> Mask:
        """At least as large, or NaN."""
        return self._compared("not <", other)

    def bits(self) -> Whole:
        return Whole(self.machine, self.machine.real_to_bits(self.raw))


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """An int32 in each lane."""

    machine: Machine
    raw: Raw

    def _with(self, op: str, other: Whole | int) -> Whole:
        return Whole(self.machine, self.machine.whole_op(op, self.raw, self.machine.as_whole(other).raw))

    def __add__(self, other: Whole | int) -> Whole:
        return self._with("+", other)

    def __sub__(self, other: Whole | int) -> Whole:
        return self._with("-", other)

    def __mul__(self, other: Whole | int) -> Whole:
        return self._with("*", other)

    def __and__(self, other: Whole | int) -> Whole:
        return self._with("&", other)

    def __or__(self, other: Whole | int) -> Whole:
        return self._with("|", other)

    def __xor__(self, other: Whole | int) -> Whole:
        return self._with("^", other)

    def __lshift__(self, n_bits: int) -> Whole:
        return self if n_bits == 0 else self._with("<<", n_bits)

    def __rshift__(self, n_bits: int) -> Whole:
        return self if n_bits == 0 else self._with(">>", n_bits)

    def at_least(self, other: Whole | int) -> Whole:
        return self._with("max", other)

    def at_most(self, other: Whole | int) -> Whole:
        return self._with("min", other)

    def clamp(self, low: int, high: int) -> Whole:
        return self.at_most(high).at_least(low)

    def equals(self, other: Whole | int) -> Mask:
        return Mask(self.machine, self.machine.whole_equal(self.raw, self.machine.as_whole(other).raw))

    def signed_byte(self) -> Whole:
        """The low byte as an int8."""
        return ((self & 255) ^ 128) - 128

    def real(self) -> Real:
        return Real(self.machine, self.machine.whole_to_real(self.raw))

    def as_bits(self) -> Real:
        """The float32 whose bits these are."""
        return Real(self.machine, self.machine.bits_to_real(self.raw))

    def half(self) -> Real:
        """The float16 whose bits are the low 16, as a float32."""
        return Real(self.machine, self.machine.half_to_real(self.raw))


@dataclass(frozen=True, slots=True)
class Reals:
    """float32 in memory, each with all its lanes; `part` is the same memory from a later index on."""

    machine: Machine
    memory: Raw
    first: int = 0

    def __getitem__(self, index: int) -> Real:
        return Real(self.machine, self.machine.read(self.memory, self.first + index))

    def __setitem__(self, index: int, value: Real) -> None:
        self.machine.write(self.memory, self.first + index, value.raw)

    def part(self, first: int) -> Reals:
        return Reals(self.machine, self.memory, self.first + first)


@dataclass(frozen=True, slots=True)
class Wholes:
    """int32 in memory, each with all its lanes; `part` is the same memory from a later index on."""

    machine: Machine
    memory: Raw
    first: int = 0

    def __getitem__(self, index: int) -> Whole:
        return Whole(self.machine, self.machine.read(self.memory, self.first + index))

    def __setitem__(self, index: int, value: Whole) -> None:
        self.machine.write(self.memory, self.first + index, value.raw)

    def part(self, first: int) -> Wholes:
        return Wholes(self.machine, self.memory, self.first + first)


@dataclass(frozen=True, slots=True)
class Table:
    """Whole numbers that never change, none below zero."""

    machine: Machine
    memory: Raw

    def __getitem__(self, index: Whole) -> Whole:
        """Each lane's own. Nothing checks the index: whoever reads it from a block masks it."""
        return Whole(self.machine, self.machine.look_up(self.memory, index.raw))


LIST_STEP = 16  # lists of points have whole steps of places

# error(given, i, level): of weight i of a point, where it has this level. See Machine.least.
PointError = Callable[[Sequence[Real], int, Whole], Real]


class Block(ABC):
    """The bytes of a quantized block in each lane. `at` counts bytes from the block's start."""

    @abstractmethod
    def load(self, at: int, n_words: int) -> Wholes:
        """So many little-endian 32-bit words."""

    @abstractmethod
    def store(self, at: int, words: Wholes, n_words: int) -> None: ...

    @abstractmethod
    def load_short(self, at: int) -> Whole:
        """A little-endian 16-bit word, 0 to 65535."""

    @abstractmethod
    def store_short(self, at: int, value: Whole) -> None: ...


class Kept:
    """Values that outlive the body of a loop. `keep(when, ...)` replaces those of the lanes where `when` holds."""

    def __init__(self, machine: Machine, values: dict[str, Real]) -> None:
        self._machine = machine
        self._cells = {name: machine.cell(value.raw) for name, value in values.items()}

    def __getitem__(self, name: str) -> Real:
        return Real(self._machine, self._machine.cell_value(self._cells[name]))

    def keep(self, when: Mask, **values: Real) -> None:
        for name, value in values.items():
            self.set(**{name: self._machine.select(when, value, self[name])})

    def set(self, **values: Real) -> None:
        """Replaces them in every lane."""
        for name, value in values.items():
            self._machine.set_cell(self._cells[name], value.raw)


class Machine(ABC):
    """What carries a kernel out. The words first, then what a machine must be able to do."""

    # Words

    def real(self, value: float | int) -> Real:
        """A number, or the index of a loop, as float32."""
        return self.as_real(value)

    def fold(self, step: Callable[[T, T], T], start: T, values: Iterable[T]) -> T:
        """step(...step(step(start, values[0]), values[1])..., values[-1]), in this order."""
        kind = type(start)
        cell = self.cell(start.raw)
        for value in values:
            self.set_cell(cell, step(kind(self, self.cell_value(cell)), value).raw)
        return kind(self, self.cell_value(cell))

    def sum(self, values: Iterable[Real], start: Real | float = 0.0) -> Real:
        """start + values[0] + values[1] + ..., in this order."""
        return self.fold(lambda total, value: total + value, self.as_real(start), values)

    def sums(self, n: int, values: Iterable[tuple[Real, ...]]) -> tuple[Real, ...]:
        """n sums at once."""
        cells = [self.cell(self.as_real(0.0).raw) for _ in range(n)]
        for terms in values:
            for cell, term in zip(cells, terms, strict=True):
                self.set_cell(cell, (Real(self, self.cell_value(cell)) + term).raw)
        return tuple(Real(self, self.cell_value(cell)) for cell in cells)

    def kept(self, **values: Real) -> Kept:
        return Kept(self, values)

    def select(self, when: Mask, yes: T | float, no: T | float) -> T:
        """yes in the lanes where `when` holds, no elsewhere; one of the two must be a Real or a Whole."""
        kind = type(yes if isinstance(yes, Real | Whole) else no)
        lift: Any = self.as_real if kind is Real else self.as_whole
        chosen: Any = kind(self, self.choose(when.raw, lift(yes).raw, lift(no).raw))  # type: ignore[call-arg, arg-type]
        return chosen  # type: ignore[no-any-return]

    def sqrt(self, value: Real) -> Real:
        return Real(self, self.square_root(value.raw))

    def half(self, value: Real) -> Whole:
        """The bits of the nearest float16, ties to even; what is too large becomes infinity."""
        return Whole(self, self.real_to_half(value.raw))

    def nearest_whole(self, value: Real) -> Whole:
        """To nearest, ties to even, for magnitudes under 2**22; beyond, what ggml's nearest_int makes of it."""
        return ((value + _MAGIC).bits() & 0x7FFFFF) - 0x400000

    def nearest_within(self, value: Real, low: int, high: int) -> Real:
        """nearest_whole(value).clamp(low, high).real(), in fewer steps, where all magnitudes are under 2**22."""
        start = Whole(self, self.as_real(_MAGIC).bits().raw)
        bits = (value + _MAGIC).bits().at_most(start + high).at_least(start + low)
        return bits.as_bits() - _MAGIC

    def truncate(self, value: Real) -> Whole:
        """Towards zero; -2**31 for NaN and what no int32 holds, as x86 has it and hence ggml."""
        return Whole(self, self.real_to_whole(value.raw))

    def round_half_away(self, value: Real) -> Whole:
        """To nearest, halves away from zero (C's roundf), under 2**23; beyond int32 as truncate.

        What is added is the float32 just below a half, so that no sum is rounded up to the next whole number.
        """
        below_half = (value.bits() & -(2**31) | 0x3EFFFFFF).as_bits()
        return self.truncate(value + below_half)

    def reciprocal(self, value: Real) -> Real:
        """1 / value, and 0 for 0."""
        return self.select(value.equals(0.0), 0.0, 1.0 / value)

    def larger(self, a: Real, b: Real) -> Real:
        """b where it is larger, else a; the first of equals, as a loop in C would have it."""
        return self.select(b > a, b, a)

    def smaller(self, a: Real, b: Real) -> Real:
        """b where it is smaller, else a."""
        return self.select(b < a, b, a)

    def farther(self, a: Real, b: Real) -> Real:
        """b where it is farther from zero, else a."""
        return self.select(abs(b) > abs(a), b, a)

    def bits(self, *bits: Whole) -> Whole:
        """A number out of its bits, each 0 or 1, the first one lowest."""
        return self.fold(lambda number, bit: number | bit, bits[0], (bit << i for i, bit in enumerate(bits) if i))

    def pack(self, b0: Whole, b1: Whole, b2: Whole, b3: Whole) -> Whole:
        """A word out of four bytes, each 0 to 255, the first one lowest."""
        return (b0 | b1 << 8) | (b2 << 16 | b3 << 24)

    # What a machine must be able to do

    @abstractmethod
    def loop(self, start: int, stop: int, unroll: int = 4) -> Iterator[int]:
        """The indices from start to stop. A machine may write the body out `unroll` times in a row.

        start may be the index of another loop, which then must be below stop.
        """

    @abstractmethod
    def repeat(self, n: int, until: Callable[[], Mask]) -> Iterator[int]:
        """0 to n - 1, but no more once `until`, asked after each round, holds in every lane.

        Lanes wait for each other: where it holds already, further rounds must change nothing.
        """

    @abstractmethod
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
        """Of the points table[first], ..., table[first + last], in each lane the one whose error is least.

        A point is n levels of so many bits side by side, and its error the sum of theirs: error(given, i, level), which
        is not below zero. Of equals the first is taken, and the very first if no error is less than the largest
        float32. The places up to the next multiple of LIST_STEP hold the first point again, so it does not matter
        whether a machine looks there. While it is reckoned, levels or points take the place of the blocks in the lanes,
        for the lists differ in length: an error may use only what it is given.
        """

    @abstractmethod
    def either(self, when: Mask) -> Iterator[bool]:
        """True if `when` holds in every lane, else False; a machine may write the body out for both, one of which runs.

        What the body makes must be put into memory or into Kept.
        """

    @abstractmethod
    def reals(self, n: int) -> Reals: ...
    @abstractmethod
    def wholes(self, n: int) -> Wholes: ...
    @abstractmethod
    def table(self, numbers: Sequence[int]) -> Table: ...
    @abstractmethod
    def look_up(self, memory: Raw, index: Raw) -> Raw: ...
    @abstractmethod
    def as_real(self, value: Real | float) -> Real: ...
    @abstractmethod
    def as_whole(self, value: Whole | int) -> Whole: ...
    @abstractmethod
    def read(self, memory: Raw, index: int) -> Raw: ...
    @abstractmethod
    def write(self, memory: Raw, index: int, value: Raw) -> None: ...
    @abstractmethod
    def cell(self, value: Raw) -> Raw: ...
    @abstractmethod
    def cell_value(self, cell: Raw) -> Raw: ...
    @abstractmethod
    def set_cell(self, cell: Raw, value: Raw) -> None: ...
    @abstractmethod
    def real_op(self, op: str, a: Raw, b: Raw) -> Raw: ...
    @abstractmethod
    def whole_op(self, op: str, a: Raw, b: Raw) -> Raw: ...
    @abstractmethod
    def real_compare(self, op: str, a: Raw, b: Raw) -> Raw: ...
    @abstractmethod
    def whole_equal(self, a: Raw, b: Raw) -> Raw: ...
    @abstractmethod
    def both(self, a: Raw, b: Raw) -> Raw: ...
    @abstractmethod
    def opposite(self, a: Raw) -> Raw: ...
    @abstractmethod
    def choose(self, when: Raw, yes: Raw, no: Raw) -> Raw: ...
    @abstractmethod
    def square_root(self, a: Raw) -> Raw: ...
    @abstractmethod
    def real_to_bits(self, a: Raw) -> Raw: ...
    @abstractmethod
    def bits_to_real(self, a: Raw) -> Raw: ...
    @abstractmethod
    def whole_to_real(self, a: Raw) -> Raw: ...
    @abstractmethod
    def real_to_whole(self, a: Raw) -> Raw: ...
    @abstractmethod
    def half_to_real(self, a: Raw) -> Raw: ...
    @abstractmethod
    def real_to_half(self, a: Raw) -> Raw: ...
