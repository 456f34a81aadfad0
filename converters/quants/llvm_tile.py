"""Blocks of bytes into the lanes of LLVM's vectors and out of them, and the whole kernels that are made so.

The code treats a tile at a time, as many blocks as there are lanes: their bytes are loaded row by row and transposed,
so that lane k of every vector belongs to block k. Where a block is a single number nothing has to change places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from converters.quants.importance import Importance
from converters.quants.kernel_types import Dequantize, FoldRow, Quantize
from converters.quants.llvm import F32, I16, I32, I64, Index, LlvmMachine, Width
from converters.quants.vector import Block, Raw, Real, Whole, Wholes


@dataclass(frozen=True)
class _Rows:
    """A row of numbers for each lane, all in one memory, each so many bytes after its start."""

    machine: LlvmMachine
    start: Raw
    places: Sequence[Raw]
    element: ir.Type

    def load(self, n: int, memory: Raw) -> None:
        """memory[i] = number i of each lane's row, for n numbers."""
        machine, n_native = self.machine, self.machine.width.n_native
        rows = self._typed()
        for first, width in self._columns(n):
            vectors = [self._load_part(machine.place(row, first), width) for row in rows]
            squares = [_transposed(machine, vectors[i : i + n_native]) for i in range(0, len(rows), n_native)]
            for i in range(width):
                machine.write(memory, first + i, machine.joined([square[i] for square in squares]))

    def store(self, n: int, memory: Raw, start: Any) -> None:
        """The reverse, from memory[start] on."""
        machine, n_native = self.machine, self.machine.width.n_native
        rows = self._typed()
        for first, width in self._columns(n):
            columns = [machine.native_parts(machine.read(memory, first + i + start)) for i in range(width)]
            columns += [columns[-1]] * (n_native - width)
            for i, part in enumerate(zip(*columns, strict=True)):
                in_rows = _transposed(machine, list(part))
                for row, vector in zip(rows[i * n_native : (i + 1) * n_native], in_rows, strict=True):
                    self._store_part(vector, machine.place(row, first), width)

    def _typed(self) -> list[Raw]:
        builder = self.machine.builder
        return [builder.bitcast(builder.gep(self.start, [at]), self.element.as_pointer()) for at in self.places]

    def _columns(self, n: int) -> Iterator[tuple[Any, int]]:
        """Columns in runs of a vector, and what remains."""
        n_native = self.machine.width.n_native
        n_whole = n - n % n_native
        if n_whole > n_native:
            for first in self.machine.rounds(I64(0), I64(n_whole), n_native):
                yield first, n_native
        elif n_whole:
            yield 0, n_native
        if n % n_native:
            yield n_whole, n % n_native

    def _load_part(self, place: Raw, width: int) -> Raw:
        builder, n_native = self.machine.builder, self.machine.width.n_native
        kind = ir.VectorType(self.element, width)
        vector = builder.load(builder.bitcast(place, kind.as_pointer()), align=1)
        order = [min(i, width - 1) for i in range(n_native)]
        return vector if width == n_native else self.machine.shuffled(vector, vector, order)

    def _store_part(self, vector: Raw, place: Raw, width: int) -> None:
        builder, n_native = self.machine.builder, self.machine.width.n_native
        part = vector if width == n_native else self.machine.shuffled(vector, vector, range(width))
        builder.store(part, builder.bitcast(place, part.type.as_pointer()), align=1)


