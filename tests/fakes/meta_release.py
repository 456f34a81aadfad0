"""Tiny models as Meta releases them: torch.save'd shards, params.json, a tokenizer.model of either kind, a checklist.

Dividing is stated as plainly as it can be, with torch.chunk, so that our readers and writers are held against it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from converters.tokenizers import sentencepiece_model
from converters.tokenizers.vocabulary import TokenKind, Vocabulary
from tests.fakes import vocabularies

DIM, N_HEADS, HEAD_DIM, N_LAYERS, HIDDEN_DIM = 64, 8, 8, 2, 192
ROWS = ("attention.wq", "attention.wk", "attention.wv", "feed_forward.w1", "feed_forward.w3")
COLUMNS = ("attention.wo", "feed_forward.w2")
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Generation:
    """What tells one generation of Meta's from the others. vocab_size: rows of the embedding."""

    vocab_size: int
    embedding_axis: int
    dtype: torch.dtype
    context_length: int
    params: dict[str, Any] = field(default_factory=dict)


SPM_SIZE, TIKTOKEN_SIZE = 272, 544
GENERATIONS = {
    "llama-1": Generation(SPM_SIZE, 1, torch.float16, 2048, {"norm_eps": 1e-6, "vocab_size": -1}),
    "llama-2": Generation(SPM_SIZE, 1, torch.bfloat16, 4096, {"norm_eps": 1e-5, "vocab_size": -1}),
    "code-llama": Generation(SPM_SIZE, 1, torch.bfloat16, 16384, {"norm_eps": 1e-5, "rope_theta": 1000000}),
    "llama-3": Generation(
        TIKTOKEN_SIZE, 0, torch.bfloat16, 8192,
        {"norm_eps": 1e-5, "rope_theta": 500000.0, "vocab_size": TIKTOKEN_SIZE},
    ),
    "llama-3.2": Generation(
        TIKTOKEN_SIZE, 0, torch.bfloat16, 131072,
        {"norm_eps": 1e-5, "rope_theta": 500000.0, "vocab_size": TIKTOKEN_SIZE, "use_scaled_rope": True},
    ),
}  # fmt: skip


def params(generation: str, *, n_kv_heads: int = N_HEADS) -> dict[str, Any]:
    """params.json: hidden_dim is 192, 8 * 64 / 3 = 170 rounded up to a multiple of 64."""
    shape = {"dim": DIM, "multiple_of": 64, "n_heads": N_HEADS, "n_layers": N_LAYERS}
    kv = {} if n_kv_heads == N_HEADS else {"n_kv_heads": n_kv_heads}
    return shape | kv | GENERATIONS[generation].params


