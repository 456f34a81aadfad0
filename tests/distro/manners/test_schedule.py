"""Hours: over midnight, over the changes of summer time, and texts that are none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from distro.manners.schedule import Schedule, Window, parse_schedule

BERLIN = ZoneInfo("Europe/Berlin")  # on 2026-03-29 02:00 becomes 03:00, on 2026-10-25 03:00 becomes 02:00


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


def _at(text: str, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold).timestamp()


@pytest.mark.parametrize(
    ("text", "windows"),
    [
        ("01:00-07:00", (Window(60, 420),)),
        ("1:30-7:05", (Window(90, 425),)),
        ("22:00-06:00, 12:00-13:00", (Window(1320, 360), Window(720, 780))),
        ("00:00-24:00", (Window(0, 1440),)),
    ],
)
def test_hours_as_people_write_them(text: str, windows: tuple[Window, ...]) -> None:
    assert parse_schedule(text) == Schedule(windows)


@pytest.mark.parametrize(
    "text",
    ["", "1-7", "01:00", "01:00-01:00", "24:00-01:00", "25:00-26:00", "01:60-02:00", "01:00-24:30", "01:00-٠٧:00"],
)
def test_what_are_no_hours(text: str) -> None:
    with pytest.raises(ValueError, match="allowed hours such as"):
        parse_schedule(text)


@pytest.mark.parametrize(
    ("hours", "now", "opens"),
    [
        ("01:00-07:00", "2026-06-01T00:59:59", "2026-06-01T01:00"),
        ("01:00-07:00", "2026-06-01T07:00", "2026-06-02T01:00"),
        ("22:00-06:00", "2026-06-01T06:00", "2026-06-01T22:00"),
        ("22:00-06:00,12:00-13:00", "2026-06-01T06:00", "2026-06-01T12:00"),
        ("02:30-04:00", "2026-03-29T01:59", "2026-03-29T03:00"),  # half of it falls into the hour that is skipped
        ("02:10-02:40", "2026-03-29T01:59", "2026-03-30T02:10"),  # all of it
        ("01:00-07:00", "2026-12-31T12:00", "2027-01-01T01:00"),
    ],
)
def test_closed_until(hours: str, now: str, opens: str) -> None:
    schedule = parse_schedule(hours)
    assert not schedule.is_open(_at(now))
    assert schedule.opens(_at(now)) == _at(opens)
    assert schedule.is_open(_at(opens))
    assert not schedule.is_open(_at(opens) - 1)


@pytest.mark.parametrize(
    ("hours", "now"),
    [
        ("01:00-07:00", "2026-06-01T01:00"),
        ("01:00-07:00", "2026-06-01T06:59:59"),
        ("22:00-06:00", "2026-06-01T23:00"),
        ("22:00-06:00", "2026-06-01T05:59"),
        ("00:00-24:00", "2026-06-01T23:59"),
    ],
)
def test_open(hours: str, now: str) -> None:
    schedule = parse_schedule(hours)
    assert schedule.is_open(_at(now))
    assert schedule.opens(_at(now)) == _at(now)


@pytest.mark.parametrize(("day", "hours"), [("2026-03-28", 6), ("2026-03-29", 5), ("2026-10-25", 7)])
def test_a_night_has_as_many_hours_as_the_clock_on_the_wall_shows(day: str, hours: int) -> None:
    schedule, midnight = parse_schedule("01:00-07:00"), _at(f"{day}T00:00")
    assert sum(schedule.is_open(midnight + 60 * minute) for minute in range(24 * 60)) == hours * 60
