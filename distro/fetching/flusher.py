"""Brings a file that is arriving to the disk meanwhile, so that the last fsync has little left to do.

Without it the system keeps a gigabyte in memory, and the fsync before the file gets its name waits for all of it. An
error is kept and raised: a system that has told of a failed write once may not tell of it again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_EVERY = 128 << 20  # bytes


class Flusher:
    """sync: brings what was written so far to the disk. Its thread begins when there is enough to do."""

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._flushed = 0
        self._thread: threading.Thread | None = None
        self._fault: BaseException | None = None

    def reached(self, n_bytes: int) -> None:
        """So many bytes were written in all. Raises what an earlier sync raised."""
        if self._fault is not None:
            raise self._fault
        is_busy = self._thread is not None and self._thread.is_alive()
        if n_bytes - self._flushed >= _EVERY and not is_busy:
            self._flushed = n_bytes
            self._thread = threading.Thread(target=self._run, name="flusher", daemon=True)
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:  # Ctrl-C above all, which is not to wait for a slow disk
            return
        if self._thread is not None:
            self._thread.join()
        if self._fault is not None:
            raise self._fault

    def _run(self) -> None:
        try:
            self._sync()
        except BaseException as error:  # raised in the thread that asks next
            self._fault = error
