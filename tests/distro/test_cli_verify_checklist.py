"""`distro verify` on a release of Meta's: MD5 by its checklists, and what manifests know better."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from distro.manifest import Family, File, License, Model, Variant
from distro.manifest_file import dump
from tests.fakes import meta_release
from tests.fakes.command import run


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return meta_release.write(tmp_path / "own", n_shards=2)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()  # noqa: S324


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_all_that_is_listed_agrees(tmp_path: Path, release: Path) -> None:
    outcome = run(tmp_path, "verify", str(release))
    assert outcome.code == 0
    rows = [line.split() for line in outcome.out.splitlines()[1:]]
    listed = {row[1]: (row[0], row[2], row[3]) for row in rows}
    for name in ("consolidated.00.pth", "consolidated.01.pth", "params.json"):
        assert listed[name] == ("weak", f"md5:{md5(release / name)}", "checklist.chk")
    assert listed["tokenizer.model"][2] == "tokenizer_checklist.chk"
    assert listed["checklist.chk"] == ("unproven", "-", "-")
    assert "weak: 4 of 6 files agree only with a digest that can be forged" in outcome.error


@pytest.mark.parametrize("name", ["consolidated.00.pth", "consolidated.01.pth", "params.json", "tokenizer.model"])
def test_one_wrong_bit_is_79_and_names_the_file(tmp_path: Path, release: Path, name: str) -> None:
    expected = md5(release / name)
    flip(release / name)
    for path in (release, release / name):
        outcome = run(tmp_path, "verify", str(path))
        assert outcome.code == 79
        assert outcome.error == f"{release / name}: md5 is {md5(release / name)}, expected {expected}"


def test_a_missing_file_is_66(tmp_path: Path, release: Path) -> None:
    (release / "consolidated.01.pth").unlink()
    outcome = run(tmp_path, "verify", str(release))
    assert outcome.code == 66
    assert outcome.error == f"{release}: 1 of 6 files are missing, the first consolidated.01.pth"


def test_one_file_is_proven_by_the_list_beside_it(tmp_path: Path, release: Path) -> None:
    outcome = run(tmp_path, "verify", str(release / "consolidated.01.pth"), "--json")
    assert outcome.code == 0
    (file,) = outcome.json["files"]
    assert (file["path"], file["status"], file["kind"], file["by"]) == (
        "consolidated.01.pth", "weak", "md5", "checklist.chk",
    )  # fmt: skip


def test_lists_of_every_folder_below_count(tmp_path: Path) -> None:
    """LLaMA 1 has a folder for each size, and one tokenizer beside them."""
    for size in ("7B", "13B"):
        meta_release.write(tmp_path / "LLaMA" / size, "llama-1", 2)
    flip(tmp_path / "LLaMA" / "13B" / "consolidated.01.pth")
    outcome = run(tmp_path, "verify", str(tmp_path / "LLaMA"))
    assert outcome.code == 79
    assert outcome.error.startswith(f"{tmp_path}/LLaMA/13B/consolidated.01.pth: md5 is ")
    verdicts = {line.split()[1]: line.split()[0] for line in outcome.out.splitlines()}
    assert (verdicts["7B/consolidated.01.pth"], verdicts["13B/consolidated.01.pth"]) == ("weak", "wrong")


def test_a_manifest_that_knows_more_goes_first(tmp_path: Path, release: Path) -> None:
    data = (release / "consolidated.00.pth").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    variant = Variant("pth", "pth", (File("consolidated.00.pth", len(data), sha256=sha256),))
    model = Model("tiny", 70, "llama", "pth", (variant,))
    folder = tmp_path / "config" / "manifests"
    folder.mkdir(parents=True)
    family = Family("tiny", "us", License("MIT", "https://example.org/", "allowed"), (model,))
    (folder / "tiny.toml").write_text(dump(family))
    outcome = run(tmp_path, "verify", str(release))
    rows = [line.split() for line in outcome.out.splitlines()]
    assert ["ok", "consolidated.00.pth", f"sha256:{sha256}", "tiny:pth"] in rows
    assert outcome.code == 0


def test_a_list_that_leads_away_is_65_and_nothing_is_opened(tmp_path: Path, release: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (release / "checklist.chk").write_text(f"{md5(tmp_path / 'secret')}  ../secret\n")
    outcome = run(tmp_path, "verify", str(release))
    assert outcome.code == 65
    assert "checklist.chk: line at 1: found" in outcome.error
