"""Kernels written down as machine code, with LLVM: the fast machine. Nothing else in the project knows LLVM.

A kernel is run once with values that, instead of holding numbers, append instructions on vectors of sixteen lanes.
The code treats a tile of sixteen blocks at a time: their bytes are loaded row by row and transposed, so that lane k of
every vector belongs to block k. No fast-math flag is ever set, hence LLVM neither fuses nor re-associates.
"""

from __future__ import annotations

import array
import ctypes
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import llvmlite
from llvmlite import binding, ir

from converters.quants.base import Dequantize, Quantize
from converters.quants.importance import Importance
from converters.quants.vector import Block, Machine, Mask, Raw, Real, Reals, Table, Whole, Wholes

N_LANES = 16

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F16, _F32 = ir.HalfType(), ir.FloatType()
_POINTER = _I8.as_pointer()
_REALS, _WHOLES = ir.VectorType(_F32, N_LANES), ir.VectorType(_I32, N_LANES)
_LARGEST = float.fromhex("0x1.fffffep127")  # float32
_HALVES, _SHORTS = ir.VectorType(_F16, N_LANES), ir.VectorType(_I16, N_LANES)

# What `<16 x float>` code needs to be fast and free of helper functions that nobody provides.
_NEEDED_FEATURES = ("avx2", "f16c")


@dataclass(frozen=True)
class Index:
    """The index of a loop, which only the running code knows. For a kernel it is an int with + and *."""

    machine: LlvmMachine
    raw: Raw

    def _with(self, op: str, other: object) -> Index:
        raw = other.raw if isinstance(other, Index) else _I64(other)
        return Index(self.machine, getattr(self.machine.builder, op)(self.raw, raw))

    def __add__(self, other: object) -> Index:
        return self._with("add", other)

    def __mul__(self, other: object) -> Index:
        return self._with("mul", other)

    __radd__, __rmul__ = __add__, __mul__


