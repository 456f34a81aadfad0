"""`distro verify --repair`: what is wrong is fetched, and nothing else."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distro.piece_hashes import PieceHasher, PieceHashes
from distro.receipt import Entry, Receipt
from distro.store import Store
from tests.fakes.command import Outcome, run
from tests.fakes.hub import FakeHub, serving

PIECE = 4 << 20
SIZE = 80_000_000
CONTENT = random.Random(5).randbytes(SIZE)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
SMALL = b'{"model_type": "llama"}'
REPO = "owner/name"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        hub.add(REPO, {"model.gguf": CONTENT, "config.json": SMALL})
        yield hub


def hashes_of(content: bytes) -> PieceHashes | None:
    hasher = PieceHasher(len(content))
    hasher.update(content)
    return hasher.finish(hashlib.sha256(content).hexdigest())


def put(home: Path, hub: FakeHub, files: dict[str, bytes], *, lists: bool = True) -> Path:
    """A variant as `fetch` leaves it, with lists of piece hashes."""
    commit = hub.repos[REPO].commit
    store, entries, made = Store(home), {}, []
    folder = store.folder(REPO, commit[:12])
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        pieces = hashes_of(content) if lists else None
        made += [pieces] if pieces else []
        sha256 = hashlib.sha256(content).hexdigest()
        entries[name] = Entry(
            sha256, len(content), "hub", "2026-01-31T12:00:00Z", pieces=pieces.digest if pieces else None
        )
    sources = (f"hf:{REPO}@{commit}",)
    store.write_receipt(Receipt(REPO, commit[:12], "gguf", entries, sources=sources), made)
    return folder


def mend(base: Path, hub: FakeHub, *arguments: str) -> Outcome:
    return run(base, "verify", *(arguments or (f"hf:{REPO}",)), "--repair", "--json", hub=hub.url)


def flip(*offsets: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with path.open("r+b") as stream:
            for offset in offsets:
                stream.seek(offset)
                stream.write(bytes([CONTENT[offset] ^ 4]))

    return damage


def zero_pages(path: Path) -> None:
    with path.open("r+b") as stream:
        for page in (0, 5000, 5001):
            stream.seek(page * 4096)
            stream.write(bytes(4096))


def truncate(length: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(CONTENT[:length])


def append(path: Path) -> None:
    path.write_bytes(CONTENT + b"more")


DAMAGES = [
    ("three flipped bits", flip(1, 30_000_000, 79_999_999), 3),
    ("two in one piece", flip(9_000_000, 9_000_001), 1),
    ("zeroed pages", zero_pages, 2),
    ("truncated", truncate(60_000_000), 6),
    ("one byte short", truncate(SIZE - 1), 1),
    ("too long", append, 0),
    ("empty", truncate(0), 20),
    ("missing", Path.unlink, 20),
]


@pytest.mark.parametrize(("damage", "n_wrong"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_only_wrong_pieces_are_fetched(
    tmp_path: Path, hub: FakeHub, damage: Callable[[Path], None], n_wrong: int
) -> None:
    folder = put(tmp_path / "home", hub, {"model.gguf": CONTENT, "config.json": SMALL})
    damage(folder / "model.gguf")
    before = (folder / "config.json").stat().st_mtime_ns
    outcome = mend(tmp_path, hub)
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert hub.n_sent() <= n_wrong * PIECE
    (done,) = outcome.json["repaired"]
    assert (done["wrong_pieces"], done["pieces"], done["fetched"]) == (n_wrong, 20, hub.n_sent())
    assert [each["status"] for each in outcome.json["files"]] == ["ok", "ok"]
    assert (folder / "config.json").stat().st_mtime_ns == before
    assert not [
        path for path in (tmp_path / "home" / "partial").rglob("*") if path.is_file() and path.suffix != ".lock"
    ]
    assert run(tmp_path, "verify", f"hf:{REPO}", "--full").code == 0
