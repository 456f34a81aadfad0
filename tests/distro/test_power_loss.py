"""What a power cut leaves of a command: no wrong byte under a final name, nothing lost that was said to be done."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distro import disk, partial, redo, result
from tests.fakes import crash, crash_commands
from tests.fakes.crash import Cut, Data, Names, States, explore, record
from tests.fakes.crash_commands import Command
from tests.fakes.recorder import Recorder

STATES = {command.name: 30 for command in crash_commands.LOCAL}
STATES |= {"fetch-http": 30, "fetch-many": 15, "resume": 15, "repair-http": 15, "fetch-as-discard": 4}


@pytest.fixture
def commands() -> Iterator[dict[str, Command]]:
    with crash_commands.commands() as known:
        yield known


@pytest.mark.parametrize(("name", "n_states"), STATES.items())
def test_the_same_command_again_ends_as_if_nothing_had_been(
    name: str, n_states: int, commands: dict[str, Command], tmp_path: Path
) -> None:
    explored = explore(record(commands[name], tmp_path / "x"), n_states=n_states, seed=1)
    assert explored.bad == {}
    assert explored.n_states == n_states


# Product code that forgets a step, and what is to be heard of it


def _forget_folders(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk, "sync_folder", lambda folder: None)


def _forget_results(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(result.Output, "finish", result.Output.close)


def _forget_records(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(redo.disk, "_write_new", lambda path, data, mode: _write_unsynced(path, data))


def _write_unsynced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, data)
    os.close(descriptor)


def _publish_first(patch: pytest.MonkeyPatch) -> None:
    """Rename, then sync: as if the order did not matter."""
    real, one_at_a_time = partial.Partial.publish, threading.Lock()

    def publish(self: partial.Partial, final: Path, *, within: Path | None = None) -> None:
        with one_at_a_time, pytest.MonkeyPatch.context() as inner:
            fsync = os.fsync
            inner.setattr(partial.os, "fsync", lambda each: None if each == self._descriptor else fsync(each))
            real(self, final, within=within)
        with final.open("rb") as stream:
            os.fsync(stream.fileno())
        disk.sync_folder(final.parent)

    patch.setattr(partial.Partial, "publish", publish)


MISTAKES: list[tuple[str, Callable[[pytest.MonkeyPatch], None], str]] = [
    ("convert-file", _forget_folders, "was done, and is gone"),
    ("convert-folder", _forget_results, "was done, and is something else"),
    ("fetch-copy", _publish_first, "was done, and is something else"),
    ("edit-in-place", _forget_records, "cannot go on: MalformedError"),
]


@pytest.mark.parametrize(("name", "forget", "message"), MISTAKES, ids=[row[1].__name__ for row in MISTAKES])
def test_a_step_that_is_forgotten_is_found(
    name: str,
    forget: Callable[[pytest.MonkeyPatch], None],
    message: str,
    commands: dict[str, Command],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    forget(monkeypatch)
    explored = explore(record(commands[name], tmp_path / "x"), n_states=400, seed=1, stops=True)
    assert any(message in each for each in explored.bad), explored


def test_what_is_written_unseen_is_told(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"past the calls that are recorded")

    command = Command(
        "by itself", lambda base: (base / "root").mkdir(parents=True), lambda base: write(base / "root" / "x")
    )
    with pytest.raises(AssertionError, match="open"):
        record(command, tmp_path / "x")


# The states themselves


def _recorded(root: Path, steps: Callable[[Path], None]) -> States:
    root.mkdir()
    (root / "name").write_bytes(b"old")
    recorder = Recorder(root)
    with recorder:
        steps(root)
    return States(recorder)


def _replaced(root: Path, *, safely: bool) -> None:
    descriptor = os.open(root / "new", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"n" * 1000)
    if safely:
        os.fsync(descriptor)
    os.close(descriptor)
    (root / "new").replace(root / "name")


def _found(states: States) -> set[tuple[tuple[str, bytes], ...]]:
    n = len(states.log)
    cuts = [Cut(n, names, data, seed) for names in Names for data in Data for seed in range(20)]
    return {tuple((path, left.content) for path, left in sorted(states.after(cut).files.items())) for cut in cuts}


def test_an_unsynced_file_may_have_its_name_without_its_bytes(tmp_path: Path) -> None:
    found = _found(_recorded(tmp_path / "root", lambda root: _replaced(root, safely=False)))
    assert (("name", b""),) in found
    assert (("name", bytes(1000)),) in found
    assert (("name", b"n" * 512),) in found
    assert (("name", bytes(512) + b"n" * 488),) in found
    assert (("name", b"n" * 1000),) in found
    assert (("name", b"old"),) in found
    assert (("name", b"old"), ("new", b"n" * 1000)) in found


def test_a_synced_file_is_old_or_new(tmp_path: Path) -> None:
    found = _found(_recorded(tmp_path / "root", lambda root: _replaced(root, safely=True)))
    new = b"n" * 1000
    assert found == {(("name", b"old"),), (("name", b"old"), ("new", new)), (("name", new),)}


def test_a_state_as_files_is_that_state(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    recorder = Recorder(root)
    with recorder:
        _replaced(root, safely=True)
        (root / "folder").mkdir()
        (root / "name").replace(root / "folder" / "name")
    states, inode = States(recorder), (root / "folder" / "name").stat().st_ino
    state = states.after(Cut(len(states.log), Names.ALL, Data.ALL, 0))
    kept = tmp_path / "kept"
    root.rename(kept)
    inodes = crash.make(state, root, recorder)
    assert (root / "folder" / "name").read_bytes() == b"n" * 1000
    with crash.rebooted(inodes):
        assert (root / "folder" / "name").stat().st_ino == inode
        assert (kept / "folder" / "name").stat().st_ino == inode
