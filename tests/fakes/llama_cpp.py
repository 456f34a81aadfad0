"""llama.cpp as a judge: of token ids, with a tiny model around a vocabulary; of what a model says next."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np

from converters.architectures import llama
from converters.checkpoint import Checkpoint
from converters.dtypes import F32
from converters.tokenizers.gguf_keys import vocabulary_to_gguf
from converters.tokenizers.vocabulary import Vocabulary

# In a process of its own: the server has threads that outlive it.
_CHILD = """
import json, os, sys, urllib.request, xllamacpp
request = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path, params.hostnames, params.port = request["model"], ["127.0.0.1"], 0
params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 64, 1, False, -1
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
ids = []
for text in request["texts"]:
    body = {"content": text, "add_special": request["add_special"], "parse_special": request["parse_special"]}
    call = urllib.request.Request(server.listening_address + "/tokenize", json.dumps(body).encode())
    call.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(call) as answer:
        ids.append(json.load(answer)["tokens"])
with open(request["answer"], "w") as file:
    json.dump(ids, file)
os._exit(0)
"""


def tokenize(
    model: Path, texts: Sequence[str], answer: Path, *, add_special: bool = False, parse_special: bool = False
) -> list[list[int]]:
    """The ids that llama.cpp gives for texts with the vocabulary of a GGUF; `answer` is a file that it may write."""
    request = {
        "model": str(model), "texts": list(texts), "answer": str(answer),
        "add_special": add_special, "parse_special": parse_special,
    }  # fmt: skip
    child = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=json.dumps(request).encode(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    ids: list[list[int]] = json.loads(answer.read_text())
    return ids


def write_model(path: Path, vocabulary: Vocabulary) -> None:
    """A llama of one layer and zeros with this vocabulary, written by gguf-py from the keys that we make."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    _add_keys(writer, vocabulary_to_gguf(vocabulary))
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    shapes = {f"blk.0.{name}.weight": (32, 32) for name in names}
    shapes |= {f"blk.0.{name}_norm.weight": (32,) for name in ("attn", "ffn")}
    shapes |= {"output_norm.weight": (32,), "token_embd.weight": (len(vocabulary), 32)}
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, np.float16 if len(shape) > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


_COMPLETE = """
import json, os, sys, xllamacpp
request = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path = request["model"]
params.n_ctx, params.n_parallel, params.warmup, params.verbosity = 512, 1, False, -1
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
answers = []
body = {"prompt": request["prompt"], "n_predict": request["n_tokens"], "temperature": 0, "logprobs": request["n_probs"]}
server.handle_completions(json.dumps({**body, "cache_prompt": False}), answers.append)
with open(request["answer"], "w") as file:
    file.write(answers[0])
os._exit(0)
"""


def complete(
    model: Path, prompt: Sequence[int], n_tokens: int, answer: Path, *, n_probs: int = 1
) -> tuple[list[int], list[dict[int, float]]]:
    """What llama.cpp says after a prompt, greedily: the ids, and at each place the log-probabilities of the likeliest.

    `answer` is a file that it may write. Types of 4 and 8 bits are multiplied with activations of 8 bits there, so that
    only a file of F32 gives the same numbers as float32 arithmetic.
    """
    request = {
        "model": str(model), "prompt": list(prompt), "n_tokens": n_tokens, "n_probs": n_probs, "answer": str(answer)
    }  # fmt: skip
    child = subprocess.run(
        [sys.executable, "-c", _COMPLETE], input=json.dumps(request).encode(), capture_output=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    steps = json.loads(answer.read_text())["choices"][0]["logprobs"]["content"]
    return (
        [step["id"] for step in steps],
        [{each["id"]: each["logprob"] for each in step["top_logprobs"]} for step in steps],
    )


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """A checkpoint of F32 tensors as a GGUF, by gguf-py; its vocabulary must have as many tokens as it has rows."""
    assert checkpoint.vocabulary is not None
    writer = gguf.GGUFWriter(path, "llama")
    _add_keys(writer, llama.to_gguf(checkpoint.hyperparameters) | vocabulary_to_gguf(checkpoint.vocabulary))
    for name, tensor in checkpoint.tensors.items():
        assert tensor.info.dtype == F32
        rows = tensor.read_rows(0, tensor.info.n_rows)
        writer.add_tensor(name, rows.view(np.float32).reshape(tensor.info.shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_keys(writer: gguf.GGUFWriter, keys: Mapping[str, object]) -> None:
    for key, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value.tolist() if isinstance(value, np.ndarray) else value)
