"""A conversion made again, to see that a result is what it says it is: the same bytes out of the same inputs.

Nothing is written. Each block is compared with what the file has at its place, so that the first difference is named.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from converters import convert, plan
from converters.checkpoint import Checkpoint
from converters.errors import MalformedError, RefusedError, shown
from converters.formats import gguf_header, open_checkpoint, pytorch, safetensors, signatures
from converters.formats.gguf_shards import prefix_of
from converters.formats.signatures import Signature
from converters.imatrix import Imatrix
from converters.input_file import InputFile
from converters.layout import OutputFile
from converters.plan import Plan
from converters.provenance import Provenance
from converters.recipe import Recipe
from distro.digest import sha256_of
from distro.errors import NotFoundError, UsageError, WrongBytesError
from distro.progress import Progress
from distro.receipt import Receipt
from distro.store import Store

_WEIGHTS = (".gguf", ".safetensors", ".bin", ".pth")
_NAME = "result"  # for files whose names are found where they are
_MOST_NAMED = 8
_PATTERNS_S = 5.0
# Says nothing: how long it takes is the answer.
_LOOK = "import json, re, sys; wanted, names = json.load(sys.stdin); [re.search(p, n) for p in wanted for n in names]"


@dataclass(frozen=True)
class Derivation:
    """How a result says that it was made. path: the file or folder.

    made_by: None for a result that carries no provenance. sha256: of each file, as far as a receipt tells.
    """

    path: Path
    recipe: Recipe
    inputs: Mapping[str, str]
    made_by: str | None
    sha256: Mapping[str, str]


def of_variant(store: Store, receipt: Receipt) -> Derivation:
    """By its receipt. Raises NotFoundError for a variant that was fetched and not made."""
    folder = store.folder(receipt.model, receipt.variant)
    if receipt.recipe is None:
        raise NotFoundError(f"{receipt.model}:{receipt.variant}: was fetched, not made here; nothing can be repeated")
    sha256 = {name: entry.sha256 for name, entry in receipt.files.items()}
    files = [folder / name for name in sha256]
    provenance = _provenance(files[0] if len(files) == 1 else folder)
    recipe = Recipe.from_canonical(_canonical(receipt.recipe))
    made_by = provenance.made_by if provenance else None
    return Derivation(folder, recipe, receipt.inputs, made_by, sha256)


def of_path(path: Path) -> Derivation:
    """By what it carries itself. Raises NotFoundError where that is nothing."""
    provenance = _provenance(path)
    if provenance is None:
        raise NotFoundError(f"{shown(str(path))}: says nothing of how it was made")
    recipe = Recipe.from_canonical(provenance.recipe)
    return Derivation(path, recipe, provenance.inputs, provenance.made_by, {})


def find_source(store: Store, derivation: Derivation) -> Path:
    """The variant of the store that has the inputs, by their digests; NotFoundError says what is needed."""
    wanted = {name: sha256 for name, sha256 in derivation.inputs.items() if "/" not in name}
    for model, variant in store.variants():
        receipt = store.receipt(model, variant)
        files = receipt.files if receipt else {}
        if wanted and all(name in files and files[name].sha256 == sha256 for name, sha256 in wanted.items()):
            folder = store.folder(model, variant)
            return folder / next(iter(wanted)) if len(wanted) == 1 else folder
    needed = _listed(f"{shown(name)} (sha256 {shown(sha256)})" for name, sha256 in wanted.items())
    raise NotFoundError(f"{shown(str(derivation.path))}: its source is not in the store; --from PATH of {needed}")


def rebuild(
    derivation: Derivation, source: Path, imatrix: Imatrix | None = None, *, threads: int, progress: Progress
) -> Plan:
    """Make it again and compare.

    imatrix: the one that the recipe names. Raises WrongBytesError at the first byte that differs, or for other inputs;
    UsageError where an importance matrix is needed or is not; MalformedError for a recipe that would never end.
    """
    recipe = derivation.recipe
    _check_imatrix(derivation, imatrix)
    with open_checkpoint(source) as checkpoint, ExitStack() as stack:
        _try_patterns(derivation, list(checkpoint.tensors))
        again = plan.make(checkpoint, recipe, _NAME, imatrix, made_by=derivation.made_by)
        inputs = {**again.known_inputs, **_digests(checkpoint)}
        _compare("inputs", source if source.is_dir() else source.parent, inputs, derivation.inputs)
        places = _places(derivation.path, again)
        with progress.bar(f"repeat {recipe.mix}", again.size) as bar:
            made = convert.convert(
                checkpoint, again, _Comparison(places, again, stack), threads=threads, known=inputs, advance=bar.advance
            )
    _compare("inputs", source if source.is_dir() else source.parent, made.inputs, derivation.inputs)
    if derivation.sha256:
        outputs = {str(places[name].relative_to(derivation.path)): sha256 for name, sha256 in made.outputs.items()}
        _compare("files", derivation.path, outputs, derivation.sha256)
    return again


def _check_imatrix(derivation: Derivation, imatrix: Imatrix | None) -> None:
    wanted, path = derivation.recipe.imatrix, derivation.path
    if wanted is None and imatrix is not None:
        raise UsageError(f"{shown(str(path))}: was made without an importance matrix; leave out --imatrix")
    if wanted is not None and imatrix is None:
        raise UsageError(f"{shown(str(path))}: needs --imatrix FILE, the importance matrix of sha256 {shown(wanted)}")
    if imatrix is not None and imatrix.sha256 != wanted:
        raise WrongBytesError(imatrix.path, "sha256", imatrix.sha256 or "unknown", shown(wanted))


def _try_patterns(derivation: Derivation, names: list[str]) -> None:
    """Look for the recipe's regular expressions in a process that can be ended: `re` can be made to try 2**60 ways."""
    patterns = [pattern for pattern, _ in derivation.recipe.tensor_types or ()]
    if not patterns:
        return
    try:
        subprocess.run(
            [sys.executable, "-I", "-c", _LOOK], input=json.dumps([patterns, names]), text=True,
            timeout=_PATTERNS_S, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        found = f"regular expressions for which {_PATTERNS_S:.0f} s are not enough"
        raise MalformedError(derivation.path, "recipe.tensor_types", found=found, allowed="simpler ones") from error


def _digests(checkpoint: Checkpoint) -> dict[str, str]:
    """Taken before, so that another input is named at once, and the first bytes of a result can be compared too."""
    paths = (*(file.path for file in checkpoint.files), *checkpoint.companions)
    return {path.name: sha256_of(path) for path in paths}


def _places(path: Path, again: Plan) -> dict[str, Path]:
    """Where each file of the plan is. The name of a GGUF says nothing of what is in it, so users give it others."""
    if again.recipe.target != "gguf":
        return {file.path: path / file.path for file in again.files}
    there = _shards(path)
    if len(there) != len(again.files):
        raise WrongBytesError(path, "number of files", str(len(there)), str(len(again.files)))
    return {file.path: place for file, place in zip(again.files, there, strict=True)}


def _shards(path: Path) -> list[Path]:
    """The files of a GGUF in their order: those of a folder, those beside one of them, or the only one."""
    if path.is_dir():
        return sorted(path.glob("*.gguf"))
    prefix = prefix_of(path.name)
    if path.name in (prefix, f"{prefix}.gguf"):
        return [path]
    return sorted(each for each in path.parent.glob("*-?????-of-?????.gguf") if prefix_of(each.name) == prefix)


def _compare(kind: str, folder: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    if found.keys() != expected.keys():
        raise WrongBytesError(folder, kind, _listed(map(shown, sorted(found))), _listed(map(shown, sorted(expected))))
    for name, sha256 in expected.items():
        if found[name] != sha256:
            raise WrongBytesError(folder / name, "sha256", found[name], shown(sha256))


def _listed(texts: Iterable[str]) -> str:
    first = list(itertools.islice(texts, _MOST_NAMED + 1))
    return ", ".join(first[:_MOST_NAMED]) + (" and more" if len(first) > _MOST_NAMED else "") or "nothing"


class _Comparison:
    """A sink that holds what is made against what is there."""

    def __init__(self, places: Mapping[str, Path], again: Plan, stack: ExitStack) -> None:
        self._places, self._stack, self._files = places, stack, {file.path: file for file in again.files}

    def create(self, path: str, size: int) -> _ComparedFile:
        file = self._stack.enter_context(InputFile(self._places[path]))
        if file.size != size:
            raise WrongBytesError(file.path, "size", str(file.size), str(size))
        return _ComparedFile(file, self._files[path])


class _ComparedFile:
    def __init__(self, file: InputFile, planned: OutputFile) -> None:
        self._file, self._planned = file, planned

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        there = self._file.read(offset, len(data), "file")
        if there != data:
            index = next(index for index, (a, b) in enumerate(zip(there, data, strict=True)) if a != b)
            where = f"byte {offset + index} ({self._place(offset + index)})"
            raise WrongBytesError(self._file.path, where, str(there[index]), f"{data[index]}, by the recipe")

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        return self._file.read(offset, n_bytes, "file")

    def _place(self, offset: int) -> str:
        for tensor in self._planned.tensors:
            if tensor.offset_in_file <= offset < tensor.offset_in_file + tensor.info.n_bytes:
                return tensor.info.name
        return "header"


def _canonical(recipe: Mapping[str, object]) -> str:
    return json.dumps(dict(recipe), sort_keys=True, separators=(",", ":"))


def _provenance(path: Path) -> Provenance | None:
    """What the file says, or the first file of weights in a folder."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in _WEIGHTS)
        if not found:
            return None
        path = found[0]
    path = next(iter(_shards(path)), path)  # of shards the first one says it
    with InputFile(path) as file:
        match signatures.of(file.read(0, min(file.size, signatures.LENGTH), "file")):
            case Signature.SAFETENSORS:
                return Provenance.from_keys(safetensors.read_header(file).metadata)
            case Signature.GGUF:
                return Provenance.from_keys(gguf_header.read_header(file).metadata)
            case Signature.ZIP:
                return pytorch.read_provenance(file)
    raise RefusedError(f"{shown(str(path))}: no file of a kind that says how it was made")
