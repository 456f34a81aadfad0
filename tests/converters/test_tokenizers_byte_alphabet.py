from hypothesis import given
from hypothesis import strategies as st
from transformers.convert_slow_tokenizer import bytes_to_unicode

from converters.tokenizers.byte_alphabet import LETTERS, to_bytes, to_letters


def test_blanks_have_the_letters_that_everyone_knows():
    assert (to_letters(b" "), to_letters(b"\n"), to_letters(b"\t"), to_letters(b"\x00")) == ("Ġ", "Ċ", "ĉ", "Ā")


def test_the_alphabet_is_that_of_transformers():
    assert dict(enumerate(LETTERS)) == bytes_to_unicode()


@given(st.binary())
def test_bytes_come_back(data):
    assert to_bytes(to_letters(data)) == data


def test_other_letters_are_no_bytes():
    assert to_bytes("a b") is None
    assert to_bytes("海") is None
