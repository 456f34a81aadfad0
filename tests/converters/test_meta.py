"""Releases of Meta and Mistral, read: the same model out of any number of shards, transformers as judge, and lies."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from converters.checkpoint import Checkpoint
from converters.errors import MalformedError, MissingError, UnsafeError, UnsupportedError
from converters.formats import huggingface, meta, open_checkpoint
from converters.tensors import Tensor
from tests.fakes import meta_release, tiny_llama
from tests.fakes.audit import audited
from tests.fakes.meta_release import DIM, GENERATIONS, HEAD_DIM, N_HEADS, N_LAYERS, divided

NAMES = {
    "attn_norm": "attention_norm", "attn_q": "attention.wq", "attn_k": "attention.wk", "attn_v": "attention.wv",
    "attn_output": "attention.wo", "ffn_norm": "ffn_norm", "ffn_gate": "feed_forward.w1", "ffn_up": "feed_forward.w3",
    "ffn_down": "feed_forward.w2",
}  # fmt: skip

SECOND = "consolidated-00002-of-00003.safetensors"


def content(tensor: Tensor) -> bytes:
    return tensor.read_rows(0, tensor.info.n_rows).tobytes()


def whole(weights: meta_release.Weights) -> dict[str, bytes]:
    """The bytes of each tensor by GGUF name; rows as they are, for Meta's order is GGUF's."""
    names = {
        "token_embd.weight": "tok_embeddings.weight",
        "output_norm.weight": "norm.weight",
        "output.weight": "output.weight",
    }
    for layer in range(N_LAYERS):
        names |= {f"blk.{layer}.{ours}.weight": f"layers.{layer}.{theirs}.weight" for ours, theirs in NAMES.items()}
    return {ours: weights[theirs].view(torch.uint8).numpy().tobytes() for ours, theirs in names.items()}


@pytest.mark.parametrize("n_shards", [1, 2, 4, 8])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_shards_give_the_undivided_model(tmp_path: Path, generation: str, n_shards: int) -> None:
    made = GENERATIONS[generation]
    with open_checkpoint(meta_release.write(tmp_path, generation, n_shards)) as checkpoint:
        assert (checkpoint.format, checkpoint.architecture, checkpoint.warnings) == ("meta", "llama", ())
        stored = {name: tensor for name, tensor in checkpoint.tensors.items() if name != "rope_freqs.weight"}
        assert {name: content(tensor) for name, tensor in stored.items()} == whole(meta_release.weights(generation))
        assert all(tensor.info.name == name for name, tensor in stored.items())
        parameters = checkpoint.hyperparameters
        assert (parameters.context_length, parameters.vocab_size) == (made.context_length, made.vocab_size)
        assert checkpoint.vocabulary is not None
        assert checkpoint.vocabulary.model == ("bpe" if made.embedding_axis == 0 else "spm")
        assert [file.path.name for file in checkpoint.files] == [f"consolidated.{n:02d}.pth" for n in range(n_shards)]
        assert [path.name for path in checkpoint.companions] == [
            "params.json", "checklist.chk", "tokenizer_checklist.chk", "tokenizer.model",
        ]  # fmt: skip


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.0.attn_q.weight", "blk.1.ffn_down.weight"])
@pytest.mark.parametrize("generation", ["llama-2", "llama-3"])
def test_rows_may_be_read_in_any_pieces(tmp_path: Path, generation: str, name: str) -> None:
    with open_checkpoint(meta_release.write(tmp_path, generation, 4)) as checkpoint:
        tensor = checkpoint.tensors[name]
        rows = tensor.info.n_rows
        pieces = [tensor.read_rows(start, min(start + 7, rows)).tobytes() for start in range(0, rows, 7)]
        assert b"".join(pieces) == whole(meta_release.weights(generation))[name]


@pytest.mark.parametrize("n_shards", [1, 2])
def test_grouped_heads(tmp_path: Path, n_shards: int) -> None:
    with open_checkpoint(meta_release.write(tmp_path, "llama-3", n_shards, n_kv_heads=2)) as checkpoint:
        assert checkpoint.hyperparameters.n_kv_heads == 2
        expected = whole(meta_release.weights("llama-3", n_kv_heads=2))
        assert {name: content(tensor) for name, tensor in checkpoint.tensors.items()} == expected


def _with_copied_heads(folder: Path, n_copies: int) -> list[meta_release.Weights]:
    """Four shards of a model of two kv heads, each of which two shards have."""
    meta_release.write(folder, "llama-3", 4, n_kv_heads=2)
    weights = meta_release.weights("llama-3", n_kv_heads=2)
    shards = divided(weights, 4, 0)
    for name in weights:
        if name.endswith((".wk.weight", ".wv.weight")):
            for number, shard in enumerate(shards):
                shard[name] = torch.chunk(weights[name], 2)[number // n_copies].clone()
    return shards


def test_kv_heads_that_several_shards_have(tmp_path: Path) -> None:
    meta_release.write_shards(tmp_path, _with_copied_heads(tmp_path, 2))
    (tmp_path / "checklist.chk").unlink()
    with open_checkpoint(tmp_path) as checkpoint:
        expected = whole(meta_release.weights("llama-3", n_kv_heads=2))
        assert {name: content(tensor) for name, tensor in checkpoint.tensors.items()} == expected


def test_copies_of_kv_heads_that_differ_are_found_when_they_are_read(tmp_path: Path) -> None:
    shards = _with_copied_heads(tmp_path, 2)
    shards[3]["layers.1.attention.wv.weight"][0, 0] += 1
    meta_release.write_shards(tmp_path, shards)
    with open_checkpoint(tmp_path) as checkpoint:
        content(checkpoint.tensors["blk.0.attn_v.weight"])
        with pytest.raises(MalformedError) as caught:
            content(checkpoint.tensors["blk.1.attn_v.weight"])
    assert caught.value.path == tmp_path / "consolidated.03.pth"
    assert caught.value.field == "layers.1.attention.wv.weight"
    assert "those of consolidated.02.pth" in caught.value.allowed


def _transformers_logits(folder: Path, generation: str, ids: list[int]) -> torch.Tensor:
    """transformers' own decoder with the same weights in its names and order of rows."""
    import transformers

    with open_checkpoint(folder) as checkpoint:
        config = transformers.LlamaConfig(**_config(checkpoint), attn_implementation="eager", torch_dtype=torch.float32)
    model = transformers.LlamaForCausalLM(config).eval()
    state = meta_release.hf_state(meta_release.weights(generation))
    model.load_state_dict({name: weight.float() for name, weight in state.items()}, strict=True)
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([ids])).logits[0]
    return logits


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    from converters.architectures import llama

    left_out = ("architectures", "model_type", "rope_scaling", "rope_theta")
    config = {key: value for key, value in llama.to_config(checkpoint.hyperparameters).items() if key not in left_out}
    scaling = llama.to_config(checkpoint.hyperparameters)["rope_scaling"] or {"rope_type": "default"}
    assert isinstance(scaling, dict)
    return config | {"rope_parameters": scaling | {"rope_theta": checkpoint.hyperparameters.rope_theta}}


