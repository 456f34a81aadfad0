"""A fetch of large files over HTTP, in real processes: several sources, kills, many at once, what servers do."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distro.config import Settings
from distro.errors import DiskFullError, NotPermittedError, SourceError, WrongBytesError, exit_code
from distro.fetch import fetch
from distro.manifest import File, Model, Variant
from distro.pieces import journal_of, tag
from distro.proof import piece_hashes
from distro.proof.piece_hashes import find_list
from distro.sources import retry
from distro.store import Store
from tests.distro.test_fetch import Words
from tests.fakes.fetcher import LENGTH
from tests.fakes.hub import FakeHub, Fault, LargeFile, serving

DATA = hashlib.shake_128(b"pieces").digest(5_000_000)
WEIGHTS = File("model.bin", len(DATA), sha256=hashlib.sha256(DATA).hexdigest())
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_hashes, "_SMALLEST", LENGTH)
    monkeypatch.setattr(retry, "wait_s", lambda n_failed, error: error.retry_after_s or 0.0)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        yield _filled(hub)


@pytest.fixture
def mirror() -> Iterator[FakeHub]:
    with serving() as mirror:
        yield _filled(mirror)


def _filled(hub: FakeHub) -> FakeHub:
    hub.plain, hub.send_buffer = {WEIGHTS.path: DATA}, 64 * 1024
    return hub


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "config", timeout_s=5.0, retries=2)


def _fetch(
    settings: Settings, *hubs: FakeHub, words: Words | None = None, file: File = WEIGHTS, **options: Any
) -> Path:
    variant = Variant("v", "safetensors", (file,), tuple(f"{hub.url}/plain/" for hub in hubs))
    return fetch(settings, Model("m", 1, "llama", "v", (variant,)), variant, progress=words or Words(), **options)


def _child(settings: Settings, what: str, *hubs: FakeHub, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    facts = [str(settings.home), WEIGHTS.path, str(len(DATA)), str(WEIGHTS.sha256)]
    urls = [f"{hub.url}/plain/" for hub in hubs]
    command = [sys.executable, "-m", "tests.fakes.fetcher", what, *facts, *urls, *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _told(child: subprocess.Popen[str]) -> dict[str, Any]:
    out, complaints = child.communicate(timeout=120)
    assert child.returncode == 0, complaints
    return dict(json.loads(out))


# All goes well


def test_two_sources_at_once_and_a_receipt_that_names_both_and_the_pieces(
    hub: FakeHub, mirror: FakeHub, settings: Settings
) -> None:
    for each in (hub, mirror):
        each.faults = [Fault(rate=5_000_000)]
    words = Words()
    path = _fetch(settings, hub, mirror, words=words)
    assert path.read_bytes() == DATA
    assert words.said == []
    assert {title: bar.n_bytes for title, bar in words.bars.items()} == {"m:v": len(DATA), WEIGHTS.path: len(DATA)}
    assert min(hub.n_sent(), mirror.n_sent()) > len(DATA) // 4
    assert hub.n_sent() + mirror.n_sent() <= 1.02 * len(DATA)
    receipt = Store(settings.home).receipt("m", "v")
    assert receipt is not None
    entry = receipt.files[WEIGHTS.path]
    assert sorted(entry.source.split(", ")) == sorted(f"{each.url}/plain/" for each in (hub, mirror))
    assert entry.sha256 == WEIGHTS.sha256
    assert list(settings.home.glob("partial/*.p*")) == []
    name = settings.home / "models/m/v/.pieces" / str(entry.pieces)
    assert name.exists()


def test_the_list_of_pieces_is_one_that_verify_reads(
    hub: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # pieces of their real length
    data = DATA + DATA
    hub.plain["big.bin"] = data
    file = File("big.bin", len(data), sha256=hashlib.sha256(data).hexdigest())
    assert _fetch(settings, hub, file=file).read_bytes() == data
    receipt = Store(settings.home).receipt("m", "v")
    assert receipt is not None
    found = find_list(settings.home / "models/m/v", receipt.files["big.bin"].pieces, str(file.sha256), len(data))
    assert found is not None
    assert found.digests[:32] == hashlib.sha256(data[: 4 << 20]).digest()
    assert found.n_pieces == 3


def test_other_digests_prove_as_well(hub: FakeHub, settings: Settings) -> None:
    for kind, digest in {
        "md5": hashlib.md5(DATA, usedforsecurity=False).hexdigest(),
        "git_sha1": hashlib.sha1(b"blob %d\0" % len(DATA) + DATA, usedforsecurity=False).hexdigest(),
    }.items():
        file = File(WEIGHTS.path, len(DATA), **{kind: digest})
        assert _fetch(settings, hub, file=file).read_bytes() == DATA
        receipt = Store(settings.home).receipt("m", "v")
        assert receipt is not None
        assert receipt.files[WEIGHTS.path].sha256 == WEIGHTS.sha256
        shutil.rmtree(settings.home)


def test_a_copy_that_is_near_comes_first_and_what_arrived_goes(
    hub: FakeHub, settings: Settings, tmp_path: Path
) -> None:
    with Store(settings.home).partial("m", "v", WEIGHTS) as partial:
        partial.append(DATA[:1_000_000])
    (tmp_path / WEIGHTS.path).write_bytes(DATA)
    assert _fetch(settings, hub, folder=tmp_path).read_bytes() == DATA
    assert hub.requests == []
    assert list(settings.home.glob("partial/*.p*")) == []


def test_a_copy_that_is_wrong_costs_nothing_of_what_arrived(hub: FakeHub, settings: Settings, tmp_path: Path) -> None:
    with Store(settings.home).partial("m", "v", WEIGHTS) as partial:
        partial.append(DATA[: 16 * LENGTH])
    (tmp_path / WEIGHTS.path).write_bytes(bytes(len(DATA)))
    assert _fetch(settings, hub, folder=tmp_path).read_bytes() == DATA
    assert [request.headers["range"] for request in hub.requests] == [f"bytes={16 * LENGTH}-"]


# Resumed


def test_a_fetch_that_is_killed_loses_a_piece_for_each_connection_at_most(
    hub: FakeHub, mirror: FakeHub, settings: Settings
) -> None:
    for each in (hub, mirror):
        each.faults = [Fault(rate=2_000_000)]
    child = _child(settings, "one", hub, mirror)
    while hub.n_sent() + mirror.n_sent() < 0.7 * len(DATA):
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    before = hub.n_sent() + mirror.n_sent()
    assert list(settings.home.glob("models/*")) == []
    n_here = Store(settings.home).received("m", "v", WEIGHTS)
    # Besides a piece each, what was on its way.
    assert before - n_here < 2 * (LENGTH + 400_000)
    hub.requests.clear()
    mirror.requests.clear()
    for each in (hub, mirror):
        each.faults = []
    assert Path(_told(_child(settings, "one", hub, mirror))["path"]).read_bytes() == DATA
    assert hub.n_sent() + mirror.n_sent() == len(DATA) - n_here


def test_kills_at_random_moments_until_it_is_done(hub: FakeHub, mirror: FakeHub, settings: Settings) -> None:
    """More of them: `python -m tests.fakes.fetcher kills … --n 200`."""
    for each in (hub, mirror):
        each.faults = [Fault(rate=20_000_000)]
    told = _told(_child(settings, "kills", hub, mirror, options=("--n", "24")))
    assert told["died"] == 24
    assert set(told["digests"]) == {WEIGHTS.sha256}
    assert told["left"] == []
    connections = 4  # two of each
    most = told["completed"] * len(DATA) + told["died"] * connections * (LENGTH + 400_000)
    assert hub.n_sent() + mirror.n_sent() <= most


def test_a_part_file_of_an_earlier_version_is_gone_on_with(hub: FakeHub, settings: Settings) -> None:
    with Store(settings.home).partial("m", "v", WEIGHTS) as partial:
        partial.append(DATA[:1_000_000])
    assert _fetch(settings, hub).read_bytes() == DATA
    n_kept = 1_000_000 // LENGTH * LENGTH
    assert [request.headers["range"] for request in hub.requests] == [f"bytes={n_kept}-"]


@pytest.mark.parametrize("rubbish", [b"x" * 1_000_000, b"x" * len(DATA), b"x" * (len(DATA) + 5)])
def test_a_part_file_that_holds_rubbish_costs_one_transfer(hub: FakeHub, settings: Settings, rubbish: bytes) -> None:
    with Store(settings.home).partial("m", "v", WEIGHTS) as partial:
        partial.append(rubbish)
    words = Words()
    assert _fetch(settings, hub, words=words).read_bytes() == DATA
    assert hub.n_sent() <= 1.02 * len(DATA)
    assert "from an earlier run" in words.said[0]


def test_a_complete_part_file_is_proven_and_nothing_is_asked_for(hub: FakeHub, settings: Settings) -> None:
    with Store(settings.home).partial("m", "v", WEIGHTS) as partial:
        partial.append(DATA)
    hub.faults = [Fault(status=500)]
    with pytest.raises(SourceError):  # the last piece is short and counts as not whole
        _fetch(settings, hub)
    hub.faults = []
    assert _fetch(settings, hub).read_bytes() == DATA
    assert hub.n_sent() < LENGTH + 100


def test_the_first_new_byte_of_800_gb_comes_within_seconds(
    hub: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(retry, "_AWAY_S", 0.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**15))
    size = 800 * 10**9
    huge = File("huge.bin", size, sha256="ab" * 32)
    hub.plain["huge.bin"] = LargeFile(b"", size)
    store = Store(settings.home)
    with store.partial("m", "v", huge) as partial:
        pieces = partial.pieces()
        assert pieces.n > 47_000
        for number in range(pieces.n):  # a journal that says that most is here; the holes say that it is not
            if number % 1000:
                pieces.add(number, bytes(16), tag("x"))
        partial.write_at(size - 1, b"x")
        for number in range(1, pieces.n, 5000):
            partial.write_at(number * pieces.length, b"x" * pieces.length)
    came = threading.Event()
    hub.on_sent = lambda n_bytes: came.set()
    hub.faults = [Fault(rate=1_000_000)]
    failed: list[BaseException] = []

    def run() -> None:
        try:
            _fetch(settings, hub, file=huge)
        except BaseException as error:
            failed.append(error)

    began = time.process_time()  # whatever else the machine does
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert came.wait(60)
    assert time.process_time() - began < 3
    hub.cut()  # which is the end of it, as nobody is to be patient
    thread.join(20)
    assert not thread.is_alive()
    assert isinstance(failed[0], SourceError)


def test_a_disk_that_fills_up_keeps_what_came(
    hub: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def until_full(descriptor: int, data: bytes, offset: int) -> int:
        if offset + len(data) > 3_000_000:
            raise OSError(28, "No space left on device")
        return pwrite(descriptor, data, offset)

    with monkeypatch.context() as patch, pytest.raises(DiskFullError):
        patch.setattr(os, "pwrite", until_full)
        _fetch(settings, hub)
    n_here = Store(settings.home).received("m", "v", WEIGHTS)
    assert n_here > 2_800_000
    hub.requests.clear()
    assert _fetch(settings, hub).read_bytes() == DATA
    assert hub.n_sent() == len(DATA) - n_here


def test_a_flip_on_the_disk_is_mended(hub: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, flips = os.pwrite, [True]

    def flipping(descriptor: int, data: bytes, offset: int) -> int:
        if offset <= 1_000_000 < offset + len(data) and flips.pop():
            flips.append(False)
            data = bytes([data[0] ^ 1]) + bytes(data)[1:]
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", flipping)
    words = Words()
    assert _fetch(settings, hub, words=words).read_bytes() == DATA
    assert words.said == [f"{WEIGHTS.path}: 1 piece is not on the disk as it came; fetching that again"]
    assert hub.n_sent() == len(DATA) + LENGTH


def test_a_disk_that_always_flips_is_never_believed(
    hub: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def flipping(descriptor: int, data: bytes, offset: int) -> int:
        return pwrite(descriptor, bytes([data[0] ^ 1]) + bytes(data)[1:] if offset == 0 else data, offset)

    monkeypatch.setattr(os, "pwrite", flipping)
    with pytest.raises(WrongBytesError) as caught:
        _fetch(settings, hub)
    assert exit_code(caught.value) == 79
    assert not (settings.home / "models").exists()


# Many at once


def test_64_processes_make_one_download(hub: FakeHub, settings: Settings) -> None:
    hub.faults = [Fault(rate=10_000_000)]
    told = _told(_child(settings, "many", hub, options=("--n", "64")))
    assert told == {"codes": [0] * 64, "digest": WEIGHTS.sha256}
    assert hub.n_sent() <= 1.02 * len(DATA)


def test_of_32_processes_half_are_killed_and_nobody_waits_for_the_dead(hub: FakeHub, settings: Settings) -> None:
    hub.faults = [Fault(rate=3_000_000)]
    told = _told(_child(settings, "many", hub, options=("--n", "32", "--killed", "16")))
    assert told["digest"] == WEIGHTS.sha256
    assert sorted(told["codes"]) == [-signal.SIGKILL] * 16 + [0] * 16


def test_without_locks_there_is_more_to_do_and_nothing_wrong(hub: FakeHub, settings: Settings) -> None:
    hub.faults = [Fault(times=3, cut_after=1_000_000), Fault(rate=10_000_000)]
    told = _told(_child(settings, "many", hub, options=("--n", "12", "--killed", "4", "--deaf")))
    assert told["digest"] == WEIGHTS.sha256
    assert sorted(told["codes"]) == [-signal.SIGKILL] * 4 + [0] * 8


# What servers do


def test_signed_addresses_that_expire_are_asked_for_again(hub: FakeHub, settings: Settings) -> None:
    hub.signs, hub.signed_uses = True, 3
    hub.faults = [Fault(cut_after=300_000)]
    words = Words()
    assert _fetch(settings, hub, words=words).read_bytes() == DATA
    assert words.said == []
    asked = [request.path.split("/")[1] for request in hub.requests]
    # An address is used as long as it is good, and not asked for each time.
    assert asked[:8] == ["plain", "signed", "signed", "signed", "signed", "plain", "signed", "signed"]


def test_a_server_that_wants_few_connections_gets_few(
    hub: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distro.fetching.lane._WINDOW_S", 0.2)
    monkeypatch.setattr("distro.fetching.lane._WORTH", 0.0)
    monkeypatch.setattr("distro.fetching.allotment.MEASURE_S", 0.1)
    hub.most_at_once, hub.faults = 2, [Fault(rate=1_500_000)]
    assert _fetch(settings, hub).read_bytes() == DATA
    assert 1 <= sum(request.n_sent == 0 for request in hub.transfers()) <= 4


def test_a_link_that_is_cut_again_and_again_still_finishes(hub: FakeHub, settings: Settings) -> None:
    hub.faults = [Fault(cut_after=70_000)]
    assert _fetch(settings, hub).read_bytes() == DATA
    assert hub.n_sent() == len(DATA)
    assert len(hub.transfers()) == -(-len(DATA) // 70_000)


def test_a_server_that_stops_answering_is_left_to_the_other(
    hub: FakeHub, mirror: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distro.fetching.allotment._STALLED_S", 1.0)
    hub.faults = [Fault(stall_after=200_000)]
    mirror.faults = [Fault(rate=4_000_000)]
    began = time.monotonic()
    assert _fetch(replace(settings, timeout_s=30.0), hub, mirror).read_bytes() == DATA
    assert time.monotonic() - began < 10


def test_a_server_that_stops_answering_is_seen_and_asked_again(hub: FakeHub, settings: Settings) -> None:
    hub.faults = [Fault(times=1, stall_after=200_000)]
    began = time.monotonic()
    assert _fetch(replace(settings, timeout_s=1.0), hub).read_bytes() == DATA
    assert 1 <= time.monotonic() - began < 5
    assert hub.n_sent() == len(DATA)


def test_work_goes_on_when_the_network_is_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server goes away in the middle for longer than all retries, and comes back at the same address."""
    monkeypatch.setattr(retry, "wait_s", lambda n_failed, error: 0.2)
    with serving() as hub:
        _filled(hub).faults = [Fault(rate=3_000_000)]
        port = int(hub.url.rpartition(":")[2])
        back: list[FakeHub] = []

        def away() -> None:
            while hub.n_sent() < 1_000_000:
                time.sleep(0.01)
            hub.faults = [Fault(cut_after=0)]
            hub.cut()
            time.sleep(1.5)  # seven tries of 0.2 s, where two would do without progress
            back.append(_filled(FakeHub(port=port)))
            back[0].start()

        thread = threading.Thread(target=away)
        thread.start()
        assert _fetch(settings, hub).read_bytes() == DATA
        thread.join()
        back[0].stop()


