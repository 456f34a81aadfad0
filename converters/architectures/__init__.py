"""One module an architecture, and the table that finds it by either of its names."""

from __future__ import annotations

from pathlib import Path

from converters.architectures import llama
from converters.architectures.base import Architecture
from converters.errors import UnsupportedError
from converters.fields import Fields

ARCHITECTURES: tuple[Architecture, ...] = (llama,)

_BY_GGUF_NAME = {architecture.NAME: architecture for architecture in ARCHITECTURES}
_BY_HF_CLASS = {name: architecture for architecture in ARCHITECTURES for name in architecture.HF_CLASSES}


def by_gguf_name(path: Path | str, name: object) -> Architecture:
    """The architecture of `general.architecture`; UnsupportedError, naming the file, for others."""
    if isinstance(name, str) and name in _BY_GGUF_NAME:
        return _BY_GGUF_NAME[name]
    raise UnsupportedError(path, "general.architecture", found=name, allowed=", ".join(_BY_GGUF_NAME))


def by_hf_class(path: Path | str, name: object) -> Architecture:
    """The architecture of an entry of `architectures` in config.json; UnsupportedError for others."""
    if isinstance(name, str) and name in _BY_HF_CLASS:
        return _BY_HF_CLASS[name]
    raise UnsupportedError(path, "/architectures/0", found=name, allowed=", ".join(_BY_HF_CLASS))


def by_params(params: Fields) -> Architecture:
    """The architecture of a params.json, which names none: all that are read today are llamas.

    What is another decoder shows by keys that a llama's `from_params` refuses.
    """
    return llama
