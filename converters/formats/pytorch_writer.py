"""PyTorch's files (.bin, .pth) as torch.save writes them since 1.6, laid out before any weight is read.

    NAME/data.pkl              the state dictionary (`converters.formats.pytorch_pickle`)
    NAME/.format_version       "1"
    NAME/.storage_alignment    "64"
    NAME/byteorder             "little"
    NAME/extra/provenance.json where the weights come from (`converters.provenance`); ours, and passed over by torch
    NAME/data/0 …              the bytes of each tensor, row-major
    NAME/version               "3"

in a zip archive (`converters.formats.zip_layout`); NAME is the file's without its ending. `_save` in
torch/serialization.py, `PyTorchStreamWriter` in caffe2/serialize/inline_container.cc: the same records in the same
order, but for the last of torch's, `.data/serialization_id`, a hash of the others that nothing needs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from converters.errors import RefusedError, shown
from converters.formats import pytorch_pickle, zip_layout
from converters.formats.zip_layout import ArchiveRecord
from converters.layout import OutputFile, PlacedTensor
from converters.provenance import Provenance

PROVENANCE = "extra/provenance.json"


def lay_out_file(path: str, tensors: Iterable[PlacedTensor], provenance: Provenance | None = None) -> OutputFile:
    """The file that torch.load opens as a dictionary of these tensors, in this order.

    path: of the file inside the result. tensors: what each is and where it comes from; the offset in the file is given
    here, whatever it was. provenance: what the file says of its making; its length does not depend on the digests.
    Raises RefusedError for a type that is not F32, F16 or BF16.
    """
    placed = list(tensors)
    for tensor in placed:
        if tensor.info.dtype not in pytorch_pickle.STORAGES:
            allowed = ", ".join(dtype.name for dtype in pytorch_pickle.STORAGES)
            raise RefusedError(f"{path}: {shown(tensor.info.name)}: PyTorch's files are written in {allowed}")
    folder = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    small = {
        "data.pkl": pytorch_pickle.state_dictionary(tensor.info for tensor in placed),
        ".format_version": b"1",
        ".storage_alignment": str(zip_layout.ALIGNMENT).encode(),
        "byteorder": b"little",
    }
    records = [ArchiveRecord.of(f"{folder}/{name}", data) for name, data in small.items()]
    if provenance is not None:
        text = json.dumps(provenance.keys(), ensure_ascii=False, indent=2) + "\n"
        records.append(ArchiveRecord.of(f"{folder}/{PROVENANCE}", text.encode(), volatile=True))
    keys = [f"{folder}/data/{number}" for number in range(len(placed))]
    records += [ArchiveRecord(key, tensor.info.n_bytes) for key, tensor in zip(keys, placed, strict=True)]
    records.append(ArchiveRecord.of(f"{folder}/version", b"3\n"))
    archive = zip_layout.lay_out(records)
    (_, head), *pieces = archive.runs
    return OutputFile(
        path,
        archive.size,
        head,
        tuple(replace(tensor, offset_in_file=archive.offsets[key]) for key, tensor in zip(keys, placed, strict=True)),
        tuple(pieces),
        archive.checksums,
    )
