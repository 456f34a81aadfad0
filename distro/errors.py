"""Every error of the product, and the exit code of each.

DistroError                  1  a fault of ours
├── UsageError               2  wrong use, or refused by rule
│   └── NotBuiltError        2  a command or option that is planned and not there yet
├── MalformedManifestError  65  a manifest, torrent or reference breaks its rules
├── NotFoundError           66  no such model, variant or file; carries near names
├── CannotCreateError       73  the output cannot be made here
├── StorageError            74  reading or writing failed
├── SourceError             75  a source failed; another may do, or the same one later
│   ├── NotThereError       66  the source has no such file
│   ├── ProtocolError       76  the remote broke the protocol
│   └── NotPermittedError   77  token or licence is missing
├── WrongBytesError         79  the bytes are not the right ones
├── DiskFullError           80  no room
└── UnsafeRequestError      81  needs an explicit yes

Errors of `converters` keep their own tree (converters/errors.py); `exit_code` knows both.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence

from converters import errors as conversion
from converters.errors import escape, shown


class DistroError(Exception):
    """Base of all: one line that begins with what it is about."""

    exit_code = 1


class UsageError(DistroError):
    exit_code = 2


class NotBuiltError(UsageError):
    """Planned, not built yet; says so instead of pretending."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: not built yet")


class MalformedManifestError(DistroError):
    """`path: field at line: found X, allowed Y`."""

    exit_code = 65

    def __init__(self, path: object, field: str, *, found: object, allowed: str, line: str | int | None = None) -> None:
        self.path, self.field, self.found, self.allowed, self.line = path, field, found, allowed, line
        where = "" if line is None else f" at line {line}"
        subject = shown(path) if isinstance(path, str) else escape(str(path))
        super().__init__(f"{subject}: {shown(field)}{where}: found {shown(found)}, allowed {allowed}")


class NotFoundError(DistroError):
    """No such thing; `near` are names that may have been meant."""

    exit_code = 66

    def __init__(self, what: str, near: Sequence[str] = ()) -> None:
        self.what, self.near = what, tuple(near)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        super().__init__(what + hint)


class CannotCreateError(DistroError):
    exit_code = 73


class StorageError(DistroError):
    exit_code = 74


class SourceError(DistroError):
    """A source could not give what was asked; `source` names it, without secrets.

    retry_after_s: how long the source asks us to wait, None if it does not say. unreachable: nobody answered, be it
    that the source is gone or our own network.
    """

    exit_code = 75

    def __init__(self, source: str, why: str, *, retry_after_s: float | None = None, unreachable: bool = False) -> None:
        self.source, self.why, self.retry_after_s, self.unreachable = source, why, retry_after_s, unreachable
        super().__init__(f"{shown(source)}: {why}")


class NotThereError(SourceError):
    exit_code = 66


class ProtocolError(SourceError):
    exit_code = 76


class NotPermittedError(SourceError):
    exit_code = 77


class WrongBytesError(DistroError):
    """What came is not what the manifest says."""

    exit_code = 79

    def __init__(self, path: object, kind: str, found: str, expected: str) -> None:
        self.path, self.kind, self.found, self.expected = path, kind, found, expected
        super().__init__(f"{escape(str(path))}: {kind} is {found}, expected {expected}")


class DiskFullError(DistroError):
    exit_code = 80


class UnsafeRequestError(DistroError):
    exit_code = 81


_CONVERSION_CODES: dict[type[conversion.ConversionError], int] = {
    conversion.MalformedError: 65,
    conversion.UnsupportedError: 65,
    conversion.UnsafeError: 81,
    conversion.MissingError: 66,
    conversion.ChangedError: 74,
    conversion.RefusedError: 2,
    conversion.UnrepresentableError: 65,
}
_SYSTEM_CODES = {
    errno.ENOSPC: 80, errno.EDQUOT: 80,
    errno.ENOENT: 66,
    errno.EACCES: 77, errno.EPERM: 77,
    errno.EROFS: 73, errno.ENOTDIR: 73, errno.EISDIR: 73, errno.EEXIST: 73,
}  # fmt: skip


def message(error: BaseException) -> str:
    """What to say of any error: its own words; for the system's, the path and what is wrong with it."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


def name_of(error: BaseException) -> str:
    """What programs know an error by: `wrong_bytes` of a WrongBytesError, `system` of what the system says."""
    if isinstance(error, OSError):
        return "system"
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(error).__name__.removesuffix("Error")).lower()


def exit_code(error: BaseException) -> int:
    """The exit code for any error: ours, the converters', the system's; 1 for whatever is a bug."""
    if isinstance(error, DistroError):
        return error.exit_code
    for kind in type(error).__mro__:
        if kind in _CONVERSION_CODES:
            return _CONVERSION_CODES[kind]
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, OSError):
        return _SYSTEM_CODES.get(error.errno or 0, 74)
    return 1
