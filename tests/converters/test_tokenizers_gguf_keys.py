from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from converters.errors import ConversionError, MalformedError, UnsupportedError
from converters.fields import Fields
from converters.tokenizers.gguf_keys import vocabulary_from_gguf, vocabulary_to_gguf
from converters.tokenizers.vocabulary import TokenKind
from tests.data.corpus import CORPUS, SPECIAL
from tests.fakes import llama_cpp
from tests.fakes.vocabularies import gguf_keys, small_bpe, small_spm

PATH = Path("model.gguf")


def read(keys):
    return vocabulary_from_gguf(Fields(PATH, keys))


@pytest.mark.parametrize("vocabulary", [small_bpe(), small_spm()], ids=["bpe", "spm"])
def test_a_vocabulary_comes_back(vocabulary):
    assert read(vocabulary_to_gguf(vocabulary)) == vocabulary


def test_a_real_vocabulary_comes_back_with_equal_keys(smollm2_gguf):
    keys = gguf_keys(smollm2_gguf)
    vocabulary = read(keys)
    assert (vocabulary.model, vocabulary.pre_tokenizer, len(vocabulary)) == ("bpe", "smollm", 49152)
    assert (vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id, vocabulary.pad_id) == (1, 2, 0, 2)
    assert (vocabulary.stop_ids, vocabulary.add_bos) == ((2,), False)
    written = vocabulary_to_gguf(vocabulary)
    assert read(written) == vocabulary
    assert written.keys() - keys.keys() == {"tokenizer.ggml.add_eos_token"}
    assert all(np.array_equal(written[key], value) for key, value in keys.items())


def test_numbers_have_the_types_that_llama_cpp_expects():
    keys = vocabulary_to_gguf(small_spm())
    assert keys["tokenizer.ggml.scores"].dtype == np.float32
    assert keys["tokenizer.ggml.token_type"].dtype == np.int32
    assert type(keys["tokenizer.ggml.bos_token_id"]) is int
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert list(keys)[:3] == ["tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens"]


def test_a_file_without_a_tokenizer_has_no_vocabulary():
    assert read({}) is None
    assert read({"tokenizer.ggml.model": "none"}) is None


def test_absent_keys_mean_what_llama_cpp_takes_them_for():
    keys = vocabulary_to_gguf(small_spm())
    for name in ("bos_token_id", "eos_token_id", "unknown_token_id", "add_bos_token", "add_eos_token"):
        del keys[f"tokenizer.ggml.{name}"]
    del keys["tokenizer.ggml.add_space_prefix"]
    assert read(keys) == small_spm()

    keys = vocabulary_to_gguf(replace(small_bpe(), pre_tokenizer="llama-bpe"))
    del keys["tokenizer.ggml.add_bos_token"]
    assert read(keys).add_bos
    keys["tokenizer.ggml.pre"] = "smollm"
    assert not read(keys).add_bos


def test_ends_of_turn_and_message_are_stop_tokens():
    vocabulary = replace(small_bpe(), stop_ids=(0, 1, 2))
    keys = vocabulary_to_gguf(vocabulary)
    assert (keys["tokenizer.ggml.eot_token_id"], keys["tokenizer.ggml.eom_token_id"]) == (0, 1)
    assert read(keys) == vocabulary


def test_more_stop_tokens_than_gguf_has_keys_are_refused():
    with pytest.raises(UnsupportedError, match="stop tokens in GGUF"):
        vocabulary_to_gguf(replace(small_bpe(), stop_ids=(0, 1, 2, 3)))


def test_the_tokens_of_fill_in_the_middle_have_two_keys_each():
    keys = vocabulary_to_gguf(replace(small_bpe(), fim_prefix_id=5, fim_suffix_id=6, fim_middle_id=7))
    names = ("prefix_token_id", "suffix_token_id", "middle_token_id")
    assert [keys.pop(f"tokenizer.ggml.{name}") for name in names] == [5, 6, 7]
    newer = read(keys | changed(fim_pre_token_id=8, fim_suf_token_id=9, fim_mid_token_id=10))
    assert (newer.fim_prefix_id, newer.fim_suffix_id, newer.fim_middle_id) == (8, 9, 10)
    both = read(keys | changed(fim_pre_token_id=8, prefix_token_id=5))
    assert (both.fim_prefix_id, both.fim_suffix_id) == (5, None)  # as llama.cpp takes them


def test_code_llamas_tokens_are_known_by_their_texts():
    tokens = (*small_spm().tokens[:-5], "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>", "[PAD270]")
    vocabulary = read(vocabulary_to_gguf(small_spm()) | changed(tokens=list(tokens)))
    assert (vocabulary.fim_prefix_id, vocabulary.fim_suffix_id, vocabulary.fim_middle_id) == (266, 267, 268)
    assert vocabulary.stop_ids == (2, 269)


def test_an_old_file_stops_at_the_end_of_turn_that_its_template_writes():
    template = "{{ messages[0].content + '<|im_end|>' }}"
    keys = vocabulary_to_gguf(replace(small_bpe(), eos_id=0, stop_ids=(0,), chat_template=template))
    assert read(keys).stop_ids == (0, 2)


def changed(**values):
    return {f"tokenizer.ggml.{name}": value for name, value in values.items()}


def with_token(vocabulary, token_id, text):
    tokens = list(vocabulary.tokens)
    tokens[token_id] = text
    return changed(tokens=tokens)


def with_number(name, keys, index, value):
    array = keys[f"tokenizer.ggml.{name}"].copy()
    array[index] = value
    return changed(**{name: array})