class LlvmMachine(Machine):
    """Appends to one function, `void kernel(source, target, n_tiles, columns, n_blocks_in_row, row_mean_squares)`."""

    def __init__(self) -> None:
        self.module = ir.Module("kernel")
        kind = ir.FunctionType(ir.VoidType(), [_POINTER, _POINTER, _I64, _POINTER, _I64, _POINTER])
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
        all_lanes = self.builder.bitcast(when.raw, ir.IntType(N_LANES))
        holds = self.builder.icmp_unsigned("==", all_lanes, ir.Constant(ir.IntType(N_LANES), -1))
        yes, no, after = (self.function.append_basic_block(name) for name in ("yes", "no", "after"))
        self.builder.cbranch(holds, yes, no)
        for answer, block in ((True, yes), (False, no)):
            self.builder.position_at_end(block)
            yield answer
            self.builder.branch(after)
        self.builder.position_at_end(after)

    def loop(self, start: int, stop: int, unroll: int = 8) -> Iterator[int]:
        if isinstance(start, Index):
            yield from (cast(int, index) for index in self.rounds(start.raw, _I64(stop), 1))
            return
        n_rounds = (stop - start) // unroll
        whole = start + n_rounds * unroll
        if n_rounds > 1:
            for index in self.rounds(_I64(start), _I64(whole), unroll):
                for i in range(unroll):
                    yield cast(int, index + i if i else index)
        else:
            whole = start
        yield from range(whole, stop)

    def rounds(self, start: Raw, stop: Raw, step: int) -> Iterator[Index]:
        """A loop in the code. Its body is what the caller appends before asking for the next index (there is none)."""
        before = self.builder.block
        body, after = self.function.append_basic_block("body"), self.function.append_basic_block("after")
        self.builder.branch(body)
        self.builder.position_at_end(body)
        index = self.builder.phi(_I64)
        index.add_incoming(start, before)
        yield Index(self, index)
        following = self.builder.add(index, _I64(step))
        index.add_incoming(following, self.builder.block)
        self.builder.cbranch(self.builder.icmp_unsigned("<", following, stop), body, after)
        self.builder.position_at_end(after)

    # Memory

    def _memory(self, kind: ir.Type, n: int) -> Raw:
        memory = self.entry.alloca(kind, _I64(n))
        memory.align = 64
        return memory

    def reals(self, n: int) -> Reals:
        return Reals(self, self._memory(_REALS, n))

    def wholes(self, n: int) -> Wholes:
        return Wholes(self, self._memory(_WHOLES, n))

    def table(self, numbers: Sequence[int]) -> Table:
        element, size = (_I16, 2) if max(numbers) < 2**16 else (_I32, 4)
        content = array.array("H" if size == 2 else "I", numbers).tobytes() + bytes(size * N_LANES)  # see `least`
        kind = ir.ArrayType(_I8, len(content))  # as bytes it is a short text
        memory = ir.GlobalVariable(self.module, kind, self.module.get_unique_name("table"))
        memory.global_constant, memory.linkage, memory.align = True, "internal", 64
        memory.initializer = ir.Constant(kind, bytearray(content))
        return Table(self, memory.bitcast(element.as_pointer()))

    def look_up(self, memory: Raw, index: Raw) -> Raw:
        element = memory.type.pointee
        found: Raw = ir.Constant(ir.VectorType(element, N_LANES), ir.Undefined)
        for lane in range(N_LANES):
            place = self.builder.gep(memory, [self.builder.extract_element(index, _I32(lane))])
            found = self.builder.insert_element(found, self.builder.load(place), _I32(lane))
        return found if element is _I32 else self.builder.zext(found, _WHOLES)

    def least(
        self,
        table: Table,
        first: Whole,
        last: Whole,
        given: Sequence[Real],
        cost: Callable[[Sequence[Real], Whole], Real],
    ) -> Whole:
        """List after list, sixteen entries at a time; what is past the end of a list is read but not heeded."""
        builder, memory = self.builder, table.memory
        element = memory.type.pointee
        reals, wholes = self.reals(len(given)), self.wholes(3)  # the numbers of the lanes, to be read one by one
        for i, value in enumerate(given):
            reals[i] = value
        wholes[0], wholes[1] = first, last
        in_order = ir.Constant(_WHOLES, [_I32(lane) for lane in range(N_LANES)])
        for lane in self.rounds(_I64(0), _I64(N_LANES), 1):
            spread = [Real(self, self._spread(builder, self._number(reals, i, lane))) for i in range(len(given))]
            n_last = self._number(wholes, 1, lane)
            start = builder.gep(memory, [self._number(wholes, 0, lane)])
            least, where = self.kept(cost=self.real(_LARGEST)), self.cell(in_order)
            stop = builder.add(builder.zext(n_last, _I64), _I64(1))
            for index in self.rounds(_I64(0), stop, N_LANES):
                part = builder.bitcast(builder.gep(start, [index.raw]), ir.VectorType(element, N_LANES).as_pointer())
                entries = builder.load(part, align=1)
                entries = entries if element is _I32 else builder.zext(entries, _WHOLES)
                place = builder.add(in_order, self._spread(builder, builder.trunc(index.raw, _I32)))
                within = Mask(self, builder.icmp_unsigned("<=", place, self._spread(builder, n_last)))
                total = cost(spread, Whole(self, entries))
                less = within & (total < least["cost"])
                least.keep(less, cost=total)
                self.set_cell(where, builder.select(less.raw, place, self.cell_value(where)))
            costs = least["cost"].bits()  # in the order of the numbers, as none is below zero
            smallest = Whole(self, self._spread(builder, self._smallest(costs)))
            place = self._smallest(self.select(costs.equals(smallest), Whole(self, self.cell_value(where)), -1))
            entry = builder.load(builder.gep(start, [place]))
            entry = entry if element is _I32 else builder.zext(entry, _I32)
            builder.store(entry, self._number_place(wholes, 2, lane))
        return wholes[2]

    def _smallest(self, value: Whole) -> Raw:
        """Over all lanes, without sign."""
        name = f"llvm.vector.reduce.umin.v{N_LANES}i32"
        known = self.module.globals.get(name)
        return self.builder.call(known or ir.Function(self.module, ir.FunctionType(_I32, [_WHOLES]), name), [value.raw])

    def _number(self, row: Reals | Wholes, index: int, lane: Index) -> Raw:
        return self.builder.load(self._number_place(row, index, lane))

    def _number_place(self, row: Reals | Wholes, index: int, lane: Index) -> Raw:
        vector = row.memory.type.pointee
        numbers = self.builder.bitcast(row.memory, vector.element.as_pointer())
        return self.builder.gep(numbers, [(lane + index * N_LANES).raw])

    def _place(self, memory: Raw, index: int | Index) -> Raw:
        return self.builder.gep(memory, [index.raw if isinstance(index, Index) else _I64(index)])

    def read(self, memory: Raw, index: int) -> Raw:
        return self.builder.load(self._place(memory, index), align=64)

    def write(self, memory: Raw, index: int, value: Raw) -> None:
        self.builder.store(value, self._place(memory, index), align=64)

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
            return Real(self, self._spread(self.builder, self.builder.sitofp(value.raw, _F32)))
        rounded = ctypes.c_float(value).value  # LLVM wants constants that a float32 holds
        return Real(self, self._constant(_F32, rounded))

    def as_whole(self, value: Whole | int) -> Whole:
        return value if isinstance(value, Whole) else Whole(self, self._constant(_I32, value))

    def _constant(self, kind: ir.Type, value: float) -> Raw:
        key = str(kind), repr(value)  # by its text: 0.0 is not -0.0
        if key not in self._constants:
            self._constants[key] = ir.Constant(ir.VectorType(kind, N_LANES), [ir.Constant(kind, value)] * N_LANES)
        return self._constants[key]

    def _spread(self, builder: ir.IRBuilder, scalar: Raw) -> Raw:
        kind = ir.VectorType(scalar.type, N_LANES)
        one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, _I32(0))
        first = ir.Constant(_WHOLES, [_I32(0)] * N_LANES)
        return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), first)

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
        name = f"llvm.sqrt.v{N_LANES}f32"
        known = self.module.globals.get(name)
        return self.builder.call(known or ir.Function(self.module, ir.FunctionType(_REALS, [_REALS]), name), [a])

    def real_to_bits(self, a: Raw) -> Raw:
        return self.builder.bitcast(a, _WHOLES)

    def bits_to_real(self, a: Raw) -> Raw:
        return self.builder.bitcast(a, _REALS)

    def whole_to_real(self, a: Raw) -> Raw:
        return self.builder.sitofp(a, _REALS)

    def real_to_whole(self, a: Raw) -> Raw:
        return self.builder.fptosi(a, _WHOLES)

    def half_to_real(self, a: Raw) -> Raw:
        return self.builder.fpext(self.builder.bitcast(self.builder.trunc(a, _SHORTS), _HALVES), _REALS)

    def real_to_half(self, a: Raw) -> Raw:
        return self.builder.zext(self.builder.bitcast(self.builder.fptrunc(a, _HALVES), _SHORTS), _WHOLES)

    # Rows of bytes in and out

    def load_rows(self, pointer: Raw, strides: Sequence[Raw], n: int, memory: Raw, kind: ir.Type) -> None:
        """memory[i] = element i of each lane's row; row k starts strides[k] bytes after the pointer."""
        rows = [self._typed(pointer, stride, kind.element) for stride in strides]
        for first, width in self._columns(n):
            vectors = [self._load_part(self._place(row, first), width, kind) for row in rows]
            for i, vector in enumerate(self._transposed(vectors)[:width]):
                self.write(memory, first + i, vector)

    def store_rows(self, pointer: Raw, strides: Sequence[Raw], n: int, memory: Raw, start: Any, kind: ir.Type) -> None:
        """The reverse of load_rows, from memory[start] on."""
        rows = [self._typed(pointer, stride, kind.element) for stride in strides]
        for first, width in self._columns(n):
            vectors = [self.read(memory, first + i + start) for i in range(width)]
            vectors += [vectors[-1]] * (N_LANES - width)
            for row, vector in zip(rows, self._transposed(vectors), strict=True):
                self._store_part(vector, self._place(row, first), width)

    def _columns(self, n: int) -> Iterator[tuple[Any, int]]:
        """Columns in runs of sixteen, and what remains."""
        n_whole = n - n % N_LANES
        if n_whole > N_LANES:
            for first in self.rounds(_I64(0), _I64(n_whole), N_LANES):
                yield first, N_LANES
        elif n_whole:
            yield 0, N_LANES
        if n % N_LANES:
            yield n_whole, n % N_LANES

    def _typed(self, pointer: Raw, stride: Raw, kind: ir.Type) -> Raw:
        return self.builder.bitcast(self.builder.gep(pointer, [stride]), kind.as_pointer())

    def _load_part(self, place: Raw, width: int, kind: ir.Type) -> Raw:
        part = ir.VectorType(kind.element, width)
        vector = self.builder.load(self.builder.bitcast(place, part.as_pointer()), align=1)
        return (
            vector if width == N_LANES else self._shuffle(vector, vector, [min(i, width - 1) for i in range(N_LANES)])
        )

    def _store_part(self, vector: Raw, place: Raw, width: int) -> None:
        part = vector if width == N_LANES else self._shuffle(vector, vector, range(width))
        self.builder.store(part, self.builder.bitcast(place, part.type.as_pointer()), align=1)

    def _shuffle(self, a: Raw, b: Raw, order: Sequence[int]) -> Raw:
        mask = ir.Constant(ir.VectorType(_I32, len(order)), [_I32(i) for i in order])
        return self.builder.shuffle_vector(a, b, mask)

    def _transposed(self, rows: list[Raw]) -> list[Raw]:
        """16 x 16, in four rounds that each suit x86's 128-bit halves: 1, 2, then 4 and 8 elements change places."""
        low = [lane * 4 + i + other for lane in range(4) for i in range(2) for other in (0, 16)]
        high = [i + 2 for i in low]
        low2 = [lane * 4 + i + other for lane in range(4) for other in (0, 16) for i in range(2)]
        high2 = [i + 2 for i in low2]
        even = [lane * 4 + i + other for other in (0, 16) for lane in (0, 2) for i in range(4)]
        odd = [i + 4 for i in even]
        quads = []  # quads[g][c]: in its lane L, rows 4g to 4g + 3 of column 4L + c
        for g in range(0, 16, 4):
            a, b, c, d = rows[g : g + 4]
            ab, cd = self._shuffle(a, b, low), self._shuffle(c, d, low)
            ab2, cd2 = self._shuffle(a, b, high), self._shuffle(c, d, high)
            quads.append([self._shuffle(x, y, m) for x, y in ((ab, cd), (ab2, cd2)) for m in (low2, high2)])
        columns: list[Raw] = [None] * 16
        for c in range(4):
            q = [quads[g][c] for g in range(4)]
            for parity, pick in enumerate((even, odd)):
                first, second = self._shuffle(q[0], q[1], pick), self._shuffle(q[2], q[3], pick)
                columns[4 * parity + c] = self._shuffle(first, second, even)
                columns[4 * (parity + 2) + c] = self._shuffle(first, second, odd)
        return columns


