"""The whole decoder against transformers with the same random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.errors import MalformedError, UnsupportedError
from distro.runtime.models import decoder
from tests.fakes import llama_cpp, memory_llama
from tests.fakes.vocabularies import small_bpe

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
IDS = torch.randint(0, 64, (100,), generator=torch.Generator().manual_seed(3)).tolist()


def logits_of(reference: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = reference(torch.tensor([ids])).logits[0]
    return logits


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"tied": True},
        {"window": 8},
        {"window": 8, "tied": True},
        {"rope_parameters": LINEAR},
        {"rope_parameters": LLAMA3},
    ],
    ids=["plain", "tied", "window", "window, tied", "linear", "llama3"],
)
def test_logits_equal_transformers(config: dict[str, Any]) -> None:
    reference = memory_llama.reference(**config)
    ours = decoder(memory_llama.checkpoint(reference), in_memory=True).forward(IDS)
    expected = logits_of(reference, IDS)
    assert expected.std() > 0.3  # the model does say something
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_last_only_is_the_last_row() -> None:
    model = decoder(memory_llama.checkpoint(memory_llama.reference()), in_memory=True)
    torch.testing.assert_close(model.forward(IDS, last_only=True), model.forward(IDS)[-1:], rtol=0, atol=1e-6)


def test_rope_factors_of_a_gguf_file_equal_llama3_scaling() -> None:
    """GGUF writes llama3 scaling as a tensor that divides the frequencies (llama.cpp's conversion/llama.py)."""
    from distro.runtime.layers import rotary_frequencies

    scaled = memory_llama.checkpoint(memory_llama.reference(rope_parameters=LLAMA3))
    plain_parameters = {"rope_type": "default", "rope_theta": 500_000.0}
    scaling = scaled.hyperparameters.rope_scaling
    factors = rotary_frequencies(16, 500_000.0) / rotary_frequencies(16, 500_000.0, scaling)
    assert factors.max() > 7.9 and factors.min() == 1.0
    plain = memory_llama.reference(rope_parameters=plain_parameters)
    with_factors = memory_llama.checkpoint(plain, more={"rope_freqs.weight": factors.numpy()})
    ours = decoder(with_factors, in_memory=True).forward(IDS)
    torch.testing.assert_close(ours, decoder(scaled, in_memory=True).forward(IDS), rtol=0, atol=1e-5)


def test_another_architecture_is_refused() -> None:
    checkpoint = memory_llama.checkpoint(memory_llama.reference())
    checkpoint.architecture = "starcoder"
    with pytest.raises(UnsupportedError, match="tiny: architecture: found starcoder, allowed llama"):
        decoder(checkpoint, in_memory=True)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_token_without_a_row_is_refused(in_memory: bool) -> None:
    model = decoder(memory_llama.checkpoint(memory_llama.reference()), in_memory=in_memory)
    with pytest.raises(MalformedError, match=r"tiny: token_embd.weight: found token id 64, allowed 0 to 63"):
        model.forward([1, 64])


@pytest.mark.parametrize(
    ("rope", "factors"),
    [(None, None), (LINEAR, None), (None, [1.0, 1.0, 1.5, 2.0, 4.0, 8.0, 8.0, 8.0])],
    ids=["plain", "linear", "rope_freqs"],
)
def test_log_probabilities_equal_llama_cpp(
    rope: dict[str, Any] | None, factors: list[float] | None, tmp_path: Path
) -> None:
    """The same tiny GGUF, with grouped heads and what GGUF says of rotary scaling, in llama.cpp and here."""
    # llama.cpp knows the end of an answer by such names too; without them it goes on.
    vocabulary = replace(small_bpe(), tokens=("<a>", "<b>", "<c>", *small_bpe().tokens[3:]))
    config = {} if rope is None else {"rope_parameters": rope}
    reference = memory_llama.reference(vocab_size=len(vocabulary), **config)
    more = {} if factors is None else {"rope_freqs.weight": np.array(factors, np.float32)}
    checkpoint = memory_llama.checkpoint(reference, vocabulary, more=more)
    llama_cpp.write_checkpoint(tmp_path / "tiny.gguf", checkpoint)
    prompt = [1, 50, 60, 70, 9, 100]

    ids, steps = llama_cpp.complete(
        tmp_path / "tiny.gguf", prompt, 40, tmp_path / "answer.json", n_probs=len(vocabulary)
    )
    ours = decoder(checkpoint, in_memory=True).forward([*prompt, *ids])[len(prompt) - 1 : -1].log_softmax(-1)

    assert len(ids) == 40
    assert ours.argmax(-1).tolist() == ids
    for row, step in zip(ours, steps, strict=True):
        assert len(step) == len(vocabulary)
        expected = torch.tensor([step[token] for token in range(len(vocabulary))])
        torch.testing.assert_close(row, expected, rtol=0, atol=1e-4)
