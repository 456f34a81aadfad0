import base64
import json
import random
from pathlib import Path

import pytest
import tiktoken as judge

from converters.errors import ConversionError, MalformedError, UnsupportedError
from converters.fields import Fields
from converters.tokenizers import pre_tokenizers, tekken
from converters.tokenizers.gguf_keys import vocabulary_from_gguf, vocabulary_to_gguf
from converters.tokenizers.vocabulary import TokenKind
from distro.runtime.tokenizer import Tokenizer
from tests.data.corpus import CORPUS, SPECIAL
from tests.fakes import llama_cpp

PATH = Path("tekken.json")
MISTRAL = "mistral-common==1.13.1"
REGEX = pre_tokenizers.by_name("tekken").steps[0]["pattern"]["Regex"]


def token(rank, data):
    return {"rank": rank, "token_bytes": base64.b64encode(data).decode(), "token_str": data.decode("utf-8", "replace")}


def special(rank, text):
    return {"rank": rank, "token_str": text, "is_control": True}


def small():
    """Four special tokens, of which the file names three, 258 others, and one more that is not used."""
    tokens = [*(bytes([byte]) for byte in range(256)), b"ab", b"abc", b"abcd"]
    config = {"pattern": REGEX, "default_vocab_size": 262, "default_num_special_tokens": 4, "version": "v11"}
    return {
        "config": config,
        "vocab": [token(rank, data) for rank, data in enumerate(tokens)],
        "special_tokens": [special(0, "<unk>"), special(1, "<s>"), special(2, "</s>")],
        "image": {"image_patch_size": 16},
    }


def test_a_small_one():
    vocabulary = tekken.from_document(PATH, small())
    assert vocabulary.tokens[:6] == ("<unk>", "<s>", "</s>", "<SPECIAL_3>", "Ā", "ā")
    assert vocabulary.tokens[259:] == ("ÿ", "ab", "abc")
    assert vocabulary.kinds == (TokenKind.CONTROL,) * 4 + (TokenKind.NORMAL,) * 258
    assert vocabulary.merges == ("a b", "ab c")
    assert (vocabulary.model, vocabulary.pre_tokenizer) == ("bpe", "tekken")
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id, vocabulary.pad_id) == (1, 2, 0, None)
    assert (vocabulary.add_bos, vocabulary.stop_ids) == (True, (2,))
    assert vocabulary_from_gguf(Fields(PATH, vocabulary_to_gguf(vocabulary))) == vocabulary


@pytest.fixture(scope="module")
def nemo_file(wheel_file):
    return wheel_file(MISTRAL, "mistral_common/data/tekken_240718.json")


@pytest.fixture(scope="module")
def nemo(nemo_file):
    return tekken.read(nemo_file)


def test_the_tokenizer_of_mistral_nemo(nemo):
    assert (len(nemo), len(nemo.merges), nemo.pre_tokenizer) == (131072, 269_443, "tekken")
    assert nemo.tokens[:4] == ("<unk>", "<s>", "</s>", "[INST]")
    assert (nemo.tokens[20], nemo.tokens[999], nemo.tokens[1000 + ord("A")]) == ("<SPECIAL_20>", "<SPECIAL_999>", "A")
    assert (nemo.bos_id, nemo.eos_id, nemo.unk_id, nemo.pad_id) == (1, 2, 0, 11)


