"""Llama's dialects against transformers, and the order of rows against llama.cpp's formula."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converters import dtypes
from converters.architectures import by_gguf_name, by_hf_class, llama
from converters.architectures.rows import halves_from_pairs, pairs_from_halves
from converters.errors import MalformedError, UnsupportedError
from converters.fields import Fields
from converters.hyperparameters import HyperParameters, RopeScaling
from converters.tensors import ComputedTensor, TensorInfo

PATH = Path("config.json")
CONFIG: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 4096,
}
PARAMETERS = HyperParameters(
    dim=64, hidden_dim=160, n_layers=2, n_heads=8, n_kv_heads=2, head_dim=8, vocab_size=100,
    norm_eps=1e-5, rope_theta=500000.0, context_length=4096,
)  # fmt: skip


def test_config_becomes_hyper_parameters() -> None:
    assert llama.from_config(Fields(PATH, CONFIG, "/")) == PARAMETERS


@pytest.mark.parametrize(
    "parameters",
    [
        PARAMETERS,
        replace(PARAMETERS, tied_embeddings=True, head_dim=16),
        replace(PARAMETERS, sliding_window=512, rope_scaling=RopeScaling("linear", 4.0)),
        replace(PARAMETERS, rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)),
    ],
)
def test_both_dialects_lead_back(parameters: HyperParameters) -> None:
    assert llama.from_config(Fields(PATH, llama.to_config(parameters), "/")) == parameters

    keys = {key: np.float32(value).item() if isinstance(value, float) else value
            for key, value in llama.to_gguf(parameters).items()}  # fmt: skip
    tensors = {
        name: ComputedTensor(TensorInfo(name, dtypes.F32, shape), "", np.zeros((0, 0), np.uint8))
        for name, shape in llama.shapes(parameters).items()
    } | dict(llama.computed_tensors(parameters))
    assert llama.settle(llama.from_gguf(Fields(PATH, keys)), tensors) == parameters


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_names_and_shapes_are_those_of_transformers(tied: bool) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**CONFIG, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    theirs = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    parameters = replace(PARAMETERS, tied_embeddings=tied)
    shapes = llama.shapes(parameters)
    ours = {hf_name: shapes[name] for name, hf_name in llama.hf_names(parameters).items()}

    assert ours == theirs


def test_config_written_by_us_is_what_transformers_would_have() -> None:
    transformers = pytest.importorskip("transformers")
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    config = transformers.LlamaConfig(**llama.to_config(replace(PARAMETERS, rope_scaling=scaling)))
    assert config.head_dim == 8
    assert config.num_key_value_heads == 2
    assert config.rope_parameters["rope_theta"] == 500000.0
    assert config.rope_parameters["rope_type"] == "llama3"
    assert config.rope_parameters["original_max_position_embeddings"] == 8192


def test_rotary_factors_are_those_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    config = transformers.LlamaConfig(**llama.to_config(replace(PARAMETERS, head_dim=128, rope_scaling=scaling)))
    compute = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"]
    scaled, _ = compute(config, torch.device("cpu"))
    plain = 1.0 / (500000.0 ** (np.arange(0, 128, 2) / 128))

    factors = llama.frequency_factors(128, 500000.0, scaling)

    assert factors.dtype == np.float32
    assert factors.shape == (64,)
    assert factors[0] == 1.0
    assert factors[-1] == 8.0
    np.testing.assert_allclose(plain / factors, scaled.numpy(), rtol=2e-6)


@pytest.mark.parametrize("factor", [8.0, 32.0])
@pytest.mark.parametrize("head_dim", [8, 64, 128])
def test_rotary_factors_are_llama_cpps_to_the_bit(head_dim: int, factor: float) -> None:
    """`LlamaModel.generate_extra_tensors` in its conversion/llama.py, by its formula, in torch as there."""
    torch = pytest.importorskip("torch")
    expected = []
    for frequency in 1.0 / (500000.0 ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)):
        wavelength = 2 * np.pi / frequency
        if wavelength < 8192 / 4.0:
            expected.append(1.0)
        elif wavelength > 8192 / 1.0:
            expected.append(factor)
        else:
            smooth = (8192 / wavelength - 1.0) / (4.0 - 1.0)
            expected.append(float(1 / ((1 - smooth) / factor + smooth)))
    factors = llama.frequency_factors(head_dim, 500000.0, RopeScaling("llama3", factor, 1.0, 4.0, 8192))
    assert factors.tolist() == expected
    assert len(set(expected)) > 2


def test_published_factors_are_known_again_whatever_their_last_bit() -> None:
    scaling = RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
    factors = llama.frequency_factors(64, 500000.0, scaling)
    factors[17] = np.nextafter(factors[17], np.float32(0))
    info = TensorInfo("rope_freqs.weight", dtypes.F32, (32,))
    tensors = {info.name: ComputedTensor(info, "here", factors.view(np.uint8)[np.newaxis])}
    known = llama.settle(replace(PARAMETERS, head_dim=64, rope_theta=500000.0), tensors)
    assert known.rope_scaling == scaling
    factors[17] *= 1.001
    assert llama.settle(replace(PARAMETERS, head_dim=64, rope_theta=500000.0), tensors).rope_scaling is None


def test_row_orders_are_llama_cpps_permute() -> None:
    head = np.arange(8)
    assert pairs_from_halves(8) == (0, 4, 1, 5, 2, 6, 3, 7)
    assert halves_from_pairs(8) == (0, 2, 4, 6, 1, 3, 5, 7)
    # LlamaModel.permute: reshape(heads, 2, d/2).swapaxes(1, 2)
    assert head[list(pairs_from_halves(8))].tolist() == head.reshape(2, 4).swapaxes(0, 1).ravel().tolist()
    assert head[list(pairs_from_halves(8))][list(halves_from_pairs(8))].tolist() == head.tolist()


BAD_CONFIGS: list[tuple[str, object, str]] = [
    ("hidden_size", 0, "/hidden_size"),
    ("hidden_size", -1, "/hidden_size"),
    ("hidden_size", 2**40, "/hidden_size"),
    ("hidden_size", "4096", "/hidden_size"),
    ("hidden_size", 4096.5, "/hidden_size"),
    ("hidden_size", True, "/hidden_size"),
    ("hidden_size", None, "/hidden_size"),
    ("hidden_size", 63, "/hidden_size"),
    ("num_hidden_layers", 0, "/num_hidden_layers"),
    ("num_hidden_layers", 10**6, "/num_hidden_layers"),
    ("num_attention_heads", 0, "/num_attention_heads"),
    ("num_key_value_heads", 9, "/num_key_value_heads"),
    ("num_key_value_heads", 3, "/num_key_value_heads"),
    ("head_dim", 7, "/head_dim"),
    ("rms_norm_eps", 0.0, "/rms_norm_eps"),
    ("rms_norm_eps", -1e-5, "/rms_norm_eps"),
    ("rms_norm_eps", float("nan"), "/rms_norm_eps"),
    ("rope_theta", 0, "/rope_theta"),
    ("rope_theta", float("inf"), "/rope_theta"),
    ("rope_theta", 1e-46, "/rope_theta"),  # 0 in a GGUF, whose numbers are float32
    ("rope_theta", 5e-324, "/rope_theta"),
    ("max_position_embeddings", 2**60, "/max_position_embeddings"),
    ("sliding_window", -4, "/sliding_window"),
    ("attention_bias", True, "/attention_bias"),
    ("hidden_act", "gelu", "/hidden_act"),
    ("rope_scaling", {"type": "yarn", "factor": 4.0}, "/rope_scaling/rope_type"),
    ("rope_scaling", {"type": "linear", "factor": 0}, "/rope_scaling/factor"),
    ("rope_scaling", {"type": "linear", "factor": 1e308}, "/rope_scaling/factor"),
    ("rope_scaling", [1], "/rope_scaling"),
]


@pytest.mark.parametrize(("key", "value", "field"), BAD_CONFIGS)
def test_a_bad_config_names_the_field(key: str, value: object, field: str) -> None:
    with pytest.raises(MalformedError) as caught:
        llama.from_config(Fields(PATH, CONFIG | {key: value}, "/"))
    assert caught.value.field == field


BAD_KEYS: list[tuple[str, object]] = [
    ("llama.block_count", 0),
    ("llama.block_count", 513),
    ("llama.block_count", 2**32 - 1),
    ("llama.attention.head_count", 0),
    ("llama.attention.head_count_kv", 9),
    ("llama.attention.head_count_kv", 0),
    ("llama.attention.value_length", 4),
    ("llama.rope.dimension_count", 7),
    ("llama.rope.freq_base", float("inf")),
    ("llama.attention.layer_norm_rms_epsilon", float("nan")),
    ("llama.expert_count", 8),
    ("llama.rope.scaling.type", "longrope"),
    ("llama.rope.scaling.factor", -2.0),
    ("llama.rope.scale_linear", float("nan")),
]


@pytest.mark.parametrize(("key", "value"), BAD_KEYS)
def test_a_bad_gguf_key_is_named(key: str, value: object) -> None:
    with pytest.raises(MalformedError) as caught:
        llama.from_gguf(Fields(PATH, llama.to_gguf(PARAMETERS) | {key: value}))
    assert caught.value.field == key


@pytest.mark.parametrize(
    ("keys", "scaling"),
    [
        ({"llama.rope.scaling.factor": 4.0}, RopeScaling("linear", 4.0)),
        ({"llama.rope.scale_linear": 2.0}, RopeScaling("linear", 2.0)),
        ({"llama.rope.scaling.factor": 4.0, "llama.rope.scale_linear": 2.0}, RopeScaling("linear", 4.0)),
        ({"llama.rope.scaling.factor": 0.0}, None),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, None),
    ],
)
def test_a_factor_without_a_type_scales_as_in_llama_cpp(keys: dict[str, object], scaling: RopeScaling | None) -> None:
    assert llama.from_gguf(Fields(PATH, llama.to_gguf(PARAMETERS) | keys)).rope_scaling == scaling


def test_unknown_architectures_list_the_known() -> None:
    with pytest.raises(UnsupportedError, match=r"general\.architecture: found mamba, allowed llama"):
        by_gguf_name(PATH, "mamba")
    with pytest.raises(UnsupportedError, match="MistralForCausalLM"):
        by_hf_class(PATH, ["list"])
    assert by_hf_class(PATH, "LLaMAForCausalLM") is llama


def test_metas_names_are_those_of_its_transformer() -> None:
    """`Transformer` in llama/model.py of meta-llama/llama."""
    names = llama.meta_names(PARAMETERS)
    assert names.keys() == llama.hf_names(PARAMETERS).keys()
    assert {theirs: ours for ours, theirs in names.items() if "." not in theirs.removesuffix(".weight")} == {
        "tok_embeddings.weight": "token_embd.weight",
        "norm.weight": "output_norm.weight",
        "output.weight": "output.weight",
    }
    assert [names[f"blk.1.{ours}.weight"] for ours in ("attn_q", "attn_output", "ffn_gate", "ffn_down", "ffn_up")] == [
        "layers.1.attention.wq.weight", "layers.1.attention.wo.weight", "layers.1.feed_forward.w1.weight",
        "layers.1.feed_forward.w2.weight", "layers.1.feed_forward.w3.weight",
    ]  # fmt: skip
