"""The two orders of a head's rows: rotary pairs side by side (Meta, GGUF), or in halves (Hugging Face).

transformers' `permute` in convert_llama_weights_to_hf.py goes from pairs to halves, llama.cpp's `LlamaModel.permute`
back.
"""

from __future__ import annotations


def pairs_from_halves(head_dim: int) -> tuple[int, ...]:
    """Row i of a head in pairs is row result[i] of the head in halves: 0, d/2, 1, d/2 + 1, …"""
    half = head_dim // 2
    return tuple(side * half + i for i in range(half) for side in (0, 1))


def halves_from_pairs(head_dim: int) -> tuple[int, ...]:
    """Row i of a head in halves is row result[i] of the head in pairs: 0, 2, 4, …, 1, 3, 5, …"""
    return tuple(range(0, head_dim, 2)) + tuple(range(1, head_dim, 2))
