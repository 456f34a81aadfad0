"""A result is what it says it is: the conversion repeated, every byte compared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from converters.errors import RefusedError
from converters.recipe import Recipe
from distro import rebuild as rebuilding
from distro.errors import NotFoundError, WrongBytesError
from distro.progress import Silent
from distro.store import Store
from tests.fakes import derived, tiny_llama


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_llama.write(tmp_path / "source")


def _again(derivation: rebuilding.Derivation, source: Path) -> int:
    return rebuilding.rebuild(derivation, source, threads=2, progress=Silent()).size


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("gguf", "q4_k_m"),
        Recipe("gguf", "f16"),
        Recipe("safetensors", "bf16", max_shard_bytes=40_000),
        Recipe("bin", "f16"),
        Recipe("pth", "bf16", n_shards=2),
        Recipe("mistral", "f16"),
        Recipe("gguf", "q8_0", max_shard_bytes=20_000),
        Recipe("gguf", "q4_0", byte_order="big"),
    ],
    ids=["q4_k_m", "f16", "shards", "bin", "pth", "mistral", "split", "big"],
)
def test_a_result_says_how_it_was_made_and_it_is_true(recipe: Recipe, source: Path, tmp_path: Path) -> None:
    made = derived.into_path(Store(tmp_path / "home"), source, recipe, tmp_path / "out")
    assert _again(rebuilding.of_path(made.path), source) == made.plan.size


def test_a_variant_of_the_store_finds_its_source_there(source: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    half = derived.into_store(store, source, Recipe("gguf", "f16"), "tiny", "f16").path
    derived.into_store(store, half, Recipe("gguf", "q8_0"), "tiny", "q8_0")
    receipt = store.receipt("tiny", "q8_0")
    assert receipt is not None
    derivation = rebuilding.of_variant(store, receipt)
    assert rebuilding.find_source(store, derivation) == half
    _again(derivation, half)
    first = store.receipt("tiny", "f16")
    assert first is not None
    with pytest.raises(NotFoundError, match=r"--from PATH of .*model\.safetensors \(sha256 "):
        rebuilding.find_source(store, rebuilding.of_variant(store, first))
    _again(rebuilding.of_variant(store, first), source)


@pytest.mark.parametrize("where", ["header", "token_embd.weight", "blk.1.ffn_down.weight", "padding"])
def test_one_flipped_bit_is_found_and_named(where: str, source: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    made = derived.into_store(store, source, Recipe("gguf", "f32"), "tiny", "f32")
    placed = {each.info.name: each for each in made.plan.files[0].tensors}
    last_norm = placed["blk.0.attn_norm.weight"]
    offset = {"header": 4, "padding": len(made.plan.files[0].head) - 1}.get(where)
    if offset is None:
        offset = placed[where].offset_in_file + 5
    assert last_norm.info.n_bytes % 32 == 0
    data = bytearray(made.path.read_bytes())
    data[offset] ^= 0x10
    made.path.write_bytes(data)
    receipt = store.receipt("tiny", "f32")
    assert receipt is not None
    derivation = rebuilding.Derivation(
        made.path, "tiny", made.plan.recipe, receipt.inputs, made.plan.provenance and made.plan.provenance.made_by, {}
    )
    with pytest.raises(WrongBytesError) as caught:
        _again(derivation, source)
    place = "header" if where == "padding" else where
    assert str(caught.value).startswith(f"{made.path}: byte {offset} ({place}) is {data[offset]}, expected ")


def test_another_source_is_not_the_source(source: Path, tmp_path: Path) -> None:
    made = derived.into_path(Store(tmp_path / "home"), source, Recipe("gguf", "f16"), tmp_path / "x.gguf")
    other = tiny_llama.write(tmp_path / "other", seed=3)
    with pytest.raises(WrongBytesError):
        _again(rebuilding.of_path(made.path), other)
    (source / "generation_config.json").write_text('{"eos_token_id": 2, "note": "not read"}')
    with pytest.raises(WrongBytesError, match=r"generation_config\.json|inputs|header"):
        _again(rebuilding.of_path(made.path), source)


def test_what_says_nothing_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="says nothing of how it was made"):
        rebuilding.of_path(source)
    (tmp_path / "x.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(RefusedError):
        rebuilding.of_path(tmp_path / "x.bin")


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"target":"gguf"}', '{"mix":"q8_0","target":"gguf","shell":"rm"}', "null", "[" * 10_000,
             '{"mix":"q8_0","target":"gguf","tensor_types":[[1]]}', '{"mix": "q8_0", "target": "gguf"}']
)  # fmt: skip
def test_a_recipe_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        Recipe.from_canonical(text)


def test_the_command(source: Path, tmp_path: Path) -> None:
    made = derived.into_path(Store(tmp_path / "home"), source, Recipe("gguf", "q8_0"), tmp_path / "x.gguf")
    command = [sys.executable, "-c", "from distro.cli import main; main()", "verify", str(made.path), "--rebuild"]
    environment = {"DISTRO_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    right = subprocess.run([*command, "--from", str(source)], capture_output=True, text=True, env=environment)
    assert (right.returncode, right.stderr) == (0, "")
    assert f"the same {made.plan.size} bytes again out of {source}, made by distro " in right.stdout
    nowhere = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert nowhere.returncode == 66 and "its source is not in the store" in nowhere.stderr
