"""Trying again: a wrapper around a source that reads, which counts tries without progress and not tries.

A link that is cut every few megabytes still finishes; a source that gives nothing is left after `settings.retries`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from distro.config import Settings
from distro.errors import NotPermittedError, NotThereError, ProtocolError, SourceError
from distro.manifest import File
from distro.progress import Bar
from distro.sources.base import StreamSource
from distro.store import Partial

_PROGRESS = 16 * 1024  # bytes; less than this from a connection does not count
_LONGEST_WAIT_S = 60.0

T = TypeVar("T")


class Retrying:
    """A source like the one inside, which goes on where it was cut."""

    def __init__(self, settings: Settings, source: StreamSource) -> None:
        self._source, self._retries = source, settings.retries
        self.name = source.name

    def transfer(self, file: File, partial: Partial, bar: Bar) -> None:
        n_failed = 0
        while True:
            before = partial.size
            try:
                self._source.transfer(file, partial, bar)
                if file.size is None or partial.size >= file.size:
                    return
                error = SourceError(self.name, f"ended after {partial.size} of {file.size} bytes")
            except (ProtocolError, NotPermittedError, NotThereError):
                raise
            except SourceError as caught:
                error = caught
            n_failed = 0 if partial.size - before >= _PROGRESS else n_failed + 1
            if n_failed > self._retries:
                raise error
            bar.note(f"{error.why}; trying again")
            time.sleep(wait_s(n_failed, error))
            bar.note("")

    def close(self) -> None:
        self._source.close()


def asked_again(settings: Settings, ask: Callable[[], T]) -> T:
    """The answer to a small question, asked up to `settings.retries` times more where the source failed."""
    for n_failed in range(1, settings.retries + 1):
        try:
            return ask()
        except (ProtocolError, NotPermittedError, NotThereError):
            raise
        except SourceError as error:
            time.sleep(wait_s(n_failed, error))
    return ask()


def wait_s(n_failed: int, error: SourceError) -> float:
    """Seconds until the next try: what the source asks for, else twice as long each time; never all at once."""
    jitter = random.uniform(0.5, 1.0)  # noqa: S311  no secret
    if error.retry_after_s is not None:
        return error.retry_after_s + jitter
    return min(_LONGEST_WAIT_S, 0.25 * 2.0**n_failed) * jitter
