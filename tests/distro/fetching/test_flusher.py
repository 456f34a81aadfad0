"""What arrives is brought to the disk meanwhile, one sync at a time, and an error of it is not forgotten."""

from __future__ import annotations

import threading

import pytest

from distro.errors import StorageError
from distro.fetching import flusher
from distro.fetching.flusher import Flusher


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flusher, "_EVERY", 100)


def test_it_syncs_when_there_is_enough_and_one_at_a_time() -> None:
    begun, go = threading.Semaphore(0), threading.Event()
    calls: list[int] = []

    def sync() -> None:
        calls.append(1)
        begun.release()
        go.wait(5)

    with Flusher(sync) as flushing:
        flushing.reached(99)
        assert calls == []
        flushing.reached(100)
        assert begun.acquire(timeout=5)
        flushing.reached(500)
        assert calls == [1]
        go.set()
    assert calls == [1]


def test_an_error_is_raised_where_somebody_listens() -> None:
    def broken() -> None:
        raise StorageError("w: Input/output error")

    with pytest.raises(StorageError, match="Input/output"), Flusher(broken) as flushing:
        flushing.reached(100)
    with Flusher(broken) as flushing:
        flushing.reached(100)
        while threading.active_count() > 1 and any(each.name == "flusher" for each in threading.enumerate()):
            pass
        with pytest.raises(StorageError):
            flushing.reached(101)
        flushing._fault = None


def test_nothing_is_done_for_a_small_file() -> None:
    with Flusher(lambda: pytest.fail("no need")) as flushing:
        flushing.reached(10)
