"""Files from before PyTorch 1.6: torch still writes them and judges; what they say of themselves must be true."""

from __future__ import annotations

import io
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from converters import dtypes
from converters.errors import MalformedError, UnsafeError, UnsupportedError
from converters.formats import open_checkpoint, pytorch
from converters.input_file import InputFile
from tests.converters.test_pytorch import FLOATS, TYPES, numbers, read, refused, tensor, text, whole
from tests.fakes import tiny_llama


def saved(value: object, **options: object) -> bytes:
    memory = io.BytesIO()
    torch.save(value, memory, _use_new_zipfile_serialization=False, **options)  # type: ignore[arg-type]
    return memory.getvalue()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_tensor_is_read_as_torch_reads_it(tmp_path: Path, dtype: torch.dtype) -> None:
    data = saved({"a": torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)})
    theirs = torch.load(io.BytesIO(data), weights_only=True)["a"]
    assert read(tmp_path, data) == {"a": (TYPES[dtype], (2, 3), theirs.view(torch.uint8).numpy().tobytes())}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_read(tmp_path: Path, protocol: int) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    tensors = read(tmp_path, saved(module.state_dict(), pickle_protocol=protocol))
    assert {name: data for name, (_, _, data) in tensors.items()} == {
        name: weight.numpy().tobytes() for name, weight in module.state_dict().items()
    }


def test_shared_storages_of_several_types_are_found_by_their_keys(tmp_path: Path) -> None:
    whole = torch.arange(40, dtype=torch.float32).reshape(10, 4)
    value = {"whole": whole, "rows": whole[3:5], "half": torch.ones(3).half(), "again": whole, "none": torch.zeros(0)}
    tensors = read(tmp_path, saved(OrderedDict(value)))
    assert {name: (shape, data) for name, (_, shape, data) in tensors.items()} == {
        name: (tuple(each.shape), each.numpy().tobytes()) for name, each in value.items()
    }


def test_nothing_but_the_pickles_is_read(tmp_path: Path) -> None:
    """Tensors are runs of the file: those of one storage share it, and 4 MB of weights stay where they are."""
    weight = torch.zeros(1 << 20)
    path = tmp_path / "model.bin"
    path.write_bytes(saved({"a": weight, "b": weight}))
    with InputFile(path) as file:
        tensors = pytorch.read_tensors(file)
    assert tensors["a"].offset_in_file == tensors["b"].offset_in_file == path.stat().st_size - (4 << 20)


def test_a_folder_of_legacy_files_opens_as_one_of_archives(tmp_path: Path) -> None:
    folders = [tiny_llama.write(tmp_path / name, container="bin-sharded", tied=True) for name in ("new", "old")]
    for path in folders[1].glob("*.bin"):
        path.write_bytes(saved(torch.load(path)))
    with open_checkpoint(folders[0]) as new, open_checkpoint(folders[1]) as old:
        assert list(new.tensors) == list(old.tensors)
        for name, each in new.tensors.items():
            n_rows = each.info.n_rows
            assert old.tensors[name].info == each.info
            assert old.tensors[name].read_rows(0, n_rows).tobytes() == each.read_rows(0, n_rows).tobytes()


# By hand, so that every part can be a lie.

VALUES = np.arange(6, dtype=np.float32).tobytes()
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def legacy(
    *tensors: bytes,
    magic: bytes = pickle.dumps(0x1950A86A20F9469CFC6C, 2),
    protocol: bytes = pickle.dumps(1001, 2),
    system: object = SYSTEM,
    keys: bytes = pickle.dumps(["0"], 2),
    storages: bytes = struct.pack("<Q", 6) + VALUES,
) -> bytes:
    items = b"".join(text(chr(ord("a") + i)) + each for i, each in enumerate(tensors or (of(),)))
    return magic + protocol + pickle.dumps(system, 2) + b"\x80\x02}(" + items + b"u." + keys + storages


def of(**parts: bytes) -> bytes:
    """A tensor whose storage is named as in these files: with a view, or None."""
    return tensor(**({"more": b"N"} | parts))


def view(key: str = "v", first: int = 2, n: int = 4) -> bytes:
    return b"(" + text(key) + whole(first) + whole(n) + b"t"


