"""The check that ends every conversion: what passes, what fails, and that its numbers are right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from converters import dtypes, quants
from converters.architectures.rows import halves_from_pairs
from converters.checkpoint import Checkpoint
from converters.dtypes import DType
from converters.formats import open_checkpoint
from converters.tensors import Bytes, ReorderedTensor, Tensor, TensorInfo
from distro.runtime import check
from distro.runtime.check import BUDGETS, budget_of, compare, diverge
from distro.runtime.models import decoder
from distro.runtime.tokenizer import Tokenizer
from tests.fakes import memory_llama
from tests.fakes.vocabularies import small_bpe

TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)


@pytest.fixture
def tiny() -> Checkpoint:
    vocabulary = replace(small_bpe(), chat_template=TEMPLATE)
    reference = memory_llama.reference(vocab_size=len(vocabulary), max_position_embeddings=300)
    return memory_llama.checkpoint(reference, vocabulary)


@dataclass(frozen=True)
class Requantized:
    """A tensor in another type, row by row as it is asked for."""

    tensor: Tensor
    dtype: DType
    origin: str = "memory"

    @property
    def info(self) -> TensorInfo:
        return replace(self.tensor.info, dtype=self.dtype)

    def read_rows(self, start: int, stop: int) -> Bytes:
        weights = quants.decode(self.tensor.read_rows(start, stop), self.tensor.info.dtype)
        return quants.encode(weights, self.dtype, tensor=self.info.name, first_index=0)


def requantized(checkpoint: Checkpoint, dtype: DType) -> Checkpoint:
    """Every matrix in another type, vectors in F32."""
    tensors: Mapping[str, Tensor] = {
        name: Requantized(tensor, dtype if len(tensor.info.shape) > 1 else dtypes.F32)
        for name, tensor in checkpoint.tensors.items()
    }
    return replace(checkpoint, tensors=tensors)


def test_a_checkpoint_equals_itself(tiny: Checkpoint) -> None:
    verdict = compare(tiny, tiny)
    assert verdict.passed and verdict.failures == ()
    names = ["tokens", "stop tokens", "chat template", "weights", "logits"]
    assert [finding.name for finding in verdict.findings] == names
    assert (verdict.divergence.kl, verdict.divergence.max_difference, verdict.divergence.top1) == (0, 0, 1)
    assert verdict.lines()[1] == "ok  stop tokens: equal"
    assert verdict.to_json()["passed"] is True


def test_numbers_by_hand() -> None:
    """Two positions, two tokens: KL((3/4, 1/4) || (1/2, 1/2)) at the first, none at the second."""
    source = torch.tensor([[math.log(3), 0.0], [0.0, 5.0]])
    result = torch.tensor([[1.0, 1.0], [0.0, 5.0]])
    divergence = diverge(source, result, [0, 1])
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert divergence.kl == pytest.approx(kl / 2)
    assert divergence.max_difference == pytest.approx(1.0)
    assert divergence.top1 == 1.0  # equals go to the first
    assert divergence.source_perplexity == pytest.approx(4)  # token 1 follows, and had a chance of 1/4
    assert divergence.result_perplexity == pytest.approx(2)


def test_padding_of_one_vocabulary_does_not_count() -> None:
    source = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    padded = torch.cat((source, torch.full((4, 6), 9.0)), dim=1)
    assert diverge(source, padded, [1, 2, 3, 4]).kl == pytest.approx(0, abs=1e-12)


def test_kl_equals_torch() -> None:
    source, result = (torch.randn(5, 30, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    expected = torch.nn.functional.kl_div(
        result.log_softmax(-1), source.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert diverge(source, result, [0, 1, 2, 3, 4]).kl == pytest.approx(float(expected), rel=1e-5)


def test_other_weights_fail(tiny: Checkpoint) -> None:
    swapped = dict(tiny.tensors)
    swapped["blk.0.attn_q.weight"] = memory_llama.tensor(
        "blk.0.attn_q.weight", quants.decode(swapped["blk.0.attn_q.weight"].read_rows(0, 64), dtypes.F32)[::-1]
    )
    verdict = compare(tiny, replace(tiny, tensors=swapped))
    assert not verdict.passed
    weights, logits = verdict.failures
    assert weights.startswith("weights: at worst blk.0.attn_q.weight is off by 1.4, allowed 0 for F32")
    assert logits.startswith("logits: mean KL") and "allowed 1e-06 for F32" in logits


def test_weights_that_are_no_numbers_fail(tiny: Checkpoint) -> None:
    broken = dict(tiny.tensors)
    broken["output_norm.weight"] = memory_llama.tensor("output_norm.weight", torch.full((32,), torch.nan).numpy())
    verdict = compare(tiny, replace(tiny, tensors=broken))
    assert not verdict.passed
    assert verdict.to_json()["mean_kl"] is None
    assert verdict.to_json()["max_logit_difference"] is None


@pytest.mark.parametrize(
    ("change", "failure"),
    [
        ({"stop_ids": (0,)}, "stop tokens: found (0,), allowed (2,)"),
        (
            {"chat_template": "{{ messages[0].content }}"},
            "chat template: found What is the capital of France?, allowed",
        ),
        ({"chat_template": None}, "chat template: found no template, allowed"),
        ({"chat_template": "{{ 1 / 0 }}"}, "chat template: found MalformedError, allowed"),
        ({"add_bos": True}, "tokens: found 1 at 0, allowed"),
        ({"merges": ("Ġ h", "l o", "Ġh el", "el lo")}, "tokens: found"),
    ],
    ids=["stop", "template", "no template", "broken template", "begin token", "merges"],
)
def test_another_way_to_speak_fails(tiny: Checkpoint, change: dict[str, object], failure: str) -> None:
    assert tiny.vocabulary is not None
    verdict = compare(tiny, replace(tiny, vocabulary=replace(tiny.vocabulary, **change)))
    assert [text for text in verdict.failures if text.startswith(failure)]


def test_a_template_that_both_refuse_is_equal(tiny: Checkpoint) -> None:
    assert tiny.vocabulary is not None
    broken = replace(tiny, vocabulary=replace(tiny.vocabulary, chat_template="{{ 1 / 0 }}"))
    assert compare(broken, broken).passed


def test_a_lost_tokenizer_fails_and_none_at_all_passes(tiny: Checkpoint) -> None:
    silent = replace(tiny, vocabulary=None)
    assert compare(tiny, silent).failures == ("tokens: found no tokenizer, allowed the source's",)
    verdict = compare(silent, silent)
    assert verdict.passed and [finding.name for finding in verdict.findings] == ["weights", "logits"]


def test_the_coarsest_type_sets_the_budget(tiny: Checkpoint) -> None:
    mixed = dict(requantized(tiny, dtypes.Q8_0).tensors)
    assert budget_of(replace(tiny, tensors=mixed)) == ("Q8_0", BUDGETS["Q8_0"])
    mixed["blk.0.ffn_up.weight"] = Requantized(tiny.tensors["blk.0.ffn_up.weight"], dtypes.Q4_0)
    assert budget_of(replace(tiny, tensors=mixed)) == ("Q4_0", BUDGETS["Q4_0"])


def test_every_type_that_we_write_has_a_budget() -> None:
    assert set(BUDGETS) == {dtype.name for dtype in quants.CODECS}


@dataclass(frozen=True)
class Measured:
    """SmolLM2 in Q4_1 over TEXT, and what it says there."""

    checkpoint: Checkpoint
    ids: list[int]
    logits: torch.Tensor


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Iterator[Measured]:
    with open_checkpoint(smollm2_gguf) as checkpoint:
        assert checkpoint.vocabulary is not None
        ids = Tokenizer(checkpoint.vocabulary).encode(check.TEXT)[: check.N_POSITIONS]
        yield Measured(checkpoint, ids, decoder(checkpoint, in_memory=False).forward(ids))


@pytest.mark.parametrize(
    ("dtype", "measured"),
    [
        (dtypes.F16, 1.74e-6), (dtypes.BF16, 5.1e-5), (dtypes.Q8_0, 1.28e-3), (dtypes.Q6_K, 0.0183),
        (dtypes.Q4_K, 0.061), (dtypes.IQ4_XS, 0.263), (dtypes.Q4_0, 0.382),
    ],
    ids=str,
)  # fmt: skip
def test_budgets_hold_for_smollm2_out_of_q4_1(smollm2: Measured, dtype: DType, measured: float) -> None:
    """Every matrix there and back; blocks of 256 run across rows, which are 576 wide."""
    tensors = {name: there_and_back(tensor, dtype) for name, tensor in smollm2.checkpoint.tensors.items()}
    logits = decoder(replace(smollm2.checkpoint, tensors=tensors), in_memory=False).forward(smollm2.ids)
    divergence = diverge(smollm2.logits, logits, smollm2.ids)
    assert divergence.kl == pytest.approx(measured, rel=0.2)
    assert divergence.kl < BUDGETS[dtype.name] / 2
    assert divergence.source_perplexity == pytest.approx(11.85, abs=0.02)


def there_and_back(tensor: Tensor, dtype: DType) -> Tensor:
    if len(tensor.info.shape) == 1:
        return tensor
    weights = quants.decode(tensor.read_rows(0, tensor.info.n_rows), tensor.info.dtype)
    blocks = quants.encode(weights.reshape(-1, dtype.block_size), dtype, tensor=tensor.info.name, first_index=0)
    return memory_llama.tensor(tensor.info.name, quants.decode(blocks, dtype).reshape(tensor.info.shape))


def test_rows_in_a_wrong_order_fail_in_every_type(smollm2: Measured) -> None:
    """Rotary pairs in halves, the mistake that every converter makes once."""
    tensors = dict(smollm2.checkpoint.tensors)
    for name, tensor in tensors.items():
        if name.endswith((".attn_q.weight", ".attn_k.weight")):
            tensors[name] = ReorderedTensor(tensor, halves_from_pairs(64))
    logits = decoder(replace(smollm2.checkpoint, tensors=tensors), in_memory=False).forward(smollm2.ids)
    assert diverge(smollm2.logits, logits, smollm2.ids).kl > max(BUDGETS.values())


def test_smollm2_equals_itself(smollm2: Measured) -> None:
    verdict = compare(smollm2.checkpoint, smollm2.checkpoint)
    assert verdict.passed
    assert verdict.lines()[0] == "ok  tokens: 1073 ids equal"
    assert verdict.divergence.n_positions == 256
