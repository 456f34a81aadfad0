"""What is inside: every format, files that are no model of ours, and files that are no files of a format at all."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from converters.errors import ConversionError, MalformedError, MissingError, UnsafeError, UnsupportedError
from converters.formats import open_checkpoint
from distro.inspect.inspection import Inspection, inspect
from distro.inspect.inspection_facts import described, facts
from tests.fakes import gguf_bytes, meta_release, old_ggml, tiny_llama
from tests.fakes.gguf_bytes import float32, string, strings, tensor, uint32


def _look(path: Path) -> Inspection:
    return inspect(path, name=path.name)


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_real_gguf(smollm2_gguf: Path) -> None:
    found = _look(smollm2_gguf)
    assert dict(facts(found)) | {"memory": ""} == {
        "format": "gguf v3, little-endian, aligned to 32; 1 file, 98.4 MB, of which headers 1.8 MB",
        "name": "Smollm2 135M 8k Lc100K Mix1 Ep2",
        "licence": "apache-2.0",
        "architecture": "llama: 30 layers, dim 576, 9 heads (3 for keys and values) of 64, hidden 1536, context 8192, "
        "rope 100000, tied",
        "weights": "134,515,008 in 272 tensors, 96.6 MB, 5.74 bits each",
        "tokenizer": "byte-level BPE (smollm), 49,152 tokens",
        "tokens": "begins <|im_start|> (1), ends <|im_end|> (2), unknown <|endoftext|> (0), padding <|im_end|> (2)",
        "template": "368 characters, sha256 872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
        "memory": "",
    }
    assert dict(facts(found))["memory"].startswith("96.6 MB of weights, 94.4 MB for 4,096 tokens or 188.7 MB for 8,192")
    assert [(count.dtype.name, count.n_tensors, count.n_weights, count.n_bytes) for count in found.types] == [
        ("Q4_1", 210, 106_168_320, 66_355_200),
        ("Q8_0", 1, 28_311_552, 30_081_024),
        ("F32", 61, 35_136, 140_544),
    ]
    assert found.warnings == ()
    assert found.note == ""


def test_for_programs(smollm2_gguf: Path) -> None:
    answer = json.loads(json.dumps(described(_look(smollm2_gguf)), allow_nan=False))
    assert answer["schema"] == "distro-inspect/1"
    assert answer["hyperparameters"]["n_kv_heads"] == 3
    assert answer["bits_per_weight"] == 5.7437
    assert answer["memory"] == {"weights": 96_576_768, "cache": {"4096": 94_371_840, "8192": 188_743_680}}
    assert answer["tokenizer"]["n_merges"] == 48_900
    assert answer["tokenizer"]["special"]["bos_id"] == {"id": 1, "text": "<|im_start|>"}
    (file,) = answer["files"]
    assert file["header_bytes"] == 1_785_664
    assert file["keys"]["general.architecture"] == {"type": "STRING", "value": "llama"}
    tokens = file["keys"]["tokenizer.ggml.tokens"]
    assert (tokens["type"], tokens["count"], tokens["first"][:2]) == (
        "ARRAY of STRING",
        49_152,
        ["<|endoftext|>", "<|im_start|>"],
    )
    assert len(answer["tensors"]) == 272
    assert answer["tensors"][0] == {
        "name": "token_embd.weight", "file": smollm2_gguf.name, "type": "Q8_0", "shape": [49152, 576],
        "n_bytes": 30_081_024, "offset": 1_785_664,
    }  # fmt: skip


@pytest.mark.parametrize("container", tiny_llama.CONTAINERS)
def test_folders_and_files_of_hugging_face(tmp_path: Path, container: tiny_llama.Container) -> None:
    found = _look(tiny_llama.write(tmp_path, container=container))
    assert found.checkpoint is not None
    assert found.n_weights == 37_024
    assert found.n_bytes == 4 * 37_024
    assert {info.name for _, info, _ in found.tensors} == set(tiny_llama.tensors())
    assert found.vocabulary is not None
    assert len(found.vocabulary) == 288
    assert len(found.containers) == (3 if "sharded" in container else 1)


def test_tied_tensors_of_pytorch_count_once(tmp_path: Path) -> None:
    weights = tiny_llama.tensors(tied=True)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    tiny_llama.write(tmp_path, container="bin", tied=True)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    found = _look(tmp_path)
    assert len(found.tensors) == 21
    assert found.n_weights == 37_024 - 288 * 32
    assert found.bits_per_weight == 32


def test_a_file_from_before_gguf(tmp_path: Path) -> None:
    data = old_ggml.model("GGJT v1", old_ggml.V1["Q4_2"]).build()
    found = _look(_write(tmp_path / "ggml-model.bin", data))
    assert found.containers[0].form == "GGJT v1"
    assert found.architecture == "llama"
    assert {count.dtype.name: count.dtype.bits_per_weight for count in found.types} == {"Q4_2": 5, "F32": 32}
    assert found.containers[0].keys["n_layer"].value == 2


@pytest.mark.parametrize("n_shards", [1, 4])
def test_a_release_of_metas(tmp_path: Path, n_shards: int) -> None:
    found = _look(meta_release.write(tmp_path, "llama-2", n_shards))
    assert found.checkpoint is not None
    # Norms, which every shard has, count once; rope.freqs is in the files alone.
    assert found.n_weights == found.checkpoint.n_weights + 4
    assert len(found.containers) == n_shards
    assert found.vocabulary is not None


@pytest.mark.parametrize(("version", "form"), [(1, "v1, little"), (2, "v2, little"), (3, "v3, big")])
def test_dialects_of_gguf(tmp_path: Path, version: int, form: str) -> None:
    import gguf
    import numpy as np

    if form.endswith("big"):
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", "other", endianess=gguf.GGUFEndian.BIG)
        writer.add_tensor("blk.0.a", np.zeros((2, 32), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    else:
        width = "I" if version == 1 else "Q"
        name = b"general.architecture"
        key = struct.pack(f"<{width}", len(name)) + name + struct.pack(f"<I{width}", 8, 5) + b"other"
        _write(tmp_path / "m.gguf", struct.pack(f"<4sI2{width}", b"GGUF", version, 0, 1) + key)
    found = _look(tmp_path / "m.gguf")
    assert found.containers[0].form == f"{form}-endian, aligned to 32"
    assert found.architecture == "other"


OTHER = replace(gguf_bytes.SMALL, tail=b"").build()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ((string("general.architecture", "small"),), "general.architecture: found small"),
        ((string("general.architecture", "clip"), string("general.type", "mmproj")), "general.type: found mmproj"),
        ((string("general.type", "imatrix"), strings("imatrix.datasets", ["a.txt"])), "general.type: found imatrix"),
        ((string("general.type", "adapter"), float32("adapter.lora.alpha", 16.0)), "general.type: found adapter"),
    ],
)
def test_gguf_files_that_hold_no_model(tmp_path: Path, keys: tuple[bytes, ...], words: str) -> None:
    path = _write(tmp_path / "x.gguf", replace(gguf_bytes.SMALL, keys=keys).build())
    found = _look(path)
    assert found.checkpoint is None
    assert words in found.note
    assert [info.name for _, info, _ in found.tensors] == ["first.weight", "second.weight"]
    assert len(found.containers[0].keys) == len(keys)
    with pytest.raises(UnsupportedError):
        open_checkpoint(path)


def _old_imatrix(*entries: tuple[bytes, list[float]]) -> bytes:
    parts = [struct.pack("<i", len(entries))]
    for name, values in entries:
        parts.append(struct.pack("<i", len(name)) + name + struct.pack("<ii", 2, len(values)))
        parts.append(struct.pack(f"<{len(values)}f", *values))
    return b"".join(parts) + struct.pack("<ii", 7, 8) + b"wiki.txt"


def test_an_importance_matrix_from_before_gguf(tmp_path: Path) -> None:
    data = _old_imatrix((b"blk.0.attn_q.weight", [1.0, 2.5]), (b"output.weight", [0.5, 0.25, 4.0]))
    path = _write(tmp_path / "model.imatrix.dat", data)
    found = _look(path)
    assert found.checkpoint is None
    assert [(info.name, info.shape, offset) for _, info, offset in found.tensors] == [
        ("blk.0.attn_q.weight", (2,), 35),
        ("output.weight", (3,), 68),
    ]
    assert data[35:43] == struct.pack("<2f", 1.0, 2.5) and data[68:80] == struct.pack("<3f", 0.5, 0.25, 4.0)
    assert found.containers[0].values == {"chunk_count": 7, "datasets": ("wiki.txt",)}
    assert dict(facts(found))["format"].startswith("imatrix before GGUF; 1 file, 96 B, of which headers 76 B")
    assert json.loads(json.dumps(described(found)))["n_weights"] == 5
    with pytest.raises(MalformedError, match="n_entries at 0: found 0, allowed 1 to"):
        _look(_write(tmp_path / "zeros.dat", bytes(100)))


def test_a_vocabulary_alone(tmp_path: Path) -> None:
    found = _look(_write(tmp_path / "vocab.gguf", gguf_bytes.llama({}).build()))
    assert found.note.endswith("allowed one of shape (8, 32)") or "no such tensor" in found.note
    assert found.vocabulary is not None
    assert found.vocabulary.tokens == gguf_bytes.TOKENS


def test_a_number_that_is_none_is_shown(tmp_path: Path) -> None:
    epsilon = float32("llama.attention.layer_norm_rms_epsilon", float("nan"))
    found = _look(_write(tmp_path / "x.gguf", gguf_bytes.llama(epsilon=epsilon).build()))
    assert "layer_norm_rms_epsilon: found nan" in found.note
    keys = described(found)["files"][0]["keys"]
    assert keys["llama.attention.layer_norm_rms_epsilon"] == {"type": "FLOAT32", "value": "nan"}


def test_a_split_gguf_of_an_unknown_architecture_is_seen_whole(tmp_path: Path) -> None:
    def uint16(name: str, value: int) -> bytes:
        return gguf_bytes.key(name, gguf_bytes.UINT16, struct.pack("<H", value))

    for number in range(2):
        keys = (string("general.architecture", "other"),) if number == 0 else ()
        keys += (
            uint16("split.no", number),
            uint16("split.count", 2),
            gguf_bytes.key("split.tensors.count", 5, struct.pack("<i", 2)),
        )
        shard = gguf_bytes.Gguf(keys, (tensor(f"t{number}", (8,), 0, 0),), bytes(32))
        _write(tmp_path / f"m-0000{number + 1}-of-00002.gguf", shard.build())
    found = _look(tmp_path / "m-00002-of-00002.gguf")
    assert "other" in found.note
    assert [info.name for _, info, _ in found.tensors] == ["t0", "t1"]


def test_safetensors_without_config_and_adapters(tmp_path: Path) -> None:
    save_file(
        {"base_model.layers.0.lora_A.weight": torch.ones(2, 4)},
        tmp_path / "adapter_model.safetensors",
        {"format": "pt"},
    )
    (tmp_path / "adapter_config.json").write_text("{}")
    torch.save({"lr": 0.1}, tmp_path / "training_args.bin")
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        found = _look(path)
        assert "config.json: not found" in found.note
        assert [info.shape for _, info, _ in found.tensors] == [(2, 4)]
        assert found.containers[0].keys["format"].value == "pt"


def test_an_unknown_architecture_of_hugging_face(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path, container="safetensors-sharded")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["OtherForCausalLM"]}
    tiny_llama.write_json(folder / "config.json", config)
    found = _look(folder)
    assert "OtherForCausalLM" in found.note
    assert len(found.tensors) == 21
    assert len(found.containers) == 3


def test_one_shard_by_itself(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path, container="safetensors-sharded")
    found = _look(folder / "model-00002-of-00003.safetensors")
    assert "no such tensor" in found.note
    assert len(found.tensors) == 7


def _damage(data: bytes) -> dict[str, bytes]:
    return {
        "nothing": b"",
        "a page": b"<!DOCTYPE html><html></html>",
        "cut": data[:-1],
        "longer": data + b"x",
        "half a header": data[:100],
        "version 9": data[:4] + b"\x09" + data[5:],
    }


@pytest.mark.parametrize("damage", _damage(bytes(200)))
def test_what_is_malformed_is_so_here_too(tmp_path: Path, damage: str) -> None:
    path = _write(tmp_path / "x.gguf", _damage(gguf_bytes.llama().build())[damage])
    with pytest.raises(ConversionError) as by_convert:
        open_checkpoint(path)
    with pytest.raises(ConversionError) as caught:
        _look(path)
    assert type(caught.value) is type(by_convert.value)
    assert str(caught.value) == str(by_convert.value)


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), MalformedError, "config.json"),
        (lambda folder: (folder / "model-00002-of-00003.safetensors").unlink(), MissingError, "a shard that"),
        (lambda folder: (folder / "model-00002-of-00003.safetensors").write_bytes(b"no"), MalformedError, "header"),
        (lambda folder: (folder / "tokenizer.json").write_text("[]"), MalformedError, "tokenizer.json"),
        (lambda folder: tiny_llama.write_json(folder / "config.json", {**tiny_llama.config(), "num_hidden_layers": 0}),
         MalformedError, "num_hidden_layers"),
    ],
)  # fmt: skip
def test_folders_that_are_malformed(
    tmp_path: Path, spoil: Callable[[Path], object], kind: type[Exception], words: str
) -> None:
    folder = tiny_llama.write(tmp_path, container="safetensors-sharded")
    spoil(folder)
    with pytest.raises(kind, match=words):
        _look(folder)


def test_code_in_a_pickle_is_unsafe(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.bin", b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UnsafeError):
        _look(path)


def test_a_link_that_leaves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "out.safetensors")
    (tmp_path / "in" / "model.safetensors").symlink_to(tmp_path / "out.safetensors")
    with pytest.raises(UnsafeError):
        _look(tmp_path / "in")


def test_zeros_where_weights_should_be(tmp_path: Path) -> None:
    """Row S19: the right size, and nothing was ever written there."""
    folder = tiny_llama.write(tmp_path)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    assert _look(folder).warnings == ()
    with path.open("r+b") as stream:
        stream.truncate(header)
        stream.truncate(len(whole))
    (warning,) = _look(folder).warnings
    assert warning.startswith("nothing but zeros wherever it was looked at: ")
    assert warning.endswith(" and 12 more")


def test_where_it_came_from(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    keys = (
        string("provenance.made_by", "distro 0.1.0"),
        string("provenance.recipe", '{"mix":"q8_0","target":"gguf"}'),
        string("provenance.inputs", json.dumps({"model.safetensors": digest})),
    )
    data = replace(gguf_bytes.llama(), keys=(*gguf_bytes.llama_keys(), *keys)).build()
    found = _look(_write(tmp_path / "m.gguf", data))
    expected = 'distro 0.1.0, from model.safetensors, recipe {"mix":"q8_0","target":"gguf"}'
    assert dict(facts(found))["made by"] == expected
    assert described(found)["provenance"]["inputs"] == {"model.safetensors": digest}


def test_a_template_that_will_be_refused(tmp_path: Path) -> None:
    template = "{{ messages }}\n{{ ''.__class__ }}"
    keys = (*gguf_bytes.llama_keys(), string("tokenizer.chat_template", template))
    found = _look(_write(tmp_path / "m.gguf", replace(gguf_bytes.llama(), keys=keys).build()))
    assert described(found)["tokenizer"]["chat_template"] == {
        "n_characters": 33,
        "sha256": hashlib.sha256(template.encode()).hexdigest(),
        "hints": ["reaches for Python's internals (line 2)"],
    }


def test_experts_and_windows_are_said(tmp_path: Path) -> None:
    keys = (*gguf_bytes.llama_keys(), uint32("llama.rope.dimension_count", 16))
    found = _look(_write(tmp_path / "m.gguf", replace(gguf_bytes.llama(), keys=keys).build()))
    assert dict(facts(found))["architecture"] == (
        "llama: 1 layers, dim 32, 2 heads (1 for keys and values) of 16, hidden 64, context 64, rope 10000"
    )
