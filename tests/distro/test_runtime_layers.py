"""Each part of the decoder against transformers' own, to 1e-6."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama import modeling_llama as judge

from converters.architectures.rows import pairs_from_halves
from converters.hyperparameters import RopeScaling
from distro.runtime.layers import attend, rms_norm, rotary_frequencies, rotate, rotation, swiglu

CLOSE = {"rtol": 0, "atol": 1e-6}


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_rms_norm_by_hand() -> None:
    x = torch.tensor([[3.0, 4.0]])  # mean square 12.5
    expected = torch.tensor([[3 / math.sqrt(12.5), 2 * 4 / math.sqrt(12.5)]])
    torch.testing.assert_close(rms_norm(x, torch.tensor([1.0, 2.0]), 0.0), expected)


@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_rms_norm_equals_transformers(eps: float) -> None:
    norm = judge.LlamaRMSNorm(32, eps)
    norm.weight.data = random(32, seed=1)
    x = random(7, 32) * 1e-2  # small, so that eps counts
    torch.testing.assert_close(rms_norm(x, norm.weight.data, eps), norm(x).detach(), **CLOSE)


def rope(scaling: dict[str, object] | None) -> LlamaConfig:
    parameters = {"rope_theta": 500_000.0, **(scaling or {"rope_type": "default"})}
    return LlamaConfig(hidden_size=64, num_attention_heads=1, max_position_embeddings=65536, rope_parameters=parameters)


LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (None, None),
        ({"rope_type": "linear", "factor": 4.0}, RopeScaling("linear", 4.0)),
        (LLAMA3, RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)),
    ],
    ids=["plain", "linear", "llama3"],
)
def test_rotary_table_equals_transformers_far_out(theirs: dict[str, object] | None, ours: RopeScaling | None) -> None:
    frequencies = rotary_frequencies(64, 500_000.0, ours)
    embedding = judge.LlamaRotaryEmbedding(rope(theirs))
    for position in (0, 1, 8191, 8192, 65535):
        cos, sin = rotation(frequencies, position, 1)
        expected_cos, expected_sin = embedding(torch.zeros(1), torch.tensor([[position]]))
        torch.testing.assert_close(cos[0, 0], expected_cos[0, 0, :32], **CLOSE)
        torch.testing.assert_close(sin[0, 0], expected_sin[0, 0, :32], **CLOSE)


def test_factors_of_the_file_divide_the_frequencies_and_replace_llama3() -> None:
    factors = torch.tensor([1.0, 2.0])
    expected = torch.tensor([1.0, 0.01 / 2])
    torch.testing.assert_close(rotary_frequencies(4, 10_000.0, None, factors), expected)
    torch.testing.assert_close(rotary_frequencies(4, 10_000.0, RopeScaling("llama3", 8.0), factors), expected)
    torch.testing.assert_close(rotary_frequencies(4, 10_000.0, RopeScaling("linear", 2.0), factors), expected / 2)


def test_rotate_by_hand() -> None:
    """A quarter turn of the pair (1, 2) is (-2, 1)."""
    x = torch.tensor([1.0, 2.0]).reshape(1, 1, 2)
    turned = rotate(x, torch.tensor([[[0.0]]]), torch.tensor([[[1.0]]]))
    assert turned.flatten().tolist() == [-2.0, 1.0]


def test_rotate_in_pairs_equals_transformers_in_halves() -> None:
    x = random(5, 3, 16)
    cos, sin = rotation(rotary_frequencies(16, 10_000.0), 11, 5)
    pairs = list(pairs_from_halves(16))
    wide_cos, wide_sin = (torch.cat((table, table), -1).transpose(0, 1) for table in (cos, sin))
    halves, _ = judge.apply_rotary_pos_emb(x[None].transpose(1, 2), x[None].transpose(1, 2), wide_cos, wide_sin)
    expected = halves[0].transpose(0, 1)[..., pairs]
    torch.testing.assert_close(rotate(x[..., pairs], cos, sin), expected, **CLOSE)


@pytest.mark.parametrize("window", [None, 1, 3, 300])
@pytest.mark.parametrize(("seq", "past"), [(1, 0), (9, 0), (1, 9), (4, 5), (520, 30)])
def test_attention_equals_torch(window: int | None, seq: int, past: int) -> None:
    """The judge is torch's own attention, with keys repeated and the mask written out."""
    queries, keys, values = random(seq, 4, 8), random(2, past + seq, 8, seed=1), random(2, past + seq, 8, seed=2)
    mask = torch.tensor(
        [
            [key <= past + query and (window is None or past + query - key < window) for key in range(past + seq)]
            for query in range(seq)
        ]
    )
    expected = torch.nn.functional.scaled_dot_product_attention(
        queries.transpose(0, 1), keys.repeat_interleave(2, 0), values.repeat_interleave(2, 0), attn_mask=mask
    )
    torch.testing.assert_close(attend(queries, keys, values, window), expected.transpose(0, 1), **CLOSE)


def test_swiglu_equals_transformers() -> None:
    mlp = judge.LlamaMLP(LlamaConfig(hidden_size=32, intermediate_size=48))
    x = random(7, 32)
    ours = swiglu(x, mlp.gate_proj.weight.data, mlp.up_proj.weight.data, mlp.down_proj.weight.data)
    torch.testing.assert_close(ours, mlp(x).detach(), **CLOSE)
