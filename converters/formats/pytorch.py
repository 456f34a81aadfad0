"""PyTorch's files (.bin, .pth, .pt), read without torch and without running them.

    NAME/data.pkl    a pickle of tensors (`converters.formats.pytorch_tensors`), whose storages are the persistent ids
                     ("storage", class, key, device, number of elements)
    NAME/data/KEY    the bytes of a storage
    NAME/byteorder   "little" or "big"; absent in older files, which are little-endian
    NAME/extra/…     what the file says of its making, if we wrote it (`converters.formats.pytorch_writer`)
    NAME/version …   of no use here

in a zip archive (`converters.formats.zip_records`), as torch.save writes it since 1.6; torch/serialization.py of
PyTorch. What it wrote before is in `converters.formats.pytorch_legacy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from converters import json_file
from converters.dtypes import DType
from converters.errors import ConversionError, MalformedError, UnsafeError, UnsupportedError
from converters.formats import pytorch_legacy, pytorch_tensors, signatures, unpickler, zip_records
from converters.formats.pytorch_tensors import ALLOWED, Storage, storage_id, wrong
from converters.formats.pytorch_writer import PROVENANCE
from converters.formats.signatures import Signature
from converters.formats.zip_records import Record
from converters.input_file import InputFile
from converters.provenance import Provenance
from converters.tensors import FileTensor

_LARGEST_PICKLE = 64 << 20
_LARGEST_PROVENANCE = 16 << 20
# Archives up to this are read whole and held against their CRCs at once; what is larger is proven by its digest.
_CHECKED_AT_ONCE = 16 << 20
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


def read_tensors(file: InputFile) -> dict[str, FileTensor]:
    """The model's tensors by the names that the file gives them.

    Raises UnsafeError for a file that names code or could hold some; UnsupportedError for compressed files and for
    tensors of a kind that we do not read; MalformedError for the rest.
    """
    head = file.read(0, min(file.size, signatures.LENGTH), "file")
    signature = signatures.of(head)
    if signature is Signature.ZIP:
        return _read_archive(file)
    if signature is Signature.PICKLE or signature is None:
        return pytorch_legacy.read_tensors(file)
    if signature in _RUNS_CODE:
        raise UnsafeError(
            file.path, "file", offset=0, found=_RUNS_CODE[signature], allowed="a zip archive of torch.save"
        )
    if signature in signatures.COMPRESSED:
        found = f"{signature.value}: a compressed container is not opened"
        raise UnsupportedError(file.path, "file", offset=0, found=found, allowed="a zip archive of torch.save")
    found = signatures.describe(head)
    raise MalformedError(file.path, "file", offset=0, found=found, allowed="a zip archive of torch.save")


def _read_archive(file: InputFile) -> dict[str, FileTensor]:
    records = zip_records.read_directory(file)
    _check_contents(file, records)
    folder = zip_records.prefix(file, records)
    _check_byte_order(file, records.get(f"{folder}/byteorder"))
    pickle = records[f"{folder}/data.pkl"]
    data = zip_records.read(file, pickle, _LARGEST_PICKLE)
    value = unpickler.load(file.path, pickle.name, data, ALLOWED).value
    for record in records.values() if file.size <= _CHECKED_AT_ONCE else ():
        zip_records.check(file, record)
    return pytorch_tensors.read(file, pickle.name, value, _Storages(file, records, folder).find)


def read_provenance(file: InputFile) -> Provenance | None:
    """What an archive says of its making; None where it does not, or not in our words, and for files of other kinds.

    Raises MalformedError where the archive itself is broken.
    """
    if signatures.of(file.read(0, min(file.size, signatures.LENGTH), "file")) is not Signature.ZIP:
        return None
    records = zip_records.read_directory(file)
    record = records.get(f"{zip_records.prefix(file, records)}/{PROVENANCE}")
    if record is None or record.size > _LARGEST_PROVENANCE:
        return None
    data = zip_records.read(file, record, _LARGEST_PROVENANCE)
    try:
        return Provenance.from_keys(json_file.parse(file.path, data, field=record.name))
    except MalformedError:
        return None


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


class _Storages:
    """The archive's records as storages; each is of one type, whoever names it."""

    def __init__(self, file: InputFile, records: Mapping[str, Record], folder: str) -> None:
        self._file, self._records, self._folder = file, records, folder
        self._dtypes: dict[str, DType] = {}

    def find(self, name: str, value: object) -> Storage:
        """The record behind a tensor's persistent id."""
        identity = storage_id(self._file, name, value, n_parts=5)
        record = self._records.get(f"{self._folder}/data/{identity.key}")
        if record is None:
            raise wrong(self._file, name, f"no record {self._folder}/data/{identity.key}", "one for each storage")
        if identity.n_elements * identity.dtype.block_bytes != record.size:
            allowed = f"{record.size} bytes of {identity.dtype}, the size of {record.name}"
            raise wrong(self._file, name, f"{identity.n_elements} elements", allowed)
        first = self._dtypes.setdefault(identity.key, identity.dtype)
        if first != identity.dtype:
            raise wrong(self._file, name, f"{record.name} as {identity.dtype}", f"{first}, as another tensor has it")
        return Storage(identity.dtype, record.offset_in_file, identity.n_elements)
