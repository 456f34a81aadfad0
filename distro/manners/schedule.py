"""The hours in which bytes may come: `01:00-07:00`, or several windows with commas between them, in local time.

A window may pass midnight (`22:00-06:00`); `24:00` is the end of a day. What counts is what a clock on the wall shows:
where summer time begins or ends, a window has an hour less or more.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

_WINDOW = re.compile(r"([01]?[0-9]|2[0-4]):([0-5][0-9])-([01]?[0-9]|2[0-4]):([0-5][0-9])", re.ASCII)
_MINUTES = 24 * 60
_LOOK_AHEAD_MINUTES = 8 * _MINUTES  # a window that falls into the hour that spring skips opens a day later


@dataclass(frozen=True)
class Window:
    """From `start` until before `end`, in minutes since midnight; `end` before `start` is on the next day."""

    start: int
    end: int

    def contains(self, minute: int) -> bool:
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end


@dataclass(frozen=True)
class Schedule:
    windows: tuple[Window, ...]

    def is_open(self, at: float) -> bool:
        """at: seconds since the epoch."""
        clock = time.localtime(at)
        minute = clock.tm_hour * 60 + clock.tm_min
        return any(window.contains(minute) for window in self.windows)

    def opens(self, after: float) -> float:
        """The moment itself if it is open then, else the first full minute later at which it is.

        Every minute is asked of the local clock, because no arithmetic knows what summer time does to it.
        """
        if self.is_open(after):
            return after
        first = int(after // 60) + 1
        minutes = range(first, first + _LOOK_AHEAD_MINUTES)
        return next((60.0 * minute for minute in minutes if self.is_open(60 * minute)), 60.0 * minutes[-1])


def parse_schedule(text: str) -> Schedule:
    """Raises ValueError that says what is wrong."""
    return Schedule(tuple(_window(part.strip()) for part in text.split(",")))


def _window(text: str) -> Window:
    match = _WINDOW.fullmatch(text)
    start, end = (60 * int(match[1]) + int(match[2]), 60 * int(match[3]) + int(match[4])) if match else (0, 0)
    if start == end or start >= _MINUTES or end > _MINUTES:
        raise ValueError("allowed hours such as 01:00-07:00, or 22:00-06:00,12:00-13:00")
    return Window(start, end)
