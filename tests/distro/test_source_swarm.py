"""Files out of a swarm on loopback: two processes, two homes, real peers."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import time
from dataclasses import replace
from pathlib import Path

import libtorrent as lt
import pytest

from distro.errors import NotThereError, SourceError, WrongBytesError
from distro.fetch import fetch
from distro.manifest import File, Model, Variant
from distro.manners.pace import Clock, Pace, _Hours
from distro.progress import Silent
from distro.sources.swarm import find_torrent, open_swarm
from distro.store import Store
from distro.swarm.make import make
from distro.swarm.torrent import read
from distro.swarm.variant import variant_from_torrent
from tests.fakes.swarm import CountingBar, end, lying_peer, seeding, settings, start

KIB = 1024


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three files whose names sort otherwise than their sizes, one of them empty."""
    folder = tmp_path / "shards"
    folder.mkdir()
    generator = random.Random(7)
    (folder / "a.safetensors").write_bytes(generator.randbytes(3_000_001))
    (folder / "b.safetensors").write_bytes(generator.randbytes(1_000_000))
    (folder / "config.json").write_bytes(b"{}")
    (folder / "empty").write_bytes(b"")
    return folder


def test_a_magnet_brings_a_model_from_another_process(shards: Path, tmp_path: Path) -> None:
    home = settings(tmp_path / "home")
    with seeding(shards) as seeder:
        torrent = find_torrent(home, f"{seeder.magnet}&tr=http://127.0.0.1/", peers=[seeder.peer])
        model, variant = variant_from_torrent(torrent, source=seeder.magnet)
        place = fetch(home, model, variant, progress=Silent(), peers=[seeder.peer])

    assert {file.name: file.read_bytes() for file in place.iterdir() if file.name != "receipt.json"} == {
        file.name: file.read_bytes() for file in shards.iterdir()
    }
    assert make(place) == replace(torrent, dropped=())
    assert [line.partition(":")[0] for line in torrent.dropped] == ["tracker http"]
    assert not list((tmp_path / "home" / "partial").glob("*.swarm"))
    assert 4_000_003 <= seeder.uploaded < 4_200_000


def test_only_the_file_that_is_asked_for_arrives(shards: Path, tmp_path: Path) -> None:
    torrent = make(shards)
    (tmp_path / "x.torrent").write_bytes(torrent.encode())
    model, variant = variant_from_torrent(torrent, source=str(tmp_path / "x.torrent"))
    home = settings(tmp_path / "home")
    with seeding(shards) as seeder:
        fetch(home, model, variant, progress=Silent(), only="b.*", peers=[seeder.peer])

    here = {path.name for path in (tmp_path / "home" / "models").rglob("*") if path.is_file()}
    assert here == {"b.safetensors", "receipt.json"}
    assert 1_000_000 <= seeder.uploaded < 1_100_000


def test_a_leecher_that_was_killed_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    size = 6_000_000
    data = random.Random(1).randbytes(size)
    (folder / "model.gguf").write_bytes(data)
    home = settings(tmp_path / "home")
    with seeding(folder, limit=3_000_000) as seeder:
        leecher = start("fetch", str(home.home), seeder.magnet, str(seeder.peer[1]), "model.gguf")
        try:
            assert leecher.stdout is not None
            arrived = 0
            while arrived < 2_000_000:
                arrived += json.loads(leecher.stdout.readline())["arrived"]
        finally:
            end(leecher)  # SIGKILL

        model, variant = variant_from_torrent(make(folder))
        bar = CountingBar()
        with Store(home.home).partial(model.name, variant.name, variant.files[0]) as partial:
            open_source = open_swarm(home, seeder.magnet, variant, peers=[seeder.peer])
            open_source.transfer(variant.files[0], partial, bar)
            open_source.close()
            assert partial.path.read_bytes() == data

    assert sum(bar.steps) == size
    assert seeder.uploaded < size + 1_000_000  # what was on its way at the kill, no more


def test_bytes_of_a_liar_never_become_a_file(shards: Path, tmp_path: Path) -> None:
    torrent = make(shards)
    (tmp_path / "x.torrent").write_bytes(torrent.encode())
    model, variant = variant_from_torrent(torrent, source=str(tmp_path / "x.torrent"))
    poisoned = tmp_path / "poisoned"
    poisoned.mkdir()
    for file in shards.iterdir():
        (poisoned / file.name).write_bytes(bytes(file.stat().st_size))
    home = settings(tmp_path / "home", timeout_s=2)

    with (
        lying_peer(torrent, poisoned) as peer,
        pytest.raises(SourceError, match=r"a\.safetensors: nothing came") as caught,
    ):
        fetch(home, model, variant, progress=Silent(), peers=[peer])

    assert caught.value.exit_code == 75
    assert not [path for path in (tmp_path / "home" / "models").rglob("*") if path.is_file()]


def test_a_liar_does_not_stop_an_honest_peer(shards: Path, tmp_path: Path) -> None:
    torrent = make(shards)
    (tmp_path / "x.torrent").write_bytes(torrent.encode())
    model, variant = variant_from_torrent(torrent, source=str(tmp_path / "x.torrent"))
    poisoned = tmp_path / "poisoned"
    poisoned.mkdir()
    for file in shards.iterdir():
        (poisoned / file.name).write_bytes(bytes(file.stat().st_size))

    with lying_peer(torrent, poisoned) as liar, seeding(shards) as seeder:
        place = fetch(settings(tmp_path / "home"), model, variant, progress=Silent(), peers=[liar, seeder.peer])

    assert make(place) == torrent


