"""A result is what it says it is: the conversion repeated, every byte compared."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converters import imatrix as matrices
from converters.errors import MalformedError, RefusedError
from converters.imatrix import Imatrix
from converters.provenance import INPUTS, MADE_BY, RECIPE
from converters.recipe import Recipe
from distro import rebuild as rebuilding
from distro.edit import edit
from distro.errors import NotFoundError, UsageError, WrongBytesError
from distro.progress import Silent
from distro.store import Store
from tests.fakes import derived, gguf_bytes, tiny_llama

Q8 = Recipe("gguf", "q8_0")


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
        made.path, made.plan.recipe, receipt.inputs, made.plan.provenance and made.plan.provenance.made_by, {}
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
    with pytest.raises(WrongBytesError, match=r"source/generation_config\.json: sha256 is"):
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


def test_shards_of_any_name_and_by_any_of_them(source: Path, tmp_path: Path) -> None:
    store, recipe = Store(tmp_path / "home"), Recipe("gguf", "f16", max_shard_bytes=20_000)
    made = derived.into_store(store, source, recipe, "tiny", "mine")
    receipt = store.receipt("tiny", "mine")
    assert receipt is not None and len(receipt.files) > 2
    assert _again(rebuilding.of_variant(store, receipt), source) == made.plan.size
    moved = tmp_path / "a [b] *"
    moved.mkdir()
    for path in made.path.glob("*.gguf"):
        (moved / path.name.replace("tiny-F16", "renamed")).write_bytes(path.read_bytes())
    assert _again(rebuilding.of_path(moved), source) == made.plan.size
    shard = sorted(moved.iterdir())[1]
    assert _again(rebuilding.of_path(shard), source) == made.plan.size
    shard.unlink()
    with pytest.raises(WrongBytesError, match="files is 3, expected"):
        _again(rebuilding.of_path(moved), source)


def test_a_variant_of_the_hub(source: Path, tmp_path: Path) -> None:
    """Its model is called owner/name; its file after the name alone, whichever command made it."""
    store = Store(tmp_path / "home")
    derived.into_store(store, source, Recipe("gguf", "f16"), "tiny", "f16")
    receipt = store.receipt("tiny", "f16")
    assert receipt is not None
    hub = store.folder("owner/tiny", "f16")
    hub.parent.mkdir()
    store.folder("tiny", "f16").rename(hub)
    store.write_receipt(replace(receipt, model="owner/tiny"))
    renamed = store.receipt("owner/tiny", "f16")
    assert renamed is not None
    _again(rebuilding.of_variant(store, renamed), source)


def test_without_provenance_the_receipt_says_it(source: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    derived.into_store(store, source, Q8, "tiny", "q8_0", made_by=None)
    receipt = store.receipt("tiny", "q8_0")
    assert receipt is not None
    derivation = rebuilding.of_variant(store, receipt)
    assert derivation.made_by is None
    _again(derivation, source)


def test_an_edited_result_differs_in_its_header(source: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "home")
    made = derived.into_path(store, source, Q8, tmp_path / "x.gguf").path
    assert edit(store, made, {"general.name": "Other"}, "string", progress=Silent()).path == made
    with pytest.raises(WrongBytesError, match=r"x.gguf: (byte \d+ \(header\)|size) is "):
        _again(rebuilding.of_path(made), source)


def _imatrix(path: Path, seed: float = 1.0) -> Imatrix:
    def entry(n_columns: int) -> matrices.Entry:
        sums = np.geomspace(seed, 1e4, n_columns, dtype=np.float32)[None]
        return matrices.Entry(sums, np.array([500], np.int64))

    roles = {"attn_q": 32, "attn_k": 32, "attn_v": 32, "attn_output": 32, "ffn_gate": 32, "ffn_up": 32, "ffn_down": 64}
    entries = {f"blk.{layer}.{role}.weight": entry(n) for layer in range(2) for role, n in roles.items()}
    path.write_bytes(matrices.pack(Imatrix(entries, ("tide.txt",), 1, 500)))
    return matrices.read(path)


def test_the_importance_matrix_is_one_of_the_inputs(source: Path, tmp_path: Path) -> None:
    store, imatrix = Store(tmp_path / "home"), _imatrix(tmp_path / "imatrix.gguf")
    recipe = Recipe("gguf", "q4_k_m", imatrix=imatrix.sha256)
    derived.into_store(store, source, recipe, "tiny", "q4_k_m", imatrix)
    receipt = store.receipt("tiny", "q4_k_m")
    assert receipt is not None
    derivation = rebuilding.of_variant(store, receipt)
    rebuilding.rebuild(derivation, source, imatrix, threads=1, progress=Silent())
    with pytest.raises(UsageError, match=f"--imatrix FILE, the importance matrix of sha256 {imatrix.sha256}"):
        _again(derivation, source)
    other = _imatrix(tmp_path / "other.gguf", 2.0)
    with pytest.raises(WrongBytesError, match=r"other\.gguf: sha256 is"):
        rebuilding.rebuild(derivation, source, other, threads=1, progress=Silent())


def test_another_input_is_named_before_anything_is_made(source: Path, tmp_path: Path) -> None:
    made = derived.into_path(Store(tmp_path / "home"), source, Q8, tmp_path / "x.gguf")
    (source / "config.json").write_text((source / "config.json").read_text() + "\n")
    with pytest.raises(WrongBytesError, match=r"source/config\.json: sha256 is"):
        _again(rebuilding.of_path(made.path), source)


def test_a_recipe_cannot_keep_us_for_ever(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "_PATTERNS_S", 1.0)
    made = derived.into_path(Store(tmp_path / "home"), source, Q8, tmp_path / "x.gguf")
    derivation = rebuilding.of_path(made.path)
    endless = replace(derivation.recipe, tensor_types=(("([a-z0-9_.]+)+$(?!)", "q8_0"),))
    with pytest.raises(MalformedError, match=r"x\.gguf: recipe\.tensor_types.*found regular expressions for which"):
        _again(replace(derivation, recipe=endless), source)
    quick = replace(derivation.recipe, tensor_types=((r"blk\.\d+\.ffn_down", "q8_0"),))
    with pytest.raises(WrongBytesError):  # the recipe stands in the file, and is another now
        _again(replace(derivation, recipe=quick), source)


LONG = "A" * 1_000_000
FORGED: dict[str, tuple[str, str, str]] = {
    "a recipe of a million characters": (LONG, "{}", "distro 1"),
    "a deep recipe": ("[" * 100_000, "{}", "distro 1"),
    "types of numbers": ('{"mix":"f16","n_shards":1.5,"target":"pth"}', "{}", "distro 1"),
    "a truth for a number": ('{"mix":"f16","n_shards":true,"target":"pth"}', "{}", "distro 1"),
    "a huge number": ('{"max_shard_bytes":1' + "0" * 5000 + ',"mix":"f16","target":"gguf"}', "{}", "distro 1"),
    "no inputs": ('{"mix":"f16","target":"gguf"}', "{}", "distro 1"),
    "inputs elsewhere": ('{"mix":"f16","target":"gguf"}', '{"../../../etc/passwd":"x"}', "distro 1"),
    "inputs that steer": ('{"mix":"f16","target":"gguf"}', '{"\\u001b[2J":"\\u001b]0;x\\u0007"}', "distro 1"),
    "endless digests": ('{"mix":"f16","target":"gguf"}', '{"a":"' + LONG + '"}', "distro 1"),
    "many inputs": ('{"mix":"f16","target":"gguf"}', json.dumps(dict.fromkeys(map(str, range(50_000)), "x")), "d"),
    "a maker that steers": ('{"mix":"f16","target":"gguf"}', "{}", "\x1b[2J"),
    "a maker of a million characters": ('{"mix":"f16","target":"gguf"}', "{}", LONG),
    "inputs that are no object": ('{"mix":"f16","target":"gguf"}', "[" * 100_000, "distro 1"),
}


@pytest.mark.parametrize("name", FORGED)
def test_provenance_is_not_believed(name: str, source: Path, tmp_path: Path) -> None:
    """One line, and nothing is opened that it names."""
    recipe, inputs, made_by = FORGED[name]
    path = tmp_path / "x.gguf"
    said = {
        key: gguf_bytes.string(key, value) for key, value in ((RECIPE, recipe), (INPUTS, inputs), (MADE_BY, made_by))
    }
    path.write_bytes(gguf_bytes.llama(**said).build())
    store = Store(tmp_path / "home")
    derived.into_store(store, source, Q8, "tiny", "q8_0")
    with pytest.raises((NotFoundError, RefusedError)) as caught:
        rebuilding.find_source(store, rebuilding.of_path(path))
    assert len(str(caught.value)) < 1500
