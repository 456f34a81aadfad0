"""Variants made from others: in the store with a receipt, or at a place of the user's own; whole or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import torch

from converters.errors import RefusedError, UnrepresentableError
from converters.recipe import Recipe
from distro.derive import CheckFailedError, Derived
from distro.errors import CannotCreateError
from distro.runtime import check
from distro.store import Store
from tests.fakes import derived, tiny_llama


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tiny_llama.write(tmp_path / "source")


def _into_store(store: Store, source: Path, mix: str = "q8_0", *, check: bool = False) -> Derived:
    recipe = Recipe("gguf", mix)
    return derived.into_store(store, source, recipe, "tiny", mix, check=check)


def _into_path(store: Store, source: Path, recipe: Recipe, target: Path) -> Derived:
    return derived.into_path(store, source, recipe, target)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_variant_in_the_store_has_a_receipt_that_tells_how_it_was_made(store: Store, source: Path) -> None:
    made = _into_store(store, source, check=True)

    assert made.path == store.folder("tiny", "q8_0") / "tiny-Q8_0.gguf"
    assert made.verdict is not None
    assert made.verdict.passed
    receipt = store.receipt("tiny", "q8_0")
    assert receipt is not None
    assert receipt.files["tiny-Q8_0.gguf"].sha256 == _sha256(made.path)
    assert receipt.files["tiny-Q8_0.gguf"].size == made.path.stat().st_size == made.plan.size
    assert receipt.recipe == {"mix": "q8_0", "target": "gguf"}
    assert receipt.inputs["model.safetensors"] == _sha256(source / "model.safetensors")
    assert all(sha256 == _sha256(source / name) for name, sha256 in receipt.inputs.items())


def test_the_same_again_is_left_as_it_is(store: Store, source: Path) -> None:
    first = _into_store(store, source)
    before = first.path.stat()
    again = _into_store(store, source)
    assert (first.made_before, again.made_before) == (False, True)
    assert again.path == first.path
    assert again.path.stat() == before


def test_another_input_under_the_same_name_is_refused(store: Store, source: Path, tmp_path: Path) -> None:
    made = _into_store(store, source)
    before = _sha256(made.path)
    other = tiny_llama.write(tmp_path / "other", seed=1)
    with pytest.raises(CannotCreateError, match="is there already"):
        _into_store(store, other)
    assert _sha256(made.path) == before


def test_a_result_that_does_not_speak_is_not_kept(store: Store, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A budget that nothing can keep stands for a converter that lost something."""
    monkeypatch.setattr(check, "BUDGETS", {"F32": 0.0, "Q8_0": 0.0, "Q4_0": 0.0})
    with pytest.raises(CheckFailedError, match=r"q8_0: not kept, logits: mean KL .* allowed 0"):
        _into_store(store, source, check=True)
    assert not store.folder("tiny", "q8_0").exists()
    assert list(store.variants()) == []


def test_a_failed_conversion_leaves_nothing(store: Store, source: Path, tmp_path: Path) -> None:
    weights = tiny_llama.tensors()
    weights["model.norm.weight"] = weights["model.norm.weight"].clone()
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    tiny_llama.write_weights(source, weights, "safetensors")
    with pytest.raises(UnrepresentableError):
        _into_store(store, source)
    with pytest.raises(UnrepresentableError):
        _into_path(store, source, Recipe("gguf", "q8_0"), tmp_path / "out" / "x.gguf")
    left = [path for folder in (store.home, tmp_path / "out") for path in folder.rglob("*") if path.is_file()]
    assert [path.suffix for path in left] == [".lock"]  # of no meaning, and of no size


def test_a_file_and_a_folder_of_the_users_own(store: Store, source: Path, tmp_path: Path) -> None:
    file = _into_path(store, source, Recipe("gguf", "q4_0"), tmp_path / "out" / "x.gguf")
    folder = _into_path(store, file.path, Recipe("safetensors", "bf16"), tmp_path / "folder")
    assert file.path == tmp_path / "out" / "x.gguf"
    assert file.path.read_bytes()[:4] == b"GGUF"
    assert (folder.path / "model.safetensors").exists()
    assert not list(store.variants())


