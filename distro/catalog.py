"""Finds manifests and looks names up in them: the user's own manifests first, then the shipped ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.errors import shown
from distro import manifest_file
from distro.config import Settings
from distro.errors import NotFoundError, UsageError
from distro.manifest import Family, Model, Variant, fold
from distro.reference import NamedReference, PathReference, Reference, parse_reference


@dataclass(frozen=True)
class Resolved:
    """A reference made concrete. family: None for what was made on the spot, whose licence nobody wrote down."""

    family: Family | None
    model: Model
    variant: Variant

    def __str__(self) -> str:
        return f"{self.model.name}:{self.variant.name}"


class Catalog:
    """All manifests of some folders, earlier folders first; a name in an earlier one hides it in the later ones."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._read: list[Family] = []  # as far as somebody has looked
        self._unread = (path for folder in self._folders for path in sorted(folder.glob("*.toml")))

    def families(self) -> Iterator[Family]:
        """Every family, read when it is reached. Raises MalformedManifestError for a manifest that breaks its rules."""
        for index in itertools.count():
            if index == len(self._read):
                path = next(self._unread, None)
                if path is None:
                    return
                self._read.append(manifest_file.read(path))
            yield self._read[index]

    def models(self) -> Iterator[tuple[Family, Model]]:
        """Every model whose name no earlier manifest has taken."""
        taken: dict[str, Family] = {}
        for family in self.families():
            for model in family.models:
                if taken.setdefault(fold(model.name), family) is family:
                    yield family, model

    def find(self, name: str) -> tuple[Family, Model]:
        """The model of that name or alias; case and `-`/`_` make no difference. Raises NotFoundError."""
        import difflib

        wanted = fold(name)
        for family, model in self.models():
            if wanted in {fold(each) for each in (model.name, *model.aliases)}:
                return family, model
        names = {fold(each): each for _, model in self.models() for each in (model.name, *model.aliases)}
        near = [names[each] for each in difflib.get_close_matches(wanted, names, n=3, cutoff=0.3)]
        raise NotFoundError(f"{shown(name)}: no such model (`distro ls` shows all)", near)

    def resolve(self, reference: str | Reference) -> Resolved:
        """The variant that a name, or a manifest of one model on the disk, means.

        Raises NotFoundError, UsageError for a kind of reference that no manifest answers.
        """
        parsed = parse_reference(reference) if isinstance(reference, str) else reference
        match parsed:
            case NamedReference(name, variant):
                family, model = self.find(name)
                return Resolved(family, model, _variant(model, variant))
            case PathReference(path) if path.suffix == ".toml":
                family = manifest_file.read(path)
                if len(family.models) > 1:
                    names = ", ".join(model.name for model in family.models)
                    raise UsageError(f"{path}: describes {names}; put it into the manifests folder and use a name")
                return Resolved(family, family.models[0], _variant(family.models[0], None))
        raise UsageError(f"{shown(str(parsed))}: not a name that manifests know")


def load(settings: Settings) -> Catalog:
    """The catalogue of this user. Reads nothing yet."""
    return Catalog([settings.config_folder / "manifests", shipped_folder()])


def shipped() -> tuple[Family, ...]:
    """The families that come with us."""
    return tuple(Catalog([shipped_folder()]).families())


def shipped_folder() -> Path:
    """Where their manifests are: in the package once installed, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "manifests"
    return installed if installed.is_dir() else package.parent / "manifests"


def _variant(model: Model, name: str | None) -> Variant:
    variant = model.variant(name or model.default)
    if variant is None:
        names = ", ".join(each.name for each in model.variants)
        raise NotFoundError(f"{model.name}: no variant {shown(name)}; there are {names}")
    return variant
