"""Progress for programs: which lines there are, and how often."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distro.cli.events import Events
from distro.errors import NotBuiltError, NotPermittedError, WrongBytesError, name_of


class _Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


def test_a_file_from_its_beginning_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    clock = _Clock()
    with Events(clock).bar("model.bin", 1000, 100) as bar:
        assert _lines(capsys) == [{"event": "file", "file": "model.bin", "size": 1000, "received": 100}]
        bar.advance(200)
        bar.came_from("hub", 150)
        bar.came_from("mirror", 50)
        clock.now_s += 0.4
        bar.advance(50)
        assert _lines(capsys) == []
        clock.now_s += 0.6
        bar.note("two sources")
        bar.verified(300)
        assert _lines(capsys) == [
            {"event": "progress", "file": "model.bin", "size": 1000, "received": 350, "verified": 300, "rate": 250,
             "sources": {"hub": 150, "mirror": 50}, "note": "two sources"},
        ]  # fmt: skip
        bar.advance(650)
        clock.now_s += 0.1
    (last,) = _lines(capsys)
    assert (last["received"], last["verified"], last["rate"]) == (1000, 300, 6500)


def test_nothing_in_an_event_steers_a_terminal_or_breaks_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    Events().say("a\nb\x1b[31m\x9b\u2028ü")
    error = capsys.readouterr().err
    assert error.isascii()
    assert error.count("\n") == 1
    assert json.loads(error) == {"event": "message", "text": "a\nb\x1b[31m\x9b\u2028ü"}


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (WrongBytesError("a", "sha256", "0", "1"), "wrong_bytes"),
        (NotPermittedError("hub", "no"), "not_permitted"),
        (NotBuiltError("x"), "not_built"),
        (FileNotFoundError(2, "x"), "system"),
    ],
)
def test_names_of_errors(error: Exception, name: str) -> None:
    assert name_of(error) == name