VALID = [
    ("as torch writes it", legacy(), [0, 1, 2, 3, 4, 5]),
    ("a device that is not here", legacy(of(device=text("cuda:7"))), [0, 1, 2, 3, 4, 5]),
    ("a view", legacy(of(more=view(), shape=numbers(2, 2), strides=numbers(2, 1))), [2, 3, 4, 5]),
    ("in a view, further on", legacy(of(more=view(), offset=whole(1), shape=numbers(2), strides=numbers(1))), [3, 4]),
    ("a view of nothing", legacy(of(more=view("v", 6, 0), shape=numbers(0), strides=numbers(1))), []),
    ("from a big machine", legacy(system=SYSTEM | {"type_sizes": {"long": 8}}), [0, 1, 2, 3, 4, 5]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "values"), [case[1:] for case in VALID], ids=[case[0] for case in VALID])
def test_what_torch_could_have_written_is_read(tmp_path: Path, data: bytes, values: list[int]) -> None:
    theirs = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    assert theirs["a"].flatten().tolist() == values
    dtype, shape, stored = read(tmp_path, data)["a"]
    assert (dtype, shape) == (dtypes.F32, tuple(theirs["a"].shape))
    assert np.frombuffer(stored, np.float32).tolist() == values


TENSORS, KEYS = "pickle of the tensors", "pickle of the storage keys"
TWICE = pickle.dumps(["0", "0"], 2)
LIES: list[tuple[str, bytes, type[MalformedError], str]] = [
    ("another magic number", legacy(magic=pickle.dumps(0x1950A86A20F9469CFC6D, 2)), UnsupportedError, "file"),
    ("a magic text", legacy(magic=pickle.dumps("PyTorch", 2)), UnsupportedError, "file"),
    ("protocol 1002", legacy(protocol=pickle.dumps(1002, 2)), MalformedError, "pickle of the protocol"),
    ("protocol 1001.0", legacy(protocol=pickle.dumps(1001.0, 2)), MalformedError, "pickle of the protocol"),
    ("protocol 1001 in text", legacy(protocol=pickle.dumps("1001", 2)), MalformedError, "pickle of the protocol"),
    ("big-endian", legacy(system=SYSTEM | {"little_endian": False}), UnsupportedError, "pickle of the system"),
    ("endian 1", legacy(system=SYSTEM | {"little_endian": 1}), MalformedError, "pickle of the system"),
    ("no endian", legacy(system={}), MalformedError, "pickle of the system"),
    ("an endian nested very deep", legacy(system={}).replace(pickle.dumps({}, 2), b"\x80\x02}" + text("little_endian") +
     b"]" + b"]" * 100_000 + b"a" * 100_000 + b"s."), MalformedError, "pickle of the system"),
    ("a protocol nested very deep", legacy(protocol=b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
     MalformedError, "pickle of the protocol"),
    ("a system that is a list", legacy(system=[True]), MalformedError, "pickle of the system"),
    ("no keys", legacy(keys=pickle.dumps([], 2)), MalformedError, KEYS),
    ("a key more", legacy(keys=pickle.dumps(["0", "1"], 2)), MalformedError, KEYS),
    ("another key", legacy(keys=pickle.dumps(["1"], 2)), MalformedError, KEYS),
    ("a key twice", legacy(keys=TWICE, storages=2 * (struct.pack("<Q", 6) + VALUES)), MalformedError, KEYS),
    ("keys that are numbers", legacy(keys=pickle.dumps([0], 2)), MalformedError, KEYS),
    ("keys in a tuple", legacy(keys=pickle.dumps(("0",), 2)), MalformedError, KEYS),
    ("keys in a dictionary", legacy(keys=pickle.dumps({"0": 0}, 2)), MalformedError, KEYS),
    ("keys that are lists", legacy(keys=pickle.dumps([["0"]], 2)), MalformedError, KEYS),
    ("a key that is a path", legacy(of(key=text("../0")), keys=pickle.dumps(["../0"], 2)), MalformedError, TENSORS),
    ("no storages", legacy(storages=b""), MalformedError, "storage 0"),
    ("a length cut short", legacy(storages=b"\x06\x00\x00\x00"), MalformedError, "storage 0"),
    ("a storage cut short", legacy(storages=struct.pack("<Q", 6) + VALUES[:-1]), MalformedError, "storage 0"),
    ("a byte too many", legacy(storages=struct.pack("<Q", 6) + VALUES + b"x"), MalformedError, "file"),
    ("an archive behind it", legacy(storages=struct.pack("<Q", 6) + VALUES + b"PK\x03\x04"), MalformedError, "file"),
    ("another length", legacy(storages=struct.pack("<Q", 5) + VALUES), MalformedError, "storage 0"),
    ("a length of 2^64 - 1", legacy(storages=b"\xff" * 8 + VALUES), MalformedError, "storage 0"),
    ("2^62 elements, twice", legacy(of(n=whole(1 << 62)), storages=struct.pack("<Q", 1 << 62) + VALUES),
     MalformedError, "storage 0"),
    ("one storage, two lengths", legacy(of(), of(n=whole(5))), MalformedError, TENSORS),
    ("one storage, two types", legacy(of(), of(kind=b"ctorch\nIntStorage\n")), MalformedError, TENSORS),
    ("one view, two places", legacy(of(more=view(), shape=numbers(2), strides=numbers(1)),
     of(more=view("v", 1, 4), shape=numbers(2), strides=numbers(1))), MalformedError, TENSORS),
    ("a view with a storage's key", legacy(of(more=view("0", 0, 6))), MalformedError, TENSORS),
    ("a view past the end", legacy(of(more=view("v", 2, 5))), MalformedError, "a"),
    ("a view at 2^62", legacy(of(more=view("v", 1 << 62, 1))), MalformedError, "a"),
    ("a tensor past its view", legacy(of(more=view())), MalformedError, "a"),
    ("a view of two parts", legacy(of(more=b"(" + text("v") + whole(0) + b"t")), MalformedError, TENSORS),
    ("a view that is a number", legacy(of(more=whole(0))), MalformedError, TENSORS),
    ("a negative view", legacy(of(more=view("v", -1, 4))), MalformedError, TENSORS),
    ("an id of five parts, as in archives", legacy(of(more=b"")), MalformedError, TENSORS),
    ("an id of seven parts", legacy(of(more=b"NN")), MalformedError, TENSORS),
    ("a module's id", legacy(of(tag=text("module"))), MalformedError, TENSORS),
    ("a storage of bytes", legacy(of(kind=b"ctorch.storage\nUntypedStorage\n")), UnsupportedError, TENSORS),
    ("elements in text", legacy(of(n=text("6"))), MalformedError, TENSORS),
    ("a storage that no tensor has", legacy(b"(" + text("storage") + FLOATS + text("1") + text("cpu") + whole(6) +
     b"NtQ", of()), MalformedError, KEYS),
    ("a row too many", legacy(of(shape=numbers(3, 3))), MalformedError, "a"),
    ("no tensors", legacy(b"K\x01", keys=pickle.dumps([], 2), storages=b""), MalformedError, TENSORS),
    ("code in the magic number", legacy(magic=b"cos\nsystem\n."), UnsafeError, "pickle: GLOBAL"),
    ("code in the protocol", legacy(protocol=b"cos\nsystem\n."), UnsafeError, "pickle of the protocol: GLOBAL"),
    ("code in the tensors", legacy(b"cposix\nsystem\n(S'id'\ntR"), UnsafeError, f"{TENSORS}: GLOBAL"),
    ("code in the keys", legacy(keys=b"cos\nsystem\n(S'id'\ntR."), UnsafeError, f"{KEYS}: GLOBAL"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "error", "field"), [case[1:] for case in LIES], ids=[case[0] for case in LIES])
def test_a_file_that_lies_is_refused(tmp_path: Path, data: bytes, error: type[MalformedError], field: str) -> None:
    assert refused(tmp_path, data, error).field == field


def test_the_offset_of_code_is_that_in_the_file(tmp_path: Path) -> None:
    data = legacy(keys=b"\x80\x02cos\nsystem\n.")
    assert refused(tmp_path, data, UnsafeError).offset == data.index(b"cos\nsystem")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    data = saved({"a": torch.arange(6.0)})
    for length in range(1, len(data)):
        path = tmp_path / "model.bin"
        path.write_bytes(data[:length])
        with InputFile(path) as file, pytest.raises(MalformedError):
            pytorch.read_tensors(file)
