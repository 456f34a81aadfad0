"""Folders that lie, end to end: config.json, indexes, tokenizers, links; one case a rule, refused by every command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import hostile, tiny_llama

TRAP = "\x1b]0;owned\x07\u202etxt"
INDEX = "model.safetensors.index.json"
FIRST_SHARD = "model-00001-of-00003.safetensors"


def with_text(folder: Path, name: str, content: str | bytes) -> None:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def changed(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    value = json.loads((folder / name).read_text())
    change(value)
    tiny_llama.write_json(folder / name, value)


Case = tuple[str, Callable[[Path], None], int, tuple[str, ...]]


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda folder: with_text(folder, name, content)


def config(**values: object) -> Callable[[Path], None]:
    return lambda folder: changed(folder, "config.json", lambda value: value.update(values))


CONFIGS: list[Case] = [
    ("missing", lambda folder: (folder / "config.json").unlink(), 66, ("config.json", "not found")),
    ("empty", text("config.json", ""), 65, ("JSON at 1:1",)),
    ("no JSON", text("config.json", TRAP), 65, ("JSON at 1:1", "\\x1b]0;owned")),
    ("an array", text("config.json", "[]"), 65, ("an array",)),
    ("a byte order mark", text("config.json", "\ufeff{}"), 65, ("byte order mark",)),
    ("UTF-16", text("config.json", "{}".encode("utf-16")), 65, ("byte order mark",)),
    ("a comment", text("config.json", '{"a": 1 // b\n}'), 65, ("JSON at 1:9",)),
    ("NaN", config(rms_norm_eps=float("nan")), 65, ("NaN",)),
    ("nested 100,000 deep", text("config.json", '{"a":' * 100_000), 65, ("nest",)),
    ("an integer of 5000 digits", text("config.json", '{"a":' + "9" * 5000 + "}"), 65, ("digits",)),
    ("a key twice", text("config.json", '{"hidden_size": 32, "hidden_size": 64}'), 65, ("again",)),
    ("half a surrogate pair", text("config.json", '{"model_type": "\\ud800"}'), 65, ("surrogates",)),
    ("20 MB of spaces", text("config.json", b" " * (20 << 20)), 65, ("20971520 bytes",)),
    ("HTML", text("config.json", "<!DOCTYPE html>"), 65, ("JSON at 1:1",)),
    ("no architecture", config(architectures=[]), 65, ("/architectures",)),
    ("an architecture that steers", config(architectures=[TRAP]), 65, ("\\x1b]0;owned",)),
    ("10,000 architectures", config(architectures=["LlamaForCausalLM"] * 10_000), 65, ("10000 entries",)),
    ("hidden_size 0", config(hidden_size=0), 65, ("/hidden_size", "found 0")),
    ("hidden_size 2^40", config(hidden_size=2**40), 65, ("/hidden_size",)),
    ("hidden_size as text", config(hidden_size="32"), 65, ("/hidden_size",)),
    ("hidden_size 32.5", config(hidden_size=32.5), 65, ("/hidden_size",)),
    ("hidden_size true", config(hidden_size=True), 65, ("/hidden_size",)),
    ("10^6 layers", config(num_hidden_layers=10**6), 65, ("/num_hidden_layers",)),
    ("a layer more", config(num_hidden_layers=3), 65, ("model.layers.2",)),
    ("a layer fewer", config(num_hidden_layers=1), 65, ("model.layers.1", "unknown tensor")),
    ("no heads", config(num_attention_heads=0), 65, ("/num_attention_heads",)),
    ("more kv heads than heads", config(num_key_value_heads=8), 65, ("/num_key_value_heads",)),
    ("a larger vocabulary", config(vocab_size=289), 65, ("model.embed_tokens.weight", "(288, 32)")),
    ("an epsilon below 0", config(rms_norm_eps=-1), 65, ("/rms_norm_eps",)),
    ("an unknown rope", config(rope_scaling={"rope_type": TRAP, "factor": 2.0}), 65, ("/rope_scaling", "\\x1b]0")),
    ("a rope of factor 0", config(rope_scaling={"rope_type": "linear", "factor": 0}), 65, ("/rope_scaling",)),
    ("a context of 2^60", config(max_position_embeddings=2**60), 65, ("/max_position_embeddings",)),
    ("weights in gptq", config(quantization_config={"quant_method": "gptq"}), 65, ("/quantization_config", "gptq")),
    ("an activation that we lack", config(hidden_act="../x"), 65, ("/hidden_act",)),
]


def weight_map(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda folder: changed(folder, INDEX, lambda value: change(value["weight_map"]))


def shard(name: object) -> Callable[[Path], None]:
    return weight_map(lambda where: where.update({"model.norm.weight": name}))


def swapped(folder: Path) -> None:
    first, second = (folder / f"model-0000{i}-of-00003.safetensors" for i in (1, 2))
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)


NAMES = ["../x.safetensors", "/etc/passwd", "..\\x.safetensors", "C:\\x.safetensors", "\\\\host\\x.safetensors", "",
         ".", "x\0.safetensors", "a" * 300 + ".safetensors", TRAP + ".safetensors", "model.bin", "a/b.safetensors",
         "~/x.safetensors", "$(touch owned).safetensors"]  # fmt: skip

INDEXES: list[Case] = [
    *((f"a shard called {name[:20]!a}", shard(name), 65, (INDEX, "model.norm.weight")) for name in NAMES),
    ("a shard of null", shard(None), 65, (INDEX, "model.norm.weight")),
    ("a shard that is not there", shard("model-4.safetensors"), 66, ("model-4.safetensors", "not found")),
    ("no weight_map", text(INDEX, "{}"), 65, ("/weight_map",)),
    ("an empty weight_map", text(INDEX, '{"weight_map": {}}'), 65, ("/weight_map",)),
    ("a tensor twice", text(INDEX, '{"weight_map": {"a": "a.safetensors", "a": "b.safetensors"}}'), 65, ("again",)),
    ("an array", text(INDEX, "[]"), 65, (INDEX, "an array")),
    ("a pointer", text(INDEX, "version https://git-lfs.github.com/spec/v1\n"), 65, (INDEX,)),
    ("a tensor that its shard lacks", weight_map(lambda where: where.update({TRAP: FIRST_SHARD})), 65,
     ("\\x1b]0;owned",)),
    ("a tensor less", weight_map(lambda where: where.pop("model.norm.weight")), 65, ("model.norm.weight",)),
    ("shards that changed places", swapped, 65, ("model-0000",)),
    ("a size of text", lambda folder: changed(folder, INDEX, lambda value: value["metadata"].update(total_size="1")),
     65, ("total_size",)),
    ("a size of 2^70", lambda folder: changed(folder, INDEX, lambda value: value["metadata"].update(total_size=2**70)),
     65, ("total_size",)),
    ("one file and an index", text("model.safetensors", b""), 65, ("model.safetensors and",)),
]  # fmt: skip


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda folder: changed(folder, "tokenizer.json", change)


def vocab(**values: object) -> Callable[[Path], None]:
    return tokenizer(lambda value: value["model"]["vocab"].update(values))


def template(value: object) -> Callable[[Path], None]:
    return lambda folder: changed(folder, "tokenizer_config.json", lambda config: config.update(chat_template=value))


TOKENIZERS: list[Case] = [
    ("empty", text("tokenizer.json", ""), 65, ("tokenizer.json", "JSON at 1:1")),
    ("a page", text("tokenizer.json", "<html>"), 65, ("tokenizer.json",)),
    ("nested", text("tokenizer.json", '{"a":' * 100_000), 65, ("tokenizer.json", "nest")),
    ("an id twice", vocab(x=5), 65, ("tokenizer.json",)),
    ("a negative id", vocab(x=-1), 65, ("tokenizer.json",)),
    ("an id of 2^31", vocab(x=2**31), 65, ("tokenizer.json",)),
    ("an id of text", vocab(x="288"), 65, ("tokenizer.json",)),
    ("more tokens than rows", vocab(**{f"x{i}": 288 + i for i in range(1000)}), 65, ("tokenizer.json",)),
    ("another kind of model", tokenizer(lambda value: value["model"].update(type=TRAP)), 65, ("\\x1b]0;owned",)),
    ("merges of numbers", tokenizer(lambda value: value["model"].update(merges=[1])), 65, ("merges",)),
    ("merges of no tokens", tokenizer(lambda value: value["model"].update(merges=["zz yy"])), 65, ("merges",)),
    ("an expression that takes for ever", tokenizer(lambda value: value.update(pre_tokenizer={
        "type": "Split", "pattern": {"Regex": "(a+)+$" + TRAP}, "behavior": "Isolated", "invert": False})),
     65, ("pre_tokenizer",)),
    ("an added token in another's place", tokenizer(lambda value: value["added_tokens"].append(
        {"id": 5, "content": TRAP, "special": True})), 65, ("added_tokens",)),
    ("a token in half a surrogate pair", text(
        "tokenizer.json", '{"model": {"type": "BPE", "vocab": {"\\ud800": 0}}}'), 65, ("surrogates",)),
    ("a chat template of a number", template(7), 65, ("chat_template",)),
    ("a chat template of 50 MB", text("tokenizer_config.json", b'{"chat_template": "' + b"x" * (50 << 20) + b'"}'),
     65, ("tokenizer_config.json",)),
]  # fmt: skip

MODEL_FILES: list[Case] = [
    ("empty", text("tokenizer.model", b""), 65, ("tokenizer.model",)),
    ("no protobuf", text("tokenizer.model", TRAP), 65, ("tokenizer.model",)),
    ("a length of 2^63", text("tokenizer.model", b"\x0a" + b"\xff" * 9 + b"\x01"), 65, ("tokenizer.model",)),
    ("a varint without end", text("tokenizer.model", b"\xff" * 100), 65, ("tokenizer.model",)),
    ("a piece cut", text("tokenizer.model", b"\x0a\x05\x0a\x10a"), 65, ("tokenizer.model",)),
    ("a score of NaN", text("tokenizer.model", b"\x0a\x08\x0a\x01a\x15\x00\x00\xc0\x7f"), 65, ("tokenizer.model",)),
    ("groups", text("tokenizer.model", b"\x0b" * 100_000), 65, ("tokenizer.model",)),
    ("a pointer", text("tokenizer.model", "version https://git-lfs.github.com/spec/v1\n"), 65, ("tokenizer.model",)),
    ("ranks in bad base64", text("tokenizer.model", b"AA== 0\nA-== 1\n"), 65, ("tokenizer.model", "line 2")),
    ("a rank twice", text("tokenizer.model", b"AA== 0\nAQ== 0\n"), 65, ("tokenizer.model", "line 2", "rank 0")),
    ("a gap between ranks", text("tokenizer.model", b"AA== 0\nAQ== 2\n"), 65, ("tokenizer.model", "line 2")),
    ("a last rank without its newline", text("tokenizer.model", b"AA== 0\nAQ== 1"), 65, ("tokenizer.model", "line 2")),
    ("two ranks", text("tokenizer.model", b"AA== 0\nAQ== 1\n"), 65, ("tokenizer.model", "0x02")),
]


def ids(cases: list[Case]) -> list[str]:
    return [case[0] for case in cases]


@pytest.mark.parametrize(("change", "code", "words"), [case[1:] for case in CONFIGS], ids=ids(CONFIGS))
def test_a_config_that_lies(tmp_path: Path, change: Callable[[Path], None], code: int, words: tuple[str, ...]) -> None:
    folder = tiny_llama.write(tmp_path / "in")
    change(folder)
    hostile.refused(tmp_path, folder, code, *words)


@pytest.mark.parametrize(("change", "code", "words"), [case[1:] for case in INDEXES], ids=ids(INDEXES))
def test_an_index_that_lies(tmp_path: Path, change: Callable[[Path], None], code: int, words: tuple[str, ...]) -> None:
    folder = tiny_llama.write(tmp_path / "in", container="safetensors-sharded")
    (tmp_path / "x.safetensors").write_bytes((folder / "model-00001-of-00003.safetensors").read_bytes())
    change(folder)
    hostile.refused(tmp_path, folder, code, *words)


@pytest.mark.parametrize(("change", "code", "words"), [case[1:] for case in TOKENIZERS], ids=ids(TOKENIZERS))
def test_a_tokenizer_that_lies(
    tmp_path: Path, change: Callable[[Path], None], code: int, words: tuple[str, ...]
) -> None:
    folder = tiny_llama.write(tmp_path / "in")
    change(folder)
    hostile.refused(tmp_path, folder, code, *words)


@pytest.mark.parametrize(("change", "code", "words"), [case[1:] for case in MODEL_FILES], ids=ids(MODEL_FILES))
def test_a_tokenizer_model_that_lies(
    tmp_path: Path, change: Callable[[Path], None], code: int, words: tuple[str, ...]
) -> None:
    folder = tiny_llama.write(tmp_path / "in", tokenizer=False)
    change(folder)
    hostile.refused(tmp_path, folder, code, *words)


def away(name: str) -> Callable[[Path], None]:
    """That file is somewhere else, and a link leads there."""

    def change(folder: Path) -> None:
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to("../elsewhere")

    return change


def pipe(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return change


LINKS: list[Case] = [
    *((f"{name} elsewhere", away(name), 81, (name, "a link to"))
      for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")),
    *((f"{name} is a pipe", pipe(name), 65, (name, "no regular file"))
      for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")),
]  # fmt: skip


@pytest.mark.parametrize(("change", "code", "words"), [case[1:] for case in LINKS], ids=ids(LINKS))
def test_files_that_are_elsewhere(
    tmp_path: Path, change: Callable[[Path], None], code: int, words: tuple[str, ...]
) -> None:
    folder = tiny_llama.write(tmp_path / "in")
    change(folder)
    hostile.refused(tmp_path, folder, code, *words)


def test_code_beside_the_weights_is_never_read(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path / "in")
    config(auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": f"{TRAP}--evil.Config"})(folder)
    config(custom_pipelines={"x": {"impl": "evil.P"}}, trust_remote_code=True)(folder)
    (folder / "evil.py").write_text("open('owned', 'w').close()\n")
    hostile.usual()
    ran = hostile.run(tmp_path, "convert", str(folder), "--quant", "q8_0", "-o", str(tmp_path / "o.gguf"), cwd=folder)
    assert ran.code == 0, ran
    assert "auto_map is ignored, no code of a model is run" in ran.err
    hostile.judge_deeds(ran, tmp_path)
    assert not any(path.endswith("evil.py") for path in ran.opened())
    assert not list(tmp_path.rglob("owned"))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch owned') }}",
        "{{ lipsum.__globals__['os'].system('touch owned') }}",
        "{{ 'a' * 10**10 }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{% if %}",
    ],
)
def test_a_chat_template_that_attacks_is_stopped_where_it_is_rendered(tmp_path: Path, source: str) -> None:
    """Converting carries it along as text; `run` renders it in a sandbox that gives up."""
    folder = tiny_llama.write(tmp_path / "in")
    template(source)(folder)
    made = tmp_path / "o.gguf"
    ran = hostile.run(tmp_path, "convert", str(folder), "--quant", "q8_0", "--no-check", "-o", str(made))
    assert ran.code == 0, ran
    for path in (folder, made):
        ran = hostile.run(tmp_path, "run", str(path), "hi", cwd=folder)
        assert ran.code in (65, 81), ran
        assert "chat_template" in ran.err, ran
        assert hostile.is_plain(ran.err), ran
        assert ran.err.count("\n") == 1, ran
    assert not list(tmp_path.rglob("owned"))


def test_weights_that_are_no_numbers_do_not_become_a_model(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path / "in", tokenizer=False)
    weights = tiny_llama.tensors()
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    tiny_llama.write_weights(folder, weights, "safetensors")
    target = tmp_path / "o.gguf"
    ran = hostile.run(tmp_path, "convert", str(folder), "--quant", "q8_0", "-o", str(target))
    hostile.judge(ran, 65, "blk.1.ffn_up.weight", "weight 101", "nan")
    assert not target.exists()


def test_the_same_words_three_times_and_in_an_ascii_terminal(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path / "in")
    config(architectures=["Modell-é-✓"])(folder)
    first, *others = (hostile.run(tmp_path, "run", str(folder), "hi") for _ in range(3))
    there = hostile.machine("C").run(tmp_path, "run", str(folder), "hi")
    hostile.judge(first, 65, "Modell-é-✓")
    assert {other.err for other in others} == {first.err}
    assert there.code == 65
    assert there.err == first.err.encode("ascii", "backslashreplace").decode()
