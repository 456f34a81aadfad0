"""tokenizer.model: SentencePiece's protocol buffer, read and written by hand.

    ModelProto       1: repeated SentencePiece  2: TrainerSpec  3: NormalizerSpec
    SentencePiece    1: piece (text)  2: score (float32)  3: type (a TokenKind, NORMAL if absent)
    TrainerSpec      3: model_type (1 unigram, 2 BPE)  35: byte_fallback  40-43: unk, bos, eos, pad id
                     45-48: unk, bos, eos, pad piece
    NormalizerSpec   2: precompiled_charsmap  3: add_dummy_prefix  4: remove_extra_whitespaces  5: escape_whitespaces

A field is a key (number << 3 | wire type, as a varint) and a value: a varint (type 0), 8 bytes (1), a length and so
many bytes (2), or 4 bytes (5). Unknown fields are skipped. Source: google/sentencepiece, src/sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from converters.errors import MalformedError, UnsupportedError
from converters.input_file import InputFile
from converters.tokenizers.vocabulary import KINDS, TokenKind, Vocabulary, judged

LARGEST_FILE = 16 << 20  # bytes; the largest known (Gemma) has 5 MB
MOST_PIECES = 1 << 20
_OTHER_TYPES: dict[object, str] = {1: "unigram", 3: "word", 4: "character"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NAMES = {
    "tokens": "pieces", "kinds": "pieces.type", "scores": "pieces.score", "stop_ids": "trainer_spec.eos_id",
    "bos_id": "trainer_spec.bos_id", "eos_id": "trainer_spec.eos_id", "unk_id": "trainer_spec.unk_id",
    "pad_id": "trainer_spec.pad_id", "add_bos": "trainer_spec.bos_id", "add_eos": "trainer_spec.eos_id",
}  # fmt: skip


def sniff(head: bytes) -> bool:
    """Whether bytes begin as a tokenizer.model does: a first piece that begins with its text.

    Llama 3's file of the same name is lines of base64, which cannot begin so.
    """
    return len(head) > 3 and head[0] == (1 << 3 | _BYTES) and (head[2] == (1 << 3 | _BYTES) or head[1] >= 0x80)


def read(path: Path) -> Vocabulary:
    """The vocabulary of a SentencePiece BPE model; special tokens as the trainer named them.

    Raises MalformedError for broken bytes, UnsupportedError for models other than BPE and for normalization of text.
    """
    with InputFile(path) as file:
        if file.size > LARGEST_FILE:
            raise MalformedError(path, "file", found=f"{file.size} bytes", allowed=f"at most {LARGEST_FILE}")
        return parse(path, file.read(0, file.size, "file"))


def parse(path: Path, data: bytes) -> Vocabulary:
    """The same from bytes; path is for messages."""
    message = _Message(path, "ModelProto", data, 0, len(data))
    pieces: list[tuple[str, float, TokenKind]] = []
    trainer = normalizer = _Message(path, "TrainerSpec", b"", 0, 0)
    for field in message.fields():
        if field.number == 1:
            if len(pieces) == MOST_PIECES:
                raise message.error(field, f"more than {MOST_PIECES} pieces", f"at most {MOST_PIECES}")
            pieces.append(_read_piece(message.message(field, f"pieces[{len(pieces)}]")))
        elif field.number == 2:
            trainer = message.only(field, "trainer_spec", trainer)
        elif field.number == 3:
            normalizer = message.only(field, "normalizer_spec", normalizer)
    return _assemble(path, pieces, trainer, normalizer)


def _assemble(
    path: Path, pieces: list[tuple[str, float, TokenKind]], trainer: _Message, normalizer: _Message
) -> Vocabulary:
    spec = trainer.last_values()
    kind = spec.get(3, 1)
    if kind != 2:
        raise UnsupportedError(path, "trainer_spec.model_type", found=_OTHER_TYPES.get(kind, kind), allowed="BPE")
    rules = normalizer.last_values()
    for number, name, default, allowed in ((2, "precompiled_charsmap", b"", b""), (4, "remove_extra_whitespaces", 1, 0),
                                           (5, "escape_whitespaces", 1, 1)):  # fmt: skip
        value = rules.get(number, default)
        if value != allowed:
            found = f"{len(value)} bytes" if isinstance(value, bytes) else value
            raise UnsupportedError(path, f"normalizer_spec.{name}", found=found, allowed=repr(allowed))
    index = {piece: token_id for token_id, (piece, _, _) in enumerate(pieces)}
    ids = {
        name: _special_id(spec, 40 + n, index.get(_text(spec.get(45 + n), default)))
        for n, (name, default) in enumerate((("unk", "<unk>"), ("bos", "<s>"), ("eos", "</s>"), ("pad", "<pad>")))
    }
    vocabulary = Vocabulary(
        model="spm",
        pre_tokenizer="default",
        # A user-defined piece is matched in text as it stands, so it is kept as that text.
        tokens=tuple(p.replace("▁", " ") if kind is TokenKind.USER_DEFINED else p for p, _, kind in pieces),
        kinds=tuple(kind for _, _, kind in pieces),
        scores=tuple(score for _, score, _ in pieces),
        bos_id=ids["bos"],
        eos_id=ids["eos"],
        unk_id=ids["unk"],
        pad_id=ids["pad"],
        stop_ids=() if ids["eos"] is None else (ids["eos"],),
        add_bos=ids["bos"] is not None,
        add_space_prefix=bool(rules.get(3, 1)),
    )
    return judged(path, vocabulary, _NAMES)


def _special_id(spec: dict[int, int | bytes], number: int, by_text: int | None) -> int | None:
    """A special token's id: as given, -1 for none; where the field is absent, by its text."""
    value = spec.get(number)
    if not isinstance(value, int):
        return by_text
    return None if value >= 1 << 31 else value  # a negative int32 is a varint of 64 bits


