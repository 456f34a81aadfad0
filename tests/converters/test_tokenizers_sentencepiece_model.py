import struct
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from converters.errors import ConversionError, MalformedError, UnsupportedError
from converters.tokenizers import sentencepiece_model
from converters.tokenizers.vocabulary import TokenKind
from tests.data.corpus import CORPUS, SPECIAL
from tests.fakes.vocabularies import small_spm

PATH = Path("tokenizer.model")
PIECE = bytes.fromhex("0a 0a 0a 03") + "▁".encode() + bytes.fromhex("15 00 00 80 bf")  # "▁", score -1
BPE = bytes.fromhex("12 02 18 02")  # trainer_spec: model_type 2
PLAIN = bytes.fromhex("1a 02 20 00")  # normalizer_spec: remove_extra_whitespaces 0
REAL = [
    ("mistral-common==1.13.1", "mistral_common/data/tokenizer.model.v1", 32000),
    ("mistral-common==1.13.1", "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3", 32768),
]


def test_literal_bytes():
    vocabulary = sentencepiece_model.parse(PATH, PIECE + BPE + PLAIN)
    assert vocabulary.tokens == ("▁",)
    assert vocabulary.kinds == (TokenKind.NORMAL,)
    assert vocabulary.scores == (-1.0,)
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id, vocabulary.pad_id) == (None, None, None, None)
    assert vocabulary.add_space_prefix


def test_unknown_fields_are_skipped():
    unknown = bytes.fromhex("98 06 07 9d 06 01 02 03 04 99 06 01 02 03 04 05 06 07 08 9a 06 02 ff ff")
    assert sentencepiece_model.parse(PATH, unknown + PIECE + BPE + PLAIN + unknown).tokens == ("▁",)


def test_a_vocabulary_comes_back():
    vocabulary = small_spm()
    assert sentencepiece_model.parse(PATH, sentencepiece_model.write(vocabulary)) == vocabulary


def test_a_user_defined_piece_is_kept_as_the_text_that_it_matches():
    tokens = (*small_spm().tokens[:-2], "two  blanks", "[PAD270]")
    data = sentencepiece_model.write(replace(small_spm(), tokens=tokens))
    assert "two▁▁blanks".encode() in data
    assert sentencepiece_model.parse(PATH, data).tokens == tokens


def test_without_an_unknown_token_there_is_no_model():
    assert sentencepiece_model.write(replace(small_spm(), unk_id=None)) is None


@pytest.mark.parametrize(("requirement", "member", "size"), REAL, ids=["v1", "v3"])
def test_sentencepiece_agrees_on_real_models(wheel_file, requirement, member, size):
    path = wheel_file(requirement, member)
    judge = sentencepiece.SentencePieceProcessor(model_file=str(path))
    vocabulary = sentencepiece_model.read(path)
    assert len(vocabulary) == size
    assert vocabulary.tokens == tuple(judge.IdToPiece(i) for i in range(size))
    assert vocabulary.scores == tuple(judge.GetScore(i) for i in range(size))
    is_control = [judge.IsControl(i) for i in range(size)]
    assert [kind is TokenKind.CONTROL for kind in vocabulary.kinds] == is_control
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id) == (judge.bos_id(), judge.eos_id(), judge.unk_id())
    assert vocabulary.pad_id is None  # -1 in the file

    again = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model.write(vocabulary))
    texts = [*CORPUS, *SPECIAL]
    assert again.encode(texts) == judge.encode(texts)
    assert sentencepiece_model.sniff(path.read_bytes()[:64])


def test_llama_3s_ranks_are_not_taken_for_sentencepiece():
    assert not sentencepiece_model.sniff(b"IQ== 0\nIg== 1\nIw== 2\n")
    assert not sentencepiece_model.sniff(b"")


def piece(text=b"a", score=0.0, kind=None):
    body = bytes([0x0A, len(text)]) + text + b"\x15" + struct.pack("<f", score)
    body += b"" if kind is None else bytes([0x18, kind])
    return bytes([0x0A, len(body)]) + body


