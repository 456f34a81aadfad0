"""Files from before GGUF on the command line: run, converted, held against what was made of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes import old_ggml


def distro(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, warnings as errors, one thread."""
    command = [sys.executable, "-W", "error", "-c", "from distro.cli import main; main()", *map(str, arguments)]
    environment = {"DISTRO_HOME": str(home), "OMP_NUM_THREADS": "1", "PATH": "", "HOME": str(home)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


@pytest.fixture
def old_model(tmp_path: Path) -> Path:
    path = tmp_path / "ggml-model-q4_0.bin"
    old_ggml.write_parts(path, "GGML", old_ggml.V1["Q4_0_V1"], 2, old_ggml.Shape(dim=64))
    return path


def test_a_model_in_parts_runs_as_what_was_made_of_it_runs(tmp_path: Path, old_model: Path) -> None:
    home, new = tmp_path / "home", tmp_path / "new.gguf"
    made = distro(home, "convert", old_model, "--quant", "f16", "-o", new)
    assert (made.returncode, made.stdout.splitlines()[0]) == (0, str(new)), made.stderr
    answers = [distro(home, "--quiet", "run", path, "hello", "--raw", "-n", "4", "--json") for path in (old_model, new)]
    assert [answer.returncode for answer in answers] == [0, 0], answers[0].stderr
    old, converted = (answer.stdout.split('"tokens_per_second"')[0] for answer in answers)
    assert old == converted
    assert '"token_ids"' in old


def test_a_lost_part_is_one_line(tmp_path: Path, old_model: Path) -> None:
    old_model.with_name(f"{old_model.name}.1").unlink()
    answer = distro(tmp_path / "home", "run", old_model, "hello", "--raw")
    assert answer.returncode == 66
    assert answer.stderr.count("\n") == 1 and "part 2 of a model that was written in parts" in answer.stderr
