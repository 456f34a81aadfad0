"""tiktoken's ranks, the tokenizer.model of Llama 3: byte-level BPE whose ids are its order of merging.

    IQ== 0
    Ig== 1
    …         a token's bytes in base64, a space, its rank, a newline; ranks ascend from 0 without a gap

(`load_tiktoken_bpe` in openai/tiktoken, tiktoken/load.py.) The file holds neither the regular expression that cuts
text nor the 256 special tokens that follow the last rank. Both stand in Meta's code: meta-llama/llama3,
llama/tokenizer.py, for Llama 3; meta-llama/llama-models, models/llama3/tokenizer.py, for 3.1 and later, whose file is
the same to the byte. A release of 3.1 or later is known by the scaled rotary frequencies of its params.json. Of the
names that 3.1's reserved tokens have borne we give those in the tokenizer.json that Meta published.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from pathlib import Path

from converters.errors import MalformedError, RefusedError, UnsupportedError
from converters.input_file import InputFile
from converters.tokenizers import byte_alphabet, pre_tokenizers
from converters.tokenizers.merges import merges_from_ranks
from converters.tokenizers.vocabulary import TokenKind, Vocabulary, judged

LARGEST_FILE = 16 << 20  # bytes; Llama 3's has 2.2 MB
LONGEST_TOKEN = 256  # bytes; Llama 3's longest is 128 blanks
_LINE = re.compile(rb"([A-Za-z0-9+/]+={0,2}) (0|[1-9][0-9]{0,8})")
_FIRST_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]+\n")
_LLAMA_3 = "llama-bpe"


def _reserved(first: int, stop: int) -> tuple[str, ...]:
    return tuple(f"<|reserved_special_token_{n}|>" for n in range(first, stop))


_BEGIN = ("<|begin_of_text|>", "<|end_of_text|>", *_reserved(0, 2))
_HEADER = ("<|start_header_id|>", "<|end_header_id|>")
_SPECIAL_3_0 = (*_BEGIN, *_reserved(2, 4), *_HEADER, *_reserved(4, 5), "<|eot_id|>", *_reserved(5, 251))
_SPECIAL_3_1 = (
    *_BEGIN, "<|finetune_right_pad_id|>", *_reserved(2, 3), *_HEADER, "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
    *_reserved(3, 248),
)  # fmt: skip
_ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")  # `stop_tokens` of Meta's tokenizers
_NAMES = {"tokens": "ranks", "kinds": "ranks", "merges": "ranks"}


def sniff(head: bytes) -> bool:
    """Whether bytes begin as a file of ranks does: with one line of base64 and a number."""
    return _FIRST_LINE.match(head) is not None


def read(path: Path, vocab_size: int | None, *, scaled_rope: bool = False) -> Vocabulary:
    """The vocabulary of Llama 3 or, with scaled_rope, of Llama 3.1 and later.

    vocab_size: rows of the embedding, None where that is not known; a file of other models has other numbers of special
    tokens and other regular expressions, which it does not name. Raises MalformedError naming the line,
    UnsupportedError for ranks with other than 256 special tokens.
    """
    with InputFile(path) as file:
        if file.size > LARGEST_FILE:
            raise MalformedError(path, "file", found=f"{file.size} bytes", allowed=f"at most {LARGEST_FILE}")
        return parse(path, file.read(0, file.size, "file"), vocab_size, scaled_rope=scaled_rope)


def parse(path: Path, data: bytes, vocab_size: int | None, *, scaled_rope: bool = False) -> Vocabulary:
    """The same from bytes; path is for messages."""
    ranks = _read_ranks(path, data)
    special = _SPECIAL_3_1 if scaled_rope else _SPECIAL_3_0
    if vocab_size is not None and vocab_size != len(ranks) + len(special):
        found = f"{len(ranks)} for the embedding's {vocab_size} rows"
        raise UnsupportedError(path, "ranks", found=found, allowed=f"{len(special)} fewer than rows, as in Llama 3")
    tokens = (*map(byte_alphabet.to_letters, ranks), *special)
    vocabulary = Vocabulary(
        model="bpe",
        pre_tokenizer=_LLAMA_3,
        tokens=tokens,
        kinds=(TokenKind.NORMAL,) * len(ranks) + (TokenKind.CONTROL,) * len(special),
        merges=merges_from_ranks(path, "ranks", ranks),
        bos_id=len(ranks) + special.index("<|begin_of_text|>"),
        eos_id=len(ranks) + special.index("<|end_of_text|>"),
        stop_ids=tuple(len(ranks) + special.index(text) for text in _ENDS if text in special),
        add_bos=True,
    )
    return judged(path, vocabulary, _NAMES)


def _read_ranks(path: Path, data: bytes) -> list[bytes]:
    """The tokens' bytes in order of rank."""
    ranks: dict[bytes, int] = {}
    for rank, line in enumerate(io.BytesIO(data)):
        if not line.endswith(b"\n"):
            raise _at(path, rank + 1, "no newline at its end", "whole lines")
        match = _LINE.fullmatch(line[:-1])
        if match is None:
            raise _at(path, rank + 1, line[:40], "base64, a space and a number")
        if int(match[2]) != rank:
            raise _at(path, rank + 1, f"rank {int(match[2])}", f"rank {rank}")
        token = decode_token(match[1])
        if token is None:
            raise _at(path, rank + 1, match[1][:40], f"1 to {LONGEST_TOKEN} bytes in base64")
        if ranks.setdefault(token, rank) != rank:
            raise _at(path, rank + 1, f"{token!r} again, as of rank {ranks[token]}", "every token once")
    check_bytes(path, "ranks", ranks)
    return list(ranks)


