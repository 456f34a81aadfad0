"""A folder that is read and not trusted: its files are its own, wherever a name or a link would lead.

Links are followed inside the folder and in one other case: the hub's cache, where `snapshots/REVISION/` holds nothing
but links into the `blobs/` beside `snapshots/` (huggingface_hub, "Understand caching").
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from converters.errors import MissingError, UnsafeError, shown

# What the files of a model are called. Nothing that can be written like this leads anywhere else, on any system: what
# begins like a device is one to Windows (Naming Files, Paths, and Namespaces), which also drops a dot at the end.
_FILE_NAME = re.compile(
    r"(?!(?:CON|PRN|AUX|NUL|COM[0-9]|LPT[0-9])(?:\.|$))[A-Z0-9_][A-Z0-9_.+-]{0,254}(?<!\.)", re.IGNORECASE | re.ASCII
)


def is_file_name(text: str) -> bool:
    """Whether this is the plain name of a file and no path: ASCII letters, digits, `_`, `.`, `+`, `-`."""
    return _FILE_NAME.fullmatch(text) is not None


def beside(named: Path, name: str) -> Path:
    """The path of another file of the set that somebody named one file of, whether it exists or not.

    Who links to one file of a set links to all of them, so it may lie where that one does. Raises UnsafeError for a
    link that leads anywhere else.
    """
    path = named.with_name(name)
    home, target = (Path(os.path.realpath(each)).parent for each in (named, path))
    return path if target == home else inside(named.parent, name)


def inside(folder: Path, name: str) -> Path:
    """The path of a file by its plain name, whether it exists or not.

    Raises UnsafeError for a link that leaves, MissingError for one that leads nowhere: what it stood for is missed.
    """
    path = folder / name
    if path.is_symlink():
        target, home = Path(os.path.realpath(path)), folder.resolve()  # resolve() minds a link to itself
        homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
        if not any(target.is_relative_to(each) for each in homes):
            allowed = "a file of this folder, or of the hub cache that it belongs to"
            raise UnsafeError(path, "file", found=f"a link to {target}", allowed=allowed)
        if not path.exists():
            raise MissingError(path, f"a link to {shown(str(target))} stands in its place")
    return path
