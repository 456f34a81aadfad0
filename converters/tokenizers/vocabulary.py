"""A tokenizer as data: the one form that all tokenizer formats are read into and written from."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from converters.errors import MalformedError

LONGEST_TOKEN = 4096  # characters; the longest known are runs of a few hundred spaces
LONGEST_TEMPLATE = 1 << 20  # characters; the longest known have some twenty thousand
# How models write the three tokens of fill-in-the-middle: Code Llama first, then those that llama.cpp looks for too.
_FILL_IN = (
    ("▁<PRE>", "<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "<｜fim▁begin｜>"),
    ("▁<SUF>", "<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "<｜fim▁hole｜>"),
    ("▁<MID>", "<|fim_middle|>", "<fim_middle>", "<fim-middle>", "<｜fim▁end｜>"),
)
_END_OF_FILL_IN = "▁<EOT>"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class TokenKind(IntEnum):
    """What a token is for; the numbers are ggml's and SentencePiece's (`tokenizer.ggml.token_type`)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


KINDS: dict[int, TokenKind] = {kind.value: kind for kind in TokenKind}


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and the rules that join them.

    model: "bpe" (byte-level BPE, GGUF calls it gpt2) or "spm" (SentencePiece BPE with byte fallback, GGUF: llama).
    pre_tokenizer: llama.cpp's name for how text is cut before BPE ("smollm", "llama-bpe"); "default" for spm.
    tokens: by id. Byte-level tokens are written in GPT-2's byte alphabet ("Ġthe"), SentencePiece's with "▁"; control
    and user-defined tokens as the text that they stand for.
    kinds: one for each token. scores: one for each token, spm only. merges: "left right" in order of rank, bpe only.
    *_id: None where there is none. stop_ids: every token that ends an answer, ascending, eos_id among them.
    fim_*_id: of fill-in-the-middle, where the model is asked for what stands between a prefix and a suffix.
    add_space_prefix: text gets a space in front, spm only. prefix_scheme: "always" gives it to every stretch of text
    between special tokens, whatever it begins with (SentencePiece, llama.cpp); "first" only to the beginning of the
    whole text, and only where no space stands there (tokenizers' Metaspace). GGUF cannot say "first".
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
    prefix_scheme: str = "always"
    fim_prefix_id: int | None = None
    fim_suffix_id: int | None = None
    fim_middle_id: int | None = None

    def __len__(self) -> int:
        return len(self.tokens)


def byte_of(token: str) -> int | None:
    """The byte that SentencePiece's `<0x0A>` stands for, None for any other text."""
    match = _BYTE_TOKEN.fullmatch(token)
    return int(match[1], 16) if match else None


def stop_ids(
    given: Collection[int | None], tokens: tuple[str, ...], kinds: tuple[TokenKind, ...], chat_template: str | None
) -> tuple[int, ...]:
    """The tokens that end an answer: those given and, where only one is, the end of turn that the template writes.

    Files from before `eot_token_id` and `generation_config.json` name one token only, often that of a document's end;
    without this, their chats would never stop. The texts are those that llama.cpp looks for (llama-vocab.cpp). Code
    Llama ends what it fills in with a token that none of its files names (`text_infilling` in meta-llama/codellama,
    llama/generation.py).
    """
    found = {token_id for token_id in given if token_id is not None}
    if len(found) <= 1 and chat_template is not None:
        for text in ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"):
            if text in chat_template and text in tokens and kinds[tokens.index(text)] is TokenKind.CONTROL:
                found.add(tokens.index(text))
    if _END_OF_FILL_IN in tokens:
        found.add(tokens.index(_END_OF_FILL_IN))
    return tuple(sorted(found))


def fill_in_ids(tokens: Collection[str]) -> tuple[int | None, int | None, int | None]:
    """The tokens before prefix, suffix and middle, by their texts, as Meta's own code and llama.cpp find them."""
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    prefix, suffix, middle = (next((ids[text] for text in spellings if text in ids), None) for spellings in _FILL_IN)
    return prefix, suffix, middle


def judged(path: Path, vocabulary: Vocabulary, names: Mapping[str, str]) -> Vocabulary:
    """The vocabulary, if it is one: the whole law, the same for every format. Raises MalformedError.

    names: for each field of Vocabulary, what it is called in the file (`{"tokens": "tokenizer.ggml.tokens"}`).
    """
    _judge_tokens(path, vocabulary, names)
    _judge_ids(path, vocabulary, names)
    if vocabulary.model == "bpe":
        _judge_merges(path, vocabulary, names)
    else:
        _judge_scores(path, vocabulary, names)
        _judge_bytes(path, vocabulary, names)
    if vocabulary.chat_template is not None:
        judge_template(path, vocabulary.chat_template, names["chat_template"])
    return vocabulary


def _judge_tokens(path: Path, vocabulary: Vocabulary, names: Mapping[str, str]) -> None:
    if not vocabulary.tokens:
        raise MalformedError(path, names["tokens"], found="no tokens", allowed="at least one")
    if len(vocabulary.kinds) != len(vocabulary):
        raise MalformedError(
            path, names["kinds"], found=f"{len(vocabulary.kinds)} kinds", allowed=f"one for each of {len(vocabulary)}"
        )
    ids: dict[str, int] = {}
    for token_id, token in enumerate(vocabulary.tokens):
        field = names["tokens"]
        if len(token) > LONGEST_TOKEN:
            raise _at(path, field, token_id, f"{len(token)} characters", f"at most {LONGEST_TOKEN}")
        if "\0" in token or not _is_text(token):
            raise _at(path, field, token_id, token, "text without NUL and lone surrogates")
        if ids.setdefault(token, token_id) != token_id:
            raise _at(path, field, token_id, f"{token!r} again, as in token {ids[token]}", "every token once")


def _judge_ids(path: Path, vocabulary: Vocabulary, names: Mapping[str, str]) -> None:
    for name in ("bos_id", "eos_id", "unk_id", "pad_id", "fim_prefix_id", "fim_suffix_id", "fim_middle_id"):
        token_id = getattr(vocabulary, name)
        if token_id is not None and not 0 <= token_id < len(vocabulary):
            raise MalformedError(path, names[name], found=token_id, allowed=f"a token from 0 to {len(vocabulary) - 1}")
    for token_id in vocabulary.stop_ids:
        if not 0 <= token_id < len(vocabulary):
            field = names["stop_ids"]
            raise MalformedError(path, field, found=token_id, allowed=f"tokens from 0 to {len(vocabulary) - 1}")
    for flag, token in (("add_bos", "bos_id"), ("add_eos", "eos_id")):
        if getattr(vocabulary, flag) and getattr(vocabulary, token) is None:
            raise MalformedError(path, names[flag], found="true", allowed=f"false, as {names[token]} is not set")


def _judge_merges(path: Path, vocabulary: Vocabulary, names: Mapping[str, str]) -> None:
    if vocabulary.merges is None:
        raise MalformedError(path, names["merges"], found="nothing", allowed="the merges of a byte-level BPE")
    tokens = set(vocabulary.tokens)
    for rank, merge in enumerate(vocabulary.merges):
        left, space, right = merge.partition(" ")
        if not left or not space or not right or " " in right:
            raise _at(path, names["merges"], rank, merge, "two tokens with one space between them")
        if left not in tokens or right not in tokens or left + right not in tokens:
            raise _at(path, names["merges"], rank, merge, "two tokens that make a third one")


def _judge_scores(path: Path, vocabulary: Vocabulary, names: Mapping[str, str]) -> None:
    if vocabulary.scores is None or len(vocabulary.scores) != len(vocabulary):
        found = "nothing" if vocabulary.scores is None else f"{len(vocabulary.scores)} scores"
        raise MalformedError(path, names["scores"], found=found, allowed=f"one for each of {len(vocabulary)} tokens")
    for token_id, score in enumerate(vocabulary.scores):
        if not math.isfinite(score):
            raise _at(path, names["scores"], token_id, score, "a finite number")


def _judge_bytes(path: Path, vocabulary: Vocabulary, names: Mapping[str, str]) -> None:
    n_bytes = 0
    for token_id, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True)):
        if kind is TokenKind.BYTE:
            n_bytes += 1
            if byte_of(token) is None:
                raise _at(path, names["tokens"], token_id, token, "<0x00> to <0xFF> for a byte token")
    if n_bytes not in (0, 256):
        raise MalformedError(path, names["kinds"], found=f"{n_bytes} byte tokens", allowed="all 256 of them, or none")


def judge_template(path: Path | str, template: str, field: str) -> None:
    """Raise MalformedError for a template that nobody may be asked to render."""
    if len(template) > LONGEST_TEMPLATE:
        raise MalformedError(path, field, found=f"{len(template)} characters", allowed=f"at most {LONGEST_TEMPLATE}")
    if "\0" in template or not _is_text(template):
        line = template[: template.find("\0")].count("\n") + 1 if "\0" in template else None
        offset = None if line is None else f"line {line}"
        raise MalformedError(path, field, offset=offset, found="NUL or lone surrogates", allowed="text")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _at(path: Path, field: str, index: int, found: object, allowed: str) -> MalformedError:
    return MalformedError(path, f"{field}[{index}]", found=found, allowed=allowed)
