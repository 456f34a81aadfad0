"""PyTorch's files (.bin, .pth, .pt) as torch.save writes them since 1.6, read without torch and without running them.

    NAME/data.pkl    a pickle: dictionaries whose tensors are calls of `torch._utils._rebuild_tensor_v2(storage,
                     offset in elements, shape, strides, …)`; a storage is the persistent id ("storage", class, key,
                     device, number of elements)
    NAME/data/KEY    the bytes of a storage
    NAME/byteorder   "little" or "big"; absent in older files, which are little-endian
    NAME/version …   of no use here

in a zip archive (`converters.formats.zip_records`); torch/serialization.py and torch/_utils.py of PyTorch.

**Which tensors.** A dictionary inside the outermost one under "state_dict", "model" or "module" is the model, if there
is one (and so on inside it); else the outermost is. What is no tensor in it (epochs, optimizers, options) is left out.
Two names may share a storage. A tensor must be a row-major run of its storage; other strides are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeGuard

from converters import dtypes
from converters.dtypes import DType
from converters.errors import ConversionError, MalformedError, UnsafeError, UnsupportedError
from converters.formats import signatures, unpickler, zip_records
from converters.formats.signatures import Signature
from converters.formats.unpickler import Call, Global, Persistent
from converters.formats.zip_records import Record
from converters.input_file import InputFile
from converters.tensors import StoredTensor, TensorInfo

_LARGEST_PICKLE = 64 << 20
_MOST_DIMENSIONS = 64
_WRAPPERS = ("state_dict", "model", "module")
_DEEPEST_WRAPPER = 4
# Tensors that share storages may add up to more than the file, but no model says everything this often.
_MOST_EXPANSION = 4

_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_STORAGES = {
    "torch.FloatStorage": dtypes.F32, "torch.HalfStorage": dtypes.F16, "torch.BFloat16Storage": dtypes.BF16,
    "torch.DoubleStorage": dtypes.F64, "torch.CharStorage": dtypes.I8, "torch.ShortStorage": dtypes.I16,
    "torch.IntStorage": dtypes.I32, "torch.LongStorage": dtypes.I64, "torch.ByteStorage": dtypes.U8,
    "torch.BoolStorage": dtypes.BOOL, "torch.ComplexFloatStorage": dtypes.C64,
}  # fmt: skip
# Tensors that we know of and cannot read yet; as names they do no harm, and so the tensor can be named.
_UNREAD = {"torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_qtensor", "torch._utils._rebuild_sparse_tensor"}
_PLAIN = {
    "torch.storage.UntypedStorage", "torch.QInt8Storage", "torch.QUInt8Storage", "torch.QInt32Storage",
    "torch.ComplexDoubleStorage", "torch.Size", "torch.device", "torch.float8_e4m3fn", "torch.float8_e5m2",
    "torch.uint16", "torch.uint32", "torch.uint64", "torch.float32", "torch.float16", "torch.bfloat16",
    "torch.per_tensor_affine", "torch.per_channel_affine", "torch.serialization._get_layout",
}  # fmt: skip
_ALLOWED = frozenset({unpickler.ORDERED_DICT, _TENSOR, _PARAMETER, *_STORAGES, *_UNREAD, *_PLAIN})

_KEY = re.compile(r"[0-9A-Za-z_]{1,64}")
_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # with which torch.save began before it wrote zip archives
_RUNS_CODE = {
    Signature.TAR: "a tar archive of PyTorch 0.1, which is not opened",
    Signature.NUMPY: "a NumPy file, which may hold pickled objects",
    Signature.EXECUTORCH: "an ExecuTorch program",
}


def sniff(path: Path) -> bool:
    """Whether this is a file that torch.save made, or one that only pretends to be: all of them are judged here."""
    try:
        with InputFile(path) as file:
            signature = signatures.of(file.read(0, min(file.size, signatures.LENGTH), "file"))
    except (ConversionError, OSError):
        return False
    return signature in {Signature.ZIP, Signature.PICKLE, *_RUNS_CODE, *signatures.COMPRESSED}


def read_tensors(file: InputFile) -> dict[str, StoredTensor]:
    """The model's tensors by the names that the file gives them.

    Raises UnsafeError for a file that names code or could hold some; UnsupportedError for PyTorch's older formats,
    compressed files and tensors of a kind that we do not read; MalformedError for the rest.
    """
    _check_kind(file)
    records = zip_records.read_directory(file)
    _check_contents(file, records)
    folder = zip_records.prefix(file, records)
    _check_byte_order(file, records.get(f"{folder}/byteorder"))
    pickle = records[f"{folder}/data.pkl"]
    data = zip_records.read(file, pickle, _LARGEST_PICKLE)
    value = unpickler.load(file.path, pickle.name, data, _ALLOWED).value
    return _Storages(file, records, folder).tensors(_model(file, pickle.name, value))


def _check_kind(file: InputFile) -> None:
    head = file.read(0, min(file.size, signatures.LENGTH), "file")
    signature = signatures.of(head)
    if signature is Signature.ZIP:
        return
    if signature in _RUNS_CODE:
        raise UnsafeError(
            file.path, "file", offset=0, found=_RUNS_CODE[signature], allowed="a zip archive of torch.save"
        )
    if signature is Signature.PICKLE or signature is None:
        _refuse_bare_pickle(file)
    if signature in signatures.COMPRESSED:
        found = f"{signature.value}: a compressed container is not opened"
        raise UnsupportedError(file.path, "file", offset=0, found=found, allowed="a zip archive of torch.save")
    found = signatures.describe(head)
    raise MalformedError(file.path, "file", offset=0, found=found, allowed="a zip archive of torch.save")


def _refuse_bare_pickle(file: InputFile) -> None:
    """Old files are pickles one after another, and so is much that attacks. Code in them is named before all else."""
    data = file.read(0, min(file.size, _LARGEST_PICKLE), "pickle")
    try:
        first = unpickler.load(file.path, "pickle", data, _ALLOWED)
    except UnsafeError:
        raise
    except MalformedError:
        if data[:1] == b"\x80":
            raise
        return  # no pickle at all: let it be called by its name
    end = first.end
    if first.value == _MAGIC_NUMBER:
        for part in ("protocol", "system", "data"):
            end += unpickler.load(file.path, f"pickle of the {part}", data[end:], _ALLOWED).end
    kind = "a file from before PyTorch 1.6" if first.value == _MAGIC_NUMBER else "a bare pickle"
    allowed = "a zip archive of torch.save (PyTorch 1.6 and later)"
    raise UnsupportedError(file.path, "file", offset=0, found=kind, allowed=allowed)


def _check_contents(file: InputFile, records: Mapping[str, Record]) -> None:
    """Other things that come in zip archives are called by their names."""
    names = {name.split("/", 1)[-1] for name in records}
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise _unsafe(file, "a TorchScript program; save its state_dict instead")
    if "MAR-INF/MANIFEST.json" in records:
        raise _unsafe(file, "a model archive of TorchServe")
    if any(name.endswith(".npy") for name in names):
        raise _unsafe(file, "NumPy arrays, which may hold pickled objects")
    if "data.pkl" not in names:
        raise MalformedError(file.path, "zip", found="an archive without data.pkl", allowed="an archive of torch.save")


def _check_byte_order(file: InputFile, record: Record | None) -> None:
    """Only the newer files say it; the older ones were all written on little-endian machines."""
    order = b"little" if record is None else zip_records.read(file, record, 16)
    if record is not None and order != b"little":
        kind = UnsupportedError if order == b"big" else MalformedError
        raise kind(file.path, record.name, offset=0, found=order, allowed="little")


def _unsafe(file: InputFile, found: str) -> UnsafeError:
    return UnsafeError(file.path, "zip", offset=0, found=found, allowed="a state dictionary by torch.save")


def _model(file: InputFile, field: str, value: object) -> dict[object, object]:
    """The dictionary of tensors among those in the pickle; the rule stands at the top of this module."""
    for _ in range(_DEEPEST_WRAPPER):
        if not isinstance(value, dict):
            break
        inner = next((value[key] for key in _WRAPPERS if isinstance(value.get(key), dict)), None)
        if inner is None:
            return value
        value = inner
    found = "dictionaries without end" if isinstance(value, dict) else f"{type(value).__name__}"
    raise UnsupportedError(file.path, field, found=found, allowed="a dictionary of tensors")


class _Storages:
    """Tensors as runs of the archive's records."""

    def __init__(self, file: InputFile, records: Mapping[str, Record], folder: str) -> None:
        self._file, self._records, self._folder = file, records, folder

    def tensors(self, model: Mapping[object, object]) -> dict[str, StoredTensor]:
        found = {}
        for name, value in model.items():
            if isinstance(value, Call) and value.function in (_TENSOR, _PARAMETER, *_UNREAD):
                if not isinstance(name, str):
                    raise MalformedError(
                        self._file.path, "data.pkl", found=f"{name!r} as a tensor's name", allowed="text"
                    )
                found[name] = self._tensor(name, value)
        if not found:
            raise MalformedError(self._file.path, "data.pkl", found="no tensors", allowed="a dictionary of tensors")
        views = {(each.offset_in_file, each.info.n_bytes) for each in found.values()}
        total = sum(n_bytes for _, n_bytes in views)
        if total > _MOST_EXPANSION * self._file.size:
            allowed = f"at most {_MOST_EXPANSION} times the file's {self._file.size}"
            raise MalformedError(self._file.path, "data.pkl", found=f"tensors of {total} bytes", allowed=allowed)
        return found

    def _tensor(self, name: str, call: Call) -> StoredTensor:
        if call.function == _PARAMETER:
            data = call.arguments[0] if len(call.arguments) == 3 else None
            if not isinstance(data, Call) or data.function == _PARAMETER:
                raise self._wrong(name, f"{len(call.arguments)} arguments of a parameter", "its tensor and two more")
            call = data
        if call.function != _TENSOR:
            raise UnsupportedError(self._file.path, name, found=f"a tensor by {call.function}", allowed=_TENSOR)
        if len(call.arguments) not in (6, 7):
            raise self._wrong(name, f"{len(call.arguments)} arguments of a tensor", "6 or 7")
        storage, offset, shape, strides = call.arguments[:4]
        record, dtype, n_elements = self._storage(name, storage)
        if not _is_count(offset) or not _are_counts(shape) or not _are_counts(strides) or len(shape) != len(strides):
            raise self._wrong(
                name, "an offset, shape or strides of another kind", "whole numbers from 0, as many of each"
            )
        n_weights = math.prod(shape)
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        if (n_weights and last >= n_elements) or offset > n_elements:
            raise self._wrong(name, f"elements up to {last}", f"up to {n_elements - 1}, the last of its storage")
        if n_weights and not _is_row_major(shape, strides):
            found = f"strides {strides} for shape {shape}"
            raise UnsupportedError(self._file.path, name, found=found, allowed="a row-major run of its storage")
        return StoredTensor(
            TensorInfo(name, dtype, shape), self._file, record.offset_in_file + offset * dtype.block_bytes
        )

    def _storage(self, name: str, value: object) -> tuple[Record, DType, int]:
        """The record behind a persistent id, its type, and its length in elements."""
        identity = value.identity if isinstance(value, Persistent) else None
        if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
            raise self._wrong(name, "no storage", '("storage", class, key, device, number of elements)')
        _, kind, key, _, n_elements = identity
        if not isinstance(kind, Global) or kind.name not in _STORAGES:
            found = kind.name if isinstance(kind, Global) else type(kind).__name__
            raise UnsupportedError(self._file.path, name, found=f"a storage of {found}", allowed=", ".join(_STORAGES))
        dtype = _STORAGES[kind.name]
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise self._wrong(
                name, f"the storage key {key!r}" if isinstance(key, str) else type(key).__name__, "letters, digits"
            )
        record = self._records.get(f"{self._folder}/data/{key}")
        if record is None:
            raise self._wrong(name, f"no record {self._folder}/data/{key}", "one for each storage")
        if not _is_count(n_elements) or n_elements * dtype.block_bytes != record.size:
            found = f"{n_elements} elements" if isinstance(n_elements, int) else type(n_elements).__name__
            raise self._wrong(name, found, f"{record.size} bytes of {dtype}, the size of {record.name}")
        return record, dtype, n_elements

    def _wrong(self, name: str, found: str, allowed: str) -> MalformedError:
        return MalformedError(self._file.path, name, found=found, allowed=allowed)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 63


def _are_counts(values: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and len(values) <= _MOST_DIMENSIONS and all(_is_count(value) for value in values)


def _is_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether each stride is the product of the lengths behind it. The stride of a length of 1 is never used."""
    expected = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True