def test_pieces_that_a_torrent_knows_are_judged_when_they_come(
    hub: FakeHub, mirror: FakeHub, settings: Settings, tmp_path: Path
) -> None:
    from distro.swarm.make import make

    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / WEIGHTS.path).write_bytes(DATA)
    torrent = make(tmp_path / "shared", piece_length=LENGTH)
    (tmp_path / "w.torrent").write_bytes(torrent.encode())
    file = replace(WEIGHTS, pieces_root=torrent.files[0].pieces_root)
    wrong = bytes(byte ^ 1 for byte in DATA)  # everywhere, for nobody knows which pieces it is asked for
    hub.faults, mirror.faults = [Fault(body=wrong, rate=3_000_000)], [Fault(rate=3_000_000)]
    sources = (f"{hub.url}/plain/", f"{mirror.url}/plain/", str(tmp_path / "w.torrent"))
    variant = Variant("v", "safetensors", (file,), sources)
    words = Words()
    path = fetch(settings, Model("m", 1, "llama", "v", (variant,)), variant, progress=words)
    assert path.read_bytes() == DATA
    assert len(words.said) == 1
    accused = re.escape(f"{WEIGHTS.path} from {hub.url}/plain/")
    assert re.match(rf"{accused}: SHA-256 of bytes \d+ to \d+ is ", words.said[0])
    assert hub.n_sent() + mirror.n_sent() < 1.1 * len(DATA)


