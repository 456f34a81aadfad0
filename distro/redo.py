"""The first bytes of a file changed in place, so that a crash leaves the file as it was, or as it is to be.

Before anything is written, a record of what changes stands beside the file, on the disk:

    .<name>.redo    SHA-256 of the rest; then, little-endian: inode u64, size u64, n u64, n times offset u64 and
                    n_bytes u64; then for each of these the old bytes and the new

Then the bytes are written and synced, and the record goes. Whoever edits the file next carries a record out that was
left behind, if the file is the one that it speaks of and holds there nothing but old and new bytes, as after a crash;
otherwise somebody has changed the file meanwhile, and the record is thrown away.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distro import disk

_PAGE = 4096  # bytes that are compared at a time
_HEAD = struct.Struct("<QQQ")
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
    """Make the first bytes of a file, which are `old`, those of `new`, as long. Gives the bytes that were changed.

    Raises StorageError, CannotCreateError, DiskFullError; then `finish` may have something left to do.
    """
    runs = tuple(_differences(old, new))
    record = record_of(path)
    with disk.told(path):
        if not runs:
            disk.settle(path)
            return 0
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            disk.write_whole(record, _packed(status, runs))
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
            runs = _runs(record, os.fstat(descriptor))
            is_ours = all(_is_between(os.pread(descriptor, len(run.old), run.offset), run) for run in runs)
            if is_ours:
                _carry_out(descriptor, runs)
        finally:
            os.close(descriptor)
        _remove(record)
    return is_ours and bool(runs)


def record_of(path: Path) -> Path:
    """Where the record of a file stands while it is being changed."""
    return path.with_name(f".{path.name}.redo")


def _differences(old: bytes, new: bytes) -> Iterator[Run]:
    """Runs of pages in which the two differ."""
    start = None
    for offset in range(0, len(old) + _PAGE, _PAGE):
        page = slice(offset, offset + _PAGE)
        if old[page] != new[page]:
            start = offset if start is None else start
        elif start is not None:
            yield Run(start, old[start:offset], new[start:offset])
            start = None


def _packed(status: os.stat_result, runs: tuple[Run, ...]) -> bytes:
    parts = [_HEAD.pack(status.st_ino, status.st_size, len(runs))]
    parts += [_RUN.pack(run.offset, len(run.old)) for run in runs]
    parts += [data for run in runs for data in (run.old, run.new)]
    rest = b"".join(parts)
    return hashlib.sha256(rest).digest() + rest


def _runs(record: Path, status: os.stat_result) -> tuple[Run, ...]:
    """What a record says; nothing for one that is no whole record, or speaks of another file."""
    if not stat.S_ISREG(status.st_mode) or disk.length(record) > _LARGEST:
        return ()
    data = record.read_bytes()
    digest, rest = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
    if hashlib.sha256(rest).digest() != digest or rest[:16] != _HEAD.pack(status.st_ino, status.st_size, 0)[:16]:
        return ()
    n_runs = _HEAD.unpack_from(rest)[2]
    at = _HEAD.size + n_runs * _RUN.size
    runs = []
    for index in range(n_runs):
        offset, n_bytes = _RUN.unpack_from(rest, _HEAD.size + index * _RUN.size)
        runs.append(Run(offset, rest[at : at + n_bytes], rest[at + n_bytes : at + 2 * n_bytes]))
        at += 2 * n_bytes
    return tuple(runs)


def _is_between(found: bytes, run: Run) -> bool:
    """Whether each byte is the old one or the new one."""
    return len(found) == len(run.old) and all(byte in pair for byte, *pair in zip(found, run.old, run.new, strict=True))


def _carry_out(descriptor: int, runs: tuple[Run, ...]) -> None:
    for run in runs:
        disk.write_all(descriptor, run.new, run.offset)
    os.fsync(descriptor)


def _remove(record: Path) -> None:
    record.unlink(missing_ok=True)
    disk.sync_folder(record.parent)
