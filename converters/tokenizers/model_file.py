"""tokenizer.model: one name, two formats, told apart by what is in them.

SentencePiece's protocol buffer (Llama 1 and 2, Code Llama, Mistral: `converters.tokenizers.sentencepiece_model`) or
tiktoken's lines of base64 (Llama 3: `converters.tokenizers.tiktoken`). The first begins with the byte 0x0a, a newline,
which is no base64.
"""

from __future__ import annotations

from pathlib import Path

from converters.errors import MalformedError
from converters.input_file import InputFile
from converters.tokenizers import sentencepiece_model, tiktoken
from converters.tokenizers.vocabulary import Vocabulary

_LONGEST_HEAD = 1024  # bytes; longer than any first line that tiktoken's reader takes


def is_sentencepiece(path: Path) -> bool:
    """Whether a file begins as a SentencePiece model does."""
    return sentencepiece_model.sniff(_head(path))


def read(path: Path, vocab_size: int | None, *, scaled_rope: bool = False) -> Vocabulary:
    """The tokens of a tokenizer.model in either format, with the parts that the format itself gives them.

    vocab_size: rows of the embedding, None where that is not known. scaled_rope: for tiktoken, which does not say which
    special tokens there are. Raises MalformedError for broken bytes and for what is neither, UnsupportedError for
    tokenizers of other kinds.
    """
    head = _head(path)
    if sentencepiece_model.sniff(head):
        return sentencepiece_model.read(path)
    if tiktoken.sniff(head):
        return tiktoken.read(path, vocab_size, scaled_rope=scaled_rope)
    allowed = "a SentencePiece model, or lines of base64 and a rank"
    raise MalformedError(path, "file", offset=0, found=head[:16] or "nothing", allowed=allowed)


def _head(path: Path) -> bytes:
    with InputFile(path) as file:
        return file.read(0, min(file.size, _LONGEST_HEAD), "file")
