"""A model that is elsewhere, opened by its headers: the small files are fetched whole, of the large ones only parts.

Formats look at paths, so a folder of the same shape is made for them: companions (config.json, tokenizer …) as they
are, weights as files of the right size that are holes but for what was read of them. `RemoteFolder.opener` opens the
`RemoteFile` that knows how to read the rest.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath

from converters.checkpoint import Checkpoint
from converters.errors import ConversionError, escape, shown
from converters.formats import open_checkpoint, signatures
from converters.input_file import InputFile
from distro import verify
from distro.config import Settings
from distro.errors import NotFoundError, ProtocolError, SourceError, UsageError, WrongBytesError
from distro.inspect.container import read_container
from distro.inspect.remote_file import RangedSource, RemoteFile
from distro.manifest import File, Model, Variant
from distro.sources import open_ranged
from distro.sources.retry import asked_again

_WEIGHTS = re.compile(r".*\.(gguf|ggml|safetensors|bin|pth|pt)(\.\d{1,2})?")
_COMPANIONS = (".json", ".jinja", ".model", ".txt", ".chk", ".tiktoken")
# The largest that we know of, a tokenizer.json of 262,144 tokens, has 35 MB.
_LARGEST_COMPANION = 64 * 2**20
_MOST_COMPANIONS = 100
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?=\.)")
_MOST_NAMED = 8
_AT_ONCE = 4  # headers that are asked for: a model may have 200 shards, and each takes a few round trips
# Files that say all about a model by themselves.
_COMPLETE = (signatures.Signature.GGUF, signatures.Signature.GGML)


class RemoteFolder:
    """A folder that stands for a variant elsewhere, made by `remote_folder` and gone after it.

    path: what is to be opened, the folder or one file in it. source: where it really is, for people.
    """

    def __init__(self, settings: Settings, source: RangedSource, base: Path, chosen: str, name: str) -> None:
        """base: a folder for all this. chosen: what is to be opened, by its path in the model. name: of the model."""
        self.path, self.source = base / PurePosixPath(chosen), source.name
        self._base, self._name = escape(str(base)), shown(name)
        self._settings, self._source = settings, source
        self._weights: dict[Path, File] = {}
        self._open: dict[Path, RemoteFile] = {}
        self._n_fetched = 0

    @property
    def n_read(self) -> int:
        """Bytes of files that have crossed the network."""
        return self._n_fetched + sum(file.n_read for file in self._open.values())

    def named(self, text: str) -> str:
        """What was said of a file here, said of the model."""
        return text.replace(self._base, self._name)

    def opener(self, path: Path) -> InputFile:
        """The weights of that path, where they are; any other file as it lies in the folder."""
        if path not in self._weights:
            return InputFile(path)
        if path not in self._open:
            self._open[path] = RemoteFile(self._settings, self._source, self._weights[path], path)
        return self._open[path]

    def furnish(self, files: list[File], *, chosen: File | None) -> None:
        """Put these files into the folder; chosen: the one that is to be opened, None for the folder itself."""
        folder = self.path if chosen is None else self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        self._weights = {
            folder / _name(file): file for file in files if file == chosen or _WEIGHTS.fullmatch(file.path)
        }
        for path, file in self._weights.items():
            path.touch()
            if file.size is not None:
                os.truncate(path, file.size)
        likely = self._likely(chosen)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            kinds = dict(zip(likely, pool.map(self._bring_header, likely), strict=True))
        if kinds.get(self.path) in _COMPLETE:
            return
        companions = [file for file in files if file.path.endswith(_COMPANIONS) and file != chosen]
        for file in companions[:_MOST_COMPANIONS]:
            if (file.size or 0) <= _LARGEST_COMPANION:
                asked_again(self._settings, functools.partial(self._fetch, file, folder / _name(file)))

    def release(self) -> None:
        for file in self._open.values():
            file.release()

    def _likely(self, chosen: File | None) -> list[Path]:
        """The weights that will be read, as far as names tell: all shards of one model, safetensors before pickles."""
        if chosen is not None:
            model = _SHARD.sub("", self.path.name)
            return [path for path in self._weights if _SHARD.sub("", path.name) == model]
        return [path for path in self._weights if path.suffix == ".safetensors"] or list(self._weights)

    def _bring_header(self, path: Path) -> signatures.Signature | None:
        """So much of a file as formats know their own by: all that stands before the weights. What its start says."""
        file = self.opener(path)
        with suppress(ConversionError):  # whoever opens it says what is wrong with it
            read_container(file)
        return signatures.of(file.read(0, min(signatures.LENGTH, file.size), "file"))

    def _fetch(self, file: File, path: Path) -> None:
        """A small file whole, proven by what was published of it."""
        n_bytes = 0
        with path.open("wb") as stream:
            for data in self._source.read(file, 0):
                stream.write(data)
                n_bytes += len(data)
                self._n_fetched += len(data)
                if n_bytes > _LARGEST_COMPANION:
                    raise ProtocolError(self.source, f"sends more than {_LARGEST_COMPANION} bytes of {file.path}")
        if file.size is not None and n_bytes < file.size:
            raise SourceError(self.source, f"ended after {n_bytes} of {file.size} bytes of {file.path}")
        verdict = verify.check(path, file)
        if verdict.status is verify.Status.WRONG:
            raise WrongBytesError(file.path, verdict.kind or "", verdict.found or "", verdict.expected or "")


@contextmanager
def remote_folder(settings: Settings, model: Model, variant: Variant, inside: str = "") -> Iterator[RemoteFolder]:
    """A folder for the first source of a variant that answers at all and is the hub or a web server.

    inside: the path of one of its files or folders; where it is empty, there must be but one model to choose.
    Raises NotFoundError where there is no such source or file, UsageError where several models are to choose from,
    WrongBytesError for a companion that is not what was published, and SourceError. Errors of `converters` that pass
    through here name the model in the place of the folder.
    """
    chosen = _chosen(model, variant, inside)
    file = next((file for file in variant.files if file.path == chosen), None)
    parent = chosen if file is None else chosen.rpartition("/")[0]
    beside = [each for each in variant.files if each.path.rpartition("/")[0] == parent]
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="distro-")))
        source = _source(settings, model, variant, file or beside[0])
        stack.callback(source.close)
        folder = RemoteFolder(settings, source, base, chosen, model.name)
        stack.callback(folder.release)
        try:
            folder.furnish(beside, chosen=file)
            yield folder
        except ConversionError as error:
            error.args = (folder.named(str(error)),)
            raise


@contextmanager
def remote_checkpoint(settings: Settings, model: Model, variant: Variant, inside: str = "") -> Iterator[Checkpoint]:
    """The model from its headers: all but weights may be asked of it. Raises what `remote_folder` and formats do."""
    with (
        remote_folder(settings, model, variant, inside) as folder,
        open_checkpoint(folder.path, opener=folder.opener) as checkpoint,
    ):
        yield checkpoint


def _name(file: File) -> str:
    return file.path.rpartition("/")[2]


def _source(settings: Settings, model: Model, variant: Variant, file: File) -> RangedSource:
    """The first that gives a byte of a file."""
    failed: SourceError | None = None
    for reference in variant.sources:
        source = open_ranged(settings, reference, variant)
        if source is None:
            continue
        try:
            asked_again(settings, functools.partial(source.read_part, file, 0, 1))
        except SourceError as error:
            source.close()
            failed = error
            continue
        return source
    if failed is not None:
        raise failed
    name = shown(f"{model.name}:{variant.name}")
    raise NotFoundError(f"{name}: none of its sources can be read in parts; `distro fetch {name}` brings it")


def _chosen(model: Model, variant: Variant, inside: str) -> str:
    """The path of the file or folder to open, empty for everything."""
    names, title = [file.path for file in variant.files], shown(model.name)
    if inside:
        wanted = inside.rstrip("/")
        if wanted in names or any(name.startswith(f"{wanted}/") for name in names):
            return wanted
        raise NotFoundError(f"{title}: has no {shown(wanted)}", difflib.get_close_matches(wanted, names, 3))
    weights = [name for name in names if _WEIGHTS.fullmatch(name)]
    if {"config.json", "params.json"} & set(names) and any(not name.endswith(".gguf") for name in weights):
        return ""
    models = {_SHARD.sub("", name): name for name in sorted(weights, reverse=True)}  # of shards, the first
    if len(models) == 1:
        return next(iter(models.values()))
    if not models:
        raise NotFoundError(f"{title}: has no weights among its {len(names)} files")
    several = sorted(models.values())
    more = f" and {len(several) - _MOST_NAMED} more" if len(several) > _MOST_NAMED else ""
    there = ", ".join(map(shown, several[:_MOST_NAMED])) + more
    first = shown(several[0])
    raise UsageError(f"{title}: has {len(several)} models, {there}; choose one, as in REF:{first} or --only {first}")