@pytest.mark.parametrize("generation", GENERATIONS)
def test_logits_equal_transformers(tmp_path: Path, generation: str) -> None:
    from distro.runtime.models import decoder

    folder = meta_release.write(tmp_path, generation, 2)
    ids = [1, 17, 200, 33, 5, 150, 99, 270]
    with open_checkpoint(folder) as checkpoint:
        ours = decoder(checkpoint, in_memory=True).forward(ids)
    torch.testing.assert_close(ours, _transformers_logits(folder, generation, ids), rtol=0, atol=1e-5)


# Where weights lie, and which layout counts.


def test_one_shard_stands_for_all(tmp_path: Path) -> None:
    folder = meta_release.write(tmp_path / "m", n_shards=2)
    with open_checkpoint(folder / "consolidated.01.pth") as checkpoint:
        assert checkpoint.path == folder / "consolidated.01.pth"
        assert len(checkpoint.files) == 2
        assert content(checkpoint.tensors["output.weight"]) == whole(meta_release.weights("llama-2"))["output.weight"]


def test_weights_may_have_any_name_beside_params(tmp_path: Path) -> None:
    folder = meta_release.write(tmp_path / "m")
    (folder / "checklist.chk").unlink()
    (folder / "consolidated.00.pth").rename(folder / "mine.bin")
    with open_checkpoint(folder / "mine.bin") as checkpoint:
        assert (checkpoint.format, len(checkpoint.tensors)) == ("meta", 21)


