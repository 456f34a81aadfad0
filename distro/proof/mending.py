"""A part file in which the wrong pieces of a file are put right, one by one, each judged where it will stay."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Protocol

from distro.digest import Digester, feed_range, open_regular
from distro.manifest import File
from distro.progress import Bar
from distro.store import Output

_COPY_BYTES = 4 << 20


class Pieces(Protocol):
    """Hashes of the pieces of one file. size: bytes."""

    @property
    def size(self) -> int: ...

    @property
    def n_pieces(self) -> int: ...

    def span(self, index: int) -> tuple[int, int]:
        """Where a piece begins and ends in the file."""
        ...

    def is_right(self, index: int, descriptor: int) -> bool | None:
        """Whether an open file has this piece; None if that cannot be said of this piece alone."""
        ...


def is_whole(descriptor: int, size: int | None, kind: str, digest: str) -> bool:
    """Whether an open file has this digest, and this size where that is known."""
    length = os.fstat(descriptor).st_size
    if size not in (None, length):
        return False
    digester = Digester((kind,), length)
    try:
        feed_range(descriptor, 0, length, digester.update)
    except OSError as error:
        _raise_unless_lost(error)
        return False
    return digester.digests().get(kind) == digest


def has_right(pieces: Pieces, index: int, descriptor: int) -> bool | None:
    """Whether an open file has a piece right; not one of which the disk has lost something."""
    try:
        return pieces.is_right(index, descriptor)
    except OSError as error:
        _raise_unless_lost(error)
        return False


def _raise_unless_lost(error: OSError) -> None:
    if error.errno != errno.EIO:
        raise error


class Mending:
    """One file on its way. fetched: bytes that came from others so far. sources: who gave them, in order."""

    def __init__(
        self, file: File, pieces: Pieces, output: Output, part: BinaryIO, bar: Bar, done: Callable[[int], None]
    ) -> None:
        """output and part: the part file, to write and to read. done: told of each piece that others gave right."""
        self.file, self.pieces = file, pieces
        self._output, self._part, self._bar, self._done = output, part, bar, done
        self._lock = threading.Lock()
        self.fetched, self.sources = 0, dict[str, None]()

    def scan(self) -> tuple[list[int], list[int]]:
        """The pieces that are wrong, and those of which that cannot be said alone. All cores."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            answers = list(pool.map(self.is_right, range(self.pieces.n_pieces)))
        wrong = [index for index, answer in enumerate(answers) if answer is False]
        return wrong, [index for index, answer in enumerate(answers) if answer is None]

    def is_right(self, index: int) -> bool | None:
        return has_right(self.pieces, index, self._part.fileno())

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Bytes that somebody else gave."""
        self._output.write_at(offset, data)
        with self._lock:
            self.fetched += len(data)
            self._bar.advance(len(data))

    def credit(self, index: int, source: str) -> None:
        """A piece is right now; who gave it."""
        with self._lock:
            self.sources[source] = None
            self._done(index)

    def take(self, index: int, streams: Iterable[BinaryIO]) -> bool:
        """Copy a piece out of the first file that has it right; a file of another size is another file."""
        start, stop = self.pieces.span(index)
        for stream in streams:
            descriptor = stream.fileno()
            if os.fstat(descriptor).st_size == self.pieces.size and has_right(self.pieces, index, descriptor):
                copy(stream, self._output, start, stop)
                return self.is_right(index) is True
        return False

    def fill(self, indexes: Sequence[int], path: Path, source: str) -> list[int]:
        """Take pieces out of a file that somebody gave; gives those that are wrong there too."""
        with open_regular(path) as stream:
            return [index for index in indexes if not self._take_given(index, stream, source)]

    def _take_given(self, index: int, stream: BinaryIO, source: str) -> bool:
        (start, stop), descriptor = self.pieces.span(index), stream.fileno()
        is_same_size = os.fstat(descriptor).st_size == self.pieces.size
        if not is_same_size or has_right(self.pieces, index, descriptor) is False:
            return False
        copy(stream, self._output, start, stop)
        self.fetched += stop - start
        self.credit(index, source)
        return True

    def copy_to(self, path: Path) -> None:
        """The part file as it is now, as another file."""
        path.parent.mkdir(mode=0o700, exist_ok=True)
        target = Output(path, self.pieces.size)
        try:
            copy(self._part, target, 0, self.pieces.size)
        finally:
            target.close()


def copy(stream: BinaryIO, target: Output, start: int, stop: int) -> None:
    """Put the bytes of a file from start to stop at the same place of another, as far as there are any.

    Where the disk has lost some, those around them are left out too: whoever copies judges what came.
    """
    while start < stop:
        n_bytes = min(_COPY_BYTES, stop - start)
        try:
            data = os.pread(stream.fileno(), n_bytes, start)
        except OSError as error:
            _raise_unless_lost(error)
            start += n_bytes
            continue
        if not data:
            return
        target.write_at(start, data)
        start += len(data)
