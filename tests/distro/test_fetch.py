"""The story of a fetch: resumed after cuts and kills, failing over, never a wrong byte under a final name."""

from __future__ import annotations

import json
import os
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

import pytest

from distro.config import Settings
from distro.errors import (
    CannotCreateError,
    DiskFullError,
    NotFoundError,
    NotThereError,
    ProtocolError,
    SourceError,
    UnsafeRequestError,
    WrongBytesError,
    exit_code,
)
from distro.fetch import fetch
from distro.manifest import File, Model, Variant
from distro.progress import SilentBar
from distro.receipt import Entry, Receipt
from distro.sources import retry
from distro.store import Store
from tests.fakes.hub import FakeHub, Fault, serving, sha256

DATA = bytes(range(251)) * 12_000  # 3,012,000 bytes
SMALL = b'{"model_type": "llama"}'
WEIGHTS = File("weights/model.safetensors", len(DATA), sha256=sha256(DATA))
CONFIG = File("config.json", len(SMALL), sha256=sha256(SMALL))
V1_MAGNET, V2_MAGNET = f"magnet:?xt=urn:btih:{'a' * 40}", f"magnet:?xt=urn:btmh:1220{'b' * 64}"


class Words:
    """Progress that remembers what was said, and how far the bars came."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bars: dict[str, CountingBar] = {}

    def bar(self, title: str, total: int | None, done: int = 0) -> CountingBar:
        self.bars[title] = CountingBar(done)
        return self.bars[title]

    def say(self, text: str) -> None:
        self.said.append(text)


class CountingBar(SilentBar):
    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes

    def advance(self, n_bytes: int) -> None:
        assert n_bytes >= 0
        self.n_bytes += n_bytes


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        _fill(hub)
        yield hub


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "config", timeout_s=5.0, retries=2)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "wait_s", lambda n_failed, error: 0.0)


def _fill(hub: FakeHub) -> None:
    hub.plain = {WEIGHTS.path: DATA, CONFIG.path: SMALL}


def _variant(*sources: str, files: tuple[File, ...] = (CONFIG, WEIGHTS)) -> Variant:
    return Variant("v", "safetensors", files, sources)


def _fetch(settings: Settings, variant: Variant, words: Words | None = None, **options: object) -> Path:
    return fetch(settings, Model("m", 1, "llama", "v", (variant,)), variant, progress=words or Words(), **options)  # type: ignore[arg-type]


def _final_files(settings: Settings) -> list[str]:
    models = settings.home / "models"
    return sorted(str(path.relative_to(models)) for path in models.rglob("*") if path.is_file())


# All goes well


def test_files_get_their_places_and_a_receipt(hub: FakeHub, settings: Settings) -> None:
    words = Words()
    folder = _fetch(settings, _variant(f"{hub.url}/plain/"), words)
    assert folder == settings.home / "models" / "m" / "v"
    assert (folder / WEIGHTS.path).read_bytes() == DATA
    assert _final_files(settings) == ["m/v/config.json", "m/v/receipt.json", "m/v/weights/model.safetensors"]
    receipt = Store(settings.home).receipt("m", "v")
    assert receipt is not None
    assert receipt.files[CONFIG.path].sha256 == CONFIG.sha256
    assert receipt.files[CONFIG.path].source == f"{hub.url}/plain/"
    assert {title: bar.n_bytes for title, bar in words.bars.items()} == {
        "m:v": len(DATA) + len(SMALL), CONFIG.path: len(SMALL), WEIGHTS.path: len(DATA),
    }  # fmt: skip
    assert words.said == []


def test_what_is_here_is_not_asked_for(hub: FakeHub, settings: Settings) -> None:
    variant = _variant(f"{hub.url}/plain/")
    _fetch(settings, variant)
    before = (settings.home / "models/m/v/receipt.json").read_bytes()
    hub.requests.clear()
    _fetch(settings, variant)
    assert hub.requests == []
    assert (settings.home / "models/m/v/receipt.json").read_bytes() == before


def test_a_file_without_a_receipt_is_proven_by_reading(hub: FakeHub, settings: Settings) -> None:
    variant = _variant(f"{hub.url}/plain/")
    folder = _fetch(settings, variant)
    (folder / "receipt.json").unlink()
    hub.requests.clear()
    _fetch(settings, variant)
    assert hub.requests == []
    assert (folder / "receipt.json").exists()


@pytest.mark.parametrize("damage", ["truncated", "removed", "a link"])
def test_a_file_that_is_not_what_it_was_is_brought_again(
    hub: FakeHub, settings: Settings, damage: str, tmp_path: Path
) -> None:
    variant = _variant(f"{hub.url}/plain/")
    path = _fetch(settings, variant) / WEIGHTS.path
    if damage == "truncated":
        os.truncate(path, 10)
    else:
        path.unlink()
    if damage == "a link":
        (tmp_path / "elsewhere").write_bytes(b"precious")
        path.symlink_to(tmp_path / "elsewhere")
    _fetch(settings, variant)
    assert path.read_bytes() == DATA
    assert not path.is_symlink()
    if damage == "a link":
        assert (tmp_path / "elsewhere").read_bytes() == b"precious"


def test_only_some_files_and_later_the_rest(hub: FakeHub, settings: Settings) -> None:
    variant = _variant(f"{hub.url}/plain/")
    folder = _fetch(settings, variant, only="*.json")
    assert _final_files(settings) == ["m/v/config.json", "m/v/receipt.json"]
    hub.requests.clear()
    _fetch(settings, variant)
    assert [request.path for request in hub.requests] == ["/plain/weights/model.safetensors"]
    receipt = Store(settings.home).receipt("m", "v")
    assert receipt is not None
    assert receipt.files.keys() == {CONFIG.path, WEIGHTS.path}
    assert folder.is_dir()
    with pytest.raises(NotFoundError):
        _fetch(settings, variant, only="*.gguf")


def test_a_variant_of_one_file_is_that_file(hub: FakeHub, settings: Settings) -> None:
    path = _fetch(settings, _variant(f"{hub.url}/plain/", files=(WEIGHTS,)))
    assert path == settings.home / "models/m/v" / WEIGHTS.path


def test_a_folder_of_the_users_own(hub: FakeHub, settings: Settings, tmp_path: Path) -> None:
    target = tmp_path / "target"
    variant = _variant(f"{hub.url}/plain/")
    assert _fetch(settings, variant, target=target) == target
    there = sorted(str(path.relative_to(target)) for path in target.rglob("*"))
    assert there == ["config.json", "weights", "weights/model.safetensors"]
    hub.requests.clear()
    _fetch(settings, variant, target=target)
    assert hub.requests == []
    (target / CONFIG.path).write_bytes(b"{}" + b" " * (len(SMALL) - 2))
    with pytest.raises(CannotCreateError, match="other bytes") as caught:
        _fetch(settings, variant, target=target)
    assert exit_code(caught.value) == 73


def test_a_second_copy_comes_out_of_the_store(hub: FakeHub, settings: Settings, tmp_path: Path) -> None:
    variant = _variant(f"{hub.url}/plain/")
    _fetch(settings, variant)
    hub.requests.clear()
    _fetch(settings, variant, target=tmp_path / "target")
    assert hub.requests == []
    assert (tmp_path / "target" / WEIGHTS.path).read_bytes() == DATA


def test_a_folder_that_is_named_comes_first(hub: FakeHub, settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / WEIGHTS.path).write_bytes(DATA)
    (tmp_path / CONFIG.path).write_bytes(SMALL.swapcase())  # of the right size, and another
    words = Words()
    folder = _fetch(settings, _variant(f"{hub.url}/plain/"), words, folder=tmp_path)
    assert (folder / CONFIG.path).read_bytes() == SMALL
    assert [request.path for request in hub.requests] == ["/plain/config.json"]
    assert words.said[0].startswith(f"config.json from folder {tmp_path}: sha256 is ")


def test_the_hubs_cache_is_used_and_what_is_wrong_in_it_is_not(
    hub: FakeHub, settings: Settings, tmp_path: Path
) -> None:
    blobs = tmp_path / "cache" / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / sha256(DATA)).write_bytes(DATA)
    (blobs / sha256(SMALL)).write_bytes(SMALL.swapcase())
    folder = _fetch(replace(settings, hub_cache=tmp_path / "cache"), _variant(f"{hub.url}/plain/"))
    assert [request.path for request in hub.requests] == ["/plain/config.json"]
    assert (folder / CONFIG.path).read_bytes() == SMALL
    assert (folder / WEIGHTS.path).read_bytes() == DATA


def test_an_empty_file(hub: FakeHub, settings: Settings) -> None:
    hub.plain["empty"] = b""
    empty = File("empty", 0, sha256=sha256(b""))
    assert _fetch(settings, _variant(f"{hub.url}/plain/", files=(empty,))).read_bytes() == b""


def test_a_file_without_a_digest_is_called_unproven(hub: FakeHub, settings: Settings) -> None:
    words = Words()
    variant = _variant(f"{hub.url}/plain/", files=(File(WEIGHTS.path),))
    assert _fetch(settings, variant, words).read_bytes() == DATA
    assert words.said == [f"{WEIGHTS.path}: no digest was published; the bytes are unproven"]
    receipt = Store(settings.home).receipt("m", "v")
    assert receipt is not None
    assert not receipt.files[WEIGHTS.path].proven
    hub.requests.clear()
    _fetch(settings, variant)
    assert hub.requests == []


# Cut, killed, resumed


def test_a_link_that_is_cut_every_100_kB_still_finishes(hub: FakeHub, settings: Settings) -> None:
    hub.faults = [Fault(cut_after=100_000)]  # for ever: 31 connections, and never two in a row without progress
    path = _fetch(settings, _variant(f"{hub.url}/plain/", files=(WEIGHTS,)))
    assert path.read_bytes() == DATA
    assert len(hub.transfers()) == 31
    assert hub.n_sent() == len(DATA)  # nothing was sent twice


def test_a_connection_cut_in_the_middle_goes_on_from_there(hub: FakeHub, settings: Settings) -> None:
    hub.faults = [Fault(times=1, cut_after=2_000_000)]
    words = Words()
    _fetch(settings, _variant(f"{hub.url}/plain/", files=(WEIGHTS,)), words)
    assert [request.headers["range"] for request in hub.requests] == ["bytes=0-", "bytes=2000000-"]
    assert hub.n_sent() == len(DATA)
    assert words.bars["m:v"].n_bytes == len(DATA)


def test_a_link_that_gives_nothing_is_left_after_the_retries(hub: FakeHub, settings: Settings) -> None:
    hub.faults = [Fault(cut_after=1000)]  # less than counts as progress
    with pytest.raises(SourceError, match="cut") as caught:
        _fetch(settings, _variant(f"{hub.url}/plain/", files=(WEIGHTS,)))
    assert exit_code(caught.value) == 75
    assert len(hub.requests) == 3
    hub.faults = []
    _fetch(settings, _variant(f"{hub.url}/plain/", files=(WEIGHTS,)))
    assert hub.n_sent() == len(DATA)  # the 3,000 bytes that came were kept


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(hub: FakeHub, settings: Settings, status: int) -> None:
    hub.faults = [Fault(times=2, status=status)]
    _fetch(settings, _variant(f"{hub.url}/plain/", files=(WEIGHTS,)))
    assert len(hub.requests) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 400])
def test_what_no_second_try_can_change_is_not_tried_again(hub: FakeHub, settings: Settings, status: int) -> None:
    hub.faults = [Fault(status=status)]
    with pytest.raises(SourceError):
        _fetch(settings, _variant(f"{hub.url}/plain/", files=(WEIGHTS,)))
    assert len(hub.requests) == 1


def test_waits_are_what_is_asked_for_or_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for n_failed in range(20):
        assert (
            0.125 * 2 ** min(n_failed, 8) * 0.9 <= retry.wait_s(n_failed, SourceError("s", "w")) * 1.0 or n_failed > 8
        )
        assert retry.wait_s(n_failed, SourceError("s", "w")) <= 60
    assert 7.5 <= retry.wait_s(0, SourceError("s", "w", retry_after_s=7)) <= 8


CHILD = """
import sys
from pathlib import Path
from distro.config import Settings
from distro.fetch import fetch
from distro.manifest import File, Model, Variant
from distro.progress import Silent
home, url, path, size, sha256 = sys.argv[1:]
variant = Variant("v", "safetensors", (File(path, int(size), sha256=sha256),), (url,))
settings = Settings(Path(home), Path(home) / "config", timeout_s=5.0)
print(fetch(settings, Model("m", 1, "llama", "v", (variant,)), variant, progress=Silent()))
"""


NO_LOCKS = """
import filelock
def acquire(*_, **__):
    raise NotImplementedError("a file system without locks")
