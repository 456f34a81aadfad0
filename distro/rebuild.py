"""A conversion made again, to see that a result is what it says it is: the same bytes out of the same inputs.

Nothing is written. Each block is compared with what the file has at its place, so that the first difference is named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from converters import convert, plan
from converters.checkpoint import Checkpoint
from converters.errors import RefusedError, shown
from converters.formats import gguf_header, open_checkpoint, pytorch, safetensors, signatures
from converters.formats.signatures import Signature
from converters.imatrix import Imatrix
from converters.input_file import InputFile
from converters.layout import OutputFile
from converters.plan import Plan
from converters.provenance import Provenance
from converters.recipe import Recipe
from distro.digest import sha256_of
from distro.errors import NotFoundError, WrongBytesError
from distro.progress import Progress
from distro.receipt import Receipt
from distro.store import Store

_WEIGHTS = (".gguf", ".safetensors", ".bin", ".pth")


@dataclass(frozen=True)
class Derivation:
    """How a result says that it was made. path: the file or folder. name: what its files were called after.

    made_by: None for a result that carries no provenance. sha256: of each file, as far as a receipt tells.
    """

    path: Path
    name: str
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
    return Derivation(folder, receipt.model, recipe, receipt.inputs, made_by, sha256)


def of_path(path: Path) -> Derivation:
    """By what it carries itself. Raises NotFoundError where that is nothing."""
    provenance = _provenance(path)
    if provenance is None:
        raise NotFoundError(f"{shown(str(path))}: says nothing of how it was made")
    recipe = Recipe.from_canonical(provenance.recipe)
    return Derivation(path, path.name.removesuffix(".gguf"), recipe, provenance.inputs, provenance.made_by, {})


def find_source(store: Store, derivation: Derivation) -> Path:
    """The variant of the store that has the inputs, by their digests; NotFoundError says what is needed."""
    wanted = {name: sha256 for name, sha256 in derivation.inputs.items() if "/" not in name}
    for model, variant in store.variants():
        receipt = store.receipt(model, variant)
        files = receipt.files if receipt else {}
        if all(name in files and files[name].sha256 == sha256 for name, sha256 in wanted.items()):
            folder = store.folder(model, variant)
            return folder / next(iter(wanted)) if len(wanted) == 1 else folder
    needed = ", ".join(f"{shown(name)} (sha256 {sha256})" for name, sha256 in wanted.items())
    raise NotFoundError(f"{shown(str(derivation.path))}: its source is not in the store; --from PATH of {needed}")


def rebuild(
    derivation: Derivation, source: Path, imatrix: Imatrix | None = None, *, threads: int, progress: Progress
) -> Plan:
    """Make it again and compare. Raises WrongBytesError at the first byte that differs, or for other inputs."""
    with open_checkpoint(source) as checkpoint:
        again = plan.make(checkpoint, derivation.recipe, derivation.name, imatrix, made_by=derivation.made_by)
        with progress.bar(f"repeat {derivation.recipe.mix}", again.size) as bar:
            made = convert.convert(
                checkpoint,
                again,
                _Comparison(derivation.path, again),
                threads=threads,
                known={**again.known_inputs, **_digests(checkpoint)},
                advance=bar.advance,
            )
    _compare("inputs", source if source.is_dir() else source.parent, made.inputs, derivation.inputs)
    if derivation.sha256:
        _compare("files", derivation.path, made.outputs, derivation.sha256)
    return again


def _digests(checkpoint: Checkpoint) -> dict[str, str]:
    """Taken before, so that the very first bytes, which name them, can be compared like all others."""
    return {file.path.name: sha256_of(file.path) for file in checkpoint.files}


def _compare(kind: str, folder: Path, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    if found.keys() != expected.keys():
        said = ", ".join(map(shown, sorted(expected)))
        raise WrongBytesError(folder, kind, ", ".join(map(shown, sorted(found))), said)
    for name, sha256 in expected.items():
        if found[name] != sha256:
            raise WrongBytesError(folder / name, "sha256", found[name], sha256)


class _Comparison:
    """A sink that holds what is made against what is there."""

    def __init__(self, path: Path, again: Plan) -> None:
        self._path, self._files = path, {file.path: file for file in again.files}

    def create(self, path: str, size: int) -> _ComparedFile:
        file = InputFile(self._path if len(self._files) == 1 and not self._path.is_dir() else self._path / path)
        if file.size != size:
            file.close()
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
    with InputFile(path) as file:
        match signatures.of(file.read(0, min(file.size, signatures.LENGTH), "file")):
            case Signature.SAFETENSORS:
                return Provenance.from_keys(safetensors.read_header(file).metadata)
            case Signature.GGUF:
                return Provenance.from_keys(gguf_header.read_header(file).metadata)
            case Signature.ZIP:
                return pytorch.read_provenance(file)
    raise RefusedError(f"{shown(str(path))}: no file of a kind that says how it was made")
