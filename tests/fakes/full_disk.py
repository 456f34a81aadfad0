"""`distro fetch` on disks that are full: `python -m tests.fakes.full_disk`, on Linux, as root.

    sized    a disk of every 5 % of what is needed: refused before a byte comes
    eaten    room enough, until another process takes all of it when so many % have come
    inodes   a disk that has room for so many names and no more

Each time room is made afterwards, and the same command again ends it; of what was here nothing comes twice. A disk is a
tmpfs, which is full when the kernel says so.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from distro.config import Settings
from distro.lookup import wanted
from distro.manifest import License
from distro.proof.piece_hashes import piece_length_for
from distro.store import Store
from tests.fakes.fetching import Distro
from tests.fakes.hub import FakeHub, serving

FREE = License("MIT", "https://example.org/mit", "allowed")
SIZE = 30_000_000
SMALL = b'{"model_type": "llama"}'


def why_not() -> str:
    """Why this machine cannot make such disks; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    with tempfile.TemporaryDirectory() as folder:
        done = _run("mount", "-t", "tmpfs", "-o", "size=1m", "none", folder)
        if done.returncode == 0:
            _run("umount", folder)
    return done.stderr.strip()


def _run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    found = shutil.which(program) or program
    return subprocess.run([found, *arguments], capture_output=True, text=True, check=False)


@dataclass
class Disk:
    """path: where it is."""

    path: Path

    def resize(self, options: str) -> None:
        if error := _run("mount", "-o", f"remount,{options}", str(self.path)).stderr:
            raise OSError(error)

    def fill(self) -> None:
        """Take all of its room, as somebody else would."""
        with suppress(OSError), (self.path / "eaten").open("wb", buffering=0) as stream:
            block = bytes(1 << 20)
            while True:
                with suppress(OSError):
                    stream.write(block)
                    continue
                block = block[: len(block) // 2]
                if not block:
                    return

    def free(self) -> None:
        (self.path / "eaten").unlink()


@contextmanager
def disk(path: Path, options: str) -> Iterator[Disk]:
    path.mkdir(parents=True, exist_ok=True)
    if error := _run("mount", "-t", "tmpfs", "-o", options, "none", str(path)).stderr:
        raise OSError(error)
    try:
        yield Disk(path)
    finally:
        _run("umount", "--lazy", str(path))


@dataclass
class Fetch:
    """A file of SIZE bytes and a small one, whose home is a disk of its own."""

    base: Path
    hub: FakeHub
    data: bytes = field(default_factory=lambda: random.Random(5).randbytes(SIZE))

    def __post_init__(self) -> None:
        self.distro = Distro(self.base, self.hub)
        self.distro.publish({"model.bin": self.data, "config.json": SMALL}, FREE)

    @property
    def home(self) -> Path:
        return self.base / "home"

    def refused(self) -> str:
        """Run into the full disk: what is said of that."""
        done = self.distro("fetch", "tiny")
        assert done.returncode == 80, (done.returncode, done.stderr)
        assert done.stderr.count("error:") == 1, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        final = self.home / "models" / "tiny" / "hf" / "model.bin"
        assert not final.exists() or final.read_bytes() == self.data, "a final name without its bytes"
        return done.stderr

    def ends(self) -> int:
        """Run again with room: bytes that came twice."""
        here, before = self._here(), self.hub.n_sent()
        done = self.distro("fetch", "tiny")
        assert done.returncode == 0, (done.returncode, done.stderr)
        folder = Path(done.stdout.strip())
        assert (folder / "model.bin").read_bytes() == self.data
        assert (folder / "config.json").read_bytes() == SMALL
        assert not [path for path in (self.home / "partial").glob("*") if path.name != "locks"]
        return self.hub.n_sent() - before - (SIZE + len(SMALL) - here)

    def _here(self) -> int:
        """Bytes of whole pieces and files that are on the disk."""
        settings, store = Settings(self.home, self.base / "config"), Store(self.home)
        resolved, here = wanted(settings, "tiny"), 0
        for file in resolved.variant.files:
            final = store.folder("tiny", "hf") / file.path
            size = file.size or 0
            length = piece_length_for(size)
            here += size if final.exists() else store.received("tiny", "hf", file) // length * length
        return here


@contextmanager
def fetching(base: Path, options: str) -> Iterator[tuple[Fetch, Disk]]:
    with serving() as hub, disk(base / "home", options) as made:
        yield Fetch(base, hub), made


def sized(base: Path, percent: int) -> str:
    with fetching(base, f"size={max(4096, SIZE * percent // 100)}") as (fetch, made):
        said = fetch.refused()
        assert "bytes needed" in said and "missing" in said, said
        assert fetch.hub.n_sent() == 0, "bytes came that have no room"
        made.resize(f"size={2 * SIZE}")
        return _told(fetch.ends())


def eaten(base: Path, percent: int) -> str:
    with fetching(base, f"size={2 * SIZE}") as (fetch, made):
        filled: list[int] = []

        def eat(_: int) -> None:
            if not filled and fetch.hub.n_sent() >= SIZE * percent // 100:
                filled.append(fetch.hub.n_sent())
                made.fill()

        fetch.hub.on_sent = eat
        fetch.refused()
        made.free()
        return _told(fetch.ends())


def inodes(base: Path, n: int) -> str:
    with fetching(base, f"size={2 * SIZE},nr_inodes={n}") as (fetch, made):
        done = fetch.distro("fetch", "tiny")
        if done.returncode == 0:
            return "fits"
        assert done.returncode == 80, (done.returncode, done.stderr)
        made.resize("nr_inodes=1000")
        return _told(fetch.ends())


def _told(again: int) -> str:
    assert again <= 0, f"{again} bytes came twice"
    return "right"


CASES: tuple[tuple[str, Callable[[Path, int], str], range], ...] = (
    ("sized", sized, range(0, 100, 5)),
    ("eaten", eaten, range(5, 100, 5)),
    ("inodes", inodes, range(2, 16)),
)


def main() -> int:
    n_bad = 0
    for name, case, numbers in CASES:
        came = []
        for number in numbers:
            with tempfile.TemporaryDirectory() as base:
                try:
                    came.append(case(Path(base), number))
                except AssertionError as error:
                    print(f"{name} {number}: {error}", flush=True)
                    n_bad += 1
        print(f"{name}: {len(numbers)} disks, {came.count('right')} ended, {came.count('fits')} had room", flush=True)
    return 1 if n_bad else 0


if __name__ == "__main__":
    sys.exit(main())
