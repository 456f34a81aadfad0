import base64
import random
from dataclasses import replace
from pathlib import Path

import pytest
import tiktoken as judge
from hypothesis import given
from hypothesis import strategies as st

from converters.errors import MalformedError, RefusedError, UnsupportedError
from converters.fields import Fields
from converters.tokenizers import tiktoken
from converters.tokenizers.gguf_keys import vocabulary_from_gguf, vocabulary_to_gguf
from converters.tokenizers.vocabulary import TokenKind
from distro.runtime.tokenizer import Tokenizer
from tests.data.corpus import CORPUS, SPECIAL
from tests.fakes import llama_cpp
from tests.fakes.vocabularies import small_bpe, small_llama_3, vocabulary_of

PATH = Path("tokenizer.model")
LLAMA_MODELS = "llama-models==0.3.0"
# `pat_str` of meta-llama/llama3, llama/tokenizer.py.
REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def lines(*tokens):
    return b"".join(b"%b %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))


BYTES = [bytes([byte]) for byte in range(256)]
SMALL = lines(*BYTES, b"ab", b"bc", b"abc", b" abc")


@pytest.fixture(scope="module")
def model(wheel_file):
    """The tokenizer.model of Llama 3, 3.1, 3.2 and 3.3, which is one and the same file."""
    return wheel_file(LLAMA_MODELS, "llama_models/llama3/tokenizer.model")


@pytest.fixture(scope="module")
def llama_3_1(model):
    return tiktoken.read(model, 128256, scaled_rope=True)


@pytest.fixture(scope="module")
def encoding(model, llama_3_1):
    """OpenAI's own library with what Meta's code gives it."""
    ranks = {base64.b64decode(line.split()[0]): rank for rank, line in enumerate(model.read_bytes().splitlines())}
    special = {token: token_id for token_id, token in enumerate(llama_3_1.tokens) if token_id >= 128000}
    return judge.Encoding("llama 3", pat_str=REGEX, mergeable_ranks=ranks, special_tokens=special)


def test_literal_bytes():
    vocabulary = tiktoken.parse(PATH, SMALL, 516)
    assert vocabulary.tokens[0x20:0x23] == ("Ġ", "!", '"')
    assert vocabulary.tokens[256:263] == (
        "ab", "bc", "abc", "Ġabc", "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
    )  # fmt: skip
    # Of two ways to make a token the one with the lower left half goes first.
    assert vocabulary.merges == ("a b", "b c", "a bc", "ab c", "Ġ abc")
    assert vocabulary.kinds == (TokenKind.NORMAL,) * 260 + (TokenKind.CONTROL,) * 256
    assert (vocabulary.model, vocabulary.pre_tokenizer) == ("bpe", "llama-bpe")
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id, vocabulary.pad_id) == (260, 261, None, None)
    assert (vocabulary.add_bos, vocabulary.add_eos, vocabulary.stop_ids) == (True, False, (261, 269))
    assert vocabulary.chat_template is None
    assert tiktoken.parse(PATH, SMALL, None) == vocabulary


def test_the_special_tokens_of_llama_3_and_of_what_followed():
    def by_id(vocabulary):
        return [vocabulary.tokens[260 + n].removeprefix("<|").removesuffix("|>") for n in (*range(12), 255)]

    assert by_id(tiktoken.parse(PATH, SMALL, 516)) == [
        "begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1",
        "reserved_special_token_2", "reserved_special_token_3", "start_header_id", "end_header_id",
        "reserved_special_token_4", "eot_id", "reserved_special_token_5", "reserved_special_token_6",
        "reserved_special_token_250",
    ]  # fmt: skip
    newer = tiktoken.parse(PATH, SMALL, 516, scaled_rope=True)
    assert by_id(newer) == [
        "begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1",
        "finetune_right_pad_id", "reserved_special_token_2", "start_header_id", "end_header_id", "eom_id", "eot_id",
        "python_tag", "reserved_special_token_3", "reserved_special_token_247",
    ]  # fmt: skip
    assert newer.stop_ids == (261, 268, 269)


