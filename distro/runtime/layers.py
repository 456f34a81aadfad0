"""The parts of a decoder, each one function over float32 tensors: norm, rotary positions, attention, feed-forward.

There is no batch axis: one sequence is one matrix, (seq, dim). Weights are as at rest, (outputs, inputs). Rows of q
and k are in GGUF's order, in which a rotary pair is two neighbours; the order in halves is the converters' concern.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from converters.hyperparameters import RopeScaling

# Queries that attend at once: bounds the scores in memory, (n_heads, _QUERIES_AT_ONCE, n_keys).
_QUERIES_AT_ONCE = 256


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Scale each row to a root mean square of one, then each column by its weight.

    x: (seq, dim). weight: (dim). Formula: x / sqrt(mean(x^2) + eps) * weight, arXiv 1910.07467; eps inside the root
    as in `RMSNorm` of meta-llama/llama (model.py).
    """
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def rotary_frequencies(
    head_dim: int, theta: float, scaling: RopeScaling | None = None, factors: Tensor | None = None
) -> Tensor:
    """How far each pair of a head turns from one position to the next, in radians: shape (head_dim / 2).

    theta^(-2i / head_dim), arXiv 2104.09864, in float32 as in the code that models are trained with
    (`precompute_freqs_cis` in meta-llama/llama). scaling: "linear" divides all by its factor; "llama3" divides the slow
    ones and blends those between, as `_compute_llama3_parameters` in transformers' modeling_rope_utils.py. factors:
    `rope_freqs.weight`, shape (head_dim / 2), by which a GGUF file wants frequencies divided; stands in for "llama3".
    """
    frequencies = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    if scaling is not None and scaling.kind == "linear":
        frequencies = frequencies / scaling.factor
    if factors is not None:
        return frequencies / factors
    if scaling is not None and scaling.kind == "llama3":
        return _slow_the_slow(frequencies, scaling)
    return frequencies


def _slow_the_slow(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Llama 3's stretch: share 1 keeps a frequency, share 0 divides it by the factor."""
    turns = scaling.original_context_length / (2 * math.pi / frequencies)  # over the context of the first training
    share = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    share = share.clamp(0, 1)
    return (1 - share) * frequencies / scaling.factor + share * frequencies


def rotation(frequencies: Tensor, start: int, n_positions: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine for positions from start on: two of shape (n_positions, 1, head_dim / 2), one for all heads."""
    positions = torch.arange(start, start + n_positions, dtype=torch.float32)
    angles = torch.outer(positions, frequencies)[:, None, :]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of neighbours (2i, 2i + 1) by its position's angle.

    x: (seq, n_heads, head_dim). cos, sin: (seq, 1, head_dim / 2), from `rotation`.
    """
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, window: int | None = None) -> Tensor:
    """Causal attention with grouped heads: the last positions look at all positions up to their own.

    queries: (seq, n_heads, head_dim). keys, values: (n_kv_heads, n_keys, head_dim) with n_keys >= seq; query i stands
    at position n_keys - seq + i. Head h reads key head h * n_kv_heads // n_heads. window: how many positions a query
    sees, its own among them; None for all. Returns (seq, n_heads, head_dim). Formula: softmax(q k^T / sqrt(head_dim))
    v, arXiv 1706.03762; groups, arXiv 2305.13245; window, arXiv 2310.06825.
    """
    seq, n_heads, head_dim = queries.shape
    n_kv_heads, n_keys, _ = keys.shape
    # (n_kv_heads, heads in a group, seq, head_dim); keys and values are shared by their group
    grouped = queries.transpose(0, 1).reshape(n_kv_heads, n_heads // n_kv_heads, seq, head_dim)
    result = torch.empty_like(grouped)
    for first in range(0, seq, _QUERIES_AT_ONCE):
        last = min(first + _QUERIES_AT_ONCE, seq)
        begin, end = n_keys - seq + first, n_keys - seq + last  # positions of these queries
        oldest = 0 if window is None else max(0, begin - window + 1)
        scores = grouped[:, :, first:last] @ keys[:, None, oldest:end].transpose(-1, -2) / math.sqrt(head_dim)
        distance = torch.arange(begin, end)[:, None] - torch.arange(oldest, end)  # from key to query
        hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
        weights = scores.masked_fill_(hidden, -math.inf).softmax(-1)
        result[:, :, first:last] = weights @ values[:, None, oldest:end]
    return result.reshape(n_heads, seq, head_dim).transpose(0, 1)


def swiglu(x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """The gated feed-forward network: down(silu(gate x) * up x), arXiv 2002.05202.

    x: (seq, dim). gate, up: (hidden_dim, dim). down: (dim, hidden_dim).
    """
    return linear(silu(linear(x, gate)) * linear(x, up), down)
