"""Zip archives: what torch and zipfile write is read; what two readers could read in two ways is refused."""

from __future__ import annotations

import io
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.errors import MalformedError, UnsupportedError
from converters.formats import zip_records
from converters.formats.zip_records import Record
from converters.input_file import InputFile

RECORDS = {"archive/data.pkl": b"\x80\x02}.", "archive/data/0": b"12345678", "archive/version": b"3\n"}


def archive(records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytearray:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", compression) as file:
        for name, data in records.items():
            file.writestr(name, data)
    return bytearray(memory.getvalue())


def read(folder: Path, data: bytes) -> dict[str, Record]:
    path = folder / "pytorch_model.bin"
    path.write_bytes(data)
    with InputFile(path) as file:
        return zip_records.read_directory(file)


VALID = bytes(archive(RECORDS))
DIRECTORY = VALID.index(b"PK\x01\x02")
END = VALID.index(b"PK\x05\x06")
SECOND = VALID.index(b"PK\x03\x04", 4)  # local header of data/0
SECOND_ENTRY = VALID.index(b"PK\x01\x02", DIRECTORY + 4)


def patched(*changes: tuple[int, bytes]) -> bytes:
    data = bytearray(VALID)
    for offset, new in changes:
        data[offset : offset + len(new)] = new
    return bytes(data)


def number(value: int, n_bytes: int = 4) -> bytes:
    return value.to_bytes(n_bytes, "little")


def sizes(value: int) -> list[tuple[int, bytes]]:
    """Another size for the second record, in the directory and in its local header."""
    return [(SECOND_ENTRY + 20, number(value) * 2), (SECOND + 18, number(value) * 2)]


def inserted(offset: int, new: bytes) -> bytes:
    """Bytes put in between, with every offset behind them told."""
    data = bytearray(VALID)
    data[END + 16 : END + 20] = number(DIRECTORY + len(new))
    entry = DIRECTORY
    while entry < END:
        header_offset = int.from_bytes(data[entry + 42 : entry + 46], "little")
        if header_offset >= offset:
            data[entry + 42 : entry + 46] = number(header_offset + len(new))
        entry += 46 + data[entry + 28]
    return bytes(data[:offset] + new + data[offset:])


def test_records_are_found_where_they_are(tmp_path: Path) -> None:
    records = read(tmp_path, VALID)
    assert records == {
        "archive/data.pkl": Record("archive/data.pkl", 30 + 16, 4, zlib.crc32(b"\x80\x02}.")),
        "archive/data/0": Record("archive/data/0", 50 + 30 + 14, 8, zlib.crc32(b"12345678")),
        "archive/version": Record("archive/version", 102 + 30 + 15, 2, zlib.crc32(b"3\n")),
    }


def test_what_torch_writes_agrees_with_zipfile(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "model.pth"
    torch.save({"a": torch.arange(1000), "b": torch.zeros(0), "é": torch.ones(3, dtype=torch.bfloat16)}, path)
    with InputFile(path) as file, zipfile.ZipFile(path) as theirs:
        ours = zip_records.read_directory(file)
        assert list(ours) == theirs.namelist()
        for name, record in ours.items():
            assert zip_records.read(file, record, 1 << 20) == theirs.read(name)
            assert record.offset_in_file % 64 == 0
        assert zip_records.prefix(file, ours) == "model"


def test_64_bit_fields_are_read(tmp_path: Path) -> None:
    """A record of more than 4 GB in a file of nothing but holes, as zipfile writes it."""
    path = tmp_path / "model.pth"
    size = (4 << 30) + 5
    name = b"m/data/0"
    full = number(0xFFFFFFFF)
    head = (
        b"PK\x03\x04" + struct.pack("<5H", 45, 0, 0, 0, 0) + number(7) + full + full + struct.pack("<2H", len(name), 20)
    )
    head += name + struct.pack("<2H2Q", 1, 16, size, size)
    entry = b"PK\x01\x02" + struct.pack("<6H", 45, 45, 0, 0, 0, 0) + number(7) + full + full
    entry += struct.pack("<5H2L", len(name), 20, 0, 0, 0, 0, 0) + name + struct.pack("<2H2Q", 1, 16, size, size)
    start = len(head) + size
    end64 = b"PK\x06\x06" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, 1, 1, len(entry), start)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, start + len(entry), 1)
    with path.open("wb") as file:
        file.write(head)
        file.seek(start)
        file.write(
            entry + end64 + locator + b"PK\x05\x06" + struct.pack("<4HLLH", 0, 0, 1, 1, len(entry), 0xFFFFFFFF, 0)
        )
    with InputFile(path) as file:
        assert zip_records.read_directory(file) == {"m/data/0": Record("m/data/0", len(head), size, 7)}


