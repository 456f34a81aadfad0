"""Hugging Face folders: the same model out of every container, transformers as judge, and folders that lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters import convert, dtypes, plan
from converters.checkpoint import Checkpoint
from converters.errors import MalformedError, MissingError, RefusedError, UnsafeError, UnsupportedError
from converters.formats import huggingface, huggingface_weights, open_checkpoint
from converters.input_file import InputFile
from converters.recipe import Recipe
from converters.tensors import Tensor
from tests.fakes import tiny_llama
from tests.fakes.audit import audited
from tests.fakes.memory_sink import MemorySink

DTYPES = {torch.float32: dtypes.F32, torch.float16: dtypes.F16, torch.bfloat16: dtypes.BF16}


def weights(tensor: Tensor) -> bytes:
    return tensor.read_rows(0, tensor.info.n_rows).tobytes()


def pairs(weight: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Rows of each head from halves to pairs: `permute` of llama.cpp's converter, written with axes."""
    return weight.reshape(n_heads, 2, -1, weight.shape[-1]).transpose(1, 2).reshape(weight.shape).contiguous()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("container", tiny_llama.CONTAINERS)
def test_every_container_gives_the_same_tensors(
    tmp_path: Path, container: tiny_llama.Container, dtype: torch.dtype
) -> None:
    theirs = tiny_llama.tensors(dtype=dtype)
    with open_checkpoint(tiny_llama.write(tmp_path / "m", container=container, dtype=dtype)) as checkpoint:
        assert checkpoint.format == ("safetensors" if container.startswith("safe") else "pytorch")
        assert checkpoint.architecture == "llama"
        assert checkpoint.warnings == ()
        assert len(checkpoint.tensors) == len(theirs) == 21
        assert {tensor.info.dtype for tensor in checkpoint.tensors.values()} == {DTYPES[dtype]}
        expected = {
            "token_embd.weight": theirs["model.embed_tokens.weight"],
            "blk.0.attn_norm.weight": theirs["model.layers.0.input_layernorm.weight"],
            "blk.0.attn_q.weight": pairs(theirs["model.layers.0.self_attn.q_proj.weight"], 4),
            "blk.1.attn_k.weight": pairs(theirs["model.layers.1.self_attn.k_proj.weight"], 2),
            "blk.1.attn_v.weight": theirs["model.layers.1.self_attn.v_proj.weight"],
            "blk.1.attn_output.weight": theirs["model.layers.1.self_attn.o_proj.weight"],
            "blk.0.ffn_norm.weight": theirs["model.layers.0.post_attention_layernorm.weight"],
            "blk.0.ffn_gate.weight": theirs["model.layers.0.mlp.gate_proj.weight"],
            "blk.0.ffn_up.weight": theirs["model.layers.0.mlp.up_proj.weight"],
            "blk.1.ffn_down.weight": theirs["model.layers.1.mlp.down_proj.weight"],
            "output_norm.weight": theirs["model.norm.weight"],
            "output.weight": theirs["lm_head.weight"],
        }
        for name, tensor in expected.items():
            ours = checkpoint.tensors[name]
            assert (ours.info.name, ours.info.shape) == (name, tuple(tensor.shape))
            assert weights(ours) == tensor.view(torch.uint8).numpy().tobytes(), name


def test_rows_may_be_read_in_any_pieces(tmp_path: Path) -> None:
    with open_checkpoint(tiny_llama.write(tmp_path)) as checkpoint:
        tensor = checkpoint.tensors["blk.0.attn_q.weight"]
        pieces = [tensor.read_rows(start, min(start + 5, 32)) for start in range(0, 32, 5)]
        assert np.concatenate(pieces).tobytes() == weights(tensor)


def test_a_file_is_opened_with_the_config_beside_it(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path / "m")
    with open_checkpoint(folder / "model.safetensors") as checkpoint:
        assert (checkpoint.path, len(checkpoint.tensors)) == (folder / "model.safetensors", 21)
    (folder / "config.json").unlink()
    with pytest.raises(MissingError, match=r"config\.json: not found, hyper-parameters were expected beside model\."):
        open_checkpoint(folder / "model.safetensors")


def test_a_tied_output_is_no_tensor_of_its_own(tmp_path: Path) -> None:
    with open_checkpoint(tiny_llama.write(tmp_path, tied=True)) as checkpoint:
        assert checkpoint.hyperparameters.tied_embeddings
        assert "output.weight" not in checkpoint.tensors
        assert checkpoint.warnings == ()


