"""Names of files that come from elsewhere: manifests, torrents, hub listings. All of them pass through here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

LONGEST_PATH = 1024  # bytes of UTF-8: leaves room for the folders above within PATH_MAX (4096)
LONGEST_COMPONENT = 255  # bytes of UTF-8: NAME_MAX everywhere
DEEPEST = 32  # folders
PARTS = ".distro-partial"  # where files arrive that are to lie in a folder of the user's own

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file; the superscripts are digits to Windows.
_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    device + digit for device in ("COM", "LPT") for digit in "0123456789¹²³"
}
_RESERVED = '<>:"|?*\\'
# Default_Ignorable_Code_Point of Unicode, as far as Python calls it printable: nothing shows where these stand.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def safe_relpath(text: str) -> str:
    """The same path, if POSIX and Windows both take it for a file below the folder that it is joined to.

    Relative, forward slashes, Unicode NFC, every component one that all our systems store as it is written.
    Raises ValueError with the reason; the caller knows the file and the field.
    """
    if not text:
        raise ValueError("an empty path")
    if text.startswith("/"):
        raise ValueError("an absolute path")
    if text.startswith("~"):
        raise ValueError("a path that begins with ~")
    if not text.isprintable() or _INVISIBLE.search(text):
        raise ValueError("a character that does not print")
    if len(text.encode()) > LONGEST_PATH:
        raise ValueError(f"a path of {len(text.encode())} bytes, {LONGEST_PATH} at most")
    if not unicodedata.is_normalized("NFC", text):
        raise ValueError("a path that is not in Unicode's composed form (NFC)")
    components = text.split("/")
    if len(components) > DEEPEST:
        raise ValueError(f"{len(components)} folders deep, {DEEPEST} at most")
    for component in components:
        _judge(component)
    return text


def clashing(paths: Iterable[str]) -> tuple[str, str] | None:
    """Two paths that some system cannot store both: they differ in case at most, or one is a folder of the other."""
    seen: dict[str, str] = {}
    for path in paths:
        if other := seen.get(path.casefold()):
            return other, path
        seen[path.casefold()] = path
    for path in seen.values():
        folder = path.casefold()
        while folder := folder.rpartition("/")[0]:
            if other := seen.get(folder):
                return other, path
    return None


def is_ours(path: str) -> bool:
    """Whether the store keeps something of its own there: a receipt and what is on its way to be one, lists, parts."""
    first = path.casefold().partition("/")[0]
    return first in ("receipt.json", ".pieces", PARTS) or first.startswith(".receipt.json.")


def _judge(component: str) -> None:
    if component in ("", ".", ".."):
        raise ValueError("an empty component" if not component else f"the component {component}")
    if len(component.encode()) > LONGEST_COMPONENT:
        raise ValueError(f"a component of {len(component.encode())} bytes, {LONGEST_COMPONENT} at most")
    for character in _RESERVED:
        if character in component:
            raise ValueError(f"the character {character}")
    if component.endswith((".", " ")):
        raise ValueError("a component that ends in a dot or a space, which Windows drops")
    if component.split(".")[0].rstrip(" ").upper() in _DEVICES:
        raise ValueError("the name of a Windows device")