SPM, BPE = vocabulary_to_gguf(small_spm()), vocabulary_to_gguf(small_bpe())
# What is wrong, the good keys, what replaces them (None: taken out), the field of the error.
BAD = [
    ("no tokens", BPE, changed(tokens=[], token_type=np.zeros(0, np.int32)), "tokens"),
    ("tokens are numbers", BPE, changed(tokens=np.zeros(5, np.int32)), "tokens"),
    ("tokens are one text", BPE, changed(tokens="abc"), "tokens"),
    ("a token is a number", BPE, changed(tokens=["a", 5]), "tokens"),
    ("no tokens key", BPE, changed(tokens=None), "tokens"),
    ("a token twice", BPE, with_token(small_bpe(), 5, "<|end|>"), "tokens[5]"),
    ("a token of 10 MB", BPE, with_token(small_bpe(), 7, "a" * 10_000_000), "tokens[7]"),
    ("a token with NUL", BPE, with_token(small_bpe(), 7, "a\0b"), "tokens[7]"),
    ("a token that is no text", BPE, with_token(small_bpe(), 7, "\ud800"), "tokens[7]"),
    ("a byte below zero", SPM, with_token(small_spm(), 3, "<0x-1>"), "tokens[3]"),
    ("a byte of no digits", SPM, with_token(small_spm(), 3, "<0xZZ>"), "tokens[3]"),
    ("a byte twice", SPM, with_token(small_spm(), 3, "<0x01>"), "tokens[4]"),
    ("a byte missing", SPM, with_number("token_type", SPM, 3, 1), "token_type"),
    ("too few types", BPE, changed(token_type=np.ones(3, np.int32)), "token_type"),
    ("types are floats", BPE, changed(token_type=np.ones(265, np.float32)), "token_type"),
    ("type 0", BPE, with_number("token_type", BPE, 9, 0), "token_type[9]"),
    ("type 7", BPE, with_number("token_type", BPE, 9, 7), "token_type[9]"),
    ("no types, spm", SPM, changed(token_type=None), "token_type"),
    ("scores are INT8", SPM, changed(scores=np.ones(len(small_spm()), np.int8)), "scores"),
    ("too many scores", SPM, changed(scores=np.ones(1000, np.float32)), "scores"),
    ("no scores", SPM, changed(scores=None), "scores"),
    ("a score is NaN", SPM, with_number("scores", SPM, 260, np.nan), "scores[260]"),
    ("a score is infinite", SPM, with_number("scores", SPM, 260, -np.inf), "scores[260]"),
    ("no merges", BPE, changed(merges=None), "merges"),
    ("a merge of one token", BPE, changed(merges=["Ġ h", "el"]), "merges[1]"),
    ("a merge of three tokens", BPE, changed(merges=["Ġ h e"]), "merges[0]"),
    ("a merge into no token", BPE, changed(merges=["Ġ h", "h h"]), "merges[1]"),
    ("eos outside", BPE, changed(eos_token_id=265), "eos_token_id"),
    ("the token before a prefix outside", BPE, changed(prefix_token_id=265), "prefix_token_id"),
    ("the token before a middle negative", BPE, changed(middle_token_id=-1), "middle_token_id"),
    ("the token before a suffix is a text", BPE, changed(fim_suf_token_id="6"), "fim_suf_token_id"),
    ("eos negative", BPE, changed(eos_token_id=-1), "eos_token_id"),
    ("eos is a text", BPE, changed(eos_token_id="2"), "eos_token_id"),
    ("eot outside", BPE, changed(eot_token_id=2**31), "eot_token_id"),
    ("bos wanted, not there", BPE, changed(add_bos_token=True, bos_token_id=None), "add_bos_token"),
    ("add_bos is a number", BPE, changed(add_bos_token=1), "add_bos_token"),
    ("model is a number", BPE, changed(model=3), "model"),
    ("model of another kind", BPE, changed(model="bert"), "model"),
]


@pytest.mark.parametrize(("keys", "change", "field"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_keys_are_named(keys, change, field):
    with pytest.raises(MalformedError) as caught:
        read(keys | change)
    assert caught.value.field == f"tokenizer.ggml.{field}"
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("template", [5, "a" * 2_000_000, "a\nb\0c"], ids=["number", "2 MB", "NUL"])
def test_a_bad_template_is_named(template):
    with pytest.raises(ConversionError, match=r"model\.gguf: tokenizer\.chat_template"):
        read(BPE | {"tokenizer.chat_template": template})


def test_llama_cpp_reads_our_sentencepiece_keys_and_gives_our_ids(wheel_file, tmp_path):
    from converters.tokenizers import sentencepiece_model
    from distro.runtime.tokenizer import Tokenizer

    path = wheel_file("mistral-common==1.13.1", "mistral_common/data/tokenizer.model.v1")
    vocabulary = sentencepiece_model.read(path)
    assert vocabulary.kinds[:3] == (TokenKind.UNKNOWN, TokenKind.CONTROL, TokenKind.CONTROL)
    llama_cpp.write_model(tmp_path / "spm.gguf", vocabulary)
    tokenizer = Tokenizer(vocabulary)
    for parse in (False, True):
        # Where control tokens are not parsed, llama.cpp may still join "</" and "s>" into one.
        texts = [*CORPUS, *(SPECIAL if parse else ())]
        theirs = llama_cpp.tokenize(
            tmp_path / "spm.gguf", texts, tmp_path / "ids.json", add_special=True, parse_special=parse
        )
        assert theirs == [tokenizer.encode(text, parse_special=parse) for text in texts]
