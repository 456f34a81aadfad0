"""Weights in memory or read as they are needed: the same numbers, and never more memory than was announced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from converters import dtypes
from converters.architectures import llama
from converters.checkpoint import Checkpoint
from converters.errors import MalformedError
from converters.hyperparameters import HyperParameters
from converters.tensors import TensorInfo
from distro.runtime import load
from distro.runtime.load import LoadedWeights, Weights, fits_in_memory, memory_needed
from distro.runtime.models import decoder
from tests.fakes import memory_llama

IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_read_as_needed_gives_the_same_logits(tied: bool) -> None:
    checkpoint = memory_llama.checkpoint(memory_llama.reference(tied=tied))
    in_memory, as_needed = (decoder(checkpoint, in_memory=choice).forward(IDS) for choice in (True, False))
    torch.testing.assert_close(as_needed, in_memory, rtol=0, atol=1e-6)


def test_memory_is_known_from_the_headers() -> None:
    checkpoint = memory_llama.checkpoint(memory_llama.reference())
    need = memory_needed(checkpoint, 10)
    # embedding and output; norms; q, k, v, o; gate, up, down
    of_a_layer = 2 * 32 + (64 + 32 + 32 + 64) * 32 + 3 * 48 * 32
    assert need.loaded == 4 * (2 * 64 * 32 + 32 + 2 * of_a_layer)
    assert need.cache == 2 * 2 * 2 * 10 * 16 * 4
    loaded = LoadedWeights(checkpoint)
    assert need.loaded == sum(loaded[name].nbytes for name in checkpoint.tensors)


def test_fits_compares_with_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "available_memory", lambda: 1000)
    assert fits_in_memory(load.Memory(loaded=800, streamed=0, cache=99))
    assert not fits_in_memory(load.Memory(loaded=800, streamed=0, cache=100))


def test_this_machine_says_what_is_free() -> None:
    available = load.available_memory()
    assert available is not None and 10**7 < available < 10**14


class Generated:
    """A tensor of any size that takes no memory at rest: row r is all 2^-10 * (r % 7 - 3)."""

    origin = "nowhere"

    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.info = TensorInfo(name, dtypes.F32, shape)

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        column = ((np.arange(start, stop) % 7 - 3) / 1024).astype(np.float32)
        return np.repeat(column[:, None], self.info.n_columns, axis=1).view(np.uint8)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc")
def test_a_model_is_run_in_the_memory_that_was_announced() -> None:
    """In a process of its own: what a long-lived one has freed it uses again, and so holds less than it would."""
    code = "from tests.distro import test_runtime_load as here; here.run_in_the_memory_that_was_announced()"
    root = Path(__file__).parent.parent.parent
    child = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr


def run_in_the_memory_that_was_announced() -> None:
    """320 MiB of weights, an embedding of 64 MiB among them: layers of 64 MiB are read, used and dropped."""
    parameters = HyperParameters(
        dim=1024, hidden_dim=4096, n_layers=4, n_heads=16, n_kv_heads=16, head_dim=64, vocab_size=16384,
        norm_eps=1e-5, rope_theta=1e4, context_length=128, tied_embeddings=True,
    )  # fmt: skip
    tensors = {name: Generated(name, shape) for name, shape in llama.shapes(parameters).items()}
    checkpoint = Checkpoint(Path("large"), "memory", "llama", parameters, None, tensors, ())
    need = memory_needed(checkpoint, 128)
    assert need.streamed == 4 * (2 * 1024 + 4 * 1024 * 1024 + 3 * 4096 * 1024)

    before = _peak_memory_from_now_on()
    logits = decoder(checkpoint, in_memory=False).forward(list(range(16)))
    held = _peak_memory() - before

    assert logits.shape == (16, 16384) and logits.isfinite().all()
    activations = 8 * 2**20
    assert need.streamed / 2 < held < need.streamed + 2 * load._BLOCK_BYTES + activations


def _peak_memory_from_now_on() -> int:
    """Forget the peak so far; bytes that are resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _peak_memory()


def _peak_memory() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def test_rows_and_product_equal_the_whole() -> None:
    checkpoint = memory_llama.checkpoint(memory_llama.reference())
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    for weights in (Weights(checkpoint), LoadedWeights(checkpoint)):
        whole = weights["token_embd.weight"]
        assert torch.equal(weights.rows("token_embd.weight", [63, 0, 0]), whole[[63, 0, 0]])
        torch.testing.assert_close(weights.product(x, "token_embd.weight"), x @ whole.T)


def test_a_missing_tensor_is_named() -> None:
    checkpoint = memory_llama.checkpoint(memory_llama.reference())
    checkpoint.tensors = {name: t for name, t in checkpoint.tensors.items() if name != "blk.1.ffn_up.weight"}
    for in_memory in (True, False):
        with pytest.raises(MalformedError, match=r"tiny: blk\.1\.ffn_up\.weight: found nothing"):
            decoder(checkpoint, in_memory=in_memory).forward(IDS)
