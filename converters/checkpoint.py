"""Any model at rest, whatever the format: what it is, how it speaks, and tensors that are read when asked."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from converters.hyperparameters import HyperParameters
from converters.input_file import Identity, InputFile, check_still
from converters.tensors import Tensor
from converters.tokenizers.vocabulary import Vocabulary

# What a model says of itself (name, license, organization, tags, …), by GGUF's words for it without "general.";
# carried along, never interpreted.
Card = Mapping[str, str | int | float | tuple[str, ...]]


@dataclass
class Checkpoint:
    """A model at rest.

    format: "gguf", "ggml", "safetensors" or "pytorch". architecture: its name in `converters.architectures`. tensors:
    by GGUF name (`blk.0.attn_q.weight`) with rows in GGUF's order, whatever names and order the files have. files: what
    the tensors lie in, open until `close`. companions: the other files that were read, such as config.json. read: those
    of them as they were before they were read, as far as somebody noted it.
    """

    path: Path
    format: str
    architecture: str
    hyperparameters: HyperParameters
    vocabulary: Vocabulary | None
    tensors: Mapping[str, Tensor]
    files: tuple[InputFile, ...]
    companions: tuple[Path, ...] = ()
    card: Card = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    read: Mapping[Path, Identity] = field(default_factory=dict)

    @property
    def n_weights(self) -> int:
        return sum(tensor.info.n_weights for tensor in self.tensors.values())

    @property
    def n_bytes(self) -> int:
        return sum(tensor.info.n_bytes for tensor in self.tensors.values())

    def check_unchanged(self) -> None:
        """Raise ChangedError if any of its files changed since it was opened."""
        for file in self.files:
            file.check_unchanged()
        for path, identity in self.read.items():
            check_still(path, identity)

    def close(self) -> None:
        with ExitStack() as stack:
            for file in self.files:
                stack.callback(file.close)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