# What is wrong, bytes, field and offset of the error.
BAD = [
    ("empty", b"", "trainer_spec.model_type", None),
    ("no pieces", BPE + PLAIN, "pieces", None),
    ("length above 64 bits", b"\x0a" + b"\xff" * 10, "ModelProto", 1),
    ("length 2**63", b"\x0a" + b"\x80" * 9 + b"\x01", "ModelProto", 11),
    ("length past the end", b"\x0a\x7f\x0a", "ModelProto", 2),
    ("a group", b"\x0b" + PIECE, "ModelProto", 0),
    ("the end of a group", PIECE + b"\x0c", "ModelProto", 12),
    ("field 0", b"\x02\x00", "ModelProto", 0),
    ("a piece that is a number", b"\x08\x05", "ModelProto field 1", 1),
    ("a piece without text", b"\x0a\x05\x15\x00\x00\x00\x00" + BPE + PLAIN, "pieces[0]", 2),
    ("a piece that is no UTF-8", piece(b"\xff\xfe") + BPE + PLAIN, "pieces[0] field 1", 4),
    ("a piece with NUL", piece(b"a\0b") + BPE + PLAIN, "pieces[0]", None),
    ("a piece twice", piece() + piece() + BPE + PLAIN, "pieces[1]", None),
    ("type 0", piece(kind=0) + BPE + PLAIN, "pieces[0] field 3", 11),
    ("type 7", piece(kind=7) + BPE + PLAIN, "pieces[0] field 3", 11),
    ("score NaN", piece(score=float("nan")) + BPE + PLAIN, "pieces.score[0]", None),
    ("a score of 8 bytes", b"\x0a\x0c\x0a\x01a\x11" + bytes(8) + BPE + PLAIN, "pieces[0] field 2", 6),
    ("one byte token", piece(b"<0x41>", kind=6) + BPE + PLAIN, "pieces.type", None),
    ("bos outside", piece() + b"\x12\x05\x18\x02\xc8\x02\x09" + PLAIN, "trainer_spec.bos_id", None),
    ("trainer twice", piece() + BPE + b"\x12\x02\x18\x01" + PLAIN, "ModelProto field 2", 16),
    ("normalizer twice", piece() + BPE + PLAIN + PLAIN, "ModelProto field 3", 20),
    ("unigram", piece() + PLAIN, "trainer_spec.model_type", None),
    ("blanks removed", piece() + BPE, "normalizer_spec.remove_extra_whitespaces", None),
    ("text normalized", piece() + BPE + b"\x1a\x05\x20\x00\x12\x01x", "normalizer_spec.precompiled_charsmap", None),
]


@pytest.mark.parametrize(("data", "field", "offset"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_bytes_are_named(data, field, offset):
    with pytest.raises(MalformedError) as caught:
        sentencepiece_model.parse(PATH, data)
    assert (caught.value.field, caught.value.offset) == (field, offset)


def test_a_cut_at_every_byte_is_an_error():
    data = piece(b"ab", -1.0) + piece(b"c", kind=3) + BPE + PLAIN
    assert len(sentencepiece_model.parse(PATH, data)) == 2
    for length in range(len(data)):
        with pytest.raises(ConversionError):
            sentencepiece_model.parse(PATH, data[:length])


def test_ten_million_pieces_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sentencepiece_model, "MOST_PIECES", 100)
    with pytest.raises(MalformedError, match="more than 100 pieces"):
        sentencepiece_model.parse(PATH, b"".join(piece(f"p{n}".encode()) for n in range(101)) + BPE + PLAIN)
    with (tmp_path / "tokenizer.model").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(MalformedError, match="at most"):
        sentencepiece_model.read(tmp_path / "tokenizer.model")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_vocabulary_or_an_error(data):
    try:
        sentencepiece_model.parse(PATH, data + BPE + PLAIN)
    except MalformedError as error:
        assert str(error).startswith("tokenizer.model: ")


def test_unsupported_models_say_so():
    with pytest.raises(UnsupportedError, match="found unigram, allowed BPE"):
        sentencepiece_model.parse(PATH, piece() + PLAIN)
