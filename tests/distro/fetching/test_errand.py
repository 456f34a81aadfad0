"""What a swarm is sent for, with a swarm of the test's own that writes into the part file itself."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from distro.errors import SourceError, WrongBytesError
from distro.fetching import allotment
from distro.fetching.errand import Errand
from distro.fetching.lane import Lane
from distro.fetching.piece_proof import ListProof
from distro.fetching.transfer import Transfer
from distro.manifest import File
from distro.manners.pace import Pace
from distro.partial import Partial
from distro.pieces import tag
from distro.proof import piece_hashes
from distro.proof.piece_hashes import PieceHashes
from distro.store import Store
from tests.fakes.sources import Scripted

LENGTH = 16 * 1024
SIZE = 1_000_000
DATA = hashlib.shake_128(b"errand").digest(SIZE)
FILE = File("w.bin", SIZE, sha256=hashlib.sha256(DATA).hexdigest())
N = 62


@dataclass
class Swarm:
    """It brings what it claims, `step` pieces at a time, in the order of claiming.

    handed_in: numbers of pieces, in order. brings: whether it does. begin: what it does first.
    """

    step: int = 2
    step_s: float = 0.01
    brings: bool = True
    data: bytes = DATA
    has: Callable[[int], bool] = lambda number: True
    begin: Callable[[Errand], None] = lambda errand: None
    handed_in: list[int] = field(default_factory=list)
    name: str = "swarm"

    def bring(self, errand: Errand) -> None:
        self.begin(errand)
        while not errand.is_over:
            errand.claim(self.has)
            for run in errand.runs()[: self.step] if self.brings else ():
                start, stop = errand.pieces.span(run.piece)
                self.handed_in.append(run.piece)
                with errand.path.open("r+b") as part:
                    part.seek(start)
                    part.write(self.data[start:stop])
                errand.has_come(run, stop - start)
                errand.hand_in(run)
            time.sleep(self.step_s)


class Bench:
    def __init__(self, partial: Partial) -> None:
        self.partial = partial
        self.pieces = partial.pieces()
        self.spared: list[int] = []

    def of(self, *sources: Scripted | Swarm, proof: ListProof | None = None) -> Transfer:
        lanes = [Lane(source, 2, Pace()) for source in sources]
        return Transfer(FILE, self.partial, self.pieces, lanes, proof=proof, spared=self.spared.append)

    @property
    def is_right(self) -> bool:
        return self.partial.path.read_bytes() == DATA and len(self.pieces) == N

    def of_swarm(self) -> int:
        return sum(self.pieces[number].sender == tag("swarm") for number in self.pieces)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(piece_hashes, "_SMALLEST", LENGTH)
    monkeypatch.setattr(allotment, "_SETTLED_S", 0.1)
    with Store(tmp_path / "home").partial("m", "v", FILE) as partial:
        yield Bench(partial)


def test_alone_it_begins_at_the_beginning(bench: Bench) -> None:
    swarm = Swarm()
    transfer = bench.of(swarm)
    assert transfer.run()
    assert bench.is_right
    assert swarm.handed_in == list(range(N))
    assert transfer.received == {"swarm": SIZE}
    assert bench.partial.size == SIZE
    assert transfer.digests[N - 1] == hashlib.sha256(DATA[(N - 1) * LENGTH :]).digest()


def test_beside_another_it_begins_at_the_end(bench: Bench) -> None:
    swarm, other = Swarm(), Scripted("other", DATA, rate=8e5)
    assert bench.of(other, swarm).run()
    assert bench.is_right
    assert swarm.handed_in[0] == N - 1
    assert bench.of_swarm() > N // 4
    assert other.n_sent < SIZE


def test_what_no_peer_has_is_left_to_the_other(bench: Bench) -> None:
    swarm, other = Swarm(has=lambda number: number % 2 == 1), Scripted("other", DATA, rate=8e5)
    assert bench.of(other, swarm).run()
    assert bench.is_right
    assert {number % 2 for number in swarm.handed_in} <= {1}


def test_what_it_does_not_bring_is_taken_from_it_and_contested(bench: Bench) -> None:
    swarm, other = Swarm(brings=False), Scripted("other", DATA, rate=8e5)
    transfer = bench.of(other, swarm)
    assert transfer.run()
    assert bench.is_right
    assert other.n_sent < SIZE + LENGTH
    assert len(transfer.contested) >= 4
    assert max(transfer.contested) == N - 1
    assert bench.spared[-1] == min(transfer.contested) * LENGTH


def test_what_lies_beside_its_own_is_contested_until_it_brings_that_too(bench: Bench) -> None:
    def beside(errand: Errand) -> None:
        errand.contest([30, 31])

    transfer = bench.of(Swarm(begin=beside))
    assert transfer.run()
    assert bench.spared == [30 * LENGTH, 31 * LENGTH, SIZE]
    assert transfer.contested == set()


def test_one_that_gives_up_leaves_its_pieces_to_the_other(bench: Bench) -> None:
    def give_up(errand: Errand) -> None:
        errand.claim(lambda number: True)
        raise SourceError("swarm", "nothing came")

    transfer = bench.of(Swarm(begin=give_up), Scripted("other", DATA, rate=8e5))
    assert transfer.run()
    assert bench.is_right
    assert [(lane.name, str(error)) for lane, error in transfer.left] == [("swarm", "swarm: nothing came")]


def test_its_pieces_are_judged_when_it_hands_them_in(bench: Bench) -> None:
    digests = b"".join(hashlib.sha256(DATA[start : start + LENGTH]).digest() for start in range(0, SIZE, LENGTH))
    proof = ListProof(PieceHashes(SIZE, LENGTH, str(FILE.sha256), digests))
    transfer = bench.of(Swarm(data=bytes(SIZE)), Scripted("other", DATA, rate=8e5), proof=proof)
    assert transfer.run()
    assert bench.is_right
    ((lane, error),) = transfer.left
    assert lane.name == "swarm"
    assert isinstance(error, WrongBytesError)


def test_whoever_brought_what_it_finds_wrong_is_left_at_once(bench: Bench) -> None:
    def accuse(errand: Errand) -> None:
        while not (come := errand.brought(0)):
            time.sleep(0.01)
        assert errand.is_anothers(come[0])
        assert errand.read(0, 10) == DATA[:10]
        errand.accuse([come[0]], "what a torrent has")
        assert not errand.is_anothers(come[0])

    liar, swarm = Scripted("liar", DATA, rate=8e5), Swarm(begin=accuse)
    transfer = bench.of(liar, swarm)
    assert transfer.run()
    assert bench.is_right
    assert transfer.has_dropped
    assert [str(error) for _, error in transfer.left] == [
        f"w.bin from liar: bytes 0 to {LENGTH - 1} is others, expected what a torrent has"
    ]
    assert liar.n_sent < 10 * LENGTH
    assert 0 in transfer.contested or bench.pieces[0].sender == tag("swarm")
