"""A recipe applied to one checkpoint: every output tensor with its input, steps, type, size and offset.

Made from headers alone. So the exact size of the result is known before any weight is read, and any worker can make
its own range of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from converters import dtypes, mix, quants, running_digest
from converters.checkpoint import Checkpoint
from converters.dtypes import DType
from converters.errors import RefusedError, UnsupportedError, shown
from converters.formats import gguf, huggingface, meta
from converters.imatrix import Imatrix
from converters.layout import OutputFile, PlacedTensor
from converters.mix import Mix
from converters.provenance import UNKNOWN, Provenance
from converters.recipe import Recipe
from converters.tensors import ReorderedTensor, SlicedTensor, Tensor, TensorInfo

# Weights in one block of rows: large enough that Python's share is small, small enough for a core's cache and for
# memory to stay a matter of threads and not of models.
_BLOCK_WEIGHTS = 1 << 18


@dataclass(frozen=True)
class Work:
    """One output tensor: where it comes from, where it goes.

    input: has the output's rows in the output's order; of their columns the output may hold a part.
    imatrix: what weighs errors while it is encoded, None where nothing is known of this tensor.
    """

    input: Tensor
    placed: PlacedTensor
    file: OutputFile
    imatrix: Imatrix | None = None

    @property
    def copies(self) -> bool:
        """Whether stored bytes stay as they are."""
        return self.input.info.dtype == self.placed.info.dtype

    @property
    def takes_columns(self) -> bool:
        """Whether each row is cut out of a longer one."""
        return self.input.info.n_columns != self.placed.info.n_columns

    @property
    def steps(self) -> tuple[str, ...]:
        """What happens to each block of rows, in words."""
        order = ("reorder the rows of each head",) if self.placed.row_order else ()
        if self.copies:
            return (*order, "cut the columns" if self.takes_columns else "copy")
        weighed = (
            " by importance" if self.imatrix is not None and quants.uses_importance(self.placed.info.dtype) else ""
        )
        return (*order, f"decode {self.input.info.dtype}", f"encode {self.placed.info.dtype}{weighed}")

    @property
    def rows_in_a_block(self) -> int:
        """Rows that are made at a time."""
        return max(1, _BLOCK_WEIGHTS // max(1, self.input.info.n_columns))


@dataclass(frozen=True)
class Plan:
    """What will be made: files with their heads, and the work that fills them.

    lay_out: the same files again for other provenance, of which only the heads differ. provenance: None for none.
    known_inputs: SHA-256 of what was read whole to make the plan: the importance matrix.
    """

    recipe: Recipe
    files: tuple[OutputFile, ...]
    work: tuple[Work, ...]
    lay_out: Callable[[Provenance | None], tuple[OutputFile, ...]]
    provenance: Provenance | None = None
    known_inputs: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files of the result."""
        return sum(file.size for file in self.files)

    @property
    def n_weights(self) -> int:
        return sum(work.placed.info.n_weights for work in self.work)

    def heads(self, inputs: Mapping[str, str]) -> dict[str, bytes]:
        """The first bytes of each file, by its path, once the digests of the inputs are known."""
        known = self.provenance and replace(self.provenance, inputs=inputs)
        files = self.lay_out(known)
        if [file.size for file in files] != [file.size for file in self.files]:
            raise AssertionError("a head changed its length with the digests in it")
        return {file.path: file.head for file in files}

    def memory_bytes(self, threads: int) -> int:
        """An upper bound of what the blocks under way take, beside the interpreter."""
        widest = max((work.input.info.n_columns * work.rows_in_a_block for work in self.work), default=0)
        digests = len(self.files) + len({work.input.position[0] for work in self.work})
        return threads * widest * 4 * _COPIES_OF_A_BLOCK + digests * running_digest.ROOM


# Stored bytes, float32 weights, and the arrays of the widest kernel, each at most as large as float32.
_COPIES_OF_A_BLOCK = 8


def make(
    checkpoint: Checkpoint, recipe: Recipe, name: str, imatrix: Imatrix | None = None, *, made_by: str | None = None
) -> Plan:
    """The plan of one conversion.

    name: of the result, used for the files of a GGUF. imatrix: the importance matrix that the recipe asks for. made_by:
    program and version for the provenance that the result carries, None if it is to carry none.
    Raises RefusedError for a tensor that the target has no place for, an importance matrix of another model, a type
    that is nonsense without one; UnsupportedError for a type that we cannot unpack or pack.
    """
    if (recipe.imatrix is None) != (imatrix is None) or (imatrix and recipe.imatrix != imatrix.sha256):
        raise ValueError(f"the recipe asks for the importance matrix {recipe.imatrix}, this is another")
    chosen = mix.named(recipe.mix)
    lay_out = _layout(checkpoint, recipe, chosen, name, imatrix)
    provenance = None
    if made_by is not None:
        unknown = {file.path.name: UNKNOWN for file in checkpoint.files} | {
            path.name: UNKNOWN for path in checkpoint.companions
        }
        if imatrix is not None:
            unknown[imatrix.input_name] = UNKNOWN
        provenance = Provenance(made_by, recipe.canonical(), unknown)
    files = lay_out(provenance)
    work = tuple(
        Work(_input(checkpoint.tensors[placed.source], placed), placed, file, _weighing(imatrix, placed.info))
        for file in files
        for placed in file.tensors
    )
    _check_complete(checkpoint, recipe, work)
    known = {}
    if imatrix is not None:
        _check_imatrix(checkpoint, imatrix)
        known[imatrix.input_name] = imatrix.sha256 or UNKNOWN
    _check_types(checkpoint, chosen, work)
    warnings = (*_warnings(checkpoint.tensors, work), *_imatrix_warnings(imatrix, work))
    return Plan(recipe, files, work, lay_out, provenance, known, warnings)