BROKEN = [
    ("nothing", b"", "zip end record"),
    ("PK alone", b"PK", "zip end record"),
    ("no end record", VALID[:END], "zip end record"),
    ("bytes before the archive", b"#!/bin/sh\n" + VALID, "zip directory"),
    ("bytes before it, offsets moved", inserted(0, b"#!/bin/sh\n"), "zip"),
    ("bytes behind the archive", VALID + b"x", "zip end record"),
    ("a zip behind the zip", VALID + VALID, "zip directory"),
    ("a comment", patched((END + 20, number(3, 2))) + b"hey", "zip end record"),
    ("directory beyond the end", patched((END + 16, number(1 << 31))), "zip directory"),
    ("directory too long", patched((END + 12, number(1 << 31))), "zip directory"),
    ("one record more than there", patched((END + 8, number(4, 2) * 2)), "zip directory"),
    ("one record fewer than there", patched((END + 8, number(2, 2) * 2)), "zip directory"),
    ("no records announced", patched((END + 8, number(0, 2) * 2)), "zip directory"),
    ("60,000 records announced", patched((END + 8, number(60_000, 2) * 2)), "zip directory"),
    ("another disk", patched((END + 4, number(1, 2))), "zip end record"),
    ("no entry's magic", patched((DIRECTORY, b"PK\x01\x03")), "zip directory[0]"),
    ("a name of 60,000 bytes", patched((DIRECTORY + 28, number(60_000, 2))), "zip directory[0]"),
    ("no name", patched((DIRECTORY + 28, number(0, 2))), "zip directory[0]"),
    ("flag: encrypted", patched((DIRECTORY + 8, number(0x1, 2)), (6, number(0x1, 2))), "archive/data.pkl"),
    ("flag: patched data", patched((DIRECTORY + 8, number(0x20, 2))), "archive/data.pkl"),
    ("flag: strongly encrypted", patched((DIRECTORY + 8, number(0x40, 2))), "archive/data.pkl"),
    ("flag in the local header alone", patched((6, number(0x1, 2))), "archive/data.pkl"),
    ("a descriptor announced, none there", patched((6, b"\x08"), (DIRECTORY + 8, b"\x08")), "archive/data.pkl"),
    ("longer than it is", patched((SECOND_ENTRY + 20, number(9) * 2)), "archive/data/0"),
    ("shorter than it is", patched(*sizes(7)), "archive/data/0"),
    ("larger than the file", patched(*sizes(1 << 30)), "archive/data/0"),
    ("sizes in 64 bits that are not there", patched((SECOND_ENTRY + 20, b"\xff" * 8)), "zip directory[1]"),
    ("another local size", patched((SECOND + 18, number(9))), "archive/data/0"),
    ("another local CRC", patched((SECOND + 14, number(9))), "archive/data/0"),
    ("another local method", patched((SECOND + 8, number(8, 2))), "archive/data/0"),
    ("another local name", patched((SECOND + 30, b"archive/data/1")), "archive/data/0"),
    ("a longer local name", patched((SECOND + 26, number(15, 2))), "archive/data/0"),
    ("local extra over the data", patched((SECOND + 28, number(8, 2))), "archive/data/0"),
    ("no local header", patched((SECOND, b"PK\x07\x04")), "archive/data/0"),
    ("two entries, one body", patched((SECOND_ENTRY + 42, number(0))), "archive/data.pkl"),
    ("a header beyond the directory", patched((SECOND_ENTRY + 42, number(1 << 31))), "archive/data.pkl"),
    ("a name twice", patched((VALID.rindex(b"archive/version"), b"archive/data/0\xff")), "zip directory"),
    ("bytes between records", inserted(SECOND, b"hidden"), "archive/data.pkl"),
    ("bytes before the directory", inserted(DIRECTORY, b"hidden"), "archive/version"),
    ("an archive of nothing, behind bytes", b"hiddenPK\x05\x06" + bytes(12) + number(6) + bytes(2), "zip"),
]  # fmt: skip
PACKED = [
    ("deflate", bytes(archive({"a/data.pkl": bytes(9999)}, zipfile.ZIP_DEFLATED)), "a/data.pkl"),
    ("a bomb", bytes(archive({"a/0": bytes(10 << 20)}, zipfile.ZIP_BZIP2)), "a/0"),
    ("packed to another size", patched((SECOND_ENTRY + 20, number(7))), "archive/data/0"),
]


