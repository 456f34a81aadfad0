import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from converters.errors import UnsupportedError
from converters.tokenizers import pre_tokenizers
from converters.tokenizers.pre_tokenizers import TABLE, recognize
from distro.runtime.tokenizer import Tokenizer
from tests.data.corpus import CORPUS
from tests.fakes import llama_cpp
from tests.fakes.vocabularies import vocabulary_of

PATH = Path("tokenizer.json")
NAMES = [entry.name for entry in TABLE]


@pytest.mark.parametrize("entry", TABLE, ids=NAMES)
def test_every_entry_is_recognized_by_what_it_writes(entry):
    written = json.loads(json.dumps([entry.pre_tokenizer, entry.normalizer]))
    assert recognize(PATH, *written, ignore_merges=entry.ignore_merges) is entry


@pytest.mark.parametrize("name", NAMES)
def test_llama_cpp_cuts_text_alike(name, smollm2_gguf, tmp_path):
    """SmolLM2's vocabulary, cut in each way; for qwen2 in NFC alone, which llama.cpp does not make itself."""
    vocabulary = replace(vocabulary_of(smollm2_gguf), pre_tokenizer=name)
    texts = [text for text in CORPUS if name != "qwen2" or unicodedata.is_normalized("NFC", text)]
    llama_cpp.write_model(tmp_path / "bpe.gguf", vocabulary)
    theirs = llama_cpp.tokenize(tmp_path / "bpe.gguf", texts, tmp_path / "ids.json")
    tokenizer = Tokenizer(vocabulary)
    assert theirs == [tokenizer.encode(text, add_special=False) for text in texts]


def test_old_files_leave_defaults_out():
    """GPT-2's own tokenizer.json, from before `use_regex` existed."""
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    assert recognize(PATH, step, None, ignore_merges=False).name == "gpt-2"
    empty = {"type": "Sequence", "normalizers": []}
    assert recognize(PATH, step | {"trim_offsets": False}, empty, ignore_merges=False).name == "gpt-2"


def test_names_that_llama_cpp_takes_for_another():
    assert pre_tokenizers.by_name("llama3").name == "llama-bpe"
    with pytest.raises(UnsupportedError, match=r"tokenizer\.ggml\.pre: found falcon, allowed gpt-2, smollm"):
        pre_tokenizers.by_name("falcon")


def test_a_regular_expression_alone_is_one_of_tiktokens():
    for name in ("llama-bpe", "tekken"):
        entry = pre_tokenizers.by_name(name)
        assert pre_tokenizers.by_regex(PATH, "/pattern", entry.steps[0]["pattern"]["Regex"]) is entry
    with pytest.raises(UnsupportedError, match=r"/pattern: found .*, allowed that of llama-bpe or tekken"):
        pre_tokenizers.by_regex(PATH, "/pattern", r"(a+)+$")


def split(regex):
    step = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [step, TABLE[2].steps[1]]}


# What is wrong, pre_tokenizer, normalizer, ignore_merges, the field of the error.
BAD = [
    ("a regular expression that never ends", split(r"(a+)+$"), None, False, "/pre_tokenizer"),
    ("one that is broken", split("("), None, False, "/pre_tokenizer"),
    ("one of 1 MB", split("a" * 1_000_000), None, False, "/pre_tokenizer"),
    ("nothing", None, None, False, "/pre_tokenizer"),
    ("a number", 5, None, False, "/pre_tokenizer"),
    ("a list", [TABLE[0].steps[0]], None, False, "/pre_tokenizer"),
    ("a space in front", TABLE[0].steps[0] | {"add_prefix_space": True}, None, False, "/pre_tokenizer"),
    ("no NFC for qwen2", TABLE[4].pre_tokenizer, None, False, "/normalizer"),
    ("lower case", TABLE[0].pre_tokenizer, {"type": "Lowercase"}, False, "/normalizer"),
    ("gpt-2 that ignores merges", TABLE[0].pre_tokenizer, None, True, "/model/ignore_merges"),
]


@pytest.mark.parametrize(
    ("pre_tokenizer", "normalizer", "ignore_merges", "field"), [row[1:] for row in BAD], ids=[row[0] for row in BAD]
)
def test_other_cuts_are_unsupported(pre_tokenizer, normalizer, ignore_merges, field):
    with pytest.raises(UnsupportedError) as caught:
        recognize(PATH, pre_tokenizer, normalizer, ignore_merges=ignore_merges)
    assert caught.value.field == field
    assert len(str(caught.value)) < 600
