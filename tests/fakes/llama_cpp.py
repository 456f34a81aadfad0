"""llama.cpp as a judge of token ids: a tiny model around a vocabulary, and its own tokenizer's answer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np

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
    for key, value in vocabulary_to_gguf(vocabulary).items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value.tolist() if isinstance(value, np.ndarray) else value)
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
