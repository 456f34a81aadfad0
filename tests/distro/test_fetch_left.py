"""What stands where an earlier run left its work, by whoever: never a wrong byte, and nothing else is written to.

Every case is a file of which most has come, one change, what the next run may fetch, or why it refuses.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distro.config import Settings
from distro.errors import CannotCreateError, DistroError, SourceError, exit_code
from distro.fetch import fetch
from distro.manifest import File, Model, Variant
from distro.pieces import journal_of
from distro.proof import piece_hashes
from distro.sources import retry
from distro.store import Store
from tests.distro.test_fetch import Words
from tests.fakes.hub import FakeHub, Fault, serving

LENGTH = 64 * 1024
DATA = hashlib.shake_128(b"left").digest(10 * LENGTH + 1)
FILE = File("model.bin", len(DATA), sha256=hashlib.sha256(DATA).hexdigest())
CAME = 8 * LENGTH + 5000  # when the connection was cut
REST = len(DATA) - 8 * LENGTH
LISTS = "models/m/v/.pieces"
RUBBISH = b"rubbish!" * (len(DATA) // 8 + 1)

Change = Callable[[Path, Path], object]  # of the part file, and a folder beside the home


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_hashes, "_SMALLEST", LENGTH)
    monkeypatch.setattr(retry, "wait_s", lambda n_failed, error: 0.0)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        hub.plain = {FILE.path: DATA}
        yield hub


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "home", tmp_path / "config", timeout_s=5.0, retries=0)


def _fetch(settings: Settings, hub: FakeHub, words: Words | None = None, target: Path | None = None) -> Path:
    variant = Variant("v", "safetensors", (FILE,), (f"{hub.url}/plain/",))
    return fetch(settings, Model("m", 1, "llama", "v", (variant,)), variant, progress=words or Words(), target=target)


def _interrupted(settings: Settings, hub: FakeHub, target: Path | None = None) -> Path:
    """The part file that is left."""
    hub.faults = [Fault(cut_after=CAME, times=1), Fault(status=404)]
    with pytest.raises(SourceError):
        _fetch(settings, hub, target=target)
    hub.faults = []
    hub.requests.clear()
    area = settings.home / "partial" if target is None else target / ".distro-partial"
    (part,) = area.glob("*.part")
    assert journal_of(part).is_file()
    return part


def _in_the_place_of_journal(make: Callable[[Path, Path], object]) -> Change:
    def change(part: Path, base: Path) -> None:
        journal_of(part).unlink()
        make(journal_of(part), base)

    return change


def _in_the_place_of_part(make: Callable[[Path, Path], object]) -> Change:
    def change(part: Path, base: Path) -> None:
        part.unlink()
        make(part, base)

    return change


def _instead(path: Path, make: Callable[[Path], object]) -> None:
    """In the place of whatever is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)


def _victim(base: Path) -> Path:
    (base / "victim").write_bytes(RUBBISH[:CAME])
    return base / "victim"


def _records(part: Path, numbers: list[int]) -> None:
    """A journal with these records after its head, each of them sound."""
    head = journal_of(part).read_bytes().split(b"\n")[0] + b"\n"
    fields = [struct.pack("<Q16s", 5 << 40 | number, b"x" * 16) for number in numbers]
    journal_of(part).write_bytes(head + b"".join(each + zlib.crc32(each).to_bytes(4, "little") for each in fields))


def _forged(part: Path, base: Path) -> None:
    part.write_bytes(RUBBISH[: len(DATA)])
    _records(part, list(range(11)))


def _swapped(part: Path, base: Path) -> None:
    """The journal of another file, under the name of ours."""
    head, records = journal_of(part).read_bytes().split(b"\n", 1)
    journal_of(part).write_bytes(head.replace(b"0", b"1") + b"\n" + records)


