"""A swarm fills the same part file as other sources, at the same time: real peers on loopback, scripted others."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import libtorrent as lt
import pytest

from distro.errors import SourceError
from distro.fetching.gather import Gathered, Gathering
from distro.fetching.lane import Lane
from distro.fetching.piece_proof import PieceProof, proof_of
from distro.manifest import File, Variant
from distro.manners.pace import Pace
from distro.partial import Partial
from distro.pieces import tag
from distro.proof import piece_hashes
from distro.sources import retry
from distro.sources.base import PieceSource
from distro.sources.swarm import open_swarm
from distro.store import Store
from distro.swarm.torrent import Torrent, read
from tests.distro.fetching.test_gather import Counting
from tests.fakes.peer import HoldingPeer, holding_peer
from tests.fakes.sources import Scripted
from tests.fakes.swarm import lying_peer, session_settings, settings
from tests.fakes.torrents import torrent_of, write

KIB = 1024
LENGTH = 64 * KIB
SIZE = 3_000_000
DATA = hashlib.shake_128(b"filling").digest(SIZE)
N = 46
FILES = {"a": b"a" * 100_001, "w.bin": DATA, "z": b"z" * 70_000}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_hashes, "_SMALLEST", LENGTH)
    monkeypatch.setattr(retry, "wait_s", lambda n_failed, error: 0.0)


@dataclass
class Bench:
    """A torrent, the file that is to come of it, and how it went."""

    folder: Path
    home: Path
    path: Path
    torrent: Torrent
    file: File
    said: list[str] = field(default_factory=list)
    bar: Counting = field(default_factory=Counting)

    @property
    def name(self) -> str:
        return f"swarm {self.torrent.infohash[:16]}"

    def swarm(self, *peers: tuple[str, int], timeout_s: float = 5.0, reference: str | None = None) -> PieceSource:
        source = open_swarm(
            settings(self.home, timeout_s=timeout_s), reference or str(self.path), _variant(self.file), peers=peers
        )
        assert hasattr(source, "bring")
        return source

    def partial(self) -> Partial:
        return Store(self.home).partial("m", "v", self.file)

    def gather(
        self, partial: Partial, *sources: Scripted | PieceSource, proof: PieceProof | None = None
    ) -> Gathered | None:
        lanes = [Lane(source, 2, Pace()) for source in sources]
        try:
            return Gathering(
                self.file, partial, partial.pieces(), lanes, proof, self.bar,
                lambda lane, error: self.said.append(str(error)), self.said.append,
            ).gather()  # fmt: skip
        finally:
            for source in sources:
                source.close()

    def is_right(self, partial: Partial) -> bool:
        return partial.path.read_bytes() == DATA and not list(self.home.rglob("*.swarm"))


def _bench(tmp_path: Path, kind: str, *, piece_length: int = 32 * KIB, files: dict[str, bytes] = FILES) -> Bench:
    folder = write(tmp_path / "source", files)
    path = tmp_path / "x.torrent"
    path.write_bytes(torrent_of(folder, kind, piece_length))
    torrent = read(path)
    root = next(file.pieces_root for file in torrent.files if file.path == "w.bin")
    file = File("w.bin", SIZE, sha256=hashlib.sha256(DATA).hexdigest(), pieces_root=root)
    return Bench(folder, tmp_path / "home", path, torrent, file)


def _variant(file: File, *sources: str) -> Variant:
    return Variant("v", "safetensors", (file,), sources)


def _honest(bench: Bench, limit: int = 0) -> AbstractContextManager[tuple[str, int]]:
    return lying_peer(bench.torrent, bench.folder, limit=limit)  # which tells the truth here


@pytest.mark.parametrize(
    ("kind", "files"),
    [("v2", FILES), ("hybrid", FILES), ("v1", {"w.bin": DATA}), ("v1", FILES)],
    ids=["v2", "hybrid", "v1 of one file", "v1 of several, whose pieces do not line up"],
)
def test_both_fill_one_file(tmp_path: Path, kind: str, files: dict[str, bytes]) -> None:
    bench = _bench(tmp_path, kind, files=files)
    with _honest(bench) as peer, bench.partial() as partial:
        gathered = bench.gather(partial, Scripted("http", DATA, rate=7e5), bench.swarm(peer))
        assert bench.is_right(partial)
    assert gathered is not None
    assert sorted(gathered.sources) == ["http", bench.name]
    assert min(bench.bar.came.values()) > SIZE // 20
    assert sum(bench.bar.came.values()) < 1.15 * SIZE
    assert (bench.bar.n_bytes, bench.bar.n_verified) == (SIZE, SIZE)
    assert bench.said == []


@pytest.mark.parametrize("kind", ["v2", "v1"])
def test_a_swarm_alone_goes_the_same_way(tmp_path: Path, kind: str) -> None:
    bench = _bench(tmp_path, kind)
    with _honest(bench) as peer, bench.partial() as partial:
        gathered = bench.gather(partial, bench.swarm(peer))
        assert bench.is_right(partial)
    assert gathered is not None
    assert gathered.sources == (bench.name,)
    assert gathered.hashes is not None


def test_the_proof_follows_a_swarm_that_is_alone(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "v1")
    seen: list[tuple[int, int]] = []
    advance = bench.bar.advance

    def look(n_bytes: int) -> None:
        advance(n_bytes)
        seen.append((bench.bar.n_bytes, bench.bar.n_verified))

    bench.bar.advance = look  # type: ignore[method-assign]
    with _honest(bench, limit=1_500_000) as peer, bench.partial() as partial:
        bench.gather(partial, bench.swarm(peer))
    assert max(verified for here, verified in seen if here < SIZE * 0.9) > SIZE // 3


def test_when_the_swarm_dies_the_other_ends_it(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "v2")
    with ExitStack() as stack, bench.partial() as partial:
        peer = stack.enter_context(_honest(bench, limit=300_000))
        http = Scripted("http", DATA, rate=6e5)
        threading.Timer(2.0, stack.close).start()
        gathered = bench.gather(partial, http, bench.swarm(peer, timeout_s=20))
        assert bench.is_right(partial)
    assert gathered is not None
    assert bench.name in gathered.sources
    assert http.n_sent < SIZE


def test_when_the_other_dies_the_swarm_ends_it(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "v2")
    with _honest(bench) as peer, bench.partial() as partial:
        gathered = bench.gather(partial, _FailsLater("http", DATA, rate=1e6), bench.swarm(peer))
        assert bench.is_right(partial)
    assert gathered is not None
    assert gathered.sources == (bench.name, "http")
    assert bench.said == ["http: gone"]


class _FailsLater(Scripted):
    """Gone after 300 kB."""

    def _send(self, offset: int, stop: int) -> Iterator[memoryview]:
        for view in super()._send(offset, stop):
            if self.n_sent > 300_000:
                raise SourceError(self.name, "gone")
            yield view


def test_a_lying_peer_beside_an_honest_source_is_named_and_costs_little(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "v2")
    poison = write(tmp_path / "poison" / "source", {name: bytes(len(data)) for name, data in FILES.items()})
    with lying_peer(bench.torrent, poison) as liar, bench.partial() as partial:
        gathered = bench.gather(partial, Scripted("http", DATA, rate=1e6), bench.swarm(liar))
        assert bench.is_right(partial)
    assert gathered is not None
    assert gathered.sources == ("http",)
    assert "wrong bytes, and peer 127.0.0.2 had a part in them" in bench.said[0]
    assert bench.bar.came[bench.name] < SIZE // 3


def test_a_liar_an_honest_peer_and_another_source(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "hybrid")
    poison = write(tmp_path / "poison" / "source", {name: bytes(len(data)) for name, data in FILES.items()})
    with (
        lying_peer(bench.torrent, poison, host="127.0.0.3") as liar,
        _honest(bench) as peer,
        bench.partial() as partial,
    ):
        gathered = bench.gather(partial, Scripted("http", DATA, rate=3e5), bench.swarm(liar, peer))
        assert bench.is_right(partial)
    assert gathered is not None
    assert bench.name in gathered.sources


def test_a_wrong_source_beside_an_honest_swarm_is_named_by_the_torrent(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "v2")
    proof = proof_of(bench.file, _variant(bench.file, str(bench.path)))
    assert proof is not None
    with _honest(bench) as peer, bench.partial() as partial:
        wrong = Scripted("wrong", DATA, flips=frozenset({500_000}), rate=1e6)
        gathered = bench.gather(partial, wrong, bench.swarm(peer), proof=proof)
        assert bench.is_right(partial)
    assert gathered is not None
    assert bench.said[0].startswith("w.bin from wrong: SHA-256 of bytes 458752 to 524287")


def test_a_wrong_source_is_found_where_only_the_whole_can_be_proven(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "v1")
    with _honest(bench) as peer, bench.partial() as partial:
        wrong = Scripted("wrong", DATA, flips=frozenset({5}), rate=1e6)
        gathered = bench.gather(partial, wrong, bench.swarm(peer))
        assert bench.is_right(partial)
    assert gathered is not None
    assert any(text.startswith("w.bin from wrong:") for text in bench.said)
    assert not any(text.startswith(f"w.bin from {bench.name}") for text in bench.said)


# What may be overwritten


@pytest.mark.parametrize("n_blocks", [1, None])
def test_late_wrong_blocks_over_what_another_brought_are_found(tmp_path: Path, n_blocks: int | None) -> None:
    """A peer keeps what it was asked for until the piece has come otherwise, and then sends something else."""
    bench = _bench(tmp_path, "v1", piece_length=LENGTH, files={"w.bin": DATA})
    infohash = bytes.fromhex(str(bench.torrent.infohash_v1))
    with holding_peer(infohash, N, {N - 1: DATA[(N - 1) * LENGTH :]}) as peer, bench.partial() as partial:
        http = _Waiting("http", DATA, rate=1e6)
        http.peer, http.path, http.n_blocks = peer, partial.path, n_blocks
        gathered = bench.gather(partial, http, bench.swarm(peer.address, timeout_s=20))
        assert bench.is_right(partial)
    assert gathered is not None
    assert http.was_overwritten, (peer.asked, http.asked)
    assert bench.said[-1] == "w.bin: 1 piece is not on the disk as it came; fetching that again"


class _Waiting(Scripted):
    """When it is asked for the second piece that a peer holds back, the first is overwritten by that peer."""

    peer: HoldingPeer
    path: Path
    n_blocks: int | None
    was_overwritten = False
    _stolen: int | None = None

    def _send(self, offset: int, stop: int) -> Iterator[memoryview]:
        number = offset // LENGTH
        if stop - offset <= LENGTH and any(piece == number for piece, _, _ in self.peer.asked):
            if self._stolen is None:
                self._stolen = number
            elif not self.was_overwritten:
                self._overwrite(self._stolen)
        yield from super()._send(offset, stop)

    def _overwrite(self, number: int) -> None:
        self.peer.let_go(number, lambda piece, offset, length: b"!" * length, n_most=self.n_blocks)
        with self.path.open("rb") as stream:
            _until(lambda: stream.seek(number * LENGTH) >= 0 and b"!!!!" in stream.read(LENGTH))
        self.was_overwritten = True


# What others get from us


def test_what_another_source_brought_is_passed_on_meanwhile(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "hybrid")
    with _leecher(bench, tmp_path / "leecher") as (address, handle), bench.partial() as partial:
        gathered = bench.gather(partial, Scripted("http", DATA, rate=1e6), bench.swarm(address))
        assert bench.is_right(partial)
        n_bytes = handle.status().total_payload_download
        handle.flush_cache()
    assert gathered is not None
    assert gathered.sources == ("http",)
    assert n_bytes > SIZE // 4
    got = (tmp_path / "leecher" / "source" / "w.bin").read_bytes()
    assert got[: 10 * KIB] == DATA[: 10 * KIB]


def test_what_was_passed_on_and_is_wrong_tells_who_brought_it(tmp_path: Path) -> None:
    """Without any other judge of pieces, such as with a magnet link: libtorrent hashes what it is fed."""
    bench = _bench(tmp_path, "v2")
    with (
        _leecher(bench, tmp_path / "leecher") as (address, _),
        lying_peer(bench.torrent, bench.folder, limit=1_000_000) as peer,
        bench.partial() as partial,
    ):
        wrong = Scripted("wrong", DATA, flips=frozenset({700_000}), rate=5e5)
        gathered = bench.gather(partial, wrong, bench.swarm(address, peer))
        assert bench.is_right(partial)
    assert gathered is not None
    assert bench.said == [
        f"w.bin from wrong: bytes 655360 to 720895 is others, expected what torrent {bench.torrent.infohash[:16]} has"
    ]


@contextmanager
def _leecher(bench: Bench, folder: Path) -> Iterator[tuple[tuple[str, int], lt.torrent_handle]]:
    """A foreign client that has nothing yet."""
    session = lt.session(session_settings("127.0.0.4"))  # type: ignore[arg-type]
    params = lt.load_torrent_buffer(bench.torrent.encode())
    folder.mkdir()
    params.save_path = str(folder)
    params.flags &= ~lt.torrent_flags.auto_managed & ~lt.torrent_flags.paused
    handle = session.add_torrent(params)
    _until(lambda: session.listen_port() != 0)
    try:
        yield ("127.0.0.4", session.listen_port()), handle
    finally:
        session.pause()


# What nothing waits for


def test_a_magnet_that_nobody_answers_holds_nobody_up(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "v2")
    with socket.socket() as nobody, bench.partial() as partial:
        nobody.bind(("127.0.0.1", 0))
        began = time.monotonic()
        gathered = bench.gather(
            partial, Scripted("http", DATA), bench.swarm(nobody.getsockname(), reference=bench.torrent.magnet())
        )
        took = time.monotonic() - began
        assert bench.is_right(partial)
    assert gathered is not None
    assert gathered.sources == ("http",)
    assert took < 1.5
    assert bench.said == []


def test_a_swarm_without_peers_is_left_and_the_other_goes_on(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "v2")
    with socket.socket() as nobody, bench.partial() as partial:
        nobody.bind(("127.0.0.1", 0))
        http = Scripted("http", DATA, rate=1.5e6)
        gathered = bench.gather(partial, http, bench.swarm(nobody.getsockname(), timeout_s=0.5))
        assert bench.is_right(partial)
    assert gathered is not None
    assert bench.said == [f"{bench.name}: w.bin: nothing came in 0.5 s (0 of 1 known peers connected)"]
    assert len(http.asked) == 1


def test_a_magnet_fills_beside_another(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "hybrid")
    with _honest(bench) as peer, bench.partial() as partial:
        gathered = bench.gather(
            partial, Scripted("http", DATA, rate=6e5), bench.swarm(peer, reference=bench.torrent.magnet())
        )
        assert bench.is_right(partial)
    assert gathered is not None
    assert sorted(gathered.sources) == ["http", bench.name]


# What is kept


def test_what_both_brought_is_kept_for_the_next_run(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "v2")

    class Stopped(Exception):
        pass

    def stop(n_bytes: int) -> None:
        bench.bar.n_bytes += n_bytes
        if bench.bar.came.get(bench.name, 0) > SIZE // 5 and bench.bar.n_bytes > SIZE // 2:
            raise Stopped

    with _honest(bench) as peer:
        with bench.partial() as partial:
            bench.bar.advance = stop  # type: ignore[method-assign]
            with suppress(Stopped):
                bench.gather(partial, Scripted("http", DATA, rate=5e5), bench.swarm(peer))
        bench.bar = Counting()
        with bench.partial() as partial:
            pieces = partial.pieces()
            senders = {pieces[number].sender for number in pieces}
            n_kept = pieces.n_bytes
            assert senders == {tag("http"), tag(bench.name)}
            gathered = bench.gather(partial, Scripted("http", DATA, rate=1e6), bench.swarm(peer))
            assert bench.is_right(partial)
    assert gathered is not None
    assert n_kept > SIZE // 3
    assert sum(bench.bar.came.values()) < 1.1 * (SIZE - n_kept) + 2 * LENGTH


def test_a_torrent_of_another_file_leaves_it_to_the_other(tmp_path: Path) -> None:
    bench = _bench(tmp_path, "v2")
    with _honest(bench) as peer, bench.partial() as partial:
        bench.file = File("w.bin", SIZE, sha256=bench.file.sha256, pieces_root="0" * 64)
        gathered = bench.gather(partial, Scripted("http", DATA), bench.swarm(peer))
    assert gathered is not None
    assert len(bench.said) == 1
    assert "w.bin: pieces_root in the torrent is " in bench.said[0]


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
