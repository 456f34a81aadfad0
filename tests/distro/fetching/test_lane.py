"""How many connections a source is worth, and when it is asked again: by a clock of the test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from distro.errors import NotThereError, SourceError
from distro.fetching.lane import MOST_CONNECTIONS, Lane
from distro.manifest import File
from distro.manners.pace import Pace
from distro.sources import retry
from distro.sources.base import StreamSource
from distro.sources.retry import Patience


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Nothing(StreamSource):
    name = "nothing"

    def read(self, file: File, offset: int, stop: int | None = None) -> Iterator[bytes]:
        return iter(())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lane(clock: Clock) -> Lane:
    return Lane(Nothing(), 2, Pace(), clock)


def _run(lane: Lane, clock: Clock, seconds: float, rate_of: dict[int, float]) -> list[int]:
    """Busy connections for so long; rate_of: bytes per second by their number. The numbers that were tried."""
    tried, n_bytes = [], 0.0
    for _ in range(int(seconds / 0.5)):
        clock.now += 0.5
        n_bytes += 0.5 * rate_of[lane.limit]
        lane.adapt(int(n_bytes), lane.limit)
        if not tried or tried[-1] != lane.limit:
            tried.append(lane.limit)
    return tried


def test_connections_are_added_while_that_helps(lane: Lane, clock: Clock) -> None:
    assert _run(lane, clock, 60, {n: 1e6 * n for n in range(1, 9)}) == [1, 2, 4, 8]
    assert lane.limit == MOST_CONNECTIONS


def test_one_that_brings_nothing_is_taken_back(lane: Lane, clock: Clock) -> None:
    assert _run(lane, clock, 15, dict.fromkeys(range(1, 9), 5e6)) == [1, 2, 1]
    assert _run(lane, clock, 60, {1: 5e6, 2: 9e6, 4: 9e6})[-1] == 2  # it is tried again, now and then


def test_idle_connections_say_nothing(lane: Lane, clock: Clock) -> None:
    for _ in range(100):
        clock.now += 0.5
        lane.adapt(0, 0)
    assert lane.limit == 1


def test_a_source_without_ranges_has_one(lane: Lane, clock: Clock) -> None:
    _run(lane, clock, 10, {n: 1e6 * n for n in range(1, 9)})
    assert lane.limit > 1
    lane.is_ranged = False
    assert lane.limit == 1


def test_one_that_is_refused_is_not_tried_again_soon(lane: Lane, clock: Clock) -> None:
    grows = {n: 1e6 * n for n in range(1, 9)}
    _run(lane, clock, 10, grows)
    lane.refused(2, SourceError("s", "HTTP 429", retry_after_s=7))
    assert lane.limit == 2
    assert lane.not_before == clock.now + 7
    assert _run(lane, clock, 55, grows) == [2]
    assert _run(lane, clock, 60, grows)[-1] > 2


def test_failures_of_one_moment_count_as_one(lane: Lane, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "wait_s", lambda n_failed, error: 1.0)
    error = SourceError("s", "HTTP 503")
    assert [lane.failed(error) for _ in range(8)] == [True] * 8
    clock.now += 1
    assert lane.failed(error)
    clock.now += 1
    assert not lane.failed(error)


def test_what_no_second_try_can_change_is_not_tried_again(lane: Lane) -> None:
    assert not lane.failed(NotThereError("s", "HTTP 404"))


def test_after_something_that_counts_it_is_asked_at_once(clock: Clock) -> None:
    patience = Patience(2, clock)
    patience.worked()
    assert patience.failed(SourceError("s", "cut")) == 0
    assert (patience.failed(SourceError("s", "cut")) or 0) > 0
    patience.worked()
    assert 9 <= (patience.failed(SourceError("s", "busy", retry_after_s=9)) or 0) <= 10


def test_a_network_that_is_away_is_looked_for_every_few_seconds_for_a_quarter_of_an_hour(clock: Clock) -> None:
    patience = Patience(2, clock)
    gone = SourceError("s", "no route", unreachable=True)
    patience.worked()
    began, waits = clock.now, []
    while (wait := patience.failed(gone)) is not None:
        waits.append(wait)
        clock.now += wait + 0.1
    assert 900 <= clock.now - began < 910
    assert max(waits) <= 2
    patience.worked()
    assert patience.failed(gone) == 0


def test_one_that_never_worked_is_left_after_the_retries(clock: Clock) -> None:
    patience = Patience(2, clock)
    gone = SourceError("s", "connection refused", unreachable=True)
    assert [patience.failed(gone) is None for _ in range(3)] == [False, False, True]
