"""One file from several sources, proven; who lied is found, and what is right is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from distro.errors import NotThereError
from distro.fetching.gather import Gathered, Gathering
from distro.fetching.lane import Lane
from distro.manifest import File
from distro.manners.pace import Pace
from distro.partial import Partial
from distro.pieces import tag
from distro.progress import SilentBar
from distro.proof import piece_hashes
from distro.sources import retry
from distro.store import Store
from tests.fakes import schedules
from tests.fakes.sources import Scripted

LENGTH = 16 * 1024
SIZE = 1_000_000
DATA = hashlib.shake_128(b"gather").digest(SIZE)
FILE = File("w.bin", SIZE, sha256=hashlib.sha256(DATA).hexdigest())
N = 62


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_hashes, "_SMALLEST", LENGTH)
    monkeypatch.setattr(retry, "wait_s", lambda n_failed, error: 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def partial(store: Store) -> Iterator[Partial]:
    with store.partial("m", "v", FILE) as partial:
        yield partial


class Counting(SilentBar):
    def __init__(self) -> None:
        self.n_bytes = self.n_verified = 0
        self.came: dict[str, int] = {}

    def advance(self, n_bytes: int) -> None:
        assert n_bytes >= 0
        self.n_bytes += n_bytes

    def verified(self, n_bytes: int) -> None:
        assert n_bytes >= 0
        self.n_verified += n_bytes

    def came_from(self, source: str, n_bytes: int) -> None:
        assert n_bytes > 0
        self.came[source] = self.came.get(source, 0) + n_bytes


def _gather(
    partial: Partial, *sources: Scripted, said: list[str] | None = None, bar: Counting | None = None
) -> Gathered | None:
    said = [] if said is None else said
    lanes = [Lane(source, 2, Pace()) for source in sources]
    gathering = Gathering(
        FILE, partial, partial.pieces(), lanes, None, bar or Counting(),
        lambda lane, error: said.append(str(error)), said.append,
    )  # fmt: skip
    return gathering.gather()


def _source(name: str, *flips: int, rate: float | None = 5e6) -> Scripted:
    return Scripted(name, DATA, flips=frozenset(flips), rate=rate)


def test_a_proof_says_whose_bytes_they_are_and_what_its_pieces_are(partial: Partial) -> None:
    bar = Counting()
    gathered = _gather(partial, _source("a"), _source("b"), bar=bar)
    assert gathered is not None
    assert gathered.verdict.is_right
    assert sorted(gathered.sources) == ["a", "b"]
    assert gathered.sha256 == FILE.sha256
    assert gathered.hashes is not None
    assert gathered.hashes.digests[32:64] == hashlib.sha256(DATA[LENGTH : 2 * LENGTH]).digest()
    assert (bar.n_bytes, bar.n_verified, sum(bar.came.values())) == (SIZE, SIZE, SIZE)


@pytest.mark.parametrize("flip", [5, SIZE - 5, SIZE // 2])
def test_the_one_that_lied_is_found_and_named_and_the_rest_is_kept(partial: Partial, flip: int) -> None:
    said: list[str] = []
    liar, honest = _source("liar", flip), _source("honest")
    gathered = _gather(partial, liar, honest, said=said)
    assert gathered is not None
    assert partial.path.read_bytes() == DATA
    if any("from liar" in text for text in said):
        number = flip // LENGTH
        stop = min(number * LENGTH + LENGTH, SIZE) - 1
        assert f"w.bin from liar: SHA-256 of bytes {number * LENGTH} to {stop} is " in said[-1]
    else:  # the piece that it has wrong came from the other
        assert said == []
    assert "honest" not in " ".join(said)
    assert liar.n_sent + honest.n_sent <= 3 * SIZE


def test_few_are_asked_for_again_where_few_are_suspected(store: Store) -> None:
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]
    with store.partial("m", "v", FILE) as partial:
        pieces = partial.pieces()
        for number in range(6):
            start, stop = pieces.span(number)
            partial.write_at(start, wrong[start:stop])
            pieces.add(number, hashlib.sha256(wrong[start:stop]).digest()[:16], tag("liar"))
    said: list[str] = []
    liar, honest = Scripted("liar", DATA, fails=[NotThereError("liar", "HTTP 404")]), _source("honest")
    with store.partial("m", "v", FILE) as partial:
        assert _gather(partial, liar, honest, said=said) is not None
        assert partial.path.read_bytes() == DATA
    assert [text.partition(":")[0] for text in said] == ["liar", "w.bin from liar"]
    assert honest.n_sent == SIZE - 5 * LENGTH  # of the six, the first was looked into first


def test_when_all_of_one_is_wrong_the_next_is_asked_for_what_differs(partial: Partial) -> None:
    said: list[str] = []
    liar, honest = _source("liar", *range(0, SIZE, 100_000), rate=None), _source("honest", rate=1e6)
    gathered = _gather(partial, liar, honest, said=said)
    assert gathered is not None
    assert partial.path.read_bytes() == DATA
    assert any("w.bin from liar" in text for text in said)


def test_two_that_lie_about_different_bytes_are_both_named(partial: Partial) -> None:
    said: list[str] = []
    one, two, three = _source("one", 5), _source("two", SIZE - 5), _source("three")
    gathered = _gather(partial, one, two, three, said=said)
    assert gathered is not None
    assert partial.path.read_bytes() == DATA
    assert "from three" not in " ".join(said)


def test_one_source_alone_that_lies_is_named_and_its_bytes_put_aside(store: Store, partial: Partial) -> None:
    said: list[str] = []
    assert _gather(partial, _source("liar", 5), said=said) is None
    assert said[0].startswith("w.bin from liar: sha256 is ")
    (aside,) = store.home.glob("partial/*.wrong")
    assert aside.read_bytes()[5] == DATA[5] ^ 1
    assert partial.size == 0


def test_what_an_earlier_run_left_wrong_is_replaced_and_nobody_is_blamed(store: Store) -> None:
    with store.partial("m", "v", FILE) as partial:  # of a version without journals
        partial.append(DATA[:200_000] + b"x" + DATA[200_001:500_000])
    said: list[str] = []
    source = _source("good")
    with store.partial("m", "v", FILE) as partial:
        gathered = _gather(partial, source, said=said)
        assert gathered is not None
        assert partial.path.read_bytes() == DATA
    assert len(said) == 1
    assert said[0].startswith("w.bin from an earlier run: SHA-256 of bytes 196608 to 212991 is ")
    assert gathered.sources[0] == "good"
    assert source.n_sent < SIZE


def test_what_the_disk_lost_is_fetched_again_and_nothing_else(store: Store) -> None:
    with store.partial("m", "v", FILE) as partial:
        pieces = partial.pieces()
        for number in range(40):
            start, stop = pieces.span(number)
            partial.write_at(start, DATA[start:stop])
            pieces.add(number, hashlib.sha256(DATA[start:stop]).digest()[:16], tag("good"))
        partial.write_at(7 * LENGTH + 5, bytes(4096))  # as a disk that forgot
    said: list[str] = []
    source = _source("good")
    with store.partial("m", "v", FILE) as partial:
        gathered = _gather(partial, source, said=said)
        assert gathered is not None
        assert partial.path.read_bytes() == DATA
    assert said == ["w.bin: 1 piece is not on the disk as it came; fetching that again"]
    assert source.n_sent == SIZE - 39 * LENGTH


def test_a_sender_that_is_gone_cannot_be_compared_and_all_is_kept(store: Store) -> None:
    with store.partial("m", "v", FILE) as partial:
        assert _gather(partial, Scripted("only", DATA, flips=frozenset({5}), cut_after=100)) is None
        assert len(partial.pieces()) == 0


@pytest.mark.parametrize("number", range(24))
def test_random_schedules_of_faults(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them: `python -m tests.fakes.schedules 1000`."""
    monkeypatch.setattr(piece_hashes, "_SMALLEST", schedules.LENGTH)
    monkeypatch.setattr(retry, "wait_s", lambda n_failed, error: 0.01)
    outcome = schedules.run(number, tmp_path)
    assert outcome.is_right
    if not outcome.lies:
        assert outcome.n_sent <= schedules.SIZE * 1.02
