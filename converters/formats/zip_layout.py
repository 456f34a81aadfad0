"""A zip archive as PyTorch writes it, before the bytes of its records are known.

    local header   PK\\3\\4, 30 bytes, name, [zip64 extra], extra "FB": padding, up to data at a multiple of 64
    data           as it is, not compressed
    descriptor     PK\\7\\8, CRC-32, size twice (4 bytes each, 8 where there is a zip64 extra); none if there is no data
    directory      for each record  PK\\1\\2, 46 bytes, name, [zip64 extra]
    end            PK\\6\\6, 56 bytes; PK\\6\\7, 20 bytes; PK\\5\\6, 22 bytes

APPNOTE.TXT of PKWARE, sections 4.3 to 4.5; `getPadding` in PyTorch's caffe2/serialize/inline_container.cc and
`mz_zip_writer_add_mem_ex_v2` of miniz, whose bytes these are: no times, no attributes, versions 0. CRC-32 of data that
is not there yet is left open, in the descriptor and in the directory, for `converters.convert` to fill in.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from converters.layout import Checksum

ALIGNMENT = 64  # bytes

_LOCAL = struct.Struct("<4s5H3L2H")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_END = struct.Struct("<4s4H2LH")
_HAS_DESCRIPTOR, _NAME_IS_UTF8 = 0x0008, 0x0800
_EXTRA_64, _PADDING = 1, b"FB"
_FULL, _FULL_COUNT = 0xFFFFFFFF, 0xFFFF  # "see the 64-bit field"
_MADE_BY, _NEEDED = 0x031E, 45  # of the end record: Unix and version 3.0; zip64


@dataclass(frozen=True)
class ArchiveRecord:
    """A record to be: its data, or only the size of it. volatile: the data's CRC-32 is taken from the finished file."""

    name: str
    size: int
    data: bytes | None = None
    volatile: bool = False

    @staticmethod
    def of(name: str, data: bytes, *, volatile: bool = False) -> ArchiveRecord:
        return ArchiveRecord(name, len(data), data, volatile)

    @property
    def crc32(self) -> int | None:
        """None where it is not known yet."""
        if self.size == 0:
            return 0
        return None if self.data is None or self.volatile else zlib.crc32(self.data)


@dataclass(frozen=True)
class Archive:
    """size: of the file. offsets: where each record's data begins, by name. runs: bytes that are known, by offset.

    Bytes in no run and no record's data are checksums.
    """

    size: int
    offsets: dict[str, int]
    runs: tuple[tuple[int, bytes], ...]
    checksums: tuple[Checksum, ...]


def lay_out(records: list[ArchiveRecord]) -> Archive:
    """The archive of these records, in this order. Each name stands once."""
    canvas = _Canvas()
    headers, offsets = {}, {}
    open_crcs: dict[str, list[int]] = {record.name: [] for record in records if record.crc32 is None}
    for record in records:
        headers[record.name] = canvas.position
        canvas.write(_local_header(record, canvas.position))
        offsets[record.name] = canvas.position
        canvas.write(record.data) if record.data is not None else canvas.skip(record.size)
        if record.size:
            canvas.write(b"PK\x07\x08")
            _write_crc(canvas, record, open_crcs)
            wide = _extra_64(record.size, headers[record.name])
            canvas.write(struct.pack("<2Q" if wide else "<2L", record.size, record.size))
    start = canvas.position
    for record in records:
        _write_entry(canvas, record, headers[record.name], open_crcs)
    canvas.write(_end(len(records), start, canvas.position - start))
    checksums = tuple(
        Checksum(offsets[record.name], record.size, tuple(open_crcs[record.name]))
        for record in records
        if record.name in open_crcs
    )
    return Archive(canvas.position, offsets, canvas.runs, checksums)


class _Canvas:
    """Bytes one after another, with places between them that stay open."""

    def __init__(self) -> None:
        self.position = 0
        self._runs: list[tuple[int, bytearray]] = []

    @property
    def runs(self) -> tuple[tuple[int, bytes], ...]:
        return tuple((offset, bytes(run)) for offset, run in self._runs)

    def write(self, data: bytes) -> None:
        if not self._runs or self._runs[-1][0] + len(self._runs[-1][1]) != self.position:
            self._runs.append((self.position, bytearray()))
        self._runs[-1][1].extend(data)
        self.position += len(data)

    def skip(self, n_bytes: int) -> None:
        self.position += n_bytes


def _write_crc(canvas: _Canvas, record: ArchiveRecord, open_crcs: dict[str, list[int]]) -> None:
    crc32 = record.crc32
    if crc32 is not None:
        canvas.write(crc32.to_bytes(4, "little"))
    else:
        open_crcs[record.name].append(canvas.position)
        canvas.skip(4)


def _flags(record: ArchiveRecord) -> int:
    return _NAME_IS_UTF8 | (_HAS_DESCRIPTOR if record.size else 0)


def _extra_64(size: int, header_offset: int) -> bytes:
    """The sizes and the offset that 32 bits cannot hold; nothing where they all can."""
    values = [size, size] if size >= _FULL else []
    values += [header_offset] if header_offset >= _FULL else []
    return struct.pack(f"<2H{len(values)}Q", _EXTRA_64, 8 * len(values), *values) if values else b""


def _local_header(record: ArchiveRecord, offset: int) -> bytes:
    """The header with its name and extra fields; CRC and sizes stand in the descriptor."""
    name, extra = record.name.encode(), _extra_64(record.size, offset)
    unpadded = offset + _LOCAL.size + len(name) + len(extra) + 4
    n_padding = -unpadded % ALIGNMENT
    extra += _PADDING + n_padding.to_bytes(2, "little") + b"Z" * n_padding
    head = _LOCAL.pack(b"PK\x03\x04", 0, _flags(record), 0, 0, 0, 0, 0, 0, len(name), len(extra))
    return head + name + extra


def _write_entry(canvas: _Canvas, record: ArchiveRecord, offset: int, open_crcs: dict[str, list[int]]) -> None:
    """The directory's entry of a record."""
    name, extra, size = record.name.encode(), _extra_64(record.size, offset), min(record.size, _FULL)
    entry = _ENTRY.pack(
        b"PK\x01\x02", 0, 0, _flags(record), 0, 0, 0, 0, size, size, len(name), len(extra), 0, 0, 0, 0,
        min(offset, _FULL),
    )  # fmt: skip
    canvas.write(entry[:16])
    _write_crc(canvas, record, open_crcs)
    canvas.write(entry[20:] + name + extra)


def _end(count: int, start: int, size: int) -> bytes:
    """The three records behind the directory."""
    few = min(count, _FULL_COUNT)
    return (
        _END64.pack(b"PK\x06\x06", _END64.size - 12, _MADE_BY, _NEEDED, 0, 0, count, count, size, start)
        + _LOCATOR64.pack(b"PK\x06\x07", 0, start + size, 1)
        + _END.pack(b"PK\x05\x06", 0, 0, few, few, min(size, _FULL), min(start, _FULL), 0)
    )
