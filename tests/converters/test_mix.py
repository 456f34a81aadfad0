"""Which tensor gets which type."""

from __future__ import annotations

import pytest

from converters import dtypes, mix
from converters.errors import RefusedError
from converters.recipe import Recipe
from converters.tensors import TensorInfo


def _infos(dim: int, *, tied: bool) -> list[TensorInfo]:
    infos = [
        TensorInfo("token_embd.weight", dtypes.F16, (100, dim)),
        TensorInfo("blk.0.attn_norm.weight", dtypes.F16, (dim,)),
        TensorInfo("blk.0.ffn_down.weight", dtypes.F16, (dim, 2 * dim)),
    ]
    return infos if tied else [*infos, TensorInfo("output.weight", dtypes.F16, (100, dim))]


@pytest.mark.parametrize(
    ("name", "dim", "tied", "embedding", "norm", "down", "output"),
    [
        ("f16", 256, False, "F16", "F32", "F16", "F16"),
        ("q8_0", 256, False, "Q8_0", "F32", "Q8_0", "Q8_0"),
        ("q4_0", 256, False, "Q4_0", "F32", "Q4_0", "Q6_K"),
        ("q4_0", 256, True, "Q6_K", "F32", "Q4_0", None),
        ("q4_0", 288, True, "Q8_0", "F32", "Q4_0", None),  # 288 is no multiple of 256: SmolLM2's 576 neither
        ("q4_0", 48, True, "F16", "F32", "Q4_0", None),  # nor is 48 of 32, while ffn_down's 96 is
    ],
)
def test_types_of_tensors(
    name: str, dim: int, tied: bool, embedding: str, norm: str, down: str, output: str | None
) -> None:
    types = mix.types(mix.named(name), _infos(dim, tied=tied))
    assert types["token_embd.weight"].name == embedding
    assert types["blk.0.attn_norm.weight"].name == norm
    assert types["blk.0.ffn_down.weight"].name == down
    assert (types["output.weight"].name if "output.weight" in types else None) == output


def test_names_in_any_case_and_unknown_ones_refused() -> None:
    assert mix.named("Q4_0") is mix.named("q4-0")
    with pytest.raises(RefusedError, match=r"q9_9: no such type; there are .*q8_0"):
        mix.named("q9_9")


def test_a_recipe_has_one_text_and_one_digest() -> None:
    recipe = Recipe("gguf", "Q8_0")
    assert recipe.canonical() == '{"max_shard_bytes":5000000000,"mix":"q8_0","target":"gguf"}'
    assert recipe.sha256 == "5f605279fd67ac12a50ea331512c1a09ca0443461c35e492d1c60319df477887"
    assert recipe == Recipe("gguf", "q8-0")


@pytest.mark.parametrize(("target", "name"), [("safetensors", "q4_0"), ("onnx", "f16"), ("gguf", "q3")])
def test_impossible_recipes_are_refused(target: str, name: str) -> None:
    with pytest.raises(RefusedError):
        Recipe(target, name)
