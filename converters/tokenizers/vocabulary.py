"""A tokenizer as data: the one form that all tokenizer formats are read into and written from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class TokenKind(IntEnum):
    """What a token is for; the numbers are ggml's and SentencePiece's (`tokenizer.ggml.token_type`)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and the rules that join them.

    model: "bpe" (byte-level BPE, GGUF calls it gpt2) or "spm" (SentencePiece BPE with byte fallback, GGUF: llama).
    pre_tokenizer: llama.cpp's name for how text is cut before BPE ("smollm", "llama-bpe"); "default" for spm.
    tokens: by id. Byte-level tokens are written in GPT-2's byte alphabet ("Ġthe"), SentencePiece's with "▁".
    kinds: one for each token. scores: one for each token, spm only. merges: "left right" in order of rank, bpe only.
    *_id: None where there is none. stop_ids: every token that ends an answer, eos_id among them.
    """

    model: str
    pre_tokenizer: str
    tokens: tuple[str, ...]
    kinds: tuple[TokenKind, ...]
    scores: tuple[float, ...] | None = None
    merges: tuple[str, ...] | None = None
    bos_id: int | None = None
    eos_id: int | None = None
    unk_id: int | None = None
    pad_id: int | None = None
    stop_ids: tuple[int, ...] = ()
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False
    chat_template: str | None = None

    def __len__(self) -> int:
        return len(self.tokens)
