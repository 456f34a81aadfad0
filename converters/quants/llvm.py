"""Kernels written down as LLVM's code: the fast machine.

A kernel is run once with values that, instead of holding numbers, append instructions on vectors. No fast-math flag is
ever set, hence LLVM neither fuses nor re-associates. How blocks come into the lanes and out of them stands in
`llvm_tile`, what becomes of the code in `processor`; nothing else in the project knows LLVM.
"""

from __future__ import annotations

import array
import ctypes
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from llvmlite import ir

from converters.quants.vector import LIST_STEP, Machine, Mask, PointError, Raw, Real, Reals, Table, Whole, Wholes

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32 = ir.HalfType(), ir.FloatType()
POINTER = I8.as_pointer()

_LARGEST_BITS = 0x7F7FFFFF  # of a float32

# Instructions that only the processor has, by how many numbers it takes at once. A choice out of a vector by each
# lane's own index, of which only the bits that count are heeded; and the conversion that C does, where LLVM's own has
# no outcome for what is too large.
_PERMUTE = {8: "llvm.x86.avx2.permps", 16: "llvm.x86.avx512.permvar.sf.512"}
_TO_WHOLE = {8: "llvm.x86.avx.cvtt.ps2dq.256", 16: "llvm.x86.avx512.mask.cvttps2dq.512"}


@dataclass(frozen=True)
class Width:
    """n_lanes: blocks side by side. n_native: numbers in a vector of the processor's own, 8 or 16.

    With more lanes than that a value is several vectors: while one waits for a result, the others go on.
    """

    n_lanes: int
    n_native: int


@dataclass(frozen=True)
class Index:
    """The index of a loop, which only the running code knows. For a kernel it is an int with + and *."""

    machine: LlvmMachine
    raw: Raw

    def _with(self, op: str, other: object) -> Index:
        raw = other.raw if isinstance(other, Index) else I64(other)
        return Index(self.machine, getattr(self.machine.builder, op)(self.raw, raw))

    def __add__(self, other: object) -> Index:
        return self._with("add", other)

    def __mul__(self, other: object) -> Index:
        return self._with("mul", other)

    __radd__, __rmul__ = __add__, __mul__


