"""What goes into each matrix, against transformers' own modules with hooks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from converters.errors import MalformedError
from converters.imatrix import Imatrix
from distro.errors import UsageError
from distro.runtime.load import LoadedWeights, Weights
from distro.runtime.model import Model
from distro.runtime.observe import ObservedWeights, observe, read_text
from tests.fakes import memory_llama
from tests.fakes.vocabularies import small_bpe

N_TOKENS = len(small_bpe())
IDS = torch.randint(0, N_TOKENS, (50,), generator=torch.Generator().manual_seed(3)).tolist()
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def reference(**config: Any) -> Any:
    return memory_llama.reference(vocab_size=N_TOKENS, **config)


def model_of(theirs: Any, *, in_memory: bool = True, add_bos: bool = False) -> Model:
    vocabulary = replace(small_bpe(), add_bos=add_bos)
    return Model(memory_llama.checkpoint(theirs, vocabulary), in_memory=in_memory)


def our_name(theirs: str) -> str:
    if theirs == "lm_head":
        return "output.weight"
    _, _, layer, rest = theirs.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def by_hooks(theirs: Any, chunks: list[list[int]]) -> dict[str, np.ndarray]:
    """Sums of squares of what goes into every Linear of the model, by our names, in float64."""
    sums: dict[str, Any] = defaultdict(float)

    def watch(name: str) -> Any:
        def hook(module: Any, inputs: Any) -> None:
            sums[our_name(name)] += inputs[0][0].double().square().sum(0).numpy()

        return hook

    linears = [(name, module) for name, module in theirs.named_modules() if isinstance(module, torch.nn.Linear)]
    handles = [module.register_forward_pre_hook(watch(name)) for name, module in linears]
    with torch.no_grad():
        for chunk in chunks:
            theirs(torch.tensor([chunk]))
    for handle in handles:
        handle.remove()
    return dict(sums)


def assert_equal(found: Imatrix, expected: dict[str, np.ndarray], n_tokens: int) -> None:
    assert found.entries.keys() == expected.keys()
    for name, entry in found.entries.items():
        assert entry.counts.tolist() == [n_tokens]
        np.testing.assert_allclose(entry.sums[0], expected[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("in_memory", [True, False], ids=["in memory", "read as needed"])
def test_sums_equal_transformers_inputs(in_memory: bool) -> None:
    theirs = reference()
    advanced: list[int] = []

    found = observe(model_of(theirs, in_memory=in_memory), IDS, chunk_size=16, dataset="a.txt", advance=advanced.append)

    expected = by_hooks(theirs, [IDS[:16], IDS[16:32], IDS[32:48]])
    del expected["output.weight"]
    assert_equal(found, expected, 48)
    assert len(found.entries) == 2 * 7
    assert (found.datasets, found.chunk_count, found.chunk_size) == (("a.txt",), 3, 16)
    assert advanced == [16, 16, 16]


def test_each_chunk_begins_with_the_begin_token_where_one_is_wanted() -> None:
    theirs = reference()
    found = observe(model_of(theirs, add_bos=True), IDS, chunk_size=25, dataset="a.txt")
    expected = by_hooks(theirs, [[1, *IDS[1:25]], [1, *IDS[26:50]]])
    del expected["output.weight"]
    assert_equal(found, expected, 50)


def test_the_output_is_observed_if_asked_for() -> None:
    theirs = reference()
    found = observe(model_of(theirs), IDS, chunk_size=50, dataset="a.txt", with_output=True)
    assert_equal(found, by_hooks(theirs, [IDS]), 50)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_tied_output_goes_by_the_embeddings_name(in_memory: bool) -> None:
    theirs = reference(tied=True)
    found = observe(model_of(theirs, in_memory=in_memory), IDS, chunk_size=50, dataset="a.txt", with_output=True)
    expected = by_hooks(theirs, [IDS])
    expected["token_embd.weight"] = expected.pop("output.weight")
    assert_equal(found, expected, 50)


def test_observing_leaves_the_model_as_it_was() -> None:
    model = model_of(reference())
    before, logits = model.decoder.weights, model.decoder.forward(IDS)
    observe(model, IDS, chunk_size=50, dataset="a.txt")
    assert model.decoder.weights is before
    assert torch.equal(model.decoder.forward(IDS), logits)


@pytest.mark.parametrize("kind", [Weights, LoadedWeights])
def test_experts_are_counted_one_by_one(kind: type[Weights]) -> None:
    experts = np.random.default_rng(0).standard_normal((3, 5, 32)).astype(np.float32)
    checkpoint = memory_llama.checkpoint(reference(), more={"blk.0.ffn_up_exps.weight": experts})
    weights = ObservedWeights(kind(checkpoint), beyond_layers=False)
    x = torch.arange(64).reshape(2, 32).float()

    picked = weights["blk.0.ffn_up_exps.weight"]
    torch.testing.assert_close(linear(x, picked[2]), x @ torch.tensor(experts[2]).T)
    linear(x[:1], picked[0])

    entry = weights.entries()["blk.0.ffn_up_exps.weight"]
    assert entry.counts.tolist() == [1, 0, 2]
    assert entry.sums[:, :3].tolist() == [[0, 1, 4], [0, 0, 0], [32**2, 1 + 33**2, 4 + 34**2]]


def test_a_matrix_that_is_used_in_another_way_is_an_error_and_not_a_gap() -> None:
    weights = ObservedWeights(LoadedWeights(memory_llama.checkpoint(reference())), beyond_layers=False)
    x, matrix = torch.ones(2, 32), weights["blk.0.attn_q.weight"]
    for use in (torch.matmul, torch.add, lambda a, b: a @ b, lambda a, b: linear(a, b, torch.ones(64))):
        with pytest.raises(TypeError):
            use(x, matrix)
    assert weights["blk.0.attn_norm.weight"].shape == (32,)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e25])
def test_activations_that_are_no_numbers_are_refused(value: float) -> None:
    theirs = reference()
    with torch.no_grad():
        theirs.model.layers[1].input_layernorm.weight[3] = value
    with pytest.raises(MalformedError, match=r"blk\.1\.attn_q\.weight: found an input that is nan, infinite or too"):
        observe(model_of(theirs), IDS, chunk_size=16, dataset="a.txt")


@pytest.mark.parametrize(
    ("n_tokens", "chunk_size", "message"),
    [
        (50, 0, "chunk: found 0 tokens, allowed 1 to the model's context of 128"),
        (500, 129, "chunk: found 129 tokens, allowed 1 to the model's context of 128"),
        (50, 51, "text: found 50 tokens, allowed 51 or more, which is one chunk"),
        (0, 1, "text: found 0 tokens, allowed 1 or more"),
    ],
)
def test_chunks_that_nothing_fills_are_refused(n_tokens: int, chunk_size: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        observe(model_of(reference()), (IDS * 10)[:n_tokens], chunk_size=chunk_size, dataset="a.txt")


def test_a_text_is_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("Grüße\r\n".encode())
    assert read_text(path) == "Grüße\r\n"
    path.write_bytes(b"Gr\xfc\xdfe")
    with pytest.raises(MalformedError, match=r"text at 2: found .*fc.*, allowed UTF-8"):
        read_text(path)
