"""What is made here appears whole or not at all, takes the place of nothing but a model, and leaves others alone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from distro import disk
from distro.errors import CannotCreateError, DiskFullError
from distro.owner import Owner
from distro.result import Result
from distro.store import Store

OURS = "1" * 64


def _dead() -> Owner:
    """A process of this machine that lives no more: our id, started at another time."""
    me = Owner.this_process()
    return Owner(me.place, me.pid, me.start + 1)


def _result(target: Path, *, replace: bool = False, single_file: bool = True, identity: str = OURS) -> Result:
    store = Store(target.parent / "home")
    return store.result(target, single_file=single_file, replace=replace, identity=identity)


def _make(target: Path, content: bytes = b"new", **options: bool) -> None:
    with _result(target, **options) as result:
        result.create("model.bin", len(content)).write_at(0, content)
        result.publish()


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_another_target_left_stays(tmp_path: Path) -> None:
    """`model` and `model.gguf` are neighbours whose partial files begin alike."""
    left = tmp_path / f".model.gguf.{_dead()}-0"
    left.write_bytes(b"hours of work")
    _make(tmp_path / "model", single_file=False)
    assert left.read_bytes() == b"hours of work"


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.symlink_to("elsewhere")


def a_folder(path: Path) -> None:
    path.mkdir()
    (path / "mine").touch()


def a_file(path: Path) -> None:
    path.write_bytes(b"mine")


def a_folder_of_folders(path: Path) -> None:
    (path / "photos").mkdir(parents=True)


def a_folder_of_links(path: Path) -> None:
    path.mkdir()
    (path / "model.safetensors").symlink_to("../../blobs/1")


@pytest.mark.parametrize(
    ("there", "single_file"),
    [(a_pipe, True), (a_link, True), (a_folder, True), (a_pipe, False), (a_link, False), (a_file, False),
     (a_folder_of_folders, False), (a_folder_of_links, False)],
)  # fmt: skip
def test_only_what_is_alike_is_replaced(there: Callable[[Path], None], single_file: bool, tmp_path: Path) -> None:
    target = tmp_path / "x"
    there(target)
    before = target.lstat()
    with pytest.raises(CannotCreateError):
        _make(target, replace=True, single_file=single_file)
    assert target.lstat() == before
    assert _names(tmp_path) == ["x"]


def test_a_folder_that_was_put_aside_when_its_maker_died_comes_back(tmp_path: Path) -> None:
    """A kill between the two renames of a replacement."""
    aside = tmp_path / f".x.{_dead()}-0.old"
    aside.mkdir()
    (aside / "model.bin").write_bytes(b"old")
    with pytest.raises(CannotCreateError, match="is there already"):
        _make(tmp_path / "x", single_file=False)
    assert (tmp_path / "x" / "model.bin").read_bytes() == b"old"
    _make(tmp_path / "x", single_file=False, replace=True)
    assert (tmp_path / "x" / "model.bin").read_bytes() == b"new"
    assert _names(tmp_path) == ["x"]


def test_what_was_replaced_goes_when_its_maker_died_before_it_could(tmp_path: Path) -> None:
    _make(tmp_path / "x", single_file=False)
    aside = tmp_path / f".x.{_dead()}-0.old"
    aside.mkdir()
    _make(tmp_path / "x", b"newer", single_file=False, replace=True)
    assert (tmp_path / "x" / "model.bin").read_bytes() == b"newer"
    assert _names(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DiskFullError("no room")])
def test_nothing_stays_where_nothing_was_done(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)), _result(tmp_path / "x") as result:
        result.create("", 1 << 20)
        raise error
    assert _names(tmp_path) == []


def test_an_interrupt_after_the_last_rename_leaves_no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), _result(tmp_path / "x") as result:
        assert result.journal is not None
        result.create("", 3).write_at(0, b"new")
        result.journal.record(0, bytes(16))
        monkeypatch.setattr(disk, "sync_folder", interrupted)
        result.publish()
    assert _names(tmp_path) == ["x"]


def test_what_an_earlier_run_left_is_read_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync the system's memory may hold bytes that the disk never got, and call them clean."""
    with pytest.raises(KeyboardInterrupt), _result(tmp_path / "x") as result:
        assert result.journal is not None
        result.create("", 3).write_at(0, b"new")
        result.journal.record(0, bytes(16))
        raise KeyboardInterrupt
    dropped: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: dropped.append(arguments[1:]))
    with _result(tmp_path / "x") as result:
        assert result.create("", 3).read_at(0, 3) == b"new"
        assert dropped == [(0, 0, os.POSIX_FADV_DONTNEED)]


def test_what_may_not_be_cleared_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder for all, another user's killed run is not ours to delete; ours goes on without it."""
    left = tmp_path / f".x.{_dead()}-0"
    left.write_bytes(b"theirs")

    def refused(path: Path) -> int:
        raise CannotCreateError(f"{path}: Operation not permitted")

    monkeypatch.setattr("distro.result.discard", refused)
    _make(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert left.read_bytes() == b"theirs"


def test_a_store_whose_models_are_on_another_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename does not cross file systems, so it is made beside its place."""
    store, target = Store(tmp_path / "home"), tmp_path / "home" / "models" / "m" / "v"

    def device_of(path: Path) -> int:
        return 2 if "models" in path.parts else 1

    monkeypatch.setattr(disk, "device_of", device_of)
    with store.result(target, identity=OURS) as result:
        assert result.path.parent == target.parent
        result.create("model.bin", 3).write_at(0, b"new")
        result.publish()
    assert _names(target.parent) == ["v"]


def test_a_journal_that_cannot_be_made_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise DiskFullError("no room")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(DiskFullError):
        patch.setattr("distro.result.Journal.__init__", fails)
        _make(tmp_path / "x", single_file=False)
    _make(tmp_path / "x", single_file=False)
    assert _names(tmp_path) == ["x"]


def test_what_cannot_be_cleared_up_spoils_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with _result(tmp_path / "x") as result:
        result.create("", 3).write_at(0, b"new")
        result.publish()
        monkeypatch.setattr(os, "unlink", refused)
    assert (tmp_path / "x").read_bytes() == b"new"


@pytest.mark.parametrize("single_file", [True, False])
def test_a_fault_names_the_place_that_was_asked_for(
    single_file: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with _result(tmp_path / "x", single_file=single_file) as result:
        output = result.create("model.bin", 3)
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(DiskFullError) as caught:
            output.write_at(0, b"new")
    place = tmp_path / "x" if single_file else tmp_path / "x" / "model.bin"
    assert str(caught.value) == f"{place}: No space left on device"
