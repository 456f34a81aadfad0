"""One module a format, and the table in which a path finds its format by content."""

from __future__ import annotations

from pathlib import Path

from converters.checkpoint import Checkpoint
from converters.errors import MissingError, UnsupportedError
from converters.formats import ggml, gguf, huggingface, meta, signatures
from converters.formats.base import Format
from converters.input_file import InputFile, Opener, noting_what_is_read

FORMATS: tuple[Format, ...] = (ggml, gguf, meta, huggingface)


def open_checkpoint(path: Path, *, opener: Opener = InputFile, allow_trailing: bool = False) -> Checkpoint:
    """The model at a path, a file or a folder; weights stay on disk, and files open until it is closed.

    opener: opens each file that holds weights. allow_trailing: bytes behind the last tensor of a GGUF file are left
    alone instead of refused; no other format can have any.

    Raises MissingError where nothing is, UnsupportedError that says what is there where no format knows it, and
    whatever the format finds wrong.
    """
    if not path.exists():
        raise MissingError(path, "a checkpoint to read was expected here")
    for known in FORMATS:
        if known.sniff(path):
            with noting_what_is_read() as noted:
                if known is gguf:
                    checkpoint = gguf.open_checkpoint(path, opener=opener, allow_trailing=allow_trailing)
                else:
                    checkpoint = known.open_checkpoint(path, opener=opener)
            checkpoint.read = {each: noted[each] for each in checkpoint.companions if each in noted}
            return checkpoint
    if path.is_dir():
        raise MissingError(path / "config.json", "a folder of Hugging Face's has one")
    with InputFile(path) as file:
        found = signatures.describe(file.read(0, min(file.size, signatures.LENGTH), "file"))
    raise UnsupportedError(path, "file", offset=0, found=found, allowed=", ".join(known.NAME for known in FORMATS))
