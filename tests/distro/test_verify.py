from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from distro.digest import KINDS, digest_file
from distro.manifest import File
from distro.verify import Status, check, strongest

CONTENT = b"weights" * 10_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_digest_proves_the_right_bytes_and_convicts_one_wrong_bit(path: Path, kind: str) -> None:
    digest = digest_file(path, [kind])[kind]
    file = File("model.bin", len(CONTENT), **{kind: digest})
    right = check(path, file)
    assert (right.status, right.kind, right.found) == (
        Status.WEAK if kind in ("md5", "git_sha1") else Status.OK, kind, digest,
    )  # fmt: skip
    assert right.is_right

    path.write_bytes(CONTENT[:500] + bytes([CONTENT[500] ^ 1]) + CONTENT[501:])
    wrong = check(path, file)
    assert (wrong.status, wrong.kind, wrong.expected) == (Status.WRONG, kind, digest)
    assert wrong.found not in (None, digest)
    assert not wrong.is_right


def test_the_strongest_digest_decides(path: Path) -> None:
    md5 = hashlib.md5(CONTENT).hexdigest()  # noqa: S324
    file = File("model.bin", sha256="1" * 64, md5=md5)
    assert strongest(file) == ("sha256", "1" * 64)
    assert check(path, file).status is Status.WRONG


def test_the_size_is_looked_at_first_and_nothing_is_read(path: Path) -> None:
    verdict = check(path, File("model.bin", len(CONTENT) + 1, sha256="1" * 64))
    assert verdict.kind == "size"
    assert (verdict.found, verdict.expected) == ("70000 bytes", "70001 bytes")


def test_a_file_without_a_digest_is_not_called_verified(path: Path) -> None:
    verdict = check(path, File("model.bin", len(CONTENT)))
    assert verdict.status is Status.UNPROVEN
    assert not verdict.is_right


def test_what_is_not_there_is_missing(path: Path) -> None:
    assert check(path.parent / "other", File("other", 1)).status is Status.MISSING
    assert check(path / "below a file", File("other", 1)).status is Status.MISSING


def test_a_folder_or_a_pipe_is_wrong_and_never_blocks(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        verdict = check(path, File("x"))
        assert (verdict.status, verdict.kind) == (Status.WRONG, "type")


def test_nothing_is_not_a_tree(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert check(empty, File("empty", pieces_root="1" * 64)).status is Status.WRONG


def test_looking_changes_nothing(path: Path) -> None:
    before = path.stat()
    check(path, File("model.bin", sha256="1" * 64))
    after = path.stat()
    assert (before.st_mtime_ns, before.st_size, before.st_mode) == (after.st_mtime_ns, after.st_size, after.st_mode)
    assert [each.name for each in path.parent.iterdir()] == ["model.bin"]
