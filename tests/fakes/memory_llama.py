"""Two-layer models with random weights, twice: in transformers, and as a checkpoint of ours that lies in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

from converters import dtypes
from converters.architectures import llama
from converters.architectures.rows import pairs_from_halves
from converters.checkpoint import Checkpoint
from converters.fields import Fields
from converters.tensors import Bytes, TensorInfo
from converters.tokenizers.vocabulary import Vocabulary

DIM, N_HEADS, N_KV_HEADS, HEAD_DIM = 32, 4, 2, 16  # head_dim is not dim / n_heads, on purpose
Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TensorInMemory:
    """A tensor whose bytes are an array."""

    info: TensorInfo
    data: Bytes
    origin: str = "memory"

    @property
    def position(self) -> tuple[str, int]:
        return "", 0

    def read_rows(self, start: int, stop: int) -> Bytes:
        return self.data[start:stop]


def tensor(name: str, weights: Array) -> TensorInMemory:
    """Weights as rows of float32 at rest."""
    rows = np.ascontiguousarray(weights, np.float32).reshape(-1, weights.shape[-1])
    return TensorInMemory(TensorInfo(name, dtypes.F32, weights.shape), rows.view(np.uint8))


def reference(seed: int = 0, *, window: int | None = None, tied: bool = False, **config: Any) -> Any:
    """A random LlamaForCausalLM, or MistralForCausalLM where there is a window, in float32 and eval mode."""
    shape: dict[str, Any] = {
        "vocab_size": 64, "hidden_size": DIM, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": N_HEADS, "num_key_value_heads": N_KV_HEADS, "head_dim": HEAD_DIM,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": tied,
        "initializer_range": 0.15, "attn_implementation": "eager",
    }  # fmt: skip
    torch.manual_seed(seed)
    model: Any
    if window is None:
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(shape | config)))
    else:
        settings = transformers.MistralConfig(**(shape | {"sliding_window": window} | config))
        model = transformers.MistralForCausalLM(settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    return model.eval()


def checkpoint(model: Any, vocabulary: Vocabulary | None = None, more: dict[str, Array] | None = None) -> Checkpoint:
    """The same weights as our checkpoint: GGUF names, GGUF's order of rows. more: further tensors by GGUF name."""
    parameters = llama.from_config(Fields(Path("config.json"), model.config.to_dict(), "/"))
    state = model.state_dict()
    arrays: dict[str, Array] = {ours: state[theirs].numpy() for ours, theirs in llama.hf_names(parameters).items()}
    for name, array in arrays.items():
        if llama.heads_to_reorder(name, parameters):
            heads = array.reshape(-1, parameters.head_dim, array.shape[-1])
            arrays[name] = heads[:, pairs_from_halves(parameters.head_dim)].reshape(array.shape)
    return Checkpoint(
        path=Path("tiny"), format="memory", architecture="llama", hyperparameters=parameters, vocabulary=vocabulary,
        tensors={name: tensor(name, array) for name, array in (arrays | (more or {})).items()}, files=(),
    )  # fmt: skip
