from __future__ import annotations

from pathlib import Path

import pytest

from distro import manifest_file
from distro.catalog import shipped_folder
from tests.fakes import hub
from tests.fakes.command import run

SHIPPED = shipped_folder()


def test_the_shipped_manifests_pass(tmp_path: Path) -> None:
    outcome = run(tmp_path, "manifest", "check", str(SHIPPED))
    assert outcome.code == 0
    assert [line.rpartition("/")[2] for line in outcome.out.splitlines()] == [
        "llama.toml: llama, 4 models, 34 variants, 121 files",
        "mistral.toml: mistral, 5 models, 52 variants, 114 files",
        "smollm2.toml: smollm2, 4 models, 5 variants, 11 files",
    ]


def test_every_bad_manifest_is_named_and_the_good_ones_too(tmp_path: Path) -> None:
    for name, text in {"a": "", "b": "schema = 1\nx = 1\n", "c": (SHIPPED / "smollm2.toml").read_text()}.items():
        (tmp_path / f"{name}.toml").write_text(text)
    outcome = run(tmp_path, "manifest", "check", *(str(tmp_path / f"{name}.toml") for name in "abc"))
    assert outcome.code == 65
    assert outcome.out == f"{tmp_path}/c.toml: smollm2, 4 models, 5 variants, 11 files\n"
    assert outcome.error.splitlines() == [
        f"error: {tmp_path}/a.toml: schema at line 1: found nothing, allowed 1",
        f"error: {tmp_path}/b.toml: x at line 2: found an unknown key, "
        "allowed schema, family, publisher, license, model",
    ]

    answer = run(tmp_path, "manifest", "check", "--json", str(tmp_path))
    assert answer.code == 65
    assert [(each["ok"], each.get("files")) for each in answer.json["manifests"]] == [
        (False, None), (False, None), (True, 11),
    ]  # fmt: skip


def test_files_without_a_digest_are_counted_aloud(tmp_path: Path) -> None:
    text = (SHIPPED / "smollm2.toml").read_text()
    text = text[: text.index("sha256")] + text[text.index("origin") :]
    (tmp_path / "x.toml").write_text(
        text[: text.index("[[model]]", 400)].replace("lfs_", "").replace("\npointer", "\n#")
    )
    outcome = run(tmp_path, "manifest", "check", str(tmp_path / "x.toml"))
    assert outcome.out.endswith("1 files, 1 without a digest\n")


def test_what_is_not_there(tmp_path: Path) -> None:
    assert run(tmp_path, "manifest", "check", str(tmp_path / "x.toml")).code == 66
    outcome = run(tmp_path, "manifest", "check", str(tmp_path))
    assert (outcome.code, outcome.error) == (66, f"{tmp_path}: no manifest in this folder")


def test_only_a_hub_repository_makes_a_manifest(tmp_path: Path) -> None:
    outcome = run(tmp_path, "manifest", "new", "llama-13b")
    assert outcome.code == 2
    assert "only a hub repository" in outcome.error


def test_offline_no_manifest_can_be_made(tmp_path: Path) -> None:
    outcome = run(tmp_path, "manifest", "new", "hf:owner/repo")
    assert outcome.code == 75
    assert "offline" in outcome.error


def test_a_manifest_of_a_hub_repository_is_one_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no token"))
    with hub.serving() as served:
        repo = served.add("Owner/Tiny-1M", {"model.gguf": bytes(5000), "config.json": b'{"model_type": "llama"}'})
        path = tmp_path / "tiny.toml"
        outcome = run(tmp_path, "manifest", "new", "hf:Owner/Tiny-1M", "-o", str(path), hub=served.url)
        again = run(tmp_path, "manifest", "new", "hf:Owner/Tiny-1M", "-o", str(path), hub=served.url)
        printed = run(tmp_path, "manifest", "new", "hf:Owner/Tiny-1M", hub=served.url)
    assert (outcome.code, outcome.out) == (0, f"{path}\n")
    assert again.code == 73
    assert printed.out == path.read_text()
    family = manifest_file.read(path)
    assert family.license.redistribution == "forbidden"
    (model,) = family.models
    assert (model.name, model.default) == ("tiny-1m", "hf")
    (variant,) = model.variants
    assert variant.sources == (f"hf:Owner/Tiny-1M@{repo.commit}",)
    files = {file.path: file for file in variant.files}
    assert files["model.gguf"].sha256 == hub.sha256(bytes(5000))
    assert files["config.json"].git_sha1 == hub.git_sha1(b'{"model_type": "llama"}')
    assert run(tmp_path, "manifest", "check", str(path)).code == 0
