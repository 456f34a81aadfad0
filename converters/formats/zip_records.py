"""Zip archives as PyTorch writes them: records that are stored as they are, one after another, without a gap.

    record     local header  PK\\3\\4, 30 bytes, name, extra (with which PyTorch aligns the data)
               data          as many bytes as the directory says, not compressed
               descriptor    PK\\7\\8, CRC-32, size twice (4 or 8 bytes each); only if bit 3 of the flags is set
    directory  for each record  PK\\1\\2, 46 bytes, name, extra (64-bit sizes and offset, where 32 bits are not enough)
    end        [PK\\6\\6, 56 bytes; PK\\6\\7, 20 bytes], PK\\5\\6, 22 bytes, then nothing

APPNOTE.TXT of PKWARE, sections 4.3 to 4.5; miniz in PyTorch's caffe2/serialize/inline_container.cc. Other zip readers
search, guess and skip, and so two of them can see two archives in the same bytes. Here every byte has one meaning: the
records cover the file from its first byte to the directory, and local headers agree with it. What is compressed,
encrypted or overlapping is refused. Names are keys and never become paths.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from converters.errors import MalformedError, UnsupportedError
from converters.input_file import InputFile

_MOST_RECORDS = 100_000
_LARGEST_DIRECTORY = 64 << 20
_READ_BYTES = 1 << 20

_END = struct.Struct("<4s4H2LH")
_LOCATOR64 = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_DESCRIPTORS = (struct.Struct("<4sLQQ"), struct.Struct("<4s3L"))

_HAS_DESCRIPTOR, _NAME_IS_UTF8 = 0x0008, 0x0800
_EXTRA_64 = 1
_FULL = 0xFFFFFFFF  # "see the extra field"


@dataclass(frozen=True)
class Record:
    """offset_in_file: of its data. size: in bytes. crc32: as the archive says; `read` compares it."""

    name: str
    offset_in_file: int
    size: int
    crc32: int


@dataclass(frozen=True)
class _Entry:
    """A record as the directory has it."""

    name: bytes
    flags: int
    crc32: int
    size: int
    header_offset: int


def read_directory(file: InputFile) -> dict[str, Record]:
    """Every record by name, in the order of the file. Raises MalformedError, UnsupportedError for compressed ones."""
    start, stop, count = _end(file)
    entries = sorted(_entries(file, start, stop, count), key=lambda entry: entry.header_offset)
    first = entries[0].header_offset if entries else start
    if first != 0:
        raise MalformedError(file.path, "zip", offset=0, found=f"{first} bytes of no record", allowed="a record")
    records: dict[str, Record] = {}
    for number, entry in enumerate(entries):
        name = _name(file, entry)
        if name in records:
            raise MalformedError(file.path, name, found="a second record of this name", allowed="each name once")
        records[name] = Record(name, _data_offset(file, entry, name), entry.size, entry.crc32)
        following = entries[number + 1].header_offset if number + 1 < len(entries) else start
        _check_descriptor(file, entry, name, records[name].offset_in_file + entry.size, following)
    return records


def read(file: InputFile, record: Record, max_bytes: int) -> bytes:
    """A small record's bytes. Raises MalformedError for more than max_bytes or a wrong CRC-32."""
    if record.size > max_bytes:
        raise MalformedError(file.path, record.name, found=f"{record.size} bytes", allowed=f"at most {max_bytes}")
    data = file.read(record.offset_in_file, record.size, record.name)
    _check_crc32(file, record, zlib.crc32(data))
    return data


def check(file: InputFile, record: Record) -> None:
    """Read a record of any size and raise MalformedError if its CRC-32 is wrong."""
    crc32 = 0
    for start in range(0, record.size, _READ_BYTES):
        n_bytes = min(_READ_BYTES, record.size - start)
        crc32 = zlib.crc32(file.read_array(record.offset_in_file + start, n_bytes, record.name).data, crc32)
    _check_crc32(file, record, crc32)


def _check_crc32(file: InputFile, record: Record, crc32: int) -> None:
    if crc32 != record.crc32:
        allowed = f"{record.crc32:08x}, as the directory says"
        raise MalformedError(file.path, record.name, found=f"CRC-32 {crc32:08x}", allowed=allowed)


