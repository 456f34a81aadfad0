"""Stores that were damaged at random: verify names what is wrong, repair brings no more than that."""

from __future__ import annotations

from pathlib import Path

import pytest

from distro.proof import piece_hashes
from tests.fakes import damaged
from tests.fakes.hub import serving


@pytest.mark.parametrize("number", range(6))
def test_what_is_damaged_is_found_and_nothing_else_comes(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample; `python -m tests.fakes.damaged N` tries as many as one likes."""
    monkeypatch.setattr(piece_hashes, "_SMALLEST", damaged.PIECE)
    with serving() as hub:
        outcome = damaged.run(number, tmp_path, hub)
    assert outcome.is_right, outcome