def test_a_magnet_that_nobody_answers_is_given_up(tmp_path: Path) -> None:
    magnet = f"magnet:?xt=urn:btih:{'a' * 40}"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = closed.getsockname()

    with pytest.raises(SourceError, match=r"nothing came in 1 s \(0 of 1 known peers connected\)") as caught:
        find_torrent(settings(tmp_path, timeout_s=1), magnet, peers=[nobody])

    assert caught.value.exit_code == 75


def test_a_folder_of_the_torrent_may_be_left_out_of_the_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    (folder / "7B").mkdir(parents=True)
    (folder / "13B").mkdir()
    (folder / "7B" / "params.json").write_bytes(b"7")
    (folder / "13B" / "params.json").write_bytes(b"13")
    (folder / "7B" / "weights.pth").write_bytes(b"w" * 50_000)
    (tmp_path / "x.torrent").write_bytes(make(folder).encode())
    file = File("weights.pth", 50_000)
    with seeding(folder) as seeder, Store(tmp_path / "home").partial("m", "pth", file) as partial:
        source = open_swarm(
            settings(tmp_path / "home"), str(tmp_path / "x.torrent"), _variant(file), peers=[seeder.peer]
        )
        source.transfer(file, partial, CountingBar())
        with pytest.raises(NotThereError, match=r"params\.json: 2 such file"):
            source.transfer(File("params.json"), partial, CountingBar())
        source.close()
        assert partial.size == 50_000


@pytest.mark.parametrize(
    ("file", "error", "message"),
    [
        (File("a.safetensors", 3_000_000), WrongBytesError, "size in the torrent is 3000001 bytes, expected 3000000"),
        (File("a.safetensors", pieces_root="0" * 64), WrongBytesError, "pieces_root in the torrent"),
        (File("c.safetensors"), NotThereError, "no such file"),
        (File("safetensors"), NotThereError, "no such file"),
    ],
)
def test_a_torrent_of_other_files_is_refused_before_anything_is_asked(
    shards: Path, tmp_path: Path, file: File, error: type[Exception], message: str
) -> None:
    (tmp_path / "x.torrent").write_bytes(make(shards).encode())
    source = open_swarm(settings(tmp_path), str(tmp_path / "x.torrent"), _variant(file), peers=[("127.0.0.1", 9)])
    with Store(tmp_path / "home").partial("m", "v", file) as partial, pytest.raises(error, match=message):
        source.transfer(file, partial, CountingBar())
    source.close()


def test_a_v1_torrent_is_no_source_of_proof_but_of_bytes(shards: Path, tmp_path: Path) -> None:
    """With a manifest's digests a v1-only torrent serves; pieces that reach into a neighbour leave nothing behind."""
    entries = [lt.create_file_entry(f"shards/{f.name}", f.stat().st_size) for f in sorted(shards.iterdir())]
    creation = lt.create_torrent(entries, 64 * KIB, lt.create_torrent.v1_only)
    lt.set_piece_hashes(creation, str(shards.parent))
    data = lt.bencode(creation.generate())  # type: ignore[arg-type]
    (tmp_path / "v1.torrent").write_bytes(data)
    wanted = shards / "b.safetensors"
    file = File("b.safetensors", 1_000_000, hashlib.sha256(wanted.read_bytes()).hexdigest())
    model = Model("m", 0, "llama", "v", (Variant("v", "safetensors", (file,), (str(tmp_path / "v1.torrent"),)),))
    with lying_peer(read(data), shards) as peer:  # which tells the truth here
        place = fetch(settings(tmp_path / "home"), model, model.variants[0], progress=Silent(), peers=[peer])

    assert place.read_bytes() == wanted.read_bytes()
    assert not list((tmp_path / "home" / "partial").glob("*.swarm"))


def test_offline_means_no_swarm(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no network"):
        find_torrent(replace(settings(tmp_path), offline=True), f"magnet:?xt=urn:btih:{'a' * 40}")


def test_without_libtorrent_the_source_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "libtorrent", None)

    with pytest.raises(SourceError, match="libtorrent"):
        find_torrent(settings(tmp_path), f"magnet:?xt=urn:btih:{'a' * 40}", peers=[("127.0.0.1", 9)])


def _variant(file: File) -> Variant:
    return Variant("v", "safetensors", (file,))


def test_between_its_hours_a_swarm_rests(shards: Path, tmp_path: Path) -> None:
    torrent = make(shards)
    (tmp_path / "x.torrent").write_bytes(torrent.encode())
    _, variant = variant_from_torrent(torrent, source=str(tmp_path / "x.torrent"))
    file = next(file for file in variant.files if file.path == "b.safetensors")
    home, began = settings(tmp_path / "home", timeout_s=1), time.monotonic()
    with seeding(shards) as seeder:
        source = open_swarm(home, str(tmp_path / "x.torrent"), variant, peers=[seeder.peer])
        wall = Clock(wall=lambda: time.monotonic() - began)  # the hours begin two seconds after the test
        source._visits.pace = Pace(hours=_Hours(_From(2.0)), clock=wall)  # type: ignore[attr-defined]
        with Store(home.home).partial("m", "v", file) as partial:
            source.transfer(file, partial, CountingBar())
            assert partial.size == file.size
        source.close()
    assert time.monotonic() - began > 2


class _From:
    """Open from a moment on."""

    def __init__(self, moment: float) -> None:
        self.moment = moment

    def is_open(self, at: float) -> bool:
        return at >= self.moment

    def opens(self, after: float) -> float:
        return self.moment
