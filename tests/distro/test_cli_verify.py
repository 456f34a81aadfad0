from __future__ import annotations

import hashlib
import json
import random
import re
import time
from pathlib import Path

import pytest

from distro.manifest import Family, File, License, Model, Variant
from distro.manifest_file import dump
from tests.fakes.command import run
from tests.fakes.store import put

WEIGHTS = b"weights" * 10_000
CONFIG = b'{"model_type": "llama"}'
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
FILES = {"tiny.gguf": WEIGHTS, "config.json": CONFIG}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A user who has a manifest of a tiny model."""
    md5 = hashlib.md5(CONFIG).hexdigest()  # noqa: S324
    files = (File("tiny.gguf", len(WEIGHTS), sha256=SHA256), File("config.json", len(CONFIG), md5=md5))
    variants = (
        Variant("q4_0", "gguf", files),
        Variant("unproven", "gguf", (files[0], File("notes.txt"))),
    )
    model = Model("tiny", 70, "llama", "q4_0", variants)
    family = Family("tiny", "us", License("MIT", "https://example.org/", "allowed"), (model,))
    folder = tmp_path / "config" / "manifests"
    folder.mkdir(parents=True)
    (folder / "tiny.toml").write_text(dump(family))
    return tmp_path


@pytest.fixture
def own(base: Path) -> Path:
    """The files of the model, in a folder of the user's own."""
    folder = base / "own"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


def _spoil(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_fetched_model_is_proven_by_its_manifest(base: Path) -> None:
    put(base / "home", "tiny", "q4_0", FILES)
    outcome = run(base, "verify", "tiny")
    assert outcome.code == 0
    rows = [line.split() for line in outcome.out.splitlines()]
    assert rows[0] == ["verdict", "file", "proof", "by"]
    assert rows[1][0::2] == ["weak", f"md5:{hashlib.md5(CONFIG).hexdigest()}"]  # noqa: S324
    assert rows[2] == ["ok", "tiny.gguf", f"sha256:{SHA256}", "manifest"]
    assert outcome.error == "weak: 1 of 2 files agree only with a digest that can be forged\n"


def test_a_wrong_bit_is_79_and_names_the_file(base: Path) -> None:
    folder = put(base / "home", "tiny", "q4_0", FILES)
    _spoil(folder / "tiny.gguf")
    outcome = run(base, "verify", "tiny:Q4-0")
    assert outcome.code == 79
    found = hashlib.sha256((folder / "tiny.gguf").read_bytes()).hexdigest()
    assert outcome.error == f"{folder}/tiny.gguf: sha256 is {found}, expected {SHA256}"
    assert "wrong    tiny.gguf" in outcome.out


def test_a_missing_file_is_66(base: Path) -> None:
    folder = put(base / "home", "tiny", "q4_0", FILES)
    (folder / "config.json").unlink()
    outcome = run(base, "verify", "tiny")
    assert outcome.code == 66
    assert outcome.error == "tiny:q4_0: 1 of 2 files are missing, the first config.json"


def test_a_model_that_is_not_here_is_66_and_says_what_to_do(base: Path) -> None:
    put(base / "home", "tiny", "unproven", {"tiny.gguf": WEIGHTS})
    outcome = run(base, "verify", "tiny")
    assert outcome.code == 66
    assert outcome.error == "tiny: not here, `distro fetch tiny` brings it; of this model there are unproven"


def test_what_was_made_here_is_proven_by_its_receipt(base: Path) -> None:
    folder = put(base / "home", "tiny", "q8_0", {"tiny-q8_0.gguf": b"made"}, made_here=True)
    outcome = run(base, "verify", "tiny:q8_0")
    assert outcome.code == 0
    assert outcome.out.splitlines()[1].split()[3] == "receipt"
    _spoil(folder / "tiny-q8_0.gguf")
    assert run(base, "verify", "tiny:q8_0").code == 79


def test_what_nobody_published_a_digest_of_is_not_called_proven(base: Path) -> None:
    folder = base / "folder"
    folder.mkdir()
    (folder / "tiny.gguf").write_bytes(WEIGHTS)
    (folder / "notes.txt").write_text("?")
    outcome = run(base, "verify", "tiny:unproven", "--in", str(folder))
    assert outcome.code == 0
    assert outcome.error == "not proven: 1 of 2 files, as nobody published a digest of them\n"
    assert "unproven  notes.txt  -" in outcome.out


def test_a_folder_of_the_users_own_is_held_against_a_model(base: Path, own: Path) -> None:
    assert run(base, "verify", "tiny", "--in", str(own)).code == 0
    (own / "tiny.gguf").write_bytes(WEIGHTS[:-1])
    outcome = run(base, "verify", "tiny", "--in", str(own))
    assert outcome.code == 79
    assert outcome.error == f"{own}/tiny.gguf: size is 69999 bytes, expected 70000 bytes"
    assert run(base, "verify", "tiny", "--in", str(own / "none")).code == 66
    assert run(base, "verify", str(own), "--in", str(own)).code == 2


def test_files_of_the_users_own_are_recognized_by_their_bytes(base: Path, own: Path) -> None:
    (own / "tiny.gguf").rename(own / "renamed.bin")
    (own / "other.txt").write_text("?")
    outcome = run(base, "verify", str(own))
    assert outcome.code == 0
    rows = [line.split() for line in outcome.out.splitlines()[1:]]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("weak", "config.json", "tiny:q4_0"),
        ("unproven", "other.txt", "-"),
        ("ok", "renamed.bin", "tiny:unproven"),
    ]
    assert rows[2][-2:] == ["tiny:q4_0,", "tiny:unproven"]
    assert run(base, "verify", str(own / "renamed.bin")).code == 0


