"""Releases of Meta and Mistral, written: what torch.load and our own reader find in them; the way there and back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from converters import dtypes
from converters import plan as planning
from converters.checkpoint import Checkpoint
from converters.convert import convert
from converters.errors import RefusedError
from converters.formats import meta, open_checkpoint
from converters.provenance import Provenance
from converters.recipe import Recipe
from tests.converters.test_tokenizers_tekken import small as small_tekken
from tests.converters.test_tokenizers_tekken import special as special_token
from tests.fakes import meta_release, tiny_llama
from tests.fakes.memory_sink import MemorySink
from tests.fakes.meta_release import GENERATIONS

MIXES = {torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "f32"}


def made(source: Path, recipe: Recipe, folder: Path) -> Path:
    """What a recipe makes of a model, on the disk."""
    sink = MemorySink()
    with open_checkpoint(source) as checkpoint:
        convert(checkpoint, planning.make(checkpoint, recipe, "tiny"), sink, threads=2)
    return sink.save(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize("n_shards", [1, 2, 4, 8])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_torch_finds_each_part_in_its_shard(tmp_path: Path, generation: str, n_shards: int) -> None:
    """From one file to many, as torch.chunk divides it."""
    source = meta_release.write(tmp_path / "source", generation)
    wanted = GENERATIONS[generation]
    folder = made(source, Recipe("pth", MIXES[wanted.dtype], n_shards=n_shards), tmp_path / "made")
    weights = meta_release.weights(generation)
    del weights["rope.freqs"]
    assert len(list(folder.glob("*.pth"))) == n_shards
    for number, expected in enumerate(meta_release.divided(weights, n_shards, wanted.embedding_axis)):
        found = torch.load(folder / f"consolidated.{number:02d}.pth", weights_only=True)
        assert found.keys() == expected.keys()
        for name, weight in found.items():
            assert weight.dtype == wanted.dtype
            assert torch.equal(weight, expected[name]), name
    assert (folder / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()
    params = json.loads((folder / "params.json").read_text())
    vocab_size = {"vocab_size": wanted.vocab_size}
    assert params == meta_release.params(generation) | {"multiple_of": params["multiple_of"]} | vocab_size
    assert not list(folder.glob("*.chk"))


@pytest.mark.parametrize("n_shards", [1, 2, 4, 8])
@pytest.mark.parametrize("generation", ["llama-2", "llama-3.2"])
def test_every_way_leads_back_to_the_same_files(tmp_path: Path, generation: str, n_shards: int) -> None:
    mix = MIXES[GENERATIONS[generation].dtype]
    back = Recipe("pth", mix, n_shards=n_shards)
    source = made(meta_release.write(tmp_path / "meta", generation, n_shards), back, tmp_path / "source")
    expected = contents(source)
    for target in ("safetensors", "bin", "gguf"):
        between = made(source, Recipe(target, mix), tmp_path / target)
        there = only_file(between) if target == "gguf" else between
        assert contents(made(there, back, tmp_path / f"{target}-back")) == expected, target


@pytest.mark.parametrize("generation", ["llama-1", "llama-3.2"])
def test_both_ways_to_a_gguf_give_the_same_file(tmp_path: Path, generation: str) -> None:
    mix = MIXES[GENERATIONS[generation].dtype]
    source = meta_release.write(tmp_path / "meta", generation, 4, n_kv_heads=4)
    folder = made(source, Recipe("safetensors", mix), tmp_path / "hf")
    for name in (mix, "q8_0"):
        direct = only_file(made(source, Recipe("gguf", name), tmp_path / f"direct-{name}"))
        detour = only_file(made(folder, Recipe("gguf", name), tmp_path / f"detour-{name}"))
        assert direct.read_bytes() == detour.read_bytes()


def test_hugging_faces_folder_holds_what_transformers_would_make(tmp_path: Path) -> None:
    source = meta_release.write(tmp_path / "meta", "llama-3", 2, n_kv_heads=2)
    folder = made(source, Recipe("safetensors", "bf16"), tmp_path / "hf")
    expected = meta_release.hf_state(meta_release.weights("llama-3", n_kv_heads=2), n_kv_heads=2)
    found = load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_shards_may_be_divided_anew(tmp_path: Path) -> None:
    source = meta_release.write(tmp_path / "meta", "llama-3", 8)
    recipe = Recipe("pth", "bf16", n_shards=2)
    folder = made(source, recipe, tmp_path / "two")
    again = made(folder, Recipe("pth", "bf16", n_shards=8), tmp_path / "eight")
    for number in range(8):
        name = f"consolidated.{number:02d}.pth"
        ours, theirs = (torch.load(each / name, weights_only=True) for each in (again, source))
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_mistrals_folder(tmp_path: Path) -> None:
    source = meta_release.write(tmp_path / "meta", n_kv_heads=2)
    folder = made(source, Recipe("mistral", "bf16"), tmp_path / "mistral")
    weights = meta_release.weights("llama-2", n_kv_heads=2)
    del weights["rope.freqs"]
    found = load_file(folder / "consolidated.safetensors")
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert json.loads((folder / "params.json").read_text()) == {
        "dim": 64, "n_layers": 2, "head_dim": 8, "hidden_dim": 192, "n_heads": 8, "n_kv_heads": 2, "norm_eps": 1e-05,
        "vocab_size": 272, "rope_theta": 10000.0, "max_position_embeddings": 4096,
    }  # fmt: skip
    assert sorted(contents(folder)) == ["consolidated.safetensors", "params.json", "tokenizer.model"]
    gguf = only_file(made(folder, Recipe("gguf", "bf16"), tmp_path / "gguf"))
    assert contents(made(gguf, Recipe("mistral", "bf16"), tmp_path / "back")) == contents(folder)
    assert only_file(made(source, Recipe("gguf", "bf16"), tmp_path / "direct")).read_bytes() == gguf.read_bytes()


@pytest.mark.parametrize("settings", ["", '{"chat_template": "[INST]"}'], ids=["alone", "with settings"])
def test_a_tekken_json_is_passed_on_as_it_is(settings: str, tmp_path: Path) -> None:
    """What it says of unused tokens and of pictures, no vocabulary of ours knows."""
    source = meta_release.write(tmp_path / "source", "llama-3", n_kv_heads=2)
    for path in source.glob("*token*"):
        path.unlink()
    document = small_tekken()
    n_rows = json.loads((source / "params.json").read_text())["vocab_size"]
    document["special_tokens"] += [special_token(n, f"[{n}]") for n in range(3, n_rows - 258)]
    document["config"] |= {"default_vocab_size": n_rows, "default_num_special_tokens": n_rows - 258}
    (source / "tekken.json").write_text(json.dumps(document))
    if settings:
        (source / "tokenizer_config.json").write_text(settings)
    folder = made(source, Recipe("mistral", "bf16"), tmp_path / "mistral")
    assert (folder / "tekken.json").read_bytes() == (source / "tekken.json").read_bytes()
    small = ["generation_config.json", "tokenizer_config.json"] if settings else []
    assert sorted(contents(folder)) == sorted(["consolidated.safetensors", "params.json", "tekken.json", *small])
    with open_checkpoint(folder) as checkpoint, open_checkpoint(source) as before:
        assert checkpoint.vocabulary == before.vocabulary
        changed = replace(
            before, vocabulary=replace(before.vocabulary, tokens=("<none>", *before.vocabulary.tokens[1:]))
        )  # type: ignore[type-var]
        names = {file.path for file in meta.lay_out(changed, dtypes.BF16, "mistral")}
        assert "tokenizer.json" in names and "tekken.json" not in names
    assert "tekken.json" not in contents(made(source, Recipe("pth", "bf16"), tmp_path / "pth"))


@pytest.mark.parametrize("target", ["pth", "mistral"])
def test_a_tied_embedding_stays_tied(tmp_path: Path, target: str) -> None:
    """A vocabulary that no tokenizer.model can hold, in a model that Meta's code knows only untied."""
    source = tiny_llama.write(tmp_path / "hf", tied=True)
    shards = {"n_shards": 2} if target == "pth" else {}
    folder = made(source, Recipe(target, "f32", **shards), tmp_path / target)  # type: ignore[arg-type]
    with open_checkpoint(folder) as checkpoint, open_checkpoint(source) as before:
        assert checkpoint.hyperparameters == before.hyperparameters
        assert checkpoint.vocabulary == before.vocabulary
        assert "output.weight" not in checkpoint.tensors
    if target == "pth":
        first, second = (torch.load(folder / f"consolidated.0{n}.pth", weights_only=True) for n in (0, 1))
        whole = tiny_llama.tensors(tied=True)["model.embed_tokens.weight"]
        assert torch.equal(torch.cat([first["output.weight"], second["output.weight"]]), whole)
    back = made(folder, Recipe("safetensors", "f32"), tmp_path / "back")
    expected = tiny_llama.tensors(tied=True)
    found = load_file(back / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_quantized_weights_are_unpacked_into_shards(tmp_path: Path) -> None:
    source = meta_release.write(tmp_path / "meta", "llama-3")
    gguf = only_file(made(source, Recipe("gguf", "q8_0"), tmp_path / "q8_0"))
    one = made(gguf, Recipe("pth", "f16", n_shards=1), tmp_path / "one")
    four = made(gguf, Recipe("pth", "f16", n_shards=4), tmp_path / "four")
    whole = torch.load(one / "consolidated.00.pth", weights_only=True)
    for number, expected in enumerate(meta_release.divided(whole, 4, 0)):
        found = torch.load(four / f"consolidated.{number:02d}.pth", weights_only=True)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_layout_depends_on_no_digest(tmp_path: Path) -> None:
    with open_checkpoint(meta_release.write(tmp_path)) as checkpoint:
        for target in ("pth", "mistral"):
            one, other = (
                meta.lay_out(checkpoint, dtypes.BF16, target, None, Provenance("distro 1", "{}", {"a": digit * 64}))
                for digit in "01"
            )
            assert [file.size for file in one] == [file.size for file in other]
            assert [file.tensors for file in one] == [file.tensors for file in other]
            assert [file.pieces for file in one] == [file.pieces for file in other]
            assert [file.head for file in one] != [file.head for file in other]


def _layout(tmp_path: Path, dtype: dtypes.DType, target: str, n_shards: int | None, **changed: Any) -> None:
    with open_checkpoint(meta_release.write(tmp_path, n_kv_heads=4)) as checkpoint:
        parameters = replace(checkpoint.hyperparameters, **changed)
        other = Checkpoint(**(vars(checkpoint) | {"hyperparameters": parameters}))
        meta.lay_out(other, dtype, target, n_shards)


@pytest.mark.parametrize(
    ("n_shards", "changed", "words"),
    [
        (3, {}, "n_heads 8 cannot be divided over 3 shards"),
        (8, {}, "n_kv_heads 4 cannot be divided over 8 shards"),
        (2, {"hidden_dim": 191}, "hidden_dim 191 cannot be divided over 2 shards"),
        (2, {"vocab_size": 271}, "vocab_size 271 cannot be divided over 2 shards"),
        (1, {"sliding_window": 7}, "a sliding window of 7 has no place in it; use --to mistral"),
        (1, {"head_dim": 4}, "heads of 4 x 8 in a dim of 64 have no place in it"),
    ],
)
def test_what_cannot_be_divided_or_said_is_refused(
    tmp_path: Path, n_shards: int, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(RefusedError, match=words):
        _layout(tmp_path, dtypes.BF16, "pth", n_shards, **changed)


@pytest.mark.parametrize("target", ["pth", "mistral"])
def test_other_types_are_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(RefusedError, match=f"{target} folders are written in F32, F16, BF16, not in Q8_0"):
        _layout(tmp_path, dtypes.Q8_0, target, None)


def test_what_a_model_says_of_itself_is_carried(tmp_path: Path) -> None:
    source = meta_release.write(tmp_path / "meta")
    (source / "README.md").write_text('---\nlicense: "llama2"\n---\n')
    gguf = made(source, Recipe("gguf", "bf16"), tmp_path / "gguf")
    back = made(only_file(gguf), Recipe("pth", "bf16"), tmp_path / "back")
    with open_checkpoint(back) as checkpoint:
        assert checkpoint.card["license"] == "llama2"
        assert checkpoint.companions[-1] == back / "README.md"
    shutil.rmtree(back)
