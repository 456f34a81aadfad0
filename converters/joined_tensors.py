"""Matrices that were divided over several files, as one: by their rows, or by their columns; or that all files have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from converters.errors import MalformedError
from converters.tensors import Bytes, FileTensor, Tensor, TensorInfo


@dataclass(frozen=True)
class _JoinedTensor:
    """At least one part."""

    parts: tuple[Tensor, ...]

    @property
    def origin(self) -> str:
        return f"{self.parts[0].origin} and {len(self.parts) - 1} more"

    @property
    def position(self) -> tuple[str, int]:
        return self.parts[0].position


@dataclass(frozen=True)
class StackedTensor(_JoinedTensor):
    """Parts with the same columns, one below the other. Each part has rows of its own."""

    @property
    def info(self) -> TensorInfo:
        n_rows = sum(part.info.shape[0] for part in self.parts)
        return replace(self.parts[0].info, shape=(n_rows, *self.parts[0].info.shape[1:]))

    def read_rows(self, start: int, stop: int) -> Bytes:
        pieces = list(self._pieces(start, stop))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _pieces(self, start: int, stop: int) -> Iterator[Bytes]:
        first = 0
        for part in self.parts:
            n_rows = part.info.n_rows
            low, high = max(start - first, 0), min(stop - first, n_rows)
            if low < high:
                yield part.read_rows(low, high)
            first += n_rows


@dataclass(frozen=True)
class SideBySideTensor(_JoinedTensor):
    """Parts with the same rows, one beside the other, each a whole number of blocks wide."""

    @property
    def info(self) -> TensorInfo:
        n_columns = sum(part.info.n_columns for part in self.parts)
        return replace(self.parts[0].info, shape=(*self.parts[0].info.shape[:-1], n_columns))

    def read_rows(self, start: int, stop: int) -> Bytes:
        return np.concatenate([part.read_rows(start, stop) for part in self.parts], axis=1)


@dataclass(frozen=True)
class ReplicatedTensor(_JoinedTensor):
    """The same tensor in several files, which must have the same bytes: they are compared as they are read."""

    parts: tuple[FileTensor, ...]

    @property
    def info(self) -> TensorInfo:
        return self.parts[0].info

    def read_rows(self, start: int, stop: int) -> Bytes:
        """Raises MalformedError, naming the file that differs from the first one."""
        first, *others = self.parts
        rows = first.read_rows(start, stop)
        for part in others:
            if not np.array_equal(part.read_rows(start, stop), rows):
                found, allowed = (
                    "other numbers",
                    f"those of {first.file.path.name}, as every shard has this tensor whole",
                )
                raise MalformedError(part.file.path, part.info.name, found=found, allowed=allowed)
        return rows
