"""params.json of a llama: what Meta and Mistral say of a decoder's shape, each in words of its own.

    dim n_layers n_heads n_kv_heads norm_eps vocab_size rope_theta     both
    multiple_of ffn_dim_multiplier use_scaled_rope max_seq_len         Meta: `ModelArgs` in meta-llama/llama
                                                                       llama/model.py, and in meta-llama/llama-models
                                                                       models/llama3/args.py
    head_dim hidden_dim sliding_window tied_embeddings …               Mistral: `TransformerArgs` in
                                                                       mistralai/mistral-inference args.py

A file with `hidden_dim` is Mistral's. A key of any other name is refused unless it is null or false, for nobody can
tell what a number does that he does not know.

**What the files leave out.** Meta's loaders take the context length from whoever calls them, so here it follows from
the generation: 131072 with use_scaled_rope (Llama 3.1 and later), 8192 by rope_theta 500000 (Llama 3), 16384 by
1000000 (Code Llama), 2048 for LLaMA 1, 4096 for all else (Llama 2). LLaMA 1 7B and Llama 2 7B Chat have the same
file; LLaMA 1 was released in F16 and Llama 2 in BF16, which alone tells them apart. Mistral's models have 32768. A
`max_seq_len` (`max_position_embeddings`) in the file goes before all that; we write it only where these rules would
give another number, as Meta's loaders refuse it. The factor of use_scaled_rope is 8, in the small models of Llama 3.2
(1B and 3B, no others are so narrow) 32. Without rope_theta it is 10000; with Mistral, who has no sliding window has
1000000 (`Transformer.freqs_cis` in mistral-inference). `tied_embeddings` is Mistral's; for the models that Meta tied
the file says nothing, and the weights lie in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from converters import dtypes
from converters.dtypes import DType
from converters.errors import RefusedError, UnsupportedError
from converters.fields import Fields
from converters.hyperparameters import HyperParameters, RopeScaling

_KNOWN = frozenset({
    "dim", "n_layers", "n_heads", "n_kv_heads", "norm_eps", "vocab_size", "rope_theta", "max_batch_size", "max_seq_len",
    "multiple_of", "ffn_dim_multiplier", "use_scaled_rope",
    "head_dim", "hidden_dim", "sliding_window", "tied_embeddings", "max_position_embeddings",
})  # fmt: skip
_FIXED: dict[str, object] = {"model_type": "transformer", "activation": "silu", "causal": True}
_MOST_LAYERS = 512
_MULTIPLE_OF = 256

_OLDEST_THETA, _LLAMA_3_THETA, _LONG_THETA = 10_000.0, 500_000.0, 1_000_000.0
_NARROWEST_OF_3_1 = 4096
_MISTRAL_CONTEXT = 32768

# How Meta itself came by the widths that its older models do not have: (dim, hidden_dim) to multiple_of and multiplier.
_PUBLISHED_WIDTHS = {
    (2048, 8192): (256, 1.5), (3072, 8192): (256, 1.0), (4096, 14336): (1024, 1.3), (8192, 28672): (4096, 1.3),
    (16384, 53248): (4096, 1.2),
}  # fmt: skip


def from_params(params: Fields, embedding_weights: int, dtype: DType) -> HyperParameters:
    """Hyper-parameters out of params.json.

    embedding_weights: numbers in the whole embedding, whose rows count where vocab_size is -1 or not there. dtype: of
    the weights. Raises MalformedError, UnsupportedError for what is no plain decoder (`moe`, `vision_encoder`, …).
    """
    _check_keys(params)
    dim = params.integer("dim", maximum=2**20)
    n_heads = params.integer("n_heads", maximum=2**14)
    n_kv_heads = params.integer("n_kv_heads", maximum=n_heads, default=n_heads)
    if n_heads % n_kv_heads:
        raise params.error("n_kv_heads", n_kv_heads, f"a divisor of n_heads, {n_heads}")
    if "head_dim" not in params and dim % n_heads:
        raise params.error("dim", dim, f"a multiple of n_heads, {n_heads}")
    head_dim = params.integer("head_dim", maximum=2**14, default=dim // n_heads)
    if head_dim % 2:
        raise params.error("head_dim" if "head_dim" in params else "dim", head_dim, "heads of an even width")
    is_mistral = "hidden_dim" in params
    window = params.integer("sliding_window") if "sliding_window" in params else None
    scaled = params.boolean("use_scaled_rope", default=False)
    usual_theta = _LONG_THETA if is_mistral and window is None else _OLDEST_THETA
    found = HyperParameters(
        dim=dim,
        hidden_dim=params.integer("hidden_dim", maximum=2**22) if is_mistral else _hidden_dim_of(params, dim),
        n_layers=params.integer("n_layers", maximum=_MOST_LAYERS),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab_size=_vocab_size(params, embedding_weights, dim),
        norm_eps=params.number("norm_eps", maximum=1.0),
        rope_theta=params.number("rope_theta", default=usual_theta),
        context_length=1,
        rope_scaling=_scaling(dim) if scaled else None,
        sliding_window=window,
        tied_embeddings=params.boolean("tied_embeddings", default=False),
    )
    usual = _MISTRAL_CONTEXT if is_mistral else _context_length(found, dtype)
    key = "max_position_embeddings" if "max_position_embeddings" in params else "max_seq_len"
    return replace(found, context_length=params.integer(key, maximum=2**30, default=usual))


def _check_keys(params: Fields) -> None:
    for key, value in params.values.items():
        if key in _FIXED and value is not None and value != _FIXED[key]:
            raise UnsupportedError(params.path, f"{params.prefix}{key}", found=value, allowed=repr(_FIXED[key]))
        if key not in _KNOWN and key not in _FIXED and value is not None and value is not False:
            allowed = "only the keys of a plain decoder"
            raise UnsupportedError(params.path, f"{params.prefix}{key}", found=value, allowed=allowed)


def _vocab_size(params: Fields, embedding_weights: int, dim: int) -> int:
    given = params.integer("vocab_size", minimum=-1, maximum=2**24, default=-1)
    if given == 0:
        raise params.error("vocab_size", 0, "-1 or a number of tokens")
    if given > 0:
        return given
    if embedding_weights == 0 or embedding_weights % dim:
        raise params.error("dim", dim, f"a divisor of the embedding's {embedding_weights} weights")
    return embedding_weights // dim


def _hidden_dim_of(params: Fields, dim: int) -> int:
    multiple_of = params.integer("multiple_of", maximum=2**22, default=_MULTIPLE_OF)
    multiplier = params.number("ffn_dim_multiplier", maximum=1e7) if "ffn_dim_multiplier" in params else None
    return hidden_dim(dim, multiple_of, multiplier)


def hidden_dim(dim: int, multiple_of: int, multiplier: float | None) -> int:
    """Meta's rule for the width of the feed-forward network (`FeedForward` in llama/model.py)."""
    width = int(2 * (4 * dim) / 3)
    if multiplier is not None:
        width = int(multiplier * width)
    return multiple_of * -(-width // multiple_of)


def _scaling(dim: int) -> RopeScaling:
    return RopeScaling("llama3", 8.0 if dim >= _NARROWEST_OF_3_1 else 32.0, 1.0, 4.0, 8192)


def _context_length(p: HyperParameters, dtype: DType) -> int:
    """By the generation; the rules stand at the top of this module."""
    if p.rope_scaling is not None:
        return 131072
    if p.rope_theta == _LLAMA_3_THETA:
        return 8192
    if p.rope_theta == _LONG_THETA:
        return 16384
    as_in_llama_1 = p.norm_eps == 1e-6 or (p.dim == 8192 and p.n_kv_heads == p.n_heads)  # 65B has 1e-5, as Llama 2
    return 2048 if as_in_llama_1 and dtype == dtypes.F16 else 4096


def to_meta_params(parameters: HyperParameters, dtype: DType) -> dict[str, object]:
    """params.json as Meta writes it. dtype: of the weights that will lie beside it.

    Raises RefusedError for what Meta's loaders have no word for.
    """
    p = parameters
    if p.head_dim * p.n_heads != p.dim:
        raise RefusedError(f"params.json: heads of {p.head_dim} x {p.n_heads} in a dim of {p.dim} have no place in it")
    if p.sliding_window is not None:
        raise RefusedError(f"params.json: a sliding window of {p.sliding_window} has no place in it; use --to mistral")
    if p.rope_scaling not in (None, _scaling(p.dim)):
        raise RefusedError(f"params.json: {p.rope_scaling} has no place in it, only what Llama 3.1 and 3.2 have")
    multiple_of, multiplier = _width(p.dim, p.hidden_dim)
    params: dict[str, object] = {"dim": p.dim, "multiple_of": multiple_of}
    if multiplier is not None:
        params["ffn_dim_multiplier"] = multiplier
    params["n_heads"] = p.n_heads
    if p.n_kv_heads != p.n_heads:
        params["n_kv_heads"] = p.n_kv_heads
    # All of Meta's files for 32000 tokens leave them to the tokenizer.
    params |= {
        "n_layers": p.n_layers,
        "norm_eps": p.norm_eps,
        "vocab_size": -1 if p.vocab_size == 32000 else p.vocab_size,
    }
    if p.rope_theta != _OLDEST_THETA:
        params["rope_theta"] = p.rope_theta
    if p.rope_scaling is not None:
        params["use_scaled_rope"] = True
    if p.context_length != _context_length(p, dtype):
        params["max_seq_len"] = p.context_length
    if p.tied_embeddings:
        params["tied_embeddings"] = True
    return params


def to_mistral_params(parameters: HyperParameters) -> dict[str, object]:
    """params.json as Mistral writes it. Raises RefusedError for what it has no word for."""
    p = parameters
    if p.rope_scaling is not None:
        raise RefusedError(f"params.json: {p.rope_scaling} has no place in Mistral's")
    params: dict[str, object] = {
        "dim": p.dim, "n_layers": p.n_layers, "head_dim": p.head_dim, "hidden_dim": p.hidden_dim, "n_heads": p.n_heads,
        "n_kv_heads": p.n_kv_heads, "norm_eps": p.norm_eps, "vocab_size": p.vocab_size, "rope_theta": p.rope_theta,
    }  # fmt: skip
    if p.sliding_window is not None:
        params["sliding_window"] = p.sliding_window
    if p.context_length != _MISTRAL_CONTEXT:
        params["max_position_embeddings"] = p.context_length
    if p.tied_embeddings:
        params["tied_embeddings"] = True
    return params


def _width(dim: int, wanted: int) -> tuple[int, float | None]:
    """multiple_of and ffn_dim_multiplier that give this width: Meta's own, else the plainest. There always are some."""
    return _PUBLISHED_WIDTHS.get((dim, wanted)) or next(
        (multiple_of, multiplier)
        for multiple_of, multiplier in _candidates(dim, wanted)
        if hidden_dim(dim, multiple_of, multiplier) == wanted
    )


def _candidates(dim: int, wanted: int) -> Iterator[tuple[int, float | None]]:
    """Powers of two alone, 256 first; then multipliers of ever more digits, whose result is rounded up to the width."""
    for power in (8, 9, 10, 11, 12, *range(7, -1, -1)):
        yield 1 << power, None
    multiple_of = min(wanted & -wanted, _MULTIPLE_OF)
    middle = wanted + 1 - multiple_of / 2  # of all widths that are cut and rounded to the one that is wanted
    for digits in range(1, 18):
        yield multiple_of, round(middle / hidden_dim(dim, 1, None), digits)