def test_llama_1_keeps_its_tokenizer_in_the_folder_above(tmp_path: Path) -> None:
    folder = meta_release.write(tmp_path / "LLaMA" / "7B", "llama-1")
    (folder / "tokenizer_checklist.chk").unlink()
    (folder / "tokenizer.model").rename(tmp_path / "LLaMA" / "tokenizer.model")
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.vocabulary is not None
        assert checkpoint.companions[-1] == tmp_path / "LLaMA" / "tokenizer.model"
        assert checkpoint.warnings == (f"{tmp_path}/LLaMA/tokenizer.model is read, {folder} has no tokenizer",)


def test_a_release_may_lack_a_tokenizer(tmp_path: Path) -> None:
    folder = meta_release.write(tmp_path)
    (folder / "tokenizer.model").unlink()
    (folder / "tokenizer_checklist.chk").unlink()
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.vocabulary is None


def test_params_inside_another_object(tmp_path: Path) -> None:
    folder = meta_release.write(tmp_path)
    (folder / "checklist.chk").unlink()
    meta_release.write_json(folder / "params.json", {"model": meta_release.params("llama-2")})
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.hyperparameters.dim == DIM


def _mistral(folder: Path, weights: meta_release.Weights, **more: object) -> Path:
    """As Mistral's repositories are: one file of safetensors, and no multiple_of."""
    folder.mkdir(exist_ok=True)
    params = {
        "dim": DIM, "n_layers": N_LAYERS, "head_dim": HEAD_DIM, "hidden_dim": 192, "n_heads": N_HEADS, "n_kv_heads": 2,
        "norm_eps": 1e-05, "vocab_size": 272, "rope_theta": 1000000.0,
    }  # fmt: skip
    meta_release.write_json(folder / "params.json", params | more)
    save_file(weights, folder / "consolidated.safetensors")
    meta_release.write_tokenizer(folder, "llama-2")
    (folder / "tokenizer.model").rename(folder / "tokenizer.model.v3")
    return folder


def _mistrals_weights() -> meta_release.Weights:
    weights = meta_release.weights("llama-2", n_kv_heads=2)
    del weights["rope.freqs"]
    return weights


def test_mistrals_safetensors(tmp_path: Path) -> None:
    with open_checkpoint(_mistral(tmp_path, _mistrals_weights(), sliding_window=4096)) as checkpoint:
        assert {name: content(tensor) for name, tensor in checkpoint.tensors.items()} == whole(_mistrals_weights())
        parameters = checkpoint.hyperparameters
        assert (parameters.sliding_window, parameters.context_length, parameters.n_kv_heads) == (4096, 32768, 2)
        assert checkpoint.vocabulary is not None
        assert [path.name for path in checkpoint.companions] == ["params.json", "tokenizer.model.v3"]


