"""A file that is read and not trusted: every read is bounded by the size it had when it was opened."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from converters.errors import ChangedError, MalformedError, MissingError
from converters.running_digest import RunningDigest

# What another file, or this one later, would differ in: size, time of modification, inode; last, time of change, which
# nobody can set, but which a new link or another mode of the same bytes changes too.
Identity = tuple[int, ...]

_noted: ContextVar[dict[Path, Identity] | None] = ContextVar("noted", default=None)


@contextmanager
def noting_what_is_read() -> Iterator[dict[Path, Identity]]:
    """While this lasts, every file that is opened here, by its path, as it was before it was read."""
    noted: dict[Path, Identity] = {}
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


def check_still(path: Path, identity: Identity) -> None:
    """Raise ChangedError if the file of this name is not the one that was read."""
    try:
        now = _identity_of(path.stat())
    except OSError as error:
        raise ChangedError(path, error.strerror or "it is gone") from error
    if now[:3] != identity[:3]:
        raise ChangedError(path, "size, time of modification or inode differ")


def _identity_of(status: os.stat_result) -> Identity:
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns


class InputFile:
    """An open file with the identity that it had at the start.

    Reads use `pread`, so any number of threads may share one InputFile. A file that shrinks, grows, is rewritten or
    replaced while it is open raises ChangedError, at the read that comes up short or at `check_unchanged`.

    digest: sees every byte that is read, if somebody wants the file's SHA-256 along the way.
    """

    digest: RunningDigest | None = None

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            # Non-blocking, so that opening a fifo answers at once instead of waiting for a writer.
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise MissingError(self.path, "a file to read was expected here") from None
        except OSError as error:
            if error.errno != errno.ENXIO:  # a socket, or a device that is not there
                raise
            raise self._irregular("no regular file") from None
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise self._irregular("a folder" if stat.S_ISDIR(status.st_mode) else "no regular file")
        self.size = status.st_size
        self.identity = _identity_of(status)
        if (noted := _noted.get()) is not None:
            noted.setdefault(self.path, self.identity)

    def _irregular(self, kind: str) -> MalformedError:
        return MalformedError(self.path, "file", found=kind, allowed="a regular file")

    def read(self, offset: int, n_bytes: int, field: str) -> bytes:
        """So many bytes from an offset; MalformedError naming `field` where the file has fewer."""
        self._check_bounds(offset, n_bytes, field)
        data = bytearray(n_bytes)
        self._read_into(memoryview(data), offset)
        return bytes(data)

    def read_array(self, offset: int, n_bytes: int, field: str) -> npt.NDArray[np.uint8]:
        """The same as a writable array of bytes, without a second copy."""
        self._check_bounds(offset, n_bytes, field)
        array = np.empty(n_bytes, np.uint8)
        self._read_into(array.data, offset)
        return array

    def _read_into(self, view: memoryview, offset: int) -> None:
        self._fill(view, offset)
        if self.digest is not None:
            self.digest.skip(offset)
            self.digest.feed(offset, view)

    def begin_digest(self, n_bytes: int = 0) -> None:
        """Hash what is read from now on. n_bytes: before the first offset that will be read, taken now."""
        self.digest = RunningDigest(self._fill)
        self.digest.read_head(min(n_bytes, self.size))

    def finish_digest(self) -> str:
        """SHA-256 of the file: of what was read on the way, and of the rest, which is read now."""
        if self.digest is None:
            raise ValueError(f"{self.path}: nobody asked for its digest")
        digest, self.digest = self.digest, None
        return digest.finish(self.size)

    def _fill(self, view: memoryview, offset: int) -> None:
        """Bytes from an offset on until the view is full; the one place that reads."""
        while view:
            try:
                count = os.preadv(self._descriptor, [view], offset)
            except OSError as error:
                error.filename = str(self.path)  # which the system does not say
                raise
            if count == 0:
                raise ChangedError(self.path, "it became shorter")
            view, offset = view[count:], offset + count

    def _check_bounds(self, offset: int, n_bytes: int, field: str) -> None:
        if offset < 0 or n_bytes < 0 or offset + n_bytes > self.size:
            raise MalformedError(
                self.path,
                field,
                offset=offset,
                found=f"{n_bytes} bytes wanted, {max(0, self.size - max(offset, 0))} left",
                allowed=f"what fits in the file's {self.size} bytes",
            )

    def fileno(self) -> int:
        """Its descriptor, for what only the system can do with it: locks, shared extents."""
        return self._descriptor

    def check_unchanged(self) -> None:
        """Raise ChangedError if the file of this name is no longer the one that was opened."""
        check_still(self.path, self.identity)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> InputFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# How weights are opened: as files of this machine, or by something that brings them here when they are read.
Opener = Callable[[Path], InputFile]
