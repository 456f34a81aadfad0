"""A swarm on loopback: seeders and leechers in processes of their own, and peers that lie.

Run as a program: `seed FOLDER LIMIT` prints one JSON line when ready and one with the bytes sent at SIGTERM;
`fetch HOME MAGNET PORT NAME` prints the bytes that arrived, step by step.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import libtorrent as lt

from distro import config
from distro.progress import Silent, SilentBar
from distro.sources.swarm import find_torrent, open_swarm
from distro.store import Store
from distro.swarm.make import make, model_files
from distro.swarm.seeder import Manners, Share, seed
from distro.swarm.torrent import Torrent
from distro.swarm.variant import variant_from_torrent

ROOT = Path(__file__).parent.parent.parent


class CountingBar(SilentBar):
    """Remembers what a bar was told."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.notes: list[str] = []

    def advance(self, n_bytes: int) -> None:
        self.steps.append(n_bytes)

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class Seeder:
    """A seeder process. uploaded: payload bytes it sent, known once it has ended."""

    process: subprocess.Popen[str]
    magnet: str
    peer: tuple[str, int]
    uploaded: int = 0


@contextmanager
def seeding(folder: Path, *, limit: int = 0, piece_length: int = 0) -> Iterator[Seeder]:
    process = start("seed", str(folder), str(limit), str(piece_length))
    try:
        ready = json.loads(_line(process))
        host, _, port = ready["peer"].rpartition(":")
        seeder = Seeder(process, ready["magnet"], (host, int(port)))
        yield seeder
        process.terminate()
        seeder.uploaded = json.loads(_line(process))["uploaded"]
        process.wait(timeout=10)
    finally:
        end(process)


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.fakes.swarm", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait(timeout=10)
    if process.stdout:
        process.stdout.close()


def settings(home: Path, *, timeout_s: float = 5.0) -> config.Settings:
    return config.load(
        {"DISTRO_HOME": str(home), "DISTRO_CONFIG": str(home), "HF_HOME": str(home)}, timeout_s=timeout_s
    )


def session_settings(host: str = "127.0.0.1") -> dict[str, Any]:
    """Of a foreign client: libtorrent bare, on loopback."""
    return {
        "listen_interfaces": f"{host}:0", "enable_dht": False, "enable_lsd": False, "enable_upnp": False,
        "enable_natpmp": False, "allow_multiple_connections_per_ip": True, "tick_interval": 100,
        "enable_outgoing_utp": False,
    }  # fmt: skip


@contextmanager
def lying_peer(
    torrent: Torrent, folder: Path, *, host: str = "127.0.0.2", limit: int = 0
) -> Iterator[tuple[str, int]]:  # fmt: skip
    """A peer that claims to have everything and sends what lies in the folder, whatever it is.

    It has an address of its own, because liars are banned by address. limit: bytes per second.
    """
    session: Any = lt.session({**session_settings(host), "disable_hash_checks": True})
    params = lt.load_torrent_buffer(torrent.encode())
    params.save_path = str(folder)
    params.renamed_files = {file.index: str(folder / file.path) for file in torrent.files}
    params.flags = (
        params.flags & ~lt.torrent_flags.auto_managed & ~lt.torrent_flags.paused
    ) | lt.torrent_flags.seed_mode
    params.upload_limit = limit or -1
    session.add_torrent(params)
    while not session.listen_port():
        session.wait_for_alert(100)
    try:
        yield host, session.listen_port()
    finally:
        session.pause()


def _line(process: subprocess.Popen[str]) -> str:
    """The next line of a process; it is killed if none comes in 20 s."""
    assert process.stdout is not None
    timer = threading.Timer(20, process.kill)
    timer.start()
    try:
        return process.stdout.readline()
    finally:
        timer.cancel()


def _seed(folder: Path, limit: int, piece_length: int) -> None:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    share = Share(folder.name, make(folder, piece_length=piece_length or None), model_files(folder))
    served = seed(
        [share],
        Manners(interface="127.0.0.1", limit=limit, duration_s=60),
        ready=lambda share, peer: _tell(magnet=share.torrent.magnet(), peer=peer),
        stop=stop,
        progress=Silent(),
    )
    _tell(uploaded=served[0].uploaded)


def _fetch(home: Path, magnet: str, port: int, name: str) -> None:
    peers = [("127.0.0.1", port)]
    model, variant = variant_from_torrent(find_torrent(settings(home), magnet, peers=peers))
    file = next(file for file in variant.files if file.path == name)
    bar = CountingBar()
    bar.advance = lambda n_bytes: _tell(arrived=n_bytes)  # type: ignore[method-assign]
    with Store(home).partial(model.name, variant.name, file) as partial:
        open_swarm(settings(home), magnet, variant, peers=peers).transfer(file, partial, bar)


def _tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "seed":
        _seed(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        _fetch(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), sys.argv[5])
