"""Text to token ids and back, for every format in one way: through the tokenizer.json that our own writer makes."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from converters.tokenizers import byte_alphabet, tokenizer_json
from converters.tokenizers.vocabulary import TokenKind, Vocabulary, byte_of


class Tokenizer:
    """A vocabulary at work. Raises UnsupportedError if its text is cut in a way that we do not know."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        from tokenizers import Tokenizer as Encoder  # heavy, so not before a text must be encoded

        self.vocabulary = vocabulary
        self._encoder = Encoder.from_buffer(tokenizer_json.write(vocabulary))

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """The ids of a text.

        add_special: put the begin and end tokens around it that this vocabulary wants. parse_special: control tokens
        written out in the text (`<|im_start|>`) count as such, as a rendered chat template needs it; a user's own text
        must be encoded without. Lone surrogates become U+FFFD, as they cannot be written in UTF-8.
        """
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        self._encoder.encode_special_tokens = not parse_special
        return list(self._encoder.encode(text, add_special_tokens=add_special).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids: control and unused tokens give none, broken UTF-8 gives U+FFFD."""
        stream = self.stream()
        return "".join([stream.feed(token_id) for token_id in ids]) + stream.finish()

    def stream(self, after: Iterable[int] = ()) -> Stream:
        """A decoder for ids that arrive one by one; `after` are those that came before and are not shown."""
        stream = Stream(self.vocabulary)
        for token_id in after:
            stream.feed(token_id)
        return stream


class Stream:
    """Ids one by one into text that never ends inside a character."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._at_start = vocabulary.add_space_prefix  # the space that encoding put in front is taken off again

    def feed(self, token_id: int) -> str:
        """The characters that this token completes, possibly none. ValueError for an id outside the vocabulary."""
        text = self._characters.decode(self._bytes_of(token_id))
        if self._at_start and text:
            self._at_start = False
            return text.removeprefix(" ")
        return text

    def finish(self) -> str:
        """What is left: U+FFFD if the ids ended inside a character."""
        return self._characters.decode(b"", final=True)

    def _bytes_of(self, token_id: int) -> bytes:
        if not 0 <= token_id < len(self._vocabulary):
            raise ValueError(f"token {token_id} of a vocabulary of {len(self._vocabulary)}")
        token, kind = self._vocabulary.tokens[token_id], self._vocabulary.kinds[token_id]
        if kind in (TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.UNUSED):
            return b""
        if kind is TokenKind.BYTE:
            byte = byte_of(token)
            return b"" if byte is None else bytes([byte])
        if kind is TokenKind.USER_DEFINED:
            return token.encode()
        if self._vocabulary.model == "spm":
            return token.replace("▁", " ").encode()
        data = byte_alphabet.to_bytes(token)
        return token.encode() if data is None else data  # a token outside the byte alphabet stands for itself
