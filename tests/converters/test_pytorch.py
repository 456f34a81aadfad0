"""PyTorch's files: torch writes and judges, and everything else that is called .bin is named for what it is."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from converters import dtypes
from converters.errors import MalformedError, UnsafeError, UnsupportedError
from converters.formats import pytorch
from converters.input_file import InputFile
from tests.fakes.audit import audited


def saved(value: object, **options: object) -> bytes:
    memory = io.BytesIO()
    torch.save(value, memory, **options)  # type: ignore[arg-type]
    return memory.getvalue()


def read(folder: Path, data: bytes) -> dict[str, tuple[dtypes.DType, tuple[int, ...], bytes]]:
    """Type, shape and bytes of every tensor. Nothing may be imported or opened meanwhile."""
    path = folder / "model.bin"
    path.write_bytes(data)
    with InputFile(path) as file, audited() as events:
        tensors = pytorch.read_tensors(file)
        read = {
            name: (each.info.dtype, each.info.shape, each.read_rows(0, each.info.n_rows).tobytes())
            for name, each in tensors.items()
        }
    assert events == []
    return read


def refused(folder: Path, data: bytes, error: type[MalformedError]) -> MalformedError:
    path = folder / "model.bin"
    path.write_bytes(data)
    with InputFile(path) as file, audited() as events, pytest.raises(MalformedError) as caught:
        pytorch.read_tensors(file)
    assert events == []
    assert type(caught.value) is error, caught.value
    return caught.value


TYPES = {
    torch.float32: dtypes.F32, torch.float16: dtypes.F16, torch.bfloat16: dtypes.BF16, torch.float64: dtypes.F64,
    torch.int8: dtypes.I8, torch.int16: dtypes.I16, torch.int32: dtypes.I32, torch.int64: dtypes.I64,
    torch.uint8: dtypes.U8, torch.bool: dtypes.BOOL, torch.complex64: dtypes.C64,
}  # fmt: skip


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_tensor_is_read_as_torch_reads_it(tmp_path: Path, dtype: torch.dtype) -> None:
    data = saved({"a": torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)})
    theirs = torch.load(io.BytesIO(data), weights_only=True)["a"]
    assert read(tmp_path, data) == {"a": (TYPES[dtype], (2, 3), theirs.view(torch.uint8).numpy().tobytes())}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    tensors = read(tmp_path, saved(torch.nn.Linear(3, 2).state_dict(), pickle_protocol=protocol))
    assert {name: (dtype, shape) for name, (dtype, shape, _) in tensors.items()} == {
        "weight": (dtypes.F32, (2, 3)), "bias": (dtypes.F32, (2,)),
    }  # fmt: skip


def test_a_state_dictionary_of_a_module_is_read(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    tensors = read(tmp_path, saved(module.state_dict()))
    assert {name: shape for name, (_, shape, _) in tensors.items()} == {
        "0.weight": (2, 3), "0.bias": (2,), "1.weight": (2,), "1.bias": (2,),
    }  # fmt: skip
    for name, weight in module.state_dict().items():
        assert tensors[name][2] == weight.numpy().tobytes()


def test_parameters_scalars_and_empty_tensors_are_read(tmp_path: Path) -> None:
    value = {
        "p": torch.nn.Parameter(torch.ones(2)),
        "s": torch.tensor(7.0),
        "e": torch.zeros(0, 4),
        "1": torch.ones(1, 2).T,
    }
    tensors = read(tmp_path, saved(OrderedDict(value)))
    assert {name: shape for name, (_, shape, _) in tensors.items()} == {"p": (2,), "s": (), "e": (0, 4), "1": (2, 1)}
    assert np.frombuffer(tensors["s"][2], np.float32).tolist() == [7.0]


def test_rows_of_a_larger_storage_are_read_where_they_lie(tmp_path: Path) -> None:
    whole = torch.arange(40, dtype=torch.float32).reshape(10, 4)
    tensors = read(tmp_path, saved({"whole": whole, "rows": whole[3:5], "row": whole[7], "cell": whole[2, 3]}))
    assert np.frombuffer(tensors["rows"][2], np.float32).tolist() == list(range(12, 20))
    assert np.frombuffer(tensors["row"][2], np.float32).tolist() == [28, 29, 30, 31]
    assert np.frombuffer(tensors["cell"][2], np.float32).tolist() == [11]


def test_tied_tensors_share_their_bytes(tmp_path: Path) -> None:
    weight = torch.randn(1000, 10)
    path = tmp_path / "model.bin"
    path.write_bytes(saved({f"t{i}": weight for i in range(100)}))
    with InputFile(path) as file:
        tensors = pytorch.read_tensors(file)
        assert len(tensors) == 100
        assert len({tensor.offset_in_file for tensor in tensors.values()}) == 1


WEIGHT = torch.arange(24.0).reshape(4, 6)
MATRICES = {
    "transposed": WEIGHT.T,
    "columns": WEIGHT[:, 1:3],
    "columns of the transposed": WEIGHT.T[:, 1:3],
    "rows of the transposed": WEIGHT.T[2:5],
    "every other row": WEIGHT[::2],
    "every other column of the transposed": WEIGHT.T[:, ::2],
    "one column": WEIGHT[:, 2:3],
    "one column as a vector": WEIGHT[:, 2],
    "every third weight": torch.arange(24.0)[1::3],
    "one row of every other weight": WEIGHT[1:2, ::2],
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("archive", [True, False], ids=["zip", "legacy"])
def test_a_matrix_that_lies_apart_is_read_as_torch_reads_it(tmp_path: Path, name: str, archive: bool) -> None:
    data = saved({"fine": WEIGHT, name: MATRICES[name]}, _use_new_zipfile_serialization=archive)
    tensors = read(tmp_path, data)
    assert tensors[name][1] == tuple(MATRICES[name].shape)
    assert np.frombuffer(tensors[name][2], np.float32).tolist() == MATRICES[name].flatten().tolist()


VIEWS = {
    "expanded": WEIGHT[:1].expand(5, 6),
    "every other row and column": WEIGHT[::2, ::2],
    "overlapping": WEIGHT.as_strided((3, 4), (2, 1)),
    "three axes, turned": torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_of_another_kind_is_named(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path, saved({"fine": WEIGHT, name: VIEWS[name]}), UnsupportedError)
    assert error.field == name
    assert error.allowed.startswith("a row-major run of its storage, ")


ONE, TWO = torch.ones(2), torch.zeros(3)
SELECTED = [
    ("a plain dictionary", {"a": ONE}, {"a"}),
    (
        "what is no tensor is left out",
        {"a": ONE, "epoch": 3, "lr": 0.1, "name": "x", "none": None, "list": [TWO]},
        {"a"},
    ),
    ("state_dict", {"state_dict": {"a": ONE}, "optimizer": {"state": {0: {"exp_avg": TWO}}}, "step": TWO}, {"a"}),
    ("model", {"model": OrderedDict(a=ONE), "ema": {"a": TWO}}, {"a"}),
    ("module", {"module": {"a": ONE}, "dp_world_size": 8}, {"a"}),
    ("state_dict before model", {"model": {"b": ONE}, "state_dict": {"a": ONE}}, {"a"}),
    ("model inside state_dict", {"state_dict": {"model": {"a": ONE}}}, {"a"}),
    ("a tensor called model", {"model": ONE, "b": ONE}, {"model", "b"}),
]


@pytest.mark.parametrize(("value", "names"), [case[1:] for case in SELECTED], ids=[case[0] for case in SELECTED])
def test_the_model_is_found_among_other_things(tmp_path: Path, value: object, names: set[str]) -> None:
    assert read(tmp_path, saved(value)).keys() == names


# A pickle by hand, so that every part of a tensor can be a lie.


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(whole(value) for value in values) + b"t"


FLOATS = b"ctorch\nFloatStorage\n"
PARAMETER = b"ctorch._utils\n_rebuild_parameter\n"


def tensor(
    *,
    tag: bytes = text("storage"),
    kind: bytes = FLOATS,
    key: bytes = text("0"),
    device: bytes = text("cpu"),
    n: bytes = whole(6),
    more: bytes = b"",
    persistent: bytes | None = None,
    offset: bytes = whole(0),
    shape: bytes = numbers(2, 3),
    strides: bytes = numbers(3, 1),
    tail: bytes = b"\x89}",
    function: bytes = b"ctorch._utils\n_rebuild_tensor_v2\n",
) -> bytes:
    if persistent is None:
        persistent = b"(" + tag + kind + key + device + n + more + b"tQ"
    return function + b"(" + persistent + offset + shape + strides + tail + b"tR"


def archive(pickled: bytes, **records: bytes) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as file:
        file.writestr("m/data.pkl", pickled)
        for name, data in ({"data/0": np.arange(6, dtype=np.float32).tobytes()} | records).items():
            file.writestr(f"m/{name}", data)
    return memory.getvalue()


def model(of: bytes, **records: bytes) -> bytes:
    return archive(b"\x80\x02}" + text("w") + of + b"s.", **records)


def test_one_storage_is_of_one_type(tmp_path: Path) -> None:
    """torch takes the first for both, so that the second would be other numbers there than here."""
    two = text("a") + tensor() + text("b") + tensor(kind=b"ctorch\nIntStorage\n")
    error = refused(tmp_path, archive(b"\x80\x02}(" + two + b"u."), MalformedError)
    assert (error.field, error.found, error.allowed) == ("b", "m/data/0 as I32", "F32, as another tensor has it")


VALID = [
    ("by hand", tensor()),
    ("a device that is not here", tensor(device=text("cuda:99"))),
    ("the meta device", tensor(device=text("meta"))),
    ("with metadata", tensor(tail=b"\x89}}")),
    ("any stride for a length of one", tensor(shape=numbers(1, 6), strides=numbers(999, 1))),
]


@pytest.mark.parametrize("of", [case[1] for case in VALID], ids=[case[0] for case in VALID])
def test_a_tensor_made_by_hand_is_read(tmp_path: Path, of: bytes) -> None:
    dtype, _, data = read(tmp_path, model(of))["w"]
    assert (dtype, np.frombuffer(data, np.float32).tolist()) == (dtypes.F32, [0, 1, 2, 3, 4, 5])


LIES = [
    ("five arguments", tensor(tail=b"")),
    ("nine arguments", tensor(tail=b"NNNNN")),
    ("no storage", tensor(persistent=b"N")),
    ("an id that is text", tensor(persistent=text("storage 0") + b"Q")),
    ("an id of four parts", tensor(device=b"")),
    ("an id of six parts", tensor(more=b"N")),
    ("another tag", tensor(tag=text("module"))),
    ("a key that is a path", tensor(key=text("../x"))),
    ("a key that is absolute", tensor(key=text("/etc/passwd"))),
    ("a key with a backslash", tensor(key=text("..\\x"))),
    ("an empty key", tensor(key=text(""))),
    ("a key that is a number", tensor(key=b"K\x00")),
    ("a key without a record", tensor(key=text("1"))),
    ("one element fewer", tensor(n=whole(5))),
    ("one element more", tensor(n=whole(7))),
    ("twice the elements", tensor(n=whole(12))),
    ("2^62 elements", tensor(n=whole(1 << 62))),
    ("a negative number of elements", tensor(n=whole(-6))),
    ("elements in text", tensor(n=text("6"))),
    ("a boolean for elements", tensor(n=b"\x88")),
    ("a shape in text", tensor(shape=text("2,3"))),
    ("a shape that is a list", tensor(shape=b"]")),
    ("a shape of text", tensor(shape=b"(" + text("2") + text("3") + b"t")),
    ("a negative length", tensor(shape=numbers(-2, 3))),
    ("a length of 2^63", tensor(shape=numbers(1 << 63, 3))),
    ("a negative stride", tensor(strides=numbers(-3, 1))),
    ("fewer strides than lengths", tensor(strides=numbers(1))),
    ("65 dimensions", tensor(shape=numbers(*[1] * 65), strides=numbers(*[1] * 65))),
    ("an offset of 2^62", tensor(offset=whole(1 << 62))),
    ("a negative offset", tensor(offset=whole(-1))),
    ("an offset of one", tensor(offset=whole(1))),
    ("a row too many", tensor(shape=numbers(3, 3))),
    ("no weights, far away", tensor(shape=numbers(0, 3), offset=whole(7))),
    ("a parameter of a number", PARAMETER + b"(K\x01\x88}tR"),
    ("a parameter of a parameter", PARAMETER + b"(" + PARAMETER + b"(NNNtR\x88}tR"),
    ("a parameter of nothing", PARAMETER + b")R"),
]  # fmt: skip


@pytest.mark.parametrize("of", [case[1] for case in LIES], ids=[case[0] for case in LIES])
def test_a_tensor_that_lies_is_named(tmp_path: Path, of: bytes) -> None:
    assert refused(tmp_path, model(of), MalformedError).field == "w"


UNREAD = [
    ("stride 0 of a huge length", tensor(shape=numbers(1 << 62), strides=numbers(0)), "strides"),
    ("overlapping rows", tensor(shape=numbers(2, 3), strides=numbers(1, 1)), "strides"),
    ("a storage of bytes", tensor(kind=b"ctorch.storage\nUntypedStorage\n"), "a storage of torch.storage.Untyped"),
    ("a storage that is text", tensor(kind=text("FloatStorage")), "a storage of str"),
    ("a storage that is a function", tensor(kind=PARAMETER), "a storage of torch._utils."),
    ("a quantized tensor", tensor(function=b"ctorch._utils\n_rebuild_qtensor\n"), "a tensor by torch._utils._rebuild"),
]  # fmt: skip


@pytest.mark.parametrize(("of", "found"), [case[1:] for case in UNREAD], ids=[case[0] for case in UNREAD])
def test_a_tensor_that_we_cannot_read_is_named(tmp_path: Path, of: bytes, found: str) -> None:
    error = refused(tmp_path, model(of), UnsupportedError)
    assert error.field == "w"
    assert str(error.found).startswith(found)


def test_float8_is_named_and_not_read(tmp_path: Path) -> None:
    error = refused(tmp_path, saved({"w": torch.ones(4).to(torch.float8_e4m3fn)}), UnsupportedError)
    assert error.field == "w"


def test_one_storage_taken_for_many_tensors_is_bounded(tmp_path: Path) -> None:
    """500 tensors of one storage, each a little longer than the one before, would be 125 times the file."""
    data = np.zeros(2000, np.float32).tobytes()
    parts = [
        text(f"t{i}") + tensor(n=whole(2000), shape=numbers(1500 + i), strides=numbers(1)) for i in range(500)
    ]  # fmt: skip
    error = refused(tmp_path, archive(b"\x80\x02}(" + b"".join(parts) + b"u.", **{"data/0": data}), MalformedError)
    assert str(error.found).startswith("tensors of ")


def test_weights_that_were_changed_are_found_by_their_crc(tmp_path: Path) -> None:
    data = bytearray(saved({"w": torch.arange(6.0)}))
    data[data.index(np.arange(6, dtype=np.float32).tobytes()) + 23] ^= 1
    error = refused(tmp_path, bytes(data), MalformedError)
    assert error.field == "archive/data/0"
    assert str(error.found).startswith("CRC-32 ")


@pytest.mark.parametrize("folder", ["", ".", "..", "C:", "a\\b", "a\nb"])
def test_an_archive_whose_folder_is_a_path_is_refused(tmp_path: Path, folder: str) -> None:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as file:
        for name, data in (("data.pkl", b"\x80\x02}."), ("data/0", b"1234")):
            file.writestr(f"{folder}/{name}", data)
    assert refused(tmp_path, memory.getvalue(), MalformedError).allowed == "a plain name"


BYTE_ORDERS = [
    (b"little", None),
    (b"big", UnsupportedError),
    (b"LITTLE", MalformedError),
    (b"", MalformedError),
    (b"x" * (1 << 20), MalformedError),
]


@pytest.mark.parametrize(("order", "error"), BYTE_ORDERS, ids=["little", "big", "capitals", "nothing", "1 MB"])
def test_the_byte_order_is_obeyed(tmp_path: Path, order: bytes, error: type[MalformedError] | None) -> None:
    data = model(tensor(), byteorder=order)
    if error is None:
        assert read(tmp_path, data).keys() == {"w"}
    else:
        assert refused(tmp_path, data, error).field == "m/byteorder"


def tar() -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as file:
        file.addfile(tarfile.TarInfo("storages"))
    return memory.getvalue()


def zipped(*names: str) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as file:
        for name in names:
            file.writestr(name, b"1")
    return memory.getvalue()


def npz() -> bytes:
    memory = io.BytesIO()
    np.savez(memory, a=np.ones(3))
    return memory.getvalue()


class Attack:
    def __reduce__(self) -> object:
        return (print, ("never",))


def old(value: object) -> bytes:
    """As torch.save wrote before 1.6: pickles one after another, the first of them a magic number of 14 bytes."""
    return saved(value, _use_new_zipfile_serialization=False)


ITSELF = archive(b"\x80\x02}q\x00" + text("model") + b"h\x00s.")
CHANGED = saved({"a": ONE}).replace(b"torch._utils", b"torch._evils")
NO_CHECKPOINTS = [
    ("nothing", b"", MalformedError, "an empty file"),
    ("PK alone", b"PK", MalformedError, "a file that begins with b'PK'"),
    ("a picture", b"\x89PNG\r\n\x1a\n" + bytes(40), MalformedError, "a PNG image"),
    ("a page", b"<html><body>404</body></html>", MalformedError, "an HTML page"),
    ("an LFS pointer", b"version https://git-lfs.github.com/spec/v1\n", MalformedError, "a Git LFS pointer"),
    ("safetensors", b"\x02" + bytes(7) + b"{}", MalformedError, "a safetensors file"),
    ("a GGUF", b"GGUF\x03\x00\x00\x00" + bytes(32), MalformedError, "a GGUF file"),
    ("gzip", gzip.compress(saved({"a": ONE})), UnsupportedError, "a gzip file: a compressed container"),
    ("7z", b"7z\xbc\xaf\x27\x1c" + bytes(40), UnsupportedError, "a 7z archive: a compressed container"),
    ("xz", b"\xfd7zXZ\x00" + bytes(40), UnsupportedError, "an xz file: a compressed container"),
    ("bzip2", b"BZh9" + bytes(40), UnsupportedError, "a bzip2 file: a compressed container"),
    ("zstd", b"\x28\xb5\x2f\xfd" + bytes(40), UnsupportedError, "a zstd file: a compressed container"),
    ("tar", tar(), UnsafeError, "a tar archive of PyTorch 0.1"),
    ("npy", b"\x93NUMPY\x01\x00" + bytes(40), UnsafeError, "a NumPy file"),
    ("npz", npz(), UnsafeError, "NumPy arrays"),
    ("TorchScript", zipped("m/data.pkl", "m/constants.pkl", "m/version"), UnsafeError, "a TorchScript program"),
    ("TorchScript's code", zipped("m/data.pkl", "m/code/__torch__.py"), UnsafeError, "a TorchScript program"),
    ("a model archive", zipped("MAR-INF/MANIFEST.json"), UnsafeError, "a model archive of TorchServe"),
    ("ExecuTorch", b"\x00\x00\x00\x00ET12" + bytes(40), UnsafeError, "an ExecuTorch program"),
    ("a zip of something", zipped("m/readme"), MalformedError, "an archive without data.pkl"),
    ("an attack in a zip", saved({"a": Attack()}), UnsafeError, "__builtin__.print"),
    ("a bare attack", pickle.dumps(Attack()), UnsafeError, "builtins.print"),
    ("a bare attack, protocol 0", pickle.dumps(Attack(), 0), UnsafeError, "__builtin__.print"),
    ("a whole module", saved(torch.nn.Linear(2, 2)), UnsafeError, "torch.nn.modules.linear.Linear"),
    ("a bare pickle", pickle.dumps({"a": 1}), UnsupportedError, "a bare pickle"),
    ("an attack from before 1.6", old({"a": Attack()}), UnsafeError, "__builtin__.print"),
    ("an attack behind the number", old(0)[:14] + pickle.dumps(Attack()), UnsafeError, "builtins.print"),
    ("a pickle cut short", pickle.dumps({"a": "b"})[:9], MalformedError, ""),
    ("a tensor alone", saved(ONE), UnsupportedError, "Call"),
    ("a list of tensors", saved([ONE]), UnsupportedError, "list"),
    ("no tensors", saved({"a": 1}), MalformedError, "no tensors"),
    ("names that are numbers", saved({1: ONE}), MalformedError, "1 as a tensor's name"),
    ("a model in itself", ITSELF, UnsupportedError, "dictionaries without end"),
    ("a pickle that was changed", CHANGED, MalformedError, "CRC-32"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "error", "found"), [case[1:] for case in NO_CHECKPOINTS], ids=[case[0] for case in NO_CHECKPOINTS]
)
def test_what_is_no_state_dictionary_is_called_by_its_name(
    tmp_path: Path, data: bytes, error: type[MalformedError], found: str
) -> None:
    assert str(refused(tmp_path, data, error).found).startswith(found)


@pytest.mark.parametrize(
    "kind", ["npz", "tar", "gzip", "a bare pickle", "an attack in a zip", "a bare attack, protocol 0"]
)
def test_what_pretends_is_still_judged_here(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(next(case[1] for case in NO_CHECKPOINTS if case[0] == kind))
    assert pytorch.sniff(path)


def test_other_things_are_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"<html>")
    assert not pytorch.sniff(path)
    assert not pytorch.sniff(tmp_path)
    assert not pytorch.sniff(tmp_path / "nothing")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = saved({"a": torch.arange(6.0)})
    for length in range(0, len(data), 7):
        path = tmp_path / "model.bin"
        path.write_bytes(data[:length])
        with InputFile(path) as file, pytest.raises(MalformedError):
            pytorch.read_tensors(file)
