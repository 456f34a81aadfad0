"""What a format must offer, and how a path finds its format: by content, never by name."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from converters.checkpoint import Checkpoint
from converters.input_file import InputFile, Opener


class Format(Protocol):
    """One module of this package.

    Writers have no part in the protocol: each offers `lay_out`, a pure function from a checkpoint and the type of
    each tensor to the `OutputFile`s of `converters.layout`; `converters.convert` fills them.
    """

    NAME: str

    def sniff(self, path: Path) -> bool:
        """Whether this path (a file or a folder) looks like this format; never raises for odd content."""
        ...

    def open_checkpoint(self, path: Path, *, opener: Opener = InputFile) -> Checkpoint:
        """Headers, hyper-parameters and vocabulary read and judged; weights stay where they are.

        opener: opens each file that holds weights.
        """
        ...