def test_tiktoken_agrees_on_every_text(llama_3_1, encoding):
    tokenizer = Tokenizer(llama_3_1)
    for text in (*CORPUS, *SPECIAL):
        ids = encoding.encode(text, disallowed_special=())
        assert tokenizer.encode(text, add_special=False) == ids
        assert tokenizer.encode(text) == [128000, *ids]
        assert tokenizer.decode(ids) == text
    chat = "<|start_header_id|>user<|end_header_id|>\n\nIs it <|eot_id> high?<|eot_id|><|begin_of_text|>"
    assert tokenizer.encode(chat, add_special=False, parse_special=True) == encoding.encode(chat, allowed_special="all")


def test_tiktoken_agrees_on_runs_that_could_be_joined_in_many_ways(llama_3_1, encoding):
    """Where merges by rank and ranks themselves might part: equal neighbours, blanks, signs, halves of characters."""
    tokenizer, dice = Tokenizer(llama_3_1), random.Random(3)
    parts = [
        "a",
        "b",
        " ",
        "  ",
        "\n",
        "\t",
        " a",
        "e",
        "é",
        "0",
        "'s",
        "你",
        "🙂",
        "-",
        "--",
        "=",
        "the",
        "　",
        "İ",
        "ſ",
    ]
    for _ in range(2000):
        text = "".join(dice.choices(parts, k=dice.randint(1, 40)))
        assert tokenizer.encode(text, add_special=False) == encoding.encode(text)


def test_the_real_file_comes_back_byte_for_byte(llama_3_1, model):
    assert len(llama_3_1.merges) == 280_147  # as many as in the tokenizer.json that Meta published
    data, again = tiktoken.write(llama_3_1, scaled_rope=True)
    assert data == model.read_bytes()
    assert again == llama_3_1


def test_llama_cpp_reads_our_keys_and_gives_our_ids(llama_3_1, tmp_path):
    path = tmp_path / "llama-3.gguf"
    keys = vocabulary_to_gguf(llama_3_1)
    ends = [keys[f"tokenizer.ggml.{end}_token_id"] for end in ("bos", "eos", "eot", "eom")]
    assert ends == [128000, 128001, 128009, 128008]
    assert keys["tokenizer.ggml.pre"] == "llama-bpe"
    assert vocabulary_from_gguf(Fields(path, keys)) == llama_3_1
    llama_cpp.write_model(path, llama_3_1)
    tokenizer = Tokenizer(llama_3_1)
    texts = [*CORPUS, *SPECIAL, "<|start_header_id|>user<|end_header_id|>\n\nIs it high?<|eot_id|>"]
    theirs = llama_cpp.tokenize(path, texts, tmp_path / "ids.json", add_special=True, parse_special=True)
    assert theirs == [tokenizer.encode(text, parse_special=True) for text in texts]


def test_llama_4s_file_is_not_taken_for_llama_3s(wheel_file):
    path = wheel_file(LLAMA_MODELS, "llama_models/llama4/tokenizer.model")
    assert tiktoken.sniff(path.read_bytes()[:64])
    with pytest.raises(
        UnsupportedError, match="ranks: found 200000 for the embedding's 202048 rows, allowed 256 fewer"
    ):
        tiktoken.read(path, 202048, scaled_rope=True)


BAD_LINES = [
    ("no base64", b"a-_= 256\n", "line 257"),
    ("base64 of a wrong length", b"YWJ 256\n", "line 257"),
    ("base64 with bits that mean nothing", b"YWJ= 256\n", "line 257"),
    ("no bytes", b"= 256\n", "line 257"),
    ("257 bytes", base64.b64encode(bytes(257)) + b" 256\n", "line 257"),
    ("no rank", b"YWI=\n", "line 257"),
    ("two blanks", b"YWI=  256\n", "line 257"),
    ("a blank behind", b"YWI= 256 \n", "line 257"),
    ("Windows' newlines", b"YWI= 256\r\n", "line 257"),
    ("a rank below zero", b"YWI= -1\n", "line 257"),
    ("a rank with zeros before it", b"YWI= 0256\n", "line 257"),
    ("a rank in other digits", "YWI= ٢٥٦\n".encode(), "line 257"),
    ("a rank of 5,000 digits", b"YWI= " + b"9" * 5000 + b"\n", "line 257"),
    ("a rank twice", b"YWI= 255\n", "line 257"),
    ("a gap", b"YWI= 256\nYmM= 258\n", "line 258"),
    ("a token twice", b"YWI= 256\nYWI= 257\n", "line 258"),
    ("an empty line", b"\nYWI= 256\n", "line 257"),
    ("no newline at the end", b"YWI= 256", "line 257"),
    ("NUL", b"YWI= 256\0\n", "line 257"),
    ("special tokens", b"YWI= 256\n<|eot|> 257\n", "line 258"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "line"), [row[1:] for row in BAD_LINES], ids=[row[0] for row in BAD_LINES])