@pytest.mark.parametrize("container", ["safetensors", "bin"])
def test_a_tied_output_that_is_there_all_the_same_is_left_out(tmp_path: Path, container: tiny_llama.Container) -> None:
    tiny_llama.write(tmp_path, tied=True)
    (tmp_path / "model.safetensors").unlink()
    tiny_llama.write_weights(tmp_path, tiny_llama.tensors(), container)
    with open_checkpoint(tmp_path) as checkpoint:
        assert "output.weight" not in checkpoint.tensors
        assert len(checkpoint.warnings) == 1
        assert checkpoint.warnings[0].startswith("lm_head.weight is not read")


def test_a_tied_output_that_is_the_embedding_itself_is_not_worth_a_word(tmp_path: Path) -> None:
    tiny_llama.write(tmp_path, tied=True)
    (tmp_path / "model.safetensors").unlink()
    tied = tiny_llama.tensors(tied=True)
    tiny_llama.write_weights(tmp_path, tied | {"lm_head.weight": tied["model.embed_tokens.weight"]}, "bin")
    with open_checkpoint(tmp_path) as checkpoint:
        assert len(checkpoint.tensors) == 20
        assert checkpoint.warnings == ()


def test_rotary_frequencies_of_old_folders_are_left_out(tmp_path: Path) -> None:
    tiny_llama.write(tmp_path)
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    tiny_llama.write_weights(tmp_path, tiny_llama.tensors() | buffers, "safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert len(checkpoint.tensors) == 21


def test_a_hub_caches_snapshot_of_links_opens(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source", container="safetensors-sharded")
    repository = tmp_path / "models--owner--tiny"
    snapshot = repository / "snapshots" / "83212e1e"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, repository / "blobs" / f"{number:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040x}")
    with open_checkpoint(snapshot) as checkpoint:
        assert len(checkpoint.tensors) == 21


def test_files_are_closed_when_opening_fails(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path, container="safetensors-sharded")
    (folder / "model-00003-of-00003.safetensors").write_bytes(b"")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(MalformedError):
        open_checkpoint(folder)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Folders that lie. Each case takes a valid folder, with one file or with shards, and changes one thing.


def json_change(name: str, change: Callable[[Any], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        change(value)
        tiny_llama.write_json(folder / name, value)

    return apply


def config(**values: object) -> Callable[[Path], object]:
    return json_change("config.json", lambda config: config.update(values))


def content(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        weights = tiny_llama.tensors()
        change(weights)
        tiny_llama.write_weights(folder, weights, "safetensors")

    return apply


NORM, Q = "model.norm.weight", "model.layers.0.self_attn.q_proj.weight"
SINGLE: list[tuple[str, Callable[[Path], object], type[Exception], str]] = [
    ("no config", lambda folder: (folder / "config.json").unlink(), MissingError, "config.json: not found"),
    ("empty config", content("config.json", b""), MalformedError, "config.json: JSON at 1:1"),
    ("config no JSON", content("config.json", b"hello"), MalformedError, "config.json: JSON at 1:1"),
    ("config an array", content("config.json", b"[]"), MalformedError, "config.json: JSON at 1:1"),
    ("config with a mark", content("config.json", b"\xef\xbb\xbf{}"), MalformedError, "config.json: JSON at 1:1"),
    ("config of 17 MiB", content("config.json", b" " * (17 << 20)), MalformedError, "config.json: file"),
    ("config very deep", content("config.json", b'{"a":' * 100_000), MalformedError, "config.json: JSON at 1:"),
    ("config with NaN", content("config.json", b'{"rms_norm_eps": NaN}'), MalformedError, "config.json: JSON at 1:18"),
    ("a key twice", content("config.json", b'{"a": 1,\n "a": 2}'), MalformedError, "config.json: JSON at 2:2"),
    ("an empty config", content("config.json", b"{}"), MalformedError, "config.json: /architectures"),
    ("no architectures", config(architectures=[]), MalformedError, "config.json: /architectures: found 0 entries"),
    ("10,000 architectures", config(architectures=["x"] * 10_000), MalformedError, "/architectures: found 10000"),
    ("architectures in text", config(architectures="LlamaForCausalLM"), MalformedError, "config.json: /architectures"),
    ("architecture a number", config(architectures=[7]), UnsupportedError, "config.json: /architectures/0"),
    ("unknown architecture", config(architectures=["Wav2Vec2Model"]), UnsupportedError, "allowed LlamaForCausalLM"),
    ("dim 0", config(hidden_size=0), MalformedError, "config.json: /hidden_size: found 0"),
    ("dim -1", config(hidden_size=-1), MalformedError, "config.json: /hidden_size: found -1"),
    ("dim 2^40", config(hidden_size=1 << 40), MalformedError, "config.json: /hidden_size"),
    ("dim in text", config(hidden_size="32"), MalformedError, "config.json: /hidden_size: found 32"),
    ("dim a half", config(hidden_size=32.5), MalformedError, "config.json: /hidden_size"),
    ("dim true", config(hidden_size=True), MalformedError, "config.json: /hidden_size"),
    ("no layers", config(num_hidden_layers=0), MalformedError, "config.json: /num_hidden_layers"),
    ("a million layers", config(num_hidden_layers=10**6), MalformedError, "config.json: /num_hidden_layers"),
    ("no heads", config(num_attention_heads=0), MalformedError, "config.json: /num_attention_heads"),
    ("more kv heads than heads", config(num_key_value_heads=8), MalformedError, "config.json: /num_key_value_heads"),
    ("kv heads that do not divide", config(num_key_value_heads=3), MalformedError, "config.json: /num_key_value_heads"),
    ("epsilon 0", config(rms_norm_eps=0), MalformedError, "config.json: /rms_norm_eps"),
    ("unknown scaling", config(rope_scaling={"type": "x", "factor": 2}), MalformedError, "/rope_scaling/rope_type"),
    ("scaling by 0", config(rope_scaling={"type": "linear", "factor": 0}), MalformedError, "/rope_scaling/factor"),
    ("gptq", config(quantization_config={"quant_method": "gptq"}), UnsupportedError, "/quant_method: found gptq"),
    ("unnamed quantization", config(quantization_config={}), UnsupportedError, "/quantization_config/quant_method"),
    ("quantization in text", config(quantization_config="fp8"), MalformedError, "/quantization_config: found fp8"),
    ("more rows than there are", config(vocab_size=289), MalformedError,
     "model.embed_tokens.weight: found shape (288, 32), allowed (289, 32)"),
    ("one layer more", config(num_hidden_layers=3), MalformedError,
     "model.safetensors: model.layers.2.input_layernorm.weight: found no such tensor, allowed one of shape (32,)"),
    ("one layer fewer", config(num_hidden_layers=1), MalformedError,
     "model.layers.1.input_layernorm.weight: found an unknown tensor, allowed the tensors of a llama of 1 layers"),
    ("no weights", lambda folder: (folder / "model.safetensors").unlink(), MissingError, "one of model.safetensors, "),
    ("weights that are a folder", lambda folder: (folder / "model.safetensors").rename(folder / "x") and
     (folder / "model.safetensors").mkdir(), MalformedError, "model.safetensors: file: found a folder"),
    ("empty weights", content("model.safetensors", b""), MalformedError, "model.safetensors: header length"),
    ("a tensor missing", tensors(lambda w: w.pop(NORM)), MalformedError, f"model.safetensors: {NORM}: found no such"),
    ("an unknown tensor", tensors(lambda w: w.update(x=w[NORM].clone())), MalformedError, "x: found an unknown tensor"),
    ("a bias", tensors(lambda w: w.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(32)})), MalformedError,
     "model.layers.0.self_attn.q_proj.bias: found an unknown tensor"),
    ("a wrong shape", tensors(lambda w: w.update({Q: torch.ones(16, 32)})), MalformedError,
     f"{Q}: found shape (16, 32), allowed (32, 32)"),
    ("a matrix for a norm", tensors(lambda w: w.update({NORM: torch.ones(1, 32)})), MalformedError,
     f"{NORM}: found shape (1, 32), allowed (32,)"),
    ("float64", tensors(lambda w: w.update({NORM: w[NORM].double()})), UnsupportedError, f"{NORM}: found type F64"),
    ("integers", tensors(lambda w: w.update({NORM: w[NORM].long()})), UnsupportedError, f"{NORM}: found type I64"),
    ("float8", tensors(lambda w: w.update({Q: w[Q].to(torch.float8_e4m3fn)})), UnsupportedError, f"{Q}: found type F8"),
    ("weights through a link", lambda folder: (folder / "model.safetensors").rename(folder.parent / "w") and
     (folder / "model.safetensors").symlink_to("../w"), UnsafeError, "model.safetensors: file: found a link to "),
    ("config through a link", lambda folder: (folder / "config.json").rename(folder.parent / "c") and
     (folder / "config.json").symlink_to("../c"), UnsafeError, "config.json: file: found a link to "),
    ("a tokenizer that is gone", lambda folder: (folder / "tokenizer.json").unlink() or
     (folder / "tokenizer.json").symlink_to("blob"), MissingError, "tokenizer.json: not found, a link to "),
    ("settings that are gone", lambda folder: (folder / "generation_config.json").unlink() or
     (folder / "generation_config.json").symlink_to("generation_config.json"), MissingError, "not found, a link to "),
    ("a template through a link", lambda folder: (folder / "chat_template.jinja").symlink_to("/etc/hostname"),
     UnsafeError, "chat_template.jinja: file: found a link to "),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "text"), [case[1:] for case in SINGLE], ids=[case[0] for case in SINGLE])
def test_a_folder_that_lies_is_refused(
    tmp_path: Path, change: Callable[[Path], object], error: type[Exception], text: str
) -> None:
    folder = tiny_llama.write(tmp_path / "m")
    change(folder)
    with pytest.raises(error) as caught:
        huggingface.open_checkpoint(folder)
    assert text in str(caught.value)
    assert type(caught.value) is error


INDEX = "model.safetensors.index.json"
FIRST = "model-00001-of-00003.safetensors"


def index(change: Callable[[Any], object]) -> Callable[[Path], object]:
    return json_change(INDEX, change)


def shard(value: object) -> Callable[[Path], object]:
    return index(lambda index: index["weight_map"].update({NORM: value}))


def add_to_second(name: str) -> Callable[[Path], object]:
    """One tensor more in the second shard, which the index does not know of."""
    from safetensors.torch import load_file, save_file

    def apply(folder: Path) -> None:
        path = folder / "model-00002-of-00003.safetensors"
        save_file({**load_file(path), name: torch.ones(32)}, path)

    return apply


MANY = {f"t{i}": f"{i}.safetensors" for i in range(513)}
POINTER = "model.safetensors.index.json: /weight_map/model.norm.weight"
SHARDED: list[tuple[str, Callable[[Path], object], type[Exception], str]] = [
    *(
        (f"a shard called {value!r}"[:60], shard(value), MalformedError, POINTER)
        for value in (
            "../x.safetensors", "/etc/passwd", "/x.safetensors", "..\\x.safetensors", "C:\\x.safetensors",
            "C:x.safetensors", "\\\\host\\share\\x.safetensors", "a\0.safetensors", "", ".", "..", "a/b.safetensors",
            "x" * 300 + ".safetensors", "model.bin", "config.json", "a\n.safetensors", None, 7, ["x.safetensors"], {},
        )
    ),
    ("no JSON", content(INDEX, b"x"), MalformedError, f"{INDEX}: JSON at 1:1"),
    ("an array", content(INDEX, b"[]"), MalformedError, f"{INDEX}: JSON at 1:1"),
    ("65 MiB of spaces", content(INDEX, b" " * (65 << 20)), MalformedError, f"{INDEX}: file"),
    ("very deep", content(INDEX, b"[" * 100_000), MalformedError, f"{INDEX}: JSON at 1:65"),
    ("a tensor twice", content(INDEX, b'{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}'), MalformedError,
     f"{INDEX}: JSON at 1:39"),
    ("no weight_map", index(lambda index: index.pop("weight_map")), MalformedError, f"{INDEX}: /weight_map"),
    ("an empty weight_map", index(lambda index: index.update(weight_map={})), MalformedError, f"{INDEX}: /weight_map"),
    ("weight_map null", index(lambda index: index.update(weight_map=None)), MalformedError, f"{INDEX}: /weight_map"),
    ("weight_map a list", index(lambda index: index.update(weight_map=[1])), MalformedError, f"{INDEX}: /weight_map"),
    ("513 shards", index(lambda index: index.update(weight_map=MANY)), MalformedError, "found 513 shards"),
    ("a shard missing", lambda folder: (folder / FIRST).unlink(), MissingError, f"{FIRST}: not found, a shard that "),
    ("a tensor in the wrong shard", shard(FIRST), MalformedError, f"{NORM}: found a tensor out of place"),
    ("a tensor that the shard lacks", index(lambda index: index["weight_map"].update(x=FIRST)), MalformedError,
     f"{FIRST}: x: found no such tensor, allowed what the index says"),
    ("a tensor that the index lacks", index(lambda index: index["weight_map"].pop(NORM)), MalformedError,
     f"{NORM}: found a tensor out of place, allowed what {INDEX} says of this shard"),
    ("an unknown tensor in a shard", add_to_second("x"), MalformedError, "x: found a tensor out of place"),
    ("a tensor in two shards", add_to_second("model.embed_tokens.weight"), MalformedError,
     "model-00002-of-00003.safetensors: model.embed_tokens.weight: found it again"),
    ("a tensor missing everywhere", index(lambda index: index["weight_map"].pop("lm_head.weight")), MalformedError,
     "lm_head.weight: found a tensor out of place"),
    ("total_size negative", index(lambda index: index["metadata"].update(total_size=-1)), MalformedError,
     f"{INDEX}: /metadata/total_size"),
    ("total_size 2^70", index(lambda index: index["metadata"].update(total_size=1 << 70)), MalformedError,
     f"{INDEX}: /metadata/total_size"),
    ("total_size in text", index(lambda index: index["metadata"].update(total_size="148096")), MalformedError,
     f"{INDEX}: /metadata/total_size"),
    ("metadata a list", index(lambda index: index.update(metadata=[])), MalformedError, f"{INDEX}: /metadata"),
    ("one file too", lambda folder: shutil.copy(folder / FIRST, folder / "model.safetensors"), MalformedError,
     f"weights: found model.safetensors and {INDEX}, allowed one of them"),
    ("a shard through a link", lambda folder: (folder / FIRST).rename(folder.parent / "w") and
     (folder / FIRST).symlink_to("../w"), UnsafeError, f"{FIRST}: file: found a link to "),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "text"), [case[1:] for case in SHARDED], ids=[case[0] for case in SHARDED])
