"""One source that several threads bring whole files from, against sources in memory that go wrong by a plan."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distro.errors import NotPermittedError, NotThereError, SourceError
from distro.fetching.turns import StoppedError, Turns
from distro.manifest import File
from distro.manners.pace import Pace, _Limit
from distro.progress import SilentBar
from distro.sources import retry
from distro.store import Store
from tests.fakes.sources import Scripted

DATA = bytes(range(256)) * 200  # 51,200 bytes


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "wait_s", lambda n_failed, error: error.retry_after_s or 0.0)


def _turns(source: Scripted, *, most: int = 8, retries: int = 2, pace: Pace | None = None) -> Turns:
    return Turns(source, pace or Pace(), retries=retries, most=most, stopped=threading.Event())


def _bring(turns: Turns, home: Path, number: int) -> bytes:
    file = File(f"{number}.json", len(DATA), sha256=f"{number:064x}")
    with Store(home).partial("m", "v", file) as partial:
        turns.transfer(file, partial, SilentBar())
        return partial.path.read_bytes()


def _bring_all(turns: Turns, home: Path, n: int) -> list[bytes]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda number: _bring(turns, home, number), range(n)))


def test_so_many_at_once_and_no_more(tmp_path: Path) -> None:
    source = Scripted("s", DATA, rate=5e6)
    assert _bring_all(_turns(source, most=5), tmp_path, 20) == [DATA] * 20
    assert source.most_open == 5
    assert source.n_sent == 20 * len(DATA)


@pytest.mark.parametrize("most_at_once", [1, 2, 3])
def test_a_source_that_takes_few_connections_gives_all_files(tmp_path: Path, most_at_once: int) -> None:
    source = Scripted("s", DATA, rate=20e6, most_at_once=most_at_once)
    assert _bring_all(_turns(source), tmp_path, 40) == [DATA] * 40
    assert len(source.asked) <= 60  # what was asked for in vain


def test_a_wait_that_one_is_told_holds_for_all(tmp_path: Path) -> None:
    source = Scripted("s", DATA, fails=[SourceError("s", "HTTP 429", retry_after_s=0.5)])
    began = time.monotonic()
    moments: list[float] = []
    read = source.read

    def timed(file: File, offset: int, stop: int | None = None) -> object:
        moments.append(time.monotonic() - began)
        return read(file, offset, stop)

    source.read = timed  # type: ignore[assignment, method-assign]
    turns = _turns(source, most=1)
    assert _bring_all(turns, tmp_path, 8) == [DATA] * 8
    assert moments[0] < 0.4
    assert min(moments[1:]) >= 0.5


def test_a_source_that_gives_nothing_is_given_up_by_all_after_the_retries_of_one(tmp_path: Path) -> None:
    source = Scripted("s", DATA, fails=[SourceError("s", f"HTTP 500, the {n}th") for n in range(100)])
    turns = _turns(source)
    with ThreadPoolExecutor(8) as pool:
        errors = [pool.submit(_bring, turns, tmp_path, number).exception() for number in range(20)]
    assert len({str(error) for error in errors}) == 1
    assert all(isinstance(error, SourceError) for error in errors)
    assert len(source.asked) <= 3 * 8  # 8 at once, then 4, 2, 1 and its retries


def test_alone_it_is_asked_as_often_as_ever(tmp_path: Path) -> None:
    source = Scripted("s", DATA, fails=[SourceError("s", "HTTP 500") for _ in range(100)])
    with pytest.raises(SourceError):
        _bring(_turns(source, retries=4), tmp_path, 0)
    assert len(source.asked) == 5


def test_a_link_that_is_cut_again_and_again_finishes_and_nothing_comes_twice(tmp_path: Path) -> None:
    source = Scripted("s", DATA, cut_after=20_000)
    assert _bring_all(_turns(source), tmp_path, 10) == [DATA] * 10
    assert source.n_sent == 10 * len(DATA)


def test_a_source_without_one_file_has_the_others(tmp_path: Path) -> None:
    source = Scripted("s", DATA, fails=[NotThereError("s", "HTTP 404")])
    turns = _turns(source)
    with pytest.raises(NotThereError):
        _bring(turns, tmp_path, 0)
    assert _bring(turns, tmp_path, 1) == DATA


def test_a_source_that_forbids_is_not_asked_again(tmp_path: Path) -> None:
    source = Scripted("s", DATA, fails=[NotPermittedError("s", "HTTP 403")])
    turns = _turns(source)
    for number in range(3):
        with pytest.raises(NotPermittedError):
            _bring(turns, tmp_path, number)
    assert len(source.asked) == 1


def test_the_limit_holds_for_all_together(tmp_path: Path) -> None:
    turns = _turns(Scripted("s", DATA), pace=Pace([_Limit(500_000)]))
    began = time.monotonic()
    _bring_all(turns, tmp_path, 10)
    assert 0.8 <= time.monotonic() - began < 3  # 512,000 bytes, of which 50,000 may come at once


@pytest.mark.parametrize("trouble", ["slow", "waits for its turn", "asked to wait"])
def test_whoever_is_told_to_stop_ends_and_keeps_what_came(tmp_path: Path, trouble: str) -> None:
    source = Scripted("s", DATA, rate=50_000)
    if trouble == "asked to wait":
        source.fails = [SourceError("s", "HTTP 429", retry_after_s=60)]
    turns = _turns(source, most=1)
    with ThreadPoolExecutor(2) as pool:
        n_jobs = 2 if trouble == "waits for its turn" else 1
        jobs = [pool.submit(_bring, turns, tmp_path, number) for number in range(n_jobs)]
        time.sleep(0.5)
        turns._stopped.set()
        began = time.monotonic()
        assert all(isinstance(job.exception(), StoppedError) for job in jobs)
        assert time.monotonic() - began < 1.5
    if trouble != "asked to wait":
        (part,) = (tmp_path / "partial").glob("*.part")
        assert DATA.startswith(part.read_bytes())
