"""The bar of one file and that of all files together, as one."""

from __future__ import annotations

import threading
from types import TracebackType

from distro.manifest import File
from distro.progress import MeteredBar, Progress


class Total:
    """The bar of all files, which several threads advance."""

    def __init__(self, bar: MeteredBar) -> None:
        self._bar, self._lock = bar, threading.Lock()

    def advance(self, n_bytes: int) -> None:
        with self._lock:
            self._bar.advance(n_bytes)

    def verified(self, n_bytes: int) -> None:
        with self._lock:
            self._bar.verified(n_bytes)

    def came_from(self, source: str, n_bytes: int) -> None:
        with self._lock:
            self._bar.came_from(source, n_bytes)


class Bars:
    """What one file advances, the total does too; after a new start the total waits until it is passed again."""

    def __init__(self, progress: Progress, file: File, total: Total, done: int) -> None:
        """done: bytes that were there before, which the total knows."""
        self._progress, self._file, self._total = progress, file, total
        self._position = self._furthest = done
        self._source = ""

    def begin(self, position: int, source: str = "") -> Bars:
        """Show the file's own bar, for one attempt, from there on. source: the only one that what comes is from."""
        self._bar = self._progress.bar(self._file.path, self._file.size, position)
        self._source = source
        self._position = position
        self._pass_on()
        return self

    def advance(self, n_bytes: int) -> None:
        self._bar.advance(n_bytes)
        self._position += n_bytes
        self._pass_on()
        if self._source:
            self.came_from(self._source, n_bytes)

    def note(self, text: str) -> None:
        self._bar.note(text)

    def verified(self, n_bytes: int) -> None:
        self._bar.verified(n_bytes)
        self._total.verified(n_bytes)

    def came_from(self, source: str, n_bytes: int) -> None:
        self._bar.came_from(source, n_bytes)
        self._total.came_from(source, n_bytes)

    def __enter__(self) -> Bars:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def _pass_on(self) -> None:
        if self._position > self._furthest:
            self._total.advance(self._position - self._furthest)
            self._furthest = self._position
