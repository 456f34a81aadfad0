"""A conversion in little memory: one tensor alone is larger than all that the process may have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from converters import dtypes
from converters.architectures import llama
from converters.formats import safetensors
from converters.hyperparameters import HyperParameters
from converters.tensors import TensorInfo
from tests.fakes import tiny_llama

MIB = 2**20
WIDTH, ROWS = 4096, 90_000  # an embedding of 703 MiB
LIMIT_MIB = 512  # over what the interpreter and its libraries take

CODE = """
import resource, sys
from pathlib import Path
from converters import convert, plan
from converters.formats import open_checkpoint
from converters.recipe import Recipe
from distro.store import Store

def run(source, target, mix):
    with open_checkpoint(Path(source)) as checkpoint:
        made = plan.make(checkpoint, Recipe("gguf", mix), "x", made_by="a test")
        with Store(Path(target).parent / "home").result(Path(target), single_file=True) as result:
            convert.convert(checkpoint, made, result, threads=2)
            result.publish()

small, large, folder, mix, limit = sys.argv[1:]
run(small, folder + "/small.gguf", mix)  # kernels compiled, everything loaded
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
if int(limit):
    room = int(status["VmSize"].split()[0]) * 1024 + int(limit)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
run(large, folder + "/large.gguf", mix)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer and a long embedding, all zero, on almost no disk."""
    folder = tmp_path_factory.mktemp("large")
    parameters = HyperParameters(
        dim=WIDTH, hidden_dim=256, n_layers=1, n_heads=32, n_kv_heads=1, head_dim=128, vocab_size=ROWS, norm_eps=1e-5,
        rope_theta=10_000.0, context_length=128, tied_embeddings=True,
    )  # fmt: skip
    config = tiny_llama.config(tied=True) | llama.to_config(parameters)
    (folder / "config.json").write_text(json.dumps(config))
    shapes = llama.shapes(parameters)
    infos = [TensorInfo(theirs, dtypes.BF16, shapes[ours]) for ours, theirs in llama.hf_names(parameters).items()]
    head, _ = safetensors.head(infos, {"format": "pt"})
    weights = folder / "model.safetensors"
    weights.write_bytes(head)
    os.truncate(weights, len(head) + sum(info.n_bytes for info in infos))
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to say how much memory is mapped")
def test_a_tensor_larger_than_memory_is_converted(large: Path, tmp_path: Path) -> None:
    small = tiny_llama.write(tmp_path / "small")
    command = [sys.executable, "-c", CODE, str(small), str(large), str(tmp_path), "q4_k_m", str(LIMIT_MIB * MIB)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert answer.returncode == 0, answer.stderr
    grown = int(answer.stdout) * 1024
    assert grown < 128 * MIB, f"{grown / MIB:.0f} MiB"
    assert (tmp_path / "large.gguf").stat().st_size > 100 * MIB
    assert WIDTH * ROWS * 2 > LIMIT_MIB * MIB
