"""The bar of a file and the total, through attempts that begin again, on several threads."""

from __future__ import annotations

import io
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from distro.cli import console
from distro.fetching.bars import Bars, Total
from distro.manifest import File
from distro.progress import SilentBar

FILE = File("a.json", 100, sha256="ab" * 32)


class Meter(SilentBar):
    def __init__(self, done: int = 0) -> None:
        self.received, self.proven, self.sources = done, 0, Counter[str]()

    def advance(self, n_bytes: int) -> None:
        assert n_bytes >= 0
        before = self.received
        for _ in range(10):  # time for another thread to come in between, if one could
            pass
        self.received = before + n_bytes

    def verified(self, n_bytes: int) -> None:
        self.proven += n_bytes

    def came_from(self, source: str, n_bytes: int) -> None:
        self.sources[source] += n_bytes


class Meters:
    """Progress that keeps its bars."""

    def __init__(self) -> None:
        self.bars: list[Meter] = []

    def bar(self, title: str, total: int | None, done: int = 0) -> Meter:
        self.bars.append(Meter(done))
        return self.bars[-1]

    def say(self, text: str) -> None:
        raise AssertionError(text)


def test_a_file_of_one_piece_says_where_it_came_from_and_that_it_is_proven() -> None:
    progress, total = Meters(), Meter(40)
    bars = Bars(progress, FILE, Total(total), 40)
    with bars.begin(40, "hub a/b"):
        bars.advance(60)
        bars.verified(100)
    for meter in (progress.bars[0], total):
        assert (meter.received, meter.proven, meter.sources) == (100, 100, {"hub a/b": 60})


def test_the_total_waits_until_an_attempt_that_began_again_has_passed_it() -> None:
    progress, total = Meters(), Meter(40)
    bars = Bars(progress, FILE, Total(total), 40)
    with bars.begin(0, "folder /x"):  # a copy, which turns out to be wrong
        bars.advance(100)
    assert total.received == 100
    with bars.begin(40, "hub a/b"):
        bars.advance(60)
    assert total.received == 100
    assert [bar.received for bar in progress.bars] == [100, 100]
    assert total.sources == {"folder /x": 100, "hub a/b": 60}  # what came in vain, too


def test_the_total_knows_what_was_found_to_be_there_after_all() -> None:
    total = Meter(40)
    Bars(Meters(), FILE, Total(total), 40).begin(70)
    assert total.received == 70


def test_many_threads_lose_nothing() -> None:
    progress, total = Meters(), Meter()
    shared = Total(total)

    def bring(number: int) -> None:
        bars = Bars(progress, FILE, shared, 0)
        with bars.begin(0, "hub a/b"):
            for _ in range(100):
                bars.advance(1)
            bars.verified(100)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(bring, range(50)))
    finally:
        sys.setswitchinterval(interval)
    assert (total.received, total.proven, total.sources) == (5000, 5000, {"hub a/b": 5000})


def test_short_work_draws_no_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    progress = console.progress(quiet=False)
    with progress.bar("many", 100) as total:
        for number in range(100):
            with progress.bar(f"{number}.json", 1) as bar:
                bar.advance(1)
            total.advance(1)
    assert ".json" not in screen.getvalue()
