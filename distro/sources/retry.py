"""Trying again: what counts are tries without progress and not tries.

A link that is cut every few megabytes still finishes; a source that gives nothing is left after `settings.retries`. One
that worked and cannot be reached any more is asked every few seconds for a quarter of an hour: then it is most likely
our own network that is away, and what comes back is used at once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from distro.config import Settings
from distro.errors import NotPermittedError, NotThereError, ProtocolError, SourceError
from distro.manifest import File
from distro.progress import Bar
from distro.sources.base import StreamSource
from distro.store import Partial

PROGRESS = 16 * 1024  # bytes; less than this from a connection does not count
_LONGEST_WAIT_S = 60.0
_POLL_S = 2.0  # between looks whether the network is back
_AWAY_S = 900.0

T = TypeVar("T")


class Patience:
    """How often and how long one source is asked again, which gives nothing."""

    def __init__(self, retries: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._retries, self._clock = retries, clock
        self._n_failed, self._has_worked, self._works = 0, False, False
        self._away_since: float | None = None

    def worked(self) -> None:
        """It gave something that counts."""
        self._n_failed, self._has_worked, self._works, self._away_since = 0, True, True, None

    def failed(self, error: SourceError) -> float | None:
        """Seconds until the next try, none after something that counts; None if there is to be none."""
        if isinstance(error, (ProtocolError, NotPermittedError, NotThereError)):
            return None
        self._n_failed += 1
        works, self._works = self._works, False
        if works and error.retry_after_s is None:
            return 0.0
        if error.unreachable and self._has_worked:
            now = self._clock()
            self._away_since = now if self._away_since is None else self._away_since
            return min(_POLL_S, wait_s(self._n_failed, error)) if now - self._away_since < _AWAY_S else None
        self._away_since = None
        return wait_s(self._n_failed, error) if self._n_failed <= self._retries else None


class Retrying(StreamSource):
    """A source like the one inside, which goes on where it was cut."""

    def __init__(self, settings: Settings, source: StreamSource) -> None:
        self.source, self._retries = source, settings.retries
        self.name = source.name

    def read(self, file: File, offset: int, stop: int | None = None) -> Iterator[bytes | memoryview]:
        return self.source.read(file, offset, stop)

    def transfer(self, file: File, partial: Partial, bar: Bar) -> None:
        patience = Patience(self._retries)
        while True:
            before = partial.size
            try:
                self.source.transfer(file, partial, bar)
                if file.size is None or partial.size >= file.size:
                    return
                error = SourceError(self.name, f"ended after {partial.size} of {file.size} bytes")
            except SourceError as caught:
                error = caught
            if partial.size - before >= PROGRESS:
                patience.worked()
            wait = patience.failed(error)
            if wait is None:
                raise error
            bar.note(f"{error.why}; trying again")
            time.sleep(wait)
            bar.note("")

    def close(self) -> None:
        self.source.close()


def asked_again(settings: Settings, ask: Callable[[], T], again: type[SourceError] = SourceError) -> T:
    """The answer to a small question, asked up to `settings.retries` times more where the source failed like that."""
    for n_failed in range(1, settings.retries + 1):
        try:
            return ask()
        except (ProtocolError, NotPermittedError, NotThereError):
            raise
        except again as error:
            time.sleep(wait_s(n_failed, error))
    return ask()


def wait_s(n_failed: int, error: SourceError) -> float:
    """Seconds until the next try: what the source asks for, else twice as long each time; never all at once."""
    jitter = random.uniform(0.5, 1.0)  # noqa: S311  no secret
    if error.retry_after_s is not None:
        return error.retry_after_s + jitter
    return min(_LONGEST_WAIT_S, 0.25 * 2.0**n_failed) * jitter
