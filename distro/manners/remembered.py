"""What is remembered from one run to the next besides models: small JSON files in the user's state folder, 0600.

A file that is not there, or not sound, remembers nothing; what cannot be written is not remembered, without a word.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from distro import disk
from distro.digest import open_regular
from distro.errors import DistroError

_MOST_BYTES = 1_000_000  # ours are a few hundred


def recall(folder: Path | None, name: str) -> Mapping[str, object]:
    """The object in a file; empty where there is none that is sound. folder: None where nothing is remembered."""
    if folder is None:
        return {}
    try:
        with open_regular(folder / name) as file:
            said = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError, DistroError):
        return {}
    return said if isinstance(said, dict) else {}


def remember(folder: Path | None, name: str, value: Mapping[str, object]) -> bool:
    """Whether it could be kept."""
    if folder is None:
        return False
    path = folder / name
    try:
        disk.make_folder(path.parent, private=folder)
        disk.write_whole(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(), private=True)
    except (OSError, DistroError):
        return False
    return True
