"""What fits into a budget: sizes from headers alone, to the byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from converters import fit, plan
from converters.convert import convert
from converters.errors import RefusedError
from converters.formats import open_checkpoint
from converters.recipe import Recipe
from tests.fakes import tiny_llama
from tests.fakes.memory_sink import MemorySink


def test_a_predicted_size_is_the_real_one(tmp_path: Path) -> None:
    with open_checkpoint(tiny_llama.write(tmp_path / "source")) as checkpoint:
        found = {each.mix: each for each in fit.candidates(checkpoint, 256)}
        assert {"bf16", "q8_0", "q6_k", "q4_k_m", "iq4_xs", "q2_k"} <= found.keys()
        for name, candidate in found.items():
            sink = MemorySink()
            # Predicted under another file name, which is not in the file.
            convert(checkpoint, plan.make(checkpoint, Recipe("gguf", name), "tiny"), sink)
            assert [len(data) for data in sink.files.values()] == [candidate.size], name


def test_the_best_that_fits_with_its_cache(smollm2_gguf: Path) -> None:
    with open_checkpoint(smollm2_gguf) as checkpoint:
        # 30 layers, 3 heads of 64 for keys and as many for values, two bytes each.
        cache = 4096 * 30 * 2 * 3 * 64 * 2
        best = fit.choose(checkpoint, 200_000_000, 4096)
        assert (best.mix, best.size, best.cache) == ("q4_k_m", 105_454_272, cache)
        assert fit.choose(checkpoint, best.needs, 4096) == best
        assert fit.choose(checkpoint, best.needs - 1, 4096).mix == "q4_k_s"
        assert fit.choose(checkpoint, 200_000_000, 256).mix == "q8_0"  # less to remember, more for the weights
        with pytest.raises(
            RefusedError, match=r"nothing fits into 1000 bytes with 16 tokens; q3_k_s, the smallest, needs"
        ):
            fit.choose(checkpoint, 1000, 16)


def test_a_sliding_window_bounds_the_cache(tmp_path: Path) -> None:
    with open_checkpoint(tiny_llama.write(tmp_path / "source")) as checkpoint:
        plain = checkpoint.hyperparameters
    assert fit.cache_bytes(plain, 100) == 2 * 2 * 2 * 8 * 100 * 2
    assert fit.cache_bytes(replace(plain, sliding_window=16), 100) == 2 * 2 * 2 * 8 * 16 * 2