def test_a_gguf_that_bears_a_known_name_must_be_that_file(base: Path, own: Path) -> None:
    manifest = base / "config" / "manifests" / "tiny.toml"
    manifest.write_text(manifest.read_text().replace('"tiny.gguf"', '"unique.gguf"', 1))
    (own / "tiny.gguf").rename(own / "unique.gguf")
    assert run(base, "verify", str(own / "unique.gguf")).code == 0
    _spoil(own / "unique.gguf")
    outcome = run(base, "verify", str(own / "unique.gguf"))
    assert outcome.code == 79
    assert outcome.error.endswith(f"expected {SHA256}")


def test_bytes_that_nobody_knows_are_66(base: Path) -> None:
    path = base / "model.safetensors"
    path.write_bytes(b"?")
    outcome = run(base, "verify", str(path))
    assert outcome.code == 66
    assert outcome.error == f"{path}: no manifest and no receipt knows these bytes, so nothing can be proven"
    assert run(base, "verify", str(base / "none.gguf")).code == 66


def test_a_folder_of_the_store_is_proven_by_its_receipt(base: Path) -> None:
    folder = put(base / "home", "other", "f16", {"a/x.gguf": b"x", "y": b"y"})
    assert run(base, "verify", str(folder)).code == 0
    _spoil(folder / "y")
    assert run(base, "verify", str(folder / "y")).code == 79
    assert run(base, "verify", str(folder)).code == 79


def test_for_programs(base: Path, own: Path) -> None:
    _spoil(own / "tiny.gguf")
    outcome = run(base, "verify", "tiny", "--in", str(own), "--json")
    assert outcome.code == 79
    assert outcome.json["reference"] == "tiny:q4_0"
    assert [(each["path"], each["status"], each["kind"]) for each in outcome.json["files"]] == [
        ("tiny.gguf", "wrong", "sha256"),
        ("config.json", "weak", "md5"),
    ]


def test_a_real_model_is_recognized(tmp_path: Path, smollm2_gguf: Path) -> None:
    outcome = run(tmp_path, "verify", str(smollm2_gguf), "--json")
    assert outcome.code == 0
    (file,) = outcome.json["files"]
    assert (file["status"], file["by"]) == ("ok", "smollm2-135m-instruct:q4_1")


def test_what_came_by_magnet_is_proven_by_its_receipt(tmp_path: Path) -> None:
    infohash = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
    put(tmp_path / "home", f"torrent-{infohash[:16]}", "gguf", {"tiny.gguf": WEIGHTS})
    outcome = run(tmp_path, "verify", f"magnet:?xt=urn:btmh:1220{infohash}")
    assert outcome.code == 0
    assert outcome.out.splitlines()[1].split() == ["ok", "tiny.gguf", f"sha256:{SHA256}", "receipt"]


