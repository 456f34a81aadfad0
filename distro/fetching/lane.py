"""One source as the engine sees it: how many connections it is worth, how fast they are, when it may be asked again.

The number of connections is found by trying: twice as many as long as that makes it faster, as before if it does not,
fewer if the source refuses so many. What was learnt holds for the files that follow.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from distro.errors import SourceError
from distro.manners.pace import Pace
from distro.pieces import tag
from distro.sources.base import PieceSource, StreamSource
from distro.sources.retry import Patience

MOST_CONNECTIONS = 8
_WINDOW_S = 1.5  # over which a number of connections is judged
_WORTH = 1.1  # times as fast: further connections stay
_HOLD_S = 20.0  # until more are tried again


class Lane:
    """limit: connections that may be open. rate: bytes per second of each, None until known. left: why it is no use.

    is_ranged: whether it gives any part of a file. is_swarm: whether one worker has many pieces on their way at once,
    and writes them itself; its rate is that of all. not_before: monotonic time of the next try. n_silent: connections
    that have gone silent, is_heard: whether others have not. note: for people.
    """

    def __init__(
        self, source: StreamSource | PieceSource, retries: int, pace: Pace, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.source, self.name, self.tag, self.pace = source, source.name, tag(source.name), pace
        self.is_ranged, self.is_swarm = True, not isinstance(source, StreamSource)
        self.note = ""
        self.rate: float | None = None
        self.left: BaseException | None = None
        self.not_before = 0.0
        self.n_silent, self.is_heard = 0, True
        self._limit, self._clock = 1, clock
        self._patience = Patience(retries, clock)
        self._window: tuple[float, int] | None = None  # when it began, bytes received before
        self._before: tuple[int, float] | None = None  # connections and bytes per second, before more were added
        self._hold_until = 0.0

    @property
    def limit(self) -> int:
        if not self.is_ranged:
            return 1
        n_wanted = self._limit if self.is_heard else 1  # in place of the silent ones
        return n_wanted + min(MOST_CONNECTIONS, self.n_silent) if self.n_silent else self._limit

    def begin(self) -> None:
        """A new file."""
        self.left, self._window, self._before, self.note = None, None, None, ""

    def worked(self) -> None:
        self._patience.worked()

    def failed(self, error: SourceError) -> bool:
        """Whether it may be asked again, not before `not_before`. Failures of one moment count as one."""
        now = self._clock()
        if now < self.not_before and error.retry_after_s is None:
            return True
        wait = self._patience.failed(error)
        if wait is None:
            return False
        self.not_before = max(self.not_before, now + wait)
        return True

    def refused(self, n_others: int, error: SourceError) -> None:
        """It gave this connection nothing while it goes on with so many others: it wants no more for now."""
        now = self._clock()
        self._limit = max(1, min(self._limit - 1, n_others))
        self._window = self._before = None
        self._hold_until = now + _HOLD_S * random.uniform(3, 4)  # noqa: S311  no secret
        self.not_before = max(self.not_before, now + (error.retry_after_s or 0.0))

    def adapt(self, n_received: int, n_busy: int) -> None:
        """Judge the number of connections. n_received: bytes in all. n_busy: connections that have something to do."""
        now = self._clock()
        if n_busy < self.limit or not self.is_ranged:
            self._window = None
            return
        if self.is_swarm:
            self._measure(n_received, now)
            return
        if self._window is None:
            self._window = now, n_received
            return
        began, before = self._window
        if now - began < _WINDOW_S:
            return
        rate, self._window = (n_received - before) / (now - began), None
        if self._before is not None and rate < _WORTH * self._before[1]:
            self._limit, self._before, self._hold_until = self._before[0], None, now + _HOLD_S
        elif self._limit < MOST_CONNECTIONS and now >= self._hold_until:
            self._limit, self._before = min(MOST_CONNECTIONS, 2 * self._limit), (self._limit, rate)

    def _measure(self, n_received: int, now: float) -> None:
        """The rate of all that comes, half of it of the last time that it was asked."""
        if self._window is not None and now > self._window[0]:
            rate = (n_received - self._window[1]) / (now - self._window[0])
            self.rate = rate if self.rate is None else (self.rate + rate) / 2
        self._window = now, n_received