@dataclass
class LlvmBlock(Block):
    """The blocks of a tile, one after the other."""

    machine: LlvmMachine
    pointer: Raw
    block_bytes: int

    def _strides(self, at: int) -> list[Raw]:
        return [_I64(lane * self.block_bytes + at) for lane in range(N_LANES)]

    def load(self, at: int, n_words: int) -> Wholes:
        words = self.machine.wholes(n_words)
        self.machine.load_rows(self.pointer, self._strides(at), n_words, words.memory, _WHOLES)
        return words

    def store(self, at: int, words: Wholes, n_words: int) -> None:
        self.machine.store_rows(self.pointer, self._strides(at), n_words, words.memory, words.first, _WHOLES)

    def load_short(self, at: int) -> Whole:
        builder = self.machine.builder
        vector: Raw = ir.Constant(_SHORTS, ir.Undefined)
        for lane, stride in enumerate(self._strides(at)):
            place = builder.bitcast(builder.gep(self.pointer, [stride]), _I16.as_pointer())
            vector = builder.insert_element(vector, builder.load(place, align=1), _I32(lane))
        return Whole(self.machine, builder.zext(vector, _WHOLES))

    def store_short(self, at: int, value: Whole) -> None:
        builder = self.machine.builder
        vector = builder.trunc(value.raw, _SHORTS)
        for lane, stride in enumerate(self._strides(at)):
            place = builder.bitcast(builder.gep(self.pointer, [stride]), _I16.as_pointer())
            builder.store(builder.extract_element(vector, _I32(lane)), place, align=1)


