"""A folder that is read and not trusted: its files are its own, wherever a name or a link would lead.

Links are followed inside the folder and in one other case: the hub's cache, where `snapshots/REVISION/` holds nothing
but links into the `blobs/` beside `snapshots/` (huggingface_hub, "Understand caching").
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from converters.errors import UnsafeError

# What the files of a model are called. Nothing that can be written like this leads anywhere else, on any system.
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}")


def is_file_name(text: str) -> bool:
    """Whether this is the plain name of a file and no path: ASCII letters, digits, `_`, `.`, `+`, `-`."""
    return _FILE_NAME.fullmatch(text) is not None


def inside(folder: Path, name: str) -> Path:
    """The path of a file by its plain name, whether it exists or not. Raises UnsafeError for a link that leaves."""
    path = folder / name
    if path.is_symlink():
        target, home = Path(os.path.realpath(path)), folder.resolve()  # resolve() minds a link to itself
        homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
        if not any(target.is_relative_to(each) for each in homes):
            allowed = "a file of this folder, or of the hub cache that it belongs to"
            raise UnsafeError(path, "file", found=f"a link to {target}", allowed=allowed)
    return path