# name: what is changed, and how many bytes the next run may fetch at most; None where it refuses.
LEFT: dict[str, tuple[Change, int]] = {
    "nothing": (lambda part, base: None, REST),
    "no journal": (lambda part, base: journal_of(part).unlink(), REST),
    "an empty journal": (lambda part, base: journal_of(part).write_bytes(b""), REST),
    "the journal of another file": (_swapped, REST),
    "a journal that says that all is here": (_forged, len(DATA)),
    "a journal of a million records": (lambda part, base: _records(part, [1] * 1_000_000), REST),
    "a journal of 10 GB": (lambda part, base: os.truncate(journal_of(part), 10**10), REST),
    "a journal that is a link to a file of others": (
        _in_the_place_of_journal(lambda path, base: path.symlink_to(_victim(base))), REST),
    "a journal that is a link to nowhere": (
        _in_the_place_of_journal(lambda path, base: path.symlink_to(base / "nowhere")), REST),
    "a journal that is a pipe": (_in_the_place_of_journal(lambda path, base: os.mkfifo(path)), REST),
    "a part file that is a link": (
        _in_the_place_of_part(lambda path, base: path.symlink_to(_victim(base))), len(DATA)),
    "a part file that is a pipe": (_in_the_place_of_part(lambda path, base: os.mkfifo(path)), len(DATA)),
    "a part file that is a folder": (_in_the_place_of_part(lambda path, base: path.mkdir()), len(DATA)),
    "a part file that others know by another name": (
        _in_the_place_of_part(lambda path, base: os.link(_victim(base), path)), len(DATA)),
    "a good part file that others know by another name": (lambda part, base: os.link(part, base / "backup"), REST),
    "a part file that may not be written": (lambda part, base: part.chmod(0o400), REST),
    "a part file that is too long": (lambda part, base: os.truncate(part, 1 << 43), REST),
    "a part file that was cut": (lambda part, base: os.truncate(part, 3 * LENGTH + 9), len(DATA) - 3 * LENGTH),
    "an area that all may write": (lambda part, base: part.parent.chmod(0o777), REST),
    "a file in the place of the locks": (lambda part, base: _instead(part.parent / "locks", Path.touch), REST),
    "a pipe in the place of the lock": (lambda part, base: _instead(part.parent / "locks/m.v.lock", os.mkfifo), REST),
    "a file in the place of the lists": (lambda part, base: _instead(base / "home" / LISTS, Path.touch), REST),
    "a folder among the lists": (
        lambda part, base: _instead(base / "home" / LISTS / ("f" * 64), Path.mkdir), REST),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_is_used_as_far_as_it_is_right(
    name: str, hub: FakeHub, settings: Settings, tmp_path: Path
) -> None:
    change, most = LEFT[name]
    part = _interrupted(settings, hub)
    change(part, tmp_path)
    path = _fetch(settings, hub)
    assert path.read_bytes() == DATA
    assert path.stat().st_nlink == 1
    assert hub.n_sent() <= most
    receipt = Store(settings.home).receipt("m", "v")
    assert receipt is not None
    assert receipt.files[FILE.path].sha256 == FILE.sha256
    if (tmp_path / "victim").exists():
        assert (tmp_path / "victim").read_bytes() == RUBBISH[:CAME]
    if (tmp_path / "backup").exists():
        assert (tmp_path / "backup").read_bytes()[: 8 * LENGTH] == DATA[: 8 * LENGTH]
        assert (tmp_path / "backup").stat().st_size < len(DATA)
    assert not (tmp_path / "nowhere").exists()
    assert part.parent.stat().st_mode & 0o077 == 0


REFUSED: dict[str, tuple[str, Callable[[Path], object], int, str]] = {
    "a file in the place of the models": ("models", Path.touch, 73, "models is no folder"),
    "a file in the place of the area": ("partial", Path.touch, 73, "is no folder"),
    "a folder in the place of the receipt": ("models/m/v/receipt.json", Path.mkdir, 74, "not a regular file"),
    "a pipe in the place of the receipt": ("models/m/v/receipt.json", os.mkfifo, 74, "not a regular file"),
    "a folder in the place of the file": ("models/m/v/model.bin", Path.mkdir, 73, "is there already and is no file"),
    "a pipe in the place of the file": ("models/m/v/model.bin", os.mkfifo, 73, "is there already and is no file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_place_that_is_taken_is_refused_before_anything_is_asked(name: str, hub: FakeHub, settings: Settings) -> None:
    where, make, code, words = REFUSED[name]
    part = _interrupted(settings, hub)
    _instead(settings.home / where, make)
    with pytest.raises((DistroError, OSError), match=words) as caught:
        _fetch(settings, hub)
    assert exit_code(caught.value) == code
    assert hub.n_sent() == 0
    assert part.exists() or "area" in name


@pytest.mark.parametrize("kind", ["no folder of ours", "a link"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_an_area_of_another_user_is_not_used(kind: str, hub: FakeHub, settings: Settings, tmp_path: Path) -> None:
    """As in a folder that all may write, where somebody was quicker: what is proven there could be changed again."""
    target, theirs = tmp_path / "out", tmp_path / "theirs"
    target.mkdir(mode=0o1777)
    area = target / ".distro-partial"
    if kind == "a link":
        theirs.mkdir()
        area.symlink_to(theirs)
    else:
        area.mkdir()
    os.chown(area, 65534, 65534)
    with pytest.raises(CannotCreateError, match="belongs to another user"):
        _fetch(settings, hub, target=target)
    assert hub.requests == []
    assert sorted(path.name for path in target.iterdir()) == [".distro-partial"]


def test_a_folder_that_may_only_be_read_is_refused_before_anything_is_asked(
    hub: FakeHub, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(CannotCreateError, match="may not be written"):
        _fetch(settings, hub, target=tmp_path / "a" / "b")
    assert hub.requests == []
