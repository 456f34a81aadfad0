"""The first bytes of a file changed in place, so that a crash leaves the file as it was, as it is to be, or marked.

Before anything is written, a record of what changes stands beside the file, on the disk:

    .<name>.redo    SHA-256 of the rest; then, little-endian: size u64, n u64, n times offset u64 and n_bytes u64; then
                    for each of these the old bytes and the new

Then a mark takes the place of the file's first bytes, with which it is no GGUF file to anybody, us and others; then all
other bytes are written; then the first ones; then the record goes. Each step is on the disk before the next begins.
`finish` does the rest of this for a file that a crash left marked, if it holds nothing but old bytes, new bytes and the
mark. A record beside a file that is whole, or of somebody else's making, is thrown away.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from converters.formats.signatures import HALF_EDITED as MARK
from distro import disk

_PAGE = 4096  # bytes that are compared at a time
_HEAD = struct.Struct("<QQ")
_RUN = struct.Struct("<QQ")
_DIGEST_BYTES = 32
_LARGEST = 512 << 20


@dataclass(frozen=True)
class Run:
    """A run of bytes that changes. old and new have the same length."""

    offset: int
    old: bytes
    new: bytes


def overwrite(path: Path, old: bytes, new: bytes) -> int:
    """Make the first bytes of a file, which are `old`, those of `new`, as long. Gives the bytes that were written.

    The caller sees to it that nobody else does the same meanwhile. Raises StorageError, CannotCreateError,
    DiskFullError; then `finish` may have something left to do.
    """
    record = record_of(path)
    with disk.told(path):
        if old == new:
            disk.settle(path)
            return 0
        runs = tuple(_differences(old, new))
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            disk.write_whole(record, _packed(os.fstat(descriptor).st_size, runs))
            disk.write_all(descriptor, MARK, 0)
            os.fsync(descriptor)
            _carry_out(descriptor, runs)
        finally:
            os.close(descriptor)
        _remove(record)
    return sum(len(run.new) for run in runs)


def finish(path: Path) -> bool:
    """Carry out what an earlier run left half done, if it did. Gives whether the file was changed."""
    record = record_of(path)
    if not disk.is_file(record):
        return False
    with disk.told(path):
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if hasattr(os, "posix_fadvise"):  # after a failed fsync the system's memory may hold more than the disk
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            runs = _runs(record, os.fstat(descriptor).st_size)
            is_left = _is_half_done(descriptor, runs)
            if is_left:
                _carry_out(descriptor, runs)
        finally:
            os.close(descriptor)
        _remove(record)
    return is_left


def record_of(path: Path) -> Path:
    """Where the record of a file stands while it is being changed."""
    return path.with_name(f".{path.name}.redo")


def _differences(old: bytes, new: bytes) -> Iterator[Run]:
    """Runs of pages in which the two differ, and the first page, for the mark is there."""
    start = None
    for offset in range(0, len(old) + _PAGE, _PAGE):
        page = slice(offset, offset + _PAGE)
        if offset == 0 or old[page] != new[page]:
            start = offset if start is None else start
        elif start is not None:
            yield Run(start, old[start:offset], new[start:offset])
            start = None


def _packed(size: int, runs: tuple[Run, ...]) -> bytes:
    parts = [_HEAD.pack(size, len(runs))]
    parts += [_RUN.pack(run.offset, len(run.old)) for run in runs]
    parts += [data for run in runs for data in (run.old, run.new)]
    rest = b"".join(parts)
    return hashlib.sha256(rest).digest() + rest


def _runs(record: Path, size: int) -> tuple[Run, ...]:
    """What a record says; nothing for one that is no whole record, or speaks of a file of another size."""
    if disk.length(record) > _LARGEST:
        return ()
    data = record.read_bytes()
    digest, rest = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(rest).digest() != digest or len(rest) < _HEAD.size:
        return ()
    size_then, n_runs = _HEAD.unpack_from(rest)
    if size_then != size:
        return ()
    at = _HEAD.size + n_runs * _RUN.size
    if at > len(rest):
        return ()
    runs = []
    for index in range(n_runs):
        offset, n_bytes = _RUN.unpack_from(rest, _HEAD.size + index * _RUN.size)
        if offset + n_bytes > size:
            return ()
        runs.append(Run(offset, rest[at : at + n_bytes], rest[at + n_bytes : at + 2 * n_bytes]))
        at += 2 * n_bytes
    is_whole = at == len(rest) and runs and runs[0].offset == 0 and len(runs[0].old) >= len(MARK)
    return tuple(runs) if is_whole else ()


def _is_half_done(descriptor: int, runs: tuple[Run, ...]) -> bool:
    """Whether a file is on its way: it begins neither as it did nor as it will, and has no byte of anybody else's."""
    if not runs:
        return False
    found = [os.pread(descriptor, len(run.old), run.offset) for run in runs]
    if found[0].startswith((runs[0].old[: len(MARK)], runs[0].new[: len(MARK)])):
        return False
    marked = MARK + runs[0].old[len(MARK) :]
    sides = [(runs[0].old, runs[0].new, marked), *((run.old, run.new) for run in runs[1:])]
    return all(map(_is_between, found, sides))


def _is_between(found: bytes, sides: tuple[bytes, ...]) -> bool:
    """Whether each byte is that of one of the sides, which are of one length."""
    return len(found) == len(sides[0]) and all(byte in of_sides for byte, *of_sides in zip(found, *sides, strict=True))


def _carry_out(descriptor: int, runs: tuple[Run, ...]) -> None:
    """Everything behind the mark, then what belongs in its place."""
    first, *others = runs
    disk.write_all(descriptor, first.new[len(MARK) :], len(MARK))
    for run in others:
        disk.write_all(descriptor, run.new, run.offset)
    os.fsync(descriptor)
    disk.write_all(descriptor, first.new[: len(MARK)], 0)
    os.fsync(descriptor)


def _remove(record: Path) -> None:
    record.unlink(missing_ok=True)
    disk.sync_folder(record.parent)
