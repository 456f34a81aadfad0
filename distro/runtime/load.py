"""Weights of a checkpoint as float32 tensors: all in memory, or read one by one while a forward pass goes along.

Memory is known before anything is read: `memory_needed`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from converters import quants
from converters.checkpoint import Checkpoint
from converters.errors import MalformedError
from converters.tensors import Tensor as TensorAtRest
from distro import memory
from distro.runtime.kv_cache import KVCache

_FLOAT32_BYTES = 4
_BLOCK_BYTES = 8 * 2**20  # of decoded weights, read at once
_BY_ROWS = ("token_embd.weight", "output.weight")  # never whole in memory unless all are


@dataclass(frozen=True)
class Memory:
    """Bytes that a model takes. loaded: all weights at once. streamed: the largest layer, or block of rows, which is
    the most that is held at a time where weights are read as needed. cache: keys and values of past positions."""

    loaded: int
    streamed: int
    cache: int


def memory_needed(checkpoint: Checkpoint, n_positions: int) -> Memory:
    """What running this checkpoint takes, from its headers alone; activations come on top."""
    layers: Counter[str] = Counter()
    for name, tensor in checkpoint.tensors.items():
        layer = ".".join(name.split(".")[:2]) if name.startswith("blk.") else name
        layers[layer] += tensor.info.n_weights * _FLOAT32_BYTES
    return Memory(
        loaded=layers.total(),
        streamed=max([_BLOCK_BYTES, *(size for layer, size in layers.items() if layer not in _BY_ROWS)]),
        cache=KVCache.n_bytes(checkpoint.hyperparameters, n_positions),
    )


def fits_in_memory(need: Memory) -> bool:
    """Whether all weights and the cache find room beside what runs here already; True where the system does not say."""
    available = available_memory()
    return available is None or need.loaded + need.cache < 0.9 * available


def available_memory() -> int | None:
    """Bytes that can be had without pushing others out, and within what this process may use."""
    total = memory.total_bytes()
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:  # no Linux: what is installed is all that the system says
        return total
    kilobytes = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)
    limits = [limit for limit in (total, None if kilobytes is None else kilobytes * 1024) if limit is not None]
    return min(limits, default=None)


class Weights:
    """Weights by GGUF name, read from the checkpoint each time they are asked for, and dropped by whoever asked.

    So a model larger than memory gives logits, at the price of reading it once for every forward pass.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.path = checkpoint.path
        self._tensors = checkpoint.tensors

    def get(self, name: str) -> Tensor | None:
        """A tensor that not every checkpoint has."""
        return self[name] if name in self._tensors else None

    def __getitem__(self, name: str) -> Tensor:
        """A whole tensor, float32, in its own shape. Raises MalformedError where the checkpoint lacks it."""
        stored = self._stored(name)
        whole = torch.empty(stored.info.n_rows, stored.info.n_columns)
        for start, stop in _row_blocks(stored):
            _decode(stored, start, stop, whole[start:stop])
        return whole.reshape(stored.info.shape)

    def rows(self, name: str, ids: Sequence[int]) -> Tensor:
        """Some rows of a matrix, shape (len(ids), n_columns). Raises MalformedError for a row that it does not have."""
        stored = self._stored(name)
        self._check_rows(stored, ids)
        rows = torch.empty(len(ids), stored.info.n_columns)
        for place, row in enumerate(ids):
            _decode(stored, row, row + 1, rows[place : place + 1])
        return rows

    def product(self, x: Tensor, name: str) -> Tensor:
        """`x` times the transpose of a matrix that is large: (seq, n_columns) to (seq, n_rows)."""
        stored = self._stored(name)
        result = torch.empty(x.shape[0], stored.info.n_rows)
        for start, stop in _row_blocks(stored):
            block = torch.empty(stop - start, stored.info.n_columns)
            _decode(stored, start, stop, block)
            result[:, start:stop] = linear(x, block)
        return result

    def _stored(self, name: str) -> TensorAtRest:
        if name not in self._tensors:
            raise MalformedError(self.path, name, found="nothing", allowed="a tensor that the decoder needs")
        return self._tensors[name]

    def _check_rows(self, stored: TensorAtRest, ids: Sequence[int]) -> None:
        last = stored.info.n_rows - 1
        wrong = next((row for row in ids if not 0 <= row <= last), None)
        if wrong is not None:
            raise MalformedError(self.path, stored.info.name, found=f"token id {wrong}", allowed=f"0 to {last}")


class LoadedWeights(Weights):
    """All weights in memory from the start."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint)
        read = super().__getitem__
        self._loaded = {name: read(name) for name in checkpoint.tensors}

    def __getitem__(self, name: str) -> Tensor:
        self._stored(name)
        return self._loaded[name]

    def rows(self, name: str, ids: Sequence[int]) -> Tensor:
        self._check_rows(self._stored(name), ids)
        return self._loaded[name][torch.tensor(ids)]

    def product(self, x: Tensor, name: str) -> Tensor:
        return linear(x, self[name])


def _row_blocks(stored: TensorAtRest) -> Iterator[tuple[int, int]]:
    """From and to, in rows, so that a block is small beside memory."""
    n_rows = stored.info.n_rows
    step = max(1, _BLOCK_BYTES // (stored.info.n_columns * _FLOAT32_BYTES))
    for start in range(0, n_rows, step):
        yield start, min(start + step, n_rows)


def _decode(stored: TensorAtRest, start: int, stop: int, into: Tensor) -> None:
    into.numpy()[:] = quants.decode(stored.read_rows(start, stop), stored.info.dtype)