def write_quantizer(quantize: Quantize, block_size: int, block_bytes: int, *, weighted: bool) -> str:
    """The code of a quantizer: source is float32, target its blocks, n_tiles times sixteen of them.

    If it is weighted, columns are the float32 importances of a row's columns, and row_mean_squares has a float32 for
    each block: the mean square of the row that it is in.
    """
    machine = LlvmMachine()
    source, target, n_tiles, *_ = machine.function.args
    for tile in machine.rounds(_I64(0), n_tiles, 1):
        weights = machine.builder.gep(source, [(tile * (N_LANES * block_size * 4)).raw])
        x = machine.reals(block_size)
        strides = [_I64(lane * block_size * 4) for lane in range(N_LANES)]
        machine.load_rows(weights, strides, block_size, x.memory, _REALS)
        blocks = machine.builder.gep(target, [(tile * (N_LANES * block_bytes)).raw])
        importance = _importance(machine, tile, block_size) if weighted else None
        quantize(machine, x, LlvmBlock(machine, blocks, block_bytes), importance)
    return machine.finish()


def _importance(machine: LlvmMachine, tile: Index, block_size: int) -> Importance:
    """Of the tile's blocks. A block's columns are those of its place in its row."""
    _, _, _, columns, n_blocks_in_row, row_mean_squares = machine.function.args
    builder = machine.builder
    blocks = [(tile * N_LANES + lane).raw for lane in range(N_LANES)]
    strides = [builder.mul(builder.urem(block, n_blocks_in_row), _I64(block_size * 4)) for block in blocks]
    memory = machine.reals(block_size)
    machine.load_rows(columns, strides, block_size, memory.memory, _REALS)
    place = builder.gep(row_mean_squares, [(tile * (N_LANES * 4)).raw])
    mean_squares = builder.load(builder.bitcast(place, _REALS.as_pointer()), align=4)
    return Importance(memory, Real(machine, mean_squares))


