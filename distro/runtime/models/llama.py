"""Llama: the whole decoder, in the order of the computation. Mistral is the same with a sliding window.

Meta's model.py (meta-llama/llama) is the origin; names of weights are GGUF's.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import linear

from converters.hyperparameters import HyperParameters
from distro.runtime.kv_cache import KVCache
from distro.runtime.layers import attend, rms_norm, rotary_frequencies, rotate, rotation, swiglu
from distro.runtime.load import Weights


class Llama:
    """A decoder over weights that may lie in memory or be read as they are needed."""

    def __init__(self, parameters: HyperParameters, weights: Weights) -> None:
        self.parameters, self.weights = parameters, weights
        self.frequencies = rotary_frequencies(
            parameters.head_dim, parameters.rope_theta, parameters.rope_scaling, weights.get("rope_freqs.weight")
        )

    def forward(self, ids: Sequence[int], cache: KVCache | None = None, *, last_only: bool = False) -> Tensor:
        """Logits of the token after each of `ids`, shape (seq, vocab_size); (1, vocab_size) where last_only.

        cache: positions before these, which it then joins them to; None where these are all there are.
        """
        p = self.parameters
        start = 0 if cache is None else cache.length
        cos, sin = rotation(self.frequencies, start, len(ids))
        x = self.weights.rows("token_embd.weight", ids)  # (seq, dim), the residual stream
        for layer in range(p.n_layers):
            x = x + self._attention(layer, x, cos, sin, cache)
            x = x + self._feed_forward(layer, x)
        if cache is not None:
            cache.advance(len(ids))
        if last_only:
            x = x[-1:]
        x = rms_norm(x, self.weights["output_norm.weight"], p.norm_eps)
        return self.weights.product(x, "token_embd.weight" if p.tied_embeddings else "output.weight")

    def _attention(self, layer: int, x: Tensor, cos: Tensor, sin: Tensor, cache: KVCache | None) -> Tensor:
        p, w, blk = self.parameters, self.weights, f"blk.{layer}."
        x = rms_norm(x, w[blk + "attn_norm.weight"], p.norm_eps)
        # (seq, heads, head_dim)
        queries = linear(x, w[blk + "attn_q.weight"]).view(-1, p.n_heads, p.head_dim)
        keys = linear(x, w[blk + "attn_k.weight"]).view(-1, p.n_kv_heads, p.head_dim)
        values = linear(x, w[blk + "attn_v.weight"]).view(-1, p.n_kv_heads, p.head_dim)
        queries, keys = rotate(queries, cos, sin), rotate(keys, cos, sin)
        # (n_kv_heads, n_keys, head_dim)
        if cache is None:
            past_keys, past_values = keys.transpose(0, 1), values.transpose(0, 1)
        else:
            past_keys, past_values = cache.put(layer, keys, values)
        heads = attend(queries, past_keys, past_values, p.sliding_window)
        return linear(heads.flatten(-2), w[blk + "attn_output.weight"])

    def _feed_forward(self, layer: int, x: Tensor) -> Tensor:
        w, blk = self.weights, f"blk.{layer}."
        x = rms_norm(x, w[blk + "ffn_norm.weight"], self.parameters.norm_eps)
        return swiglu(x, w[blk + "ffn_gate.weight"], w[blk + "ffn_up.weight"], w[blk + "ffn_down.weight"])