def weights(generation: str, *, n_kv_heads: int = N_HEADS, seed: int = 0) -> Weights:
    """All tensors, whole, by Meta's names, with the rotary frequencies that older releases hold."""
    made, generator = GENERATIONS[generation], torch.Generator().manual_seed(seed)

    def matrix(n_rows: int, n_columns: int) -> torch.Tensor:
        return (torch.randn(n_rows, n_columns, generator=generator) * n_columns**-0.5).to(made.dtype)

    def norm() -> torch.Tensor:
        return (1 + 0.1 * torch.randn(DIM, generator=generator)).to(made.dtype)

    found = {"tok_embeddings.weight": matrix(made.vocab_size, DIM)}
    for layer in range(N_LAYERS):
        of_layer = {
            "attention_norm": norm(),
            "attention.wq": matrix(N_HEADS * HEAD_DIM, DIM),
            "attention.wk": matrix(n_kv_heads * HEAD_DIM, DIM),
            "attention.wv": matrix(n_kv_heads * HEAD_DIM, DIM),
            "attention.wo": matrix(DIM, N_HEADS * HEAD_DIM),
            "ffn_norm": norm(),
            "feed_forward.w1": matrix(HIDDEN_DIM, DIM),
            "feed_forward.w3": matrix(HIDDEN_DIM, DIM),
            "feed_forward.w2": matrix(DIM, HIDDEN_DIM),
        }
        found |= {f"layers.{layer}.{name}.weight": weight for name, weight in of_layer.items()}
    found |= {"norm.weight": norm(), "output.weight": matrix(made.vocab_size, DIM)}
    return found | {"rope.freqs": torch.ones(HEAD_DIM // 2, dtype=made.dtype)}


def divided(whole: Weights, n_shards: int, embedding_axis: int) -> list[Weights]:
    """What each of n GPUs has."""
    shards: list[Weights] = [{} for _ in range(n_shards)]
    for name, weight in whole.items():
        axis = _axis(name, embedding_axis)
        parts = [weight] * n_shards if axis is None else torch.chunk(weight, n_shards, axis)
        for shard, part in zip(shards, parts, strict=True):
            shard[name] = part.clone()  # a view would bring the whole storage along
    return shards


def _axis(name: str, embedding_axis: int) -> int | None:
    if name == "tok_embeddings.weight":
        return embedding_axis
    if name == "output.weight" or name.endswith(tuple(f"{each}.weight" for each in ROWS)):
        return 0
    return 1 if name.endswith(tuple(f"{each}.weight" for each in COLUMNS)) else None


def write(
    folder: Path, generation: str = "llama-2", n_shards: int = 1, *, n_kv_heads: int = N_HEADS, seed: int = 0
) -> Path:
    """A whole release, tokenizer and checklist as well."""
    made = GENERATIONS[generation]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "params.json", params(generation, n_kv_heads=n_kv_heads))
    whole = weights(generation, n_kv_heads=n_kv_heads, seed=seed)
    write_shards(folder, divided(whole, n_shards, made.embedding_axis))
    write_tokenizer(folder, generation)
    write_checklist(folder)
    return folder


def write_shards(folder: Path, shards: list[Weights]) -> None:
    for number, shard in enumerate(shards):
        torch.save(shard, folder / f"consolidated.{number:02d}.pth")


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")


def write_tokenizer(folder: Path, generation: str) -> None:
    """SentencePiece of 272 tokens, or 288 ranks, to which Llama 3's code adds its 256 special tokens."""
    if GENERATIONS[generation].vocab_size == SPM_SIZE:
        data = sentencepiece_model.write(spm_vocabulary())
    else:
        bytes_and_pairs = [bytes([byte]) for byte in range(256)] + [bytes([letter]) * 2 for letter in range(65, 97)]
        data = b"".join(b"%b %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(bytes_and_pairs))
    (folder / "tokenizer.model").write_bytes(data)


def spm_vocabulary() -> Vocabulary:
    """The small one with a token more, so that eight shards can divide it."""
    small = vocabularies.small_spm()
    return replace(
        small, tokens=(*small.tokens, "[PAD271]"), kinds=(*small.kinds, TokenKind.UNUSED),
        scores=(*(small.scores or ()), -1000.0),
    )  # fmt: skip


def write_checklist(folder: Path) -> None:
    """As md5sum writes it, of everything but the tokenizer, which has a list of its own."""
    for name, is_tokenizer in (("checklist.chk", False), ("tokenizer_checklist.chk", True)):
        files = sorted(path for path in folder.iterdir() if path.suffix != ".chk")
        lines = [f"{_md5(path)}  {path.name}\n" for path in files if (path.name == "tokenizer.model") is is_tokenizer]
        (folder / name).write_text("".join(lines))


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def hf_state(whole: Weights, *, n_kv_heads: int = N_HEADS) -> Weights:
    """The same model by Hugging Face's names and in its order of rows: transformers' `permute`, by its formula."""

    def permute(weight: torch.Tensor, n_heads: int) -> torch.Tensor:
        n_rows, n_columns = weight.shape
        halves = weight.view(n_heads, n_rows // n_heads // 2, 2, n_columns).transpose(1, 2)
        return halves.reshape(n_rows, n_columns)

    names = {
        "attention_norm": "input_layernorm", "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
        "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
        "feed_forward.w1": "mlp.gate_proj", "feed_forward.w3": "mlp.up_proj", "feed_forward.w2": "mlp.down_proj",
    }  # fmt: skip
    state = {
        "model.embed_tokens.weight": whole["tok_embeddings.weight"],
        "model.norm.weight": whole["norm.weight"],
        "lm_head.weight": whole["output.weight"],
    }
    for layer in range(N_LAYERS):
        for theirs, hf in names.items():
            weight = whole[f"layers.{layer}.{theirs}.weight"]
            if theirs in ("attention.wq", "attention.wk"):
                weight = permute(weight, N_HEADS if theirs == "attention.wq" else n_kv_heads)
            state[f"model.layers.{layer}.{hf}.weight"] = weight
    return state
