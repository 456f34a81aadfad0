"""What is done of something long: a list beside what is being made or fetched, to go on with after a kill.

    {"schema": 1, "of": "<SHA-256 of what is being made>"}\\n
    then, for each block that was written: its number (u64), 16 bytes of its SHA-256, CRC-32 of these 24 (u32)

all little-endian. A conversion numbers its blocks, a fetch its pieces (distro/pieces.py). Nothing is synced and nothing
is believed. A record that is torn or flipped has a wrong CRC-32 and is passed over; a block that a power cut took,
though its record stayed, has another SHA-256 and is made again. So the list saves work and never decides what the bytes
are.
"""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

from converters.running_digest import SHORT_BYTES
from distro import disk

_RECORD = struct.Struct(f"<Q{SHORT_BYTES}sI")
_MOST = 1 << 25  # blocks, of 2**18 weights each


class Journal:
    """One list, open for more.

    records: what an earlier run left, (number, digest) in the order of writing. done: the last digest of each number.
    """

    def __init__(self, path: Path, identity: str, most: int = _MOST) -> None:
        """identity: SHA-256 of what is being made; a list of something else, or of more than `most`, is begun anew."""
        self.path, self._lock, self._has_grown = path, threading.Lock(), False
        head = _head(identity)
        with disk.told(path):
            disk.clear_special(path)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_APPEND
            self._descriptor = os.open(path, flags, 0o600)
            os.fchmod(self._descriptor, 0o600)  # whatever the umask has taken
            data = _content(self._descriptor, most)
            self.records = list(_records(data[len(head) :])) if data.startswith(head) else []
            self.done = dict(self.records)
            # The last record may be torn; what follows must begin where a record does.
            whole = len(head) + (len(data) - len(head)) // _RECORD.size * _RECORD.size if self.records else 0
            os.ftruncate(self._descriptor, whole)
            if not whole:
                self._append(head)

    def record(self, number: int, digest: bytes) -> None:
        fields = struct.pack(f"<Q{SHORT_BYTES}s", number, digest)
        with self._lock, disk.told(self.path):
            self._append(fields + zlib.crc32(fields).to_bytes(4, "little"))
            self._has_grown = True

    def _append(self, data: bytes) -> None:
        """All of it, also where the system takes it in parts: what follows begins where a record does."""
        while data:
            data = data[os.write(self._descriptor, data) :]

    @property
    def is_empty(self) -> bool:
        """Whether it says of no block that it is done."""
        return not self.done and not self._has_grown

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @staticmethod
    def read(path: Path, identity: str, most: int = _MOST) -> list[tuple[int, bytes]]:
        """The records of a list that another process may be writing; none for one of something else, or for no list."""
        head = _head(identity)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            data = _content(descriptor, most)
        except OSError:  # a folder
            return []
        finally:
            os.close(descriptor)
        return list(_records(data[len(head) :])) if data.startswith(head) else []

    @staticmethod
    def is_of(path: Path, identity: str) -> bool:
        """Whether the list in this file is of what is being made; False for anything that is none."""
        head = _head(identity)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return os.read(descriptor, len(head)) == head
        except OSError:  # a folder
            return False
        finally:
            os.close(descriptor)


def _head(identity: str) -> bytes:
    return json.dumps({"schema": 1, "of": identity}).encode() + b"\n"


def _content(descriptor: int, most: int) -> bytes:
    """What is in a list; nothing where it is longer than so many blocks, and so none of ours."""
    size = os.fstat(descriptor).st_size
    if size > (most + 8) * _RECORD.size:  # and its head
        return b""
    data = b""
    while len(data) < size and (more := os.pread(descriptor, size - len(data), len(data))):
        data += more
    return data


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    for number, digest, checksum in _RECORD.iter_unpack(data[: len(data) // _RECORD.size * _RECORD.size]):
        if zlib.crc32(struct.pack(f"<Q{SHORT_BYTES}s", number, digest)) == checksum:
            yield number, digest