def _transposed(machine: LlvmMachine, rows: list[Raw]) -> list[Raw]:
    """A square, in rounds that each suit x86's 128-bit pieces: 1, 2, then 4 and 8 numbers change places."""
    n, shuffled = len(rows), machine.shuffled
    pieces = range(0, n, 4)
    low = [piece + i + other for piece in pieces for i in range(2) for other in (0, n)]
    high = [i + 2 for i in low]
    low2 = [piece + i + other for piece in pieces for other in (0, n) for i in range(2)]
    high2 = [i + 2 for i in low2]
    even = [piece + i + other for other in (0, n) for piece in pieces[::2] for i in range(4)]
    odd = [i + 4 for i in even]
    quads = []  # quads[g][c]: in its piece L, rows 4g to 4g + 3 of column 4L + c
    for g in pieces:
        a, b, c, d = rows[g : g + 4]
        ab, cd = shuffled(a, b, low), shuffled(c, d, low)
        ab2, cd2 = shuffled(a, b, high), shuffled(c, d, high)
        quads.append([shuffled(x, y, m) for x, y in ((ab, cd), (ab2, cd2)) for m in (low2, high2)])

    def columns(parts: list[Raw]) -> list[Raw]:
        """Every fourth one, out of the quads of one c."""
        if len(parts) == 1:
            return parts
        pairs = list(zip(parts[::2], parts[1::2], strict=True))
        evens, odds = (columns([shuffled(a, b, pick) for a, b in pairs]) for pick in (even, odd))
        return [column for both in zip(evens, odds, strict=True) for column in both]

    by_c = [columns([quad[c] for quad in quads]) for c in range(4)]
    return [by_c[i % 4][i // 4] for i in range(n)]


@dataclass
class LlvmBlock(Block):
    """The blocks of a tile, one after the other."""

    machine: LlvmMachine
    pointer: Raw
    block_bytes: int

    def _places(self, at: int) -> list[Raw]:
        return [I64(lane * self.block_bytes + at) for lane in range(self.machine.width.n_lanes)]

    def load(self, at: int, n_words: int) -> Wholes:
        words = self.machine.wholes(n_words)
        _Rows(self.machine, self.pointer, self._places(at), I32).load(n_words, words.memory)
        return words

    def store(self, at: int, words: Wholes, n_words: int) -> None:
        _Rows(self.machine, self.pointer, self._places(at), I32).store(n_words, words.memory, words.first)

    def load_short(self, at: int) -> Whole:
        builder, kind = self.machine.builder, self.machine.short_kind
        if self.block_bytes == 2:
            vector = _load_vector(self.machine, self.pointer, kind)
        else:
            vector = ir.Constant(kind, ir.Undefined)
            for lane, stride in enumerate(self._places(at)):
                place = builder.bitcast(builder.gep(self.pointer, [stride]), I16.as_pointer())
                vector = builder.insert_element(vector, builder.load(place, align=1), I32(lane))
        return Whole(self.machine, builder.zext(vector, self.machine.whole_kind))

    def store_short(self, at: int, value: Whole) -> None:
        builder = self.machine.builder
        vector = builder.trunc(value.raw, self.machine.short_kind)
        if self.block_bytes == 2:
            _store_vector(self.machine, self.pointer, vector)
            return
        for lane, stride in enumerate(self._places(at)):
            place = builder.bitcast(builder.gep(self.pointer, [stride]), I16.as_pointer())
            builder.store(builder.extract_element(vector, I32(lane)), place, align=1)


def write_quantizer(quantize: Quantize, block_size: int, block_bytes: int, width: Width, *, weighted: bool) -> str:
    """The code of a quantizer: source is float32, target its blocks, n_tiles times n_lanes of them.

    If it is weighted, columns are the float32 importances of a row's columns, and row_mean_squares has a float32 for
    each block: the mean square of the row that it is in.
    """
    machine = LlvmMachine(width)
    source, target, n_tiles, *_ = machine.function.args
    for tile in machine.rounds(I64(0), n_tiles, 1):
        weights = machine.builder.gep(source, [(tile * (width.n_lanes * block_size * 4)).raw])
        x = machine.reals(block_size)
        if block_size == 1:
            machine.write(x.memory, 0, _load_vector(machine, weights, machine.real_kind))
        else:
            places = [I64(lane * block_size * 4) for lane in range(width.n_lanes)]
            _Rows(machine, weights, places, F32).load(block_size, x.memory)
        blocks = machine.builder.gep(target, [(tile * (width.n_lanes * block_bytes)).raw])
        importance = _importance(machine, tile, block_size) if weighted else None
        quantize(machine, x, LlvmBlock(machine, blocks, block_bytes), importance)
    return machine.finish()


def _importance(machine: LlvmMachine, tile: Index, block_size: int) -> Importance:
    """Of the tile's blocks. A block's columns are those of its place in its row."""
    _, _, _, columns, n_blocks_in_row, row_mean_squares = machine.function.args
    builder, n_lanes = machine.builder, machine.width.n_lanes
    blocks = [(tile * n_lanes + lane).raw for lane in range(n_lanes)]
    places = [builder.mul(builder.urem(block, n_blocks_in_row), I64(block_size * 4)) for block in blocks]
    memory = machine.reals(block_size)
    _Rows(machine, columns, places, F32).load(block_size, memory.memory)
    mean_squares = _load_vector(machine, builder.gep(row_mean_squares, [(tile * (n_lanes * 4)).raw]), machine.real_kind)
    return Importance(memory, Real(machine, mean_squares))


def write_dequantizer(dequantize: Dequantize, block_size: int, block_bytes: int, width: Width) -> str:
    """The code of a dequantizer: source is blocks, target float32, n_tiles times n_lanes blocks of them."""
    machine = LlvmMachine(width)
    source, target, n_tiles, *_ = machine.function.args
    for tile in machine.rounds(I64(0), n_tiles, 1):
        blocks = machine.builder.gep(source, [(tile * (width.n_lanes * block_bytes)).raw])
        x = machine.reals(block_size)
        dequantize(machine, LlvmBlock(machine, blocks, block_bytes), x)
        weights = machine.builder.gep(target, [(tile * (width.n_lanes * block_size * 4)).raw])
        if block_size == 1:
            _store_vector(machine, weights, machine.read(x.memory, 0))
        else:
            places = [I64(lane * block_size * 4) for lane in range(width.n_lanes)]
            _Rows(machine, weights, places, F32).store(block_size, x.memory, 0)
    return machine.finish()


def write_row_fold(fold: FoldRow, block_size: int, width: Width) -> str:
    """The code of a fold over each row: source is float32, target a float32 for each of n_tiles times n_lanes rows."""
    machine = LlvmMachine(width)
    builder = machine.builder
    source, target, n_tiles, _, n_blocks_in_row, _ = machine.function.args
    row_bytes = builder.mul(n_blocks_in_row, I64(block_size * 4))
    places = [builder.mul(row_bytes, I64(lane)) for lane in range(width.n_lanes)]
    for tile in machine.rounds(I64(0), n_tiles, 1):
        rows = builder.gep(source, [builder.mul((tile * width.n_lanes).raw, row_bytes)])
        x, so_far = machine.reals(block_size), machine.kept(value=machine.real(0.0))
        for block in machine.rounds(I64(0), n_blocks_in_row, 1):
            start = builder.gep(rows, [(block * (block_size * 4)).raw])
            _Rows(machine, start, places, F32).load(block_size, x.memory)
            so_far.set(value=fold(machine, x, so_far["value"]))
        _store_vector(machine, builder.gep(target, [(tile * (width.n_lanes * 4)).raw]), so_far["value"].raw)
    return machine.finish()


def _load_vector(machine: LlvmMachine, pointer: Raw, kind: ir.Type) -> Raw:
    return machine.builder.load(machine.builder.bitcast(pointer, kind.as_pointer()), align=1)


def _store_vector(machine: LlvmMachine, pointer: Raw, vector: Raw) -> None:
    machine.builder.store(vector, machine.builder.bitcast(pointer, vector.type.as_pointer()), align=1)
