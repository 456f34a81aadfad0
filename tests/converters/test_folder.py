"""Folders that are not trusted: plain names, and links that stay or leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.errors import MissingError, UnsafeError
from converters.folder import inside, is_file_name


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model-00001-of-00002.safetensors",
        "a",
        "_a",
        "x" * 255,
        "c++.bin",
        "consolidated.00.pth",
        "NULL",
        "com10.bin",
        "x.con",
    ],
)
def test_a_plain_name_is_a_file_name(name: str) -> None:
    assert is_file_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "-rf", "../x", "a/b", "/etc/passwd", "a\\b", "..\\x", "C:x", "C:\\x", "\\\\host\\share",
     "a:b", "a\0b", "a\n", "a b", "é", "a\u202eb", "x" * 256, "~", "%2e%2e", "a*",
     "CON", "con.safetensors", "Aux.bin", "nul.model.bin", "COM1", "lpt9.bin", "model.bin.", "\u212aa", "\u017f"],
)  # fmt: skip
def test_everything_else_is_none(name: str) -> None:
    assert not is_file_name(name)


def test_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "real").write_text("1")
    (tmp_path / "model" / "link").symlink_to("real")
    (tmp_path / "other").symlink_to(tmp_path / "model")
    assert inside(tmp_path / "model", "link").read_text() == "1"
    assert inside(tmp_path / "other", "link").read_text() == "1"


def test_links_into_the_hub_caches_blobs_are_followed(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--owner--name" / "blobs").mkdir()
    (tmp_path / "models--owner--name" / "blobs" / "ab12").write_text("1")
    (snapshot / "config.json").symlink_to("../../blobs/ab12")
    assert inside(snapshot, "config.json").read_text() == "1"
    (snapshot / "refs").symlink_to("../../refs/main")
    with pytest.raises(UnsafeError):
        inside(snapshot, "refs")


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "../model2/x", "missing/../../secret"])
def test_links_that_leave_are_unsafe(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_text("1")
    (folder / "config.json").symlink_to(target)
    with pytest.raises(UnsafeError, match="found a link to "):
        inside(folder, "config.json")


def test_blobs_beside_any_other_folder_are_outside(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "revision"
    folder.mkdir(parents=True)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "ab12").write_text("1")
    (folder / "config.json").symlink_to("../../blobs/ab12")
    with pytest.raises(UnsafeError):
        inside(folder, "config.json")


@pytest.mark.parametrize("target", ["nowhere", "config.json", "folder/nowhere"])
def test_links_that_lead_nowhere_stand_for_what_is_missing(tmp_path: Path, target: str) -> None:
    """As in a hub's cache of which a blob is gone: not to have a file is not the same as to have lost it."""
    (tmp_path / "config.json").symlink_to(target)
    with pytest.raises(MissingError, match=r"config\.json: not found, a link to .* stands in its place"):
        inside(tmp_path, "config.json")
