from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from distro.store import Store
from tests.fakes.command import run
from tests.fakes.store import put


def test_all_known_models_in_a_table(tmp_path: Path) -> None:
    outcome = run(tmp_path, "ls")
    assert outcome.code == 0
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["model", "parameters", "variants", "here", "licence"]
    (llama,) = (line for line in lines if line.startswith("llama-30b"))
    assert llama.split(maxsplit=2)[:2] == ["llama-30b", "32.5B"]
    assert llama.split(maxsplit=2)[2].split("  ")[0] == "hf pth q4_0 q4_1 … 8"
    assert llama.endswith("-     LicenseRef-LLaMA-1 (do not share)")
    (smollm2,) = (line for line in lines if line.startswith("smollm2-135m-instruct"))
    assert smollm2.split() == ["smollm2-135m-instruct", "135M", "q4_1", "hf", "-", "Apache-2.0"]
    assert outcome.error == ""


def test_what_is_here_is_said(tmp_path: Path) -> None:
    put(tmp_path / "home", "smollm2-135m-instruct", "q4_1", {"a.gguf": b"1234"})
    put(tmp_path / "home", "smollm2-135m-instruct", "q8_0", {"b.gguf": b"12"}, made_here=True)
    put(tmp_path / "home", "owner/name", "0123456789ab", {"c.gguf": b"1"})
    lines = run(tmp_path, "ls").out.splitlines()
    (smollm2,) = (line for line in lines if line.startswith("smollm2-135m-instruct"))
    assert smollm2.split() == ["smollm2-135m-instruct", "135M", "q4_1", "hf", "q4_1", "q8_0", "Apache-2.0"]
    assert lines[-1].split() == ["owner/name", "?", "-", "0123456789ab", "?"]


def test_only_what_is_here(tmp_path: Path) -> None:
    folder = put(tmp_path / "home", "smollm2-135m-instruct", "q4_1", {"a.gguf": b"1234", "b.json": b"{}"})
    put(tmp_path / "home", "smollm2-135m-instruct", "q8_0", {"b.gguf": b"12"}, made_here=True)
    lines = run(tmp_path, "ls", "--here").out.splitlines()
    assert len(lines) == 3
    assert lines[1].split()[:7] == ["smollm2-135m-instruct:q4_1", "gguf", "6", "B", "2", "fetched", str(folder)]
    assert lines[2].split()[5:7] == ["made", "here"]


def test_for_programs(tmp_path: Path) -> None:
    put(tmp_path / "home", "smollm2-135m-instruct", "q4_1", {"a.gguf": b"1234"})
    answer = run(tmp_path, "ls", "--json").json
    assert answer["schema"] == "distro-ls/1"
    (smollm2,) = (each for each in answer["models"] if each["model"] == "smollm2-135m-instruct")
    assert smollm2["parameters"] == 134_515_008
    assert smollm2["default"] == "q4_1"
    assert smollm2["here"] == ["q4_1"]
    assert smollm2["variants"][0] == {"name": "q4_1", "format": "gguf", "size": 98_362_432, "gated": False}
    assert smollm2["license"]["redistribution"] == "allowed"

    here = run(tmp_path, "ls", "--here", "--json").json
    assert here["variants"] == [
        {
            "model": "smollm2-135m-instruct",
            "variant": "q4_1",
            "format": "gguf",
            "size": 4,
            "files": 1,
            "missing": 0,
            "made_here": False,
            "path": str(tmp_path / "home/models/smollm2-135m-instruct/q4_1"),
        }
    ]


def test_what_came_before_a_fetch_failed(tmp_path: Path) -> None:
    put(tmp_path / "home", "smollm2-135m-instruct", "q4_1", {"a.gguf": b"1234"})
    store = Store(tmp_path / "home")
    receipt = store.receipt("smollm2-135m-instruct", "q4_1")
    assert receipt is not None
    store.write_receipt(replace(receipt, missing=("b.gguf", "c.json")))
    assert "1 of 3" in run(tmp_path, "ls", "--here").out
    assert run(tmp_path, "ls", "--here", "--json").json["variants"][0]["missing"] == 2


def test_nothing_is_written_by_looking(tmp_path: Path) -> None:
    run(tmp_path, "ls")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_manifest_of_the_users_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "config" / "manifests"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text("schema = 2\n")
    outcome = run(tmp_path, "ls")
    assert outcome.code == 65
    assert outcome.error == f"{folder / 'mine.toml'}: schema at line 1: found 2, allowed 1"
