"""What a file is, by its first bytes: so that a wrong file is called by its name and not merely called broken."""

from __future__ import annotations

import re
from enum import Enum

LENGTH = 512  # bytes that `of` needs to see

# What stands in place of a GGUF file's first bytes while its keys are changed in place, so that nobody reads half of
# the old ones and half of the new.
HALF_EDITED = b"half-edited GGUF"


class Signature(Enum):
    """The value is how people call it."""

    GGUF = "a GGUF file"
    HALF_EDITED = "a GGUF file whose edit was cut short; `distro gguf finish` completes it"
    GGML = "a GGML file from before GGUF"
    SAFETENSORS = "a safetensors file"
    ZIP = "a zip archive"
    PICKLE = "a pickle"
    TAR = "a tar archive"
    NUMPY = "a NumPy array"
    EXECUTORCH = "an ExecuTorch program"
    GZIP = "a gzip file"
    BZIP2 = "a bzip2 file"
    XZ = "an xz file"
    ZSTD = "a zstd file"
    SEVEN_ZIP = "a 7z archive"
    LFS_POINTER = "a Git LFS pointer, which stands for a file that was not fetched"
    HTML = "an HTML page"
    PNG = "a PNG image"
    JSON = "JSON text"


COMPRESSED = frozenset({Signature.GZIP, Signature.BZIP2, Signature.XZ, Signature.ZSTD, Signature.SEVEN_ZIP})

_AT_THE_START = {
    b"GGUF": Signature.GGUF, b"FUGG": Signature.GGUF,
    HALF_EDITED: Signature.HALF_EDITED,
    b"lmgg": Signature.GGML, b"fmgg": Signature.GGML, b"tjgg": Signature.GGML, b"algg": Signature.GGML,
    b"nsgg": Signature.GGML, b"ggml": Signature.GGML, b"ggmf": Signature.GGML, b"ggjt": Signature.GGML,
    b"ggla": Signature.GGML, b"ggsn": Signature.GGML, b"GGML": Signature.GGML,
    b"PK\x03\x04": Signature.ZIP, b"PK\x05\x06": Signature.ZIP,
    b"\x93NUMPY": Signature.NUMPY,
    b"\x1f\x8b": Signature.GZIP,
    b"BZh": Signature.BZIP2,
    b"\xfd7zXZ\x00": Signature.XZ,
    b"\x28\xb5\x2f\xfd": Signature.ZSTD,
    b"7z\xbc\xaf\x27\x1c": Signature.SEVEN_ZIP,
    b"version https://git-lfs": Signature.LFS_POINTER,
    b"\x89PNG": Signature.PNG,
}  # fmt: skip

# A protocol's number, or in protocol 0 the first name of code; one that names none has no signature.
_PICKLE = re.compile(rb"\x80[\x01-\x05]|[(\]})]*[ci][\w.]+\n[\w.]+\n")


def of(head: bytes) -> Signature | None:
    """The signature in a file's first bytes, None for nothing that we know."""
    # First, because its length may be any number: 640 is how a pickle begins.
    if int.from_bytes(head[:8], "little") <= 100_000_000 and head[8:].lstrip(b" \t\r\n")[:1] == b"{":
        return Signature.SAFETENSORS
    for magic, signature in _AT_THE_START.items():
        if head.startswith(magic):
            return signature
    if head[257:262] == b"ustar":
        return Signature.TAR
    if head[4:8] in (b"ET12", b"eh00"):
        return Signature.EXECUTORCH
    if _PICKLE.match(head):
        return Signature.PICKLE
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return Signature.HTML
    return Signature.JSON if text.startswith(b"{") else None


def describe(head: bytes) -> str:
    """The same in words; the bytes themselves where there are none."""
    signature = of(head)
    if signature is not None:
        return signature.value
    return f"a file that begins with {head[:8]!r}" if head else "an empty file"
