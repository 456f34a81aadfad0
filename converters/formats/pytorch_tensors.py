"""Tensors out of what a pickle of PyTorch's says, whichever container their bytes are in.

    tensor      a call of `torch._utils._rebuild_tensor_v2(storage, offset in elements, shape, strides, …)`
    parameter   a call of `torch._utils._rebuild_parameter(tensor, …)`
    storage     a persistent id ("storage", class, key, device, number of elements, …): the bytes are elsewhere

torch/_utils.py and torch/serialization.py of PyTorch.

**Which tensors.** A dictionary inside the outermost one under "state_dict", "model" or "module" is the model, if there
is one (and so on inside it); else the outermost is. What is no tensor in it (epochs, optimizers, options) is left out.
Two names may share a storage. A tensor must be a row-major run of its storage, a matrix whose rows are such runs, or
the transpose of one (a matrix of one row or column may have any stride); other strides are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

from converters import dtypes
from converters.dtypes import DType
from converters.errors import MalformedError, UnsupportedError
from converters.formats import unpickler
from converters.formats.unpickler import Call, Global, Persistent
from converters.input_file import InputFile
from converters.strided_tensor import StridedTensor
from converters.tensors import FileTensor, StoredTensor, TensorInfo

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
    "torch.float64", "torch.float32", "torch.float16", "torch.bfloat16", "torch.bool", "torch.int8", "torch.int16",
    "torch.int32", "torch.int64", "torch.uint8", "torch.uint16", "torch.uint32", "torch.uint64", "torch.complex64",
    "torch.per_tensor_affine", "torch.per_channel_affine", "torch.serialization._get_layout",
}  # fmt: skip
ALLOWED = frozenset({unpickler.ORDERED_DICT, _TENSOR, _PARAMETER, *_STORAGES, *_UNREAD, *_PLAIN})

_KEY = re.compile(r"[0-9A-Za-z_]{1,64}")
_ID = ("storage", "class", "key", "device", "number of elements", "view")


@dataclass(frozen=True)
class StorageId:
    """A storage as a pickle names it. view: (key, first element, number of elements), None for all of it."""

    dtype: DType
    key: str
    n_elements: int
    view: tuple[str, int, int] | None = None


@dataclass(frozen=True)
class Storage:
    """Elements of one type that lie in a file one after another."""

    dtype: DType
    offset_in_file: int
    n_elements: int


def storage_id(file: InputFile, field: str, value: object, *, n_parts: int) -> StorageId:
    """What a persistent id says.

    field: the tensor that it belongs to, or what else it is, for messages. n_parts: 5 in archives; 6 in the files from
    before them, where the last is a view's. Raises MalformedError, UnsupportedError for a type that we do not read.
    """
    identity = value.identity if isinstance(value, Persistent) else None
    if not isinstance(identity, tuple) or len(identity) != n_parts or identity[0] != "storage":
        raise wrong(file, field, "no storage", f'("storage", {", ".join(_ID[1:n_parts])})')
    _, kind, key, _, n_elements, *rest = identity
    if not isinstance(kind, Global) or kind.name not in _STORAGES:
        found = kind.name if isinstance(kind, Global) else type(kind).__name__
        raise UnsupportedError(file.path, field, found=f"a storage of {found}", allowed=", ".join(_STORAGES))
    if not is_key(key):
        raise wrong(file, field, f"the storage key {key!r}" if isinstance(key, str) else _kind(key), "letters, digits")
    if not is_count(n_elements):
        raise wrong(file, field, "a number of elements that is none", "a whole number from 0")
    view = rest[0] if rest else None
    if view is not None and not _is_view(view):
        raise wrong(file, field, "a view of another kind", "(key, first element, number of elements)")
    return StorageId(_STORAGES[kind.name], key, n_elements, view)


def read(file: InputFile, field: str, value: object, find: Callable[[str, object], Storage]) -> dict[str, FileTensor]:
    """The model's tensors by the names that the file gives them.

    field: of the pickle. value: what it says. find: gives the storage that a tensor's persistent id means, for the
    tensor's name and the id; raises what is wrong with it. Raises MalformedError and UnsupportedError, naming the
    tensor.
    """
    reader = _Reader(file, find)
    found = {}
    for name, call in _model(file, field, value).items():
        if isinstance(call, Call) and call.function in (_TENSOR, _PARAMETER, *_UNREAD):
            if not isinstance(name, str):
                raise MalformedError(file.path, field, found=f"{name!r} as a tensor's name", allowed="text")
            found[name] = reader.tensor(name, call)
    if not found:
        raise MalformedError(file.path, field, found="no tensors", allowed="a dictionary of tensors")
    views = {(each.offset_in_file, each.info.n_bytes) for each in found.values()}
    total = sum(n_bytes for _, n_bytes in views)
    if total > _MOST_EXPANSION * file.size:
        allowed = f"at most {_MOST_EXPANSION} times the file's {file.size}"
        raise MalformedError(file.path, field, found=f"tensors of {total} bytes", allowed=allowed)
    return found


def _model(file: InputFile, field: str, value: object) -> dict[object, object]:
    """The dictionary of tensors among those in the pickle; the rule stands at the top of this module."""
    for _ in range(_DEEPEST_WRAPPER):
        if not isinstance(value, dict):
            break
        inner = next((value[key] for key in _WRAPPERS if isinstance(value.get(key), dict)), None)
        if inner is None:
            return value
        value = inner
    found = "dictionaries without end" if isinstance(value, dict) else _kind(value)
    raise UnsupportedError(file.path, field, found=found, allowed="a dictionary of tensors")


@dataclass(frozen=True)
class _Reader:
    file: InputFile
    find: Callable[[str, object], Storage]

    def tensor(self, name: str, call: Call) -> FileTensor:
        call = self._unwrapped(name, call)
        if len(call.arguments) not in (6, 7):
            raise wrong(self.file, name, f"{len(call.arguments)} arguments of a tensor", "6 or 7")
        storage, offset, shape, strides = self.find(name, call.arguments[0]), *call.arguments[1:4]
        if not is_count(offset) or not _are_counts(shape) or not _are_counts(strides) or len(shape) != len(strides):
            allowed = "whole numbers from 0, as many of each"
            raise wrong(self.file, name, "an offset, shape or strides of another kind", allowed)
        n_weights = math.prod(shape)
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        if (n_weights and last >= storage.n_elements) or offset > storage.n_elements:
            raise wrong(
                self.file, name, f"elements up to {last}", f"up to {storage.n_elements - 1}, the last of its storage"
            )
        info = TensorInfo(name, storage.dtype, shape)
        offset_in_file = storage.offset_in_file + offset * storage.dtype.block_bytes
        if n_weights == 0 or _is_row_major(shape, strides):
            return StoredTensor(info, self.file, offset_in_file)
        if not _is_matrix_of_runs(shape, strides):
            allowed = "a row-major run of its storage, rows of a wider matrix, or the transpose of one"
            raise UnsupportedError(self.file.path, name, found=f"strides {strides} for shape {shape}", allowed=allowed)
        used = [1 if length == 1 else stride for length, stride in zip(shape, strides, strict=True)]
        return StridedTensor(info, self.file, offset_in_file, (used[0] if len(used) == 2 else 1, used[-1]))

    def _unwrapped(self, name: str, call: Call) -> Call:
        """The tensor itself, where a parameter is around it."""
        if call.function == _PARAMETER:
            data = call.arguments[0] if len(call.arguments) == 3 else None
            if not isinstance(data, Call) or data.function == _PARAMETER:
                found = f"{len(call.arguments)} arguments of a parameter"
                raise wrong(self.file, name, found, "its tensor and two more")
            call = data
        if call.function != _TENSOR:
            raise UnsupportedError(self.file.path, name, found=f"a tensor by {call.function}", allowed=_TENSOR)
        return call


def wrong(file: InputFile, field: str, found: str, allowed: str) -> MalformedError:
    """What the pickle says of a tensor or a storage cannot be."""
    return MalformedError(file.path, field, found=found, allowed=allowed)


def is_key(value: object) -> TypeGuard[str]:
    """Whether this may be a storage's key: letters and digits, of which no path can be made."""
    return isinstance(value, str) and _KEY.fullmatch(value) is not None


def is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 63


def _are_counts(values: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(values, tuple) and len(values) <= _MOST_DIMENSIONS and all(is_count(value) for value in values)


def _is_view(value: object) -> TypeGuard[tuple[str, int, int]]:
    return isinstance(value, tuple) and len(value) == 3 and is_key(value[0]) and all(map(is_count, value[1:]))


def _is_row_major(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether each stride is the product of the lengths behind it. The stride of a length of 1 is never used."""
    expected = 1
    for length, stride in zip(reversed(shape), reversed(strides), strict=True):
        if length != 1 and stride != expected:
            return False
        expected *= length
    return True


def _is_matrix_of_runs(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Whether its rows, or its columns, are runs that do not overlap; of one row or column, whether its weights do."""
    used = [(stride, length) for length, stride in zip(shape, strides, strict=True) if length != 1]
    if len(shape) > 2 or any(stride == 0 for stride, _ in used):
        return False
    if len(used) < 2:
        return True
    (near, run), (far, _) = sorted(used)
    return near == 1 and far >= run


def _kind(value: object) -> str:
    return type(value).__name__