def _indexed(folder: Path, weights: meta_release.Weights, n_shards: int = 3) -> list[str]:
    """As Mistral Large's repository is: every tensor whole in one of the files. Gives their names."""
    _mistral(folder, weights)
    (folder / "consolidated.safetensors").unlink()
    names = [f"consolidated-{n + 1:05}-of-{n_shards:05}.safetensors" for n in range(n_shards)]
    where = {tensor: names[n % n_shards] for n, tensor in enumerate(weights)}
    for name in names:
        save_file({tensor: weights[tensor] for tensor in weights if where[tensor] == name}, folder / name)
    meta_release.write_json(folder / "consolidated.safetensors.index.json", {"metadata": {}, "weight_map": where})
    return names


def test_mistrals_indexed_shards(tmp_path: Path) -> None:
    names = _indexed(tmp_path, _mistrals_weights())
    for path in (tmp_path, *(tmp_path / name for name in names)):
        with open_checkpoint(path) as checkpoint:
            assert {name: content(tensor) for name, tensor in checkpoint.tensors.items()} == whole(_mistrals_weights())
            assert [file.path.name for file in checkpoint.files] == names
            assert [each.name for each in checkpoint.companions] == [
                "params.json", "consolidated.safetensors.index.json", "tokenizer.model.v3",
            ]  # fmt: skip
    tiny_llama.write(tmp_path / "both", tokenizer=False)
    _indexed(tmp_path / "both", _mistrals_weights())
    for name, kind in (("", "safetensors"), (names[2], "meta"), ("model.safetensors", "safetensors")):
        with open_checkpoint(tmp_path / "both" / name) as checkpoint:
            assert checkpoint.format == kind


def _index(folder: Path, text: str) -> None:
    (folder / "consolidated.safetensors.index.json").write_text(text)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda folder: (folder / SECOND).unlink(), MissingError, f"{SECOND}: not found, a shard that consolidated"),
        (lambda folder: shutil.copy(folder / "consolidated-00001-of-00003.safetensors", folder / SECOND),
         MalformedError, f"{SECOND}: layers.0.attention.wk.weight: found it again"),
        (lambda folder: shutil.copy(folder / SECOND, folder / "consolidated.safetensors"), MalformedError,
         "weights: found consolidated.safetensors and consolidated.safetensors.index.json, allowed one of them"),
        (lambda folder: meta_release.write_shards(folder, [_mistrals_weights()]), MalformedError,
         "weights: found consolidated.safetensors.index.json and consolidated.00.pth"),
        (lambda folder: _index(folder, "{}"), MalformedError, "/weight_map: found nothing"),
        (lambda folder: _index(folder, '{"weight_map": {"a": "../x.safetensors"}}'), MalformedError, "/weight_map/a"),
        (lambda folder: (folder / "consolidated.safetensors.index.json").unlink(), MissingError,
         "consolidated.00.pth: not found, no weights; it, consolidated.safetensors or consolidated.safetensors.index"),
    ],
)  # fmt: skip
def test_indexed_shards_that_lie_are_refused(
    change: Callable[[Path], object], error: type[Exception], text: str, tmp_path: Path
) -> None:
    _indexed(tmp_path, _mistrals_weights())
    change(tmp_path)
    with pytest.raises(error) as caught:
        open_checkpoint(tmp_path)
    assert text in str(caught.value)


def test_mistrals_consolidated_pth(tmp_path: Path) -> None:
    folder = _mistral(tmp_path, _mistrals_weights())
    (folder / "consolidated.safetensors").unlink()
    meta_release.write_shards(folder, [_mistrals_weights()])
    with open_checkpoint(folder) as checkpoint:
        assert {name: content(tensor) for name, tensor in checkpoint.tensors.items()} == whole(_mistrals_weights())


def test_mistrals_tied_embedding(tmp_path: Path) -> None:
    weights = _mistrals_weights()
    folder = _mistral(tmp_path, weights, tied_embeddings=True)
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.hyperparameters.tied_embeddings
        assert "output.weight" not in checkpoint.tensors
        assert len(checkpoint.warnings) == 1
    del weights["output.weight"]
    _mistral(tmp_path, weights, tied_embeddings=True)
    with open_checkpoint(folder) as checkpoint:
        assert "output.weight" not in checkpoint.tensors
        assert checkpoint.warnings == ()


