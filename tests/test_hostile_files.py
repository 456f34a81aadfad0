"""Files that lie, end to end: `convert`, `run` and the library refuse them in one line and do nothing else.

One case a rule of each format, through real processes; the hundreds of siblings are in tests/converters/.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import socket
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.fakes import gguf_bytes, hostile, tiny_llama
from tests.fakes.gguf_bytes import (
    ARRAY,
    BOOL,
    INT8,
    UINT32,
    array,
    int32s,
    key,
    string,
    strings,
    tensor,
    text,
    u32,
    u64,
)

GGUF = gguf_bytes.llama()
GOOD_GGUF = GGUF.build()
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
HTML = b"<!DOCTYPE html><html><body>404: Not Found</body></html>\n"
TRAP = "\x1b]0;owned\x07\u202etxt"


def with_key(entry: bytes) -> bytes:
    return replace(GGUF, keys=(*GGUF.keys, entry)).build()


def with_first_tensor(entry: bytes) -> bytes:
    return replace(GGUF, tensors=(entry, *GGUF.tensors[1:])).build()


def keys(**replaced: bytes) -> bytes:
    return gguf_bytes.llama(**replaced).build()


def gguf_fixed(version: int = 3, n_tensors: int = 0, n_kv: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_kv) + bytes(64)


GGUF_CASES = [
    ("nothing", b"", ("file", "an empty file")),
    ("a magic alone", b"GGUF", ("header at 4",)),
    ("a header cut", GOOD_GGUF[:23], ("header at 23",)),
    ("GGJT without a version", b"tjgg" + bytes(100), ("version at 4", "found 0")),
    ("GGJT backwards", b"ggjt" + bytes(100), ("header at 0", "b'tjgg'")),
    ("GGLA", b"algg" + bytes(100), ("header at 0", "an adapter")),
    ("version 0", gguf_fixed(0), ("version at 4", "found 0")),
    ("version 4", gguf_fixed(4), ("version at 4", "4")),
    ("version 4, big-endian", gguf_fixed(0x04000000), ("version at 4", "a big-endian file, version 4")),
    ("2^64 tensors", replace(GGUF, n_tensors=2**64 - 1).build(), ("n_tensors at 8", "18446744073709551615")),
    ("2^63 keys", replace(GGUF, n_kv=2**63).build(), ("n_kv at 16", "9223372036854775808")),
    ("one key more", replace(GGUF, n_kv=len(GGUF.keys) + 1).build(), ("tensor[0].name",)),
    ("one key fewer", replace(GGUF, n_kv=len(GGUF.keys) - 1).build(), ("tokenizer.ggml.eos_token_id",)),
    ("a key of 2^64-1 bytes", with_key(text("x", 2**64 - 1) + bytes(20)), ("key[19]",)),
    ("a key that is no UTF-8", with_key(string(b"\xff\x1b[2J", "x")), ("key[19]", "UTF-8")),
    ("a key that steers, twice", replace(GGUF, keys=(*GGUF.keys, string(TRAP, "a"), string(TRAP, "b"))).build(),
     ("key[20]", "\\x1b]0;owned\\x07\\u202etxt again")),
    ("two architectures", with_key(string("general.architecture", "mamba")), ("general.architecture again",)),
    ("type 13", with_key(key("x", 13, bytes(8))), ("key[19].type", "13")),
    ("an array of arrays", with_key(array("x", ARRAY, 1, u32(UINT32) + u64(1) + u32(1))), ("x.type", "of arrays")),
    ("2^64-1 elements", with_key(array("x", INT8, 2**64 - 1, b"")), ("x", "18446744073709551615")),
    ("2^62 strings", with_key(array("x", gguf_bytes.STRING, 2**62, b"")), ("x",)),
    ("text of 2^64-1 bytes", with_key(key("x", gguf_bytes.STRING, u64(2**64 - 1))), ("x",)),
    ("a bool of 2", with_key(key("x", BOOL, b"\2")), ("x", "found 2")),
    ("alignment 0", with_key(gguf_bytes.uint32("general.alignment", 0)), ("general.alignment", "UINT32 0")),
    ("alignment as text", with_key(string("general.alignment", "32")), ("general.alignment", "STRING")),
    ("a name of 64 bytes", with_first_tensor(tensor("x" * 64, (32, 8), 0, 0)), ("tensor[0].name",)),
    ("five dimensions", with_first_tensor(tensor("x", (1, 1, 1, 1, 1), 0, 0)), ("x.n_dims", "found 5")),
    ("2^64 weights", with_first_tensor(tensor("x", (2**32, 2**32), 0, 0)), ("x.shape",)),
    ("2^62 bytes", with_first_tensor(tensor("token_embd.weight", (2**30, 2**30), 0, 0)), ("token_embd.weight",)),
    ("a withdrawn type", with_first_tensor(tensor("x", (32, 8), 4, 0)), ("x.type", "Q4_2")),
    ("type 2^31", with_first_tensor(tensor("x", (32, 8), 2**31, 0)), ("x.type", "2147483648")),
    ("a tensor twice", with_first_tensor(tensor("output.weight", (32, 8), 0, 0)), ("output.weight again",)),
    ("an offset that overlaps", replace(GGUF, tensors=(*GGUF.tensors[:1], tensor("x", (32,), 0, 0))).build(),
     ("x.offset", "overlaps")),
    ("an offset past the end", with_first_tensor(tensor("token_embd.weight", (32, 8), 0, 2**63)), (".offset",)),
    ("the last byte missing", GOOD_GGUF[:-1], ("output.weight", "1 of")),
    ("no data", replace(GGUF, data=b"").build(), ("token_embd.weight",)),
    ("a zip behind it", GOOD_GGUF + b"PK\x05\x06" + bytes(18), ("trailing bytes", "22 bytes")),
    ("no layers", keys(block_count=gguf_bytes.uint32("llama.block_count", 0)), ("llama.block_count",)),
    ("2^32-1 layers", keys(block_count=gguf_bytes.uint32("llama.block_count", 2**32 - 1)), ("llama.block_count",)),
    ("no heads", keys(head_count=gguf_bytes.uint32("llama.attention.head_count", 0)), ("head_count",)),
    ("3 heads in 32", keys(head_count=gguf_bytes.uint32("llama.attention.head_count", 3)), ("head",)),
    ("epsilon NaN", keys(epsilon=gguf_bytes.float32("llama.attention.layer_norm_rms_epsilon", float("nan"))),
     ("layer_norm_rms_epsilon", "nan")),
    ("heads as text", keys(head_count=string("llama.attention.head_count", TRAP)), ("llama.attention.head_count",)),
    ("an architecture that steers", keys(architecture=string("general.architecture", TRAP)),
     ("general.architecture", "\\x1b]0;owned")),
    ("types for half the tokens", keys(token_type=int32s("tokenizer.ggml.token_type", [1, 1])),
     ("tokenizer.ggml.token_type",)),
    ("a stop token that is none", keys(eos=gguf_bytes.uint32("tokenizer.ggml.eos_token_id", 8)),
     ("tokenizer.ggml.eos_token_id", "8")),
    ("no tokens", keys(tokens=strings("tokenizer.ggml.tokens", [])), ("tokenizer.ggml.tokens",)),
    ("a tokenizer that steers", keys(model=string("tokenizer.ggml.model", TRAP)), ("tokenizer.ggml.model", "\\x1b]0")),
    ("a matrix of another shape", gguf_bytes.llama(gguf_bytes.LLAMA_SHAPES | {"output.weight": (8, 16)}).build(),
     ("output.weight",)),
]  # fmt: skip


@pytest.mark.parametrize(("data", "words"), [case[1:] for case in GGUF_CASES], ids=[case[0] for case in GGUF_CASES])
def test_a_gguf_file_that_lies(tmp_path: Path, data: bytes, words: tuple[str, ...]) -> None:
    path = tmp_path / "in" / "model.gguf"
    path.parent.mkdir()
    path.write_bytes(data)
    hostile.refused(tmp_path, path, 65, *words)


def test_a_gguf_file_cut_anywhere(tmp_path: Path) -> None:
    """At the borders between its parts and around them; the unit tests cut at every byte."""
    path = tmp_path / "in" / "model.gguf"
    path.parent.mkdir()
    header = len(GGUF.header)
    for end in (5, 24, 25, 31, 32, 33, header // 2, header - 1, header, header + 1, len(GOOD_GGUF) // 2):
        path.write_bytes(GOOD_GGUF[:end])
        ran = hostile.run(tmp_path, "convert", str(path), "--quant", "q8_0", "-o", str(tmp_path / "o.gguf"))
        hostile.judge(ran, 65, "model.gguf: ")
        assert not (tmp_path / "o.gguf").exists()


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + data


def one(**changed: object) -> bytes:
    """A tensor of two numbers, with something else about it."""
    return safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}}, bytes(8))


ENTRY = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
SAFETENSORS_CASES = [
    ("nothing", b"", ("header",)),
    ("seven bytes", bytes(7), ("header",)),
    ("a length of 0", bytes(8), ("header",)),
    ("a length of 2^64-1", safetensors({}, length=2**64 - 1), ("header length", "18446744073709551615")),
    ("a length beyond the file", safetensors({}, length=9), ("header length",)),
    ("no UTF-8", safetensors(b'{"\xff":1}'), ("UTF-8",)),
    ("a byte order mark", safetensors(b"\xef\xbb\xbf{}"), ("byte order mark",)),
    ("an array", safetensors(b"[]"), ("an array",)),
    ("nested 100,000 deep", safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), ("nest",)),
    ("an integer of 5000 digits", safetensors(b'{"a":' + b"1" * 5000 + b"}"), ("digits",)),
    ("a key twice", safetensors(f'{{"a":{ENTRY},"a":{ENTRY}}}'.encode(), bytes(8)), ("again",)),
    ("metadata of numbers", safetensors({"__metadata__": {"a": 1}}), ("__metadata__",)),
    ("an unknown type", one(dtype=TRAP), ("\\x1b]0;owned",)),
    ("a negative size", one(shape=[-2]), ("shape",)),
    ("a size that is no integer", one(shape=[2.0]), ("shape",)),
    ("more weights than 2^64", one(shape=[2**40, 2**40]), ("a",)),
    ("10,000 dimensions", one(shape=[1] * 10_000), ("shape",)),
    ("an end before the start", one(data_offsets=[8, 0]), ("data_offsets",)),
    ("an end beyond the data", one(data_offsets=[0, 9]), ("a",)),
    ("one byte too few", one(shape=[1]), ("a",)),
    ("a hole at the start", safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
     ("a",)),
    ("two on one place", safetensors(f'{{"a":{ENTRY},"b":{ENTRY}}}'.encode(), bytes(8)), ("data_offsets",)),
    ("a byte behind the data", one() + b"\0", ("1 ",)),
    ("a tensor of no llama", one(), ("no such tensor",)),
    ("a pickle", pickle.dumps({"a": 1}), ("a pickle",)),
    ("a GGUF file", GOOD_GGUF, ("a GGUF file",)),
    ("a pointer", LFS, ("Git LFS pointer",)),
    ("a page", HTML, ("an HTML page",)),
    ("gzip", gzip.compress(bytes(100), mtime=0), ("gzip",)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "words"), [case[1:] for case in SAFETENSORS_CASES], ids=[case[0] for case in SAFETENSORS_CASES]
)
def test_a_safetensors_file_that_lies(tmp_path: Path, data: bytes, words: tuple[str, ...]) -> None:
    folder = tiny_llama.write(tmp_path / "in")
    (folder / "model.safetensors").write_bytes(data)
    hostile.refused(tmp_path, folder, 65, "model.safetensors", *words)


def saved(value: object, **options: object) -> bytes:
    memory = io.BytesIO()
    torch.save(value, memory, **options)
    return memory.getvalue()


def rezipped(change: Callable[[str, bytes], tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    """A file of torch's with its records changed."""
    memory = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"a": torch.ones(8)}))) as old, zipfile.ZipFile(memory, "w", method) as new:
        for info in old.infolist():
            name, data = change(info.filename, old.read(info))
            new.writestr(name, data)
    return memory.getvalue()


