"""`distro convert` as a user types it: what its results are called, and what goes with what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distro.store import Store
from tests.fakes import hostile, store, tiny_llama


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_llama.write(tmp_path / "Tiny-3.1-8B")


def _convert(base: Path, *arguments: str) -> hostile.Ran:
    return hostile.run(base, "convert", *arguments, "--threads", "1", "--no-check")


def test_a_model_of_the_hub_is_called_by_its_own_name(source: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    store.put(tmp_path / "home", "owner/tiny", "0123456", files, form="safetensors")
    ran = _convert(tmp_path, "hf:owner/tiny", "--quant", "q8_0")
    place = Store(tmp_path / "home").folder("owner/tiny", "q8_0")
    assert (ran.code, ran.out) == (0, f"{place / 'tiny-Q8_0.gguf'}\n"), ran
    assert sorted(path.name for path in place.iterdir()) == ["receipt.json", "tiny-Q8_0.gguf"]


def test_a_folder_with_a_point_in_its_name_keeps_all_of_it(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert _convert(tmp_path, str(source), "--quant", "q8_0", "-o", "out").out == "out/Tiny-3.1-8B-Q8_0.gguf\n"
    assert _convert(tmp_path, "out/Tiny-3.1-8B-Q8_0.gguf", "-t", "f16", "-o", "out").code == 0
    assert (tmp_path / "out" / "Tiny-3.1-8B-Q8_0-F16.gguf").exists()


def test_a_place_goes_with_replace(source: Path, tmp_path: Path) -> None:
    hostile.judge(_convert(tmp_path, str(source), "--quant", "q8_0", "--replace"), 2, "--replace", "-o")
    hostile.judge(_convert(tmp_path, str(source), "--quant", "q8_0", "-o", "x", "--name", "y"), 2, "--name")


TARGETS = [
    ("--to", "gguf"), ("--quant", "q4_k_m"), ("--quant", "f16", "--shard-size", "20kB"), ("--to", "safetensors"),
    ("--to", "safetensors", "--shard-size", "50kB"), ("--to", "bin"), ("--to", "bin", "--shard-size", "50kB"),
    ("--to", "pth"), ("--to", "pth", "--shards", "2"), ("--to", "mistral"), ("--quant", "q8_0", "--big-endian"),
    ("--quant", "q8_0", "--no-provenance"),
]  # fmt: skip


@pytest.mark.parametrize("wanted", TARGETS, ids=[" ".join(each) for each in TARGETS])
def test_a_dry_run_tells_what_will_be(wanted: tuple[str, ...], source: Path, tmp_path: Path) -> None:
    said = _convert(tmp_path, str(source), *wanted, "-o", "out", "--dry-run", "--json")
    plan = json.loads(said.out)
    assert not (tmp_path / "out").exists()
    assert _convert(tmp_path, str(source), *wanted, "-o", "out").code == 0
    place = tmp_path / "out"
    made = {path.name: path.stat().st_size for path in place.iterdir()} if place.is_dir() else {}
    planned = {file["path"]: file["size"] for file in plan["files"]}
    assert made == planned if made else [place.stat().st_size] == list(planned.values())
    assert plan["size"] == sum(planned.values())
    for tensor in plan["tensors"]:
        assert tensor["offset"] + tensor["size"] <= planned[tensor["file"]]
