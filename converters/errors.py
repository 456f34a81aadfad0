"""Everything that can be wrong with a checkpoint or with what was asked of it.

ConversionError
├── MalformedError      the bytes break the format's rules
├── UnsafeError         the file asks for something we never do, such as running code
├── UnsupportedError    well formed, but of a kind that we do not read or write (yet)
├── MissingError        a file that the checkpoint needs is not there
├── ChangedError        the file changed while it was read
├── RefusedError        a request that we decline by rule, such as writing over the input
└── UnrepresentableError  a value that the wanted type cannot hold
"""

from __future__ import annotations

from pathlib import Path

_LONGEST_SHOWN = 120


def escape(text: str) -> str:
    """Every character that does not print, or that would move the cursor or turn the direction, spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def shown(value: object) -> str:
    """Text from a file, made safe for a terminal: escaped, and cut when long."""
    text = value if isinstance(value, str) else repr(value)
    escaped = escape(text[: _LONGEST_SHOWN + 1])
    return escaped if len(escaped) <= _LONGEST_SHOWN else escaped[: _LONGEST_SHOWN - 1] + "…"


class ConversionError(Exception):
    """Base of all: one line, path first."""


class MalformedError(ConversionError):
    """`path: field at offset: found X, allowed Y`, each part kept as an attribute.

    field: a GGUF key, a tensor, a JSON pointer, a zip member. offset: byte from the start of the file (of the member
    where field names one), or "line:column" for text, or None where neither means anything.
    """

    def __init__(
        self, path: Path | str, field: str, *, found: object, allowed: str, offset: int | str | None = None
    ) -> None:
        self.path, self.field, self.offset, self.found, self.allowed = path, field, offset, found, allowed
        where = "" if offset is None else f" at {offset}"
        super().__init__(f"{escape(str(path))}: {shown(field)}{where}: found {shown(found)}, allowed {allowed}")


class UnsafeError(MalformedError):
    """A pickle that names code, a container that we do not open."""


class UnsupportedError(MalformedError):
    """A real format, type or architecture that we know of but do not handle."""


class MissingError(ConversionError):
    """A file that is needed is not there."""

    def __init__(self, path: Path | str, why: str) -> None:
        self.path, self.why = path, why
        super().__init__(f"{escape(str(path))}: not found, {why}")


class ChangedError(ConversionError):
    """An input changed while it was being read; nothing made from it may be kept."""

    def __init__(self, path: Path | str, what: str) -> None:
        self.path, self.what = path, what
        super().__init__(f"{escape(str(path))}: changed while it was read ({what})")


class RefusedError(ConversionError):
    """Asked for something that we decline by rule."""


class UnrepresentableError(ConversionError):
    """A weight that the target type cannot hold. file: that the weight is in, "" where nobody said."""

    def __init__(self, tensor: str, index: int, value: float, dtype: str, *, file: str = "") -> None:
        self.tensor, self.index, self.value, self.dtype, self.file = tensor, index, value, dtype, file
        where = f"{escape(file)}: " if file else ""
        super().__init__(f"{where}{shown(tensor)}: weight {index} is {value!r}, which {dtype} cannot hold")
