"""A llama so small that a test can hold it whole: 2 layers, dim 32, seeded weights, a byte-level BPE of 288 tokens.

Written by torch and safetensors themselves, in every container that Hugging Face folders come in, so that our readers
are held against files that we did not write.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch

Container = Literal["safetensors", "safetensors-sharded", "bin", "bin-sharded", "pth"]
CONTAINERS: tuple[Container, ...] = ("safetensors", "safetensors-sharded", "bin", "bin-sharded", "pth")

DIM, HIDDEN_DIM, N_LAYERS, N_HEADS, N_KV_HEADS, HEAD_DIM, VOCAB_SIZE = 32, 64, 2, 4, 2, 8, 288

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = (
    "Ġ t", "h e", "Ġ a", "i n", "Ġt he", "r e", "o n", "Ġ s", "e r", "a t", "Ġ w", "o u", "e n", "i s", "Ġ h",
    "o r", "i t", "a n", "Ġ c", "e s", "l l", "Ġ i", "in g", "Ġa n", "Ġan d", "Ġ Ġ", "ĠĠ ĠĠ", "Ã ©", "t h",
)  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def config(*, tied: bool = False, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """config.json as transformers 4 wrote it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": DIM,
        "intermediate_size": HIDDEN_DIM,
        "max_position_embeddings": 256,
        "model_type": "llama",
        "num_attention_heads": N_HEADS,
        "num_hidden_layers": N_LAYERS,
        "num_key_value_heads": N_KV_HEADS,
        "pad_token_id": 2,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "vocab_size": VOCAB_SIZE,
    }


def tensors(*, tied: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, torch.Tensor]:
    """Its weights by Hugging Face name; the same for the same seed, whatever the dtype (before rounding)."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(n_rows: int, n_columns: int) -> torch.Tensor:
        return (torch.randn(n_rows, n_columns, generator=generator) * n_columns**-0.5).to(dtype)

    def norm() -> torch.Tensor:
        return (1 + 0.1 * torch.randn(DIM, generator=generator)).to(dtype)

    result = {"model.embed_tokens.weight": matrix(VOCAB_SIZE, DIM)}
    for layer in range(N_LAYERS):
        prefix = f"model.layers.{layer}."
        result[prefix + "input_layernorm.weight"] = norm()
        result[prefix + "self_attn.q_proj.weight"] = matrix(N_HEADS * HEAD_DIM, DIM)
        result[prefix + "self_attn.k_proj.weight"] = matrix(N_KV_HEADS * HEAD_DIM, DIM)
        result[prefix + "self_attn.v_proj.weight"] = matrix(N_KV_HEADS * HEAD_DIM, DIM)
        result[prefix + "self_attn.o_proj.weight"] = matrix(DIM, N_HEADS * HEAD_DIM)
        result[prefix + "post_attention_layernorm.weight"] = norm()
        result[prefix + "mlp.gate_proj.weight"] = matrix(HIDDEN_DIM, DIM)
        result[prefix + "mlp.up_proj.weight"] = matrix(HIDDEN_DIM, DIM)
        result[prefix + "mlp.down_proj.weight"] = matrix(DIM, HIDDEN_DIM)
    result["model.norm.weight"] = norm()
    if not tied:
        result["lm_head.weight"] = matrix(VOCAB_SIZE, DIM)
    return result


def write(
    folder: Path,
    *,
    container: Container = "safetensors",
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    tokenizer: bool = True,
) -> Path:
    """Write the model as a Hugging Face folder and return the folder, or the file for container "pth".

    A .pth file is no layout that Hugging Face knows: `model.pth` then lies beside config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config(tied=tied, dtype=dtype))
    if tokenizer:
        write_tokenizer(folder)
    return write_weights(folder, tensors(tied=tied, dtype=dtype, seed=seed), container)


def write_weights(folder: Path, weights: dict[str, torch.Tensor], container: Container) -> Path:
    """Write weights alone, in three shards where the container is a sharded one."""
    from safetensors.torch import save_file

    if container == "safetensors":
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    elif container == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    elif container == "pth":
        torch.save(weights, folder / "model.pth")
        return folder / "model.pth"
    else:
        safe = container == "safetensors-sharded"
        stem, suffix = ("model", "safetensors") if safe else ("pytorch_model", "bin")
        names = list(weights)
        weight_map = {}
        for number in range(3):
            shard = f"{stem}-{number + 1:05d}-of-00003.{suffix}"
            part = {name: weights[name] for name in names[number::3]}
            weight_map |= dict.fromkeys(part, shard)
            save_file(part, folder / shard, metadata={"format": "pt"}) if safe else torch.save(part, folder / shard)
        total_size = sum(weight.nbytes for weight in weights.values())
        index = {"metadata": {"total_size": total_size}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / f"{stem}.{suffix}.index.json", index)
    return folder


def write_tokenizer(folder: Path) -> None:
    """tokenizer.json and its companions, in the shape of SmolLM2's: special tokens first, digits cut one by one."""
    vocab = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *byte_alphabet()))}
    for merge in MERGES:
        vocab[merge.replace(" ", "")] = len(vocab)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    added = [{"id": i, "content": token, **flags} for i, token in enumerate(SPECIAL_TOKENS)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
            },
            "post_processor": None,
            "decoder": {**byte_level, "add_prefix_space": True},
            "model": {
                "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                "vocab": vocab, "merges": list(MERGES),
            },
        },
    )  # fmt: skip
    special = dict(zip(("unk_token", "bos_token", "eos_token"), SPECIAL_TOKENS, strict=True)) | {
        "pad_token": "<|im_end|>"
    }
    write_json(folder / "special_tokens_map.json", special)
    write_json(
        folder / "tokenizer_config.json",
        {
            **special,
            "add_prefix_space": False,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 256,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2})


def byte_alphabet() -> list[str]:
    """One printable character for each byte, in GPT-2's order: the printable bytes first, then all others."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
