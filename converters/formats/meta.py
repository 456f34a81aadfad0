"""Folders as Meta and Mistral release them. Being written."""

from __future__ import annotations

from converters.checkpoint import Checkpoint
from converters.dtypes import DType
from converters.layout import OutputFile
from converters.provenance import Provenance


def lay_out(
    checkpoint: Checkpoint,
    dtype: DType,
    target: str,
    n_shards: int | None = None,
    provenance: Provenance | None = None,
) -> tuple[OutputFile, ...]:
    raise NotImplementedError
