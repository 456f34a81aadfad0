"""Llama and the decoders that are built like it: RMSNorm, rotary positions, grouped heads, SwiGLU.

Names and hyper-parameters: `modeling_llama.py` and `configuration_llama.py` in transformers; `LlamaModel` in
llama.cpp's conversion/llama.py; the `llama` tensors in gguf-py's constants.py. Mistral 7B is the same decoder with a
sliding window; GGUF calls it `llama` too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from converters import dtypes
from converters.architectures.llama_params import from_params as from_params
from converters.architectures.llama_params import to_meta_params as to_meta_params
from converters.architectures.llama_params import to_mistral_params as to_mistral_params
from converters.fields import Fields
from converters.hyperparameters import HyperParameters, RopeScaling
from converters.tensors import ComputedTensor, Tensor, TensorInfo

NAME = "llama"
HF_CLASSES: tuple[str, ...] = ("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM")
_MISTRAL = "MistralForCausalLM"

# llama.cpp reads no more layers than this, and no model that we know of has a third as many.
_MOST_LAYERS = 512

_FREQUENCIES = "rope_freqs.weight"
# GGUF holds the factors and not the numbers behind them; these are Llama 3.1's and Llama 3.2's.
_PUBLISHED_LLAMA3_SCALINGS = (
    RopeScaling("llama3", 8.0, 1.0, 4.0, 8192),
    RopeScaling("llama3", 32.0, 1.0, 4.0, 8192),
)

_OF_A_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_META_OF_A_LAYER = {
    "attn_norm": "attention_norm",
    "attn_q": "attention.wq",
    "attn_k": "attention.wk",
    "attn_v": "attention.wv",
    "attn_output": "attention.wo",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "feed_forward.w1",
    "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
}


def from_config(config: Fields) -> HyperParameters:
    """Hyper-parameters out of config.json. Defaults are `LlamaConfig`'s, where it has any."""
    dim = config.integer("hidden_size", maximum=2**20)
    n_heads = config.integer("num_attention_heads", maximum=2**14)
    n_kv_heads = config.integer("num_key_value_heads", maximum=n_heads, default=n_heads)
    if n_heads % n_kv_heads:
        raise config.error("num_key_value_heads", n_kv_heads, f"a divisor of num_attention_heads, {n_heads}")
    if "head_dim" not in config and dim % n_heads:
        raise config.error("hidden_size", dim, f"a multiple of num_attention_heads, {n_heads}")
    head_dim = config.integer("head_dim", maximum=2**14, default=dim // n_heads)
    if head_dim % 2:
        raise config.error("head_dim", head_dim, "an even number: rotary positions turn pairs")
    for key in ("attention_bias", "mlp_bias"):
        if config.boolean(key, default=False):
            raise config.error(key, True, "false: biases are not handled yet")
    activation = config.string("hidden_act", default="silu")
    if activation != "silu":
        raise config.error("hidden_act", activation, "silu")
    rope = config.section("rope_parameters")  # transformers 5 keeps theta and scaling in one place
    theta = rope if rope is not None and "rope_theta" in rope else config
    return HyperParameters(
        dim=dim,
        hidden_dim=config.integer("intermediate_size", maximum=2**22),
        n_layers=config.integer("num_hidden_layers", maximum=_MOST_LAYERS),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab_size=config.integer("vocab_size", maximum=2**24),
        norm_eps=config.number("rms_norm_eps", maximum=1.0, default=1e-6),
        rope_theta=theta.number("rope_theta", default=10_000.0),
        context_length=config.integer("max_position_embeddings", maximum=2**30, default=2048),
        rope_scaling=_scaling_from_config(rope if rope is not None else config.section("rope_scaling")),
        sliding_window=config.integer("sliding_window") if "sliding_window" in config else None,
        tied_embeddings=config.boolean("tie_word_embeddings", default=False),
    )


def _scaling_from_config(scaling: Fields | None) -> RopeScaling | None:
    if scaling is None:
        return None
    kind = scaling.string("rope_type", default=scaling.string("type", default="default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", scaling.number("factor", maximum=1e6))
    if kind == "llama3":
        low = scaling.number("low_freq_factor", maximum=1e6)
        return RopeScaling(
            "llama3",
            scaling.number("factor", maximum=1e6),
            low,
            scaling.number("high_freq_factor", above=low, maximum=1e6),
            scaling.integer("original_max_position_embeddings"),
        )
    raise scaling.error("rope_type", kind, "default, linear, llama3")


def to_config(parameters: HyperParameters) -> dict[str, object]:
    """The part of config.json that is about the decoder's shape."""
    is_mistral = parameters.sliding_window is not None
    config: dict[str, object] = {
        "architectures": [_MISTRAL if is_mistral else HF_CLASSES[0]],
        "model_type": "mistral" if is_mistral else "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": parameters.head_dim,
        "hidden_act": "silu",
        "hidden_size": parameters.dim,
        "initializer_range": 0.02,
        "intermediate_size": parameters.hidden_dim,
        "max_position_embeddings": parameters.context_length,
        "mlp_bias": False,
        "num_attention_heads": parameters.n_heads,
        "num_hidden_layers": parameters.n_layers,
        "num_key_value_heads": parameters.n_kv_heads,
        "rms_norm_eps": parameters.norm_eps,
        "rope_scaling": _scaling_to_config(parameters.rope_scaling),
        "rope_theta": parameters.rope_theta,
        "tie_word_embeddings": parameters.tied_embeddings,
        "use_cache": True,
        "vocab_size": parameters.vocab_size,
    }
    if is_mistral:
        config["sliding_window"] = parameters.sliding_window
        del config["attention_bias"], config["mlp_bias"]
    return config


def _scaling_to_config(scaling: RopeScaling | None) -> dict[str, object] | None:
    if scaling is None:
        return None
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context_length,
    }


def from_gguf(fields: Fields) -> HyperParameters:
    """Hyper-parameters out of the `llama.*` keys.

    What the keys do not say (vocab_size, tied_embeddings, "llama3" scaling) is left to `settle`.
    """
    if "llama.expert_count" in fields and fields.integer("llama.expert_count", minimum=0):
        raise fields.error("llama.expert_count", fields.values["llama.expert_count"], "0: experts are not handled yet")
    dim = fields.integer("llama.embedding_length", maximum=2**20)
    n_heads = fields.integer("llama.attention.head_count", maximum=2**14)
    n_kv_heads = fields.integer("llama.attention.head_count_kv", maximum=n_heads, default=n_heads)
    if n_heads % n_kv_heads:
        raise fields.error("llama.attention.head_count_kv", n_kv_heads, f"a divisor of head_count, {n_heads}")
    if "llama.attention.key_length" not in fields and dim % n_heads:
        raise fields.error("llama.embedding_length", dim, f"a multiple of head_count, {n_heads}")
    head_dim = fields.integer("llama.attention.key_length", maximum=2**14, default=dim // n_heads)
    value_length = fields.integer("llama.attention.value_length", default=head_dim)
    if value_length != head_dim:
        raise fields.error("llama.attention.value_length", value_length, f"key_length, {head_dim}")
    rotary = fields.integer("llama.rope.dimension_count", default=head_dim)
    if rotary != head_dim or rotary % 2:
        raise fields.error("llama.rope.dimension_count", rotary, f"the head's {head_dim}, an even number")
    return HyperParameters(
        dim=dim,
        hidden_dim=fields.integer("llama.feed_forward_length", maximum=2**22),
        n_layers=fields.integer("llama.block_count", maximum=_MOST_LAYERS),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        vocab_size=fields.integer("llama.vocab_size", maximum=2**24, default=1),
        norm_eps=shortest(fields.number("llama.attention.layer_norm_rms_epsilon", maximum=1.0)),
        rope_theta=shortest(fields.number("llama.rope.freq_base", default=10_000.0)),
        context_length=fields.integer("llama.context_length", maximum=2**30),
        rope_scaling=_scaling_from_gguf(fields),
        sliding_window=(
            fields.integer("llama.attention.sliding_window") if "llama.attention.sliding_window" in fields else None
        ),
    )


def _scaling_from_gguf(fields: Fields) -> RopeScaling | None:
    """A factor alone scales linearly, and has an older key; 0 is none (`load_hparams` in llama-model.cpp)."""
    factor = "llama.rope.scaling.factor"
    if factor not in fields and "llama.rope.scale_linear" in fields:
        factor = "llama.rope.scale_linear"
    scales = factor in fields and fields.values[factor] != 0
    kind = fields.string("llama.rope.scaling.type", default="linear" if scales else "none")
    if kind == "none":
        return None
    if kind == "linear":
        return RopeScaling("linear", shortest(fields.number(factor, maximum=1e6)))
    raise fields.error("llama.rope.scaling.type", kind, "none, linear")


def to_gguf(parameters: HyperParameters) -> dict[str, object]:
    """The `llama.*` keys. "llama3" scaling has no key: it is the tensor `rope_freqs.weight`."""
    keys: dict[str, object] = {
        "llama.block_count": parameters.n_layers,
        "llama.context_length": parameters.context_length,
        "llama.embedding_length": parameters.dim,
        "llama.feed_forward_length": parameters.hidden_dim,
        "llama.attention.head_count": parameters.n_heads,
        "llama.attention.head_count_kv": parameters.n_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": parameters.norm_eps,
        "llama.attention.key_length": parameters.head_dim,
        "llama.attention.value_length": parameters.head_dim,
        "llama.rope.freq_base": parameters.rope_theta,
        "llama.rope.dimension_count": parameters.head_dim,
        "llama.vocab_size": parameters.vocab_size,
    }
    if parameters.rope_scaling is not None and parameters.rope_scaling.kind == "linear":
        keys["llama.rope.scaling.type"] = "linear"
        keys["llama.rope.scaling.factor"] = parameters.rope_scaling.factor
    if parameters.sliding_window is not None:
        keys["llama.attention.sliding_window"] = parameters.sliding_window
    return keys


def hf_names(parameters: HyperParameters) -> Mapping[str, str]:
    """GGUF name to Hugging Face name, in the order in which GGUF files are written."""
    names = {"token_embd.weight": "model.embed_tokens.weight"}
    for layer in range(parameters.n_layers):
        for ours, theirs in _OF_A_LAYER.items():
            names[f"blk.{layer}.{ours}.weight"] = f"model.layers.{layer}.{theirs}.weight"
    names["output_norm.weight"] = "model.norm.weight"
    if not parameters.tied_embeddings:
        names["output.weight"] = "lm_head.weight"
    return names


def meta_names(parameters: HyperParameters) -> Mapping[str, str]:
    """GGUF name to the one in Meta's own files (`Transformer` in llama/model.py), in the same order."""
    names = {"token_embd.weight": "tok_embeddings.weight"}
    for layer in range(parameters.n_layers):
        for ours, theirs in _META_OF_A_LAYER.items():
            names[f"blk.{layer}.{ours}.weight"] = f"layers.{layer}.{theirs}.weight"
    names["output_norm.weight"] = "norm.weight"
    if not parameters.tied_embeddings:
        names["output.weight"] = "output.weight"
    return names


def meta_axis(name: str) -> int | None:
    """Along which axis Meta divides a tensor: of ColumnParallelLinear the rows, of RowParallelLinear the columns."""
    if name.endswith((".attn_output.weight", ".ffn_down.weight")):
        return 1
    return None if name.endswith("_norm.weight") else 0


def shapes(parameters: HyperParameters) -> Mapping[str, tuple[int, ...]]:
    """The shape of each tensor, row-major: (outputs, inputs)."""
    p = parameters
    of_a_layer: dict[str, tuple[int, ...]] = {
        "attn_norm": (p.dim,),
        "attn_q": (p.n_heads * p.head_dim, p.dim),
        "attn_k": (p.n_kv_heads * p.head_dim, p.dim),
        "attn_v": (p.n_kv_heads * p.head_dim, p.dim),
        "attn_output": (p.dim, p.n_heads * p.head_dim),
        "ffn_norm": (p.dim,),
        "ffn_gate": (p.hidden_dim, p.dim),
        "ffn_up": (p.hidden_dim, p.dim),
        "ffn_down": (p.dim, p.hidden_dim),
    }
    result: dict[str, tuple[int, ...]] = {"token_embd.weight": (p.vocab_size, p.dim)}
    for layer in range(p.n_layers):
        result |= {f"blk.{layer}.{name}.weight": shape for name, shape in of_a_layer.items()}
    result["output_norm.weight"] = (p.dim,)
    if not p.tied_embeddings:
        result["output.weight"] = (p.vocab_size, p.dim)
    return result


def heads_to_reorder(name: str, parameters: HyperParameters) -> bool:
    """q and k: rotary pairs are rows (2i, 2i+1) in GGUF and rows (i, i + head_dim/2) in Hugging Face's files."""
    return name.endswith((".attn_q.weight", ".attn_k.weight"))


def computed_tensors(parameters: HyperParameters) -> Mapping[str, Tensor]:
    """Tensors that GGUF holds and Hugging Face's files do not: the frequency factors of "llama3" scaling."""
    if parameters.rope_scaling is None or parameters.rope_scaling.kind != "llama3":
        return {}
    factors = frequency_factors(parameters.head_dim, parameters.rope_theta, parameters.rope_scaling)
    info = TensorInfo(_FREQUENCIES, dtypes.F32, factors.shape)
    return {_FREQUENCIES: ComputedTensor(info, "computed from rope_scaling", factors.view(np.uint8)[np.newaxis])}


def settle(parameters: HyperParameters, tensors: Mapping[str, Tensor]) -> HyperParameters:
    """Fill in what GGUF leaves to the tensors: tied embeddings, their rows, the published "llama3" scalings."""
    embedding = tensors.get("token_embd.weight")
    parameters = replace(parameters, tied_embeddings="output.weight" not in tensors)
    if embedding is not None and len(embedding.info.shape) == 2:
        parameters = replace(parameters, vocab_size=embedding.info.shape[0])
    expected = TensorInfo(_FREQUENCIES, dtypes.F32, (parameters.head_dim // 2,))
    if _FREQUENCIES in tensors and tensors[_FREQUENCIES].info == expected:
        stored = tensors[_FREQUENCIES].read_rows(0, 1).view(np.float32)[0]
        for scaling in _PUBLISHED_LLAMA3_SCALINGS:
            # Machines that raise to powers otherwise may come to other last bits.
            if np.allclose(stored, frequency_factors(parameters.head_dim, parameters.rope_theta, scaling), 1e-6, 0):
                parameters = replace(parameters, rope_scaling=scaling)
    return parameters


def frequency_factors(head_dim: int, theta: float, scaling: RopeScaling) -> npt.NDArray[np.float32]:
    """By what each rotary frequency is divided under "llama3" scaling: float32, shape (head_dim / 2,).

    `generate_extra_tensors` in llama.cpp's conversion/llama.py, bit by bit: float32 all the way, where torch divides a
    number by a tensor as the number times the tensor's reciprocal. `_compute_llama3_parameters` in transformers'
    modeling_rope_utils.py says the same.
    """
    with np.errstate(all="ignore"):  # a hostile theta gives nonsense, and no warnings
        return _frequency_factors(head_dim, theta, scaling)


def _frequency_factors(head_dim: int, theta: float, scaling: RopeScaling) -> npt.NDArray[np.float32]:
    one, original = np.float32(1), np.float32(scaling.original_context_length)
    low, high = np.float32(scaling.low_freq_factor), np.float32(scaling.high_freq_factor)
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = one / (np.float64(theta) ** exponents.astype(np.float64)).astype(np.float32)
    wavelengths = one / frequencies * np.float32(2 * np.pi)
    smooth = (one / wavelengths * original - low) / (high - low)
    blended = one / ((one - smooth) / np.float32(scaling.factor) + smooth)
    short, long = wavelengths < original / high, wavelengths > original / low
    return np.where(short, one, np.where(long, np.float32(scaling.factor), blended)).astype(np.float32)


def shortest(value: float) -> float:
    """The number somebody wrote, out of its float32: 9.999999747378752e-06 was 1e-05."""
    return float(f"{value:.7g}")
