"""A file of weights that lies elsewhere, read like one of this disk: only what is asked for crosses the network.

What came is kept, in a file of the same size whose other bytes are holes, in blocks of 16 KiB. What follows on a block
that is here already is read ahead, so that a header costs few requests, and records that lie scattered (those of a zip
archive) cost one block each.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from converters.errors import ChangedError
from converters.input_file import InputFile
from distro.config import Settings
from distro.disk import told, write_all
from distro.errors import ProtocolError, SourceError, UsageError
from distro.manifest import File
from distro.sources.http import Part
from distro.sources.retry import asked_again

BLOCK = 16 * 1024
_AHEAD = 256 * 1024  # of what is read from one end to the other
_MOST_AT_ONCE = 8 * 2**20
# A header is at most 100 MB (safetensors); who reads more wants weights, and should have the file.
MOST_BYTES = 256 * 2**20


class RangedSource(Protocol):
    """A source that has parts of files to give."""

    name: str

    def read(self, file: File, offset: int, stop: int | None = None) -> Iterator[bytes | memoryview]: ...

    def read_part(self, file: File, start: int, stop: int) -> Part:
        """The bytes from start to stop, fewer where the answer ends early. Raises SourceError."""
        ...

    def close(self) -> None: ...


class RemoteFile(InputFile):
    """An InputFile over the network, at most MOST_BYTES of it.

    n_read: bytes that came. Every answer must be of the same state of the file (size, ETag), or ChangedError is raised.
    Closed it stays useful, for whoever opens it next; `release` gives it up.
    """

    def __init__(self, settings: Settings, source: RangedSource, file: File, path: Path) -> None:
        """path: where what is read is kept. Raises SourceError, ProtocolError where it has another size than `file`."""
        self._settings, self._source, self._file = settings, source, file
        self._here: set[int] = set()  # numbers of blocks
        self._lock = threading.Lock()
        self.n_read = 0
        first = self._ask(0, min(_AHEAD, file.size or _AHEAD))
        if file.size not in (None, first.size):
            raise ProtocolError(source.name, f"has {first.size} bytes of {file.path}, not {file.size}")
        with told(path):
            path.touch()
            os.truncate(path, first.size)
        super().__init__(path)
        self._version = first.version
        # In the place of a local file's times and number: another ETag is another file.
        self.identity = (self.size, 0, int(hashlib.sha256(first.version.encode()).hexdigest()[:15], 16))
        self._keep(0, first.data + self._between(len(first.data), min(_AHEAD, self.size)))

    def check_unchanged(self) -> None:
        """Nothing to do: every answer was compared with the first one."""

    def check_same(self, file: InputFile) -> None:
        """Raise ChangedError if a file that came whole has other bytes where parts of it were read before."""
        for number in sorted(self._here):
            start, n_bytes = number * BLOCK, min(BLOCK, self.size - number * BLOCK)
            if file.size != self.size or self.read(start, n_bytes, "file") != file.read(start, n_bytes, "file"):
                raise ChangedError(file.path, f"{self._source.name} gave other bytes when its header was read")

    def close(self) -> None:
        pass

    def release(self) -> None:
        super().close()

    def _fill(self, view: memoryview, offset: int) -> None:
        with self._lock:
            wanted = range(offset // BLOCK, -(-(offset + len(view)) // BLOCK))
            missing = [number for number in wanted if number not in self._here]
            if missing:
                self._bring(missing[0], missing[-1] + 1)
        super()._fill(view, offset)

    def _bring(self, first: int, stop: int) -> None:
        """Blocks from first to stop, and more where somebody reads along."""
        if first - 1 in self._here:
            stop = max(stop, first + _AHEAD // BLOCK)
        self._keep(first, self._between(first * BLOCK, min(stop * BLOCK, self.size)))

    def _keep(self, first: int, data: bytes) -> None:
        with told(self.path):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                write_all(descriptor, data, first * BLOCK)
            finally:
                os.close(descriptor)
        self._here.update(range(first, first + -(-len(data) // BLOCK)))

    def _between(self, start: int, stop: int) -> bytes:
        """These bytes, over as many answers as it takes."""
        parts = []
        while start < stop:
            part = self._ask(start, min(stop, start + _MOST_AT_ONCE))
            if (part.size, part.version) != (self.size, self._version):
                raise ChangedError(self.path, f"{self._source.name} has another file there now")
            if not part.data:
                raise SourceError(self._source.name, f"sends nothing at byte {start} of {self._file.path}")
            parts.append(part.data)
            start += len(part.data)
        return b"".join(parts)

    def _ask(self, start: int, stop: int) -> Part:
        if self.n_read + stop - start > MOST_BYTES:
            what = f"{self._source.name}: {self._file.path}"
            raise UsageError(f"{what}: more than {MOST_BYTES} bytes of it would have to be read; fetch it first")
        part = asked_again(self._settings, lambda: self._source.read_part(self._file, start, stop))
        self.n_read += len(part.data)
        return part
