"""Bytes changed in place: whatever moment a crash picks, the next edit makes of the file the old one or the new one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from distro import redo
from distro.errors import CannotCreateError

OLD = bytes(range(256)) * 64  # four pages
NEW = OLD[:100] + b"X" * 50 + OLD[150:9000] + b"Y" + OLD[9001:]


class Crash(Exception):
    pass


def written(folder: Path, tail: bytes = b"weights") -> Path:
    path = folder / "model.gguf"
    path.write_bytes(OLD + tail)
    return path


def crashing(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the process die before its at-th write, fsync, rename or unlink."""
    left = iter(range(at))

    def counted(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            if next(left, None) is None:
                raise Crash
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    for name in ("pwrite", "fsync", "rename", "replace", "unlink"):
        counted(name)


def test_only_pages_that_differ_are_written(tmp_path: Path) -> None:
    path = written(tmp_path)
    status = path.stat()
    assert redo.overwrite(path, OLD, NEW) == 2 * 4096
    assert path.read_bytes() == NEW + b"weights"
    assert path.stat().st_ino == status.st_ino and [each.name for each in tmp_path.iterdir()] == ["model.gguf"]
    assert redo.overwrite(path, NEW, NEW) == 0
    assert not redo.finish(path)


def test_any_moment_of_a_crash_leaves_old_or_new(tmp_path: Path) -> None:
    seen = set()
    for at in range(20):
        folder = tmp_path / str(at)
        folder.mkdir()
        path = written(folder)
        with pytest.MonkeyPatch.context() as patch:
            crashing(patch, at)
            try:
                redo.overwrite(path, OLD, NEW)
            except Crash:
                crashed = True
            else:
                crashed = False
        found = path.read_bytes()
        assert found in (OLD + b"weights", NEW + b"weights") or found.startswith(redo.MARK)
        redo.finish(path)
        assert path.read_bytes() in (OLD + b"weights", NEW + b"weights")
        assert not redo.record_of(path).exists()
        seen.add((crashed, path.read_bytes().startswith(NEW)))
    assert seen == {(True, False), (True, True), (False, True)}


@pytest.mark.parametrize("torn", [0, 1, 60, 4096, 9000, 3 * 4096])
@pytest.mark.parametrize("marked", [1, 15, 16])
def test_torn_bytes_are_finished(torn: int, marked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    left_behind(path, monkeypatch)
    behind = NEW[:torn] + OLD[torn:]
    path.write_bytes(redo.MARK[:marked] + behind[marked:] + b"weights")
    assert redo.finish(path)
    assert path.read_bytes() == NEW + b"weights"
    assert not redo.record_of(path).exists()


@pytest.mark.parametrize("begin", [OLD, NEW], ids=["as it was", "as it is to be"])
def test_whole_file_stays_as_it_is(begin: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    left_behind(path, monkeypatch)
    path.write_bytes(begin + b"weights")
    assert not redo.finish(path)
    assert path.read_bytes() == begin + b"weights" and not redo.record_of(path).exists()


def test_copy_is_finished_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moved with its record, or restored from a backup: the mark says that the record is its own."""
    path = written(tmp_path)
    left_behind(path, monkeypatch)
    copy = tmp_path / "copy" / "model.gguf"
    copy.parent.mkdir()
    copy.write_bytes(path.read_bytes())
    redo.record_of(path).rename(redo.record_of(copy))
    assert redo.finish(copy)
    assert copy.read_bytes() == NEW + b"weights"


def left_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process leaves that dies when it has written the mark."""
    with monkeypatch.context() as patch:
        crashing(patch, 6)  # record: write, fsync, replace, fsync of the folder; mark: write, fsync
        with pytest.raises(Crash):
            redo.overwrite(path, OLD, NEW)
    assert redo.record_of(path).exists()
    assert path.read_bytes() == redo.MARK + OLD[16:] + b"weights"


def other_bytes(path: Path) -> None:
    path.write_bytes(redo.MARK + b"Z" + path.read_bytes()[17:])


def other_length(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def other_file(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def torn_record(path: Path) -> None:
    record = redo.record_of(path)
    record.write_bytes(record.read_bytes()[:-1])


def flipped_record(path: Path) -> None:
    record = redo.record_of(path)
    data = bytearray(record.read_bytes())
    data[-1] ^= 1
    record.write_bytes(data)


def empty_record(path: Path) -> None:
    redo.record_of(path).write_bytes(b"")


def of_rest(rest: bytes) -> Callable[[Path], None]:
    """A record that somebody made up, with a digest that is right."""

    def change(path: Path) -> None:
        size = path.stat().st_size.to_bytes(8, "little")
        redo.record_of(path).write_bytes(hashlib.sha256(size + rest).digest() + size + rest)

    return change


def numbers(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


MADE_UP = [
    of_rest(b""),
    of_rest(numbers(0)),
    of_rest(numbers(2**64 - 1)),
    of_rest(numbers(1, 2**64 - 1, 1) + b"ab"),
    of_rest(numbers(1, 0, 15) + bytes(30)),
    of_rest(numbers(1, 1, 16) + bytes(32)),
    of_rest(numbers(1, 0, 16) + bytes(31)),
    of_rest(numbers(2, 0, 16, 100, 1) + bytes(33)),
]


@pytest.mark.parametrize(
    "change",
    [other_bytes, other_length, other_file, torn_record, flipped_record, empty_record, *MADE_UP],
    ids=lambda change: change.__name__,
)  # fmt: skip
def test_record_of_something_else_is_thrown_away(
    change: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    left_behind(path, monkeypatch)
    change(path)
    expected = path.read_bytes()
    assert not redo.finish(path)
    assert path.read_bytes() == expected and not redo.record_of(path).exists()


def test_record_that_is_no_file_is_left_alone(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "elsewhere").write_bytes(b"")
    redo.record_of(path).symlink_to(tmp_path / "elsewhere")
    assert not redo.finish(path)
    assert redo.record_of(path).is_symlink()


def test_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(written(tmp_path))
    with pytest.raises(CannotCreateError):
        redo.overwrite(tmp_path / "link", OLD, NEW)
    assert (tmp_path / "model.gguf").read_bytes() == OLD + b"weights"