@pytest.mark.parametrize(("data", "field"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_archive_is_refused(tmp_path: Path, data: bytes, field: str) -> None:
    with pytest.raises(MalformedError) as caught:
        read(tmp_path, data)
    assert caught.value.field == field


@pytest.mark.parametrize(("data", "field"), [case[1:] for case in PACKED], ids=[case[0] for case in PACKED])
def test_a_packed_record_is_unsupported(tmp_path: Path, data: bytes, field: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read(tmp_path, data)
    assert (caught.value.field, caught.value.allowed) == (field, "records that are stored as they are")


def test_a_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    memory = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(memory, "w") as file:
        warnings.simplefilter("ignore")
        file.writestr("a/data.pkl", b"one")
        file.writestr("a/data.pkl", b"two")
    with pytest.raises(MalformedError, match="a second record of this name"):
        read(tmp_path, memory.getvalue())


@pytest.mark.parametrize("length", range(0, len(VALID), 3))
def test_an_archive_cut_anywhere_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(MalformedError):
        read(tmp_path, VALID[:length])


@pytest.mark.parametrize("records", [100_001, 70_000])
def test_very_many_records_are_refused_or_read_in_seconds(tmp_path: Path, records: int) -> None:
    entry: Callable[[int], bytes] = lambda i: b"m/%08d" % i  # noqa: E731
    head = struct.pack("<5H3L", 20, 0, 0, 0, 0, 0, 0, 0)
    local = b"".join(b"PK\x03\x04" + head + struct.pack("<2H", 10, 0) + entry(i) for i in range(records))
    directory = b"".join(
        b"PK\x01\x02" + struct.pack("<H", 20) + head + struct.pack("<5H2L", 10, 0, 0, 0, 0, 0, 40 * i) + entry(i)
        for i in range(records)
    )
    end64 = b"PK\x06\x06" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, records, records, len(directory), len(local))
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, len(local) + len(directory), 1)
    end = b"PK\x05\x06" + struct.pack("<4HLLH", 0, 0, 0xFFFF, 0xFFFF, len(directory), len(local), 0)
    start = time.process_time()
    if records > 100_000:
        with pytest.raises(MalformedError, match="at most 100000 records"):
            read(tmp_path, local + directory + end64 + locator + end)
    else:
        assert len(read(tmp_path, local + directory + end64 + locator + end)) == records
    assert time.process_time() - start < 8


def test_a_wrong_crc_is_found_where_the_record_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(patched((46, b"\x80\x02].")))
    with InputFile(path) as file:
        record = zip_records.read_directory(file)["archive/data.pkl"]
        with pytest.raises(MalformedError, match=r"model\.bin: archive/data\.pkl: found CRC-32 "):
            zip_records.read(file, record, 100)


def test_a_record_larger_than_wanted_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(VALID)
    with InputFile(path) as file:
        record = zip_records.read_directory(file)["archive/data/0"]
        with pytest.raises(MalformedError, match="found 8 bytes, allowed at most 7"):
            zip_records.read(file, record, 7)


@pytest.mark.parametrize("names", [["a/x", "b/x"], ["a/x", "y"], ["x"], []])
def test_records_without_one_common_folder_are_refused(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(archive(dict.fromkeys(names, b"1")))
    with InputFile(path) as file, pytest.raises(MalformedError, match="allowed one folder with all records"):
        zip_records.prefix(file, zip_records.read_directory(file))
