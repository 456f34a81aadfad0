"""Tensors at rest: known by name, type and shape, read by rows, never whole."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from converters.dtypes import DType
from converters.input_file import InputFile

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TensorInfo:
    """What is known of a tensor before its weights are read. shape is row-major, as in torch."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def n_columns(self) -> int:
        return self.shape[-1] if self.shape else 1

    @property
    def n_rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def n_weights(self) -> int:
        return math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        return self.dtype.row_bytes(self.n_columns)

    @property
    def n_bytes(self) -> int:
        return self.n_rows * self.row_bytes


class Tensor(Protocol):
    """Rows of stored bytes; `converters.quants` turns them into numbers."""

    @property
    def info(self) -> TensorInfo: ...

    @property
    def origin(self) -> str:
        """Where its bytes are, for people: `model.safetensors: lm_head.weight`."""
        ...

    @property
    def position(self) -> tuple[str, int]:
        """File and offset at which its bytes begin: tensors that are read in this order are read in one sweep."""
        ...

    def read_rows(self, start: int, stop: int) -> Bytes:
        """Rows start to stop as uint8, shape (stop - start, row_bytes)."""
        ...


@dataclass(frozen=True)
class FileTensor(ABC):
    """A tensor that lies in a file; a subclass says how. offset_in_file: of its first weight."""

    info: TensorInfo
    file: InputFile
    offset_in_file: int

    @property
    def origin(self) -> str:
        return f"{self.file.path.name}: {self.info.name}"

    @property
    def position(self) -> tuple[str, int]:
        return self.file.path.name, self.offset_in_file

    @abstractmethod
    def read_rows(self, start: int, stop: int) -> Bytes: ...


@dataclass(frozen=True)
class StoredTensor(FileTensor):
    """One that lies there as one run of bytes."""

    def read_rows(self, start: int, stop: int) -> Bytes:
        row_bytes = self.info.row_bytes
        data = self.file.read_array(self.offset_in_file + start * row_bytes, (stop - start) * row_bytes, self.info.name)
        return data.reshape(stop - start, row_bytes)


@dataclass(frozen=True)
class ComputedTensor:
    """A small tensor that is in no file: its rows as bytes, shape (n_rows, row_bytes)."""

    info: TensorInfo
    origin: str
    rows: Bytes

    @property
    def position(self) -> tuple[str, int]:
        return "", 0

    def read_rows(self, start: int, stop: int) -> Bytes:
        return self.rows[start:stop]


@dataclass(frozen=True)
class TensorView:
    """Another tensor, seen otherwise: as it is but for what a subclass says."""

    tensor: Tensor

    @property
    def info(self) -> TensorInfo:
        return self.tensor.info

    @property
    def origin(self) -> str:
        return self.tensor.origin

    @property
    def position(self) -> tuple[str, int]:
        return self.tensor.position

    def read_rows(self, start: int, stop: int) -> Bytes:
        return self.tensor.read_rows(start, stop)


@dataclass(frozen=True)
class RenamedTensor(TensorView):
    """The same rows under another name."""

    name: str

    @property
    def info(self) -> TensorInfo:
        return replace(self.tensor.info, name=self.name)


@dataclass(frozen=True)
class ReorderedTensor(TensorView):
    """Rows in another order inside each group of `len(order)` rows: row g*n + i is the inner row g*n + order[i].

    A part of a group (of one attention head, which may be larger than a block) reads little more than its own rows.
    """

    order: tuple[int, ...]

    def read_rows(self, start: int, stop: int) -> Bytes:
        n = len(self.order)
        numbers = np.arange(start, stop)
        wanted = numbers - numbers % n + np.array(self.order)[numbers % n]
        rows = np.empty((stop - start, self.info.row_bytes), np.uint8)
        place = np.argsort(wanted)
        # Every second row, as of one side of rotary pairs, is read with what is between.
        for run in np.split(place, np.flatnonzero(np.diff(wanted[place]) > 2) + 1):
            first, last = wanted[run[0]], wanted[run[-1]] + 1
            rows[run] = self.tensor.read_rows(int(first), int(last))[wanted[run] - first]
        return rows


@dataclass(frozen=True)
class SlicedTensor(TensorView):
    """Some of the rows of a matrix: n_rows of them from first_row on."""

    first_row: int
    n_rows: int

    @property
    def info(self) -> TensorInfo:
        return replace(self.tensor.info, shape=(self.n_rows, *self.tensor.info.shape[1:]))

    @property
    def position(self) -> tuple[str, int]:
        file, offset = self.tensor.position
        return file, offset + self.first_row * self.tensor.info.row_bytes

    def read_rows(self, start: int, stop: int) -> Bytes:
        return self.tensor.read_rows(self.first_row + start, self.first_row + stop)