def with_pickle(data: bytes) -> bytes:
    return rezipped(lambda name, old: (name, data if name.endswith("data.pkl") else old))


def calls(module: str, attribute: str, argument: str) -> bytes:
    """A pickle that calls something with a text, as `pickle` itself would write it."""
    return f"c{module}\n{attribute}\n(S{argument!r}\ntR.".encode()


class Runs:
    """What pickle makes of an object whose loading runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


TOUCH = "touch owned"
GOOD_BIN = saved({"a": torch.ones(8)})
PICKLE_CASES = [
    ("nothing", b"", 65, ("empty",)),
    ("PK alone", b"PK", 65, ()),
    ("no end record", GOOD_BIN[:-22], 65, ("zip",)),
    ("cut in the middle", GOOD_BIN[: len(GOOD_BIN) // 2], 65, ("zip",)),
    ("a command, written by pickle", saved({"a": Runs(TOUCH)}), 81, ("posix.system", "data.pkl")),
    ("a command, in the old format", saved({"a": Runs(TOUCH)}, _use_new_zipfile_serialization=False), 81,
     ("posix.system",)),
    ("a command, bare", pickle.dumps(Runs(TOUCH), protocol=4), 81, ("posix.system",)),
    ("a command, protocol 0", calls("os", "system", TOUCH), 81, ("os.system",)),
    ("eval", with_pickle(calls("builtins", "eval", "open('owned','w')")), 81, ("builtins.eval",)),
    ("a module of its own folder", with_pickle(calls("evil", "run", "")), 81, ("evil.run",)),
    ("a module with a name that steers", with_pickle(calls(TRAP, "run", "")), 81, ()),
    ("a name with dots", with_pickle(b"\x80\x04" + b"\x8c\x05torch\x8c\x0ehub.os.system_\x93."), 81, ("torch.hub",)),
    ("a registered extension", with_pickle(b"\x80\x02\x82\x01."), 81, ("data.pkl",)),
    ("a whole module", saved(torch.nn.Linear(2, 2)), 81, ("torch.nn.modules.linear.Linear",)),
    ("a list", saved([torch.ones(2)]), 65, ()),
    ("a storage too short", rezipped(lambda name, old: (name, old[:-1] if name.endswith("data/0") else old)), 65,
     ("data/0",)),
    ("a storage packed", rezipped(lambda *record: record, zipfile.ZIP_DEFLATED), 65, ("data.pkl", "method 8")),
    ("big-endian", rezipped(lambda name, old: (name, b"big" if name.endswith("byteorder") else old)), 65,
     ("byteorder", "big")),
    ("names that leave", rezipped(lambda name, old: (name.replace("archive/", "../../"), old)), 65, ()),
    ("2 GB of text, 10 bytes there", with_pickle(b"\x80\x02X\xff\xff\xff\x7f0123456789"), 65, ("BINUNICODE at 2",)),
    ("10^6 memos", with_pickle(b"\x80\x04N" + b"\x94" * 1_000_000 + b"."), 65, ("data.pkl",)),
    ("nested 10^6 deep", with_pickle(b"\x80\x02" + b"(" * 1_000_000 + b"."), 65, ("data.pkl",)),
    ("a dictionary in itself", with_pickle(b"\x80\x02}q\x00U\x01ah\x00s."), 65, ()),
    ("a zip behind a page", HTML + GOOD_BIN, 65, ("HTML",)),
    ("bytes behind a zip", GOOD_BIN + b"tail", 65, ("zip",)),
    ("a bit of a checksum flipped", flipped(GOOD_BIN, 14), 65, ()),
    ("a TorchScript archive", rezipped(lambda name, old: (name.replace("data.pkl", "constants.pkl"), old)), 81,
     ("TorchScript",)),
    ("tar", b"model.pth".ljust(257, b"\0") + b"ustar\x0000" + bytes(512), 81, ("tar",)),
    ("numpy", b"\x93NUMPY\x01\0" + bytes(100), 81, ("NumPy",)),
    ("gzip", gzip.compress(GOOD_BIN, mtime=0), 65, ("gzip",)),
    ("safetensors", one(), 65, ("safetensors",)),
    ("a pointer", LFS, 65, ("Git LFS pointer",)),
    ("a page", HTML, 65, ("HTML page",)),
    ("half precision of complex numbers", saved({"model.norm.weight": torch.ones(2, dtype=torch.complex64)}), 65, ()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "code", "words"), [case[1:] for case in PICKLE_CASES], ids=[case[0] for case in PICKLE_CASES]
)
def test_a_pytorch_file_that_lies(tmp_path: Path, data: bytes, code: int, words: tuple[str, ...]) -> None:
    folder = tiny_llama.write(tmp_path / "in", container="bin")
    (folder / "pytorch_model.bin").write_bytes(data)
    (folder / "evil.py").write_text("open('owned', 'w').close()\n")
    hostile.refused(tmp_path, folder, code, "pytorch_model.bin", *words)
    assert not list(tmp_path.rglob("owned"))


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    back = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may have 108 bytes
    server.bind(path.name)
    os.chdir(back)
    server.close()


def to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def to_nowhere(path: Path) -> None:
    path.symlink_to("nowhere")


def to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unreadable(path: Path) -> None:
    path.write_bytes(GOOD_GGUF)
    path.chmod(0)


KINDS = [
    (fifo, 65, "a regular file"),
    (bound_socket, 65, "a regular file"),
    (to_zeros, 65, "a regular file"),
    (Path.mkdir, 66, "config.json: not found"),
    (to_itself, 66, "no such file"),
    (to_nowhere, 66, "no such file"),
    (unreadable, 77, "Permission denied"),
]


@pytest.mark.parametrize(("make", "code", "word"), KINDS, ids=[case[0].__name__ for case in KINDS])
def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], None], code: int, word: str) -> None:
    """Nothing waits for a writer, reads a device or calls itself at fault; whatever the command."""
    hostile.usual()
    hostile.open_to_all(tmp_path)
    path = tmp_path / "in" / "model.gguf"
    make(path)
    status, target = path.lstat(), tmp_path / "out" / "x"
    for command in (
        ("convert", str(path), "--quant", "q8_0", "-o", str(target)),
        ("run", str(path), "hi"),
        ("compare", str(path), str(path)),
        ("verify", str(path)),
        ("torrent", str(path), "-o", str(target)),
        ("seed", str(path)),
        ("manifest", "check", str(path)),
    ):
        ran = hostile.run(tmp_path, *command, nobody=make is unreadable)
        if command[0] in ("convert", "run", "compare"):
            hostile.judge(ran, code, "model.gguf", word)
        else:
            hostile.judge(ran, ran.code, "model.gguf")
            assert ran.code in (code, 2, 66, 74), ran
        assert not target.exists()
    now = path.lstat()  # but for the time of access
    same = (now.st_mode, now.st_ino, now.st_mtime_ns, now.st_size) == (
        status.st_mode, status.st_ino, status.st_mtime_ns, status.st_size,
    )  # fmt: skip
    assert same or make is Path.mkdir


NAMES = ["new\nline.gguf", "steers\x1b[2J.gguf", "bytes\udcff.gguf", "-o.gguf", "bidi\u202e.gguf", "a b.gguf"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_that_steer(tmp_path: Path, name: str) -> None:
    """Refused or escaped, and never printed; a good file with a blank or a dash in its name is read."""
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(GOOD_GGUF[:-1])
    for command in (
        ("convert", str(path), "--quant", "q8_0", "-o", str(tmp_path / "x")),
        ("run", str(path), "hi"),
        ("manifest", "check", str(path)),
    ):
        hostile.judge(hostile.run(tmp_path, *command), 65, ".gguf: ")
    hostile.judge(hostile.run(tmp_path, "verify", str(path.parent)), 66, "no manifest")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_results_with_names_that_steer(tmp_path: Path, name: str) -> None:
    """What the user asks for is made and named exactly in a pipe; a terminal gets the name escaped."""
    (tmp_path / "model.gguf").write_bytes(GOOD_GGUF)
    ours, theirs = os.openpty()
    for folder, stdout in (("pipe", None), ("terminal", Path(os.ttyname(theirs)))):
        target = tmp_path / folder / name
        arguments = ("convert", str(tmp_path / "model.gguf"), "--quant", "q8_0", "--no-check", "-o", str(target))
        ran = hostile.run(tmp_path, *arguments, stdout=stdout)
        assert ran.code == 0, ran
        assert target.stat().st_size > 0
        if stdout is None:
            assert ran.out == f"{target}\n".encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        else:
            shown = os.read(ours, 10_000).decode().replace("\r\n", "\n")
            assert hostile.is_plain(shown)
            assert shown.endswith(f"/{ascii(name)[1:-1]}\n") or name == "new\nline.gguf"
    for descriptor in (ours, theirs):
        os.close(descriptor)


@pytest.mark.parametrize("name", ["GGUF", "safetensors", "PyTorch"])
def test_the_same_in_an_ascii_terminal(tmp_path: Path, name: str) -> None:
    """LANG=C: same exit code, same words, nothing that such a terminal cannot show."""
    odd = "model-é-✓"
    data = {
        "GGUF": keys(architecture=string("general.architecture", odd)),
        "safetensors": safetensors({odd: {"dtype": odd}}),
        "PyTorch": with_pickle(calls(odd, "run", "")),
    }[name]
    ending = {"GGUF": "gguf", "safetensors": "safetensors", "PyTorch": "bin"}[name]
    folder = tiny_llama.write(tmp_path / "in") if name != "GGUF" else tmp_path
    path = folder / f"{odd}.{ending}"
    path.write_bytes(data)
    here = hostile.run(tmp_path, "run", str(path), "hi")
    there = hostile.machine("C").run(tmp_path, "run", str(path), "hi")
    hostile.judge(here, 81 if name == "PyTorch" else 65, f"{odd}.{ending}")
    hostile.judge(there, here.code, "model-")
    assert there.err.isascii()
