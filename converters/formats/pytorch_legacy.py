"""PyTorch's files as torch.save wrote them before 1.6, and writes them still if it is asked to.

    pickle    0x1950a86a20f9469cfc6c, the magic number
    pickle    1001, the protocol
    pickle    {"protocol_version": 1001, "little_endian": True, "type_sizes": {…}}
    pickle    the state dictionary (`converters.formats.pytorch_tensors`)
    pickle    ["94147137951712", …]: the key of each storage, in the order in which they follow
    storages  for each: number of elements, u64; then the elements, little-endian; no padding anywhere

A storage is the persistent id ("storage", class, key, device, number of elements, view), where a view is (key of its
own, first element, number of elements) of that storage, or None. `_legacy_save` and `_legacy_load` in
torch/serialization.py. Files older still, from before 0.1.10, are tar archives; those are not opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from converters.errors import MalformedError, UnsafeError, UnsupportedError
from converters.formats import pytorch_tensors, signatures, unpickler
from converters.formats.pytorch_tensors import ALLOWED, Storage, StorageId, is_key, storage_id, wrong
from converters.formats.unpickler import Persistent, Unpickled
from converters.input_file import InputFile
from converters.tensors import FileTensor

_MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LARGEST_PICKLES = 64 << 20
_FIELD = "pickle of the tensors"
_KEYS = "pickle of the storage keys"


def read_tensors(file: InputFile) -> dict[str, FileTensor]:
    """The model's tensors by the names that the file gives them.

    Raises UnsafeError where any of the pickles names code, before anything else is judged; UnsupportedError for a
    pickle of another kind; MalformedError for the rest.
    """
    data = file.read(0, min(file.size, _LARGEST_PICKLES), "pickles")
    end = _check_start(file, data)
    tensors = unpickler.load(file.path, _FIELD, data, ALLOWED, start=end)
    keys = unpickler.load(file.path, _KEYS, data, ALLOWED, start=tensors.end)
    storages = _Storages(file, tensors.outside, keys)
    return pytorch_tensors.read(file, _FIELD, tensors.value, storages.find)


def _check_start(file: InputFile, data: bytes) -> int:
    """Where the tensors' pickle begins, behind three that say what this is."""
    number = _first(file, data)
    if number.value != _MAGIC_NUMBER:
        allowed = "an archive of torch.save, or a file from before PyTorch 1.6"
        raise UnsupportedError(file.path, "file", offset=0, found="a bare pickle", allowed=allowed)
    protocol = unpickler.load(file.path, "pickle of the protocol", data, ALLOWED, start=number.end)
    if type(protocol.value) is not int or protocol.value != _PROTOCOL:
        raise MalformedError(
            file.path, "pickle of the protocol", offset=number.end, found=_plain(protocol.value), allowed=str(_PROTOCOL)
        )
    field = "pickle of the system"
    system = unpickler.load(file.path, field, data, ALLOWED, start=protocol.end)
    little = system.value.get("little_endian") if isinstance(system.value, dict) else None
    if little is not True:
        kind = UnsupportedError if little is False else MalformedError
        raise kind(file.path, field, offset=protocol.end, found=f"little_endian {_plain(little)}", allowed="True")
    return system.end


def _plain(value: object) -> str:
    """A value for a message. Those that hold others are only named: they may be nested deeper than Python can say."""
    return repr(value) if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__


def _first(file: InputFile, data: bytes) -> Unpickled:
    """The first pickle. What is none, and names no code, is called by its name."""
    try:
        return unpickler.load(file.path, "pickle", data, ALLOWED)
    except UnsafeError:
        raise
    except MalformedError:
        if data[:1] == b"\x80":
            raise
        found = signatures.describe(data[: signatures.LENGTH])
        raise MalformedError(file.path, "file", offset=0, found=found, allowed="an archive of torch.save") from None


class _Storages:
    """The storages behind the pickles: each named by a tensor, each there, and nothing else."""

    def __init__(self, file: InputFile, outside: Iterable[Persistent], keys: Unpickled) -> None:
        self._file = file
        self._views: dict[str, StorageId] = {}
        self._storages = self._placed(self._wanted(outside), keys)
        for key in self._views.keys() & self._storages.keys():
            raise wrong(file, _FIELD, f"{key} as a view", "a key that no storage has")

    def _wanted(self, outside: Iterable[Persistent]) -> dict[str, StorageId]:
        """What the pickle says of each storage; all that it says must be the same."""
        wanted: dict[str, StorageId] = {}
        for persistent in outside:
            identity = storage_id(self._file, _FIELD, persistent, n_parts=6)
            whole = StorageId(identity.dtype, identity.key, identity.n_elements)
            same = wanted.setdefault(identity.key, whole) == whole
            if identity.view is not None:
                same &= self._views.setdefault(identity.view[0], identity) == identity
            if not same:
                raise wrong(self._file, _FIELD, f"storage {identity.key} once so and once so", "one size and type")
        return wanted

    def _placed(self, wanted: Mapping[str, StorageId], keys: Unpickled) -> dict[str, Storage]:
        """Where each storage is: they fill the file from the last pickle to its end."""
        file, listed = self._file, keys.value
        if not isinstance(listed, list) or not all(map(is_key, listed)):
            raise wrong(file, _KEYS, type(listed).__name__, "a list of texts")
        if len(set(listed)) != len(listed) or set(listed) != wanted.keys():
            stray = sorted(set(listed) ^ wanted.keys()) or ["one twice"]
            raise wrong(file, _KEYS, f"{len(listed)} keys, {stray[0]} astray", "the storages of the tensors, once each")
        placed, position = {}, keys.end
        for key in listed:
            identity, field = wanted[key], f"storage {key}"
            n_elements = int.from_bytes(file.read(position, 8, field), "little")
            if n_elements != identity.n_elements:
                allowed = f"{identity.n_elements}, as the tensors say"
                raise MalformedError(file.path, field, offset=position, found=f"{n_elements} elements", allowed=allowed)
            n_bytes = n_elements * identity.dtype.block_bytes
            if n_bytes > file.size - position - 8:
                found = f"{file.size - position - 8} bytes left"
                raise MalformedError(file.path, field, offset=position + 8, found=found, allowed=f"{n_bytes}")
            placed[key] = Storage(identity.dtype, position + 8, n_elements)
            position += 8 + n_bytes
        if position != file.size:
            found = f"{file.size - position} bytes more"
            raise MalformedError(file.path, "file", offset=position, found=found, allowed="an end behind the storages")
        return placed

    def find(self, name: str, value: object) -> Storage:
        """The storage of a tensor, or the part of one that it is a view of."""
        identity = storage_id(self._file, name, value, n_parts=6)
        storage = self._storages[identity.key]
        if identity.view is None:
            return storage
        _, first, n_elements = identity.view
        if first + n_elements > storage.n_elements:
            found = f"a view of elements up to {first + n_elements - 1}"
            raise wrong(self._file, name, found, f"up to {storage.n_elements - 1}, the last of its storage")
        return Storage(storage.dtype, storage.offset_in_file + first * storage.dtype.block_bytes, n_elements)