def test_tiktoken_agrees_on_every_text(nemo, nemo_file):
    document = json.loads(nemo_file.read_text())
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in document["vocab"][:130072]}
    encoding = judge.Encoding(
        "nemo", pat_str=document["config"]["pattern"], mergeable_ranks=ranks, special_tokens={}
    )  # fmt: skip
    tokenizer, dice = Tokenizer(nemo), random.Random(5)
    parts = [
        "a",
        "B",
        " ",
        "  ",
        "\n",
        "\t",
        " a",
        "é",
        "e\u0301",
        "0",
        "'s",
        "你",
        "🙂",
        "-",
        "/",
        "the",
        "　",
        "İ",
        "ज्",
    ]
    texts = [*CORPUS, *SPECIAL, *("".join(dice.choices(parts, k=dice.randint(1, 40))) for _ in range(1000))]
    for text in texts:
        ids = [1000 + rank for rank in encoding.encode(text)]
        assert tokenizer.encode(text, add_special=False) == ids
        assert tokenizer.encode(text) == [1, *ids]
        assert tokenizer.decode(ids) == text


def test_llama_cpp_reads_our_keys_and_gives_our_ids(nemo, tmp_path):
    """But for scripts with combining marks, which it cuts off from their words (`pre_tokenizers` says so)."""
    llama_cpp.write_model(tmp_path / "nemo.gguf", nemo)
    tokenizer = Tokenizer(nemo)
    texts = [*CORPUS, *SPECIAL, "[INST]When is high water?[/INST]At noon.</s>"]
    theirs = llama_cpp.tokenize(
        tmp_path / "nemo.gguf", texts, tmp_path / "ids.json", add_special=True, parse_special=True
    )
    ours = [tokenizer.encode(text, parse_special=True) for text in texts]
    differ = {text[:3] for text, mine, other in zip(texts, ours, theirs, strict=True) if mine != other}
    assert differ == {"ज्व", "น้ำ"}


def test_files_up_to_version_7_leave_special_tokens_to_the_library():
    document = small() | {"special_tokens": None}
    document["config"] |= {"version": "v7", "default_vocab_size": 281, "default_num_special_tokens": 23}
    vocabulary = tekken.from_document(PATH, document)
    assert (vocabulary.tokens[11], vocabulary.tokens[19:23]) == (
        "<pad>",
        ("[TOOL_CONTENT]", "<SPECIAL_20>", "<SPECIAL_21>", "<SPECIAL_22>"),
    )
    assert vocabulary.pad_id == 11


