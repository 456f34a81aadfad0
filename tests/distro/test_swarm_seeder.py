"""Seeding: files where they lie, watched, limited; other clients fetch from it."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import libtorrent as lt
import pytest

from converters.errors import ChangedError, MissingError
from distro.errors import UsageError
from distro.progress import Silent
from distro.swarm import seeder
from distro.swarm.make import make, model_files
from distro.swarm.seeder import Manners, Served, Share
from distro.swarm.torrent import Torrent
from tests.fakes.swarm import session_settings


@dataclass
class Running:
    """A seeder in a thread. peers: the address of each share."""

    stop: threading.Event
    peers: list[tuple[str, int]] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)


@contextmanager
def serving(*shares: Share, **manners: Any) -> Iterator[Running]:
    running = Running(threading.Event())
    ready = threading.Semaphore(0)

    def note(share: Share, peer: str) -> None:
        host, _, port = peer.rpartition(":")
        running.peers.append((host, int(port)))
        ready.release()

    def work() -> None:
        manner = Manners(interface="127.0.0.1", **manners)
        running.served = seeder.seed(shares, manner, ready=note, stop=running.stop, progress=Silent())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        for _ in shares:
            assert ready.acquire(timeout=10)
        yield running
    finally:
        running.stop.set()
        thread.join(timeout=10)
        assert not thread.is_alive()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a.gguf").write_bytes(random.Random(3).randbytes(700_000))
    (folder / "b.json").write_bytes(b"{}")
    return folder


def share_of(folder: Path) -> Share:
    return Share(folder.name, make(folder), model_files(folder))


def leech(torrent: Torrent, peer: tuple[str, int], folder: Path, *, timeout_s: float = 15) -> bool:
    """Fetch everything with libtorrent bare, as some other client would; whether it all came."""
    session: Any = lt.session(session_settings())
    params = lt.load_torrent_buffer(torrent.encode())
    params.save_path = str(folder)
    params.peers = [peer]
    handle = session.add_torrent(params)
    _until(lambda: handle.status().is_seeding, timeout_s)
    done = bool(handle.status().is_seeding)
    session.pause()
    return done


def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_another_client_fetches_all_and_it_is_counted(folder: Path, tmp_path: Path) -> None:
    share = share_of(folder)
    with serving(share) as running:
        assert leech(share.torrent, running.peers[0], tmp_path / "theirs")

    assert make(tmp_path / "theirs" / share.torrent.name) == share.torrent
    (served,) = running.served
    assert 700_002 <= served.uploaded < 800_000
    assert served.trouble is None


def test_files_are_served_where_they_lie(folder: Path, tmp_path: Path) -> None:
    """Under other names, in other folders: nothing is copied, nothing is made."""
    share = share_of(folder)
    elsewhere = {"a.gguf": tmp_path / "x" / "blob1", "b.json": tmp_path / "y" / "blob2"}
    for name, path in elsewhere.items():
        path.parent.mkdir()
        (folder / name).rename(path)
    with serving(replace(share, files=elsewhere)) as running:
        assert leech(share.torrent, running.peers[0], tmp_path / "theirs")

    ours = [path for path in tmp_path.rglob("*") if path.is_file() and "theirs" not in path.parts]
    assert sorted(ours) == sorted(elsewhere.values())


def test_two_torrents_are_served_at_once(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "c.gguf").write_bytes(b"c" * 100_000)
    shares = [share_of(folder), share_of(other)]
    with serving(*shares) as running:
        assert all(
            leech(share.torrent, peer, tmp_path / f"theirs{i}")
            for i, (share, peer) in enumerate(zip(shares, running.peers, strict=True))
        )

    assert [served.label for served in running.served] == ["model", "other"]


@pytest.mark.parametrize("same_size", [True, False])
def test_a_file_that_changes_stops_its_torrent_and_is_named(folder: Path, tmp_path: Path, same_size: bool) -> None:
    share = share_of(folder)
    with serving(share) as running:
        (folder / "a.gguf").write_bytes(bytes(700_000 if same_size else 5))
        assert _until(lambda: bool(running.served), seeder.RECHECK_S + 2)  # nothing is left to serve
        assert not leech(share.torrent, running.peers[0], tmp_path / "theirs", timeout_s=1)

    (served,) = running.served
    assert isinstance(served.trouble, ChangedError)
    assert "a.gguf" in str(served.trouble)
    assert served.uploaded == 0


def test_a_file_that_goes_stops_its_torrent_but_no_other(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "c.gguf").write_bytes(b"c" * 100_000)
    shares = [share_of(folder), share_of(other)]
    with serving(*shares) as running:
        (folder / "b.json").unlink()
        time.sleep(seeder.RECHECK_S + 0.5)
        assert leech(shares[1].torrent, running.peers[1], tmp_path / "theirs")

    assert isinstance(running.served[0].trouble, MissingError)
    assert running.served[1].trouble is None


def test_bytes_that_were_never_right_are_not_sent(folder: Path, tmp_path: Path) -> None:
    """The same size and time as when it was verified, other bytes: libtorrent hashes before it sends the first time."""
    share = share_of(folder)
    stamp = (folder / "a.gguf").stat()
    (folder / "a.gguf").write_bytes(bytes(700_000))
    os.utime(folder / "a.gguf", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with serving(share) as running:
        assert not leech(share.torrent, running.peers[0], tmp_path / "theirs", timeout_s=3)

    (served,) = running.served
    assert isinstance(served.trouble, ChangedError)
    assert served.uploaded < 40_000  # the other file, which is right


def test_the_rate_limit_binds_peers_that_are_near(folder: Path, tmp_path: Path) -> None:
    share = share_of(folder)
    with serving(share, limit=200_000) as running:
        began = time.monotonic()
        assert leech(share.torrent, running.peers[0], tmp_path / "theirs")

    assert 2.0 < time.monotonic() - began < 12.0


def test_a_ratio_ends_it(folder: Path, tmp_path: Path) -> None:
    share = share_of(folder)
    with serving(share, ratio=1.0) as running:
        assert leech(share.torrent, running.peers[0], tmp_path / "theirs")
        assert _until(lambda: bool(running.served), 5)

    assert running.served[0].trouble is None


def test_time_ends_it(folder: Path) -> None:
    with serving(share_of(folder), duration_s=0.5) as running:
        assert _until(lambda: bool(running.served), 3)


def test_a_private_torrent_is_never_announced_to_the_dht(folder: Path) -> None:
    share = share_of(folder)

    with pytest.raises(UsageError, match="private"):
        seeder.seed(
            [replace(share, torrent=share.torrent.as_private())],
            Manners(dht=True),
            ready=lambda share, peer: None,
            stop=threading.Event(),
            progress=Silent(),
        )


@pytest.mark.skipif(shutil.which("aria2c") is None, reason="aria2c is not installed")
def test_aria2_fetches_the_v1_companion(folder: Path, tmp_path: Path) -> None:
    """An old client, which cannot read hybrids: it finds us through a tracker and keeps what we keep."""
    companion = make(folder).v1_companion()
    with tracker() as announce, serving(Share("m", companion, model_files(folder)), trackers=(announce,)) as running:
        (tmp_path / "m.torrent").write_bytes(replace(companion, trackers=(announce,)).encode())
        assert running.peers
        subprocess.run(
            [str(shutil.which("aria2c")), "-q", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false",
             "--seed-time=0", "--interface=127.0.0.1", f"--listen-port={_free_port()}", "--file-allocation=none",
             "--bt-stop-timeout=20", "--no-conf", "-d", str(tmp_path / "theirs"), str(tmp_path / "m.torrent")],
            check=True, timeout=40,
        )  # fmt: skip

    theirs = tmp_path / "theirs" / companion.name
    assert {name: (theirs / name).read_bytes() for name in model_files(folder)} == {
        name: path.read_bytes() for name, path in model_files(folder).items()
    }


@contextmanager
def tracker() -> Iterator[str]:
    """An HTTP tracker (BEP 3, 23) that tells everybody of everybody."""
    peers: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = dict(part.split("=", 1) for part in self.path.partition("?")[2].split("&"))
            others = b"".join(address for key, address in peers.items() if key != query["peer_id"])
            peers[query["peer_id"]] = socket.inet_aton("127.0.0.1") + int(query["port"]).to_bytes(2, "big")
            body = lt.bencode({b"interval": 2, b"min interval": 1, b"peers": others})
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/announce"
        server.shutdown()
        thread.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
