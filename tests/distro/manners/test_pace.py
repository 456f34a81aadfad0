"""Limits and hours under a clock of the test's own, where waiting takes no time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from distro.config import Settings
from distro.manners.pace import CLOCK, Clock, Pace, _Hours, _Limit, pace_of
from distro.manners.schedule import parse_schedule

KIB = 1024


@dataclass
class Faked:
    """elapsed: seconds since it began. jump: what the clock on the wall does at one of them besides."""

    wall: float = 0.0
    elapsed: float = 0.0
    jump_at: float = float("inf")
    jump: float = 0.0

    def clock(self) -> Clock:
        return Clock(lambda: self.elapsed, self._wall, self._sleep)

    def _wall(self) -> float:
        return self.wall + self.elapsed + (self.jump if self.elapsed >= self.jump_at else 0.0)

    def _sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.elapsed += seconds


def _received_in(seconds: float, faked: Faked, *spend: Callable[[int], None], n_bytes: int = 64 * KIB) -> list[int]:
    """Bytes that each of several sources gets, in turns, until so much time has passed."""
    received = [0] * len(spend)
    end = faked.elapsed + seconds
    while faked.elapsed < end:
        for index, take in enumerate(spend):
            take(n_bytes)
            received[index] += n_bytes
    return received


@pytest.mark.parametrize("rate", [1_000_000, 20_000_000, 300_000_000])
@pytest.mark.parametrize("n_bytes", [16 * KIB, 64 * KIB])
def test_ten_seconds_bring_what_the_limit_says_within_two_percent(rate: int, n_bytes: int) -> None:
    faked = Faked()
    pace = Pace([_Limit(rate)], clock=faked.clock())
    (received,) = _received_in(10, faked, pace.spend, n_bytes=n_bytes)
    assert received == pytest.approx(10 * rate, rel=0.02)


def test_after_a_long_silence_only_a_short_burst_is_free() -> None:
    faked = Faked()
    pace = Pace([_Limit(1_000_000)], clock=faked.clock())
    pace.spend(1000)
    faked.elapsed += 3600
    (received,) = _received_in(1, faked, pace.spend, n_bytes=10_000)
    assert received == pytest.approx(1_100_000, rel=0.02)


def test_sources_share_the_total_and_each_keeps_its_own_limit() -> None:
    faked, total, hub = Faked(), _Limit(20_000_000), _Limit(5_000_000)
    of_hub = Pace([total, hub], clock=faked.clock())
    of_mirror = Pace([total], clock=faked.clock())
    assert (of_hub.rate, of_mirror.rate, Pace().rate) == (5_000_000, 20_000_000, None)
    received = _received_in(10, faked, of_hub.spend, of_hub.spend)
    assert sum(received) == pytest.approx(50_000_000, rel=0.02)
    faked.elapsed += 10
    received = _received_in(10, faked, of_mirror.spend, of_mirror.spend, of_mirror.spend)
    assert sum(received) == pytest.approx(200_000_000, rel=0.02)


def test_what_could_not_be_held_up_makes_the_others_wait() -> None:
    faked, total = Faked(), _Limit(1_000_000)
    swarm, mirror = Pace([total], clock=faked.clock()), Pace([total], clock=faked.clock())
    swarm.note(5_000_000)
    assert faked.elapsed == 0
    mirror.spend(100_000)
    assert faked.elapsed == pytest.approx(5.0)


def test_real_threads_on_a_real_clock_are_together_as_fast_as_one() -> None:
    pace = Pace([_Limit(4_000_000)], clock=CLOCK)
    began, n_spent = time.monotonic(), [0] * 4

    def work(index: int) -> None:
        while time.monotonic() - began < 1.0:
            pace.spend(20_000)
            n_spent[index] += 20_000

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = sum(n_spent) / (time.monotonic() - began)
    assert rate == pytest.approx(4_000_000, rel=0.12)  # the burst is a tenth of this second
    assert min(n_spent) > 0


def test_a_wait_ends_soon_when_it_is_to_stop() -> None:
    faked = Faked()
    pace = Pace([_Limit(1000)], clock=faked.clock())
    pace.spend(1_000_000, stopped=lambda: faked.elapsed >= 3)
    assert faked.elapsed <= 3.25
    closed = Pace(hours=_Hours(parse_schedule(_closed_at(faked))), clock=faked.clock())
    closed.wait(stopped=lambda: faked.elapsed >= 5)
    assert faked.elapsed <= 5.25


def _closed_at(faked: Faked) -> str:
    """Hours that begin three hours after this moment of the local clock, and last for one."""
    minute = (lambda at: at.tm_hour * 60 + at.tm_min)(time.localtime(faked.wall + faked.elapsed))
    first, last = (minute + 180) % 1440, (minute + 240) % 1440
    return f"{first // 60:02}:{first % 60:02}-{last // 60:02}:{last % 60:02}"


def test_outside_of_the_hours_it_waits_and_says_until_when_once() -> None:
    faked, said = Faked(wall=1_780_000_020.0), list[str]()
    hours = _Hours(parse_schedule(_closed_at(faked)))
    paces = [Pace(hours=hours, say=said.append, clock=faked.clock()) for _ in range(3)]
    assert not paces[0].is_open
    for pace in paces:
        pace.spend(1)
    assert paces[0].is_open
    assert faked.elapsed == pytest.approx(3 * 3600, abs=60)
    opened = time.strftime("%Y-%m-%d %H:%M", time.localtime(faked.wall + faked.elapsed))
    assert said == [f"waiting until {opened}, as the schedule says"]


@pytest.mark.parametrize(("jump", "waited"), [(24 * 3600.0, 3 * 3600.0), (2 * 3600.0, 3600.0), (-3600.0, 4 * 3600.0)])
def test_a_clock_that_jumps_while_it_waits_is_followed(jump: float, waited: float) -> None:
    faked, said = Faked(wall=1_780_000_020.0, jump_at=600, jump=jump), list[str]()
    Pace(hours=_Hours(parse_schedule(_closed_at(faked))), say=said.append, clock=faked.clock()).wait()
    assert faked.elapsed == pytest.approx(waited, abs=60)


def test_a_clock_that_jumps_does_not_change_a_limit() -> None:
    faked = Faked(wall=1_780_000_000.0, jump_at=5, jump=-86_400.0)
    pace = Pace([_Limit(1_000_000)], clock=faked.clock())
    (received,) = _received_in(10, faked, pace.spend, n_bytes=10_000)
    assert received == pytest.approx(10_000_000, rel=0.02)


def test_all_paces_of_a_process_with_the_same_settings_share_their_limits(tmp_path: Path) -> None:
    settings = Settings(tmp_path, tmp_path, limits=(("", 7_000_000), ("hub", 3_000_000)))
    assert pace_of(settings, "hub").rate == 3_000_000
    assert pace_of(settings, "mirror").rate == 7_000_000
    assert pace_of(replace(settings, limits=()), "hub").rate is None
    pace_of(settings, "swarm").note(7_000_000)
    assert pace_of(settings, "mirror").note(0) == pytest.approx(time.monotonic() + 0.9, abs=0.1)