def _at(path: Path, line: int, found: object, allowed: str) -> MalformedError:
    return MalformedError(path, "ranks", offset=f"line {line}", found=found, allowed=allowed)


def decode_token(text: bytes | str) -> bytes | None:
    """A token's bytes out of base64; None for what is none, for no bytes at all and for more than LONGEST_TOKEN."""
    try:
        token = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    canonical = base64.b64encode(token)  # the last letter may hold bits that mean nothing
    same = canonical == (text.encode() if isinstance(text, str) else text)
    return token if same and 0 < len(token) <= LONGEST_TOKEN else None


def check_bytes(path: Path, field: str, ranks: dict[bytes, int]) -> None:
    """Raise MalformedError unless all 256 bytes are tokens, without which some texts would have no ids."""
    for byte in range(256):
        if bytes([byte]) not in ranks:
            raise MalformedError(path, field, found=f"no token for the byte 0x{byte:02x}", allowed="all 256 bytes")


def write(vocabulary: Vocabulary, *, scaled_rope: bool = False) -> tuple[bytes, Vocabulary]:
    """The file of ranks for a vocabulary, and what is read from it: the same tokens and merges.

    Raises RefusedError for a vocabulary that is not of the Llama 3 kind: other special tokens, another cut of text,
    merges that do not follow from ranks.
    """
    path = Path("tokenizer.model")
    special = _SPECIAL_3_1 if scaled_rope else _SPECIAL_3_0
    ranks = [byte_alphabet.to_bytes(token) for token in vocabulary.tokens[: -len(special)]]
    data = b"".join(b"%b %d\n" % (base64.b64encode(token or b""), rank) for rank, token in enumerate(ranks))
    if vocabulary.model == "bpe" and vocabulary.tokens[-len(special) :] == special:
        try:
            again = parse(path, data, len(vocabulary), scaled_rope=scaled_rope)
        except MalformedError as error:
            raise RefusedError(f"{error}: ranks cannot hold this vocabulary") from None
        cut = pre_tokenizers.by_name(vocabulary.pre_tokenizer).name
        kept = (vocabulary.tokens, vocabulary.kinds, vocabulary.merges, cut)
        if kept == (again.tokens, again.kinds, again.merges, again.pre_tokenizer):
            return data, again
    raise RefusedError(f"{path}: this vocabulary is not Llama 3's, the one that is written as ranks")