def test_an_output_in_the_embeddings_place_is_tied(tmp_path: Path) -> None:
    """As in Llama 3.2's small models, whose file is as large as one of the two alone."""
    folder = meta_release.write(tmp_path, "llama-3.2")
    weights = meta_release.weights("llama-3.2")
    meta_release.write_shards(folder, [weights | {"output.weight": weights["tok_embeddings.weight"]}])
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.hyperparameters.tied_embeddings
        assert "output.weight" not in checkpoint.tensors
        assert checkpoint.warnings == ()


def test_a_folder_with_both_layouts_is_hugging_faces(tmp_path: Path) -> None:
    """Mistral's repositories on the hub hold the model twice."""
    folder = tiny_llama.write(tmp_path / "m", tokenizer=False)
    meta_release.write(folder)
    for name in ("tokenizer.model", "tokenizer_checklist.chk", "checklist.chk"):
        (folder / name).unlink()
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.format == "safetensors"
    with open_checkpoint(folder / "model.safetensors") as checkpoint:
        assert checkpoint.format == "safetensors"
    with open_checkpoint(folder / "consolidated.00.pth") as checkpoint:
        assert checkpoint.format == "meta"
    (folder / "model.safetensors").unlink()
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.format == "meta"


def test_files_are_closed_when_opening_fails(tmp_path: Path) -> None:
    folder = meta_release.write(tmp_path, n_shards=4)
    (folder / "consolidated.03.pth").write_bytes(b"PK\x03\x04")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(MalformedError):
        open_checkpoint(folder)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_link_in_the_hubs_cache_is_followed(tmp_path: Path) -> None:
    source = meta_release.write(tmp_path / "source", n_shards=2)
    snapshot = tmp_path / "models--owner--tiny" / "snapshots" / "83212e1e"
    snapshot.mkdir(parents=True)
    blobs = snapshot.parent.parent / "blobs"
    blobs.mkdir()
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, blobs / f"{number:040x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:040x}")
    with open_checkpoint(snapshot) as checkpoint:
        assert len(checkpoint.tensors) == 21


# Releases that lie. Each case takes a valid one of two shards, without checklists, and changes one thing.

Change = Callable[[Path], object]


def params(**values: object) -> Change:
    return lambda folder: meta_release.write_json(folder / "params.json", meta_release.params("llama-2") | values)


def shard(number: int, change: Callable[[meta_release.Weights], object]) -> Change:
    """One shard with something else in it."""

    def apply(folder: Path) -> None:
        shards = divided(meta_release.weights("llama-2"), 2, 1)
        change(shards[number])
        meta_release.write_shards(folder, shards)

    return apply


