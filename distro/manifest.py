"""What a manifest says: families, models, variants, files, licences. No input or output here.

`distro.manifest_file` reads and judges TOML; `distro.catalog` finds manifests and resolves references.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class License:
    """redistribution: "allowed", "conditions" or "forbidden"; what `seed` obeys."""

    id: str
    url: str
    redistribution: str


@dataclass(frozen=True)
class File:
    """One file of a variant, with every digest that somebody published.

    path: relative, with forward slashes. size: bytes, None where nobody published it. Digests are lower-case hex.
    lfs_pointer_sha1: git blob id of the LFS pointer, which commits to SHA-256 and size. git_sha1: git blob id of the
    file itself. pieces_root: BitTorrent v2 root, SHA-256 over blocks of 16 KiB. origin: where the digests were read.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    lfs_pointer_sha1: str | None = None
    pieces_root: str | None = None
    git_sha1: str | None = None
    md5: str | None = None
    origin: tuple[str, ...] = ()

    @property
    def is_proven_by_digest(self) -> bool:
        """Whether any digest is known; without one, no bytes can be called verified."""
        return any((self.sha256, self.lfs_pointer_sha1, self.pieces_root, self.git_sha1, self.md5))


@dataclass(frozen=True)
class Variant:
    """One form of a model. sources: `hf:…`, `https:…`, `index:…`, `magnet:…`, in the order they are tried.

    files: may be empty where only a publisher's torrent is known, which then says what there is.
    """

    name: str
    format: str  # safetensors, pytorch, pth, gguf, ggml, tar, other
    files: tuple[File, ...]
    sources: tuple[str, ...] = ()
    gated: bool = False

    @property
    def size(self) -> int | None:
        """Bytes of all files, None if any size is unknown, or the files are."""
        sizes = [file.size for file in self.files]
        return None if None in sizes or not sizes else sum(size for size in sizes if size is not None)


@dataclass(frozen=True)
class Model:
    """parameters: number of weights, 0 if unknown. architecture: empty if unknown."""

    name: str
    parameters: int
    architecture: str
    default: str  # the variant that a bare name means
    variants: tuple[Variant, ...]
    aliases: tuple[str, ...] = ()

    def variant(self, name: str) -> Variant | None:
        """The variant of that name; case and `-`/`_` make no difference."""
        wanted = fold(name)
        return next((variant for variant in self.variants if fold(variant.name) == wanted), None)


@dataclass(frozen=True)
class Family:
    name: str
    publisher: str
    license: License
    models: tuple[Model, ...]


def fold(name: str) -> str:
    """A name as it is compared: `Q4_K_M` and `q4-k-m` are one."""
    return name.casefold().replace("_", "-")