def test_shards_that_lie_are_refused_and_nothing_outside_is_opened(
    tmp_path: Path, change: Callable[[Path], object], error: type[Exception], text: str
) -> None:
    folder = tiny_llama.write(tmp_path / "m", container="safetensors-sharded")
    change(folder)
    with audited() as events, pytest.raises(error) as caught:
        huggingface.open_checkpoint(folder)
    assert text in str(caught.value)
    assert type(caught.value) is error
    opened = [event for event in events if event.startswith("open ")]
    assert all(str(folder) in event for event in opened), opened


def test_one_malicious_shard_spoils_the_set(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> object:
            return (print, ("never",))

    folder = tiny_llama.write(tmp_path / "m", container="bin-sharded")
    torch.save({"x": Attack()}, folder / "pytorch_model-00004-of-00004.bin")
    json_change(
        "pytorch_model.bin.index.json", lambda index: index["weight_map"].update(x="pytorch_model-00004-of-00004.bin")
    )(folder)
    with pytest.raises(
        UnsafeError, match=r"pytorch_model-00004-of-00004\.bin: .*: GLOBAL at \d+: found __builtin__\.print"
    ):
        open_checkpoint(folder)


def test_an_index_of_bins_may_not_name_safetensors(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path / "m", container="bin-sharded")
    tiny_llama.write_weights(folder, tiny_llama.tensors(), "safetensors-sharded")
    (folder / INDEX).unlink()
    change = json_change("pytorch_model.bin.index.json", lambda index: index["weight_map"].update({NORM: FIRST}))
    change(folder)
    with pytest.raises(MalformedError, match=r"allowed the plain name of a \.bin file"):
        open_checkpoint(folder)


def add_bins(folder: Path) -> None:
    tiny_llama.write_weights(folder, tiny_llama.tensors(seed=1), "bin-sharded")


WARNED: list[tuple[str, Callable[[Path], object], str]] = [
    ("auto_map", config(auto_map={"AutoModel": "evil.Evil"}), "config.json: auto_map is ignored, no code of a model"),
    ("remote code", config(trust_remote_code=True), "config.json: trust_remote_code is ignored"),
    ("another dtype", config(torch_dtype="bfloat16"), "config.json: torch_dtype is 'bfloat16', the tensors are F32"),
    ("an unknown dtype", config(torch_dtype="float3"), "config.json: torch_dtype is 'float3', the tensors are F32"),
    ("dtype a number", config(dtype=16), "config.json: dtype is 16, the tensors are F32"),
    ("total_size", index(lambda index: index["metadata"].update(total_size=5)),
     "model.safetensors.index.json: total_size is 5, the tensors have 148096 bytes"),
    ("bins beside safetensors", add_bins, f"pytorch_model.bin.index.json is not read, {INDEX} is there"),
    ("a stray shard", lambda folder: shutil.copy(folder / FIRST, folder / "model-00004-of-00004.safetensors"),
     f"model-00004-of-00004.safetensors is not read, {INDEX} does not name it"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "warning"), [case[1:] for case in WARNED], ids=[case[0] for case in WARNED])
def test_what_is_odd_and_harmless_is_said(tmp_path: Path, change: Callable[[Path], object], warning: str) -> None:
    folder = tiny_llama.write(tmp_path / "m", container="safetensors-sharded")
    change(folder)
    with open_checkpoint(folder) as checkpoint:
        assert len(checkpoint.warnings) == 1
        assert checkpoint.warnings[0].startswith(warning)
        embedding = tiny_llama.tensors()["model.embed_tokens.weight"].numpy()
        assert weights(checkpoint.tensors["token_embd.weight"]) == embedding.tobytes()


def test_a_total_size_that_is_a_float_is_read(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path / "m", container="safetensors-sharded")
    index(lambda index: index["metadata"].update(total_size=148096.0))(folder)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.warnings == ()


# Writing.


def laid_out(
    checkpoint: Checkpoint, mix: str = "f32", max_shard_bytes: int = 10**9, target: str = "safetensors"
) -> dict[str, bytes]:
    sink = MemorySink()
    convert.convert(checkpoint, plan.make(checkpoint, Recipe(target, mix, max_shard_bytes=max_shard_bytes), "x"), sink)
    return sink.files


def saved(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def test_a_folder_is_written_back_as_it_was(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path / "m", dtype=torch.bfloat16)
    with open_checkpoint(folder) as checkpoint:
        files = laid_out(checkpoint, "bf16")
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    ours, theirs = json.loads(files["config.json"]), json.loads((folder / "config.json").read_text())
    assert {key: ours.get(key) for key in theirs} == theirs
    assert list(ours) == sorted(ours)


def test_shards_are_filled_in_order(tmp_path: Path) -> None:
    """Embedding and output have 36,864 bytes each, a layer 36,864 + 256."""
    with open_checkpoint(tiny_llama.write(tmp_path / "m")) as checkpoint:
        outputs = huggingface.lay_out(checkpoint, dtypes.F32, max_shard_bytes=80_000)
    shards = {output.path: [placed.source for placed in output.tensors] for output in outputs if output.tensors}
    assert list(shards) == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert "token_embd.weight" in shards["model-00001-of-00002.safetensors"]
    assert "output.weight" in shards["model-00002-of-00002.safetensors"]
    written = next(json.loads(output.head) for output in outputs if output.path == INDEX)
    assert written["metadata"] == {"total_size": 148096}
    assert len(written["weight_map"]) == 21
    assert written["weight_map"]["lm_head.weight"] == "model-00002-of-00002.safetensors"
    assert list(written["weight_map"]) == sorted(written["weight_map"])
    for output in outputs:
        assert output.size == len(output.head) + sum(placed.info.n_bytes for placed in output.tensors)


def test_a_tensor_larger_than_a_shard_has_one_for_itself(tmp_path: Path) -> None:
    with open_checkpoint(tiny_llama.write(tmp_path / "m")) as checkpoint:
        outputs = huggingface.lay_out(checkpoint, dtypes.F16, max_shard_bytes=1)
    shards = [output for output in outputs if output.tensors]
    assert [len(output.tensors) for output in shards] == [1] * 21
    assert shards[20].path == "model-00021-of-00021.safetensors"


def test_more_shards_than_are_read_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_weights, "MOST_SHARDS", 20)
    with (
        open_checkpoint(tiny_llama.write(tmp_path / "m")) as checkpoint,
        pytest.raises(RefusedError, match="21 shards, allowed at most 20; let each hold more"),
    ):
        huggingface.lay_out(checkpoint, dtypes.F16, max_shard_bytes=1)


def test_quantized_types_have_no_place_in_safetensors(tmp_path: Path) -> None:
    with (
        open_checkpoint(tiny_llama.write(tmp_path / "m")) as checkpoint,
        pytest.raises(RefusedError, match="not in Q8_0"),
    ):
        huggingface.lay_out(checkpoint, dtypes.Q8_0, max_shard_bytes=1)


@pytest.mark.parametrize("target", ["safetensors", "bin"])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 50_000])
@pytest.mark.parametrize("tied", [False, True])
def test_transformers_opens_what_we_write(tmp_path: Path, tied: bool, max_shard_bytes: int, target: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = tiny_llama.write(tmp_path / "source", tied=tied)
    with open_checkpoint(source) as checkpoint:
        result = saved(tmp_path / "result", laid_out(checkpoint, max_shard_bytes=max_shard_bytes, target=target))
    ids = torch.arange(40)[None]
    safe = target == "safetensors"
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(source)(ids).logits
        ours = AutoModelForCausalLM.from_pretrained(result, use_safetensors=safe)(ids).logits
    assert torch.equal(ours, theirs)
    text = "the cat  and é 123<|im_end|>"
    assert (
        AutoTokenizer.from_pretrained(result)(text).input_ids == AutoTokenizer.from_pretrained(source)(text).input_ids
    )


def test_bins_have_the_names_that_transformers_looks_for(tmp_path: Path) -> None:
    with open_checkpoint(tiny_llama.write(tmp_path / "m")) as checkpoint:
        one = huggingface.lay_out(checkpoint, dtypes.F16, "bin")
        two = huggingface.lay_out(checkpoint, dtypes.F32, "bin", max_shard_bytes=80_000)
    assert [output.path for output in one if output.tensors] == ["pytorch_model.bin"]
    assert not any(output.path.endswith("index.json") for output in one)
    shards = {output.path: [placed.info.name for placed in output.tensors] for output in two if output.tensors}
    assert list(shards) == ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    written = next(json.loads(output.head) for output in two if output.path == "pytorch_model.bin.index.json")
    assert written == {
        "metadata": {"total_size": 148096},
        "weight_map": dict(sorted((name, path) for path, names in shards.items() for name in names)),
    }


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 30_000])
def test_bins_and_safetensors_become_each_other_byte_for_byte(tmp_path: Path, dtype: str, max_shard_bytes: int) -> None:
    torch_dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    source = tiny_llama.write(tmp_path / "source", dtype=torch_dtype)
    with open_checkpoint(source) as checkpoint:
        bins = saved(tmp_path / "bins", laid_out(checkpoint, dtype, max_shard_bytes, "bin"))
    with open_checkpoint(bins) as checkpoint:
        assert checkpoint.format == "pytorch"
        assert checkpoint.warnings == ()
        back = laid_out(checkpoint, dtype)
    assert back["model.safetensors"] == (source / "model.safetensors").read_bytes()


