"""`distro verify --repair`: what is wrong is fetched, and nothing else."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distro import config
from distro.config import Settings
from distro.manifest import Family, File, License, Model, Variant
from distro.manifest_file import dump
from distro.progress import Silent
from distro.proof import prove, repair, verification
from distro.proof.piece_hashes import PieceHasher, PieceHashes
from distro.receipt import Entry, Receipt
from distro.reference import parse_reference
from distro.store import Store
from distro.swarm.make import make
from tests.fakes.command import Outcome, run
from tests.fakes.hub import FakeHub, Fault, serving

PIECE = 4 << 20
SIZE = 21_000_000
N_PIECES = 6
CONTENT = random.Random(5).randbytes(SIZE)
SMALL = b'{"model_type": "llama"}'
REPO = "owner/name"


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path, hub: FakeHub) -> Path:
    """A variant in the store, as `fetch` leaves it, with lists of piece hashes."""
    return put(tmp_path / "home", hub, {"model.gguf": CONTENT, "config.json": SMALL})


def hashes_of(content: bytes) -> PieceHashes | None:
    hasher = PieceHasher(len(content))
    hasher.update(content)
    return hasher.finish(hashlib.sha256(content).hexdigest())


def put(home: Path, hub: FakeHub, files: dict[str, bytes], *, lists: bool = True) -> Path:
    repo = hub.add(REPO, dict(files))
    store, entries, made = Store(home), {}, []
    folder = store.folder(REPO, repo.commit[:12])
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        pieces = hashes_of(content) if lists else None
        made += [pieces] if pieces else []
        sha256, digest = hashlib.sha256(content).hexdigest(), pieces.digest if pieces else None
        entries[name] = Entry(sha256, len(content), "hub", "2026-01-31T12:00:00Z", pieces=digest)
    sources = (f"hf:{REPO}@{repo.commit}",)
    store.write_receipt(Receipt(REPO, repo.commit[:12], "gguf", entries, sources=sources), made)
    return folder


def mend(base: Path, hub: FakeHub | None, *arguments: str) -> Outcome:
    return run(base, "verify", *(arguments or (f"hf:{REPO}",)), "--repair", "--json", hub=hub.url if hub else None)


def flip(*offsets: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with path.open("r+b") as stream:
            for offset in offsets:
                byte = os.pread(stream.fileno(), 1, offset)
                os.pwrite(stream.fileno(), bytes([byte[0] ^ 4]), offset)

    return damage


def zero_pages(path: Path) -> None:
    with path.open("r+b") as stream:
        for page in (0, 3000, 3001):
            os.pwrite(stream.fileno(), bytes(4096), page * 4096)


def truncate(length: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(CONTENT[:length])


def append(path: Path) -> None:
    path.write_bytes(CONTENT + b"more")


def left_over(base: Path) -> list[Path]:
    """What should not be there after a repair."""
    areas = [base / "home" / "partial", *base.rglob(".distro-partial")]
    found = [path for area in areas for path in area.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return found + list(base.rglob(".model*"))


DAMAGES = [
    ("a flipped bit at each end", flip(0, SIZE - 1), 2),
    ("two in one piece", flip(9_000_000, 9_000_001), 1),
    ("zeroed pages", zero_pages, 2),
    ("truncated", truncate(10_000_000), 4),
    ("one byte short", truncate(SIZE - 1), 1),
    ("too long", append, 0),
    ("empty", truncate(0), 6),
    ("missing", Path.unlink, 6),
]


@pytest.mark.parametrize(("damage", "n_wrong"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_only_wrong_pieces_are_fetched(
    tmp_path: Path, hub: FakeHub, folder: Path, damage: Callable[[Path], None], n_wrong: int
) -> None:
    damage(folder / "model.gguf")
    before = (folder / "config.json").stat()
    outcome = mend(tmp_path, hub)
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert hub.n_sent() <= n_wrong * PIECE
    (done,) = outcome.json["repaired"]
    assert (done["wrong_pieces"], done["pieces"], done["fetched"]) == (n_wrong, N_PIECES, hub.n_sent())
    assert [each["status"] for each in outcome.json["files"]] == ["ok", "ok"]
    after = (folder / "config.json").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    again = {each["path"]: each["how"] for each in run(tmp_path, "verify", f"hf:{REPO}", "--json").json["files"]}
    assert again["model.gguf"] == "remembered"
    assert left_over(tmp_path) == []
    assert run(tmp_path, "verify", f"hf:{REPO}", "--full").code == 0


def test_80_mb_with_every_damage_at_once_and_a_swapped_pair(tmp_path: Path, hub: FakeHub) -> None:
    """Three flipped bits, a zeroed page, truncated: no more is fetched than is wrong; for swapped files nothing."""
    content = random.Random(6).randbytes(80_000_000)
    pair = [random.Random(seed).randbytes(5_000_000) for seed in (7, 8)]
    folder = put(tmp_path / "home", hub, {"model.gguf": content, "x/a.bin": pair[0], "x/b.bin": pair[1], "c": SMALL})
    os.truncate(folder / "model.gguf", 78_000_000)  # in the last but one piece
    flip(1, 30_000_000, 30_000_001)(folder / "model.gguf")  # two pieces
    with (folder / "model.gguf").open("r+b") as stream:
        os.pwrite(stream.fileno(), bytes(4096), 4096 * 10_000)  # one piece
    (folder / "x/a.bin").write_bytes(pair[1])
    (folder / "x/b.bin").write_bytes(pair[0])
    outcome = mend(tmp_path, hub)
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == content
    assert [(folder / name).read_bytes() for name in ("x/a.bin", "x/b.bin")] == pair
    done = {each["path"]: (each["wrong_pieces"], each["fetched"]) for each in outcome.json["repaired"]}
    assert done["x/a.bin"] == done["x/b.bin"] == (2, 0)
    assert done["model.gguf"][0] == 5
    assert hub.n_sent() == done["model.gguf"][1] <= 5 * PIECE


def test_a_small_file_is_one_piece(tmp_path: Path, hub: FakeHub, folder: Path) -> None:
    (folder / "config.json").write_bytes(SMALL.upper())
    outcome = mend(tmp_path, hub)
    assert outcome.code == 0, outcome.error
    assert (folder / "config.json").read_bytes() == SMALL
    assert hub.n_sent() == len(SMALL)


def test_without_piece_hashes_the_whole_file_is_fetched_and_that_is_said(tmp_path: Path, hub: FakeHub) -> None:
    folder = put(tmp_path / "home", hub, {"model.gguf": CONTENT}, lists=False)
    flip(5)(folder / "model.gguf")
    outcome = mend(tmp_path, hub)
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert hub.n_sent() == SIZE
    assert outcome.json["repaired"][0]["pieces"] == 1
    assert (folder / ".pieces").is_dir()  # made in the read that proved it, for the next time
    assert [each["how"] for each in run(tmp_path, "verify", f"hf:{REPO}", "--json").json["files"]] == ["remembered"]


def test_a_source_that_lies_is_left_and_the_next_one_asked(tmp_path: Path, hub: FakeHub, folder: Path) -> None:
    """A mirror sends a wrong bit in the only piece that is wanted."""
    hub.plain["m/model.gguf"] = CONTENT
    receipt = Receipt.read(folder / "receipt.json")
    assert receipt is not None
    sources = (f"{hub.url}/plain/m/", *receipt.sources)
    store = Store(tmp_path / "home")
    lists = [found for found in [hashes_of(CONTENT)] if found]
    store.write_receipt(Receipt(receipt.model, receipt.variant, "gguf", receipt.files, sources=sources), lists)
    hub.faults = [Fault(path="/plain/", flip_at=100)]
    flip(50)(folder / "model.gguf")
    outcome = mend(tmp_path, hub)
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert outcome.json["repaired"][0]["sources"] == [f"hub {REPO}@{hub.repos[REPO].commit[:7]}"]
    assert hub.n_sent() == 2 * PIECE


FAULTS = [
    ("not there", Fault(status=404), 75, "bytes 0 to 4194303"),
    ("busy", Fault(status=503), 75, "bytes 0 to 4194303"),
    ("a page", Fault(body=b"<html>", headers={}), 76, "has 6 bytes of"),
    ("another size", Fault(body=CONTENT[:-1]), 76, "has 20999999 bytes of"),
    ("wrong bytes", Fault(flip_at=100), 75, "bytes 0 to 4194303"),
    ("cut", Fault(cut_after=1000), 75, "bytes 0 to 4194303"),
]


@pytest.mark.parametrize(("fault", "code", "why"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS])
def test_what_nobody_has_leaves_the_file_as_it_was(
    tmp_path: Path, hub: FakeHub, folder: Path, fault: Fault, code: int, why: str
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").write_text("retries = 0\n")
    flip(50)(folder / "model.gguf")
    wrong = (folder / "model.gguf").read_bytes()
    (folder / "config.json").write_bytes(b"?")
    fault.path = "model.gguf"
    hub.faults = [fault]
    outcome = mend(tmp_path, hub)
    assert outcome.code == code
    assert why in outcome.error
    assert (folder / "model.gguf").read_bytes() == wrong
    assert (folder / "config.json").read_bytes() == SMALL  # one file that cannot be mended does not keep others
    hub.faults = []
    assert mend(tmp_path, hub).code == 0
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert left_over(tmp_path) == []


def test_an_interrupted_repair_goes_on(tmp_path: Path, hub: FakeHub, folder: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").write_text("retries = 0\n")
    flip(*(index * PIECE for index in range(5)))(folder / "model.gguf")
    wrong = (folder / "model.gguf").read_bytes()
    hub.faults = [Fault(times=1, cut_after=5 * PIECE // 2), Fault(status=503)]
    assert mend(tmp_path, hub).code == 75
    assert (folder / "model.gguf").read_bytes() == wrong
    assert 2 * PIECE < hub.n_sent() < 3 * PIECE
    hub.faults = []
    outcome = mend(tmp_path, hub)
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert outcome.json["repaired"][0]["fetched"] == 2 * PIECE  # of the third the byte that was wrong has come
    assert left_over(tmp_path) == []


def test_a_repair_of_a_whole_file_goes_on_where_it_was_interrupted(tmp_path: Path, hub: FakeHub) -> None:
    """Nobody knows the hashes of its pieces; what came is found again all the same."""
    folder = put(tmp_path / "home", hub, {"model.gguf": CONTENT}, lists=False)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").write_text("retries = 0\n")
    flip(5)(folder / "model.gguf")
    wrong = (folder / "model.gguf").read_bytes()
    hub.faults = [Fault(times=1, cut_after=5 * PIECE // 2), Fault(status=503)]
    assert mend(tmp_path, hub).code == 75
    assert (folder / "model.gguf").read_bytes() == wrong
    first = hub.n_sent()
    hub.faults = []
    outcome = mend(tmp_path, hub)
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert hub.n_sent() <= SIZE + PIECE + 1000
    assert outcome.json["repaired"][0]["fetched"] <= SIZE - 2 * PIECE <= hub.n_sent() - first + PIECE
    assert left_over(tmp_path) == []


def test_a_cut_connection_is_gone_on_with_and_pieces_in_a_row_are_one_request(
    tmp_path: Path, hub: FakeHub, folder: Path
) -> None:
    flip(*(index * PIECE for index in (0, 1, 2, 4, 5)))(folder / "model.gguf")
    hub.faults = [Fault(times=1, cut_after=100_000)]
    outcome = mend(tmp_path, hub)
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == CONTENT
    asked = [request.headers["range"] for request in hub.requests if "model.gguf" in request.path]
    assert len(asked) == 3
    assert {"bytes=0-12582911", "bytes=16777216-"} <= set(asked)
    assert hub.n_sent() == 3 * PIECE + SIZE - 4 * PIECE


@pytest.mark.parametrize("lists", [True, False], ids=["pieces", "whole"])
def test_a_repair_keeps_to_the_limit(tmp_path: Path, hub: FakeHub, lists: bool) -> None:
    content = CONTENT[: 2 * PIECE]
    folder = put(tmp_path / "home", hub, {"model.gguf": content}, lists=lists)
    (tmp_path / "config").mkdir()
    rate = 6_000_001 + lists  # of a number of its own, as all of a process that have the same limit share it
    (tmp_path / "config" / "config.toml").write_text(f'limit = "{rate}"\n')
    flip(5, PIECE + 5)(folder / "model.gguf")
    began = time.monotonic()
    outcome = mend(tmp_path, hub)
    took = time.monotonic() - began
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == content
    assert took > len(content) / rate - 0.2


def test_a_repair_waits_for_its_hours(tmp_path: Path, hub: FakeHub, folder: Path) -> None:
    """Those of tomorrow: nothing is asked for, and it says until when it waits."""
    now = time.localtime()
    start = (now.tm_hour * 60 + now.tm_min + 120) % 1440
    when = f"{start // 60:02}:{start % 60:02}-{(start + 1) % 1440 // 60:02}:{(start + 1) % 60:02}"
    settings = Settings(
        tmp_path / "home", tmp_path / "config", hub_endpoint=hub.url, schedule=config.parse_schedule(when)
    )
    flip(5)(folder / "model.gguf")
    subject = verification.in_store(settings, parse_reference(f"hf:{REPO}"))
    findings = verification.verify(settings, subject, full=False, progress=Silent())
    heard: list[str] = []

    class Interrupting(Silent):
        def say(self, text: str) -> None:
            heard.append(text)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repair.repair(settings, subject, findings, repair.Helpers(), progress=Interrupting())
    assert heard[0].startswith("waiting until ")
    assert hub.n_sent() == 0


@pytest.mark.parametrize("lists", [True, False], ids=["pieces", "whole"])
def test_what_the_disk_has_lost_is_mended(
    tmp_path: Path, hub: FakeHub, lists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading some sectors of the file ends in EIO; so does `verify`, but with --repair it is one that is wrong."""
    folder = put(tmp_path / "home", hub, {"model.gguf": CONTENT, "config.json": SMALL}, lists=lists)
    lost, inode = range(9_000_000, 9_004_096), (folder / "model.gguf").stat().st_ino
    pread, preadv = os.pread, os.preadv

    def judge(descriptor: int, start: int, n_bytes: int) -> None:
        if os.fstat(descriptor).st_ino == inode and start < lost.stop and start + n_bytes > lost.start:
            raise OSError(errno.EIO, "Input/output error")

    def lossy_pread(descriptor: int, n_bytes: int, offset: int) -> bytes:
        judge(descriptor, offset, n_bytes)
        return pread(descriptor, n_bytes, offset)

    def lossy_preadv(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        judge(descriptor, offset, sum(map(len, buffers)))
        return preadv(descriptor, buffers, offset)

    class Lossy(io.FileIO):
        def readinto(self, buffer: Any) -> int | None:
            judge(self.fileno(), self.tell(), len(buffer))
            return super().readinto(buffer)

    monkeypatch.setattr(os, "pread", lossy_pread)
    monkeypatch.setattr(os, "preadv", lossy_preadv)
    monkeypatch.setattr(prove, "open_regular", Lossy)
    assert run(tmp_path, "verify", f"hf:{REPO}").code == 74
    outcome = mend(tmp_path, hub)
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert hub.n_sent() <= (PIECE if lists else SIZE)
    assert [each["path"] for each in outcome.json["repaired"]] == ["model.gguf"]


def test_a_server_that_sends_no_parts_gives_the_whole(tmp_path: Path, hub: FakeHub, folder: Path) -> None:
    flip(5)(folder / "model.gguf")
    hub.faults = [Fault(ignore_range=True)]
    outcome = mend(tmp_path, hub)
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize("lists", [True, False], ids=["pieces", "whole"])
def test_killed_at_any_moment_the_file_is_the_old_or_the_new_one(tmp_path: Path, hub: FakeHub, lists: bool) -> None:
    """And what is left over lets the next one end."""
    folder = put(tmp_path / "home", hub, {"model.gguf": CONTENT}, lists=lists)
    flip(5, 9_000_000, SIZE - 1)(folder / "model.gguf")
    wrong = (folder / "model.gguf").read_bytes()
    hub.faults = [Fault(rate=20_000_000)]
    code = "import sys; from distro.cli import main; sys.argv[0] = 'distro'; main()"
    command = [sys.executable, "-c", code, "--quiet", "verify", f"hf:{REPO}", "--repair"]
    env = {**os.environ, "DISTRO_HOME": str(tmp_path / "home"), "DISTRO_CONFIG": str(tmp_path / "config"),
           "DISTRO_STATE": str(tmp_path / "state"), "HF_ENDPOINT": hub.url}  # fmt: skip
    for n_bytes in (PIECE + 5, 2 * PIECE):
        child = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        before = hub.n_sent()
        while child.poll() is None and hub.n_sent() - before < n_bytes:
            time.sleep(0.002)
        child.kill()
        child.wait()
        assert (folder / "model.gguf").read_bytes() in (wrong, CONTENT)
    outcome = mend(tmp_path, hub)
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert run(tmp_path, "verify", f"hf:{REPO}", "--full").code == 0


@pytest.mark.parametrize("forged", ["another list", "no list", "torn", "of the wrong bytes"])
def test_lists_that_are_wrong_cost_bytes_and_nothing_else(
    tmp_path: Path, hub: FakeHub, folder: Path, forged: str
) -> None:
    (path,) = (folder / ".pieces").iterdir()
    flip(50)(folder / "model.gguf")
    if forged == "no list":
        path.unlink()
    elif forged == "torn":
        path.write_bytes(path.read_bytes()[:-10])
    elif forged == "another list":
        path.write_bytes(b"pieces")
    else:  # one that calls the damage right; the receipt names it
        made = hashes_of((folder / "model.gguf").read_bytes())
        receipt = Receipt.read(folder / "receipt.json")
        assert made is not None
        assert receipt is not None
        sha256 = receipt.files["model.gguf"].sha256
        lying = PieceHashes(made.size, made.piece_length, sha256, made.digests)
        entry = Entry(sha256, SIZE, "hub", "2026-01-31T12:00:00Z", pieces=lying.digest)
        files = {**receipt.files, "model.gguf": entry}
        Store(tmp_path / "home").write_receipt(
            Receipt(receipt.model, receipt.variant, "gguf", files, sources=receipt.sources), [lying]
        )
    outcome = mend(tmp_path, hub)
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert hub.n_sent() == SIZE


def test_a_folder_of_the_users_own_is_mended_by_the_lists_of_the_store(
    tmp_path: Path, hub: FakeHub, folder: Path
) -> None:
    own = _own_folder(tmp_path, hub)
    flip(50)(own / "model.gguf")
    (folder / "model.gguf").unlink()  # its list stays
    outcome = mend(tmp_path, hub, "tiny", "--in", str(own))
    assert outcome.code == 0, outcome.error
    assert (own / "model.gguf").read_bytes() == CONTENT
    assert hub.n_sent() == PIECE
    assert sorted(path.name for path in own.iterdir()) == ["config.json", "model.gguf"]


def test_what_is_near_goes_before_the_network(tmp_path: Path, hub: FakeHub, folder: Path) -> None:
    """The same file in the store, and a folder that the user names: nothing is asked of the hub."""
    own = _own_folder(tmp_path, hub)
    flip(50)(own / "model.gguf")
    outcome = mend(tmp_path, None, "tiny", "--in", str(own))
    assert outcome.code == 0, outcome.error
    flip(50)(own / "model.gguf")
    flip(50)(folder / "model.gguf")
    helper = tmp_path / "helper"
    helper.mkdir()
    (helper / "model.gguf").write_bytes(CONTENT)
    outcome = mend(tmp_path, None, "tiny", "--in", str(own), "--from", str(helper))
    assert outcome.code == 0, outcome.error
    assert (own / "model.gguf").read_bytes() == CONTENT
    assert hub.n_sent() == 0


def test_what_ollama_has_goes_before_the_network(
    tmp_path: Path, hub: FakeHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = tmp_path / "ollama" / "blobs" / f"sha256-{hashlib.sha256(CONTENT).hexdigest()}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(CONTENT)
    flip(50)(blob)  # damaged too, in another piece
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    flip(5 * PIECE, 4 * PIECE)(folder / "model.gguf")
    theirs = blob.read_bytes()
    outcome = mend(tmp_path, None)
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert blob.read_bytes() == theirs


def _own_folder(base: Path, hub: FakeHub) -> Path:
    """A folder with the files of a model of which the user has a manifest."""
    files = (
        File("model.gguf", SIZE, sha256=hashlib.sha256(CONTENT).hexdigest()),
        File("config.json", len(SMALL), md5=hashlib.md5(SMALL).hexdigest()),  # noqa: S324
    )
    variant = Variant("q4_0", "gguf", files, (f"hf:{REPO}@{hub.repos[REPO].commit}",))
    family = Family(
        "tiny",
        "us",
        License("MIT", "https://example.org/", "allowed"),
        (Model("tiny", 70, "llama", "q4_0", (variant,)),),
    )
    (base / "config" / "manifests").mkdir(parents=True, exist_ok=True)
    (base / "config" / "manifests" / "tiny.toml").write_text(dump(family))
    own = base / "own"
    own.mkdir()
    (own / "model.gguf").write_bytes(CONTENT)
    (own / "config.json").write_bytes(SMALL)
    return own


def test_a_copied_folder_is_mended_by_its_own_receipt(tmp_path: Path, hub: FakeHub, folder: Path) -> None:
    """Its sources are not asked, as anybody may have written them; what the user names is."""
    folder.rename(tmp_path / "copy")
    copy, helper = tmp_path / "copy", tmp_path / "helper"
    flip(50)(copy / "model.gguf")
    refused = mend(tmp_path, hub, str(copy))
    assert (refused.code, hub.n_sent()) == (75, 0)
    helper.mkdir()
    (helper / "model.gguf").write_bytes(CONTENT)
    outcome = mend(tmp_path, hub, str(copy / "model.gguf"), "--from", str(helper))
    assert outcome.code == 0, outcome.error
    assert (copy / "model.gguf").read_bytes() == CONTENT


@pytest.mark.parametrize("only", ["v2", "v1"])
def test_the_hashes_of_a_torrent_serve_where_there_are_none_of_ours(tmp_path: Path, hub: FakeHub, only: str) -> None:
    folder = put(tmp_path / "home", hub, {"model.gguf": CONTENT, "config.json": SMALL}, lists=False)
    torrent = make(folder, piece_length=1 << 20)
    (tmp_path / "x.torrent").write_bytes((torrent if only == "v2" else torrent.v1_companion()).encode())
    flip(5, 15_000_000)(folder / "model.gguf")
    outcome = mend(tmp_path, hub, f"hf:{REPO}", "--torrent", str(tmp_path / "x.torrent"))
    assert outcome.code == 0, outcome.error
    assert (folder / "model.gguf").read_bytes() == CONTENT
    assert hub.n_sent() == 2 << 20


def test_what_lies_behind_a_link_is_not_touched(tmp_path: Path, hub: FakeHub) -> None:
    folder = put(tmp_path / "home", hub, {"sub/model.gguf": CONTENT, "config.json": SMALL})
    (folder / "sub").rename(tmp_path / "elsewhere")
    (folder / "sub").symlink_to(tmp_path / "elsewhere")
    flip(5)(tmp_path / "elsewhere" / "model.gguf")
    wrong = (tmp_path / "elsewhere" / "model.gguf").read_bytes()
    outcome = mend(tmp_path, hub)
    assert outcome.code == 73
    assert outcome.error == f"{folder}/sub: is a link to elsewhere; remove it by hand"
    assert (tmp_path / "elsewhere" / "model.gguf").read_bytes() == wrong


def test_files_without_a_name_cannot_be_repaired(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"?")
    outcome = run(tmp_path, "verify", str(tmp_path / "x.gguf"), "--repair")
    assert outcome.code == 2
    assert outcome.error.endswith("--repair needs a name for what it is to be: REF --in FOLDER")


def test_what_is_right_needs_no_repair(tmp_path: Path, hub: FakeHub, folder: Path) -> None:
    outcome = mend(tmp_path, hub)
    assert (outcome.code, outcome.json["repaired"], hub.n_sent()) == (0, [], 0)