def _layout(
    checkpoint: Checkpoint, recipe: Recipe, chosen: Mix, name: str, imatrix: Imatrix | None
) -> Callable[[Provenance | None], tuple[OutputFile, ...]]:
    """The writer of the recipe's target, waiting for nothing but provenance."""
    if recipe.target == "gguf":
        infos = (tensor.info for tensor in checkpoint.tensors.values())
        parameters = checkpoint.hyperparameters
        types = mix.types(chosen, infos, parameters, has_imatrix=imatrix is not None, overrides=recipe.overrides)
        return partial(
            gguf.lay_out,
            checkpoint,
            types,
            f"{name}-{chosen.name.upper()}.gguf",
            chosen.file_type,
            recipe.max_shard_bytes,
            recipe.byte_order or "little",
            imatrix,
        )
    if recipe.target in ("pth", "mistral"):
        return partial(meta.lay_out, checkpoint, chosen.base, recipe.target, recipe.n_shards)
    return partial(huggingface.lay_out, checkpoint, chosen.base, recipe.target, recipe.max_shard_bytes)


def _weighing(imatrix: Imatrix | None, info: TensorInfo) -> Imatrix | None:
    """The importance matrix for a tensor that is to be quantized, if it has anything on it."""
    return imatrix if imatrix is not None and info.name in imatrix and not info.dtype.is_plain else None


def _input(tensor: Tensor, placed: PlacedTensor) -> Tensor:
    """The source's rows that the output has, in its order."""
    if placed.row_order is not None:
        tensor = ReorderedTensor(tensor, placed.row_order)
    n_rows = placed.info.shape[0] if len(placed.info.shape) > 1 else placed.info.n_rows
    if len(placed.info.shape) > 1 and n_rows != tensor.info.shape[0]:
        tensor = SlicedTensor(tensor, placed.first_row, n_rows)
    return tensor


def _check_complete(checkpoint: Checkpoint, recipe: Recipe, work: tuple[Work, ...]) -> None:
    """No tensor may be dropped in silence; rotary factors are kept by the hyper-parameters they came from."""
    placed = {each.placed.source for each in work}
    derived = {"rope_freqs.weight"} if checkpoint.hyperparameters.rope_scaling is not None else set()
    for name in checkpoint.tensors:
        if name not in placed and name not in derived:
            raise RefusedError(f"{shown(str(checkpoint.path))}: {shown(name)} has no place in {recipe.target}")


def _check_imatrix(checkpoint: Checkpoint, imatrix: Imatrix) -> None:
    """Raise RefusedError if it was made for another model: other columns, or not one name in common."""
    known = [tensor.info for name, tensor in checkpoint.tensors.items() if name in imatrix]
    for info in known:
        imatrix.check_fits(info)
    if not known:
        raise RefusedError(f"{shown(str(imatrix.path))}: has nothing on any tensor of {shown(str(checkpoint.path))}")


def _check_types(checkpoint: Checkpoint, chosen: Mix, work: tuple[Work, ...]) -> None:
    for each in work:
        stored, wanted = each.input.info.dtype, each.placed.info.dtype
        if each.copies:
            continue
        if not quants.can_decode(stored):
            raise UnsupportedError(checkpoint.path, each.input.info.name, found=f"type {stored}", allowed=_readable())
        nonsense = mix.needs_imatrix(chosen, each.placed.info.name, wanted) or quants.needs_importance(wanted)
        if each.imatrix is None and nonsense:
            lacking = (
                f"{shown(each.placed.info.name)}: {wanted} is nonsense without an importance matrix of this tensor"
            )
            raise RefusedError(f"{lacking}; give one with --imatrix, or take a larger type")
        if not quants.can_encode(wanted):
            raise RefusedError(f"{shown(each.placed.info.name)}: packing {wanted} is not built yet")


def _readable() -> str:
    return ", ".join(dtype.name for dtype in dtypes.ALL if quants.can_decode(dtype))


def _warnings(tensors: Mapping[str, Tensor], work: tuple[Work, ...]) -> tuple[str, ...]:
    lossy = sorted({each.input.info.dtype.name for each in work if not each.copies and _loses(each)})
    if not lossy:
        return ()
    return (f"{', '.join(lossy)} weights are quantized a second time; a floating-point source would be better",)


# llama.cpp's tool looks at these only if it is asked to, and quantizing them without is as it should be.
_SELDOM_WEIGHED = ("output.weight", "token_embd.weight")
_MOST_SHOWN = 4


def _imatrix_warnings(imatrix: Imatrix | None, work: tuple[Work, ...]) -> Iterator[str]:
    """Tensors that are quantized by their weights alone, all of them or some of their experts."""
    if imatrix is None:
        return
    quantized = [each.placed.info for each in work if not each.copies and not each.placed.info.dtype.is_plain]
    unknown = [info.name for info in quantized if info.name not in imatrix and info.name not in _SELDOM_WEIGHED]
    if unknown:
        more = f" and {len(unknown) - _MOST_SHOWN} more" if len(unknown) > _MOST_SHOWN else ""
        yield f"the importance matrix has nothing on {', '.join(map(shown, unknown[:_MOST_SHOWN]))}{more}"
    for info in quantized:
        experts = imatrix.unreached(info) if info.name in imatrix else ()
        if experts:
            which = f" of its experts {', '.join(map(str, experts))}" if len(info.shape) > 2 else ""
            yield f"{shown(info.name)}: calibration never reached the columns{which}; there all count the same"


def _loses(work: Work) -> bool:
    stored: DType = work.input.info.dtype
    return not stored.is_plain and not work.placed.info.dtype.is_plain