def test_what_was_proven_today_is_not_read_again_and_that_is_said(base: Path) -> None:
    folder = put(base / "home", "tiny", "q4_0", FILES)
    time.sleep(2.1)  # so long a file must have been at rest
    first = run(base, "verify", "tiny", "--json")
    assert [(each["how"], each["proven_at"]) for each in first.json["files"]] == [("read", None)] * 2
    second = run(base, "verify", "tiny", "--json")
    assert second.code == 0
    assert {each["how"] for each in second.json["files"]} == {"remembered"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", second.json["files"][0]["proven_at"])
    talk = run(base, "verify", "tiny").error
    assert re.search(
        r"^not read again: 2 of 2 files, proven \d{4}-\d\d-\d\d \d\d:\d\d UTC or later and unchanged since \(--full",
        talk,
    )
    assert "weak: 1 of 2 files" in talk
    full = run(base, "verify", "tiny", "--full", "--json")
    assert {each["how"] for each in full.json["files"]} == {"read"}
    _spoil(folder / "tiny.gguf")
    assert run(base, "verify", "tiny").code == 79


def test_files_of_the_users_own_are_remembered_too(base: Path, own: Path) -> None:
    time.sleep(2.1)
    assert run(base, "verify", str(own)).code == 0
    again = run(base, "verify", str(own), "--json")
    assert {each["how"] for each in again.json["files"]} == {"remembered"}
    assert {each["status"] for each in again.json["files"]} == {"ok", "weak"}
    _spoil(own / "tiny.gguf")
    spoilt = run(base, "verify", str(own), "--json")
    assert [(each["path"], each["status"]) for each in spoilt.json["files"]] == [
        ("config.json", "weak"), ("tiny.gguf", "unproven"),
    ]  # fmt: skip
    full = run(base, "verify", str(own), "--full", "--json")
    assert {each["how"] for each in full.json["files"]} == {"read"}


def test_the_first_verify_of_a_variant_makes_the_lists_of_its_pieces(base: Path) -> None:
    large = random.Random(1).randbytes(9 << 20)
    folder = put(base / "home", "large", "f16", {"model.gguf": large, "small": b"x"})
    assert run(base, "verify", "large:f16").code == 0
    entries = json.loads((folder / "receipt.json").read_text())["files"]
    assert "pieces" not in entries["small"]
    assert [path.name for path in (folder / ".pieces").iterdir()] == [entries["model.gguf"]["pieces"]]
    (folder / "model.gguf").touch()
    second = run(base, "verify", "large:f16", "--full", "--json")
    assert [each["how"] for each in second.json["files"]] == ["pieces", "read"]
    at = 5 << 20
    content = bytearray(large)
    content[at] ^= 1
    (folder / "model.gguf").write_bytes(content)
    outcome = run(base, "verify", "large:f16")
    assert outcome.code == 79
    assert outcome.error == (
        f"{folder}/model.gguf: sha256 is another (1 of 3 pieces of 4194304 bytes differ, the first at byte 4194304), "
        f"expected {hashlib.sha256(large).hexdigest()}"
    )


def test_a_store_that_cannot_be_written_is_proven_all_the_same(base: Path) -> None:
    folder = put(base / "home", "large", "f16", {"model.gguf": random.Random(1).randbytes(9 << 20)})
    (folder / ".pieces").symlink_to(base)
    (base / "kept").touch()
    assert run(base, "verify", "large:f16").code == 0
    assert "pieces" not in (folder / "receipt.json").read_text().replace(".pieces", "")
    assert (base / "kept").exists()


@pytest.mark.parametrize(
    "arguments",
    [("tiny", "--repair", "--rebuild"), ("tiny", "--peer", "host:1"), ("tiny", "--torrent", "x.torrent")],
)
def test_options_that_do_not_go_together(base: Path, arguments: tuple[str, ...]) -> None:
    put(base / "home", "tiny", "q4_0", FILES)
    assert run(base, "verify", *arguments).code == 2
