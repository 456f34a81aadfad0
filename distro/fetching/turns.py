"""One source that several threads bring whole files from: how many at once, and when it may be asked again.

What it says to one of them holds for all. If it asks us to wait (429 and Retry-After), nobody asks before that. If it
fails one while others are with it, it may want fewer of us: half as many are let in, and one more after some files.
Only a failure of one that was alone with it counts as the source's, and then as distro/sources/retry.py has it; when
one has given it up, so do the others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from distro.errors import NotPermittedError, NotThereError, ProtocolError, SourceError
from distro.manifest import File
from distro.manners.pace import Pace
from distro.progress import Bar
from distro.sources.base import StreamSource
from distro.sources.retry import PROGRESS, Patience

if TYPE_CHECKING:
    from distro.store import Partial

_FILES = 8  # that came well, until one more is let in
_SLICE_S = 1.0


class StoppedError(Exception):
    """Nobody wants the file any more: the fetch has failed, or was interrupted."""


class Turns:
    """A source like the one inside (distro/sources/base.py), for several threads.

    most: of them that may be with it at once. stopped: set when they are to end; they raise StoppedError then.
    """

    def __init__(
        self,
        source: StreamSource,
        pace: Pace,
        *,
        retries: int,
        most: int,
        stopped: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.source = source.name, source
        self._pace, self._retries, self._most, self._stopped, self._clock = pace, retries, most, stopped, clock
        self._changed = threading.Condition()
        self._limit, self._n_inside = most, 0
        self._n_files = 0  # that came since the limit was changed
        self._has_worked = False
        self._left: SourceError | None = None  # why it was given up
        self._lowered_at = self._not_before = float("-inf")

    def transfer(self, file: File, partial: Partial, bar: Bar) -> None:
        patience = Patience(self._retries)
        if self._has_worked:
            patience.worked()
        while True:
            with self._turn() as began:
                before = partial.size
                error = self._ask(file, partial, bar)
                if error is None:
                    self._worked()
                    return
                has_progressed = partial.size - before >= PROGRESS
                if has_progressed:
                    patience.worked()
                is_too_many = self._judge(error, began, has_progressed=has_progressed)
            wait = 0.0 if is_too_many else patience.failed(error)
            if wait is None:
                self._give_up(error)
                raise error
            bar.note(f"{error.why}; trying again")
            if self._stopped.wait(wait):
                raise StoppedError
            bar.note("")

    def close(self) -> None:
        self.source.close()

    @contextmanager
    def _turn(self) -> Iterator[float]:
        """Be one of those that may ask it now. Gives the moment at which that began."""
        with self._changed:
            while not self._stopped.is_set():
                if self._left is not None:
                    raise self._left
                wait = self._not_before - self._clock()
                if wait <= 0 and self._n_inside < self._limit:
                    break
                self._changed.wait(min(wait, _SLICE_S) if wait > 0 else _SLICE_S)
            else:
                raise StoppedError
            self._n_inside += 1
        try:
            yield self._clock()
        finally:
            with self._changed:
                self._n_inside -= 1
                self._changed.notify_all()

    def _ask(self, file: File, partial: Partial, bar: Bar) -> SourceError | None:
        """One request for what is missing: why it did not bring all."""
        self._pace.wait(self._stopped.is_set)
        try:
            with closing(self.source.read(file, partial.size)) as stream:  # type: ignore[type-var]
                for data in stream:
                    if self._stopped.is_set():
                        raise StoppedError
                    partial.append(data)
                    bar.advance(len(data))
                    self._pace.spend(len(data), self._stopped.is_set)
        except SourceError as error:
            if self._stopped.is_set():  # and the source was closed
                raise StoppedError from error
            return error
        if file.size is None or partial.size >= file.size:
            return None
        return SourceError(self.name, f"ended after {partial.size} of {file.size} bytes")

    def _worked(self) -> None:
        with self._changed:
            self._has_worked = True
            self._n_files += 1
            if self._n_files >= _FILES and self._limit < self._most:
                self._limit, self._n_files = self._limit + 1, 0

    def _give_up(self, error: SourceError) -> None:
        """For this file, and for all unless it only lacks this one."""
        with self._changed:
            if not isinstance(error, NotThereError):
                self._left = self._left or error
                self._changed.notify_all()

    def _judge(self, error: SourceError, began: float, *, has_progressed: bool) -> bool:
        """After a failure: obey what the source asks for; whether it may have failed because there were too many."""
        with self._changed:
            now = self._clock()
            self._not_before = max(self._not_before, now + (error.retry_after_s or 0.0))
            if isinstance(error, (ProtocolError, NotPermittedError, NotThereError)) or has_progressed:
                return False
            if began < self._lowered_at:  # asked before that, it says nothing new
                return True
            if self._n_inside == 1:
                return False
            self._limit, self._n_files, self._lowered_at = max(1, self._limit // 2), 0, now
            return True
