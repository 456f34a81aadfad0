"""Several jobs at once that look as if they were done one after another."""

from __future__ import annotations

import threading
import time

import pytest

from distro.fetching.several import Several


def test_answers_come_in_order_whatever_ends_first() -> None:
    begun: list[int] = []

    def do(number: int) -> str:
        begun.append(number)
        time.sleep(0.02 * (10 - number) / 10)
        return f"{number}"

    with Several(range(10), do, n_threads=4, stop=lambda: None) as several:
        assert list(several.answers()) == [(number, f"{number}") for number in range(10)]
    assert sorted(begun) == list(range(10))


def test_the_first_goes_alone_and_then_so_many_at_once() -> None:
    running: set[int] = set()
    seen: list[set[int]] = []
    lock = threading.Lock()

    def do(number: int) -> str:
        with lock:
            running.add(number)
            seen.append(set(running))
        time.sleep(0.02)
        with lock:
            running.remove(number)
        return "done"

    with Several(range(30), do, n_threads=3, stop=lambda: None) as several:
        list(several.answers())
    assert seen[0] == {0}
    assert all(0 not in each for each in seen[1:])
    assert max(map(len, seen)) == 3


def test_no_more_threads_than_jobs_or_than_allowed() -> None:
    before = threading.active_count()
    most = 0

    def do(number: int) -> str:
        nonlocal most
        most = max(most, threading.active_count())
        return "done"

    with Several(range(5000), do, n_threads=8, stop=lambda: None) as several:
        assert sum(1 for _ in several.answers()) == 5000
    assert most <= before + 8
    assert threading.active_count() == before
    with Several([], do, n_threads=8, stop=lambda: None) as several:
        assert list(several.answers()) == []


def test_one_that_failed_holds_up_those_that_have_not_begun_until_it_is_made_up_for() -> None:
    begun: list[int] = []

    def do(number: int) -> str | None:
        begun.append(number)
        return None if number == 2 else "done"

    with Several(range(20), do, n_threads=2, stop=lambda: None) as several:
        for number, answer in several.answers():
            if number == 2:
                assert answer is None
                time.sleep(0.05)
                assert len(begun) <= 4  # what the other thread was at, and what it took before
            else:
                assert answer == "done"
    assert sorted(begun) == list(range(20))


def test_the_error_is_that_of_the_first_in_order_and_no_other_begins() -> None:
    begun: list[int] = []
    late = threading.Event()

    def do(number: int) -> str:
        begun.append(number)
        if number == 3:
            late.set()
            raise ValueError("of three, at once")
        if number == 1:
            assert late.wait(5)
            time.sleep(0.05)
            raise KeyError("of one, later")
        return "done"

    stopped = threading.Event()
    with (
        pytest.raises(KeyError, match="of one"),
        Several(range(100), do, n_threads=4, stop=stopped.set) as several,
    ):
        list(several.answers())
    assert stopped.is_set()
    assert len(begun) <= 8


def test_whoever_is_interrupted_does_not_wait_for_threads_that_hang() -> None:
    hangs, stopped = threading.Event(), threading.Event()

    def do(number: int) -> str:
        hangs.wait(20)
        return "done"

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Several(range(3), do, n_threads=3, stop=stopped.set):
        raise KeyboardInterrupt
    assert time.monotonic() - began < 1.5
    assert stopped.is_set()
    hangs.set()
