"""What errors say: text from files made safe and short, whatever there was of it."""

from __future__ import annotations

import time

import pytest

from converters.errors import shown

SHOWN = [
    ("plain", "plain"),
    ("\x1b[2J\u202e", "\\x1b[2J\\u202e"),
    (7, "7"),
    (["a\n"], "['a\\n']"),
    ("x" * 120, "x" * 120),
    ("x" * 121, "x" * 119 + "…"),
    ("\n" * 100, ("\\n" * 60)[:119] + "…"),
]


@pytest.mark.parametrize(("value", "text"), SHOWN, ids=range(len(SHOWN)))
def test_values_are_shown_safe_and_short(value: object, text: str) -> None:
    assert shown(value) == text


def test_what_is_cut_costs_nothing() -> None:
    start = time.process_time()
    assert len(shown("\n" * 100_000_000)) == 120
    assert time.process_time() - start < 1
