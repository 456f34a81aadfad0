"""Carrying out a plan: blocks of rows through the steps, each to its own place in the output.

Blocks are made in the order in which the inputs hold them, so that inputs are read in one sweep, and are numbered in
the order of the plan. A journal keeps the digest of each block that is done: the next run makes the others first, then
looks whether those are still what they were, and so ends in the same bytes.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from converters import byte_order, quants
from converters.checkpoint import Checkpoint
from converters.errors import UnrepresentableError
from converters.input_file import InputFile
from converters.plan import Plan, Work
from converters.running_digest import ReadInto, RunningDigest, short_digest
from converters.tensors import TensorInfo

_READ_BYTES = 4 << 20


class Output(Protocol):
    """One file that is being made. Any thread may write and read any range, in any order."""

    def write_at(self, offset: int, data: bytes | memoryview) -> object: ...

    def read_at(self, offset: int, n_bytes: int) -> bytes: ...


class Sink(Protocol):
    """Where results go; what happens to them afterwards is its owner's business."""

    def create(self, path: str, size: int) -> Output:
        """A file of that size by its path inside the result: all zero, or what an earlier run left."""
        ...


class Journal(Protocol):
    """Which blocks are done. Not believed: a block whose bytes have another digest is made again."""

    @property
    def done(self) -> Mapping[int, bytes]:
        """The digests of the blocks that an earlier run made, by number."""
        ...

    def record(self, number: int, digest: bytes) -> None:
        """A block was written; called by any thread."""
        ...


class NoJournal:
    """For what is made in one go."""

    done: Mapping[int, bytes] = {}

    def record(self, number: int, digest: bytes) -> None:
        pass


@dataclass(frozen=True)
class Made:
    """SHA-256 of everything, taken while it was read and written: inputs and outputs by name."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Block:
    """Rows start to stop of one tensor. number: its place among all blocks of the plan."""

    number: int
    work: Work
    start: int
    stop: int

    @property
    def offset_in_file(self) -> int:
        return self.work.placed.offset_in_file + self.start * self.work.placed.info.row_bytes

    @property
    def n_bytes(self) -> int:
        return (self.stop - self.start) * self.work.placed.info.row_bytes


def convert(
    checkpoint: Checkpoint,
    plan: Plan,
    sink: Sink,
    *,
    threads: int = 1,
    journal: Journal | None = None,
    known: Mapping[str, str] | None = None,
    advance: Callable[[int], None] = lambda n_bytes: None,
    give_up: Callable[[], None] = lambda: None,
) -> Made:
    """Make what the plan says.

    threads share one iterator of blocks over all tensors; the bytes do not depend on how many there are. journal: what
    an earlier run did, and where this one says what it does. known: SHA-256 of inputs, by name, as somebody says they
    are: where all are known, the results can be hashed as they are written; if they are others, the caller must not
    keep what was made. advance is told the output bytes as they are written. give_up is called when something failed or
    the user came in between, so that inputs for which other threads wait can let them go. Raises UnrepresentableError
    for a weight that its type cannot hold, ChangedError if an input changed meanwhile; what is in the sink is then of
    no use.
    """
    checkpoint.check_unchanged()  # since the plan was made
    run = _Run(plan, sink, journal or NoJournal(), advance)
    expected = {**(known or {}), **{path.name: _sha256(path) for path in checkpoint.companions}}
    begins = _first_offsets(plan)
    for file in checkpoint.files:
        file.begin_digest(begins.get(file.path.name, 0))
    if all(file.path.name in expected for file in checkpoint.files):
        run.write_heads(expected)  # first, for then the files are hashed as they are written
    for finished in (False, True):  # what is finished costs a read alone, and so can wait
        blocks = _Shared(block for block in blocks_of(plan) if (block.number in run.journal.done) is finished)
        with ThreadPoolExecutor(threads, thread_name_prefix="convert") as pool:
            try:
                workers = [pool.submit(run.work, blocks, confirm=finished) for _ in range(threads)]
                for worker in wait(workers, return_when=FIRST_EXCEPTION).done:
                    worker.result()
            except BaseException:
                blocks.stop()
                give_up()
                raise
    inputs = expected | {file.path.name: file.finish_digest() for file in checkpoint.files}
    if inputs != expected:
        run.write_heads(inputs)
    outputs = run.finish()
    checkpoint.check_unchanged()
    return Made(inputs, outputs)


def blocks_of(plan: Plan) -> Iterator[Block]:
    """All blocks of a plan, in the order in which the inputs hold them."""
    first, numbered = 0, []
    for work in plan.work:
        numbered.append((work, first))
        first += -(-work.placed.info.n_rows // work.rows_in_a_block)
    for work, first in sorted(numbered, key=lambda each: each[0].input.position):
        n_rows, step = work.placed.info.n_rows, work.rows_in_a_block
        if not work.placed.info.n_bytes:  # rows without columns
            continue
        for index, start in enumerate(range(0, n_rows, step)):
            yield Block(first + index, work, start, min(start + step, n_rows))


class _Shared:
    """One iterator for many threads."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self._blocks, self._lock, self._stopped = blocks, threading.Lock(), False

    def next(self) -> Block | None:
        with self._lock:
            return None if self._stopped else next(self._blocks, None)

    def stop(self) -> None:
        """Give out no more blocks."""
        with self._lock:
            self._stopped = True