def _text(value: int | bytes | None, default: str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else default


def _read_piece(message: _Message) -> tuple[str, float, TokenKind]:
    text, score, kind = "", 0.0, TokenKind.NORMAL
    for field in message.fields():
        if field.number == 1:
            text = message.text(field)
        elif field.number == 2:
            score = message.float32(field)
        elif field.number == 3:
            if not isinstance(field.value, int) or field.value not in KINDS:
                raise message.error(field, field.value, "a type from 1 to 6")
            kind = KINDS[field.value]
    if not text:
        raise MalformedError(message.path, message.name, offset=message.start, found="no text", allowed="a piece")
    return text, score, kind


class _Field(NamedTuple):
    number: int
    wire_type: int
    value: int | bytes
    start: int  # of the value, from the start of the file


@dataclass(frozen=True)
class _Message:
    path: Path
    name: str
    data: bytes  # the whole file
    start: int
    stop: int

    def message(self, field: _Field, name: str) -> _Message:
        value = self._bytes(field, _BYTES, "a message")
        return _Message(self.path, name, self.data, field.start, field.start + len(value))

    def only(self, field: _Field, name: str, before: _Message) -> _Message:
        """A message that stands once; of two, protocol buffers would make one out of both."""
        if before.stop:
            raise self.error(field, f"{name} again", "it once")
        return self.message(field, name)

    def text(self, field: _Field) -> str:
        value = self._bytes(field, _BYTES, "text")
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise self.error(field, value, "UTF-8") from None

    def float32(self, field: _Field) -> float:
        return float(struct.unpack("<f", self._bytes(field, _FIXED32, "a float32"))[0])

    def _bytes(self, field: _Field, wire_type: int, allowed: str) -> bytes:
        if not isinstance(field.value, bytes) or field.wire_type != wire_type:
            raise self.error(field, f"wire type {field.wire_type}", allowed)
        return field.value

    def error(self, field: _Field, found: object, allowed: str) -> MalformedError:
        where = f"{self.name} field {field.number}"
        return MalformedError(self.path, where, offset=field.start, found=found, allowed=allowed)

    def last_values(self) -> dict[int, int | bytes]:
        """Each field's value; of one that is repeated the last, as protocol buffers have it."""
        return {field.number: field.value for field in self.fields()}

    def fields(self) -> Iterator[_Field]:
        position = self.start
        while position < self.stop:
            key, begin = self._varint(position)
            number, wire_type = key >> 3, key & 7
            if number == 0 or wire_type not in (_VARINT, _FIXED64, _BYTES, _FIXED32):
                found = f"field {number} of wire type {wire_type}"
                raise self._error(position, found, "a field from 1 on, of wire type 0, 1, 2 or 5")
            value: int | bytes
            if wire_type == _VARINT:
                value, position = self._varint(begin)
            else:
                length = {_FIXED64: 8, _FIXED32: 4}.get(wire_type, 0)
                if wire_type == _BYTES:
                    length, begin = self._varint(begin)
                if length > self.stop - begin:
                    raise self._error(begin, f"{length} bytes wanted, {self.stop - begin} left", "what is there")
                position = begin + length
                value = self.data[begin:position]
            yield _Field(number, wire_type, value, begin)

    def _varint(self, position: int) -> tuple[int, int]:
        """A varint and where it ends: at most 10 bytes of 7 bits, lowest first, below 2**64."""
        value = 0
        for n in range(10):
            if position + n >= self.stop:
                raise self._error(position, "a number that is cut off", "a whole varint")
            byte = self.data[position + n]
            value |= (byte & 0x7F) << 7 * n
            if byte < 0x80:
                if value >= 1 << 64:
                    break
                return value, position + n + 1
        raise self._error(position, "a number above 64 bits", "a varint below 2**64")

    def _error(self, offset: int, found: str, allowed: str) -> MalformedError:
        return MalformedError(self.path, self.name, offset=offset, found=found, allowed=allowed)


def write(vocabulary: Vocabulary) -> bytes | None:
    """A tokenizer.model with the same pieces; None without an unknown token, which SentencePiece needs.

    What a vocabulary does not know of (training options) is absent.
    """
    if vocabulary.model != "spm":
        raise ValueError(f"a {vocabulary.model} vocabulary is no SentencePiece model")
    if vocabulary.unk_id is None or vocabulary.scores is None:
        return None
    out = bytearray()
    for token_id, (token, kind, score) in enumerate(
        zip(vocabulary.tokens, vocabulary.kinds, vocabulary.scores, strict=True)
    ):
        if kind is TokenKind.UNKNOWN or token_id == vocabulary.unk_id:
            kind = TokenKind.UNKNOWN if token_id == vocabulary.unk_id else TokenKind.CONTROL  # only one may be
        text = token.replace(" ", "▁") if kind is TokenKind.USER_DEFINED else token
        piece = _bytes_field(1, text.encode()) + _key(2, _FIXED32) + struct.pack("<f", score)
        if kind is not TokenKind.NORMAL:
            piece += _int_field(3, kind)
        out += _bytes_field(1, piece)
    has_bytes = TokenKind.BYTE in vocabulary.kinds
    trainer = _int_field(3, 2) + _int_field(4, len(vocabulary)) + _int_field(35, int(has_bytes))
    special = (vocabulary.unk_id, vocabulary.bos_id, vocabulary.eos_id, vocabulary.pad_id)
    for n, token_id_or_none in enumerate(special):
        trainer += _int_field(40 + n, -1 if token_id_or_none is None else token_id_or_none)
    for n, token_id_or_none in enumerate(special):
        if token_id_or_none is not None:
            trainer += _bytes_field(45 + n, vocabulary.tokens[token_id_or_none].encode())
    normalizer = _bytes_field(1, b"identity") + _int_field(3, int(vocabulary.add_space_prefix))
    normalizer += _int_field(4, 0) + _int_field(5, 1)
    return bytes(out + _bytes_field(2, trainer) + _bytes_field(3, normalizer))


def _key(number: int, wire_type: int) -> bytes:
    return _encode_varint(number << 3 | wire_type)


def _int_field(number: int, value: int) -> bytes:
    return _key(number, _VARINT) + _encode_varint(value % (1 << 64))


def _bytes_field(number: int, value: bytes) -> bytes:
    return _key(number, _BYTES) + _encode_varint(len(value)) + value


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
