"""The engine: who gets which pieces, and how they go to others when a source is slow, silent, cut or gone."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distro.errors import DiskFullError, NotThereError, SourceError, WrongBytesError
from distro.fetching import allotment
from distro.fetching.lane import Lane
from distro.fetching.piece_proof import ListProof
from distro.fetching.transfer import Transfer
from distro.manifest import File
from distro.manners.pace import Pace
from distro.partial import Partial
from distro.pieces import Pieces
from distro.proof import piece_hashes
from distro.proof.piece_hashes import PieceHashes
from distro.sources import retry
from distro.store import Store
from tests.fakes.sources import Scripted

LENGTH = 16 * 1024
SIZE = 1_000_000
DATA = hashlib.shake_128(b"transfer").digest(SIZE)
FILE = File("w.bin", SIZE, sha256=hashlib.sha256(DATA).hexdigest())
N = 62  # pieces


class Bench:
    """A part file, and transfers into it."""

    def __init__(self, partial: Partial) -> None:
        self.partial = partial
        self.pieces: Pieces = partial.pieces()
        self.arrived: list[int] = []

    def of(self, *sources: Scripted, proof: ListProof | None = None, pace: Pace | None = None) -> Transfer:
        lanes = [Lane(source, 2, pace or Pace()) for source in sources]
        return Transfer(FILE, self.partial, self.pieces, lanes, proof=proof, arrived=self.arrived.append)

    @property
    def is_right(self) -> bool:
        return self.partial.path.read_bytes() == DATA and len(self.pieces) == N


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:  # type: ignore[misc]
    monkeypatch.setattr(piece_hashes, "_SMALLEST", LENGTH)
    monkeypatch.setattr(retry, "wait_s", lambda n_failed, error: error.retry_after_s or 0.0)
    with Store(tmp_path / "home").partial("m", "v", FILE) as partial:
        yield Bench(partial)  # type: ignore[misc]


def _good(name: str = "good", rate: float | None = None) -> Scripted:
    return Scripted(name, DATA, rate=rate)


def _all_sent(*sources: Scripted) -> int:
    return sum(source.n_sent for source in sources)


def test_one_source_is_asked_once_for_all(bench: Bench) -> None:
    source = _good()
    assert bench.of(source).run()
    assert bench.is_right
    assert source.asked == [(0, SIZE)]
    assert bench.arrived[-1] == SIZE
    assert bench.arrived == sorted(bench.arrived)


def test_only_what_is_missing_is_asked_for(bench: Bench) -> None:
    for number in (0, 1, 30, 61):
        start, stop = bench.pieces.span(number)
        bench.partial.write_at(start, DATA[start:stop])
        bench.pieces.add(number, hashlib.sha256(DATA[start:stop]).digest()[:16], 7)
    source = _good()
    assert bench.of(source).run()
    assert bench.is_right
    assert source.asked == [(2 * LENGTH, 30 * LENGTH), (31 * LENGTH, 61 * LENGTH)]


def test_several_sources_share_a_file_and_nothing_comes_twice(bench: Bench) -> None:
    one, two, three = (_good(f"s{i}", rate=2e6) for i in range(3))
    began = time.monotonic()
    work = bench.of(one, two, three)
    assert work.run()
    assert bench.is_right
    assert _all_sent(one, two, three) == SIZE
    assert min(one.n_sent, two.n_sent, three.n_sent) > SIZE // 5
    assert time.monotonic() - began < 0.4  # alone, each takes half a second
    assert work.received == {"s0": one.n_sent, "s1": two.n_sent, "s2": three.n_sent}
    assert {bench.pieces[number].sender for number in range(N)} == {Lane(s, 1, Pace()).tag for s in (one, two, three)}


def test_a_slow_source_loses_its_pieces_to_a_fast_one(bench: Bench) -> None:
    slow, fast = _good("slow", rate=20_000), _good("fast", rate=4e6)
    began = time.monotonic()
    assert bench.of(slow, fast).run()
    assert bench.is_right
    assert time.monotonic() - began < 6  # alone, it takes 50 s
    assert _all_sent(slow, fast) < SIZE + 4 * LENGTH


def test_a_silent_source_holds_nobody_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allotment, "_STALLED_S", 1.0)
    silent, good = Scripted("silent", DATA, stalls=1, timeout_s=8.0), _good(rate=4e6)
    began = time.monotonic()
    assert bench.of(silent, good).run()
    assert bench.is_right
    assert time.monotonic() - began < 6
    assert silent.n_sent == 0


def test_a_connection_that_has_gone_silent_gets_another_beside_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an outage, when TCP looks for the other side ever more rarely."""
    monkeypatch.setattr(allotment, "_STALLED_S", 1.0)
    monkeypatch.setattr(allotment, "_SILENT_S", 0.8)
    source = Scripted("good", DATA, stalls=1, timeout_s=20.0, rate=4e6)
    began = time.monotonic()
    assert bench.of(source).run()
    assert bench.is_right
    assert time.monotonic() - began < 8
    assert source.most_open == 2


@pytest.mark.parametrize("cut_after", [100_000, 20_000])
def test_a_source_that_is_cut_goes_on_at_that_byte(bench: Bench, cut_after: int) -> None:
    source = Scripted("cut", DATA, cut_after=cut_after)
    assert bench.of(source).run()
    assert bench.is_right
    assert source.n_sent == SIZE
    assert source.asked[1][0] == cut_after


