"""`distro run` and `distro compare`: what they print, and what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distro.cli.run import tokens_per_second, visible

QUESTION = "What is the capital of France?"


def distro(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, warnings as errors, one thread."""
    command = [sys.executable, "-W", "error", "-c", "from distro.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_run_answers_on_stdout_and_talks_on_stderr(smollm2_gguf: Path) -> None:
    answer = distro("run", smollm2_gguf, QUESTION, "--threads", "1")
    assert answer.stdout == "The capital of France is Paris.\n"
    assert answer.stderr.startswith("7 tokens, ") and answer.stderr.endswith(" a second\n")
    assert answer.returncode == 0


def test_run_json(smollm2_gguf: Path) -> None:
    answer = distro("--quiet", "run", smollm2_gguf, "The capital of France is", "--raw", "-n", "3", "--json")
    value = json.loads(answer.stdout)
    pace = value.pop("tokens_per_second")
    assert value == {
        "prompt_ids": [504, 3575, 282, 4649, 314],
        "token_ids": [7042, 30, 198],
        "text": " Paris.\n",
        "finish": "length",
    }
    assert 0.1 < pace < 10_000
    assert (answer.stderr, answer.returncode) == ("", 0)


def test_run_samples_with_a_seed(smollm2_gguf: Path) -> None:
    options = ("--raw", "-n", "8", "--temperature", "1.5", "--top-k", "40", "--top-p", "0.9", "--seed", "1")
    first, again = (distro("-q", "run", smollm2_gguf, "1, 2, 3, 4, 5,", *options).stdout for _ in range(2))
    assert first == again != " 6, 7, 8,\n"  # which is what the likeliest tokens are


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "no-such-model.gguf", "hi"], 66, "no-such-model.gguf"),
        (["run", ".", "hi", "--raw", "--system", "x"], 2, "--system: needs the chat template"),
        (["run", ".", "hi", "--top-p", "1.5"], 2, "--top-p"),
        (["run", ".", "hi", "--temperature", "-1"], 2, "--temperature"),
        (["run", ".", "hi", "--max-tokens", "0"], 2, "--max-tokens"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], code: int, message: str) -> None:
    answer = distro(*arguments)
    assert answer.returncode == code
    assert message in answer.stderr and "Traceback" not in answer.stderr
    assert answer.stdout == ""


def test_compare_prints_a_table(smollm2_gguf: Path) -> None:
    answer = distro("compare", smollm2_gguf, smollm2_gguf)
    lines = answer.stdout.splitlines()
    assert lines[2].split() == ["format", "gguf", "gguf"]
    assert lines[3].split("  ")[-1] == "Q4_1, Q8_0, F32"
    assert [line.split(":")[0] for line in lines[7:]] == [
        "ok  tokens", "ok  stop tokens", "ok  chat template", "ok  weights", "ok  logits",
    ]  # fmt: skip
    assert (answer.stderr, answer.returncode) == ("", 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b]52;c;aGk=\x07", "\\x1b]52;c;aGk=\\x07"),  # writes the clipboard
        ("\x1b[2J\x9b31m", "\\x1b[2J\\x9b31m"),  # clears the screen; the same door in one byte
        ("over\rwritten\x08\x7f\x00", "over\\rwritten\\x08\\x7f\\x00"),
        ("\ud800", "\\ud800"),
        ("👩‍👩‍👧 Grüße\u00a0नमस्ते\u3000\u200d�", "👩‍👩‍👧 Grüße\u00a0नमस्ते\u3000\u200d�"),
    ],
)
def test_control_characters_never_reach_the_terminal(text: str, expected: str) -> None:
    assert visible(text) == expected


def test_pace_is_measured_between_tokens() -> None:
    assert tokens_per_second([0.0, 5.0, 5.5, 6.0]) == 2.0  # the prompt took five seconds
    assert tokens_per_second([0.0, 5.0]) is None
    assert tokens_per_second([0.0]) is None
