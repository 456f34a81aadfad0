"""What torch.save would write: the same bytes as torch's own, opened by torch, zipfile and our reader."""

from __future__ import annotations

import io
import json
import pickletools
import warnings
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from converters import dtypes
from converters.errors import RefusedError
from converters.formats import pytorch, pytorch_pickle, pytorch_writer, zip_layout, zip_records
from converters.formats.zip_layout import ArchiveRecord
from converters.input_file import InputFile
from converters.layout import OutputFile, PlacedTensor
from converters.provenance import UNKNOWN, Provenance
from converters.tensors import TensorInfo

DTYPES = {torch.float32: dtypes.F32, torch.float16: dtypes.F16, torch.bfloat16: dtypes.BF16}


def laid_out(name: str, tensors: dict[str, torch.Tensor], provenance: Provenance | None = None) -> OutputFile:
    infos = [TensorInfo(key, DTYPES[each.dtype], tuple(each.shape)) for key, each in tensors.items()]
    return pytorch_writer.lay_out_file(name, [PlacedTensor(info, "ours", 0) for info in infos], provenance)


def stored(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def filled(file: OutputFile, tensors: dict[str, torch.Tensor]) -> bytes:
    """The file as `converters.convert` would make it. Nothing may be written twice."""
    data = bytearray(file.size)
    parts = [(0, file.head), *file.pieces]
    parts += [(placed.offset_in_file, stored(tensors[placed.info.name])) for placed in file.tensors]
    for checksum in file.checksums:
        parts += [(offset, b"crc?") for offset in checksum.offsets]
    position = 0
    for offset, part in sorted(part for part in parts if part[1]):
        assert offset == position
        data[offset : offset + len(part)] = part
        position = offset + len(part)
    assert position == file.size
    for checksum in file.checksums:
        crc = zlib.crc32(data[checksum.start : checksum.start + checksum.size]).to_bytes(4, "little")
        for offset in checksum.offsets:
            data[offset : offset + 4] = crc
    return bytes(data)


WEIGHT = torch.arange(300.0).reshape(3, 100)
MODELS: dict[str, dict[str, torch.Tensor]] = {
    "one": {"a": WEIGHT},
    "none": {},
    "every type": {"a": WEIGHT.half(), "b": WEIGHT.bfloat16(), "c": WEIGHT.clone()},
    "every shape": {
        "s": torch.tensor(1.5), "v": torch.ones(70_000), "3": torch.ones(2, 3, 4), "4": torch.ones(2, 1, 1, 5),
        "0": torch.zeros(0, 4), "00": torch.zeros(3, 0, 2),
    },
    "names of other scripts": {"é\u4e2d\U0001f600": torch.ones(2), "a b\n": torch.zeros(2), "": torch.ones(1)},
    "a name of 300 bytes": {"n" * 300: torch.ones(3)},
    "2,001 tensors": {f"t{i}": torch.full((1,), float(i)) for i in range(2001)},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_bytes_are_torchs_own(tmp_path: Path, name: str) -> None:
    """All of them up to the hash of all that torch puts last, and the directory behind it."""
    torch.save(OrderedDict(MODELS[name]), tmp_path / "model.bin")
    theirs = (tmp_path / "model.bin").read_bytes()
    ours = filled(laid_out("model.bin", MODELS[name]), MODELS[name])
    end = theirs.index(b"model/.data/serialization_id") - 30
    assert ours[:end] == theirs[:end]
    with zipfile.ZipFile(io.BytesIO(ours)) as mine, zipfile.ZipFile(tmp_path / "model.bin") as other:
        assert [*mine.namelist(), "model/.data/serialization_id"] == other.namelist()


@pytest.mark.parametrize("name", MODELS)
def test_torch_zipfile_and_we_open_it(tmp_path: Path, name: str) -> None:
    tensors = MODELS[name]
    data = filled(laid_out("consolidated.00.pth", tensors), tensors)
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    for options in ({}, {"mmap": True}):
        theirs = torch.load(path, weights_only=True, **options)
        assert list(theirs) == list(tensors)
        assert all(torch.equal(theirs[key], each) and theirs[key].dtype == each.dtype for key, each in tensors.items())
    with warnings.catch_warnings(), zipfile.ZipFile(path) as archive:
        warnings.simplefilter("error")
        assert archive.testzip() is None
        assert all(record.startswith("consolidated.00/") for record in archive.namelist())
        pickletools.dis(archive.read("consolidated.00/data.pkl"), io.StringIO())
    if tensors:
        with InputFile(path) as file:
            ours = pytorch.read_tensors(file)
            assert list(ours) == list(tensors)
            for key, each in tensors.items():
                assert ours[key].info == TensorInfo(key, DTYPES[each.dtype], tuple(each.shape))
                assert ours[key].read_rows(0, ours[key].info.n_rows).tobytes() == stored(each)
                assert ours[key].offset_in_file % 64 == 0


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
        st.tuples(st.lists(st.integers(0, 5), max_size=5), st.sampled_from(list(DTYPES))),
        max_size=12,
    )
)
def test_any_dictionary_is_read_back_by_torch(shapes: dict[str, tuple[list[int], torch.dtype]]) -> None:
    tensors = {name: torch.randn(shape).to(dtype) for name, (shape, dtype) in shapes.items()}
    data = filled(laid_out("m.pth", tensors), tensors)
    theirs = torch.load(io.BytesIO(data), weights_only=True)
    assert list(theirs) == list(tensors)
    assert all(torch.equal(theirs[key], each) for key, each in tensors.items())