def test_the_result_says_where_it_comes_from_and_has_the_same_size(tmp_path: Path) -> None:
    with open_checkpoint(tiny_llama.write(tmp_path / "m")) as checkpoint:
        for target in ("safetensors", "bin"):
            made = plan.make(checkpoint, Recipe(target, "f16"), "x", made_by="distro 0")
            sink = MemorySink()
            inputs = convert.convert(checkpoint, made, sink).inputs
            weights = sink.files["model.safetensors" if target == "safetensors" else "pytorch_model.bin"]
            for digest in inputs.values():
                assert digest.encode() in weights
            assert b'distro 0"' in weights


def test_every_small_file_that_is_read_is_a_companion(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path / "m", container="bin-sharded")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "notes.txt").write_text("not read")
    with audited() as events, open_checkpoint(folder) as checkpoint:
        weights = {file.path.name for file in checkpoint.files}
    assert weights == {f"pytorch_model-0000{i}-of-00003.bin" for i in (1, 2, 3)}
    names = {path.name for path in checkpoint.companions}
    assert names == {
        "config.json", "pytorch_model.bin.index.json", "tokenizer.json", "tokenizer_config.json",
        "special_tokens_map.json", "generation_config.json", "chat_template.jinja", "README.md",
    }  # fmt: skip
    there = {path.name for path in folder.iterdir()}
    assert {name for name in there if any(f"/{name}'" in event for event in events)} == weights | names


