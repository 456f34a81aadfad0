"""Which tensor gets which type."""

from __future__ import annotations

import pytest

from converters import dtypes, mix
from converters.errors import RefusedError
from converters.hyperparameters import HyperParameters
from converters.mix import Overrides
from converters.recipe import Recipe
from converters.tensors import TensorInfo


def _llama(*, n_layers: int, n_heads: int = 8, n_kv_heads: int = 8) -> HyperParameters:
    return HyperParameters(
        dim=256, hidden_dim=512, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=32,
        vocab_size=100, norm_eps=1e-5, rope_theta=10_000.0, context_length=512,
    )  # fmt: skip


def _layers(n_layers: int, role: str) -> list[TensorInfo]:
    return [TensorInfo(f"blk.{i}.{role}.weight", dtypes.F16, (256, 256)) for i in range(n_layers)]


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
    types = mix.types(mix.named(name), _infos(dim, tied=tied), _llama(n_layers=1))
    assert types["token_embd.weight"].name == embedding
    assert types["blk.0.attn_norm.weight"].name == norm
    assert types["blk.0.ffn_down.weight"].name == down
    assert (types["output.weight"].name if "output.weight" in types else None) == output


@pytest.mark.parametrize(
    ("name", "role", "n_kv_heads", "expected"),
    [
        # First and last eighth of 16 layers, and every third between them.
        ("q4_k_m", "attn_v", 8, "6 6 4 4 6 4 4 6 4 4 6 4 4 6 6 6"),
        ("q4_k_m", "ffn_down", 8, "6 6 4 4 6 4 4 6 4 4 6 4 4 6 6 6"),
        ("q4_k_m", "attn_k", 8, "4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4"),
        ("q5_k_m", "attn_v", 2, "6 6 5 5 6 5 5 6 5 5 6 5 5 6 6 6"),
        ("q4_k_s", "attn_v", 8, "5 5 5 5 4 4 4 4 4 4 4 4 4 4 4 4"),
        ("q4_k_s", "ffn_down", 8, "5 5 4 4 4 4 4 4 4 4 4 4 4 4 4 4"),
        ("q3_k_m", "attn_v", 8, "5 5 4 4 4 4 4 4 4 4 4 4 4 4 4 4"),
        ("q3_k_m", "ffn_down", 8, "5 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4"),
        ("q2_k", "attn_v", 8, "3 3 3 3 3 3 3 3 3 3 3 3 3 3 3 3"),
        ("q2_k", "attn_v", 2, "4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4"),
    ],
)
def test_k_types_by_layer(name: str, role: str, n_kv_heads: int, expected: str) -> None:
    types = mix.types(mix.named(name), _layers(16, role), _llama(n_layers=16, n_kv_heads=n_kv_heads))
    assert [types[f"blk.{i}.{role}.weight"].name for i in range(16)] == [f"Q{bits}_K" for bits in expected.split()]


def test_an_imatrix_guards_the_first_ffn_down_layers_of_q4_0() -> None:
    layers, llama = _layers(16, "ffn_down"), _llama(n_layers=16)
    types = mix.types(mix.named("q4_0"), layers, llama, has_imatrix=True)
    assert [types[info.name].name for info in layers] == ["Q4_1"] * 2 + ["Q4_0"] * 14


def test_the_70b_keeps_attn_v_above_four_bits() -> None:
    types = mix.types(mix.named("q3_k_s"), _layers(80, "attn_v"), _llama(n_layers=80, n_heads=64))
    assert set(types.values()) == {dtypes.Q5_K}


