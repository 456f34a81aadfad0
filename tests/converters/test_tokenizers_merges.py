from dataclasses import replace
from pathlib import Path

import pytest

from converters.errors import MalformedError, UnsupportedError
from converters.tokenizers.merges import merges_from_ranks, merges_from_scores, scores_from_merges
from converters.tokenizers.vocabulary import TokenKind
from tests.fakes.vocabularies import small_spm


def test_pairs_are_ranked_by_the_score_of_what_they_make():
    assert merges_from_scores(small_spm()) == [
        ("▁", "h"),
        ("e", "l"),
        ("l", "o"),
        ("▁h", "el"),
        ("▁hel", "lo"),
    ]


def test_scores_follow_the_order_of_the_merges():
    tokens, kinds = ("<s>", "a", "b", "ab", "bab"), (TokenKind.CONTROL, *[TokenKind.NORMAL] * 4)
    assert scores_from_merges(tokens, kinds, ("a b", "b ab")) == (0.0, -2.0, -3.0, 0.0, -1.0)


PATH = Path("tokenizer.model")


def test_ranks_become_merges_of_every_pair_that_makes_a_token():
    ranks = (b"a", b" ", b"\xff", b"aa", b" a", b"aaa", b" aaa", b"never made")
    assert merges_from_ranks(PATH, "ranks", ranks) == ("a a", "Ġ a", "a aa", "aa a", "Ġ aaa", "Ġa aa")
    assert merges_from_ranks(PATH, "ranks", (b"a", b"\xff", b"\xffa")) == ("ÿ a",)


def test_a_small_file_cannot_ask_for_very_many_merges():
    runs = [bytes([letter]) + bytes(n) for letter in range(1, 40) for n in range(256)]
    tokens = [bytes([0]), *(bytes(n) for n in range(2, 257)), *runs]
    with pytest.raises(MalformedError, match=r"tokenizer\.model: ranks: found more than 16777216 letters"):
        merges_from_ranks(PATH, "ranks", tokens)
    with pytest.raises(MalformedError, match=r"/vocab: found tokens of 5120000 bytes, allowed at most 4194304 in all"):
        merges_from_ranks(PATH, "/vocab", [n.to_bytes(256) for n in range(20_000)])


def of_normal_tokens(tokens):
    tokens = tuple(tokens)
    return replace(
        small_spm(),
        tokens=tokens,
        kinds=(TokenKind.NORMAL,) * len(tokens),
        scores=tuple(map(float, range(len(tokens)))),
    )


def test_a_few_long_tokens_cannot_ask_for_very_many_halves():
    """250 tokens of 4096 letters, a megabyte, once took two seconds, and a file of 16 of them half a minute."""
    long = of_normal_tokens(f"{n:04}".ljust(4096, "a") for n in range(250))
    with pytest.raises(UnsupportedError, match="merges: found halves of tokens with 4194304000 letters in all"):
        merges_from_scores(long)
    runs = of_normal_tokens("a" * n for n in range(1, 500))
    with pytest.raises(UnsupportedError, match="found merges of more than 16777216 letters"):
        merges_from_scores(runs)