def test_weights_are_opened_by_the_opener_and_nothing_else_is(tmp_path: Path) -> None:
    for container in ("safetensors", "bin-sharded"):
        opened: list[str] = []

        def opener(path: Path) -> InputFile:
            opened.append(path.name)  # noqa: B023
            return InputFile(path)

        with huggingface.open_checkpoint(tiny_llama.write(tmp_path / container, container=container), opener=opener):
            pass
        assert opened == (
            ["model.safetensors"]
            if container == "safetensors"
            else [f"pytorch_model-0000{i}-of-00003.bin" for i in (1, 2, 3)]
        )


CARD = (
    '---\nlicense: apache-2.0\nlanguage:\n- en\nbase_model: o/Tiny-1\ntags: [chat]\nmodel_name: "Tiny: 2"\n---\n# T\n'
)
ABOUT = {
    "license": "apache-2.0", "languages": ("en",), "tags": ("chat",), "name": "Tiny: 2", "base_model.count": 1,
    "base_model.0.name": "Tiny 1", "base_model.0.organization": "O",
    "base_model.0.repo_url": "https://huggingface.co/o/Tiny-1",
}  # fmt: skip


@pytest.mark.parametrize("target", ["safetensors", "bin"])
def test_what_a_model_says_of_itself_survives_a_trip(tmp_path: Path, target: str) -> None:
    """README.md to GGUF's `general.` keys, to a folder of either kind, to the same GGUF again."""
    folder = tiny_llama.write(tmp_path / "m")
    (folder / "README.md").write_text(CARD)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.card == ABOUT
        first = MemorySink()
        convert.convert(checkpoint, plan.make(checkpoint, Recipe("gguf", "f32"), "tiny"), first)
    (gguf,) = first.save(tmp_path / "gguf").iterdir()
    with open_checkpoint(gguf) as checkpoint:
        assert checkpoint.card == ABOUT
        result = saved(tmp_path / "result", laid_out(checkpoint, target=target))
    with open_checkpoint(result) as checkpoint:
        assert checkpoint.card == ABOUT
        again = MemorySink()
        convert.convert(checkpoint, plan.make(checkpoint, Recipe("gguf", "f32"), "tiny"), again)
    assert again.files == first.files