@pytest.mark.parametrize(
    ("overrides", "embedding", "first", "output"),
    [
        (Overrides(), "Q4_K", "Q6_K", "Q6_K"),
        (Overrides(pure=True), "Q4_K", "Q4_K", "Q4_K"),
        (Overrides(output=dtypes.Q8_0), "Q4_K", "Q6_K", "Q8_0"),
        (Overrides(token_embedding=dtypes.Q5_0), "Q5_0", "Q6_K", "Q6_K"),
        (Overrides(patterns=((r"ffn_", dtypes.Q5_K), (r"blk\.0", dtypes.Q3_K))), "Q4_K", "Q5_K", "Q6_K"),
        (Overrides(patterns=((r"output", dtypes.Q2_K),), output=dtypes.Q8_0), "Q4_K", "Q6_K", "Q8_0"),
        (Overrides(patterns=((r"norm", dtypes.Q2_K),)), "Q4_K", "Q6_K", "Q6_K"),
    ],
)
def test_a_user_may_want_it_otherwise(overrides: Overrides, embedding: str, first: str, output: str) -> None:
    infos = _infos(256, tied=False)
    types = mix.types(mix.named("q4_k_m"), infos, _llama(n_layers=1), overrides=overrides)
    assert types["token_embd.weight"].name == embedding
    assert types["blk.0.ffn_down.weight"].name == first
    assert types["output.weight"].name == output
    assert types["blk.0.attn_norm.weight"].name == "F32"


def test_an_embedding_that_is_the_output_takes_the_outputs_type() -> None:
    infos = _infos(256, tied=True)
    types = mix.types(mix.named("q4_k_m"), infos, _llama(n_layers=1), overrides=Overrides(output=dtypes.Q8_0))
    assert types["token_embd.weight"] == dtypes.Q8_0
    both = Overrides(output=dtypes.Q8_0, token_embedding=dtypes.Q5_0)
    types = mix.types(mix.named("q4_k_m"), infos, _llama(n_layers=1), overrides=both)
    assert types["token_embd.weight"] == dtypes.Q5_0


def test_recipes_with_wishes_have_digests_of_their_own() -> None:
    plain = Recipe("gguf", "q4_k_m")
    wishful = Recipe("gguf", "q4_k_m", output_type="q8_0", tensor_types=(("attn_v", "q8_0"),))
    assert wishful.sha256 != plain.sha256
    assert '"output_type":"q8_0"' in wishful.canonical()
    assert wishful.overrides.patterns == (("attn_v", dtypes.Q8_0),)
    for wrong in ({"output_type": "q9"}, {"tensor_types": (("(", "q8_0"),)}, {"output_type": "iq1_x"}):
        with pytest.raises(RefusedError):
            Recipe("gguf", "q4_k_m", **wrong)  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="go with a quantized type"):
        Recipe("gguf", "f16", pure=True)


def test_which_tensors_are_nonsense_without_an_imatrix() -> None:
    assert mix.needs_imatrix(mix.named("iq2_xs"), "blk.0.ffn_up.weight", dtypes.IQ2_XS)
    assert mix.needs_imatrix(mix.named("q2_k_s"), "blk.0.ffn_up.weight", dtypes.Q2_K)
    assert not mix.needs_imatrix(mix.named("q2_k"), "blk.0.ffn_up.weight", dtypes.Q2_K)
    assert not mix.needs_imatrix(mix.named("iq2_xs"), "output.weight", dtypes.IQ2_XS)


def test_names_in_any_case_and_unknown_ones_refused() -> None:
    assert mix.named("Q4_0") is mix.named("q4-0")
    with pytest.raises(RefusedError, match=r"q9_9: no such type; there are .*q8_0"):
        mix.named("q9_9")


def test_a_recipe_has_one_text_and_one_digest() -> None:
    recipe = Recipe("gguf", "Q8_0")
    assert recipe.canonical() == '{"mix":"q8_0","target":"gguf"}'
    assert recipe.sha256 == "20532d6cd0647d78d25b5e2f1de82766689a21eb9388a71a4e2e521e732d5f7b"
    assert recipe == Recipe("gguf", "q8-0")


@pytest.mark.parametrize(("target", "name"), [("safetensors", "q4_0"), ("onnx", "f16"), ("gguf", "q3_9")])
def test_impossible_recipes_are_refused(target: str, name: str) -> None:
    with pytest.raises(RefusedError):
        Recipe(target, name)


def test_mxfp4_is_for_stacked_experts_alone() -> None:
    experts = TensorInfo("blk.0.ffn_up_exps.weight", dtypes.F16, (4, 64, 256))
    types = mix.types(mix.named("mxfp4_moe"), [*_infos(256, tied=False), experts], _llama(n_layers=1))
    assert types["blk.0.ffn_up_exps.weight"] == dtypes.MXFP4
    assert types["blk.0.ffn_down.weight"] == types["output.weight"] == types["token_embd.weight"] == dtypes.Q8_0