class _Run:
    """One conversion: its outputs, and the digest of each as it grows."""

    def __init__(self, plan: Plan, sink: Sink, journal: Journal, advance: Callable[[int], None]) -> None:
        self._plan, self.journal, self._advance = plan, journal, advance
        self._outputs = {file.path: sink.create(file.path, file.size) for file in plan.files}
        self._digests = {path: RunningDigest(_reader(output)) for path, output in self._outputs.items()}
        self._gaps = _gaps(plan)

    def work(self, blocks: _Shared, *, confirm: bool) -> None:
        """Make blocks until there are none. confirm: they were made before, look only whether they are as they were."""
        try:
            while (block := blocks.next()) is not None:
                if not (confirm and self._is_there(block)):
                    self._make(block)
                self._advance(block.n_bytes)
        except BaseException:
            blocks.stop()
            raise

    def _make(self, block: Block) -> None:
        data = make_rows(block.work, block.start, block.stop).data.cast("B")
        path = block.work.file.path
        self._outputs[path].write_at(block.offset_in_file, data)
        self.journal.record(block.number, short_digest(data))
        self._hash(block, data)

    def _is_there(self, block: Block) -> bool:
        path = block.work.file.path
        data = self._outputs[path].read_at(block.offset_in_file, block.n_bytes)
        if short_digest(data) != self.journal.done[block.number]:
            return False
        self._hash(block, data)
        return True

    def _hash(self, block: Block, data: bytes | memoryview) -> None:
        path, end = block.work.file.path, block.offset_in_file + block.n_bytes
        self._digests[path].feed(block.offset_in_file, data)
        if gap := self._gaps.get((path, end)):
            self._digests[path].feed(end, bytes(gap))

    def write_heads(self, inputs: Mapping[str, str]) -> None:
        """The first bytes of each file, which may name the inputs by their digests."""
        for path, head in self._plan.heads(inputs).items():
            self._put(path, 0, head)

    def finish(self) -> dict[str, str]:
        """What else is no tensor, checksums last. Gives SHA-256 of each file."""
        for file in self._plan.files:
            for offset, data in file.pieces:
                self._put(file.path, offset, data)
            for checksum in file.checksums:
                value = _crc32(self._outputs[file.path], checksum.start, checksum.size).to_bytes(4, "little")
                for offset in checksum.offsets:
                    self._put(file.path, offset, value)
        return {file.path: self._digests[file.path].finish(file.size) for file in self._plan.files}

    def _put(self, path: str, offset: int, data: bytes) -> None:
        self._outputs[path].write_at(offset, data)
        self._digests[path].feed(offset, data)
        self._advance(len(data))


def _first_offsets(plan: Plan) -> dict[str, int]:
    """Where the weights begin in each input, by its name."""
    begins: dict[str, int] = {}
    for work in plan.work:
        name, offset = work.input.position
        begins[name] = min(offset, begins.get(name, offset))
    return begins


def _gaps(plan: Plan) -> dict[tuple[str, int], int]:
    """Bytes of padding behind each tensor, by file and the offset at which it ends, if nothing else stands there."""
    gaps = {}
    for file in plan.files:
        following = [tensor.offset_in_file for tensor in file.tensors[1:]] + [file.size] * bool(file.tensors)
        for tensor, start in zip(file.tensors, following, strict=True):
            end = tensor.offset_in_file + tensor.info.n_bytes
            if start > end and not file.pieces:
                gaps[file.path, end] = start - end
    return gaps


def _reader(output: Output) -> ReadInto:
    def read_into(view: memoryview, offset: int) -> None:
        view[:] = output.read_at(offset, len(view))

    return read_into


def _crc32(output: Output, start: int, n_bytes: int) -> int:
    value = 0
    for offset in range(start, start + n_bytes, _READ_BYTES):
        value = zlib.crc32(output.read_at(offset, min(_READ_BYTES, start + n_bytes - offset)), value)
    return value


def _sha256(path: Path) -> str:
    with InputFile(path) as file:
        file.begin_digest()
        return file.finish_digest()


def make_rows(work: Work, start: int, stop: int) -> npt.NDArray[np.uint8]:
    """Rows start to stop of one output tensor, as they are stored: uint8, shape (stop - start, row_bytes)."""
    rows = _made_rows(work, start, stop)
    return byte_order.swapped(rows, work.placed.info.dtype) if work.placed.swap else rows


def _made_rows(work: Work, start: int, stop: int) -> npt.NDArray[np.uint8]:
    stored = work.input.read_rows(start, stop)
    info, first = work.placed.info, work.placed.first_column
    if work.copies:
        width = info.dtype.block_bytes  # one weight where columns are cut, for only plain types are
        return np.ascontiguousarray(stored[:, first * width : first * width + info.row_bytes])
    weights = quants.decode(stored, work.input.info.dtype)[:, first : first + info.n_columns]
    try:
        packed = [
            quants.encode(
                weights[first - start : last - start],
                info.dtype,
                tensor=work.input.info.name,
                first_index=first * info.n_columns,
                importance=None if work.imatrix is None else work.imatrix.importance(info, expert),
            )
            for expert, first, last in _by_expert(info, start, stop)
        ]
    except UnrepresentableError as error:
        file = work.input.position[0]
        raise UnrepresentableError(error.tensor, error.index, error.value, error.dtype, file=file) from None
    return packed[0] if len(packed) == 1 else np.concatenate(packed)


def _by_expert(info: TensorInfo, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(expert, first row, last row + 1) for rows that may be of several: each expert has an importance of its own."""
    n_rows = info.shape[-2] if len(info.shape) > 2 else info.n_rows
    for expert in range(start // n_rows, -(-stop // n_rows)):
        yield expert, max(start, expert * n_rows), min(stop, (expert + 1) * n_rows)
