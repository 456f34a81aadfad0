"""What no list of attacks has, end to end: contradictions, two formats in one file, numbers at edges, files elsewhere.

Every command gives one verdict; what came from a hub is fetched for what it is, and refused by whoever opens it.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes import gguf_bytes, hostile, meta_release, old_ggml, tiny_llama
from tests.fakes.gguf_bytes import FLOAT64, INT64, UINT64, float32, key, string, strings, uint32
from tests.fakes.hub import FakeHub, serving
from tests.test_hostile_files import GOOD_BIN, TOUCH, TRAP, Runs, calls, one, saved, with_pickle

GGUF = gguf_bytes.llama()
GOOD = GGUF.build()
EPSILON = "llama.attention.layer_norm_rms_epsilon"
Case = tuple[str, Callable[[Path], Path | None], int, tuple[str, ...]]


def with_keys(*entries: bytes) -> bytes:
    return replace(GGUF, keys=(*GGUF.keys, *entries)).build()


def zipped(name: str, data: bytes) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as file:
        file.writestr(name, data)
    return memory.getvalue()


def alone(data: bytes, name: str = "model.gguf") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        folder.mkdir()
        (folder / name).write_bytes(data)
        return folder / name

    return make


def hugging_face(change: Callable[[Path], object], **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        tiny_llama.write(folder, **options)
        change(folder)
        return folder

    return make


def meta(change: Callable[[Path], object], **options: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        meta_release.write(folder, **options)
        for path in folder.glob("*.chk"):
            path.unlink()
        change(folder)
        return folder

    return make


def changed(name: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        tiny_llama.write_json(folder / name, value | values)

    return change


def tokens(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        value = json.loads((folder / "tokenizer.json").read_text())
        change(value)
        tiny_llama.write_json(folder / "tokenizer.json", value)

    return apply


def content(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def with_tail(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + GOOD_BIN)


def with_weights(**more: torch.Tensor) -> Callable[[Path], object]:
    return lambda folder: tiny_llama.write_weights(folder, tiny_llama.tensors() | more, "safetensors")


def indexed(**where: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        index["weight_map"] |= where
        tiny_llama.write_json(folder / "model.safetensors.index.json", index)

    return change


def linked(name: str, target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


def ggml_with_a_vector_of_16_gigabytes(folder: Path) -> Path:
    folder.mkdir()
    paths = old_ggml.write_parts(folder / "m.bin", "GGML", old_ggml.F16, 2, old_ggml.Shape(n_layers=1))
    for path in paths:
        with path.open("ab") as file:
            file.write(struct.pack("<IIII", 1, 4, 0, 2**32 - 1) + b"huge")
            file.truncate(file.tell() + 4 * (2**32 - 1))
    return paths[0]


MANY = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|im_end|>"}}] * 20_000}
SIBLINGS: list[Case] = [
    # Two formats in one file, and formats under other names.
    ("a zip behind a GGUF", alone(GOOD + GOOD_BIN), 65, ("trailing bytes", "model.gguf")),
    ("a zip behind safetensors", hugging_face(with_tail), 65,
     ("model.safetensors", "more behind them")),
    ("a GGUF in a zip", alone(zipped("m/model.gguf", GOOD)), 65, ("without data.pkl",)),
    ("safetensors in a zip of torch's kind", alone(zipped("m/data.pkl", one())), 65, ("model.gguf",)),
    ("a pickle called GGUF", alone(calls("os", "system", TOUCH)), 81, ("model.gguf", "os.system")),
    ("a pickle called config.json", hugging_face(content("config.json", calls("os", "system", TOUCH))), 65,
     ("config.json", "JSON at 1:1")),
    ("a pickle of code beside the safetensors that are read", hugging_face(
        lambda f: (f / "model.safetensors").write_bytes(with_pickle(calls("os", "system", TOUCH)))), 65,
     ("model.safetensors", "a zip archive")),
    # Numbers at the edges of what formats and float32 hold.
    ("an epsilon that float32 rounds to 0", hugging_face(changed("config.json", rms_norm_eps=1e-46)), 65,
     ("/rms_norm_eps", "1e-46")),
    ("the smallest theta of all", hugging_face(changed("config.json", rope_theta=5e-324)), 65, ("/rope_theta",)),
    ("an epsilon of -0", alone(gguf_bytes.llama(epsilon=float32(EPSILON, -0.0)).build()), 65, (EPSILON, "-0.0")),
    ("a theta of 10^99", hugging_face(changed("config.json", rope_theta=10**99)), 65, ("/rope_theta",)),
    ("a context of 2^53 + 1", hugging_face(changed("config.json", max_position_embeddings=2**53 + 1)), 65,
     ("/max_position_embeddings",)),
    ("layers in 64 bits", alone(gguf_bytes.llama(block_count=key("llama.block_count", UINT64, struct.pack("<Q", 2**63)))
                                .build()), 65, ("llama.block_count", "9223372036854775808")),
    ("layers in a float", alone(gguf_bytes.llama(block_count=float32("llama.block_count", 1.0)).build()), 65,
     ("llama.block_count", "1.0")),
    ("a factor of infinity", alone(with_keys(float32("llama.rope.scaling.factor", float("inf")))), 65,
     ("llama.rope.scaling.factor", "inf")),
    # Text that is two things.
    ("half a surrogate pair in UTF-8", alone(gguf_bytes.llama(
        tokens=key("tokenizer.ggml.tokens", gguf_bytes.ARRAY, gguf_bytes.u32(gguf_bytes.STRING) + gguf_bytes.u64(1)
                   + gguf_bytes.text(b"\xed\xa0\x80"))).build()), 65, ("tokenizer.ggml.tokens[0]", "UTF-8")),
    ("an overlong slash", alone(with_keys(string(b"\xc0\xaf", "x"))), 65, ("key[19]", "UTF-8")),
    ("a tensor's name in the other normal form",
     hugging_face(with_weights(**{"model.norm.wei\u0301ght": torch.ones(32)})), 65,
     ("model.norm.wei", "an unknown tensor")),
    ("a tensor's name that steers", hugging_face(with_weights(**{TRAP: torch.ones(32)})), 65, ("\\x1b]0;owned",)),
    # The same said twice, in two ways.
    ("params.json narrower than the weights", meta(changed("params.json", dim=32)), 65, ("consolidated.00.pth",)),
    ("params.json of more layers", meta(changed("params.json", n_layers=3)), 65, ("layers.2.", "no such tensor")),
    ("params.json of fewer layers", meta(changed("params.json", n_layers=1)), 65, ("layers.1.", "an unknown tensor")),
    ("params.json of more tokens", meta(changed("params.json", vocab_size=288)), 65, ("(288, 64)",)),
    ("params.json twice", meta(content("params.json", b'{"dim": 64, "dim": 32}')), 65, ("params.json", "again")),
    ("two releases in one folder", meta(lambda f: tiny_llama.write_weights(f, {"a": torch.ones(2)}, "safetensors") and
                                        (f / "model.safetensors").rename(f / "consolidated.safetensors")), 65,
     ("weights", "consolidated.safetensors and consolidated.00.pth")),
    ("blocks of another version", alone(replace(GGUF, tensors=(
        gguf_bytes.tensor("token_embd.weight", (32, 8), gguf_bytes.Q8_0, 0),), data=bytes(288),
        keys=(*GGUF.keys, uint32("general.quantization_version", 3))).build()), 65,
     ("general.quantization_version", "found 3")),
    ("an index of a Windows device", hugging_face(indexed(**{"model.norm.weight": "CON.safetensors"}),
                                                  container="safetensors-sharded"), 65, ("CON.safetensors",)),
    ("default templates twice", hugging_face(changed("tokenizer_config.json", chat_template=[
        {"name": "default", "template": "a"}, {"name": "default", "template": "b"}])), 65, ("/chat_template",)),
    ("templates whose names are lists", hugging_face(changed("tokenizer_config.json", chat_template=[
        {"name": ["default"], "template": "a"}])), 65, ("/chat_template",)),
    # What costs much and says little.
    ("a post-processor of 20,000 items", hugging_face(tokens(lambda value: value.update(post_processor=MANY))), 65,
     ("/post_processor/single", "20000 items")),
    ("5 million empty lists",
     hugging_face(content("tokenizer_config.json", b'{"a":[' + b"[]," * 5_000_000 + b"0]}")), 65,
     ("tokenizer_config.json", "commas and brackets")),
    ("NaN behind 15 million letters", hugging_face(content(
        "tokenizer_config.json", b'{"a":"' + b"x" * 15_000_000 + b'","b":NaN}')), 65, ("tokenizer_config.json", "NaN")),
    ("300,000 keys",
     hugging_face(content("config.json", b"{" + b",".join(b'"%d":0' % n for n in range(300_000)) + b"}")), 65,
     ("config.json", "/architectures")),
    ("a vector of 16 GB in two parts", ggml_with_a_vector_of_16_gigabytes, 65, ("huge", "an unknown tensor")),
    # What is elsewhere, or nowhere.
    ("a tokenizer that is gone", hugging_face(linked("tokenizer.json", "blob")), 66, ("tokenizer.json", "a link to")),
    ("settings that lead to themselves", hugging_face(linked("generation_config.json", "generation_config.json")), 66,
     ("generation_config.json",)),
    ("params.json that is gone", meta(linked("params.json", "blob")), 66, ("params.json", "a link to")),
]  # fmt: skip


@pytest.mark.parametrize(("make", "code", "words"), [case[1:] for case in SIBLINGS], ids=[case[0] for case in SIBLINGS])
def test_siblings(tmp_path: Path, make: Callable[[Path], Path], code: int, words: tuple[str, ...]) -> None:
    path = make(tmp_path / "in")
    hostile.refused(tmp_path, path, code, *words)
    judge_inspection(hostile.run(tmp_path, "inspect", str(path)), code, *words)
    assert not list(tmp_path.rglob("owned"))


def judge_inspection(ran: hostile.Ran, code: int, *words: str) -> None:
    """The same verdict; or, of what is well formed and no model that we open, the same words in a note."""
    if ran.code != 0:
        hostile.judge(ran, code, *words)
        return
    note = ran.out.splitlines()[-1]
    assert note.startswith("note: cannot be converted: "), ran
    assert all(word in note for word in words), ran
    assert hostile.is_plain(ran.out), ran


ODD = [
    ("a card of numbers beyond 32 bits", with_keys(
        key("general.low", INT64, struct.pack("<q", -(2**62))),
        key("general.high", UINT64, struct.pack("<Q", 2**64 - 1)),
        key("general.real", FLOAT64, struct.pack("<d", 1e300)), float32("general.none", float("nan")))),
    ("a card of text that is YAML",
     with_keys(string("general.description", "---\n- !!python/object:os.system x\n..."))),
    ("a card whose counts lie",
     with_keys(uint32("general.base_model.count", 2**32 - 1), strings("general.tags", [""]))),
    ("keys that are paths and code",
     with_keys(string("../../x", "$(touch owned)"), string("__class__", "{{ 7 * 7 }}"))),
    ("a size of two minds", with_keys(uint32("llama.vocab_size", 100))),
    ("a width of one layer", with_keys(uint32("general.alignment", 32))),
]  # fmt: skip


@pytest.mark.parametrize("data", [case[1] for case in ODD], ids=[case[0] for case in ODD])
def test_what_is_odd_and_no_fault(tmp_path: Path, data: bytes) -> None:
    """Every command takes it, three times the same way, and what is made of it opens."""
    path = alone(data)(tmp_path / "in")
    before = hostile.Tree.of(path.parent)
    made = tmp_path / "o.gguf"
    for target in (("--quant", "q8_0", "-o", str(made)), ("--to", "safetensors", "-o", str(tmp_path / "o"))):
        ran = hostile.run(tmp_path, "convert", str(path), *target, "--no-check", "--threads", "1")
        assert (ran.code, hostile.is_plain(ran.err)) == (0, True), ran
    shown = {hostile.run(tmp_path, "inspect", str(each), "--keys").code for each in (path, made, tmp_path / "o") * 3}
    assert shown == {0}
    assert hostile.run(tmp_path, "run", str(made), "a", "-n", "1").code == 0
    assert hostile.Tree.of(path.parent) == before
    assert not list(tmp_path.rglob("owned"))


def test_a_tail_is_dropped_if_somebody_says_so(tmp_path: Path) -> None:
    made = []
    for data in (GOOD, GOOD + GOOD_BIN):
        (tmp_path / "model.gguf").write_bytes(data)
        made.append(tmp_path / f"{len(made)}.gguf")
        arguments = ("convert", str(tmp_path / "model.gguf"), "--quant", "q8_0", "--allow-trailing", "--no-provenance")
        assert hostile.run(tmp_path, *arguments, "-o", str(made[-1])).code == 0
    assert made[0].read_bytes() == made[1].read_bytes()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        yield hub


PUBLISHED: list[Case] = [
    ("a GGUF that lies", alone(GOOD[:-1]), 65, ("output.weight", "1 of")),
    ("a GGUF with a tail", alone(GOOD + b"x"), 65, ("trailing bytes",)),
    ("safetensors that overlap", hugging_face(content("model.safetensors", one(data_offsets=[1, 9]))), 65,
     ("model.safetensors", "data_offsets")),
    ("code in a pickle", hugging_face(lambda f: (f / "pytorch_model.bin").write_bytes(saved({"a": Runs(TOUCH)})),
                                      container="bin"), 81, ("pytorch_model.bin", "posix.system")),
    ("an index that leads away", hugging_face(indexed(**{"model.norm.weight": "../x.safetensors"}),
                                              container="safetensors-sharded"), 65, ("/weight_map/model.norm.weight",)),
    ("a config that steers", hugging_face(changed("config.json", architectures=[TRAP])), 65, ("\\x1b]0;owned",)),
    ("a tokenizer that takes for ever", hugging_face(tokens(lambda value: value.update(post_processor=MANY))), 65,
     ("/post_processor/single",)),
    ("a release of two minds", meta(changed("params.json", n_layers=3)), 65, ("layers.2.",)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("make", "code", "words"), [case[1:] for case in PUBLISHED], ids=[case[0] for case in PUBLISHED]
)
def test_what_a_hub_publishes_is_fetched_as_it_is_and_refused_alike_by_all(
    tmp_path: Path, hub: FakeHub, make: Callable[[Path], Path], code: int, words: tuple[str, ...]
) -> None:
    made = make(tmp_path / "in")
    folder = made if made.is_dir() else made.parent
    hub.add("owner/bad", {path.name: path.read_bytes() for path in folder.iterdir()})
    online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    target = tmp_path / "o.gguf"

    def run(*arguments: str) -> hostile.Ran:
        ran = hostile.run(tmp_path, *arguments, environment=online)
        assert not target.exists()
        return ran

    judge_inspection(run("inspect", "hf:owner/bad"), code, *words)
    hostile.judge(run("fetch", "hf:owner/bad", "--as", "q8_0", "-o", str(target)), code, *words)
    assert [run(command, "hf:owner/bad").code for command in ("fetch", "verify")] == [0, 0]  # they are what they are
    judge_inspection(run("inspect", "hf:owner/bad"), code, *words)
    hostile.judge(run("run", "hf:owner/bad", "hi"), code, *words)
    hostile.judge(run("convert", "hf:owner/bad", "--quant", "q8_0"), code, *words)
    assert not list(tmp_path.rglob("owned"))
    assert not list(tmp_path.rglob("*q8_0*"))
