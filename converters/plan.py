"""A recipe applied to one checkpoint: every output tensor with its input, steps, type, size and offset.

Made from headers alone. So the exact size of the result is known before any weight is read, and any worker can make
its own range of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from converters import dtypes, mix, quants
from converters.checkpoint import Checkpoint
from converters.dtypes import DType
from converters.errors import RefusedError, UnsupportedError
from converters.formats import gguf, huggingface
from converters.layout import OutputFile, PlacedTensor
from converters.recipe import Recipe
from converters.tensors import ReorderedTensor, Tensor

# Weights in one block of rows: large enough that Python's share is small, small enough for a core's cache and for
# memory to stay a matter of threads and not of models.
_BLOCK_WEIGHTS = 1 << 18


@dataclass(frozen=True)
class Work:
    """One output tensor: where it comes from, where it goes. input has the output's rows in the output's order."""

    input: Tensor
    placed: PlacedTensor
    file: OutputFile

    @property
    def copies(self) -> bool:
        """Whether stored bytes stay as they are."""
        return self.input.info.dtype == self.placed.info.dtype

    @property
    def steps(self) -> tuple[str, ...]:
        """What happens to each block of rows, in words."""
        order = ("reorder the rows of each head",) if self.placed.row_order else ()
        if self.copies:
            return (*order, "copy")
        return (*order, f"decode {self.input.info.dtype}", f"encode {self.placed.info.dtype}")

    @property
    def rows_in_a_block(self) -> int:
        return max(1, _BLOCK_WEIGHTS // max(1, self.placed.info.n_columns))


@dataclass(frozen=True)
class Plan:
    """What will be made: files with their heads, and the work that fills them."""

    recipe: Recipe
    files: tuple[OutputFile, ...]
    work: tuple[Work, ...]
    warnings: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files of the result."""
        return sum(file.size for file in self.files)

    @property
    def n_weights(self) -> int:
        return sum(work.placed.info.n_weights for work in self.work)

    def memory_bytes(self, threads: int) -> int:
        """An upper bound of what the blocks under way take, beside the interpreter."""
        widest = max((work.placed.info.n_columns * work.rows_in_a_block for work in self.work), default=0)
        return threads * widest * 4 * _COPIES_OF_A_BLOCK


# Stored bytes, float32 weights, and the arrays of the widest kernel, each at most as large as float32.
_COPIES_OF_A_BLOCK = 8


def make(checkpoint: Checkpoint, recipe: Recipe, name: str) -> Plan:
    """The plan of one conversion.

    name: of the result, used for the one file of a GGUF. Raises RefusedError for a tensor that the target has no
    place for, UnsupportedError for a type that we cannot unpack or pack.
    """
    chosen = mix.named(recipe.mix)
    if recipe.target == "gguf":
        infos = (tensor.info for tensor in checkpoint.tensors.values())
        types = mix.types(chosen, infos, checkpoint.hyperparameters)
        files = gguf.lay_out(checkpoint, types, f"{name}-{chosen.name.upper()}.gguf", file_type=chosen.file_type)
    else:
        files = huggingface.lay_out(checkpoint, chosen.base, max_shard_bytes=recipe.max_shard_bytes)
    work = tuple(
        Work(_in_order(checkpoint.tensors[placed.source], placed.row_order), placed, file)
        for file in files
        for placed in file.tensors
    )
    _check_complete(checkpoint, recipe, work)
    _check_types(checkpoint, work)
    return Plan(recipe, files, work, _warnings(checkpoint.tensors, work))


def _in_order(tensor: Tensor, row_order: tuple[int, ...] | None) -> Tensor:
    return tensor if row_order is None else ReorderedTensor(tensor, row_order)


def _check_complete(checkpoint: Checkpoint, recipe: Recipe, work: tuple[Work, ...]) -> None:
    """No tensor may be dropped in silence; rotary factors are kept by the hyper-parameters they came from."""
    placed = {each.placed.source for each in work}
    derived = {"rope_freqs.weight"} if checkpoint.hyperparameters.rope_scaling is not None else set()
    for name in checkpoint.tensors:
        if name not in placed and name not in derived:
            raise RefusedError(f"{checkpoint.path}: {name} has no place in {recipe.target}")


def _check_types(checkpoint: Checkpoint, work: tuple[Work, ...]) -> None:
    for each in work:
        stored, wanted = each.input.info.dtype, each.placed.info.dtype
        if each.copies:
            continue
        if not quants.can_decode(stored):
            raise UnsupportedError(checkpoint.path, each.input.info.name, found=f"type {stored}", allowed=_readable())
        if not quants.can_encode(wanted):
            raise RefusedError(f"{each.placed.info.name}: packing {wanted} is not built yet")


def _readable() -> str:
    return ", ".join(dtype.name for dtype in dtypes.ALL if quants.can_decode(dtype))


def _warnings(tensors: Mapping[str, Tensor], work: tuple[Work, ...]) -> tuple[str, ...]:
    lossy = sorted({each.input.info.dtype.name for each in work if not each.copies and _loses(each)})
    if not lossy:
        return ()
    return (f"{', '.join(lossy)} weights are quantized a second time; a floating-point source would be better",)


def _loses(work: Work) -> bool:
    stored: DType = work.input.info.dtype
    return not stored.is_plain and not work.placed.info.dtype.is_plain