def put(name: str, data: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(data)


def spoiled(name: str) -> Callable[[meta_release.Weights], object]:
    def apply(weights: meta_release.Weights) -> None:
        weights[name] = weights[name] + 1

    return apply


def another_model(folder: Path) -> None:
    other = divided(meta_release.weights("llama-2", seed=1), 2, 1)
    torch.save(other[1], folder / "consolidated.01.pth")


NORM, Q, EMBEDDING = "layers.0.attention_norm.weight", "layers.0.attention.wq.weight", "tok_embeddings.weight"
EXIT = b"cposix\nsystem\n(S'exit'\ntR."
LIES: list[tuple[str, Change, type[Exception], str]] = [
    ("no params", lambda folder: (folder / "params.json").unlink(), MissingError, "config.json: not found"),
    ("empty params", put("params.json", b""), MalformedError, "params.json: JSON at 1:1"),
    ("params an array", put("params.json", b"[]"), MalformedError, "params.json: JSON at 1:1: found an array"),
    ("a key twice", put("params.json", b'{"dim": 64,\n "dim": 32}'), MalformedError, "params.json: JSON at 2:2"),
    ("params of 2 MiB", put("params.json", b" " * (2 << 20)), MalformedError, "params.json: file: found 2097152 bytes"),
    ("a vocabulary in text", params(vocab_size="272"), MalformedError, "params.json: /vocab_size: found 272"),
    ("experts", params(moe={"num_experts": 8}), UnsupportedError, "params.json: /moe: found {'num_experts': 8}"),
    ("a wider dim", params(dim=128), MalformedError, "tok_embeddings.weight"),
    ("dim of 2^30", params(dim=1 << 30), MalformedError, "params.json: /dim"),
    ("a wider network", params(multiple_of=256), MalformedError,
     "consolidated.00.pth: layers.0.feed_forward.w1.weight: found shape (96, 64), allowed (128, 64), an equal part of"),
    ("more words", params(vocab_size=274), MalformedError,
     "consolidated.00.pth: tok_embeddings.weight: found shape (272, 32), allowed (274, 32)"),
    ("fewer heads, grouped", params(n_kv_heads=4), MalformedError,
     "consolidated.00.pth: layers.0.attention.wk.weight: found shape (32, 64), allowed (16, 64)"),
    ("one layer more", params(n_layers=3), MalformedError,
     "consolidated.00.pth: layers.2.attention_norm.weight: found no such tensor"),
    ("one layer fewer", params(n_layers=1), MalformedError, "allowed the tensors of a llama of 1 layers"),
    ("half of the shards", lambda folder: (folder / "consolidated.01.pth").unlink(), MissingError,
     "consolidated.01.pth: not found, by the shape of layers.0.attention.wq.weight there are 2 shards"),
    ("no first shard", lambda folder: (folder / "consolidated.00.pth").unlink(), MissingError,
     "consolidated.00.pth: not found, a shard before consolidated.01.pth"),
    ("a gap", lambda folder: (folder / "consolidated.01.pth").rename(folder / "consolidated.02.pth"), MissingError,
     "consolidated.01.pth: not found, a shard before consolidated.02.pth"),
    ("a shard too many", lambda folder: shutil.copy(folder / "consolidated.01.pth", folder / "consolidated.02.pth"),
     MalformedError, "consolidated.02.pth: file: found one shard more, allowed by the shape of layers.0.attention.wq"),
    ("no weights", lambda folder: [each.unlink() for each in folder.glob("*.pth")], MissingError,
     "consolidated.00.pth: not found, no weights; it, consolidated.safetensors or consolidated.safetensors.index"),
    ("safetensors as well", put("consolidated.safetensors", b"x"), MalformedError,
     "weights: found consolidated.safetensors and consolidated.00.pth, allowed one of them"),
    ("an empty shard", put("consolidated.01.pth", b""), MalformedError, "consolidated.01.pth: file"),
    ("a folder for a shard", lambda folder: (folder / "consolidated.01.pth").unlink() or
     (folder / "consolidated.01.pth").mkdir(), MalformedError, "consolidated.01.pth: file: found a folder"),
    ("a shard of another model", another_model, MalformedError,
     f"consolidated.01.pth: {NORM}: found other numbers, allowed those of consolidated.00.pth"),
    ("a norm that differs", shard(1, spoiled("layers.1.ffn_norm.weight")), MalformedError,
     "consolidated.01.pth: layers.1.ffn_norm.weight: found other numbers"),
    ("a tensor missing in the last", shard(1, lambda w: w.pop(Q)), MalformedError,
     f"consolidated.01.pth: {Q}: found no such tensor, allowed the same names in all shards"),
    ("a tensor missing in the first", shard(0, lambda w: w.pop(Q)), MalformedError,
     f"consolidated.00.pth: {Q}: found no such tensor, allowed the same names in all shards"),
    ("a tensor more", shard(1, lambda w: w.update(x=torch.ones(1))), MalformedError,
     "consolidated.00.pth: x: found no such tensor"),
    ("another type in the last", shard(1, lambda w: w.update({Q: w[Q].float()})), MalformedError,
     f"consolidated.01.pth: {Q}: found type F32, allowed BF16, as in consolidated.00.pth"),
    ("another shape in the last", shard(1, lambda w: w.update({Q: w[Q][:-1].clone()})), MalformedError,
     f"consolidated.01.pth: {Q}: found shape (31, 64), allowed (32, 64), an equal part of (64, 64), one of 2"),
    ("another cut of the embedding", shard(1, lambda w: w.update({EMBEDDING: w[EMBEDDING].reshape(136, 64)})),
     MalformedError, f"consolidated.01.pth: {EMBEDDING}: found shape (136, 64), allowed (272, 32)"),
    ("a code object in the last", put("consolidated.01.pth", EXIT), UnsafeError, "consolidated.01.pth: "),
    ("code in the last, and no params", lambda folder: (put("consolidated.01.pth", EXIT)(folder),
     put("params.json", b"{")(folder)), UnsafeError, "posix.system"),
    ("a shard through a link", lambda folder: (folder / "consolidated.01.pth").rename(folder.parent / "w") and
     (folder / "consolidated.01.pth").symlink_to("../w"), UnsafeError, "consolidated.01.pth: file: found a link to"),
    ("params through a link", lambda folder: (folder / "params.json").rename(folder.parent / "p") and
     (folder / "params.json").symlink_to("../p"), UnsafeError, "params.json: file: found a link to"),
    ("a checklist that leads away", put("checklist.chk", b"0" * 32 + b"  ../x\n"), MalformedError,
     "checklist.chk: line at 1: found 00000000000000000000000000000000  ../x"),
    ("a checklist of what is not here", put("checklist.chk", b"0" * 32 + b"  consolidated.02.pth\n"), MissingError,
     "consolidated.02.pth: not found, checklist.chk names it"),
    ("a tokenizer for other words", params(vocab_size=272, n_layers=2) and put("tokenizer.model", b"x"), MalformedError,
     "tokenizer.model"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "text"), [case[1:] for case in LIES], ids=[case[0] for case in LIES])
def test_a_release_that_lies_is_refused(tmp_path: Path, change: Change, error: type[Exception], text: str) -> None:
    folder = meta_release.write(tmp_path / "m", n_shards=2)
    for path in folder.glob("*.chk"):
        path.unlink()
    change(folder)
    with pytest.raises(error) as caught:
        open_checkpoint(folder)
    assert text in str(caught.value)
    assert type(caught.value) is error


def test_code_in_the_last_shard_is_named_and_never_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            import os

            return os.system, ("exit 7",)

    folder = meta_release.write(tmp_path, n_shards=4)
    torch.save({"tok_embeddings.weight": Attack()}, folder / "consolidated.03.pth", pickle_module=pickle)
    with audited() as events, pytest.raises(UnsafeError, match=r"consolidated\.03\.pth: .*posix\.system"):
        open_checkpoint(folder)
    assert not any(event.startswith(("os.system", "subprocess.")) for event in events)


def test_mixtrals_params_are_refused_by_name(tmp_path: Path) -> None:
    folder = _mistral(tmp_path, _mistrals_weights(), moe={"num_experts_per_tok": 2, "num_experts": 8})
    with pytest.raises(UnsupportedError, match=r"params\.json: /moe: found .*allowed only the keys of a plain decoder"):
        open_checkpoint(folder)


def test_sniffing_asks_what_is_in_a_file_and_not_its_name(tmp_path: Path) -> None:
    folder = meta_release.write(tmp_path)
    assert meta.sniff(folder) and not huggingface.sniff(folder)
    assert meta.sniff(folder / "consolidated.00.pth")
    assert not meta.sniff(folder / "tokenizer.model")
    assert not meta.sniff(folder / "consolidated.01.pth")
    (folder / "consolidated.01.pth").write_bytes(b"GGUF")
    assert not meta.sniff(folder / "consolidated.01.pth")
