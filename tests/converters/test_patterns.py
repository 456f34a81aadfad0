"""Patterns over names of tensors: what `re` finds is found, and nothing takes longer than its length."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from converters.errors import RefusedError
from converters.patterns import MOST_STEPS, Pattern
from converters.recipe import Recipe

NAMES = [
    "token_embd.weight", "output.weight", "output_norm.weight", "blk.0.attn_v.weight", "blk.1.attn_v.weight",
    "blk.10.ffn_down.weight", "blk.19.ffn_down_exps.weight", "blk.61.ffn_up.weight", "blk.3.attn_norm.weight", "", "-",
]  # fmt: skip

# As users of llama-quantize write them; each with the names of the list above in which it is found, by number.
USED = [
    ("attn_v", {3, 4}),
    (r"blk\.(0|1|2)\.attn_v", {3, 4}),
    (r"\.ffn_(up|down)_exps", {6}),
    (r"blk\.([0-9]|1[0-9])\.ffn_down.*=?", {5, 6}),
    (r"^output", {1, 2}),
    (r"weight$", {0, 1, 2, 3, 4, 5, 6, 7, 8}),
    (r"^blk\.\d{2,}\.", {5, 6, 7}),
    (r"blk\.(?:[1-9]|1\d)\.(attn|ffn)_\w+?\.weight", {4, 5, 6, 8}),
    (r"\bdown", set()),
    (r"\bffn_down\b", {5}),
    (r"^$", {9}),
    (r"^[^.]+\.[^.]+$", {0, 1, 2}),
    (r"[-]", {10}),
    ("", set(range(11))),
]


@pytest.mark.parametrize(("text", "expected"), USED, ids=[text for text, _ in USED])
def test_what_people_look_for(text: str, expected: set[int]) -> None:
    pattern = Pattern(text)
    assert {number for number, name in enumerate(NAMES) if pattern.found_in(name)} == expected
    assert {number for number, name in enumerate(NAMES) if re.search(text, name)} == expected


# What both dialects have, put together at random; `re` is the judge.
ATOMS = st.sampled_from(
    ["a", "b", ".", r"\.", r"\d", r"\w", r"\D", r"\W", r"\s", r"\S", "[ab]", "[^a]", "[a-c1]", "[-.]"]
)
EDGES = st.sampled_from(["^", "$", r"\b", r"\B"])
COUNTS = st.sampled_from(["*", "+", "?", "*?", "+?", "??", "{2}", "{1,}", "{0,2}", "{0}", "{1,3}?"])
EXPRESSIONS = st.recursive(
    ATOMS | EDGES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda parts: "(" + "|".join(parts) + ")"),
        st.tuples(inner, COUNTS).map(lambda parts: f"(?:{parts[0]}){parts[1]}"),
        st.tuples(ATOMS, COUNTS).map("".join),
    ),
    max_leaves=8,
)


@given(EXPRESSIONS, st.text("ab1. _-", max_size=8))
def test_what_python_finds_is_found(text: str, name: str) -> None:
    assume(name != "" or r"\B" not in text)  # to Python before 3.14 an empty text has no place between two letters
    assert Pattern(text).found_in(name) is (re.search(text.replace("$", r"\Z"), name, re.ASCII) is not None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("(", "at 1: found a ( that nothing closes"),
        ("a)", "at 1: found a ) that closes nothing"),
        ("[ab", "at 3: found a [ that nothing closes"),
        ("[[:alpha:]]", "at 1: found a [ that nothing closes, or a second one"),
        ("[]a]", "at 2: found a class of nothing"),
        ("[z-a]", "at 4: found a range that ends before it begins"),
        (r"[a-\d]", "at 5: found a range"),
        (r"[a\D]", "at 4: found a class of what it is not"),
        ("*a", "at 0: found nothing that could be repeated"),
        ("a**", "at 2: found nothing that could be repeated"),
        ("a*+", "at 2: found nothing that could be repeated"),
        ("^*", "at 2: found nothing that could be repeated"),
        ("a{", "at 2: found no }"),
        ("a{,2}", "at 5: found a count that is none"),
        ("a{x}", "at 4: found a count that is none"),
        ("a{3,2}", "at 6: found a count that ends before it begins"),
        (r"(a)\1", r"at 5: found \1, which is not understood"),
        (r"\pL", r"at 2: found \p, which is not understood"),
        ("a\\", "found \\, which is not understood"),
        ("(?=a)", "at 2: found a group of a kind"),
        ("(?P<x>a)", "at 2: found a group of a kind"),
        ("(" * 60 + ")" * 60, "more than 50 groups"),
        ("(" * 100_000, "more than 50 groups"),
        ("a" * (MOST_STEPS + 1), "more than 1000 steps"),
        ("((((a{99}){99}){99}){99}){99}", "more than 1000 steps"),
        ("((((){9999}){9999}){9999}){9999}", "more than 1000 steps"),
        ("((((a{0}){9999}){9999}){9999}){9999}", "more than 1000 steps"),
    ],
)
def test_what_is_none_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        Pattern(text)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [r"(a+)+$", r"(a|a)*b", r"(a|aa)+$", ".*" * 30 + "x", "(a?){40}" + "a{40}" + "b", r"((a*)*)*b", r"^(\w+\s?)*$"],
)
def test_no_pattern_takes_long(text: str) -> None:
    started = time.process_time()
    assert not Pattern(text).found_in("a" * 60 + "!")
    assert time.process_time() - started < 1


def test_hostile_recipe_has_an_end() -> None:
    with pytest.raises(RefusedError, match=r"40 regular expressions: \d+ steps, allowed at most 30000"):
        Recipe("gguf", "q4_k_m", tensor_types=(("(a?){300}", "q8_0"),) * 40)
    many = Recipe("gguf", "q4_k_m", tensor_types=tuple((rf"blk\.{n}\.ffn_(up|down)", "q8_0") for n in range(700)))
    assert many.overrides.patterns[699][0].found_in("blk.699.ffn_up.weight")
