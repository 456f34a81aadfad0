"""`distro torrent` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distro.digest import sha256_of
from distro.receipt import Entry, Receipt
from distro.store import Store
from distro.swarm.magnet import parse_magnet
from distro.swarm.make import make
from distro.swarm.torrent import read

COMMAND = [sys.executable, "-c", "from distro.cli import main; main()"]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "DISTRO_HOME": str(home), "DISTRO_CONFIG": str(home / "config"), "HF_HOME": str(home / "hf")}


def distro(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, env=environment(home), capture_output=True, text=True, timeout=60, check=False)


def put(home: Path, model: str, variant: str, files: dict[str, bytes], inputs: dict[str, str] | None = None) -> Path:
    """A variant in the store, as a fetch leaves it, or a conversion that read the inputs (SHA-256 by name)."""
    store = Store(home)
    folder = store.folder(model, variant)
    folder.mkdir(parents=True)
    entries = {}
    for name, data in files.items():
        (folder / name).write_bytes(data)
        entries[name] = Entry(sha256_of(folder / name), len(data), "test", "2026-01-31T12:00:00Z")
    recipe = None if inputs is None else {}
    store.write_receipt(Receipt(model, variant, "gguf", entries, recipe, inputs or {}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"w" * 100_000)
    (folder / "config.json").write_bytes(b"{}")
    return folder


def test_a_folder_becomes_a_torrent_file(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "x.torrent"

    done = distro(tmp_path / "home", "torrent", folder, "-o", target)

    assert done.returncode == 0, done.stderr
    expected = make(folder)
    assert read(target) == expected
    lines = done.stdout.splitlines()
    assert lines[0] == f"{target}: 2 files, 100.0 kB, pieces of 32 KiB"
    assert lines[1:3] == [f"infohash v1  {expected.infohash_v1}", f"infohash v2  {expected.infohash_v2}"]
    assert parse_magnet(lines[3]).names(expected)
    assert parse_magnet(lines[3]).label == "my model"


def test_the_json_is_for_programs(folder: Path, tmp_path: Path) -> None:
    done = distro(tmp_path / "home", "torrent", folder, "--json", "-o", tmp_path / "x.torrent")

    told = json.loads(done.stdout)
    expected = make(folder)
    assert told["infohash"] == {"v1": expected.infohash_v1, "v2": expected.infohash_v2}
    assert (told["size"], told["piece_length"], told["private"]) == (100_002, 32_768, False)
    assert [file["path"] for file in told["files"]] == ["config.json", "model.gguf"]


def test_the_v1_companion_and_the_private_torrent(folder: Path, tmp_path: Path) -> None:
    made = make(folder)
    for option, expected in (("--v1", made.v1_companion()), ("--private", made.as_private())):
        done = distro(tmp_path / "home", "torrent", folder, option, "-o", tmp_path / "x.torrent")  # twice: replaced
        assert done.returncode == 0, done.stderr
        assert read(tmp_path / "x.torrent") == expected


def test_a_model_of_the_store_is_its_receipt_and_no_more(tmp_path: Path) -> None:
    home = tmp_path / "home"
    files = {"model.gguf": b"w" * 50_000, "config.json": b"{}"}
    (put(home, "my-model", "q8_0", files) / "stray.txt").write_bytes(b"not ours")
    plain = tmp_path / "plain"
    plain.mkdir()
    for name, data in files.items():
        (plain / name).write_bytes(data)

    done = distro(home, "torrent", "my-model:q8_0", "-o", tmp_path / "x.torrent")

    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "x.torrent") == make(plain)


def test_no_torrent_is_written_into_the_store(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "home" / "x.torrent"

    done = distro(tmp_path / "home", "torrent", folder, "-o", target)

    assert done.returncode == 2
    assert "is in the store" in done.stderr
    assert not target.exists()


@pytest.mark.parametrize(("reference", "code"), [("./nowhere", 66), ("no-such-model", 66), ("hf:a/b", 66)])
def test_what_is_not_here_is_said_in_one_line(tmp_path: Path, reference: str, code: int) -> None:
    done = distro(tmp_path / "home", "torrent", reference)

    assert done.returncode == code
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