def test_a_gguf_into_an_existing_folder_gets_a_name(store: Store, source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    made = _into_path(store, source, Recipe("gguf", "q8_0"), tmp_path / "out")
    assert made.path == tmp_path / "out" / "source-Q8_0.gguf"


def test_the_input_is_never_the_output(store: Store, source: Path, tmp_path: Path) -> None:
    """Neither by its own name, nor by a hard link, a symbolic link, or its folder."""
    gguf = _into_path(store, source, Recipe("gguf", "f16"), tmp_path / "x.gguf").path
    os.link(gguf, tmp_path / "hard.gguf")
    (tmp_path / "soft.gguf").symlink_to(gguf)
    before = gguf.stat()
    for target in (gguf, tmp_path / "hard.gguf", tmp_path / "soft.gguf"):
        with pytest.raises(RefusedError, match="is the input itself"):
            _into_path(store, gguf, Recipe("gguf", "q8_0"), target)
    with pytest.raises(RefusedError, match="is the input itself"):
        _into_path(store, source, Recipe("safetensors", "f16"), source)
    assert gguf.stat() == before


def test_an_output_that_is_there_is_not_overwritten(store: Store, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.gguf"
    target.write_bytes(b"precious")
    with pytest.raises(CannotCreateError):
        _into_path(store, source, Recipe("gguf", "q8_0"), target)
    assert target.read_bytes() == b"precious"


def test_plain_types_pass_their_check_too(store: Store, tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "half", dtype=torch.bfloat16)
    assert _into_store(store, source, "bf16", check=True).verdict is not None
    assert _into_store(store, source, "f32", check=True).verdict is not None


def test_only_a_model_gives_way(store: Store, source: Path, tmp_path: Path) -> None:
    """What a folder holds is deleted with it, so it must be one that could have been made here."""
    mine = tmp_path / "documents"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(RefusedError, match="documents: holds no model, and is not replaced"):
        derived.into_path(store, source, Recipe("safetensors", "f16"), mine, replace=True)
    assert (mine / "thesis.txt").read_text() == "years of work"
    made = _into_path(store, source, Recipe("safetensors", "f16"), tmp_path / "made").path
    again = derived.into_path(store, source, Recipe("safetensors", "bf16"), made, replace=True)
    assert again.path == made


def test_a_folder_around_the_input_never_gives_way(store: Store, tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "models" / "tiny")
    tiny_llama.write(tmp_path / "models")
    with pytest.raises(CannotCreateError, match="models: has more in it than a model, tiny"):
        derived.into_path(store, source, Recipe("safetensors", "f16"), tmp_path / "models", replace=True)
    assert (source / "model.safetensors").exists()


@pytest.mark.parametrize("place", ["models/tiny/f16/x.gguf", "models/tiny/mine", "partial/x.gguf", "models", ""])
def test_the_store_is_no_place_of_the_users_own(place: str, store: Store, source: Path) -> None:
    """What lies there has a receipt, or is swept away by `distro gc`."""
    _into_store(store, source, "f16")
    recipe = Recipe("gguf" if place.endswith("gguf") else "bin", "f16")
    before = sorted(store.home.rglob("*"))
    with pytest.raises(RefusedError, match="is in the store"):
        derived.into_path(store, source, recipe, store.home / place, replace=True)
    assert sorted(store.home.rglob("*")) == before


def test_what_lost_a_file_is_not_here_already(store: Store, source: Path) -> None:
    made = _into_store(store, source)
    made.path.unlink()
    with pytest.raises(CannotCreateError, match="is there already"):
        _into_store(store, source)


def test_two_at_once_make_it_once(store: Store, source: Path) -> None:
    import threading

    made: list[Derived] = []
    at_once = [threading.Thread(target=lambda: made.append(_into_store(store, source))) for _ in range(3)]
    for thread in at_once:
        thread.start()
    for thread in at_once:
        thread.join()
    assert sorted(each.made_before for each in made) == [False, True, True]


def test_a_name_that_is_no_text_comes_back_from_the_receipt(store: Store, source: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"bytes\xff.gguf")
    first = _into_path(store, source, Recipe("gguf", "f16"), tmp_path / name).path
    _into_store(store, first)
    receipt = store.receipt("tiny", "q8_0")
    assert receipt is not None
    assert receipt.inputs == {name: _sha256(first)}
    assert _into_store(store, first).made_before


def test_receipts_of_others_are_not_read(store: Store, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "variants", lambda self: pytest.fail("all receipts are read"))
    first = _into_store(store, source, "f16").path
    _into_store(store, first, "q8_0")


@pytest.mark.parametrize("place", [".", "..", "new/.."])
def test_a_place_without_a_name_is_refused_before_anything_is_made(
    place: str, store: Store, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "new").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "new")
    with pytest.raises(CannotCreateError):
        _into_path(store, source, Recipe("bin", "f16"), Path(place))
    assert [path.name for path in (tmp_path / "here").rglob("*")] == ["new"]


@pytest.mark.parametrize("name", ["a b*?[x].gguf", "ö\u0301.gguf", "-.gguf", ".hidden", "bytes\udcff.gguf", "x" * 200])
def test_names_that_shells_and_patterns_read_otherwise(name: str, store: Store, source: Path, tmp_path: Path) -> None:
    recipe = Recipe("gguf", "q8_0")
    made = _into_path(store, source, recipe, tmp_path / "out" / name).path
    assert made.read_bytes()[:4] == b"GGUF"
    folder = _into_path(store, made, Recipe("safetensors", "f16"), tmp_path / "out" / f"{name}[1]").path
    assert (folder / "model.safetensors").exists()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([name, f"{name}[1]"])
    derived.into_path(store, source, recipe, made, replace=True)
