"""The digests of a file that is still arriving: over what is there without a gap from its beginning on, as that grows.

A thread of its own reads the file while the network works on the rest, mostly out of the system's cache, so that the
proof is there soon after the last byte. What it reads is what is on the disk, not what was received.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Self

from distro.digest import Digester
from distro.errors import StorageError

_READ = 1 << 20

ReadInto = Callable[[memoryview, int], int]


class Front:
    """read_into: fills a view from an offset of the file, and says how far. kinds: of digests that are wanted.

    n_verified: bytes that were read so far. pieces: SHA-256 of those pieces in which `lacks` had an interest.
    """

    def __init__(
        self,
        read_into: ReadInto,
        size: int,
        kinds: Collection[str],
        piece_length: int,
        lacks: Callable[[int], bool] = lambda number: False,
    ) -> None:
        self._read_into, self._size, self._piece_length, self._lacks = read_into, size, piece_length, lacks
        self._digester = Digester(kinds, size)
        self._changed = threading.Condition()
        self._reached = 0
        self._limit = size
        self._is_reading = False
        self._fault: BaseException | None = None
        self._is_over = False
        self.n_verified = 0
        self.pieces: dict[int, bytes] = {}
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)
        self._thread.start()

    def reached(self, n_bytes: int) -> None:
        """So many bytes are there from the beginning on."""
        with self._changed:
            if n_bytes > self._reached:
                self._reached = n_bytes
                self._changed.notify_all()

    def spare(self, start: int) -> None:
        """Read nothing from there on, as others may write there, until told otherwise or asked to finish.

        Nor does a read go on there after this.
        """
        with self._changed:
            self._limit = start
            self._changed.notify_all()
            while self._is_reading:
                self._changed.wait()

    def finish(self, tell: Callable[[], None] = lambda: None) -> dict[str, str]:
        """The digests, once all is there. tell: called now and then while waiting. Raises StorageError."""
        with self._changed:
            self._reached = self._limit = self._size
            self._changed.notify_all()
        while self._thread.is_alive():
            self._thread.join(0.1)
            tell()
        if self._fault is not None:
            raise self._fault
        return self._digester.digests()

    def close(self) -> None:
        """Read no more; the file may be closed after this."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            self._follow()
        except BaseException as error:  # raised in `finish`
            self._fault = error

    def _follow(self) -> None:
        buffer, hasher = memoryview(bytearray(min(_READ, max(1, self._size)))), None
        while (stop := self._next_stop()) is not None:
            view = buffer[: stop - self.n_verified]
            try:
                n_read = self._read_into(view, self.n_verified)
            finally:
                with self._changed:
                    self._is_reading = False
                    self._changed.notify_all()
            if not n_read:
                raise StorageError(f"a part file ends at byte {self.n_verified}, and had {stop} before")
            self._digester.update(view[:n_read])
            hasher = self._feed_piece(hasher, view[:n_read])
            self.n_verified += n_read

    def _feed_piece(self, hasher: hashlib._Hash | None, view: memoryview) -> hashlib._Hash | None:
        """Hash a piece besides, if somebody wants it. Views do not cross from one to the next."""
        number, offset = divmod(self.n_verified, self._piece_length)
        if offset == 0:
            hasher = hashlib.sha256() if self._lacks(number) else None
        if hasher is not None:
            hasher.update(view)
            if offset + len(view) == self._piece_length or self.n_verified + len(view) == self._size:
                self.pieces[number] = hasher.digest()
        return hasher

    def _next_stop(self) -> int | None:
        """Up to where to read now, within one piece; None when there is no more to do."""
        with self._changed:
            while min(self._reached, self._limit) <= self.n_verified < self._size and not self._is_over:
                self._changed.wait()
            if self._is_over or self.n_verified >= self._size:
                return None
            self._is_reading = True
            end_of_piece = (self.n_verified // self._piece_length + 1) * self._piece_length
            return min(self._reached, self._limit, end_of_piece)
