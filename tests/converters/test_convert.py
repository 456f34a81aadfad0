"""The whole conversion: any container in, GGUF and safetensors out, judged by gguf-py and by safetensors itself."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from converters import plan as planning
from converters.convert import convert
from converters.errors import ChangedError, RefusedError, UnrepresentableError
from converters.formats import open_checkpoint
from converters.recipe import Recipe
from tests.fakes import gguf_bytes, tiny_llama
from tests.fakes.memory_sink import MemoryOutput, MemorySink

NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def _converted(source: Path, target: str, mix: str, *, threads: int = 1) -> MemorySink:
    sink = MemorySink()
    with open_checkpoint(source) as checkpoint:
        plan = planning.make(checkpoint, Recipe(target, mix), "tiny")
        advanced: list[int] = []
        convert(checkpoint, plan, sink, threads=threads, advance=advanced.append)
    assert sum(len(data) for data in sink.files.values()) == plan.size
    assert sum(output.written for output in sink.outputs.values()) == sum(advanced)
    return sink


def _permuted(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """llama.cpp's `LlamaModel.permute`, from halves to pairs."""
    return weight.reshape(n_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _expected(tied: bool = False) -> dict[str, np.ndarray]:
    """The tiny llama's weights as GGUF has them: its names, its row order, float32."""
    theirs = {name: tensor.numpy() for name, tensor in tiny_llama.tensors(tied=tied).items()}
    ours = {"token_embd.weight": theirs["model.embed_tokens.weight"], "output_norm.weight": theirs["model.norm.weight"]}
    if not tied:
        ours["output.weight"] = theirs["lm_head.weight"]
    for layer in range(tiny_llama.N_LAYERS):
        for name, hf_name in NAMES.items():
            ours[f"blk.{layer}.{name}.weight"] = theirs[f"model.layers.{layer}.{hf_name}.weight"]
        for name, n_heads in (("attn_q", tiny_llama.N_HEADS), ("attn_k", tiny_llama.N_KV_HEADS)):
            ours[f"blk.{layer}.{name}.weight"] = _permuted(ours[f"blk.{layer}.{name}.weight"], n_heads)
    return ours


@pytest.mark.parametrize("container", tiny_llama.CONTAINERS)
@pytest.mark.parametrize("tied", [False, True])
def test_every_container_becomes_the_same_gguf(container: tiny_llama.Container, tied: bool, tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source", container=container, tied=tied)

    sink = _converted(source, "gguf", "f32")

    reader = gguf.GGUFReader(sink.save(tmp_path / "result") / "tiny-F32.gguf")
    expected = _expected(tied)
    assert {tensor.name for tensor in reader.tensors} == expected.keys()
    for tensor in reader.tensors:
        np.testing.assert_array_equal(tensor.data, expected[tensor.name])
    assert reader.fields["general.file_type"].contents() == 0
    assert reader.fields["llama.attention.head_count_kv"].contents() == tiny_llama.N_KV_HEADS


@pytest.mark.parametrize("mix", ["f16", "bf16", "q8_0", "q4_0", "q4_1"])
def test_packed_tensors_are_gguf_pys(mix: str, tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source")

    sink = _converted(source, "gguf", mix)

    reader = gguf.GGUFReader(sink.save(tmp_path / "result") / f"tiny-{mix.upper()}.gguf")
    expected = _expected()
    for tensor in reader.tensors:
        packed = gguf.quants.quantize(expected[tensor.name], tensor.tensor_type)
        assert tensor.data.tobytes() == packed.tobytes(), tensor.name
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["blk.0.ffn_down.weight"] == mix.upper()
    assert types["blk.0.attn_norm.weight"] == "F32"
    # Rows of 32 are no whole super-block, so the output's Q6_K becomes Q8_0.
    assert types["output.weight"] == ("Q8_0" if mix.startswith("q") else mix.upper())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_folder_comes_back_from_gguf_byte_for_byte(dtype: torch.dtype, tmp_path: Path) -> None:
    mix = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}[dtype]
    source = tiny_llama.write(tmp_path / "source", dtype=dtype)
    folder = _converted(source, "safetensors", mix).save(tmp_path / "folder")

    gguf_file = _converted(folder, "gguf", mix).save(tmp_path / "gguf") / f"tiny-{mix.upper()}.gguf"
    back = _converted(gguf_file, "safetensors", mix)

    assert back.files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert back.files.keys() == {path.name for path in folder.iterdir()}
    for name in back.files.keys() - {"config.json", "model.safetensors"}:
        assert back.files[name] == (folder / name).read_bytes(), name
    if dtype == torch.float32:
        theirs, ours = load_file(source / "model.safetensors"), load_file(folder / "model.safetensors")
        assert theirs.keys() == ours.keys()
        assert all(theirs[name].tobytes() == ours[name].tobytes() for name in theirs)


def test_bytes_do_not_depend_on_threads_or_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_llama.write(tmp_path / "source")
    once = _converted(source, "gguf", "q4_0", threads=1).files
    monkeypatch.setattr(planning, "_BLOCK_WEIGHTS", 96)  # three rows at a time: heads of eight are cut

    assert _converted(source, "gguf", "q4_0", threads=5).files == once
    folder = _converted(source, "safetensors", "f16", threads=3).files
    monkeypatch.undo()
    assert _converted(source, "safetensors", "f16").files == folder


def test_shards_are_as_large_as_asked_and_open_again(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source")
    sink = MemorySink()
    with open_checkpoint(source) as checkpoint:
        plan = planning.make(checkpoint, Recipe("safetensors", "f32", max_shard_bytes=50_000), "tiny")
        convert(checkpoint, plan, sink)
    folder = sink.save(tmp_path / "folder")

    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    theirs = load_file(source / "model.safetensors")
    ours = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    assert theirs.keys() == ours.keys()
    assert all(theirs[name].tobytes() == ours[name].tobytes() for name in theirs)
    one = _converted(source, "gguf", "q8_0").files
    assert _converted(folder, "gguf", "q8_0").files == one


@pytest.mark.parametrize(("bad", "shown"), [(float("nan"), "nan"), (float("inf"), "inf"), (-float("inf"), "-inf")])
def test_a_weight_that_is_no_number_is_refused_by_tensor_and_index(bad: float, shown: str, tmp_path: Path) -> None:
    weights = tiny_llama.tensors()
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = bad
    source = tiny_llama.write(tmp_path / "source")
    tiny_llama.write_weights(source, weights, "safetensors")

    with pytest.raises(UnrepresentableError) as caught:
        _converted(source, "gguf", "q8_0", threads=2)

    assert caught.value.tensor == "blk.1.ffn_up.weight"
    assert caught.value.index == 3 * tiny_llama.DIM + 5
    assert str(caught.value.value) == shown


def test_a_weight_too_large_for_f16_is_refused_and_fits_bf16(tmp_path: Path) -> None:
    weights = tiny_llama.tensors()
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 70_000.0
    source = tiny_llama.write(tmp_path / "source")
    tiny_llama.write_weights(source, weights, "safetensors")

    with pytest.raises(
        UnrepresentableError, match=r"^model\.safetensors: blk\.0\.ffn_up\.weight: weight 0 is 70000\.0, which F16"
    ):
        _converted(source, "gguf", "f16")
    _converted(source, "gguf", "bf16")


def test_an_input_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source")
    with open_checkpoint(source) as checkpoint:
        plan = planning.make(checkpoint, Recipe("gguf", "f16"), "tiny")
        os.utime(source / "model.safetensors", ns=(1, 1))
        with pytest.raises(ChangedError):
            convert(checkpoint, plan, MemorySink())


def test_an_input_that_shrinks_meanwhile_is_noticed(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source")
    with open_checkpoint(source) as checkpoint:
        plan = planning.make(checkpoint, Recipe("gguf", "f16"), "tiny")

        class Truncating(MemorySink):
            def create(self, path: str, size: int) -> MemoryOutput:
                os.truncate(source / "model.safetensors", 2000)
                return super().create(path, size)

        with pytest.raises(ChangedError, match="shorter"):
            convert(checkpoint, plan, Truncating())


def test_a_tensor_without_a_place_is_refused_not_dropped(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source")
    with open_checkpoint(source) as checkpoint:
        checkpoint.tensors = dict(checkpoint.tensors) | {"blk.0.extra.weight": checkpoint.tensors["output.weight"]}
        with pytest.raises(RefusedError, match=r"blk\.0\.extra\.weight has no place in safetensors"):
            planning.make(checkpoint, Recipe("safetensors", "f16"), "tiny")


def test_a_plan_says_what_happens_to_each_tensor(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source", dtype=torch.float16)
    with open_checkpoint(source) as checkpoint:
        plan = planning.make(checkpoint, Recipe("gguf", "q8_0"), "tiny")
    work = {each.placed.info.name: each for each in plan.work}
    assert work["blk.0.ffn_up.weight"].steps == ("decode F16", "encode Q8_0")
    assert work["blk.0.ffn_up.weight"].input.origin == "model.safetensors: model.layers.0.mlp.up_proj.weight"
    assert work["blk.0.ffn_up.weight"].placed.info.n_bytes == 64 * 34
    with open_checkpoint(source) as checkpoint:
        plan = planning.make(checkpoint, Recipe("safetensors", "f16"), "tiny")
    steps = {each.placed.info.name: each.steps for each in plan.work}
    assert steps["model.layers.0.self_attn.q_proj.weight"] == ("reorder the rows of each head", "copy")
    assert steps["model.norm.weight"] == ("copy",)


def test_a_second_quantization_is_said_aloud(tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source")
    folder = _converted(source, "gguf", "q8_0").save(tmp_path / "folder")
    with open_checkpoint(folder / "tiny-Q8_0.gguf") as checkpoint:
        assert planning.make(checkpoint, Recipe("gguf", "f16"), "x").warnings == ()
        (warning,) = planning.make(checkpoint, Recipe("gguf", "q4_0"), "x").warnings
    assert warning.startswith("Q8_0 weights are quantized a second time")


def test_the_real_model_in_little_memory(smollm2_gguf: Path) -> None:
    """134.5 million weights, the largest tensor 28 million: 113 MB as float32, far above the bound."""

    class Nowhere(MemorySink):
        def create(self, path: str, size: int) -> Nowhere:  # type: ignore[override]
            return self

        def write_at(self, offset: int, data: bytes | memoryview) -> None:
            pass

        def read_at(self, offset: int, n_bytes: int) -> bytes:
            return bytes(n_bytes)

    with open_checkpoint(smollm2_gguf) as checkpoint:
        plan = planning.make(checkpoint, Recipe("gguf", "q8_0"), "smollm2")
        assert plan.memory_bytes(2) < 48 * 2**20
        tracemalloc.start()
        convert(checkpoint, plan, Nowhere(), threads=2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < plan.memory_bytes(2)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("how", ["rewritten", "replaced", "gone"])
def test_every_file_that_was_read_must_stay(name: str, how: str, tmp_path: Path) -> None:
    """From before it is read until all is made: small files too, and by their names."""
    source = tiny_llama.write(tmp_path / "source")
    path = source / name
    with open_checkpoint(source) as checkpoint:
        plan = planning.make(checkpoint, Recipe("gguf", "f16"), "tiny")
        content = path.read_bytes()
        if how != "rewritten":
            path.unlink()
        if how != "gone":
            path.write_bytes(content)
        with pytest.raises(ChangedError, match=name):
            convert(checkpoint, plan, MemorySink())


def test_a_thread_that_fails_is_heard_while_another_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a shard that is still to come is let go at once, not when it has come."""
    import threading

    from converters import convert as converting

    let_go, turns, real = threading.Event(), iter(range(1000)), converting.make_rows

    def make_rows(*arguments: object) -> object:
        turn = next(turns)
        if turn == 0:
            assert let_go.wait(20)
        if turn == 1:
            raise RefusedError("the second")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(converting, "make_rows", make_rows)
    source = tiny_llama.write(tmp_path / "source")
    with open_checkpoint(source) as checkpoint:
        plan = planning.make(checkpoint, Recipe("gguf", "f16"), "tiny")
        with pytest.raises(RefusedError, match="the second"):
            convert(checkpoint, plan, MemorySink(), threads=2, give_up=let_go.set)


def test_a_disk_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_llama.write(tmp_path / "source")
    with open_checkpoint(source) as checkpoint:
        plan = planning.make(checkpoint, Recipe("gguf", "f16"), "tiny")

        def broken(*_: object) -> int:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "preadv", broken)
        with pytest.raises(OSError, match=r"Input/output error: '.*config\.json'"):
            convert(checkpoint, plan, MemorySink())


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3), (1, 8), (0, 0, 0, 5)])
def test_tensors_of_no_size_and_of_no_axes(shape: tuple[int, ...], tmp_path: Path) -> None:
    model, size = gguf_bytes.llama(), int(np.prod(shape))
    odd = gguf_bytes.tensor("blk.0.attn_rot_embd.weight", shape[::-1], gguf_bytes.F32, len(model.data))
    data = model.data + np.arange(size, dtype="<f4").tobytes() + bytes(-4 * size % 32)
    (tmp_path / "x.gguf").write_bytes(replace(model, tensors=(*model.tensors, odd), data=data).build())
    made = _converted(tmp_path / "x.gguf", "gguf", "f32", threads=2).save(tmp_path / "out") / "tiny-F32.gguf"
    with open_checkpoint(made) as checkpoint:
        tensor = checkpoint.tensors["blk.0.attn_rot_embd.weight"]
        assert tensor.info.shape == shape
        if size:
            assert tensor.read_rows(0, 1).view("<f4").tolist() == [list(range(size))]