def test_a_connection_too_many_that_is_cut_brings_the_piece_that_it_is_at(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cut is in the middle of a piece, and connections come and go, as they are not worth it."""
    monkeypatch.setattr("distro.fetching.lane._WINDOW_S", 0.1)
    monkeypatch.setattr("distro.fetching.lane._HOLD_S", 0.1)
    monkeypatch.setattr("distro.fetching.lane._WORTH", 100.0)
    monkeypatch.setattr(allotment, "MEASURE_S", 0.05)
    source = Scripted("cut", DATA, rate=3e5, cut_after=LENGTH + 1000)
    assert bench.of(source).run()
    assert bench.is_right
    assert source.most_open > 1
    assert source.n_sent <= SIZE + LENGTH


def test_a_source_that_gives_nothing_is_left(bench: Bench) -> None:
    source = Scripted("dead", DATA, cut_after=100)
    work = bench.of(source)
    assert not work.run()
    assert len(source.asked) == 3
    assert [str(error) for _, error in work.left] == ["dead: the connection was cut"]


def test_one_that_lacks_the_file_leaves_it_to_the_others(bench: Bench) -> None:
    none, good = Scripted("none", DATA, fails=[NotThereError("none", "HTTP 404")]), _good()
    work = bench.of(none, good)
    assert work.run()
    assert bench.is_right
    assert [(lane.name, type(error)) for lane, error in work.left] == [("none", NotThereError)]
    assert len(none.asked) == 1


def test_what_it_asks_us_to_wait_is_waited(bench: Bench) -> None:
    source = Scripted("busy", DATA, fails=[SourceError("busy", "HTTP 429", retry_after_s=0.5)])
    began = time.monotonic()
    assert bench.of(source).run()
    assert 0.5 <= time.monotonic() - began < 2
    assert bench.is_right


def test_connections_are_added_and_taken_back_where_they_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distro.fetching.lane._WINDOW_S", 0.2)
    monkeypatch.setattr("distro.fetching.lane._WORTH", 0.0)  # each looks as if it helped
    monkeypatch.setattr(allotment, "MEASURE_S", 0.1)
    source = Scripted("few", DATA, rate=3e5, most_at_once=3)
    work = bench.of(source)
    assert work.run()
    assert bench.is_right
    assert source.most_open >= 3
    assert not work.left


def test_one_without_ranges_is_read_from_the_beginning(bench: Bench) -> None:
    start, stop = bench.pieces.span(0)
    bench.partial.write_at(0, DATA[start:stop])
    bench.pieces.add(0, b"x" * 16, 7)
    source = Scripted("whole", DATA, is_ranged=False)
    assert bench.of(source).run()
    assert bench.is_right
    assert source.asked == [(LENGTH, SIZE), (LENGTH, None)]


def test_one_without_ranges_leaves_the_work_to_those_with(bench: Bench) -> None:
    whole, good = Scripted("whole", DATA, is_ranged=False), _good(rate=4e6)
    assert bench.of(whole, good).run()
    assert bench.is_right
    assert whole.n_sent == 0
    assert good.n_sent == SIZE


def test_a_wrong_piece_is_judged_when_it_comes(bench: Bench) -> None:
    digests = b"".join(hashlib.sha256(DATA[start : start + LENGTH]).digest() for start in range(0, SIZE, LENGTH))
    proof = ListProof(PieceHashes(SIZE, LENGTH, str(FILE.sha256), digests))
    liar, good = Scripted("liar", DATA, flips=frozenset({5, SIZE - 5}), rate=4e6), _good(rate=4e6)
    work = bench.of(liar, good, proof=proof)
    assert work.run()
    assert bench.is_right
    ((lane, error),) = work.left
    assert lane.name == "liar"
    assert isinstance(error, WrongBytesError)
    assert str(error).startswith("w.bin from liar: SHA-256 of bytes ")
    assert _all_sent(liar, good) <= SIZE + LENGTH


def test_the_disk_is_heard_at_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    write_at = bench.partial.write_at

    def full(offset: int, data: memoryview) -> None:
        if offset > SIZE // 2:
            raise DiskFullError("no room")
        write_at(offset, data)

    monkeypatch.setattr(bench.partial, "write_at", full)
    with pytest.raises(DiskFullError):
        bench.of(_good()).run()
    assert len(bench.pieces) > 25


def test_nothing_is_written_after_it_was_stopped(bench: Bench) -> None:
    slow = _good(rate=1e6)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.of(slow).run(stop)
    size = bench.partial.path.stat().st_size
    time.sleep(0.15)
    assert bench.partial.path.stat().st_size == size
    _until(lambda: slow.n_open == 0)


def test_progress_only_grows_and_ends_at_the_size(bench: Bench) -> None:
    seen: list[int] = []
    work = bench.of(_good("a", rate=3e6), _good("b", rate=3e6))
    assert work.run(lambda: seen.append(work.n_here))
    assert seen == sorted(seen)
    assert seen[-1] == SIZE


def test_a_limit_holds_for_all_together(bench: Bench) -> None:
    from distro.config import Settings
    from distro.manners.pace import pace_of

    pace = pace_of(Settings(Path(), Path(), limits=(("", 2_000_017),)), "hub")
    began = time.monotonic()
    assert bench.of(_good("a"), _good("b"), pace=pace).run()
    assert 0.35 < time.monotonic() - began < 1.5
    assert bench.is_right


def test_no_threads_are_left(bench: Bench) -> None:
    before = threading.active_count()
    assert bench.of(_good("a", rate=4e6), _good("b", rate=4e6)).run()
    _until(lambda: threading.active_count() == before)


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