def write_dequantizer(dequantize: Dequantize, block_size: int, block_bytes: int) -> str:
    """The code of a dequantizer: source is blocks, target float32, n_tiles times sixteen blocks of them."""
    machine = LlvmMachine()
    source, target, n_tiles, *_ = machine.function.args
    for tile in machine.rounds(_I64(0), n_tiles, 1):
        blocks = machine.builder.gep(source, [(tile * (N_LANES * block_bytes)).raw])
        x = machine.reals(block_size)
        dequantize(machine, LlvmBlock(machine, blocks, block_bytes), x)
        weights = machine.builder.gep(target, [(tile * (N_LANES * block_size * 4)).raw])
        strides = [_I64(lane * block_size * 4) for lane in range(N_LANES)]
        machine.store_rows(weights, strides, block_size, x.memory, 0, _REALS)
    return machine.finish()


@dataclass(frozen=True)
class Target:
    """The processor that code is made for."""

    cpu: str
    features: str

    @property
    def can_run_kernels(self) -> bool:
        return all(f"+{feature}" in self.features.split(",") for feature in _NEEDED_FEATURES)

    def key(self, kernel: str) -> str:
        """SHA-256 of all that machine code depends on. kernel: whatever decides the code that is compiled."""
        parts = (kernel, self.cpu, self.features, ".".join(map(str, binding.llvm_version_info)), llvmlite.__version__)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def compile(self, code: str) -> bytes:
        """An object file."""
        machine = self._machine()
        module = binding.parse_assembly(code)
        module.triple, module.data_layout = machine.triple, str(machine.target_data)
        # Only cells become registers. The rest of the usual passes doubles the time and finds nothing to gain: what is
        # to be side by side, or unrolled, the kernel has written so.
        passes = binding.create_new_function_pass_manager()
        passes.add_sroa_pass()
        builder = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=2))
        passes.run(module.get_function("kernel"), builder)
        return bytes(machine.emit_object(module))

    def _machine(self) -> Any:
        target = binding.Target.from_triple(binding.get_process_triple())
        return target.create_target_machine(cpu=self.cpu, features=self.features, opt=3, jit=True)

    def load(self, compiled: bytes) -> LoadedKernel:
        """Raises RuntimeError where the system forbids executable memory."""
        machine = self._machine()
        engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
        engine.add_object_file(binding.ObjectFileRef.from_data(compiled))
        engine.finalize_object()
        address = engine.get_function_address("kernel")
        if not address:
            raise RuntimeError("the object file has no kernel")
        return LoadedKernel(engine, address)


class LoadedKernel:
    """Machine code in memory. It lives as long as this object, which therefore keeps the engine that owns it."""

    n_lanes = N_LANES

    def __init__(self, engine: Any, address: int) -> None:
        self._engine = engine
        kind = ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p
        )
        self._call = kind(address)

    def __call__(
        self,
        source: int,
        target: int,
        n_tiles: int,
        columns: int | None = None,
        n_blocks_in_row: int = 0,
        row_mean_squares: int | None = None,
    ) -> None:
        """Addresses; the interpreter's lock is free meanwhile."""
        if n_tiles:  # the loop's body comes before its test
            self._call(source, target, n_tiles, columns, n_blocks_in_row, row_mean_squares)


def host() -> Target:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return Target(binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten())
