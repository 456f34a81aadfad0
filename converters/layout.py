"""What a result will be, byte for byte, before any weight is read: its files, their heads, each tensor's place."""

from __future__ import annotations

from dataclasses import dataclass

from converters.tensors import TensorInfo


@dataclass(frozen=True)
class PlacedTensor:
    """A tensor in an output file.

    info: name, type and shape as the file has them. source: the GGUF name of the checkpoint's tensor that fills it.
    row_order: for each row of a group of len(row_order) rows, which row of the source's group it is (None: as is).
    """

    info: TensorInfo
    source: str
    offset_in_file: int
    row_order: tuple[int, ...] | None = None


@dataclass(frozen=True)
class OutputFile:
    """A file of the result.

    path: relative to the result's folder. head: its first bytes (header and padding; the whole file where it has no
    tensors). Bytes between tensors that nobody writes are zero.
    """

    path: str
    size: int
    head: bytes
    tensors: tuple[PlacedTensor, ...] = ()
