"""A few hundred models changed at random; `python -m tests.fakes.fuzz` makes as many as one likes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes import fuzz


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[fuzz.Base, ...]:
    return fuzz.bases(tmp_path_factory.mktemp("bases"))


def test_the_models_themselves_are_good(models: tuple[fuzz.Base, ...], tmp_path: Path) -> None:
    for base in models:
        verdict, fault = fuzz.judge(fuzz.Mutation(base, base.name, base.files), tmp_path / base.name)
        assert (verdict.partition(",")[0], fault) == ("opened", None), base.name
    assert len(models) == 14


def test_whatever_is_changed_there_is_a_model_or_one_refusal(models: tuple[fuzz.Base, ...], tmp_path: Path) -> None:
    verdicts = set()
    for number, mutation in enumerate(fuzz.mutations(models, 308, seed=20)):
        verdict, fault = fuzz.judge(mutation, tmp_path / str(number))
        assert fault is None, f"{mutation.what}\n{fault.why}"
        verdicts.add(verdict)
    assert {"opened", "MalformedError", "UnsupportedError"} <= verdicts
