"""Sources in memory that read from an offset as the real ones do, and go wrong by a plan."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from distro.errors import NotPermittedError, ProtocolError, SourceError
from distro.manifest import File
from distro.sources.base import NoRangesError, StreamSource

CHUNK = 16 * 1024


@dataclass
class Scripted(StreamSource):
    """data: what it has. asked: (offset, stop) of every request. n_sent: bytes that were given out.

    flips: offsets of bits that are wrong, always. cut_after: bytes of each answer, then it is cut. rate: bytes per
    second of all its connections. most_at_once: connections; one more is refused. stalls: how many answers give
    nothing for `timeout_s`. fails: errors of the next requests, in order.
    """

    name: str
    data: bytes
    flips: frozenset[int] = frozenset()
    cut_after: int | None = None
    rate: float | None = None
    most_at_once: int | None = None
    stalls: int = 0
    timeout_s: float = 0.5
    is_ranged: bool = True
    fails: list[SourceError] = field(default_factory=list)
    asked: list[tuple[int, int | None]] = field(default_factory=list)
    n_sent: int = 0
    n_open: int = 0
    most_open: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._paid_at = 0.0

    def read(self, file: File, offset: int, stop: int | None = None) -> Iterator[memoryview]:
        with self._lock:
            self.asked.append((offset, stop))
            if self.fails:
                raise self.fails.pop(0)
            self.n_open += 1
            self.most_open = max(self.most_open, self.n_open)
            n_open = self.n_open
        try:
            if self.most_at_once is not None and n_open > self.most_at_once:
                raise SourceError(self.name, "HTTP 429")
            if not self.is_ranged and stop is not None and (offset, stop) != (0, len(self.data)):
                raise NoRangesError(self.name, "sends all")
            yield from self._send(offset, len(self.data) if stop is None else stop)
        finally:
            with self._lock:
                self.n_open -= 1

    def _send(self, offset: int, stop: int) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(CHUNK))  # one for all, as the real reader has
        with self._lock:
            is_stalled, self.stalls = self.stalls > 0, max(0, self.stalls - 1)
        if is_stalled:
            time.sleep(self.timeout_s)
            raise SourceError(self.name, "silent")
        end = stop if self.cut_after is None else min(stop, offset + self.cut_after)
        while offset < end:
            n_bytes = min(CHUNK, end - offset)
            self._wait(n_bytes)
            data = bytearray(self.data[offset : offset + n_bytes])
            for flip in self.flips:
                if offset <= flip < offset + n_bytes:
                    data[flip - offset] ^= 1
            buffer[:n_bytes] = data
            with self._lock:
                self.n_sent += n_bytes
            offset += n_bytes
            yield buffer[:n_bytes]
        if end < stop:
            raise SourceError(self.name, "the connection was cut")

    def _wait(self, n_bytes: int) -> None:
        if self.rate is None:
            return
        with self._lock:
            self._paid_at = max(self._paid_at, time.monotonic()) + n_bytes / self.rate
            until = self._paid_at
        time.sleep(max(0.0, until - time.monotonic()))


def troubled(name: str, data: bytes, moments: random.Random) -> Scripted:
    """A source with faults that pass, drawn at random: it is slow, cut, refuses, stalls, fails for a while."""
    source = Scripted(name, data, timeout_s=0.05)
    for fault in moments.sample(("cut", "slow", "busy", "stalls", "fails", "no ranges"), moments.randrange(4)):
        if fault == "cut":
            source.cut_after = moments.randrange(20_000, 400_000)
        elif fault == "slow":
            source.rate = moments.uniform(2e6, 2e7)
        elif fault == "busy":
            source.most_at_once = moments.randrange(1, 4)
        elif fault == "stalls":
            source.stalls = moments.randrange(1, 4)
        elif fault == "no ranges":
            source.is_ranged = False
        else:
            source.fails = [_failure(name, moments) for _ in range(moments.randrange(1, 4))]
    return source


def _failure(name: str, moments: random.Random) -> SourceError:
    kind = moments.choice((SourceError, SourceError, SourceError, ProtocolError, NotPermittedError))
    return kind(name, "drawn by lot", unreachable=moments.random() < 0.5)
