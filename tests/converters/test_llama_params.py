"""params.json of Meta and Mistral: real files, the rules that fill their gaps, and files that lie."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters import dtypes
from converters.architectures import llama
from converters.architectures.llama_params import hidden_dim
from converters.errors import ConversionError, MalformedError, RefusedError, UnsupportedError
from converters.fields import Fields
from converters.hyperparameters import HyperParameters, RopeScaling

BF16, F16 = dtypes.BF16, dtypes.F16
LLAMA_1_65B = {"dim": 8192, "multiple_of": 256, "n_heads": 64, "n_layers": 80, "norm_eps": 1e-05, "vocab_size": -1}
LLAMA_1_7B = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-06, "vocab_size": -1}
LLAMA_2_7B = LLAMA_1_7B | {"norm_eps": 1e-05}
LLAMA_2_70B = {
    "dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8, "n_layers": 80,
    "norm_eps": 1e-05, "vocab_size": -1,
}  # fmt: skip
CODE_LLAMA_34B = {
    "dim": 8192, "n_layers": 48, "n_heads": 64, "n_kv_heads": 8, "multiple_of": 256, "ffn_dim_multiplier": 1.0,
    "norm_eps": 1e-5, "rope_theta": 1000000,
}  # fmt: skip
LLAMA_3_8B = {
    "dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 1024,
    "ffn_dim_multiplier": 1.3, "norm_eps": 1e-05, "rope_theta": 500000.0,
}  # fmt: skip
LLAMA_3_1_8B = LLAMA_3_8B | {"use_scaled_rope": True}
LLAMA_3_1_405B = LLAMA_3_1_8B | {
    "dim": 16384, "n_layers": 126, "n_heads": 128, "multiple_of": 4096, "ffn_dim_multiplier": 1.2,
}  # fmt: skip
LLAMA_3_2_1B = LLAMA_3_1_8B | {"dim": 2048, "n_layers": 16, "multiple_of": 256, "ffn_dim_multiplier": 1.5}
LLAMA_3_2_3B = LLAMA_3_2_1B | {"dim": 3072, "n_layers": 28, "n_heads": 24, "ffn_dim_multiplier": 1.0}
MISTRAL_7B = {
    "dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
    "norm_eps": 1e-05, "sliding_window": 4096, "vocab_size": 32000,
}  # fmt: skip
MISTRAL_NEMO = {
    "dim": 5120, "n_layers": 40, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
    "norm_eps": 1e-05, "vocab_size": 131072, "rope_theta": 1000000.0,
}  # fmt: skip


def read(params: dict[str, Any], rows: int = 32000, dtype: dtypes.DType = BF16) -> HyperParameters:
    return llama.from_params(Fields(Path("params.json"), params, "/"), rows * (params["dim"] or 1), dtype)


# (what, file, type, rows of the embedding, hidden_dim, context_length, rope_theta, factor): the numbers are those of
# config.json on the hub.
RELEASES: list[tuple[str, dict[str, Any], dtypes.DType, int, int, int, float, float | None]] = [
    ("LLaMA 7B", LLAMA_1_7B, F16, 32000, 11008, 2048, 1e4, None),
    ("LLaMA 65B", LLAMA_1_65B, F16, 32000, 22016, 2048, 1e4, None),
    ("Llama 2 7B", LLAMA_2_7B, BF16, 32000, 11008, 4096, 1e4, None),
    ("Llama 2 7B Chat", LLAMA_1_7B, BF16, 32000, 11008, 4096, 1e4, None),
    ("Llama 2 7B in F16", LLAMA_2_7B, F16, 32000, 11008, 4096, 1e4, None),
    ("Llama 2 70B", LLAMA_2_70B, BF16, 32000, 28672, 4096, 1e4, None),
    ("Code Llama 34B", CODE_LLAMA_34B, BF16, 32000, 22016, 16384, 1e6, None),
    ("Llama 3 8B", LLAMA_3_8B, BF16, 128256, 14336, 8192, 5e5, None),
    ("Llama 3.1 8B", LLAMA_3_1_8B, BF16, 128256, 14336, 131072, 5e5, 8.0),
    ("Llama 3.1 405B", LLAMA_3_1_405B, BF16, 128256, 53248, 131072, 5e5, 8.0),
    ("Llama 3.2 1B", LLAMA_3_2_1B, BF16, 128256, 8192, 131072, 5e5, 32.0),
    ("Llama 3.2 3B", LLAMA_3_2_3B, BF16, 128256, 8192, 131072, 5e5, 32.0),
    ("Mistral 7B", MISTRAL_7B, BF16, 32000, 14336, 32768, 1e4, None),
    ("Mistral Nemo", MISTRAL_NEMO, BF16, 131072, 14336, 32768, 1e6, None),
]  # fmt: skip


@pytest.mark.parametrize("case", RELEASES, ids=[case[0] for case in RELEASES])
def test_real_files(case: tuple[str, dict[str, Any], dtypes.DType, int, int, int, float, float | None]) -> None:
    _, params, dtype, rows, width, context_length, theta, factor = case
    found = read(params, rows, dtype)
    assert (found.vocab_size, found.hidden_dim, found.context_length) == (rows, width, context_length)
    assert (found.rope_theta, found.rope_scaling and found.rope_scaling.factor) == (theta, factor)
    assert found.sliding_window == params.get("sliding_window")
    assert found.head_dim == 128 or params["dim"] == 2048


@pytest.mark.parametrize("case", RELEASES, ids=[case[0] for case in RELEASES])
def test_what_is_written_is_read_as_the_same(
    case: tuple[str, dict[str, Any], dtypes.DType, int, int, int, float, float | None],
) -> None:
    name, params, dtype, rows, *_ = case
    found = read(params, rows, dtype)
    if name.startswith("Mistral"):
        assert read(llama.to_mistral_params(found), rows, dtype) == found
        assert llama.to_mistral_params(found) == {"rope_theta": 10000.0} | params
        return
    written = llama.to_meta_params(found, dtype)
    assert read(written, rows, dtype) == found
    assert "max_seq_len" not in written  # Meta's loaders have an argument of that name
    same = {"vocab_size": -1, "ffn_dim_multiplier": 1.0} if name.startswith("Code") else {}
    assert {**same, **written} == params or name == "Code Llama 34B"


def test_metas_own_bytes_come_back() -> None:
    """MD5 of params.json as Meta published it: Llama 2 7B's in its checklist.chk, LLaMA 7B's without a last newline."""
    text = json.dumps(llama.to_meta_params(read(LLAMA_2_7B), BF16)) + "\n"
    assert hashlib.md5(text.encode()).hexdigest() == "9a3757de7196d1840b551a85b82efbc8"  # noqa: S324
    text = json.dumps(llama.to_meta_params(read(LLAMA_1_7B, dtype=F16), F16))
    assert hashlib.md5(text.encode()).hexdigest() == "7596560e011154b90eb51a1b15739763"  # noqa: S324


@given(st.integers(1, 1 << 12), st.integers(1, 1 << 22))
def test_every_width_has_a_multiplier(half_dim: int, width: int) -> None:
    shape = replace(
        read(LLAMA_2_7B), dim=2 * half_dim, n_heads=1, n_kv_heads=1, head_dim=2 * half_dim, hidden_dim=width
    )
    written = llama.to_meta_params(shape, BF16)
    multiple_of, multiplier = written["multiple_of"], written.get("ffn_dim_multiplier")
    assert hidden_dim(2 * half_dim, multiple_of, multiplier) == width  # type: ignore[arg-type]
    assert read(json.loads(json.dumps(written))) == shape


@pytest.mark.parametrize(
    ("dim", "width", "expected"),
    [
        (576, 1536, (256, None)),  # SmolLM2 135M
        (2048, 5632, (256, None)),  # TinyLlama 1.1B
        (4096, 14336, (1024, 1.3)),
        (3584, 18944, (256, 1.97)),
        (4096, 11007, (1, 1.0078)),
        (64, 1, (1, 0.01)),
    ],
)
def test_multipliers_are_short(dim: int, width: int, expected: tuple[int, float | None]) -> None:
    written = llama.to_meta_params(
        replace(read(LLAMA_2_7B), dim=dim, head_dim=dim, n_heads=1, n_kv_heads=1, hidden_dim=width), BF16
    )
    assert (written["multiple_of"], written.get("ffn_dim_multiplier")) == expected


def test_a_context_that_no_rule_gives_is_written() -> None:
    found = replace(read(LLAMA_2_7B), context_length=2048)
    written = llama.to_meta_params(found, BF16)
    assert written["max_seq_len"] == 2048
    assert read(written) == found
    found = replace(read(MISTRAL_NEMO, 131072), context_length=131072, tied_embeddings=True)
    assert llama.to_mistral_params(found)["max_position_embeddings"] == 131072
    assert read(llama.to_mistral_params(found), 131072) == found


def test_null_and_false_mean_that_nobody_asked() -> None:
    assert read(LLAMA_2_7B | {"moe": None, "use_biases": False, "rope_theta": None, "causal": True}) == read(LLAMA_2_7B)


META_REFUSES: list[tuple[dict[str, Any], str]] = [
    ({"head_dim": 64}, "heads of 64 x 32 in a dim of 4096"),
    ({"sliding_window": 4096}, "sliding window of 4096"),
    ({"rope_scaling": RopeScaling("linear", 4.0)}, "only what Llama 3.1 and 3.2 have"),
    ({"rope_scaling": RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)}, "only what Llama 3.1 and 3.2 have"),
]


@pytest.mark.parametrize(("changed", "words"), META_REFUSES)
def test_what_meta_has_no_word_for_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        llama.to_meta_params(replace(read(LLAMA_2_7B), **changed), BF16)


def test_what_mistral_has_no_word_for_is_refused() -> None:
    with pytest.raises(RefusedError, match="no place in Mistral's"):
        llama.to_mistral_params(replace(read(MISTRAL_7B), rope_scaling=RopeScaling("linear", 4.0)))


LIES: list[tuple[str, dict[str, Any], type[ConversionError], str]] = [
    ("dim 0", {"dim": 0}, MalformedError, "/dim: found 0"),
    ("dim -4096", {"dim": -4096}, MalformedError, "/dim: found -4096"),
    ("dim 2^40", {"dim": 1 << 40}, MalformedError, "/dim: found 1099511627776"),
    ("dim in text", {"dim": "4096"}, MalformedError, "/dim: found 4096"),
    ("dim true", {"dim": True}, MalformedError, "/dim: found True"),
    ("dim a fraction", {"dim": 4096.5}, MalformedError, "/dim: found 4096.5"),
    ("no dim", {"dim": None}, MalformedError, "/dim: found nothing"),
    ("dim that heads do not divide", {"dim": 4098}, MalformedError, "/dim: found 4098, allowed a multiple of n_heads"),
    ("heads of an odd width", {"n_heads": 4096}, MalformedError, "/dim: found 1"),
    ("no layers", {"n_layers": 0}, MalformedError, "/n_layers: found 0"),
    ("a million layers", {"n_layers": 10**6}, MalformedError, "/n_layers: found 1000000"),
    ("more kv heads", {"n_kv_heads": 64}, MalformedError, "/n_kv_heads: found 64"),
    ("kv heads that do not divide", {"n_kv_heads": 5}, MalformedError, "/n_kv_heads: found 5, allowed a divisor"),
    ("multiple of 0", {"multiple_of": 0}, MalformedError, "/multiple_of: found 0"),
    ("a negative multiplier", {"ffn_dim_multiplier": -1.3}, MalformedError, "/ffn_dim_multiplier: found -1.3"),
    ("a huge multiplier", {"ffn_dim_multiplier": 1e300}, MalformedError, "/ffn_dim_multiplier: found 1e+300"),
    ("epsilon 0", {"norm_eps": 0}, MalformedError, "/norm_eps: found 0"),
    ("epsilon in text", {"norm_eps": "1e-5"}, MalformedError, "/norm_eps: found 1e-5"),
    ("no epsilon", {"norm_eps": None}, MalformedError, "/norm_eps: found nothing"),
    ("no words", {"vocab_size": 0}, MalformedError, "/vocab_size: found 0"),
    ("vocabulary -2", {"vocab_size": -2}, MalformedError, "/vocab_size: found -2"),
    ("vocabulary 2^60", {"vocab_size": 1 << 60}, MalformedError, "/vocab_size"),
    ("theta a list", {"rope_theta": [1]}, MalformedError, "/rope_theta"),
    ("scaling a word", {"use_scaled_rope": "yes"}, MalformedError, "/use_scaled_rope: found yes"),
    ("a window of 0", {"hidden_dim": 64, "sliding_window": 0}, MalformedError, "/sliding_window: found 0"),
    ("a width of 0", {"hidden_dim": 0}, MalformedError, "/hidden_dim: found 0"),
    ("experts", {"moe": {"num_experts": 8, "num_experts_per_tok": 2}}, UnsupportedError, "/moe: found"),
    ("a picture", {"vision_encoder": {}}, UnsupportedError, "/vision_encoder"),
    ("yarn", {"yarn": {"factor": 4}}, UnsupportedError, "/yarn"),
    ("quantized", {"quantization": {"qformat_weight": "fp8_e4m3"}}, UnsupportedError, "/quantization"),
    ("biases", {"use_biases": True}, UnsupportedError, "/use_biases: found True"),
    ("a mamba", {"model_type": "mamba"}, UnsupportedError, "/model_type: found mamba, allowed 'transformer'"),
]


@pytest.mark.parametrize(("changed", "error", "text"), [case[1:] for case in LIES], ids=[case[0] for case in LIES])
def test_a_file_that_lies(changed: dict[str, Any], error: type[ConversionError], text: str) -> None:
    with pytest.raises(error) as caught:
        read(LLAMA_2_7B | changed)
    assert str(caught.value).startswith(f"params.json: {text}")
    assert type(caught.value) is error


def test_an_embedding_of_another_width_has_no_rows() -> None:
    with pytest.raises(MalformedError, match=r"/dim: found 4096, allowed a divisor of the embedding's 1000 weights"):
        llama.from_params(Fields(Path("params.json"), LLAMA_2_7B, "/"), 1000, BF16)