def test_bad_lines_are_named(more, line):
    with pytest.raises(MalformedError) as caught:
        tiktoken.parse(PATH, lines(*BYTES) + more, None)
    assert (caught.value.field, caught.value.offset) == ("ranks", line)
    assert len(str(caught.value)) < 300


def test_a_byte_without_a_token_is_named():
    with pytest.raises(MalformedError, match="ranks: found no token for the byte 0x41"):
        tiktoken.parse(PATH, lines(*BYTES[:65], *BYTES[66:], b"ab"), None)


def test_a_cut_at_every_byte_is_an_error():
    assert len(tiktoken.parse(PATH, SMALL, 516)) == 516
    for length in range(len(SMALL)):
        with pytest.raises(MalformedError):
            tiktoken.parse(PATH, SMALL[:length], 516)


def test_a_file_of_a_gigabyte_is_refused_unread(tmp_path):
    with (tmp_path / "tokenizer.model").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(MalformedError, match="found 1073741824 bytes, allowed at most 16777216"):
        tiktoken.read(tmp_path / "tokenizer.model", None)


@given(st.binary(max_size=60) | st.lists(st.binary(max_size=3)).map(lambda tokens: lines(*tokens)))
def test_any_bytes_are_a_vocabulary_or_an_error(data):
    try:
        vocabulary = tiktoken.parse(PATH, lines(*BYTES) + data, None)
    except MalformedError as error:
        assert str(error).startswith("tokenizer.model: ")
    else:
        assert (data, len(vocabulary)) == (b"", 512)


def test_the_first_line_decides():
    assert tiktoken.sniff(b"IQ== 0\nIg== 1\n")
    assert not tiktoken.sniff(b"IQ== 0")
    assert not tiktoken.sniff(b'{"IQ==": 0}\n')
    assert not tiktoken.sniff(b"")


def changed(**values):
    return replace(small_llama_3(), **values)


NOT_RANKS = [
    ("a SentencePiece model", changed(model="spm")),
    ("another vocabulary", small_bpe()),
    ("another cut", changed(pre_tokenizer="qwen2")),
    ("special tokens of its own", changed(tokens=(*small_llama_3().tokens[:-1], "<|im_start|>"))),
    ("unused rows behind", changed(tokens=(*small_llama_3().tokens, "[PAD516]"),
                                   kinds=(*small_llama_3().kinds, TokenKind.UNUSED))),
    ("merges in another order", changed(merges=small_llama_3().merges[::-1])),
    ("a merge less", changed(merges=small_llama_3().merges[:-1])),
    ("a token outside the byte alphabet", changed(tokens=("你", *small_llama_3().tokens[1:]))),
    ("a normal token that is user-defined", changed(kinds=(TokenKind.USER_DEFINED, *small_llama_3().kinds[1:]))),
    ("fewer tokens than special ones", changed(tokens=small_llama_3().tokens[-255:])),
]  # fmt: skip


@pytest.mark.parametrize("vocabulary", [row[1] for row in NOT_RANKS], ids=[row[0] for row in NOT_RANKS])
def test_what_ranks_cannot_say_is_refused(vocabulary):
    assert tiktoken.write(small_llama_3())[0] == SMALL
    with pytest.raises(RefusedError, match=r"^tokenizer\.model: "):
        tiktoken.write(vocabulary)


def test_a_real_vocabulary_of_another_kind_is_refused(smollm2_gguf):
    with pytest.raises(RefusedError, match="not Llama 3's"):
        tiktoken.write(vocabulary_of(smollm2_gguf))
    with pytest.raises(RefusedError, match="not Llama 3's"):
        tiktoken.write(small_llama_3(), scaled_rope=True)


def test_names_that_llama_cpp_takes_for_llama_bpe_are_written_too():
    assert tiktoken.write(changed(pre_tokenizer="llama-v3"))[0] == SMALL


def test_keys_of_a_small_one_come_back():
    assert vocabulary_from_gguf(Fields(PATH, vocabulary_to_gguf(small_llama_3()))) == small_llama_3()
