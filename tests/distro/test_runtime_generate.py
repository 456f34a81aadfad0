"""Decoding: what stops it, what it refuses, and how the next token is chosen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from converters.errors import MalformedError
from distro.errors import UsageError
from distro.runtime.generate import Sampling, choose, generate, room_for
from distro.runtime.kv_cache import KVCache
from distro.runtime.models import decoder
from tests.fakes import memory_llama

PROMPT = [7, 3, 1]


@pytest.fixture(scope="module")
def model() -> Any:
    return decoder(memory_llama.checkpoint(memory_llama.reference()), in_memory=True)


def test_greedy_tokens_equal_transformers(model: Any) -> None:
    expected = memory_llama.reference().generate(
        torch.tensor([PROMPT]), attention_mask=torch.ones(1, 3), max_new_tokens=64, do_sample=False, eos_token_id=None,
        pad_token_id=0,
    )[0, 3:]  # fmt: skip
    tokens = list(generate(model, PROMPT, max_tokens=64))
    assert tokens == expected.tolist()
    assert len(set(tokens)) > 2


def test_stops_before_a_stop_token(model: Any) -> None:
    tokens = list(generate(model, PROMPT, max_tokens=20))
    stop = tokens[5]
    assert list(generate(model, PROMPT, max_tokens=20, stop_ids=[stop])) == tokens[: tokens.index(stop)]


def test_ends_where_the_context_is_full(model: Any) -> None:
    prompt = [5] * 120  # of 128
    assert room_for(model, prompt, 1000) == 8
    assert len(list(generate(model, prompt, max_tokens=1000))) == 8


@pytest.mark.parametrize(("prompt", "found"), [([], "no token"), ([5] * 128, "128 tokens, allowed 127")])
def test_a_prompt_that_leaves_no_room_is_refused_at_once(model: Any, prompt: list[int], found: str) -> None:
    with pytest.raises(UsageError, match=f"prompt: found {found}"):
        generate(model, prompt, max_tokens=1)


def test_padding_of_the_vocabulary_is_never_chosen(model: Any) -> None:
    tokens = list(generate(model, PROMPT, max_tokens=20))
    n_tokens = max(tokens)
    assert max(generate(model, PROMPT, max_tokens=20, n_tokens=n_tokens)) < n_tokens


def test_logits_that_are_no_numbers_are_an_error() -> None:
    reference = memory_llama.reference()
    with torch.no_grad():
        reference.model.norm.weight[3] = torch.nan
    broken = decoder(memory_llama.checkpoint(reference), in_memory=True)
    with pytest.raises(MalformedError, match="tiny: logits: found nan or infinity, allowed numbers"):
        list(generate(broken, PROMPT, max_tokens=1))


def test_tokens_come_as_they_are_made(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[int] = []
    forward = model.forward

    def counted(ids: list[int], cache: KVCache, **options: bool) -> torch.Tensor:
        passes.append(len(ids))
        logits: torch.Tensor = forward(ids, cache, **options)
        return logits

    monkeypatch.setattr(model, "forward", counted)
    stream = generate(model, PROMPT, max_tokens=10)
    next(stream)
    assert passes == [3]
    next(stream)
    assert passes == [3, 1]


def test_the_same_seed_gives_the_same_tokens(model: Any) -> None:
    def sampled(seed: int) -> list[int]:
        return list(generate(model, PROMPT, max_tokens=30, sampling=Sampling(temperature=1.0, seed=seed)))

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, 1.0), (0.5, None, 1.0), (2.0, 4, 1.0), (1.0, None, 0.7), (1.5, 5, 0.8), (1.0, 3, 0.0)],
)
def test_chances_equal_transformers(temperature: float, top_k: int | None, top_p: float) -> None:
    """5000 draws against the probabilities that transformers' three warpers leave."""
    logits = torch.tensor([2.0, 1.0, 0.5, 0.4, -1.0, 0.0, 1.9, -3.0])
    warped = TemperatureLogitsWarper(temperature)(None, logits[None])
    if top_k is not None:
        warped = TopKLogitsWarper(top_k)(None, warped)
    if top_p < 1:
        warped = TopPLogitsWarper(max(top_p, 1e-9))(None, warped)
    expected = warped.softmax(-1)[0]

    random, sampling = torch.Generator().manual_seed(0), Sampling(temperature, top_k, top_p)
    n = 5000
    counts = torch.bincount(torch.tensor([choose(logits, sampling, random) for _ in range(n)]), minlength=8)

    assert counts[expected == 0].sum() == 0
    deviation = (expected * (1 - expected) / n).sqrt()
    assert ((counts / n - expected).abs() <= 4 * deviation).all()


@pytest.mark.parametrize("temperature", [1e-40, 1e-3])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = torch.tensor([1.0, 80.0, 79.0, -50.0])
    assert choose(logits, Sampling(temperature), torch.Generator().manual_seed(0)) == 1


def test_a_cache_beyond_this_machines_memory_is_refused_before_it_is_asked_for(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distro.runtime.generate.available_memory", lambda: 1000)
    with pytest.raises(UsageError, match=r"keys and values take \d+ bytes, allowed what fits into 1000 free bytes"):
        generate(model, [1, 2, 3], max_tokens=8)
