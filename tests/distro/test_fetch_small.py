"""A fetch of many small files, over HTTP: several at once, and still as if they came one after another."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distro.config import Settings
from distro.errors import DiskFullError, NotPermittedError, NotThereError, SourceError, WrongBytesError
from distro.fetch import fetch
from distro.fetching.turns import StoppedError
from distro.manifest import File, Model, Variant
from distro.progress import Silent, SilentBar
from distro.proof import piece_hashes
from distro.proof.proofs import Proofs
from distro.proof.prove import Claim, How, Prover
from distro.sources import retry
from distro.store import Store
from tests.distro.test_fetch import Words
from tests.fakes.hub import FakeHub, Fault, serving

SMALL = {f"{number:02d}.json": hashlib.shake_128(b"%d" % number).digest(20_000) for number in range(40)}
DELAY_S = 0.1


def _file(path: str, data: bytes) -> File:
    return File(path, len(data), sha256=hashlib.sha256(data).hexdigest())


FILES = tuple(_file(path, data) for path, data in SMALL.items())


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        hub.plain = dict(SMALL)
        yield hub


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "config", timeout_s=5.0, retries=2)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "wait_s", lambda n_failed, error: error.retry_after_s or 0.0)


def _variant(*sources: str, files: tuple[File, ...] = FILES) -> Variant:
    return Variant("v", "safetensors", files, sources)


def _fetch(settings: Settings, variant: Variant, words: Words | None = None, **options: object) -> Path:
    return fetch(settings, Model("m", 1, "llama", "v", (variant,)), variant, progress=words or Words(), **options)  # type: ignore[arg-type]


def _entries(settings: Settings) -> list[str]:
    receipt = Store(settings.home).receipt("m", "v")
    return [] if receipt is None else list(receipt.files)


def _missing(settings: Settings) -> list[str]:
    receipt = Store(settings.home).receipt("m", "v")
    assert receipt is not None
    return list(receipt.missing)


# Several at once


def test_forty_files_do_not_take_forty_round_trips(hub: FakeHub, settings: Settings) -> None:
    hub.faults = [Fault(delay_s=DELAY_S)]
    words = Words()
    began = time.monotonic()
    folder = _fetch(settings, _variant(f"{hub.url}/plain/"), words)
    assert time.monotonic() - began < len(SMALL) * DELAY_S  # a fifth of it, on a machine that has nothing else to do
    assert {path: (folder / path).read_bytes() for path in SMALL} == SMALL
    assert words.said == []
    assert {title: bar.n_bytes for title, bar in words.bars.items()} == {
        "m:v": 800_000, **dict.fromkeys(SMALL, 20_000),
    }  # fmt: skip
    assert len(hub.transfers()) == 40


def test_the_receipt_is_the_same_whatever_came_first(hub: FakeHub, settings: Settings, tmp_path: Path) -> None:
    receipts = []
    for number in range(2):
        hub.faults = [Fault(delay_s=0.05, path=f"{name}.json") for name in range(number, 10, 3)]
        here = replace(settings, home=tmp_path / f"{number}")
        folder = _fetch(here, _variant(f"{hub.url}/plain/"))
        value = json.loads((folder / "receipt.json").read_bytes())
        receipts.append([(path, entry["sha256"], entry["source"]) for path, entry in value["files"].items()])
    assert receipts[0] == receipts[1]
    assert [path for path, _, _ in receipts[0]] == sorted(SMALL)


def test_as_many_at_once_as_settings_say(hub: FakeHub, settings: Settings) -> None:
    hub.faults, hub.most_at_once = [Fault(delay_s=0.02)], 2
    _fetch(replace(settings, files_at_once=2), _variant(f"{hub.url}/plain/"))
    assert len(hub.transfers()) == 40  # and none of them was refused


@pytest.mark.parametrize("most_at_once", [1, 3])
def test_a_server_that_takes_few_connections(hub: FakeHub, settings: Settings, most_at_once: int) -> None:
    hub.faults, hub.most_at_once = [Fault(delay_s=0.02)], most_at_once
    folder = _fetch(settings, _variant(f"{hub.url}/plain/"))
    assert {path: (folder / path).read_bytes() for path in SMALL} == SMALL
    assert len(hub.transfers()) < 70


def test_a_server_that_asks_one_to_wait_is_left_alone_by_all(hub: FakeHub, settings: Settings) -> None:
    answered: list[float] = []
    hub.on_sent = lambda n_bytes: answered.append(time.monotonic())
    hub.faults = [Fault(times=1, path="05", status=429, headers={"retry-after": "1"}), Fault(delay_s=0.05)]
    _fetch(settings, _variant(f"{hub.url}/plain/"))
    gaps = [after - before for before, after in itertools.pairwise(answered)]
    assert max(gaps) > 0.8  # those that were on their way came, and then nobody asked
    assert sum(gap > 0.8 for gap in gaps) == 1


def test_files_with_the_same_bytes(hub: FakeHub, settings: Settings, tmp_path: Path) -> None:
    same = {f"{number}/tokenizer_config.json": b"{}" for number in range(30)} | {"empty": b"", "0/empty": b""}
    hub.plain = dict(same)
    files = tuple(_file(path, data) for path, data in same.items())
    for target in (None, tmp_path / "target"):
        folder = _fetch(settings, _variant(f"{hub.url}/plain/", files=files), target=target)
        assert {path: (folder / path).read_bytes() for path in same} == same
    assert list(tmp_path.rglob("*.part")) == []
    assert not (tmp_path / "target" / ".distro-partial").exists()


def test_a_large_repository_starts_no_more_threads(hub: FakeHub, settings: Settings) -> None:
    """1,000 small files, of which a copy is at hand: what it takes is a matter of ours and not of the network."""
    n_files, most, before = 1000, 0, threading.active_count()
    folder = settings.home.parent / "copy"
    folder.mkdir()
    files = []
    for number in range(n_files):
        (folder / f"{number}.json").write_bytes(b"%d" % number)
        files.append(_file(f"{number}.json", b"%d" % number))

    class Counting(Silent):
        def bar(self, title: str, total: int | None, done: int = 0) -> SilentBar:
            nonlocal most
            most = max(most, threading.active_count())
            return SilentBar()

    variant = _variant(f"{hub.url}/plain/", files=tuple(files))
    fetch(settings, Model("m", 1, "llama", "v", (variant,)), variant, progress=Counting(), folder=folder)
    assert most <= before + 8
    assert len(_entries(settings)) == n_files
    assert hub.requests == []


# Limits


def test_limits_hold_for_all_of_them_together(hub: FakeHub, settings: Settings) -> None:
    limited = replace(settings, limits=(("", 512_000),))
    began = time.monotonic()
    _fetch(limited, _variant(f"{hub.url}/plain/"))
    assert time.monotonic() - began > (800_000 - 51_200) / 512_000


# Failures


def test_the_error_is_that_of_the_first_file_in_order(hub: FakeHub, settings: Settings) -> None:
    for _ in range(5):
        hub.requests.clear()
        hub.faults = [
            Fault(path="03", status=404, delay_s=0.3), Fault(path="05", status=404), Fault(path="07", flip_at=0),
            Fault(delay_s=0.02),
        ]  # fmt: skip
        with pytest.raises(NotThereError, match=r"03\.json"):
            _fetch(settings, _variant(f"{hub.url}/plain/"))
        asked = {request.path for request in hub.transfers()}
        assert len(asked) < 20  # no more were begun
    assert [path for path in _entries(settings) if path < "03"] == ["00.json", "01.json", "02.json"]


def _assert_asked_for_the_rest(hub: FakeHub, here: list[str]) -> None:
    """Each once; but for those of the eight under way that had come whole, and had only no name yet."""
    asked = [request.path.rpartition("/")[2] for request in hub.transfers()]
    assert len(asked) == len(set(asked))
    assert not set(asked) & set(here)
    assert 40 - len(here) - 8 <= len(asked) <= 40 - len(here)


def test_what_came_before_a_failure_is_not_read_again(
    hub: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.faults = [Fault(path="20", flip_at=0)]
    with pytest.raises(WrongBytesError):
        _fetch(settings, _variant(f"{hub.url}/plain/"))
    entries, n_here = _entries(settings), len(list((settings.home / "models/m/v").glob("*.json"))) - 1
    assert entries == sorted(entries)
    assert 20 <= len(entries) == n_here <= 39
    assert _missing(settings) == sorted(SMALL.keys() - set(entries))
    hub.faults = []
    hub.requests.clear()
    read: list[Path] = []
    check = sys.modules["distro.fetch"].check
    monkeypatch.setattr("distro.fetch.check", lambda path, file: read.append(path) or check(path, file))
    _fetch(settings, _variant(f"{hub.url}/plain/"))
    _assert_asked_for_the_rest(hub, entries)
    assert read == []
    assert _missing(settings) == []


def test_a_source_that_is_not_permitted_is_asked_and_spoken_of_once(hub: FakeHub, settings: Settings) -> None:
    with serving() as closed:
        closed.plain, closed.faults = dict(SMALL), [Fault(status=403, delay_s=0.05)]
        words = Words()
        _fetch(settings, _variant(f"{closed.url}/plain/", f"{hub.url}/plain/"), words)
        assert len(closed.requests) == 1
        assert len(words.said) == 1
    with pytest.raises(NotPermittedError, match=r"00\.json"):
        hub.faults = [Fault(status=403)]
        _fetch(replace(settings, home=settings.home / "other"), _variant(f"{hub.url}/plain/"))


def test_a_source_that_goes_away_in_the_middle_is_spoken_of_once(hub: FakeHub, settings: Settings) -> None:
    with serving() as weak:
        weak.plain = dict(SMALL)
        weak.faults = [Fault(times=5), Fault(status=500, delay_s=0.02)]
        words = Words()
        _fetch(settings, _variant(f"{weak.url}/plain/", f"{hub.url}/plain/"), words)
        assert len(words.said) == 1
        assert len(weak.transfers()) < 40
    assert len(_entries(settings)) == 40


def test_a_full_disk_ends_it_and_keeps_what_came(
    hub: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite, n_written = os.pwrite, 0

    def until_full(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal n_written
        if n_written > 200_000 and not bytes(data).startswith(b'{\n  "schema"'):  # there is room for a receipt
            raise OSError(28, "No space left on device")
        n_written += len(data)
        return pwrite(descriptor, data, offset)

    with monkeypatch.context() as patch, pytest.raises(DiskFullError):
        patch.setattr(os, "pwrite", until_full)
        _fetch(settings, _variant(f"{hub.url}/plain/"))
    entries = _entries(settings)
    assert len(entries) >= 5
    hub.requests.clear()
    _fetch(settings, _variant(f"{hub.url}/plain/"))
    _assert_asked_for_the_rest(hub, entries)


# Interrupted


def test_an_interrupt_ends_all_threads_and_keeps_what_is_proven(hub: FakeHub, settings: Settings) -> None:
    before = threading.active_count()
    hub.faults = [Fault(times=10), Fault(rate=20_000)]

    class Interrupting(Words):
        def bar(self, title: str, total: int | None, done: int = 0) -> SilentBar:  # type: ignore[override]
            if title == "12.json":
                threading.Timer(0.2, signal.raise_signal, (signal.SIGINT,)).start()
            return super().bar(title, total, done)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        _fetch(settings, _variant(f"{hub.url}/plain/"), Interrupting())
    assert time.monotonic() - began < 5
    deadline = time.monotonic() + 2
    while threading.active_count() > before + len(hub.requests) and time.monotonic() < deadline:
        time.sleep(0.02)
    entries = _entries(settings)
    here = sorted(path.name for path in (settings.home / "models/m/v").glob("*.json") if path.name != "receipt.json")
    assert entries == here
    assert 10 <= len(entries) < 40
    hub.faults = []
    hub.requests.clear()
    _fetch(settings, _variant(f"{hub.url}/plain/"))
    _assert_asked_for_the_rest(hub, entries)
    assert not issubclass(StoppedError, SourceError)


CHILD = """
import json, sys
from pathlib import Path
from distro.config import Settings
from distro.fetch import fetch
from distro.manifest import File, Model, Variant
from distro.progress import Silent
home, url, files = sys.argv[1:]
variant = Variant("v", "safetensors", tuple(File(p, n, sha256=s) for p, n, s in json.loads(files)), (url,))
settings = Settings(Path(home), Path(home) / "config", timeout_s=5.0)
fetch(settings, Model("m", 1, "llama", "v", (variant,)), variant, progress=Silent())
"""


def test_killed_while_several_arrive_it_goes_on_with_each_of_them(hub: FakeHub, settings: Settings) -> None:
    facts = json.dumps([(file.path, file.size, file.sha256) for file in FILES])
    command = [sys.executable, "-c", CHILD, str(settings.home), f"{hub.url}/plain/", facts]
    ten = threading.Event()
    hub.faults = [Fault(times=10), Fault(rate=20_000)]
    hub.on_sent = lambda n_bytes: ten.set() if len(hub.transfers()) > 14 and n_bytes > 5000 else None
    with subprocess.Popen(command) as child:
        assert ten.wait(30)
        child.send_signal(signal.SIGKILL)
    assert _entries(settings) == []  # there was no time for a receipt
    here = {path.name: path.read_bytes() for path in (settings.home / "models/m/v").glob("*.json")}
    assert 8 <= len(here) < 40
    assert here == {name: SMALL[name] for name in here}
    n_arrived = sum(path.stat().st_size for path in settings.home.glob("partial/*.part"))
    assert n_arrived > 5000
    hub.faults = []
    hub.requests.clear()
    with subprocess.Popen(command) as child:
        assert child.wait(30) == 0
    assert len(_entries(settings)) == 40
    assert hub.n_sent() == 800_000 - n_arrived - 20_000 * len(here)
    assert list(settings.home.glob("partial/*.part")) == []


# What is remembered


def test_what_was_fetched_needs_no_reading_to_be_verified(hub: FakeHub, settings: Settings, tmp_path: Path) -> None:
    settings = replace(settings, state_folder=tmp_path / "state")
    for target in (None, tmp_path / "target"):
        folder = _fetch(settings, _variant(f"{hub.url}/plain/"), target=target)
        claims = [Claim(folder / file.path, file) for file in FILES]
        proofs = Prover(Proofs(settings.state_folder)).prove(claims)
        assert {proof.how for proof in proofs} == {How.REMEMBERED}
        assert all(proof.verdict.is_right for proof in proofs)
        (folder / "07.json").write_bytes(b"x" * 20_000)
        (proof,) = Prover(Proofs(settings.state_folder)).prove(claims[7:8])
        assert (proof.how, proof.verdict.is_right) == (How.READ, False)


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_list_of_ours_names_a_wrong_piece_at_once(
    hub: FakeHub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_ours: bool
) -> None:
    """Without it the whole file has to come before anybody knows that something is wrong."""
    monkeypatch.setattr(piece_hashes, "_SMALLEST", 64 * 1024)
    data = hashlib.shake_128(b"large").digest(1_000_000)
    hub.plain["large"] = data
    variant = _variant(f"{hub.url}/plain/", files=(_file("large", data),))
    settings = replace(settings, state_folder=tmp_path / "state")
    path = _fetch(settings, variant)
    path.unlink()
    if not is_ours:
        (tmp_path / "state" / "proofs").unlink()
    hub.faults = [Fault(flip_at=10)]
    with pytest.raises(WrongBytesError, match="SHA-256 of bytes 0 to 65535" if is_ours else "sha256") as caught:
        _fetch(settings, variant)
    assert hub.url in str(caught.value)
