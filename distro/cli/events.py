"""What happens during long work, for programs: one JSON object a line on stderr, where `--json` is given.

    {"event": "start", "schema": "distro-events/1", …}     what is about to be done; facts of the command
    {"event": "file", "file", "size", "received"}           one begins, or the total, which is named after the model
    {"event": "progress", "file", "size", "received", "verified", "rate", "sources", "note"}   twice a second at most
    {"event": "message", "text"}                            what people would be told
    {"event": "done", …}                                    as the answer on stdout
    {"event": "error", "code", "exit_code", "message"}      instead of `done`, by any command that has `--json`

Sizes are bytes, rates bytes a second, `size` is null where nobody published it, `sources` says how many bytes came from
which. Numbers of one file never go back.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType

from distro.cli import console
from distro.progress import SilentBar

SCHEMA = "distro-events/1"
_EVERY_S = 0.5


class Events:
    """Progress for a program."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now

    def bar(self, title: str, total: int | None, done: int = 0) -> EventBar:
        console.event("file", file=title, size=total, received=done)
        return EventBar(title, total, done, self._now)

    def say(self, text: str) -> None:
        console.event("message", text=text)


class EventBar(SilentBar):
    def __init__(self, title: str, size: int | None, done: int, now: Callable[[], float]) -> None:
        self._title, self._size, self._received, self._now = title, size, done, now
        self._verified, self._rate = 0, 0.0
        self._sources: Counter[str] = Counter()
        self._note = ""
        self._told_at, self._told = now(), done
        self._lock = threading.Lock()

    def advance(self, n_bytes: int) -> None:
        with self._lock:
            self._received += n_bytes
            self._tell()

    def verified(self, n_bytes: int) -> None:
        with self._lock:
            self._verified += n_bytes
            self._tell()

    def came_from(self, source: str, n_bytes: int) -> None:
        with self._lock:
            self._sources[source] += n_bytes

    def note(self, text: str) -> None:
        with self._lock:
            self._note = text

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._tell(at_once=True)

    def _tell(self, *, at_once: bool = False) -> None:
        passed_s = self._now() - self._told_at
        if passed_s < _EVERY_S and not at_once:
            return
        if passed_s > 0:
            self._rate = (self._received - self._told) / passed_s
        console.event(
            "progress", file=self._title, size=self._size, received=self._received, verified=self._verified,
            rate=round(self._rate), sources=dict(self._sources), note=self._note,
        )  # fmt: skip
        self._told_at, self._told = self._now(), self._received