class LlvmMachine(Machine):
    """Appends to one function, `void kernel(source, target, n_tiles, columns, n_blocks_in_row, row_mean_squares)`."""

    def __init__(self, width: Width) -> None:
        self.width = width
        self.real_kind, self.whole_kind, self._half_kind, self.short_kind = (
            ir.VectorType(kind, width.n_lanes) for kind in (F32, I32, F16, I16)
        )
        self.module = ir.Module("kernel")
        kind = ir.FunctionType(ir.VoidType(), [POINTER, POINTER, I64, POINTER, I64, POINTER])
        self.function = ir.Function(self.module, kind, "kernel")
        self.entry = ir.IRBuilder(self.function.append_basic_block("entry"))  # memory is set aside here
        self.builder = ir.IRBuilder(self.function.append_basic_block("start"))
        self._constants: dict[tuple[str, str], Raw] = {}

    def finish(self) -> str:
        """The code as text."""
        self.builder.ret_void()
        self.entry.branch(self.function.basic_blocks[1])
        return str(self.module)

    # The way through

    def either(self, when: Mask) -> Iterator[bool]:
        yes, no, after = (self.function.append_basic_block(name) for name in ("yes", "no", "after"))
        self.builder.cbranch(self._everywhere(when), yes, no)
        for answer, block in ((True, yes), (False, no)):
            self.builder.position_at_end(block)
            yield answer
            self.builder.branch(after)
        self.builder.position_at_end(after)

    def loop(self, start: int, stop: int, unroll: int = 4) -> Iterator[int]:
        if isinstance(start, Index):
            yield from (cast(int, index) for index in self.rounds(start.raw, I64(stop), 1))
            return
        n_rounds = (stop - start) // unroll
        whole = start + n_rounds * unroll
        if n_rounds > 1:
            for index in self.rounds(I64(start), I64(whole), unroll):
                for i in range(unroll):
                    yield cast(int, index + i if i else index)
        else:
            whole = start
        yield from range(whole, stop)

    def repeat(self, n: int, until: Callable[[], Mask]) -> Iterator[int]:
        done = self._everywhere
        yield from (cast(int, index) for index in self.rounds(I64(0), I64(n), 1, lambda: done(until())))

    def rounds(self, start: Raw, stop: Raw, step: int, until: Callable[[], Raw] | None = None) -> Iterator[Index]:
        """A loop in the code. Its body is what the caller appends before asking for the next index (there is none)."""
        before = self.builder.block
        body, after = self.function.append_basic_block("body"), self.function.append_basic_block("after")
        self.builder.branch(body)
        self.builder.position_at_end(body)
        index = self.builder.phi(I64)
        index.add_incoming(start, before)
        yield Index(self, index)
        following = self.builder.add(index, I64(step))
        more = self.builder.icmp_unsigned("<", following, stop)
        if until:
            more = self.builder.and_(more, self.builder.not_(until()))
        index.add_incoming(following, self.builder.block)
        self.builder.cbranch(more, body, after)
        self.builder.position_at_end(after)

    def _everywhere(self, when: Mask) -> Raw:
        kind = ir.IntType(self.width.n_lanes)
        return self.builder.icmp_unsigned("==", self.builder.bitcast(when.raw, kind), ir.Constant(kind, -1))

    # Memory

    def _memory(self, kind: ir.Type, n: int) -> Raw:
        memory = self.entry.alloca(kind, I64(n))
        memory.align = 64
        return memory

    def reals(self, n: int) -> Reals:
        return Reals(self, self._memory(self.real_kind, n))

    def wholes(self, n: int) -> Wholes:
        return Wholes(self, self._memory(self.whole_kind, n))

    def table(self, numbers: Sequence[int]) -> Table:
        element, size = (I16, 2) if max(numbers) < 2**16 else (I32, 4)
        content = array.array("H" if size == 2 else "I", numbers).tobytes()
        kind = ir.ArrayType(I8, len(content))  # as bytes it is a short text
        memory = ir.GlobalVariable(self.module, kind, self.module.get_unique_name("table"))
        memory.global_constant, memory.linkage, memory.align = True, "internal", 64
        memory.initializer = ir.Constant(kind, bytearray(content))
        return Table(self, memory.bitcast(element.as_pointer()))

    def look_up(self, memory: Raw, index: Raw) -> Raw:
        element = memory.type.pointee
        found: Raw = ir.Constant(ir.VectorType(element, self.width.n_lanes), ir.Undefined)
        for lane in range(self.width.n_lanes):
            place = self.builder.gep(memory, [self.builder.extract_element(index, I32(lane))])
            found = self.builder.insert_element(found, self.builder.load(place), I32(lane))
        return found if element is I32 else self.builder.zext(found, self.whole_kind)

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
        """List after list. The errors of all levels are reckoned first: a point has only to choose among them."""
        builder, memory, n_lanes = self.builder, table.memory, self.width.n_lanes
        reals, wholes = self.reals(len(given)), self.wholes(3)  # the numbers of the lanes, to be read one by one
        for i, value in enumerate(given):
            reals[i] = value
        wholes[0], wholes[1] = first, last
        in_order = Whole(self, ir.Constant(self.whole_kind, [I32(lane) for lane in range(n_lanes)]))
        level = in_order & (1 << bits) - 1
        for lane in self.rounds(I64(0), I64(n_lanes), 1):
            spread = [Real(self, self._spread(self._number(reals, i, lane))) for i in range(len(given))]
            errors = [error(spread, i, level) for i in range(n)]
            start = builder.gep(memory, [self._number(wholes, 0, lane)])
            stop = builder.add(builder.zext(self._number(wholes, 1, lane), I64), I64(1))
            least, where = self.cell(I32(_LARGEST_BITS)), self.cell(I64(0))
            for index in self.rounds(I64(0), stop, LIST_STEP):
                totals = []  # by their bits, which have the order of the numbers, as none is below zero
                for k in range(0, LIST_STEP, n_lanes):
                    point = self._entries(start, index + k)
                    each = (self._permuted(errors[i], point >> bits * i) for i in range(n))
                    totals.append(self.sum(each, start=next(each)).bits().raw)
                smallest, place = self._smallest(totals)
                less = builder.icmp_unsigned("<", smallest, builder.load(least))
                builder.store(builder.select(less, smallest, builder.load(least)), least)
                place = builder.add(index.raw, place)
                builder.store(builder.select(less, place, builder.load(where)), where)
            entry = builder.load(builder.gep(start, [builder.load(where)]))
            entry = entry if entry.type is I32 else builder.zext(entry, I32)
            builder.store(entry, self._number_place(wholes, 2, lane))
        return wholes[2]

    def _entries(self, start: Raw, index: Index) -> Whole:
        kind = ir.VectorType(start.type.pointee, self.width.n_lanes)
        place = self.builder.bitcast(self.builder.gep(start, [index.raw]), kind.as_pointer())
        entries = self.builder.load(place, align=1)
        return Whole(self, entries if kind.element is I32 else self.builder.zext(entries, self.whole_kind))

    def _smallest(self, vectors: list[Raw]) -> tuple[Raw, Raw]:
        """Of all their numbers, without sign, and the first place where it stands."""
        builder, kind = self.builder, ir.IntType(LIST_STEP)
        small = vectors[0]
        for vector in vectors[1:]:
            small = builder.select(builder.icmp_unsigned("<", vector, small), vector, small)
        smallest = self._call(f"llvm.vector.reduce.umin.v{self.width.n_lanes}i32", I32, small)
        here = ir.Constant(kind, 0)
        for k, vector in enumerate(vectors):
            equal = builder.icmp_unsigned("==", vector, self._spread(smallest))
            bits = builder.zext(builder.bitcast(equal, ir.IntType(self.width.n_lanes)), kind)
            here = builder.or_(here, builder.shl(bits, kind(k * self.width.n_lanes)))
        place = self._call(f"llvm.cttz.i{LIST_STEP}", kind, here, ir.IntType(1)(1))
        return smallest, builder.zext(place, I64)

    def _permuted(self, values: Real, index: Whole) -> Real:
        name = _PERMUTE[self.width.n_lanes]
        return Real(self, self._call(name, self.real_kind, values.raw, index.raw))

    def _number(self, row: Reals | Wholes, index: int, lane: Index) -> Raw:
        return self.builder.load(self._number_place(row, index, lane))

    def _number_place(self, row: Reals | Wholes, index: int, lane: Index) -> Raw:
        vector = row.memory.type.pointee
        numbers = self.builder.bitcast(row.memory, vector.element.as_pointer())
        return self.builder.gep(numbers, [(lane + index * self.width.n_lanes).raw])

    def place(self, memory: Raw, index: int | Index) -> Raw:
        return self.builder.gep(memory, [index.raw if isinstance(index, Index) else I64(index)])

    def read(self, memory: Raw, index: int) -> Raw:
        return self.builder.load(self.place(memory, index), align=64)

    def write(self, memory: Raw, index: int, value: Raw) -> None:
        self.builder.store(self._behind_a_fence(value), self.place(memory, index), align=64)

    def _behind_a_fence(self, value: Raw) -> Raw:
        """Where a choice between a new value and the one in memory is written there, LLVM would make a store of it that
        leaves lanes out. That takes AMD's processors some forty cycles, and as long until it can be read again.
        """
        if not isinstance(value, ir.SelectInstr):
            return value
        name = f"llvm.arithmetic.fence.v{self.width.n_lanes}f32"
        fenced = self._call(name, self.real_kind, self.builder.bitcast(value, self.real_kind))
        return self.builder.bitcast(fenced, value.type)

    def cell(self, value: Raw) -> Raw:
        cell = self.entry.alloca(value.type)
        self.builder.store(value, cell)
        return cell

    def cell_value(self, cell: Raw) -> Raw:
        return self.builder.load(cell)

    def set_cell(self, cell: Raw, value: Raw) -> None:
        self.builder.store(value, cell)

    # Values

    def as_real(self, value: Real | float) -> Real:
        if isinstance(value, Real):
            return value
        if isinstance(value, Index):
            return Real(self, self._spread(self.builder.sitofp(value.raw, F32)))
        rounded = ctypes.c_float(value).value  # LLVM wants constants that a float32 holds
        return Real(self, self._constant(F32, rounded))

    def as_whole(self, value: Whole | int) -> Whole:
        return value if isinstance(value, Whole) else Whole(self, self._constant(I32, value))

    def _constant(self, kind: ir.Type, value: float) -> Raw:
        key = str(kind), repr(value)  # by its text: 0.0 is not -0.0
        if key not in self._constants:
            n_lanes = self.width.n_lanes
            self._constants[key] = ir.Constant(ir.VectorType(kind, n_lanes), [ir.Constant(kind, value)] * n_lanes)
        return self._constants[key]

    def _spread(self, scalar: Raw) -> Raw:
        nothing = ir.Constant(ir.VectorType(scalar.type, self.width.n_lanes), ir.Undefined)
        one = self.builder.insert_element(nothing, scalar, I32(0))
        return self.builder.shuffle_vector(one, nothing, self._constant(I32, 0))

    def real_op(self, op: str, a: Raw, b: Raw) -> Raw:
        return getattr(self.builder, {"+": "fadd", "-": "fsub", "*": "fmul", "/": "fdiv"}[op])(a, b)

    def whole_op(self, op: str, a: Raw, b: Raw) -> Raw:
        if op in ("min", "max"):
            less = self.builder.icmp_signed("<", a, b)
            return self.builder.select(less, a, b) if op == "min" else self.builder.select(less, b, a)
        names = {"+": "add", "-": "sub", "*": "mul", "&": "and_", "|": "or_", "^": "xor", "<<": "shl", ">>": "lshr"}
        return getattr(self.builder, names[op])(a, b)

    def real_compare(self, op: str, a: Raw, b: Raw) -> Raw:
        return self.builder.fcmp_unordered(">=", a, b) if op == "not <" else self.builder.fcmp_ordered(op, a, b)

    def whole_equal(self, a: Raw, b: Raw) -> Raw:
        return self.builder.icmp_signed("==", a, b)

    def both(self, a: Raw, b: Raw) -> Raw:
        return self.builder.and_(a, b)

    def opposite(self, a: Raw) -> Raw:
        return self.builder.not_(a)

    def choose(self, when: Raw, yes: Raw, no: Raw) -> Raw:
        return self.builder.select(when, yes, no)

    def square_root(self, a: Raw) -> Raw:
        return self._call(f"llvm.sqrt.v{self.width.n_lanes}f32", self.real_kind, a)

    def real_to_bits(self, a: Raw) -> Raw:
        return self.builder.bitcast(a, self.whole_kind)

    def bits_to_real(self, a: Raw) -> Raw:
        return self.builder.bitcast(a, self.real_kind)

    def whole_to_real(self, a: Raw) -> Raw:
        return self.builder.sitofp(a, self.real_kind)

    def real_to_whole(self, a: Raw) -> Raw:
        n, kind = self.width.n_native, ir.VectorType(I32, self.width.n_native)
        more = () if n == 8 else (ir.Constant(kind, None), ir.Constant(I16, -1), I32(4))  # unmasked, rounding as set
        return self.joined([self._call(_TO_WHOLE[n], kind, part, *more) for part in self.native_parts(a)])

    def half_to_real(self, a: Raw) -> Raw:
        halves = self.builder.bitcast(self.builder.trunc(a, self.short_kind), self._half_kind)
        return self.builder.fpext(halves, self.real_kind)

    def real_to_half(self, a: Raw) -> Raw:
        halves = self.builder.fptrunc(a, self._half_kind)
        return self.builder.zext(self.builder.bitcast(halves, self.short_kind), self.whole_kind)

    # Vectors as the processor has them

    def native_parts(self, value: Raw) -> list[Raw]:
        n_lanes, n = self.width.n_lanes, self.width.n_native
        return [value] if n == n_lanes else [self.shuffled(value, value, range(i, i + n)) for i in range(0, n_lanes, n)]

    def joined(self, parts: list[Raw]) -> Raw:
        while len(parts) > 1:
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [self.shuffled(a, b, range(2 * a.type.count)) for a, b in pairs]
        return parts[0]

    def shuffled(self, a: Raw, b: Raw, order: Sequence[int]) -> Raw:
        mask = ir.Constant(ir.VectorType(I32, len(order)), [I32(i) for i in order])
        return self.builder.shuffle_vector(a, b, mask)

    def _call(self, name: str, result: ir.Type, *arguments: Raw) -> Raw:
        """Of one of LLVM's own functions."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.builder.call(self.module.globals.get(name) or ir.Function(self.module, kind, name), arguments)
