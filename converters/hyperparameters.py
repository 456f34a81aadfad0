"""The numbers that make one decoder different from another, in our words.

The dialects (config.json, GGUF keys, params.json) are spoken only in `converters/architectures/`.
"""

from __future__ import annotations

from dataclasses import dataclass

_KV_BYTES = 2  # of each number in the cache of keys and values


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for long contexts.

    kind: "linear" or "llama3" (transformers `modeling_rope_utils.py`). factor: by how much. The rest belongs to
    "llama3" alone: frequencies whose wavelength is between original_context_length / high_freq_factor and
    original_context_length / low_freq_factor are blended.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192


@dataclass(frozen=True)
class HyperParameters:
    """A decoder's shape. All counts are positive; n_heads is a multiple of n_kv_heads."""

    dim: int  # width of the residual stream
    hidden_dim: int  # width inside the feed-forward network
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int  # rows of the embedding, which may be more than the tokenizer has tokens
    norm_eps: float
    rope_theta: float
    context_length: int
    rope_scaling: RopeScaling | None = None
    sliding_window: int | None = None  # positions that a query sees, None for all
    tied_embeddings: bool = False  # the output matrix is the embedding
    n_experts: int = 0  # 0 for a dense feed-forward network
    n_experts_used: int = 0


def cache_bytes(parameters: HyperParameters, context_length: int) -> int:
    """Keys and values of so many positions, in every layer, in float16, as llama.cpp has them by default."""
    positions = min(context_length, parameters.sliding_window or context_length)
    return 2 * parameters.n_layers * parameters.n_kv_heads * parameters.head_dim * positions * _KV_BYTES