CONFIG, VOCAB, SPECIAL_TOKENS = "config", "vocab", "special_tokens"
# What is wrong, where, the new value (None takes it out), the field of the error.
BAD = [
    ("no config", (CONFIG,), None, "/config"),
    ("config is a list", (CONFIG,), [], "/config"),
    ("no pattern", (CONFIG, "pattern"), None, "/config/pattern"),
    ("a pattern that never ends", (CONFIG, "pattern"), r"(a+)+$", "/config/pattern"),
    ("a broken pattern", (CONFIG, "pattern"), "(", "/config/pattern"),
    ("a pattern of 1 MB", (CONFIG, "pattern"), "a" * 1_000_000, "/config/pattern"),
    ("Llama 3's pattern with a blank", (CONFIG, "pattern"), REGEX + " ", "/config/pattern"),
    ("no size", (CONFIG, "default_vocab_size"), None, "/config/default_vocab_size"),
    ("a size that is text", (CONFIG, "default_vocab_size"), "262", "/config/default_vocab_size"),
    ("a size of 2**31", (CONFIG, "default_vocab_size"), 2**31, "/config/default_vocab_size"),
    ("a size below zero", (CONFIG, "default_vocab_size"), -1, "/config/default_vocab_size"),
    ("more ids than tokens", (CONFIG, "default_vocab_size"), 264, "/vocab"),
    ("more special tokens than ids", (CONFIG, "default_num_special_tokens"), 263, "/config/default_num_special_tokens"),
    ("fewer special tokens than named", (CONFIG, "default_num_special_tokens"), 2, "/special_tokens"),
    ("no version", (CONFIG, "version"), None, "/config/version"),
    ("no special tokens in version 11", (SPECIAL_TOKENS,), None, "/special_tokens"),
    ("special tokens are an object", (SPECIAL_TOKENS,), {}, "/special_tokens"),
    ("a special token is text", (SPECIAL_TOKENS, 1), "<s>", "/special_tokens/1"),
    ("a special token of another id", (SPECIAL_TOKENS, 1, "rank"), 2, "/special_tokens/1/rank"),
    ("a special token without text", (SPECIAL_TOKENS, 1, "token_str"), None, "/special_tokens/1/token_str"),
    ("is_control is a number", (SPECIAL_TOKENS, 1, "is_control"), 1, "/special_tokens/1/is_control"),
    ("a special token twice", (SPECIAL_TOKENS, 1, "token_str"), "</s>", "tokens[2]"),
    ("a special token that a normal one spells", (SPECIAL_TOKENS, 1, "token_str"), "ab", "tokens[260]"),
    ("a special token with NUL", (SPECIAL_TOKENS, 1, "token_str"), "<\0>", "tokens[1]"),
    ("a special token of 5,000 letters", (SPECIAL_TOKENS, 1, "token_str"), "a" * 5000, "tokens[1]"),
    ("no vocab", (VOCAB,), None, "/vocab"),
    ("vocab is an object", (VOCAB,), {}, "/vocab"),
    ("a token is a number", (VOCAB, 7), 7, "/vocab/7"),
    ("a rank twice", (VOCAB, 7, "rank"), 6, "/vocab/7/rank"),
    ("a rank left out", (VOCAB, 7, "rank"), 8, "/vocab/7/rank"),
    ("a rank that is true", (VOCAB, 1, "rank"), True, "/vocab/1/rank"),
    ("no rank", (VOCAB, 7, "rank"), None, "/vocab/7/rank"),
    ("no base64", (VOCAB, 7, "token_bytes"), "a-_=", "/vocab/7/token_bytes"),
    ("base64 in other letters", (VOCAB, 7, "token_bytes"), "ÄÄÄÄ", "/vocab/7/token_bytes"),
    ("base64 with bits that mean nothing", (VOCAB, 7, "token_bytes"), "Bx==", "/vocab/7/token_bytes"),
    ("no bytes", (VOCAB, 7, "token_bytes"), "", "/vocab/7/token_bytes"),
    ("bytes that are a number", (VOCAB, 7, "token_bytes"), 7, "/vocab/7/token_bytes"),
    ("a token twice", (VOCAB, 257, "token_bytes"), "YWI=", "/vocab/257/token_bytes"),
    ("a byte without a token", (VOCAB, 65, "token_bytes"), "eHg=", "/vocab"),
    ("a token of 300 bytes", (VOCAB, 257, "token_bytes"), "AAAA" * 100, "/vocab/257/token_bytes"),
]  # fmt: skip


@pytest.mark.parametrize(("pointer", "value", "field"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_files_are_named(pointer, value, field):
    document = small()
    place = document
    for key in pointer[:-1]:
        place = place[key]
    place[pointer[-1]] = value
    with pytest.raises(MalformedError) as caught:
        tekken.from_document(PATH, document)
    assert caught.value.field == field
    assert len(str(caught.value)) < 600


def test_an_unknown_pattern_is_unsupported():
    document = small()
    document["config"]["pattern"] = r"\w+"
    with pytest.raises(UnsupportedError, match="that of llama-bpe or tekken"):
        tekken.from_document(PATH, document)


def test_a_cut_anywhere_is_an_error(tmp_path):
    data = json.dumps(small()).encode()
    assert len(data) > 10_000
    path = tmp_path / "tekken.json"
    for length in [*range(200), *range(200, len(data), 97)]:
        path.write_bytes(data[:length])
        with pytest.raises(ConversionError):
            tekken.read(path)


def test_a_file_of_500_megabytes_is_refused_unread(tmp_path):
    with (tmp_path / "tekken.json").open("wb") as file:
        file.truncate(500 << 20)
    with pytest.raises(MalformedError, match="at most 33554432"):
        tekken.read(tmp_path / "tekken.json")
