"""A fetch over a link with the kernel's own TCP on it: slow, lossy, cut. Only where the machine lets us make one."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distro.manifest import License
from tests.fakes.fetching import Distro
from tests.fakes.hub import FakeHub, serving
from tests.fakes.link import Link, link, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"no link can be made here: {why_not()}")

FREE = License("MIT", "https://example.org/mit", "allowed")
MOST_AGAIN = 1.7  # times the file's size: what was on its way when the link was cut, and in the system's buffers


@contextmanager
def _fetching(made: Link, base: Path, size: int) -> Iterator[tuple[Distro, FakeHub, bytes]]:
    with made.far.inside():
        started = serving(host=made.far.address)
        hub = started.__enter__()
    try:
        data = random.Random(size).randbytes(size)
        distro = Distro(base, hub, made.near.enter)
        distro.publish({"model.bin": data}, FREE)
        yield distro, hub, data
    finally:
        started.__exit__(None, None, None)


def test_long_ways_and_lost_packets_are_no_failure(tmp_path: Path) -> None:
    with link(delay_s=0.2, loss=0.03, rate=500_000) as made, _fetching(made, tmp_path, 700_000) as (distro, hub, data):
        done = distro("fetch", "tiny")
        assert done.returncode == 0, done.stderr
        assert Path(done.stdout.strip()).read_bytes() == data
        assert len(hub.transfers()) == 1


def test_a_link_that_was_away_is_used_soon_after_it_is_back(tmp_path: Path) -> None:
    """TCP itself doubles the time between its tries: after 7 s the next is 6 s away, so a new connection is needed."""
    size = 6_000_000
    with link(delay_s=0.01, rate=3e6) as made, _fetching(made, tmp_path, size) as (distro, hub, data):
        running = distro.start("fetch", "tiny")
        _await(lambda: hub.n_sent() > size / 3, 20)
        made.is_up = False
        time.sleep(7.0)
        n_before, made.is_up = hub.n_sent(), True
        _await(lambda: hub.n_sent() > n_before + 200_000, 5)
        output, told = running.communicate(timeout=40)
        assert running.returncode == 0, told
        assert Path(output.strip()).read_bytes() == data
        assert hub.n_sent() <= MOST_AGAIN * size


def _await(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.02)
