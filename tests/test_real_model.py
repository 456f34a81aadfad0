"""The whole way on SmolLM2-135M-Instruct: what we write, opened by transformers, gguf-py and llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers

from converters.recipe import Recipe
from distro.runtime.generate import generate
from distro.runtime.model import Model
from distro.runtime.tokenizer import Tokenizer
from distro.store import Store
from tests.data.corpus import CORPUS
from tests.fakes import derived, llama_cpp

CONVERSATION = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
    {"role": "user", "content": "And of Italy?"},
]


def _converted(source: Path, target: Path, recipe: Recipe) -> Path:
    made = derived.into_path(Store(target.parent / "home"), source, recipe, target, threads=2)
    assert made.plan.size == sum(path.stat().st_size for path in [target, *target.rglob("*")] if path.is_file())
    return made.path


@pytest.fixture(scope="module")
def folder(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF as a safetensors folder, float16: what transformers opens."""
    return _converted(smollm2_gguf, tmp_path_factory.mktemp("real") / "folder", Recipe("safetensors", "f16"))


@pytest.fixture(scope="module")
def q8_0(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder as GGUF again, in Q8_0: what llama.cpp opens."""
    return _converted(folder, tmp_path_factory.mktemp("real") / "model.gguf", Recipe("gguf", "q8_0"))


@pytest.fixture(scope="module")
def judge(folder: Path) -> Any:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval()


def test_transformers_opens_our_folder_and_gives_our_logits(folder: Path, judge: Any) -> None:
    with Model.open(folder) as model, torch.no_grad():
        ids = model.tokenizer.encode("".join(CORPUS[:12]))
        ours, theirs = model.decoder.forward(ids), judge(torch.tensor([ids])).logits[0]
    assert len(ids) > 100
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


def test_transformers_and_we_choose_the_same_64_tokens(folder: Path, judge: Any) -> None:
    with Model.open(folder) as model:
        prompt = model.prompt_ids("What is the tide?")
        ours = list(generate(model.decoder, prompt, max_tokens=64))
    theirs = judge.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=64, do_sample=False
    )[0, len(prompt) :].tolist()
    assert len(ours) > 20
    assert ours == theirs[: len(ours)]
    assert theirs[len(ours) :] in ([], [2])  # we stop before <|im_end|>, they after it


def test_the_tokenizer_that_we_wrote_cuts_as_the_one_that_we_read(folder: Path, smollm2_gguf: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with Model.open(smollm2_gguf) as model:
        ours = model.tokenizer
        for text in CORPUS:
            assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text, add_special=False), text
        template = theirs.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
        assert template.endswith("And of Italy?<|im_end|>\n<|im_start|>assistant\n")
        assert Tokenizer(model.vocabulary).encode(template, parse_special=True) == theirs(template)["input_ids"]


def test_the_pipeline_of_three_lines_answers(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pipeline = transformers.pipeline("text-generation", model=str(folder), dtype=torch.float32, device="cpu")
    (answer,) = pipeline(CONVERSATION[:1], max_new_tokens=16, do_sample=False)
    assert answer["generated_text"][-1]["content"] == "The capital of France is Paris."


def test_config_says_what_the_gguf_said(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    expected = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
        "rope_theta": 100000.0, "rms_norm_eps": 1e-05, "max_position_embeddings": 8192, "tie_word_embeddings": True,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected


def test_every_tensor_of_our_q8_0_is_gguf_pys(q8_0: Path, smollm2_gguf: Path) -> None:
    ours, original = gguf.GGUFReader(q8_0), gguf.GGUFReader(smollm2_gguf)
    source = {tensor.name: tensor for tensor in original.tensors}
    assert {tensor.name for tensor in ours.tensors} == source.keys()
    for tensor in ours.tensors:
        stored = source[tensor.name]
        weights = gguf.quants.dequantize(stored.data, stored.tensor_type).astype(np.float16).astype(np.float32)
        assert tensor.data.tobytes() == gguf.quants.quantize(weights, tensor.tensor_type).tobytes(), tensor.name


def test_llama_cpp_loads_our_q8_0_and_chooses_the_same_tokens(q8_0: Path, tmp_path: Path) -> None:
    """Counting, where each next token leads clearly: llama.cpp multiplies in 8 bits, we in float32."""
    with Model.open(q8_0) as model:
        prompt = model.prompt_ids("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,", raw=True)
        ours = list(generate(model.decoder, prompt, max_tokens=64))
        assert model.tokenizer.decode(ours) == "".join(f" {n}," for n in range(13, 29))
    theirs, _ = llama_cpp.complete(q8_0, prompt, 64, tmp_path / "answer.json")
    assert theirs == ours