def _end(file: InputFile) -> tuple[int, int, int]:
    """Where the directory starts and stops, and how many records it has."""
    end_offset = file.size - _END.size
    fields = _END.unpack(file.read(end_offset, _END.size, "zip end record")) if end_offset >= 0 else (b"",)
    if fields[0] != b"PK\x05\x06":
        found = "other bytes at the end of the file"
        raise MalformedError(file.path, "zip end record", offset=max(0, end_offset), found=found, allowed="PK\\5\\6")
    _, disk, first_disk, count_here, count, size, start, _ = fields
    stop = end_offset
    locator_offset = end_offset - _LOCATOR64.size
    if locator_offset >= _END64.size and file.read(locator_offset, 4, "zip end record") == b"PK\x06\x07":
        count_here, count, size, start = _end64(file, locator_offset, (count_here, count, size, start))
        stop = locator_offset - _END64.size
    if disk or first_disk or count != count_here:
        found = f"disk {disk}, directory on disk {first_disk}, {count_here} of {count} records"
        raise MalformedError(file.path, "zip end record", offset=end_offset, found=found, allowed="one disk")
    if count > _MOST_RECORDS or size > _LARGEST_DIRECTORY:
        allowed = f"at most {_MOST_RECORDS} records in {_LARGEST_DIRECTORY} bytes"
        raise MalformedError(file.path, "zip directory", found=f"{count} records in {size} bytes", allowed=allowed)
    if start + size != stop:
        raise MalformedError(
            file.path,
            "zip directory",
            offset=end_offset,
            found=f"bytes {start} to {start + size}",
            allowed=f"an end at {stop}",
        )
    return start, stop, count


def _end64(file: InputFile, locator_offset: int, small: tuple[int, ...]) -> tuple[int, ...]:
    """Counts, size and offset in 64 bits; they must be the 32-bit ones wherever those are not full."""
    offset = locator_offset - _END64.size
    _, _, located, n_disks = _LOCATOR64.unpack(file.read(locator_offset, _LOCATOR64.size, "zip end record"))
    magic, length, _, _, disk, first_disk, *values = _END64.unpack(file.read(offset, _END64.size, "zip end record"))
    if magic != b"PK\x06\x06" or located != offset or length != _END64.size - 12 or disk or first_disk or n_disks > 1:
        found = "a 64-bit record that does not fit its locator"
        raise MalformedError(file.path, "zip end record", offset=offset, found=found, allowed="one directly before it")
    for value, least, full in zip(values, small, (0xFFFF, 0xFFFF, _FULL, _FULL), strict=True):
        if least not in (value, full):
            found = f"{value} in 64 bits, {least} in fewer"
            raise MalformedError(file.path, "zip end record", offset=offset, found=found, allowed="the same")
    return tuple(values)


def _entries(file: InputFile, start: int, stop: int, count: int) -> list[_Entry]:
    if count * _ENTRY.size > stop - start:
        raise MalformedError(
            file.path,
            "zip directory",
            offset=start,
            found=f"{stop - start} bytes",
            allowed=f"enough for {count} records",
        )
    data = memoryview(file.read(start, stop - start, "zip directory"))
    entries, position = [], 0
    for number in range(count):
        field = f"zip directory[{number}]"
        if len(data) - position < _ENTRY.size:
            raise MalformedError(file.path, field, offset=start + position, found="its end", allowed=f"{count} records")
        entry, n_bytes = _entry(file, field, start + position, data[position:])
        entries.append(entry)
        position += n_bytes
    if position != len(data):
        raise MalformedError(
            file.path,
            "zip directory",
            offset=start + position,
            found=f"{len(data) - position} bytes more",
            allowed="none",
        )
    return entries


