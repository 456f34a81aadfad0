from dataclasses import replace
from pathlib import Path

import pytest

from converters.errors import MalformedError
from converters.tokenizers.vocabulary import TokenKind, byte_of, judge_template, judged, stop_ids
from tests.fakes.vocabularies import small_bpe, small_spm

NAMES = {name: name for name in vars(small_bpe())}
PATH = Path("vocabulary")


def test_bytes_are_two_capital_digits():
    assert (byte_of("<0x00>"), byte_of("<0x0A>"), byte_of("<0xFF>")) == (0, 10, 255)
    for text in ("<0x-1>", "<0xZZ>", "<0xff>", "<0x0A> ", "<0x0A>\n", "0A", ""):
        assert byte_of(text) is None


def test_the_end_of_turn_that_a_template_writes_is_a_stop_token():
    tokens, kinds = ("<|end_of_text|>", "<|eot_id|>"), (TokenKind.CONTROL, TokenKind.CONTROL)
    template = "{{ message.content }}<|eot_id|>"
    assert stop_ids([0], tokens, kinds, template) == (0, 1)
    assert stop_ids([None, 1], tokens, kinds, template) == (1,)
    assert stop_ids([0], tokens, kinds, None) == (0,)
    assert stop_ids([0], tokens, kinds, "{{ message.content }}") == (0,)
    assert stop_ids([0], tokens, (TokenKind.CONTROL, TokenKind.NORMAL), template) == (0,)
    assert stop_ids([None, None], tokens, kinds, None) == ()


@pytest.mark.parametrize("vocabulary", [small_bpe(), small_spm()], ids=["bpe", "spm"])
def test_a_good_vocabulary_is_given_back(vocabulary):
    assert judged(PATH, vocabulary, NAMES) is vocabulary


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tokens": ()}, "tokens"),
        ({"kinds": ()}, "kinds"),
        ({"stop_ids": (2, 265)}, "stop_ids"),
        ({"pad_id": -1}, "pad_id"),
        ({"add_eos": True, "eos_id": None}, "add_eos"),
        ({"merges": None}, "merges"),
        ({"chat_template": "\0"}, "chat_template"),
    ],
)
def test_what_breaks_the_law_is_named(change, field):
    with pytest.raises(MalformedError) as caught:
        judged(PATH, replace(small_bpe(), **change), NAMES)
    assert caught.value.field == field


def test_a_bad_byte_in_a_template_has_a_line():
    with pytest.raises(MalformedError, match="chat_template at line 3"):
        judge_template(PATH, "a\nb\nc\0", "chat_template")