def test_all_sources_fail_and_what_came_is_kept(hub: FakeHub, mirror: FakeHub, settings: Settings) -> None:
    hub.faults = [Fault(times=1, cut_after=1_000_000), Fault(status=401)]
    mirror.faults = [Fault(times=1, cut_after=1_000_000), Fault(status=503)]
    with pytest.raises(NotPermittedError) as caught:
        _fetch(settings, hub, mirror)
    assert exit_code(caught.value) == 77
    n_here = Store(settings.home).received("m", "v", WEIGHTS)
    assert n_here > 1_000_000
    hub.faults, mirror.faults = [], []
    hub.requests.clear()
    mirror.requests.clear()
    assert _fetch(settings, hub, mirror).read_bytes() == DATA
    assert hub.n_sent() + mirror.n_sent() <= len(DATA) - n_here + 2 * LENGTH


def test_mirrors_of_the_user_help(hub: FakeHub, mirror: FakeHub, settings: Settings) -> None:
    hub.faults = mirror.faults = [Fault(rate=4_000_000)]
    ours = replace(settings, mirrors=(f"{mirror.url}/plain/",))
    assert _fetch(ours, hub).read_bytes() == DATA
    assert min(hub.n_sent(), mirror.n_sent()) > len(DATA) // 4


def test_a_journal_that_is_lost_costs_little(hub: FakeHub, settings: Settings) -> None:
    hub.faults = [Fault(times=1, cut_after=3_000_000), Fault(status=401)]
    with pytest.raises(NotPermittedError):
        _fetch(settings, hub)
    (part,) = settings.home.glob("partial/*.part")
    journal_of(part).unlink()
    hub.faults = []
    hub.requests.clear()
    assert _fetch(settings, hub).read_bytes() == DATA
    assert hub.n_sent() <= 2_000_000 + LENGTH