def _entry(file: InputFile, field: str, offset_in_file: int, data: memoryview) -> tuple[_Entry, int]:
    """The entry with which the data begin, and its bytes."""
    fields = _ENTRY.unpack_from(data)
    magic, _, _, flags, method, _, _, crc32, packed, size, n_name, n_extra, n_comment, disk, _, _, offset = fields
    extra_start = _ENTRY.size + n_name
    name = bytes(data[_ENTRY.size : extra_start])
    extra = bytes(data[extra_start : extra_start + n_extra])
    if magic != b"PK\x01\x02" or len(name) != n_name or not name or len(extra) != n_extra or n_comment or disk:
        raise MalformedError(
            file.path, field, offset=offset_in_file, found="no record, or one with a comment or on another disk",
            allowed="a named record",
        )  # fmt: skip
    size, packed, offset = _wide(file, field, extra, size, packed, offset)
    if flags & ~(_HAS_DESCRIPTOR | _NAME_IS_UTF8):
        raise MalformedError(file.path, _shown(name), found=f"flags {flags:#06x}", allowed="not encrypted, not patched")
    if method != 0 or packed != size:
        found = f"method {method}, {size} bytes packed into {packed}"
        raise UnsupportedError(file.path, _shown(name), found=found, allowed="records that are stored as they are")
    return _Entry(name, flags, crc32, size, offset), extra_start + n_extra


def _wide(file: InputFile, field: str, extra: bytes, *values: int) -> list[int]:
    """Size, packed size and offset, with those that are full taken from the extra field."""
    wide = _extra_64(extra)
    result = []
    for value in values:
        if value == _FULL:
            if len(wide) < 8:
                raise MalformedError(file.path, field, found="no 64-bit value", allowed="one for each full field")
            value, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        result.append(value)
    return result


def _extra_64(extra: bytes) -> bytes:
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == _EXTRA_64:
            return extra[4 : 4 + length]
        extra = extra[4 + length :]
    return b""


def _data_offset(file: InputFile, entry: _Entry, name: str) -> int:
    """Where the data begins; the local header must say what the directory says, or leave it to the descriptor."""
    at = entry.header_offset
    magic, _, flags, method, _, _, crc32, packed, size, n_name, n_extra = _LOCAL.unpack(
        file.read(at, _LOCAL.size, name)
    )
    deferred = {0} if entry.flags & _HAS_DESCRIPTOR else set()
    if (
        magic != b"PK\x03\x04"
        or (flags, method) != (entry.flags, 0)
        or crc32 not in deferred | {entry.crc32}
        or not {size, packed} <= deferred | {entry.size, _FULL}
        or file.read(at + _LOCAL.size, n_name, name) != entry.name
    ):
        raise MalformedError(file.path, name, offset=at, found="another local header", allowed="the directory's entry")
    return at + _LOCAL.size + int(n_name) + int(n_extra)


def _check_descriptor(file: InputFile, entry: _Entry, name: str, at: int, following: int) -> None:
    """Nothing but a true descriptor, if one was announced, lies between a record and what follows it."""
    left = following - at
    if not entry.flags & _HAS_DESCRIPTOR:
        fits = left == 0
    else:
        form = next((form for form in _DESCRIPTORS if form.size == left), None)
        expected = (b"PK\x07\x08", entry.crc32, entry.size, entry.size)
        fits = form is not None and form.unpack(file.read(at, left, name)) == expected
    if not fits:
        fault = f"{-left} bytes into" if left < 0 else f"{left} bytes before"
        allowed = "what follows, after a descriptor that agrees if one is announced"
        raise MalformedError(file.path, name, offset=at, found=f"its end {fault} what follows", allowed=allowed)


def _name(file: InputFile, entry: _Entry) -> str:
    try:
        return entry.name.decode()
    except UnicodeDecodeError:
        raise MalformedError(file.path, "zip directory", found=entry.name, allowed="names in UTF-8") from None


def _shown(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def prefix(file: InputFile, records: Mapping[str, Record]) -> str:
    """The one folder that all of PyTorch's records lie in: `archive` for `archive/data.pkl`."""
    folders = {name.split("/", 1)[0] for name in records}
    if len(folders) != 1 or any("/" not in name for name in records):
        found = ", ".join(sorted(folders)[:4]) or "no records"
        raise MalformedError(file.path, "zip", found=found, allowed="one folder with all records")
    folder = folders.pop()
    if folder in ("", ".", "..") or not folder.isprintable() or set(folder) & set("\\:"):
        raise MalformedError(file.path, "zip", found=f"the folder {folder!r}", allowed="a plain name")
    return folder