filelock.FileLock.acquire = acquire
"""


def _child(settings: Settings, hub: FakeHub, before: str = "") -> subprocess.Popen[str]:
    facts = [str(settings.home), f"{hub.url}/plain/", WEIGHTS.path, str(len(DATA)), sha256(DATA)]
    return subprocess.Popen([sys.executable, "-c", before + CHILD, *facts], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_fetch_goes_on_where_it_was(hub: FakeHub, settings: Settings, how: signal.Signals) -> None:
    half = threading.Event()
    hub.on_sent = lambda n_bytes: half.set() if n_bytes > len(DATA) // 2 else None
    hub.faults = [Fault(times=1, rate=3_000_000)]
    with _child(settings, hub) as child:
        assert half.wait(30)
        child.send_signal(how)
        child.wait(30)
    assert _final_files(settings) == []
    (part,) = settings.home.glob("partial/*.part")
    n_here = part.stat().st_size
    assert n_here > len(DATA) // 2 - 500_000
    assert DATA.startswith(part.read_bytes())
    hub.requests.clear()
    with _child(settings, hub) as child:
        told, _ = child.communicate(timeout=30)
    assert child.returncode == 0
    assert Path(told.strip()).read_bytes() == DATA
    assert [request.headers["range"] for request in hub.requests] == [f"bytes={n_here}-"]
    assert hub.n_sent() == len(DATA) - n_here
    assert list(settings.home.glob("partial/*.part")) == []


def test_a_fetch_killed_before_its_receipt_transfers_nothing_again(hub: FakeHub, settings: Settings) -> None:
    path = _fetch(settings, _variant(f"{hub.url}/plain/", files=(WEIGHTS,)))
    path.with_name("receipt.json").unlink(missing_ok=True)
    (settings.home / "models/m/v/receipt.json").unlink()
    with Store(settings.home).partial("m", "v", WEIGHTS) as partial:  # killed between verifying and renaming
        partial.append(DATA)
    path.unlink()
    hub.requests.clear()
    assert _fetch(settings, _variant(f"{hub.url}/plain/", files=(WEIGHTS,))).read_bytes() == DATA
    assert hub.requests == []


@pytest.mark.parametrize("rubbish", [b"x" * 1_000_000, b"x" * len(DATA), b"x" * (len(DATA) + 5)])
def test_a_part_file_that_holds_rubbish_costs_one_transfer(hub: FakeHub, settings: Settings, rubbish: bytes) -> None:
    with Store(settings.home).partial("m", "v", WEIGHTS) as partial:
        partial.append(rubbish)
    words = Words()
    path = _fetch(settings, _variant(f"{hub.url}/plain/", files=(WEIGHTS,)), words)
    assert path.read_bytes() == DATA
    assert hub.transfers()[-1].headers["range"] == "bytes=0-"
    assert hub.n_sent() <= 2 * len(DATA)
    assert not list(settings.home.glob("partial/*.wrong"))  # nobody sent it, so nobody is blamed


def test_many_processes_make_one_download(hub: FakeHub, settings: Settings) -> None:
    hub.faults = [Fault(rate=6_000_000)]
    children = [_child(settings, hub) for _ in range(4)]
    told = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0, 0]
    assert len(set(told)) == 1
    assert Path(told[0].strip()).read_bytes() == DATA
    assert hub.n_sent() == len(DATA)


def test_many_processes_without_locks_make_no_wrong_byte(hub: FakeHub, settings: Settings) -> None:
    hub.faults = [Fault(times=2, cut_after=1_000_000), Fault(times=1, flip_at=3_000_000), Fault(rate=6_000_000)]
    children = [_child(settings, hub, NO_LOCKS) for _ in range(4)]
    told = [child.communicate(timeout=60)[0] for child in children]
    assert sorted(child.returncode for child in children) == [0, 0, 0, 1]  # the one that was lied to
    assert (settings.home / "models/m/v" / WEIGHTS.path).read_bytes() == DATA
    assert len({text for text in told if text}) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}'])
def test_a_receipt_that_is_broken_is_not_believed_and_written_anew(hub: FakeHub, settings: Settings, text: str) -> None:
    folder = _fetch(settings, _variant(f"{hub.url}/plain/"))
    good = (folder / "receipt.json").read_bytes()
    (folder / "receipt.json").write_text(text)
    hub.requests.clear()
    words = Words()
    _fetch(settings, _variant(f"{hub.url}/plain/"), words)
    assert hub.requests == []
    assert "not believed" in words.said[0]
    assert json.loads((folder / "receipt.json").read_bytes())["files"].keys() == json.loads(good)["files"].keys()


# Failing over


def test_a_wrong_byte_is_never_published_and_the_next_source_is_asked(hub: FakeHub, settings: Settings) -> None:
    with serving() as liar:
        _fill(liar)
        liar.faults = [Fault(path="model.safetensors", flip_at=1_234_567)]
        words = Words()
        folder = _fetch(settings, _variant(f"{liar.url}/plain/", f"{hub.url}/plain/"), words)
        assert (folder / WEIGHTS.path).read_bytes() == DATA
        assert [request.path for request in hub.requests] == ["/plain/weights/model.safetensors"]
        assert words.said[0].startswith(f"{WEIGHTS.path} from {liar.url}/plain/: sha256 is ")
        (aside,) = settings.home.glob("partial/*.wrong")
        assert [index for index, (a, b) in enumerate(zip(aside.read_bytes(), DATA, strict=True)) if a != b] == [
            1_234_567
        ]
        receipt = Store(settings.home).receipt("m", "v")
        assert receipt is not None
        assert receipt.files[WEIGHTS.path].source == f"{hub.url}/plain/"


def test_if_no_source_is_right_it_is_79(hub: FakeHub, settings: Settings) -> None:
    hub.faults = [Fault(path="model.safetensors", flip_at=0)]
    with pytest.raises(WrongBytesError) as caught:
        _fetch(settings, _variant(f"{hub.url}/plain/", "http://127.0.0.1:9/"))
    assert exit_code(caught.value) == 79
    assert _final_files(settings) == ["m/v/config.json", "m/v/receipt.json"]
    receipt = Store(settings.home).receipt("m", "v")
    assert receipt is not None
    assert receipt.files.keys() == {CONFIG.path}  # proven before that, and not to be read again


def test_the_next_source_goes_on_where_the_first_was_cut(hub: FakeHub, settings: Settings) -> None:
    with serving() as weak:
        _fill(weak)
        weak.faults = [Fault(times=1, cut_after=1_000_000), Fault(status=500)]
        words = Words()
        folder = _fetch(settings, _variant(f"{weak.url}/plain/", f"{hub.url}/plain/", files=(WEIGHTS,)), words)
        assert folder.read_bytes() == DATA
        assert [request.headers["range"] for request in hub.requests] == ["bytes=1000000-"]
        assert "HTTP 500" in words.said[0]


def test_bytes_of_another_source_are_not_held_against_the_next(hub: FakeHub, settings: Settings) -> None:
    with serving() as liar:
        _fill(liar)
        liar.faults = [Fault(times=1, cut_after=1_000_000, flip_at=5), Fault(status=404)]
        path = _fetch(settings, _variant(f"{liar.url}/plain/", f"{hub.url}/plain/", files=(WEIGHTS,)))
        assert path.read_bytes() == DATA
        assert [request.headers["range"] for request in hub.requests] == ["bytes=1000000-", "bytes=0-"]


def test_a_source_that_failed_is_not_asked_for_the_next_file(hub: FakeHub, settings: Settings) -> None:
    with serving() as closed:
        closed.faults = [Fault(status=403)]
        _fill(closed)
        words = Words()
        _fetch(settings, _variant(f"{closed.url}/plain/", f"{hub.url}/plain/"), words)
        assert len(closed.requests) == 1
        assert len(words.said) == 1


def test_a_source_without_one_file_is_asked_for_the_next(hub: FakeHub, settings: Settings) -> None:
    with serving() as half:
        half.plain = {WEIGHTS.path: DATA}
        _fetch(settings, _variant(f"{half.url}/plain/", f"{hub.url}/plain/"))
        assert [request.path for request in half.requests] == ["/plain/config.json", "/plain/weights/model.safetensors"]
        assert [request.path for request in hub.requests] == ["/plain/config.json"]


@pytest.mark.parametrize(
    ("faults", "kind", "code"),
    [
        ([Fault(status=404), Fault(status=404)], NotThereError, 66),
        ([Fault(status=404), Fault(status=500)], SourceError, 75),
        ([Fault(gzip=True), Fault(gzip=True)], ProtocolError, 76),
        ([Fault(gzip=True), Fault(status=500)], SourceError, 75),
        ([Fault(status=500), Fault(status=401)], SourceError, 77),
    ],
)
def test_when_all_fail_the_most_telling_is_told(
    hub: FakeHub, settings: Settings, faults: list[Fault], kind: type[SourceError], code: int
) -> None:
    with serving() as other:
        _fill(other)
        hub.faults, other.faults = [faults[0]], [faults[1]]
        with pytest.raises(kind) as caught:
            _fetch(settings, _variant(f"{hub.url}/plain/", f"{other.url}/plain/", files=(WEIGHTS,)))
        assert exit_code(caught.value) == code


def test_no_source_at_all(settings: Settings) -> None:
    with pytest.raises(SourceError, match="no source") as caught:
        _fetch(settings, _variant())
    assert exit_code(caught.value) == 75


@pytest.mark.parametrize(
    ("torrent", "said"),
    [
        (
            V1_MAGNET,
            f"SHA-1, which is all that proves it, can be forged; `distro fetch '{V1_MAGNET}' --allow-sha1`",
        ),
        (V2_MAGNET, f"digests of the files in it; `distro fetch '{V2_MAGNET}'`"),
    ],
)
def test_a_torrent_without_digests_of_its_files_is_refused_with_what_to_do(
    settings: Settings, torrent: str, said: str
) -> None:
    with pytest.raises(UnsafeRequestError) as caught:
        _fetch(settings, _variant(torrent, files=()))
    assert str(caught.value).startswith("m:v: its publisher gave a ")
    assert said in str(caught.value)
    assert exit_code(caught.value) == 81


# The disk


def test_no_room_is_said_before_anything_is_asked(hub: FakeHub, settings: Settings) -> None:
    huge = File("huge.bin", 2**62, sha256="0" * 64)
    with pytest.raises(DiskFullError, match="missing") as caught:
        _fetch(settings, _variant(f"{hub.url}/plain/", files=(CONFIG, huge)))
    assert exit_code(caught.value) == 80
    assert hub.requests == []


def test_what_a_swarm_has_brought_already_needs_no_room(
    hub: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = _variant(f"{hub.url}/plain/", files=(WEIGHTS,))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(DiskFullError, match=f"{len(DATA)} bytes needed, 1000000 free"):
        _fetch(settings, variant)
    area = settings.home / "partial" / f"sha256-{WEIGHTS.sha256}.swarm"
    area.mkdir(parents=True)
    (area / "data").write_bytes(DATA[:2_500_000])
    assert _fetch(settings, variant).read_bytes() == DATA


def test_a_disk_that_fills_up_keeps_what_came(
    hub: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def until_full(descriptor: int, data: bytes, offset: int) -> int:
        if offset + len(data) > 1_500_000:
            raise OSError(28, "No space left on device")
        return pwrite(descriptor, data, offset)

    variant = _variant(f"{hub.url}/plain/", files=(WEIGHTS,))
    with monkeypatch.context() as patch, pytest.raises(DiskFullError):
        patch.setattr(os, "pwrite", until_full)
        _fetch(settings, variant)
    (part,) = settings.home.glob("partial/*.part")
    n_here = part.stat().st_size
    assert n_here > 1_000_000
    hub.requests.clear()
    assert _fetch(settings, variant).read_bytes() == DATA
    assert hub.n_sent() == len(DATA) - n_here


@pytest.mark.parametrize("kind", ["file", "folder in the way", "pipe in the way"])
def test_a_place_that_cannot_be_is_73_before_anything_is_asked(
    hub: FakeHub, settings: Settings, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.write_bytes(b"")
    else:
        (target / "weights").mkdir(parents=True)
        (os.mkfifo if "pipe" in kind else os.mkdir)(target / WEIGHTS.path)
    with pytest.raises(CannotCreateError) as caught:
        _fetch(settings, _variant(f"{hub.url}/plain/"), target=target)
    assert exit_code(caught.value) == 73
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "beside"),
    [("receipt.json", True), ("Receipt.JSON", True), ("receipt.json/x", True), (".receipt.json.0123-1-1-0", True),
     (".pieces", True), (".pieces/" + "a" * 64, True), (".distro-partial/x", False), (".distro-partial", False)],
)  # fmt: skip
def test_our_own_names_are_refused_before_anything_is_asked(
    hub: FakeHub, settings: Settings, tmp_path: Path, name: str, beside: bool
) -> None:
    """What would lie where the store keeps something of its own; beside the store there is less of that."""
    hub.plain[name] = b"{}"
    variant = _variant(f"{hub.url}/plain/", files=(File(name, 2, sha256=sha256(b"{}")),))
    with pytest.raises(CannotCreateError, match=r"is our own name|is where files arrive"):
        _fetch(settings, variant)
    assert _final_files(settings) == []
    if beside:
        assert _fetch(settings, variant, target=tmp_path / "out").read_bytes() == b"{}"
    else:
        with pytest.raises(CannotCreateError, match="is where files arrive"):
            _fetch(settings, variant, target=tmp_path / "out")
        assert hub.requests == []


def test_two_versions_at_once_into_one_folder_are_never_mixed(hub: FakeHub, settings: Settings, tmp_path: Path) -> None:
    """Whoever is second finds other bytes in its place, and leaves them."""
    hub.plain = {"1/a": b"1" * 300_000, "1/b": b"1", "2/a": b"2" * 300_000, "2/b": b"2"}
    hub.faults = [Fault(rate=600_000)]
    failed: list[BaseException] = []

    def run(number: str) -> None:
        files = tuple(File(n, len(hub.plain[f"{number}/{n}"]), sha256=sha256(hub.plain[f"{number}/{n}"])) for n in "ab")
        variant = Variant(f"v{number}", "safetensors", files, (f"{hub.url}/plain/{number}/",))
        try:
            fetch(settings, Model("m", 1, "llama", "v", (variant,)), variant, progress=Words(), target=tmp_path / "out")
        except CannotCreateError as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in "12"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [str(error).endswith("with other bytes") for error in failed] == [True]
    found = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert found in ({n: hub.plain[f"1/{n}"] for n in "ab"}, {n: hub.plain[f"2/{n}"] for n in "ab"})


def test_a_flip_on_the_disk_is_caught_before_the_name_is_given(
    hub: FakeHub, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def flips(descriptor: int, data: bytes, offset: int) -> int:
        data = bytes(data)
        return pwrite(descriptor, bytes([data[0] ^ 1]) + data[1:] if offset == 0 else data, offset)

    monkeypatch.setattr(os, "pwrite", flips)
    with pytest.raises(WrongBytesError):
        _fetch(settings, _variant(f"{hub.url}/plain/", files=(WEIGHTS,)))
    assert _final_files(settings) == []


def test_a_receipt_that_lies_about_a_digest_proves_nothing(hub: FakeHub, settings: Settings) -> None:
    folder = settings.home / "models/m/v"
    (folder / "weights").mkdir(parents=True)
    (folder / WEIGHTS.path).write_bytes(b"x" * len(DATA))
    entry = Entry(sha256(b"x" * len(DATA)), len(DATA), "elsewhere", "2026-01-31T12:00:00Z")
    Store(settings.home).write_receipt(Receipt("m", "v", "safetensors", {WEIGHTS.path: entry}))
    assert _fetch(settings, _variant(f"{hub.url}/plain/", files=(WEIGHTS,))).read_bytes() == DATA
    told = json.loads((folder / "receipt.json").read_text())
    assert told["files"][WEIGHTS.path]["sha256"] == sha256(DATA)


def test_a_fetch_of_what_is_here_is_quick(hub: FakeHub, settings: Settings) -> None:
    variant = _variant(f"{hub.url}/plain/")
    _fetch(settings, variant)
    began = time.process_time()
    _fetch(settings, variant)
    assert time.process_time() - began < 0.1
