"""Weights in the other byte order: fields written out, numpy's own view of them, and gguf-py's converter as judge."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.scripts.gguf_convert_endian import convert_byteorder

from converters import byte_order, dtypes
from converters import plan as planning
from converters.byte_order import SwappedTensor, swapped
from converters.convert import convert
from converters.dtypes import DType
from converters.formats import open_checkpoint
from converters.recipe import Recipe
from converters.tensors import ComputedTensor, TensorInfo
from tests.fakes import gguf_bytes, tiny_llama
from tests.fakes.gguf_forms import FORMS, V3, Form, name_of
from tests.fakes.memory_sink import MemorySink

IN_GGUF = [dtype for dtype in dtypes.ALL if dtype.ggml_id is not None]
PLAIN = {"F32": "f4", "F16": "f2", "F64": "f8", "BF16": "u2", "I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8"}

# The blocks as ggml's dequantize_row_* reads them, in numpy's words.
BLOCKS: dict[str, list[tuple[str, str]]] = {
    "Q4_0": [("d", "f2"), ("qs", "16u1")],
    "Q4_1": [("d", "f2"), ("m", "f2"), ("qs", "16u1")],
    "Q5_0": [("d", "f2"), ("qh", "u4"), ("qs", "16u1")],
    "Q5_1": [("d", "f2"), ("m", "f2"), ("qh", "u4"), ("qs", "16u1")],
    "Q8_0": [("d", "f2"), ("qs", "32i1")],
    "Q2_K": [("scales", "16u1"), ("qs", "64u1"), ("d", "f2"), ("dmin", "f2")],
    "Q3_K": [("hmask", "32u1"), ("qs", "64u1"), ("scales", "12u1"), ("d", "f2")],
    "Q4_K": [("d", "f2"), ("dmin", "f2"), ("scales", "12u1"), ("qs", "128u1")],
    "Q5_K": [("d", "f2"), ("dmin", "f2"), ("scales", "12u1"), ("qh", "32u1"), ("qs", "128u1")],
    "Q6_K": [("ql", "128u1"), ("qh", "64u1"), ("scales", "16i1"), ("d", "f2")],
    "IQ1_S": [("d", "f2"), ("qs", "32u1"), ("qh", "8u2")],
    "IQ1_M": [("qs", "32u1"), ("qh", "16u1"), ("scales", "4u2")],
    "IQ2_XXS": [("d", "f2"), *((name, kind) for i in range(8) for name, kind in ((f"q{i}", "4u1"), (f"s{i}", "u4")))],
    "IQ2_XS": [("d", "f2"), ("qs", "32u2"), ("scales", "8u1")],
    "IQ2_S": [("d", "f2"), ("qs", "64u1"), ("qh", "8u1"), ("scales", "8u1")],
    "IQ3_XXS": [("d", "f2"), ("qs", "64u1"), ("scales_and_signs", "8u4")],
    "IQ3_S": [("d", "f2"), ("qs", "64u1"), ("qh", "8u1"), ("signs", "32u1"), ("scales", "4u1")],
    "IQ4_NL": [("d", "f2"), ("qs", "16u1")],
    "IQ4_XS": [("d", "f2"), ("scales_h", "u2"), ("scales_l", "4u1"), ("qs", "128u1")],
    "TQ1_0": [("qs", "48u1"), ("qh", "4u1"), ("d", "f2")],
    "TQ2_0": [("qs", "64u1"), ("d", "f2")],
    "MXFP4": [("e", "u1"), ("qs", "16u1")],
    "NVFP4": [("d", "4u1"), ("qs", "32u1")],
    "Q1_0": [("d", "f2"), ("qs", "16u1")],
    "Q2_0": [("d", "f2"), ("qs", "16u1")],
}


def test_every_type_of_gguf_is_known() -> None:
    assert {dtype.name for dtype in IN_GGUF} == PLAIN.keys() | BLOCKS.keys()
    assert byte_order._FIELDS.keys() == {dtype for dtype in IN_GGUF if not dtype.is_plain}


@pytest.mark.parametrize("dtype", IN_GGUF, ids=str)
def test_a_big_machine_reads_the_same_numbers(dtype: DType) -> None:
    rows = np.random.default_rng(7).integers(0, 256, (3, 5 * dtype.block_bytes), np.uint8)
    kind = np.dtype(BLOCKS[dtype.name]) if dtype.name in BLOCKS else np.dtype(PLAIN[dtype.name])
    assert kind.itemsize == dtype.block_bytes

    turned = swapped(rows, dtype)

    big, little = turned.view(kind.newbyteorder(">")), rows.view(kind.newbyteorder("<"))
    for name in kind.names or ():
        assert big[name].astype(big[name].dtype.newbyteorder("<")).tobytes() == little[name].tobytes(), name
    assert big.astype(kind.newbyteorder("<")).tobytes() == little.tobytes()
    assert (turned.shape, turned.dtype) == (rows.shape, np.uint8)
    assert (turned == rows).all() == (dtype.name in ("I8", "MXFP4", "NVFP4"))
    assert swapped(turned, dtype).tobytes() == rows.tobytes()


def test_literal_block() -> None:
    block = np.arange(22, dtype=np.uint8)[None]
    assert swapped(block, dtypes.Q5_0).tobytes() == bytes([1, 0, 5, 4, 3, 2, *range(6, 22)])
    assert block.tobytes() == bytes(range(22)), "what was read is not changed under anybody's hands"


def test_swapped_tensor_reads_any_rows() -> None:
    rows = np.arange(40, dtype="<u4").view(np.uint8).reshape(4, 40)
    tensor = SwappedTensor(ComputedTensor(TensorInfo("w", dtypes.I32, (4, 10)), "here", rows))
    assert tensor.read_rows(1, 3).view(">u4").tolist() == [list(range(10, 20)), list(range(20, 30))]
    assert (tensor.info.name, tensor.origin, tensor.position) == ("w", "here", ("", 0))
    assert tensor.read_rows(2, 2).shape == (0, 40)


def converted(source: Path, folder: Path, mix: str, order: str | None = None) -> Path:
    sink = MemorySink()
    with open_checkpoint(source) as checkpoint:
        convert(checkpoint, planning.make(checkpoint, Recipe("gguf", mix, byte_order=order), "tiny"), sink)
    (name,) = sink.files
    return sink.save(folder) / name


@pytest.mark.parametrize("mix", ["f32", "f16", "bf16", "q8_0", "q4_0"])
def test_gguf_py_turns_our_file_into_our_other(mix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny_llama.write(tmp_path / "source")
    little, big = (converted(source, tmp_path / str(order), mix, order) for order in (None, "big"))
    assert gguf.GGUFReader(big).endianess is gguf.GGUFEndian.BIG

    monkeypatch.setattr("builtins.input", lambda prompt: "YES")
    convert_byteorder(gguf.GGUFReader(little, "r+"), Namespace(order="big", dry_run=False))

    assert little.read_bytes() == big.read_bytes()


@pytest.mark.parametrize("mix", ["f32", "f16", "bf16", "q8_0", "q5_0", "q4_1"])
def test_there_and_back_again(mix: str, tmp_path: Path) -> None:
    source = tiny_llama.write(tmp_path / "source")
    little = converted(source, tmp_path / "little", mix)
    big = converted(little, tmp_path / "big", mix, "big")
    assert converted(source, tmp_path / "straight", mix, "big").read_bytes() == big.read_bytes()
    assert big.read_bytes() != little.read_bytes()
    assert converted(big, tmp_path / "back", mix).read_bytes() == little.read_bytes()


@pytest.mark.parametrize("form", FORMS, ids=name_of)
def test_every_form_becomes_the_same_file(form: Form, tmp_path: Path) -> None:
    (tmp_path / "old.gguf").write_bytes(form.llama())
    (tmp_path / "new.gguf").write_bytes(V3.llama())
    ours = converted(tmp_path / "old.gguf", tmp_path / "old", "f32")
    assert ours.read_bytes() == converted(tmp_path / "new.gguf", tmp_path / "new", "f32").read_bytes()
    weights = np.concatenate([tensor.data.ravel() for tensor in gguf.GGUFReader(ours).tensors])
    n_weights = sum(int(np.prod(shape)) for shape in gguf_bytes.LLAMA_SHAPES.values())
    assert sorted(weights.tolist()) == list(range(n_weights))
