"""Does the result still speak? Tokens, chat template and logits of one checkpoint against those of another.

Every conversion ends here. Both models read the same fixed text; weights are read as they are needed, so that a check
takes no more memory than one layer, and a few seconds for a small model.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from converters.checkpoint import Checkpoint
from converters.errors import ConversionError, shown
from converters.fidelity import tensor_errors
from converters.tokenizers.vocabulary import Vocabulary
from distro.runtime import chat
from distro.runtime.models import decoder
from distro.runtime.tokenizer import Tokenizer

# Mean Kullback-Leibler divergence that a type may cost, in nats per token. About twice what SmolLM2-135M-Instruct loses
# over TEXT, every matrix in that type, from weights that were not quantized before (its Q4_1 with uniform noise of one
# step): F16 3e-6, BF16 1e-4, Q8_0 0.0018, Q6_K 0.029, Q5_1 0.10, Q5_K 0.11, Q5_0 0.15, IQ4_NL 0.33, IQ4_XS 0.34,
# NVFP4 0.33, Q4_1 0.38, Q4_K 0.40, Q4_0 0.59, MXFP4 0.92, Q3_K 1.3; tests/distro/test_runtime_check.py measures some of
# them. So small a model loses most: llama.cpp's tools/perplexity/README.md has 0.0014 for Q8_0 and 0.072 for Q4_0 of
# Llama 3 8B. In Q2_K and in the types IQ3 and smaller it says nothing any more (IQ3_S 3.6), so that there the limit is
# what still is speech: rows of q and k in a wrong order cost 3.5.
BUDGETS: Mapping[str, float] = MappingProxyType({
    "F32": 1e-6, "F16": 1e-5, "BF16": 3e-4, "Q8_0": 0.004, "Q6_K": 0.06, "Q5_1": 0.25, "Q5_K": 0.25, "Q5_0": 0.3,
    "IQ4_NL": 0.7, "IQ4_XS": 0.7, "Q4_1": 0.8, "Q4_K": 0.8, "Q4_0": 1.2, "NVFP4": 0.7,
    "MXFP4": 1.9, "Q3_K": 2.5, "Q2_K": 3.0, "Q2_0": 3.0, "TQ2_0": 3.0, "TQ1_0": 3.0, "Q1_0": 3.0,
    "Q8_0_V2": 0.004, "Q4_1_V1": 0.8, "Q4_1_V2": 0.8, "Q4_3": 0.8, "Q4_0_V1": 1.2, "Q4_0_V2": 1.2, "Q4_2": 1.2,
    "IQ3_S": 3.0, "IQ3_XXS": 3.0, "IQ2_S": 3.0, "IQ2_XS": 3.0, "IQ2_XXS": 3.0, "IQ1_M": 3.0, "IQ1_S": 3.0,
})  # fmt: skip
N_POSITIONS = 256  # tokens of TEXT that are compared, at most

TEXT = """\
The lighthouse at the end of the harbour was built in 1871, after the third ship in two years had run onto the rocks. \
Its keeper climbed the 142 steps every evening, lit the lamp, and wrote down the weather: wind from the south-west, \
rain before midnight, visibility poor. In winter the supply boat came once a month, and when the sea was too rough it \
did not come at all. Today the light is electric and nobody lives in the tower, but visitors can still read the log \
books, which are kept in a glass case in the museum of the town.

To sort a list of numbers, compare each element with the one that follows it, and swap them if they are in the wrong \
order. Repeat this until nothing is swapped any more:

def bubble_sort(values):
    for end in range(len(values) - 1, 0, -1):
        for i in range(end):
            if values[i] > values[i + 1]:
                values[i], values[i + 1] = values[i + 1], values[i]
    return values

