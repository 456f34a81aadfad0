"""What a result will be, byte for byte, before any weight is read: its files, their heads, each tensor's place."""

from __future__ import annotations

from dataclasses import dataclass

from converters.tensors import TensorInfo


@dataclass(frozen=True)
class PlacedTensor:
    """A tensor in an output file.

    info: name, type and shape as the file has them. source: the GGUF name of the checkpoint's tensor that fills it.
    row_order: for each row of a group of len(row_order) rows, which row of the source's group it is (None: as is).
    first_row, first_column: where it begins in the source, once that is in order, if it is a part of it; a part of the
    columns is for plain types only. swap: whether the file has its numbers big-endian (`converters.byte_order`).
    """

    info: TensorInfo
    source: str
    offset_in_file: int
    row_order: tuple[int, ...] | None = None
    first_row: int = 0
    first_column: int = 0
    swap: bool = False


@dataclass(frozen=True)
class Checksum:
    """CRC-32 (zlib's) of a run of the file, which stands in the file itself as a little-endian u32, once or more."""

    start: int
    size: int
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class OutputFile:
    """A file of the result.

    path: relative to the result's folder. head: its first bytes (header and padding; the whole file where it has no
    tensors). pieces: other bytes that are known beforehand, each with its offset. checksums: what is known only when
    the tensors are there. Bytes between all these that nobody writes are zero.
    """

    path: str
    size: int
    head: bytes
    tensors: tuple[PlacedTensor, ...] = ()
    pieces: tuple[tuple[int, bytes], ...] = ()
    checksums: tuple[Checksum, ...] = ()
