"""safetensors: against literal bytes, against safetensors itself, and against everything a header can lie about."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import dtypes
from converters.errors import MalformedError, UnsupportedError
from converters.formats import safetensors
from converters.input_file import InputFile
from converters.tensors import TensorInfo

# Two tensors, wide type first: u8 [3] at 8, f32 [2] at 0.
HEADER = (
    b'{"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
    b'"a":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}}      '
)
DATA = b"\x00\x00\x80\x3f\x00\x00\x00\x40" + b"\x07\x08\x09"
VALID = b"\x90\x00\x00\x00\x00\x00\x00\x00" + HEADER + DATA


def packed(header: str | bytes, data: bytes = b"") -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return len(text).to_bytes(8, "little") + text + data


def written(folder: Path, data: bytes) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(data)
    return path


def read(path: Path) -> safetensors.Header:
    with InputFile(path) as file:
        return safetensors.read_header(file)


def test_a_header_is_read_from_its_bytes(tmp_path: Path) -> None:
    with InputFile(written(tmp_path, VALID)) as file:
        header = safetensors.read_header(file)
        assert header.metadata == {"format": "pt"}
        assert [tensor.info for tensor in header.tensors.values()] == [
            TensorInfo("b", dtypes.F32, (2,)),
            TensorInfo("a", dtypes.U8, (3,)),
        ]
        assert header.tensors["b"].offset_in_file == 8 + 0x90
        assert header.tensors["a"].read_rows(0, 1).tolist() == [[7, 8, 9]]
        assert header.tensors["b"].read_rows(0, 1).view(np.float32).tolist() == [[1.0, 2.0]]


def test_a_head_is_written_as_those_bytes() -> None:
    infos = [TensorInfo("a", dtypes.U8, (3,)), TensorInfo("b", dtypes.F32, (2,))]
    assert safetensors.head(infos, {"format": "pt"}) == (VALID[: -len(DATA)], {"b": 152, "a": 160})


NUMPY = {
    dtypes.F64: np.float64, dtypes.F32: np.float32, dtypes.F16: np.float16, dtypes.I64: np.int64, dtypes.I32: np.int32,
    dtypes.I16: np.int16, dtypes.I8: np.int8, dtypes.U64: np.uint64, dtypes.U32: np.uint32, dtypes.U16: np.uint16,
    dtypes.U8: np.uint8, dtypes.BOOL: np.bool_, dtypes.C64: np.complex64,
}  # fmt: skip
infos = st.builds(
    lambda name, dtype, shape: TensorInfo(name, dtype, tuple(shape)),
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
    st.sampled_from(list(NUMPY)),
    st.lists(st.integers(0, 4), max_size=3),
)


@settings(deadline=None)
@given(st.lists(infos, unique_by=lambda info: info.name, max_size=6), st.dictionaries(st.text(), st.text(), max_size=1))
def test_a_head_is_the_one_that_safetensors_writes(
    tmp_path_factory: pytest.TempPathFactory, infos: list[TensorInfo], metadata: dict[str, str]
) -> None:
    from safetensors.numpy import save_file

    path = tmp_path_factory.getbasetemp() / "theirs.safetensors"
    arrays = {
        info.name: np.frombuffer(bytes(i % 2 for i in range(info.n_bytes)), NUMPY[info.dtype]).reshape(info.shape)
        for info in infos
    }
    save_file(arrays, path, metadata=metadata or None)
    theirs = path.read_bytes()
    head, offsets = safetensors.head(infos, metadata)
    assert theirs.startswith(head)
    assert len(theirs) == len(head) + sum(info.n_bytes for info in infos)
    with InputFile(path) as file:
        header = safetensors.read_header(file)
        assert header.metadata == metadata
        assert {name: tensor.offset_in_file for name, tensor in header.tensors.items()} == offsets
        for name, array in arrays.items():
            tensor = header.tensors[name]
            assert tensor.read_rows(0, tensor.info.n_rows).tobytes() == array.tobytes()
            assert tensor.info.shape == array.shape


def test_torchs_types_are_read(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    weights = torch.tensor([1.0, 1.5, 448.0])
    tensors = {"bf": weights.bfloat16(), "e4": weights.to(torch.float8_e4m3fn), "e5": weights.to(torch.float8_e5m2)}
    save_file(tensors, path)
    header = read(path)
    assert {name: tensor.info.dtype for name, tensor in header.tensors.items()} == {
        "bf": dtypes.BF16, "e4": dtypes.F8_E4M3, "e5": dtypes.F8_E5M2,
    }  # fmt: skip
    head, _ = safetensors.head([tensor.info for tensor in header.tensors.values()], {})
    assert path.read_bytes().startswith(head)


def entry(dtype: object = "U8", shape: object = (4,), offsets: object = (0, 4), **more: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def of(*entries: dict[str, object], data: int = 4, **more: object) -> bytes:
    named = {f"t{i}": each for i, each in enumerate(entries)}
    return packed(json.dumps(named | more), bytes(data))


BROKEN = [
    ("empty", b"", "header length"),
    ("1 byte", b"\x02", "header length"),
    ("7 bytes", b"\x02" + bytes(6), "header length"),
    ("length 0", bytes(8) + b"{}", "header length"),
    ("length 2^64-1", b"\xff" * 8 + b"{}", "header length"),
    ("length 2^63", bytes(7) + b"\x80{}", "header length"),
    ("length 100,000,001", (100_000_001).to_bytes(8, "little") + b"{}", "header length"),
    ("length one too long", (len(HEADER) + len(DATA) + 1).to_bytes(8, "little") + HEADER + DATA, "header length"),
    ("header not UTF-8", packed(b'{"\xff":1}'), "header"),
    ("header in UTF-16", packed('{"a":1}'.encode("utf-16")), "header"),
    ("header with a mark", packed(b"\xef\xbb\xbf{}"), "header"),
    ("header cut", packed(b" {"), "header"),
    ("header an array", packed("[ ]"), "header"),
    ("header null", packed("null"), "header"),
    ("text behind the header", packed("{}x"), "header"),
    ("zeros behind the header", packed(b"{}\x00\x00"), "header"),
    ("deep header", packed('{"a":' * 100_000), "header"),
    ("long integer", packed('{"a":' + "9" * 10_000_000 + "}"), "header"),
    ("number beyond floats", of(entry(offsets=[0, 4]), x=1).replace(b'"x": 1', b'"x": 1e400'), "header"),
    ("tensor twice", packed('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{}}', b"1"), "header"),
    ("metadata twice", packed('{"__metadata__":{},"__metadata__":{}}'), "header"),
    ("too many tensors", packed(b'"data_offsets"' * 262_145), "header"),
    ("metadata null", packed('{"__metadata__":null}'), "__metadata__"),
    ("metadata a list", packed('{"__metadata__":["a"]}'), "__metadata__"),
    ("metadata with a number", packed('{"__metadata__":{"a":1}}'), "__metadata__/a"),
    ("metadata nested", packed('{"__metadata__":{"a":{"b":"c"}}}'), "__metadata__/a"),
    ("metadata of 17 MiB", packed('{"__metadata__":{"a":"' + "x" * (17 << 20) + '"}}'), "__metadata__"),
    ("no object", of(data=0, t0=7), "t0"),
    ("no dtype", packed('{"t0":{"shape":[4],"data_offsets":[0,4]}}', b"1234"), "t0"),
    ("an unknown field", of(entry(stride=[1])), "t0"),
    ("dtype unknown", of(entry("F33")), "t0: dtype"),
    ("dtype lower case", of(entry("u8")), "t0: dtype"),
    ("dtype empty", of(entry("")), "t0: dtype"),
    ("dtype a list", of(entry(["U8"])), "t0: dtype"),
    ("shape negative", of(entry(shape=[-4])), "t0: shape"),
    ("shape of a float", of(entry(shape=[4.0])), "t0: shape"),
    ("shape of a boolean", of(entry(shape=[True, 4])), "t0: shape"),
    ("shape a number", of(entry(shape=4)), "t0: shape"),
    ("shape null", of(entry(shape=None)), "t0: shape"),
    ("10,000 dimensions", of(entry(shape=[1] * 9_999 + [4])), "t0: shape"),
    ("dimension of 2^63", of(entry(shape=[1 << 63])), "t0: shape"),
    ("shape beyond 64 bits", of(entry(shape=[2, 2, 2, 2, 1 << 62])), "t0: data_offsets"),
    ("bytes beyond 64 bits", of(entry("F64", shape=[1 << 62], offsets=[0, 4])), "t0: data_offsets"),
    ("offset a float", of(entry(offsets=[0, 4.0])), "t0: data_offsets"),
    ("offset text", of(entry(offsets=["0", "4"])), "t0: data_offsets"),
    ("offset negative", of(entry(offsets=[-4, 0])), "t0: data_offsets"),
    ("offset -0", packed('{"t0":{"dtype":"U8","shape":[4],"data_offsets":[-0,4]}}', b"1234"), "t0: data_offsets"),
    ("one offset", of(entry(offsets=[4])), "t0: data_offsets"),
    ("three offsets", of(entry(offsets=[0, 4, 4])), "t0: data_offsets"),
    ("begin behind end", of(entry(shape=[0], offsets=[4, 0])), "t0: data_offsets"),
    ("end behind the data", of(entry(shape=[5], offsets=[0, 5])), "t0"),
    ("a byte too few", of(entry(offsets=[0, 3]), data=3), "t0: data_offsets"),
    ("a byte too many", of(entry(offsets=[0, 5]), data=5), "t0: data_offsets"),
    ("overlap", of(entry(), entry(offsets=[2, 6]), data=6), "t1: data_offsets"),
    ("all on one range", of(*[entry()] * 1000), "t1: data_offsets"),
    ("hole at the start", of(entry(offsets=[1, 5]), data=5), "t0: data_offsets"),
    ("hole in the middle", of(entry(), entry(offsets=[5, 9]), data=9), "t1: data_offsets"),
    ("hole at the end", of(entry(), data=5), "t0"),
    ("data cut", of(entry(), data=3), "t0"),
    ("data without tensors", packed("{}", b"x"), "data"),
    ("a zip behind the data", VALID + b"PK\x05\x06" + bytes(18), "a"),
    ("a GGUF", b"GGUF\x03" + bytes(40), "file"),
    ("an LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "file"),
    ("an HTML page", b"<!DOCTYPE html><html>not found</html>", "file"),
    ("a pickle", b"\x80\x02}q\x00." + bytes(20), "file"),
    ("a zip", b"PK\x03\x04" + bytes(40), "file"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "field"), [case[1:] for case in BROKEN], ids=[case[0] for case in BROKEN])
def test_a_broken_file_is_refused_by_field(tmp_path: Path, data: bytes, field: str) -> None:
    with pytest.raises(MalformedError) as caught:
        read(written(tmp_path, data))
    assert caught.value.field == field
    assert "model.safetensors: " in str(caught.value)


def test_a_wrong_file_is_called_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(MalformedError, match="found a Git LFS pointer, which stands for a file that was not fetched"):
        read(written(tmp_path, b"version https://git-lfs.github.com/spec/v1\n"))


def test_a_type_that_we_do_not_have_is_unsupported(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="t0: dtype: found F4"):
        read(written(tmp_path, of(entry("F4", shape=[8]))))


@pytest.mark.parametrize("length", range(len(VALID)))
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(MalformedError):
        read(written(tmp_path, VALID[:length]))


@pytest.mark.parametrize("byte", range(8 + len(HEADER)))
def test_a_flipped_bit_in_the_head_is_refused_or_harmless(tmp_path: Path, byte: int) -> None:
    for bit in range(8):
        data = bytearray(VALID)
        data[byte] ^= 1 << bit
        path = written(tmp_path, bytes(data))
        try:
            header = read(path)
        except MalformedError:
            continue
        assert sum(tensor.info.n_bytes for tensor in header.tensors.values()) == len(DATA)


VALID_ONES = [
    ("no tensors", packed("{}"), {}),
    ("metadata alone", packed('{"__metadata__":{"a":"b"}}'), {}),
    ("metadata empty", packed('{"__metadata__":{}}'), {}),
    ("space before the header", packed(' \n{"t":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"7"), {"t": ()}),
    ("no weights", of(entry(shape=[0, 1 << 40], offsets=[0, 0]), entry(), data=4), {"t0": (0, 1 << 40), "t1": (4,)}),
    ("a length like a pickle's first bytes", packed(b"{}".ljust(0x280)), {}),
    ("a length like gzip's first bytes", packed(b"{}".ljust(0x8B1F)), {}),
    ("any order in the header", of(entry(offsets=[4, 8]), entry(), data=8), {"t0": (4,), "t1": (4,)}),
]


@pytest.mark.parametrize(("data", "shapes"), [case[1:] for case in VALID_ONES], ids=[case[0] for case in VALID_ONES])
def test_an_odd_but_right_file_is_read(tmp_path: Path, data: bytes, shapes: dict[str, tuple[int, ...]]) -> None:
    assert {name: tensor.info.shape for name, tensor in read(written(tmp_path, data)).tensors.items()} == shapes


def test_many_tensors_are_read_in_seconds(tmp_path: Path) -> None:
    n = 100_000
    head, _ = safetensors.head([TensorInfo(f"model.layers.{i}.weight", dtypes.U8, (1,)) for i in range(n)], {})
    path = written(tmp_path, head + bytes(n))
    start = time.process_time()
    assert len(read(path).tensors) == n
    assert time.process_time() - start < 10


def test_a_head_refuses_what_safetensors_has_no_name_for() -> None:
    with pytest.raises(ValueError, match="safetensors has no Q4_0"):
        safetensors.head([TensorInfo("a", dtypes.Q4_0, (32,))], {})
