"""SHA-256 of a file while its bytes pass by on their way elsewhere, in whatever order they come."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

# Bytes that wait for those before them; what finds no room is read again at the end.
ROOM = 8 << 20
_READ_BYTES = 4 << 20


SHORT_BYTES = 16


def short_digest(data: bytes | memoryview) -> bytes:
    """The first half of SHA-256: enough to tell what was written from what a power cut left."""
    return hashlib.sha256(data).digest()[:SHORT_BYTES]


class RunningDigest:
    """Hashes what comes in order at once, keeps a little that comes early, and asks for the rest at the end."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
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

    def _take(self, offset: int, data: bytes | memoryview) -> None:
        new = memoryview(data)[self._next - offset :]
        self._hash.update(new)
        self._next += len(new)

    def finish(self, size: int, read: Callable[[int, int], bytes | memoryview]) -> str:
        """The digest of all `size` bytes, in hexadecimal. read: gives n bytes from an offset, for what never came."""
        self._waiting.clear()
        while self._next < size:
            self._take(self._next, read(self._next, min(_READ_BYTES, size - self._next)))
        return self._hash.hexdigest()
