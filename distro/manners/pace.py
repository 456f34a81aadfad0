"""How fast and when bytes may come: one limit for all sources together, one for each kind of them, and the hours.

Whoever received bytes spends them, and is held up for as long as the limits and the schedule want; the network slows
down by itself when nobody reads. All threads of the process share one pace, so that many connections are as fast as
one. Waits are measured by the monotonic clock; the clock on the wall is looked at only to find the hours.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from distro.config import Settings
from distro.manners.schedule import Schedule

_BURST_S = 0.1  # so much of what a connection left unused may be caught up with
_SLICE_S = 0.25  # how long a wait may take to notice that it is to stop


@dataclass(frozen=True)
class Clock:
    """monotonic: seconds, never back. wall: seconds since the epoch, as far as this machine knows."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep


CLOCK = Clock()


class _Limit:
    """A rate in bytes per second. What was spent is paid for as time passes, in the order of spending."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._paid_at = float("-inf")  # when all that was spent is paid for
        self._lock = threading.Lock()

    def spend(self, n_bytes: int, now: float) -> float:
        """The moment at which these bytes are paid for."""
        with self._lock:
            self._paid_at = max(self._paid_at, now - _BURST_S) + n_bytes / self.rate
            return self._paid_at


@dataclass
class _Hours:
    """The schedule, and when it was last said to open, so that many threads that wait say it once."""

    schedule: Schedule | None = None
    said: float = float("-inf")
    lock: threading.Lock = field(default_factory=threading.Lock)

    def are_open(self, now: float) -> bool:
        return self.schedule is None or self.schedule.is_open(now)

    def to_say(self, now: float) -> str | None:
        """What to say of a wait that begins, or goes on after the moment at which it was to end."""
        with self.lock:
            if self.schedule is None or now < self.said:
                return None
            self.said = self.schedule.opens(now)
            return time.strftime("waiting until %Y-%m-%d %H:%M, as the schedule says", time.localtime(self.said))


class Pace:
    """The limits and hours that hold for one source.

    say: told until when a wait for the hours lasts. stopped: whether whoever waits is to give up waiting.
    """

    def __init__(
        self,
        limits: Iterable[_Limit] = (),
        hours: _Hours | None = None,
        *,
        say: Callable[[str], None] = lambda text: None,
        clock: Clock = CLOCK,
    ) -> None:
        self._limits, self._hours = tuple(limits), hours or _Hours()
        self._say, self._clock = say, clock

    @property
    def rate(self) -> int | None:
        """Bytes per second, None for no limit: for what limits itself, as libtorrent does."""
        return min((limit.rate for limit in self._limits), default=None)

    @property
    def is_open(self) -> bool:
        """Whether the schedule has it now."""
        return self._hours.are_open(self._clock.wall())

    def spend(self, n_bytes: int, stopped: Callable[[], bool] = lambda: False) -> None:
        """Wait until so many bytes may come, and within the hours. Returns early when `stopped()`."""
        until = self.note(n_bytes)
        while (left := until - self._clock.monotonic()) > 0 and not stopped():
            self._clock.sleep(min(left, _SLICE_S))
        self.wait(stopped)

    def note(self, n_bytes: int) -> float:
        """Count bytes that came in a way that cannot be held up; the others wait for them.

        Gives the moment of the monotonic clock at which they are paid for.
        """
        now = self._clock.monotonic()
        return max((limit.spend(n_bytes, now) for limit in self._limits), default=now)

    def wait(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Wait for the hours, if this is not one of them: before a connection is made, which would not last so long."""
        while not self._hours.are_open(now := self._clock.wall()) and not stopped():
            if text := self._hours.to_say(now):
                self._say(text)
            self._clock.sleep(_SLICE_S)


def pace_of(settings: Settings, kind: str, *, say: Callable[[str], None] = lambda text: None) -> Pace:
    """The pace of a source of this kind (`distro.config.KINDS`), which shares limits with all others of the process."""
    limits = tuple(_limit(name, rate) for name, rate in settings.limits if name in ("", kind))
    return Pace(limits, _hours(settings.schedule), say=say)


@functools.cache
def _limit(name: str, rate: int) -> _Limit:
    return _Limit(rate)


@functools.cache
def _hours(schedule: Schedule | None) -> _Hours:
    return _Hours(schedule)
