"""Small vocabularies made by hand, and the keys of a real GGUF as gguf-py reads them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import gguf
import numpy as np

from converters.fields import Fields
from converters.tokenizers import byte_alphabet
from converters.tokenizers.gguf_keys import vocabulary_from_gguf
from converters.tokenizers.vocabulary import TokenKind, Vocabulary


def small_bpe() -> Vocabulary:
    """Three control tokens, one user-defined, 256 bytes and five merges, the last two of which fight for an "l"."""
    merges = ("Ġ h", "e l", "l o", "Ġh el", "el lo")
    special = ("<|end|>", "<|im_start|>", "<|im_end|>", "<tool>")
    tokens = (*special, *byte_alphabet.LETTERS, *(merge.replace(" ", "") for merge in merges))
    kinds = [TokenKind.CONTROL] * 3 + [TokenKind.USER_DEFINED] + [TokenKind.NORMAL] * (256 + len(merges))
    return Vocabulary(
        model="bpe", pre_tokenizer="smollm", tokens=tokens, kinds=tuple(kinds), merges=merges,
        bos_id=1, eos_id=2, unk_id=0, pad_id=2, stop_ids=(2,),
    )  # fmt: skip


def small_spm() -> Vocabulary:
    """A SentencePiece vocabulary of 256 bytes and eight pieces, one user-defined and one unused token at the end."""
    pieces = ("▁h", "el", "lo", "▁hel", "▁hello", "▁", "h", "e", "l", "o")
    tokens = ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, "<tool>", "[PAD270]")
    kinds = (
        TokenKind.UNKNOWN, TokenKind.CONTROL, TokenKind.CONTROL, *[TokenKind.BYTE] * 256,
        *[TokenKind.NORMAL] * len(pieces), TokenKind.USER_DEFINED, TokenKind.UNUSED,
    )  # fmt: skip
    scores = (*[0.0] * 259, *(-float(n) for n in range(len(pieces))), -1000.0, -1000.0)
    return Vocabulary(
        model="spm", pre_tokenizer="default", tokens=tokens, kinds=kinds, scores=scores,
        bos_id=1, eos_id=2, unk_id=0, stop_ids=(2,), add_bos=True, add_space_prefix=True,
    )  # fmt: skip


@cache
def small_llama_3() -> Vocabulary:
    """256 bytes, four more tokens, Llama 3's special ones: what its tokenizer.model would be with 260 lines."""
    merges = ("a b", "b c", "a bc", "ab c", "Ġ abc")
    reserved = [f"<|reserved_special_token_{n}|>" for n in range(251)]
    special = (
        "<|begin_of_text|>", "<|end_of_text|>", *reserved[:4], "<|start_header_id|>", "<|end_header_id|>", reserved[4],
        "<|eot_id|>", *reserved[5:],
    )  # fmt: skip
    letters = tuple(byte_alphabet.to_letters(bytes([byte])) for byte in range(256))
    return Vocabulary(
        model="bpe", pre_tokenizer="llama-bpe", tokens=(*letters, "ab", "bc", "abc", "Ġabc", *special),
        kinds=(TokenKind.NORMAL,) * 260 + (TokenKind.CONTROL,) * 256, merges=merges,
        bos_id=260, eos_id=261, stop_ids=(261, 269), add_bos=True,
    )  # fmt: skip


def gguf_keys(path: Path) -> dict[str, object]:
    """The tokenizer's keys of a file, by gguf-py, numbers in arrays as numpy has them."""
    keys: dict[str, object] = {}
    for key, field in gguf.GGUFReader(path).fields.items():
        if key.startswith("tokenizer."):
            value = field.contents()
            if isinstance(value, list) and field.types[-1] is not gguf.GGUFValueType.STRING:
                value = np.array(value, np.int32 if field.types[-1] is gguf.GGUFValueType.INT32 else np.float32)
            keys[key] = value
    return keys


@cache
def vocabulary_of(path: Path) -> Vocabulary:
    """The vocabulary of a real GGUF, read once for all tests."""
    vocabulary = vocabulary_from_gguf(Fields(path, gguf_keys(path)))
    assert vocabulary is not None
    return vocabulary
