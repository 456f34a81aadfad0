"""Carrying out a plan: blocks of rows through the steps, each to its own place in the output."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import numpy.typing as npt

from converters import quants
from converters.checkpoint import Checkpoint
from converters.plan import Plan, Work
from converters.tensors import TensorInfo

Block = tuple[Work, int, int]  # rows start to stop of one tensor


class Output(Protocol):
    """One file that is being made. Any thread may write any range, in any order."""

    def write_at(self, offset: int, data: bytes | memoryview) -> object: ...


class Sink(Protocol):
    """Where results go; what happens to them afterwards is its owner's business."""

    def create(self, path: str, size: int) -> Output:
        """A file of that size, all zero, by its path inside the result."""
        ...


def convert(
    checkpoint: Checkpoint,
    plan: Plan,
    sink: Sink,
    *,
    threads: int = 1,
    advance: Callable[[int], None] = lambda n_bytes: None,
) -> None:
    """Make what the plan says.

    threads share one iterator of blocks over all tensors; the bytes do not depend on how many there are. advance is
    told the output bytes as they are written. Raises UnrepresentableError for a weight that its type cannot hold,
    ChangedError if an input changed meanwhile; what is in the sink is then of no use.
    """
    outputs = {file.path: sink.create(file.path, file.size) for file in plan.files}
    for file in plan.files:
        outputs[file.path].write_at(0, file.head)
        advance(len(file.head))
    blocks = _Shared(_blocks(plan))
    with ThreadPoolExecutor(threads, thread_name_prefix="convert") as pool:
        workers = [pool.submit(_work, blocks, outputs, advance) for _ in range(threads)]
        for worker in workers:
            worker.result()
    checkpoint.check_unchanged()


def _blocks(plan: Plan) -> Iterator[Block]:
    for work in plan.work:
        n_rows, step = work.placed.info.n_rows, work.rows_in_a_block
        for start in range(0, n_rows, step):
            yield work, start, min(start + step, n_rows)


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


def _work(blocks: _Shared, outputs: Mapping[str, Output], advance: Callable[[int], None]) -> None:
    try:
        while (block := blocks.next()) is not None:
            work, start, stop = block
            data = make_rows(work, start, stop)
            offset = work.placed.offset_in_file + start * work.placed.info.row_bytes
            outputs[work.file.path].write_at(offset, data.data)
            advance(data.nbytes)
    except BaseException:
        blocks.stop()
        raise


def make_rows(work: Work, start: int, stop: int) -> npt.NDArray[np.uint8]:
    """Rows start to stop of one output tensor, as they are stored: uint8, shape (stop - start, row_bytes)."""
    stored = work.input.read_rows(start, stop)
    if work.copies:
        return np.ascontiguousarray(stored)
    info = work.placed.info
    weights = quants.decode(stored, work.input.info.dtype)
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
    return packed[0] if len(packed) == 1 else np.concatenate(packed)


def _by_expert(info: TensorInfo, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(expert, first row, last row + 1) for rows that may be of several: each expert has an importance of its own."""
    n_rows = info.shape[-2] if len(info.shape) > 2 else info.n_rows
    for expert in range(start // n_rows, -(-stop // n_rows)):
        yield expert, max(start, expert * n_rows), min(stop, (expert + 1) * n_rows)