def test_a_folder_without_a_card_gets_none(tmp_path: Path) -> None:
    with open_checkpoint(tiny_llama.write(tmp_path / "m")) as checkpoint:
        assert checkpoint.card == {}
        assert "README.md" not in laid_out(checkpoint)


def test_a_folder_of_the_first_llamas_opens_and_is_written_with_todays_names(tmp_path: Path) -> None:
    """decapoda-research's: class names of a pull request that was merged under others, empty tokens."""
    folder = tiny_llama.write(tmp_path / "m", container="bin-sharded", dtype=torch.float16)
    old = {
        "architectures": ["LLaMAForCausalLM"], "bos_token_id": 0, "eos_token_id": 1, "hidden_act": "silu",
        "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 64, "max_sequence_length": 2048,
        "model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 2, "pad_token_id": -1,
        "rms_norm_eps": 1e-06, "torch_dtype": "float16", "transformers_version": "4.27.0.dev0", "use_cache": True,
        "vocab_size": 288,
    }  # fmt: skip
    new = json.loads((folder / "config.json").read_text())
    old |= {key: new[key] for key in ("hidden_size", "intermediate_size", "num_key_value_heads", "vocab_size")}
    tiny_llama.write_json(folder / "config.json", old)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    empty = {"bos_token": "", "eos_token": "", "unk_token": "", "tokenizer_class": "LLaMATokenizer"}
    tiny_llama.write_json(folder / "tokenizer_config.json", tokenizer | empty)
    with open_checkpoint(folder) as checkpoint:
        files = laid_out(checkpoint, "f16")
    assert checkpoint.warnings == ()
    assert checkpoint.vocabulary is not None
    assert (checkpoint.vocabulary.bos_id, checkpoint.vocabulary.eos_id) == (1, 2)
    assert json.loads(files["config.json"])["architectures"] == ["LlamaForCausalLM"]
    assert json.loads(files["tokenizer_config.json"])["tokenizer_class"] != "LLaMATokenizer"
