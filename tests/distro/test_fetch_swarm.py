"""A fetch from a hub and a swarm at once: from the first second, killed, resumed, and without libtorrent."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distro.config import Settings
from distro.fetch import fetch
from distro.manifest import File, Model, Variant
from distro.pieces import tag
from distro.proof import piece_hashes
from distro.store import Store
from distro.swarm.torrent import Torrent, read
from tests.distro.test_fetch import Words
from tests.fakes.fetcher import LENGTH
from tests.fakes.hub import FakeHub, Fault, serving
from tests.fakes.swarm import lying_peer
from tests.fakes.torrents import torrent_of, write

DATA = hashlib.shake_128(b"fetch swarm").digest(6_000_000)
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_hashes, "_SMALLEST", LENGTH)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        hub.plain, hub.send_buffer = {"w.bin": DATA}, 64 * 1024
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = write(tmp_path / "model", {"w.bin": DATA})
    (tmp_path / "w.torrent").write_bytes(torrent_of(folder, "hybrid", 32 * 1024))
    return folder


@pytest.fixture
def torrent(folder: Path) -> Torrent:
    return read(folder.parent / "w.torrent")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "config", timeout_s=5.0, retries=2)


def _variant(*sources: str) -> Variant:
    return Variant("v", "safetensors", (File("w.bin", len(DATA), sha256=hashlib.sha256(DATA).hexdigest()),), sources)


def _model(variant: Variant) -> Model:
    return Model("m", 1, "llama", "v", (variant,))


@pytest.mark.parametrize("is_magnet", [True, False])
def test_a_hub_and_a_swarm_bring_one_file(
    hub: FakeHub, folder: Path, torrent: Torrent, settings: Settings, *, is_magnet: bool
) -> None:
    hub.faults = [Fault(rate=1_000_000)]
    reference = torrent.magnet() if is_magnet else str(folder.parent / "w.torrent")
    variant, words = _variant(f"{hub.url}/plain/", reference), Words()
    with lying_peer(torrent, folder) as peer:
        path = fetch(settings, _model(variant), variant, progress=words, peers=[peer])
    assert path.read_bytes() == DATA
    receipt = Store(settings.home).receipt("m", "v")
    assert receipt is not None
    swarm = f"swarm {torrent.infohash[:16]}"
    assert sorted(receipt.files["w.bin"].source.split(", ")) == sorted([f"{hub.url}/plain/", swarm])
    assert words.said == []
    assert hub.n_sent() < len(DATA) * 0.8
    assert list(settings.home.glob("partial/*.*")) == []


def test_a_kill_keeps_what_both_brought(
    hub: FakeHub, folder: Path, torrent: Torrent, settings: Settings, tmp_path: Path
) -> None:
    hub.faults = [Fault(rate=600_000)]
    with lying_peer(torrent, folder, limit=800_000) as peer:
        child = _child(settings, hub, folder, peer)
        final = settings.home / "models" / "m" / "v" / "w.bin"
        while hub.n_sent() < 500_000 or _received(settings) - hub.n_sent() < 500_000:
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert not final.exists()
        shutil.copytree(settings.home, tmp_path / "look")  # who opens it takes it over
        with Store(tmp_path / "look").partial("m", "v", _variant().files[0]) as partial:
            pieces = partial.pieces()
            n_here, senders = pieces.n_bytes, {pieces[number].sender for number in pieces}
            wrong = [number for number in pieces if not _is_right(partial.path, *pieces.span(number))]
        assert senders == {tag(f"{hub.url}/plain/"), tag(f"swarm {torrent.infohash[:16]}")}
        assert wrong == []
        hub.faults = []
        before = hub.n_sent()
        out, _ = _child(settings, hub, folder, peer).communicate(timeout=30)
    assert Path(json.loads(out)["path"]).read_bytes() == DATA
    assert list(settings.home.glob("partial/*.*")) == []
    assert hub.n_sent() - before <= len(DATA) - n_here + 400_000  # what was on its way when the swarm was quicker


def _child(settings: Settings, hub: FakeHub, folder: Path, peer: tuple[str, int]) -> subprocess.Popen[str]:
    facts = [str(settings.home), "w.bin", str(len(DATA)), hashlib.sha256(DATA).hexdigest()]
    sources = [f"{hub.url}/plain/", str(folder.parent / "w.torrent"), "--peer", f"{peer[0]}:{peer[1]}"]
    command = [sys.executable, "-m", "tests.fakes.fetcher", "one", *facts, *sources]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _received(settings: Settings) -> int:
    return Store(settings.home).received("m", "v", _variant().files[0])


def _is_right(path: Path, start: int, stop: int) -> bool:
    with path.open("rb") as stream:
        stream.seek(start)
        return stream.read(stop - start) == DATA[start:stop]


def test_without_libtorrent_the_hub_does_it(
    hub: FakeHub, folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libtorrent", None)
    variant, words = _variant(f"{hub.url}/plain/", f"magnet:?xt=urn:btih:{'a' * 40}"), Words()
    assert fetch(settings, _model(variant), variant, progress=words).read_bytes() == DATA
    assert len(words.said) == 1
    assert words.said[0].startswith("swarm: BitTorrent needs the package libtorrent")


@pytest.mark.parametrize("content", [None, b"d4:infode"])
def test_a_torrent_that_is_no_good_leaves_it_to_the_hub(
    hub: FakeHub, settings: Settings, tmp_path: Path, content: bytes | None
) -> None:
    torrent = tmp_path / "bad.torrent"
    if content is not None:
        torrent.write_bytes(content)
    variant, words = _variant(f"{hub.url}/plain/", str(torrent)), Words()
    assert fetch(settings, _model(variant), variant, progress=words).read_bytes() == DATA
    assert len(words.said) == 1
    assert words.said[0].startswith(f"swarm: {torrent}: ")


def test_a_limit_holds_for_both_together(hub: FakeHub, folder: Path, torrent: Torrent, settings: Settings) -> None:
    limited = replace(settings, limits=(("", 2_000_003),))
    variant = _variant(f"{hub.url}/plain/", str(folder.parent / "w.torrent"))
    with lying_peer(torrent, folder) as peer:
        began = time.monotonic()
        fetch(limited, _model(variant), variant, progress=Words(), peers=[peer])
        took = time.monotonic() - began
    receipt = Store(settings.home).receipt("m", "v")
    assert receipt is not None
    assert "swarm" in receipt.files["w.bin"].source
    assert took > 0.8 * len(DATA) / 2_000_003
