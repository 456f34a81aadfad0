"""Open model weights: fetch, prove, convert, run, share.

The package index has another `distro` (names of Linux systems) that installs into this same folder. Should both be
here, names of its API are looked up in its module `distro/distro.py`, so that either may come last and both work.
We keep no code in this file, have no `distro.py` and no `__main__.py`, and import by full names.
"""


def __getattr__(name: str) -> object:
    if name.startswith("__"):
        raise AttributeError(name)
    import importlib

    try:
        namesake = importlib.import_module("distro.distro")
    except ModuleNotFoundError:
        raise AttributeError(f"module 'distro' has no attribute {name!r}") from None
    return getattr(namesake, name)
