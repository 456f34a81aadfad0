"""Patterns of wanted files."""

from __future__ import annotations

import pytest

from distro.manners.choice import EVERYTHING, Choice


@pytest.mark.parametrize(
    ("choice", "wanted", "text"),
    [
        (EVERYTHING, ["a.json", "b/c.json", "w.bin"], "*"),
        (Choice(("*.json",)), ["a.json", "b/c.json"], "*.json"),
        (Choice(("a.*", "*.bin")), ["a.json", "w.bin"], "a.*, *.bin"),
        (Choice(but=("*.bin", "b/*")), ["a.json"], "* but not *.bin, b/*"),
        (Choice(("*.json",), ("a*",)), ["b/c.json"], "*.json but not a*"),
        (Choice(("*.JSON",)), [], "*.JSON"),
    ],
)
def test_patterns(choice: Choice, wanted: list[str], text: str) -> None:
    assert [path for path in ("a.json", "b/c.json", "w.bin") if choice(path)] == wanted
    assert str(choice) == text
