"""SmolLM2-135M-Instruct in Q4_1: judged by transformers on the same weights and llama.cpp on the same file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from converters.architectures import llama
from converters.architectures.rows import halves_from_pairs
from converters.errors import MissingError, RefusedError
from distro.runtime import model as module
from distro.runtime.generate import Sampling, generate
from distro.runtime.model import Model, Piece
from tests.fakes import llama_cpp, memory_llama
from tests.fakes.vocabularies import small_bpe

QUESTION = "What is the capital of France?"
# "The capital of France is", which has no end that the model would insist on
PROMPT = [504, 3575, 282, 4649, 314]


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Iterator[Model]:
    with Model.open(smollm2_gguf) as model:
        yield model


@pytest.fixture(scope="module")
def judge(smollm2: Model) -> Any:
    """transformers with the weights that we decoded, rows put in halves; no second copy of them but of q and k."""
    parameters = smollm2.checkpoint.hyperparameters
    config = transformers.LlamaConfig(**llama.to_config(parameters) | {"attn_implementation": "eager"})
    with torch.device("meta"):
        reference = transformers.LlamaForCausalLM(config)
    state = {}
    for ours, theirs in llama.hf_names(parameters).items():
        weight = smollm2.decoder.weights[ours]
        if llama.heads_to_reorder(ours, parameters):
            heads = weight.view(-1, parameters.head_dim, weight.shape[-1])
            weight = heads[:, list(halves_from_pairs(parameters.head_dim))].view(weight.shape)
        state[theirs] = weight
    reference.load_state_dict(state, strict=False, assign=True)
    reference.tie_weights()
    reference.model.rotary_emb = type(reference.model.rotary_emb)(config)
    assert not any(weight.is_meta for weight in [*reference.parameters(), *reference.buffers()])
    return reference.eval()


def test_logits_equal_transformers(smollm2: Model, judge: Any) -> None:
    ids = smollm2.prompt_ids(QUESTION)
    with torch.no_grad():
        expected = judge(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(smollm2.decoder.forward(ids), expected, rtol=0, atol=1e-3)


def test_64_greedy_tokens_equal_transformers(smollm2: Model, judge: Any) -> None:
    expected = judge.generate(
        torch.tensor([PROMPT]), attention_mask=torch.ones(1, len(PROMPT)), max_new_tokens=64, do_sample=False,
        eos_token_id=None, pad_token_id=2,
    )[0, len(PROMPT) :]  # fmt: skip
    assert list(generate(smollm2.decoder, PROMPT, max_tokens=64)) == expected.tolist()


def test_64_greedy_tokens_equal_llama_cpp(smollm2: Model, smollm2_gguf: Path, tmp_path: Path) -> None:
    """Counting, where each next token leads by two logits.

    llama.cpp multiplies Q4_1 with activations of 8 bits, so that between near equals it may choose another.
    """
    prompt = smollm2.prompt_ids("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,", raw=True)
    theirs, _ = llama_cpp.complete(smollm2_gguf, prompt, 64, tmp_path / "answer.json")
    assert list(generate(smollm2.decoder, prompt, max_tokens=64)) == theirs
    assert smollm2.tokenizer.decode(theirs) == "".join(f" {n}," for n in range(13, 29))


def test_llama_cpp_never_chooses_what_is_far_behind_here(smollm2: Model, smollm2_gguf: Path, tmp_path: Path) -> None:
    theirs, _ = llama_cpp.complete(smollm2_gguf, PROMPT, 64, tmp_path / "answer.json")
    rows = smollm2.decoder.forward([*PROMPT, *theirs])[len(PROMPT) - 1 : -1]
    behind = rows.amax(-1) - rows[range(len(theirs)), theirs]  # of our choice, in logits
    assert len(theirs) > 20
    assert (behind == 0).sum() > 0.9 * len(theirs)
    assert behind.max() < 0.5


def test_read_as_needed_gives_the_same_logits(smollm2: Model) -> None:
    with Model.open(smollm2.checkpoint.path, in_memory=False) as as_needed:
        assert smollm2.in_memory and not as_needed.in_memory
        ours, theirs = (model.decoder.forward(PROMPT) for model in (as_needed, smollm2))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_it_answers(smollm2: Model) -> None:
    assert smollm2.answer(QUESTION, max_tokens=20) == "The capital of France is Paris."


def test_the_prompt_is_what_the_template_says(smollm2: Model) -> None:
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    ids = smollm2.prompt_ids("Why?", system="Be brief.")
    assert "".join(smollm2.vocabulary.tokens[i] for i in ids).replace("Ġ", " ").replace("Ċ", "\n") == expected
    assert ids[0] == 1  # <|im_start|>


def test_raw_text_stays_text(smollm2: Model) -> None:
    assert smollm2.prompt_ids("The capital of France is", raw=True) == PROMPT
    assert 1 not in smollm2.prompt_ids("<|im_start|>", raw=True)


def test_pieces_join_to_whole_characters(smollm2: Model) -> None:
    prompt = smollm2.prompt_ids("Answer with three emoji of animals only.")
    sampling = Sampling(temperature=0.5, seed=0)
    pieces = list(smollm2.stream(prompt, max_tokens=40, sampling=sampling))
    tokens = [piece.token for piece in pieces if piece.token is not None]
    text = "".join(piece.text for piece in pieces)
    assert text == smollm2.tokenizer.decode(tokens)


def test_a_character_that_is_cut_is_given_as_replacement_at_the_end(smollm2: Model) -> None:
    """An answer that max_tokens ends inside a character ends in U+FFFD, as a piece without a token."""
    first_of_two = smollm2.tokenizer.encode("ʘ")[0]
    assert smollm2.tokenizer.stream().feed(first_of_two) == ""
    stream = smollm2.stream(PROMPT, max_tokens=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "generate", lambda *_, **__: iter([first_of_two]))
        assert list(stream) == [Piece(first_of_two, ""), Piece(None, "\ufffd")]


def test_without_a_tokenizer_there_is_no_text() -> None:
    with pytest.raises(MissingError, match="tiny: not found, a tokenizer is needed"):
        Model(memory_llama.checkpoint(memory_llama.reference()))


def test_without_a_template_a_question_is_continued_and_a_system_message_refused() -> None:
    vocabulary = small_bpe()
    model = Model(memory_llama.checkpoint(memory_llama.reference(vocab_size=len(vocabulary)), vocabulary))
    assert model.prompt_ids("hello") == model.tokenizer.encode("hello")
    with pytest.raises(RefusedError, match="tiny: has no chat template"):
        model.prompt_ids("hello", system="Be brief.")


def test_a_model_that_does_not_fit_is_read_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary = small_bpe()
    checkpoint = memory_llama.checkpoint(memory_llama.reference(vocab_size=len(vocabulary)), vocabulary)
    assert Model(checkpoint).in_memory
    monkeypatch.setattr("distro.runtime.load.available_memory", lambda: 10_000)
    assert not Model(checkpoint).in_memory