def provenance(digest: str) -> Provenance:
    return Provenance("distro 1.0", '{"mix":"bf16","target":"bin"}', {"model.safetensors": digest})


def test_provenance_lies_beside_the_weights_and_moves_nothing(tmp_path: Path) -> None:
    tensors = MODELS["every type"]
    unknown, known = (laid_out("m.bin", tensors, provenance(digest)) for digest in (UNKNOWN, "1f" * 32))
    assert (unknown.size, unknown.tensors, unknown.pieces, unknown.checksums) == (
        known.size, known.tensors, known.pieces, known.checksums,
    )  # fmt: skip
    assert len(unknown.head) == len(known.head)
    data = filled(known, tensors)
    (tmp_path / "m.bin").write_bytes(data)
    assert torch.load(tmp_path / "m.bin", weights_only=True).keys() == tensors.keys()
    with zipfile.ZipFile(tmp_path / "m.bin") as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read("m/extra/provenance.json")) == {
            "provenance.made_by": "distro 1.0",
            "provenance.recipe": '{"mix":"bf16","target":"bin"}',
            "provenance.inputs": '{"model.safetensors":"' + "1f" * 32 + '"}',
        }


def test_provenance_is_read_back(tmp_path: Path) -> None:
    tensors = MODELS["every type"]
    path = tmp_path / "m.bin"
    for said in (provenance("1f" * 32), None):
        path.write_bytes(filled(laid_out("m.bin", tensors, said), tensors))
        with InputFile(path) as file:
            assert pytorch.read_provenance(file) == said


def test_provenance_in_other_words_is_none(tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    for data in (b"", b"[]", b"{", b'{"provenance.made_by": 1}', b"\xff", b"[" * 100_000):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/extra/provenance.json", data)
        with InputFile(path) as file:
            assert pytorch.read_provenance(file) is None
    torch.save({"a": WEIGHT}, path, _use_new_zipfile_serialization=False)
    with InputFile(path) as file:
        assert pytorch.read_provenance(file) is None


def test_other_types_are_refused_by_name() -> None:
    with pytest.raises(RefusedError, match=r"^m\.bin: w: PyTorch's files are written in F32, F16, BF16$"):
        pytorch_writer.lay_out_file("m.bin", [PlacedTensor(TensorInfo("w", dtypes.Q8_0, (32,)), "w", 0)])


def test_integers_take_the_bytes_that_torch_gives_them() -> None:
    """One, two and four bytes, and LONG1 from 2^31 on: a tensor of 2^31 weights is 4 GB and more."""
    pickle = pytorch_pickle.state_dictionary([TensorInfo("w", dtypes.F16, (1 << 31, 256, 65_536, 255))])
    codes = [(code.name, value) for code, value, _ in pickletools.genops(pickle)]
    shape = [("LONG1", 1 << 31), ("BININT2", 256), ("BININT", 65_536), ("BININT1", 255), ("TUPLE", None)]
    assert any(codes[i : i + 5] == shape for i in range(len(codes)))


# What 32 bits cannot hold. No file of 4 GB is made: these are the bytes that would be around the weights.


def test_large_records_and_far_ones_have_64_bit_fields(tmp_path: Path) -> None:
    size = (4 << 30) + 20
    archive = zip_layout.lay_out([ArchiveRecord("m/data/0", size), ArchiveRecord.of("m/version", b"3\n")])
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(archive.size)
        for offset, run in archive.runs:
            file.seek(offset)
            file.write(run)
    with zipfile.ZipFile(path) as theirs:
        first, second = theirs.infolist()
        assert (first.file_size, first.compress_size, first.header_offset) == (size, size, 0)
        assert (second.file_size, second.header_offset) == (2, archive.offsets["m/data/0"] + size + 24)
        assert theirs.read("m/version") == b"3\n"
    with InputFile(path) as opened:
        ours = zip_records.read_directory(opened)
    assert {name: record.offset_in_file for name, record in ours.items()} == archive.offsets
    assert all(offset % 64 == 0 for offset in archive.offsets.values())
    (checksum,) = archive.checksums
    assert (checksum.start, checksum.size) == (64, size)
    assert checksum.offsets[0] == 64 + size + 4


@pytest.mark.parametrize("size", [0xFFFFFFFE, 0xFFFFFFFF, 0x100000000])
def test_the_edge_of_32_bits_is_read_back(tmp_path: Path, size: int) -> None:
    archive = zip_layout.lay_out([ArchiveRecord("m/data/0", size), ArchiveRecord("m/data/1", 5)])
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(archive.size)
        for offset, run in archive.runs:
            file.seek(offset)
            file.write(run)
    with InputFile(path) as opened, zipfile.ZipFile(path) as theirs:
        ours = zip_records.read_directory(opened)
        assert [record.size for record in ours.values()] == [info.file_size for info in theirs.infolist()] == [size, 5]


def test_more_records_than_16_bits_count(tmp_path: Path) -> None:
    archive = zip_layout.lay_out([ArchiveRecord.of(f"m/{i}", b"") for i in range(70_000)])
    path = tmp_path / "many"
    path.write_bytes(b"".join(run for _, run in archive.runs))
    with InputFile(path) as opened, zipfile.ZipFile(path) as theirs:
        assert len(zip_records.read_directory(opened)) == len(theirs.infolist()) == 70_000
