"""SHA-256 of a file while its bytes pass by on their way elsewhere, in whatever order they come."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

# Bytes that wait for those before them; what finds no room is read again at the end.
ROOM = 8 << 20
SHORT_BYTES = 16
_SHORT_GAP = 64 << 10
_READ_BYTES = 1 << 20

ReadInto = Callable[[memoryview, int], None]


def short_digest(data: bytes | memoryview) -> bytes:
    """The first half of SHA-256: enough to tell what was written from what a power cut left."""
    return hashlib.sha256(data).digest()[:SHORT_BYTES]


class RunningDigest:
    """Hashes what comes in order at once, keeps a little that comes early, and reads what never came.

    read_into: fills a view with the file's bytes from an offset on.
    """

    def __init__(self, read_into: ReadInto) -> None:
        self._hash = hashlib.sha256()
        self._read_into = read_into
        self._next = 0  # everything before this offset is hashed
        self._waiting: dict[int, bytes] = {}
        self._room = ROOM
        self._lock = threading.Lock()

    def feed(self, offset: int, data: bytes | memoryview) -> None:
        """Bytes of the file, as they are read or written; those that were seen before are passed over."""
        with self._lock:
            if offset <= self._next:
                self._take(offset, data)
                while (early := self._waiting.pop(self._next, None)) is not None:
                    self._room += len(early)
                    self._take(self._next, early)
            elif len(data) <= self._room and offset not in self._waiting:
                self._waiting[offset] = bytes(data)
                self._room -= len(data)

    def skip(self, offset: int) -> None:
        """Nobody will come with the bytes before this offset: if they are next and few, they are read now."""
        with self._lock:
            if self._next < offset <= self._next + _SHORT_GAP:
                self._read_up_to(offset)

    def finish(self, size: int) -> str:
        """The digest of all `size` bytes, in hexadecimal."""
        with self._lock:
            self._waiting.clear()
            self._read_up_to(size)
            return self._hash.hexdigest()

    def read_head(self, n_bytes: int) -> None:
        """Take the first bytes of the file, which were read before anybody asked for its digest."""
        with self._lock:
            self._read_up_to(n_bytes)

    def _read_up_to(self, end: int) -> None:
        buffer = memoryview(bytearray(min(_READ_BYTES, max(0, end - self._next))))
        while self._next < end:
            view = buffer[: end - self._next]
            self._read_into(view, self._next)
            self._take(self._next, view)

    def _take(self, offset: int, data: bytes | memoryview) -> None:
        new = memoryview(data)[self._next - offset :]
        self._hash.update(new)
        self._next += len(new)
