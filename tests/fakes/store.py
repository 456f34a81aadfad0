"""A home with models in it, as `fetch` and `convert` leave it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from distro.receipt import Entry, Receipt
from distro.store import Store

TIME = "2026-01-31T12:00:00Z"


def put(
    home: Path, model: str, variant: str, files: Mapping[str, bytes], *, form: str = "gguf", made_here: bool = False
) -> Path:
    """A variant with these files, and its receipt. Gives its folder."""
    store = Store(home)
    folder = store.folder(model, variant)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    entries = {
        name: Entry(hashlib.sha256(content).hexdigest(), len(content), "a test", TIME)
        for name, content in files.items()
    }
    store.write_receipt(Receipt(model, variant, form, entries, recipe={"target": form} if made_here else None))
    return folder