Water boils at 100 degrees Celsius at sea level. On a high mountain the pressure of the air is lower, and so it boils \
at a lower temperature; that is why it takes longer to cook an egg there.
"""
# What tokenizers stumble over: scripts, marks, numbers, emoji, contractions, all kinds of spaces, control tokens.
ODD_TEXT = (
    "Grüße, garçon! Привет, мир. 你好，世界。こんにちは 안녕하세요 नमस्ते مرحبا שלום ὕβρις\n"
    "I'll we've DON'T it's 1234567890 3.14159 1,000,000 x²+y²=z² e\u0301 ﬁ ½ № ™\n"
    '👩‍👩‍👧‍👦 🏳️‍🌈 ❤️ 🇺🇳\n\n\n\t\tif (a && b) {\n\t\t\treturn  a->b[0] ?: "c\\n";   // done\r\n\t}\n'
    "   three   spaces    \u00a0no\u2003break\u200bzero\u3000wide <s> </s> <|im_start|> [INST] \x00\x7f   "
)
MESSAGES = (
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Italy?"},
)
_ANY_DAY = datetime.date(2024, 2, 29)


@dataclass(frozen=True)
class Finding:
    """One thing that was compared."""

    name: str
    passed: bool
    text: str  # what was found, and what is allowed, for people


@dataclass(frozen=True)
class Divergence:
    """How far the result's logits are from the source's over a text, both in float32.

    kl: mean Kullback-Leibler divergence from source to result, nats per token. max_difference: the largest |Δlogit|.
    top1: share of positions where both like the same token best. perplexity: of the text, source and result.
    """

    n_positions: int
    kl: float
    max_difference: float
    top1: float
    source_perplexity: float
    result_perplexity: float


@dataclass(frozen=True)
class Verdict:
    """What a comparison found. budget: allowed mean divergence, for the coarsest type in the result."""

    findings: tuple[Finding, ...]
    divergence: Divergence
    budget: float

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)

    @property
    def failures(self) -> tuple[str, ...]:
        return tuple(f"{finding.name}: {finding.text}" for finding in self.findings if not finding.passed)

    def lines(self) -> list[str]:
        """One line for each finding, for people."""
        return [f"{'ok' if each.passed else 'FAILED'}  {each.name}: {each.text}" for each in self.findings]

    def to_json(self) -> dict[str, object]:
        """The same for programs; a number that is none is null."""
        d = self.divergence
        return {
            "passed": self.passed,
            "findings": [{"name": f.name, "passed": f.passed, "text": f.text} for f in self.findings],
            "positions": d.n_positions,
            "mean_kl": _finite(d.kl),
            "budget": self.budget,
            "max_logit_difference": _finite(d.max_difference),
            "top1_agreement": d.top1,
            "source_perplexity": _finite(d.source_perplexity),
            "result_perplexity": _finite(d.result_perplexity),
        }


def compare(source: Checkpoint, result: Checkpoint) -> Verdict:
    """Hold a result against what it was made from.

    Raises UnsupportedError where either has no decoder here, MalformedError where a tensor is missing.
    """
    vocabulary = source.vocabulary
    findings = [] if vocabulary is None else _compare_speech(source, vocabulary, result)
    ids = _ids(source, result)
    before, after = (decoder(checkpoint, in_memory=False).forward(ids) for checkpoint in (source, result))
    divergence = diverge(before, after, ids)
    findings.append(_judge_weights(source, result))
    type_name, budget = budget_of(result)
    findings.append(_judge_logits(divergence, type_name, budget))
    return Verdict(tuple(findings), divergence, budget)


def _judge_weights(source: Checkpoint, result: Checkpoint) -> Finding:
    """The tensor that is nearest to what its type allows, or farthest beyond it."""
    worst = max(tensor_errors(source.tensors, result.tensors), key=lambda each: (not each.passed, each.share))
    text = f"at worst {worst.name} is off by {worst.error:.2g}, allowed {worst.allowed:g} for {worst.dtype}"
    return Finding("weights", worst.passed, text)


def budget_of(checkpoint: Checkpoint) -> tuple[str, float]:
    """The type in a checkpoint that may cost the most, and how much."""
    names = {tensor.info.dtype.name for tensor in checkpoint.tensors.values()}
    coarsest = max(names, key=lambda name: BUDGETS[name])
    return coarsest, BUDGETS[coarsest]


def diverge(source: Tensor, result: Tensor, ids: Sequence[int]) -> Divergence:
    """Measure two sets of logits, each (seq, vocab_size), over the tokens that they were computed for.

    Only columns that both have count: padding of the vocabulary may differ.
    """
    n_columns = min(source.shape[1], result.shape[1])
    kl = source_loss = result_loss = max_difference = 0.0
    agreed = 0
    following = [*ids[1:], None]
    for row, token in enumerate(following):  # one row at a time, for in float64 all would be large
        p, q = source[row, :n_columns].double(), result[row, :n_columns].double()
        max_difference = max(max_difference, float((p - q).abs().max()), key=_nan_last)
        agreed += int(p.argmax() == q.argmax())
        p, q = p.log_softmax(-1), q.log_softmax(-1)
        kl += float((p.exp() * (p - q)).sum())
        if token is not None:
            source_loss -= float(p[token])
            result_loss -= float(q[token])
    n = len(ids)
    return Divergence(
        n_positions=n,
        kl=kl / n,
        max_difference=max_difference,
        top1=agreed / n,
        source_perplexity=_exp(source_loss / max(1, n - 1)),
        result_perplexity=_exp(result_loss / max(1, n - 1)),
    )


def _compare_speech(source: Checkpoint, vocabulary: Vocabulary, result: Checkpoint) -> list[Finding]:
    """Tokenizer and chat template, where the source has them."""
    if result.vocabulary is None:
        return [Finding("tokens", False, "found no tokenizer, allowed the source's")]
    findings = [
        _first_difference("tokens", _encoded(vocabulary), _encoded(result.vocabulary)),
        _equal("stop tokens", vocabulary.stop_ids, result.vocabulary.stop_ids),
    ]
    if vocabulary.chat_template is not None or result.vocabulary.chat_template is not None:
        findings.append(_equal("chat template", _rendered(source, vocabulary), _rendered(result, result.vocabulary)))
    return findings


def _encoded(vocabulary: Vocabulary) -> list[int]:
    """The ids of the fixed texts, with control tokens taken as text and as tokens."""
    tokenizer, text = Tokenizer(vocabulary), ODD_TEXT + TEXT
    return tokenizer.encode(text) + tokenizer.encode(text, parse_special=True)


def _first_difference(name: str, source: list[int], result: list[int]) -> Finding:
    if source == result:
        return Finding(name, True, f"{len(source)} ids equal")
    place = next((i for i, (a, b) in enumerate(zip(source, result, strict=False)) if a != b), None)
    if place is None:
        return Finding(name, False, f"found {len(result)} ids, allowed {len(source)}")
    return Finding(name, False, f"found {result[place]} at {place}, allowed {source[place]}")


def _equal(name: str, source: object, result: object) -> Finding:
    if source == result:
        return Finding(name, True, "equal")
    return Finding(name, False, f"found {shown(result)}, allowed {shown(source)}")


def _rendered(checkpoint: Checkpoint, vocabulary: Vocabulary) -> str:
    """The fixed conversation as the template writes it, or how it failed: a conversion mends no template."""
    if vocabulary.chat_template is None:
        return "no template"
    try:
        return chat.render(vocabulary, MESSAGES, today=_ANY_DAY, path=checkpoint.path)
    except ConversionError as error:
        return type(error).__name__


def _ids(source: Checkpoint, result: Checkpoint) -> list[int]:
    """Tokens for both models to read: those of TEXT, or fixed ones where there is no tokenizer."""
    n_tokens = min(source.hyperparameters.vocab_size, result.hyperparameters.vocab_size)
    n_positions = min(N_POSITIONS, source.hyperparameters.context_length)
    vocabulary = source.vocabulary or result.vocabulary
    if vocabulary is None:
        return torch.randint(n_tokens, (n_positions,), generator=torch.Generator().manual_seed(0)).tolist()
    return [token for token in Tokenizer(vocabulary).encode(TEXT) if token < n_tokens][:n_positions]


def _judge_logits(d: Divergence, type_name: str, budget: float) -> Finding:
    text = (
        f"mean KL {d.kl:.2g} nats, allowed {budget:g} for {type_name}; max |Δlogit| {d.max_difference:.2g}; "
        f"best token equal in {100 * d.top1:.1f} % of {d.n_positions}; "
        f"perplexity {d.source_perplexity:.2f}, now {d.result_perplexity:.2f}"
    )
    return Finding("logits", d.kl <= budget, text)


def _nan_last(value: float) -> float:
    """A key by which not-a-number counts as the largest."""
    return math.inf if math.isnan(value) else value


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
