"""Manifests as TOML files: read, judged against every rule of manifests/README.md, written.

The same rules, as far as a JSON Schema can say them, stand in manifests/manifest.schema.json for editors.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

from distro.digest import HEX_DIGITS, KINDS, WEAK, Digester, open_regular
from distro.errors import MalformedManifestError, NotFoundError
from distro.manifest import Family, File, License, Model, Variant, fold
from distro.paths import is_ours, safe_relpath
from distro.reference import NAME, HubReference, MagnetReference, TorrentReference, parse_source
from distro.toml_table import Table
from distro.urls import judge_url

SCHEMA = 1
FORMATS = ("safetensors", "pytorch", "pth", "gguf", "ggml", "tar", "other")
REDISTRIBUTION = ("allowed", "conditions", "forbidden")

LARGEST_MANIFEST = 8 * 1024 * 1024  # bytes
MOST_MODELS, MOST_VARIANTS, MOST_FILES = 1000, 1000, 20_000

_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9_]{0,63}", re.ASCII)
_DEEPEST_KEY = 16  # parts; ours have three at most, and tomllib takes quadratic time and memory over many
_KEY_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_DEEP_KEY = re.compile(rf"(?<![\w-]){_KEY_PART}(?:[ \t]*+\.[ \t]*+{_KEY_PART}){{{_DEEPEST_KEY}}}")
_OF_NOTHING = Digester(KINDS, 0).digests()


def read(path: Path) -> Family:
    """The family in a manifest. Raises MalformedManifestError, NotFoundError where there is no file, OSError."""
    try:
        with open_regular(path) as stream:
            data = stream.read(LARGEST_MANIFEST + 1)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such manifest") from None
    if len(data) > LARGEST_MANIFEST:
        raise MalformedManifestError(
            path, "size", found=f"more than {LARGEST_MANIFEST} bytes", allowed=f"{LARGEST_MANIFEST} bytes at most"
        )
    if data.startswith(b"\xef\xbb\xbf"):
        raise MalformedManifestError(
            path, "encoding", found="a byte order mark", allowed="UTF-8 without one", line="1:1"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        found, place = f"the byte 0x{data[error.start]:02x}", _place(data[: error.start].decode(), error.start)
        raise MalformedManifestError(path, "encoding", found=found, allowed="UTF-8", line=place) from error
    return parse(text, path)


def parse(text: str, path: Path | str) -> Family:
    """The family that a manifest's text describes; `path` is for messages. Raises MalformedManifestError."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") >= _DEEPEST_KEY and (deep := _DEEP_KEY.search(line)):
            raise MalformedManifestError(
                path, "TOML", found="a key of many parts", allowed=f"{_DEEPEST_KEY} parts at most",
                line=f"{number}:{deep.start() + 1}",
            )  # fmt: skip
    try:
        values = tomllib.loads(text)
    except RecursionError as error:
        raise MalformedManifestError(path, "TOML", found="values nested too deep", allowed="three levels") from error
    except ValueError as error:  # TOMLDecodeError, and what int() says of a number of many digits
        message, _, at = str(error).partition(" (at ")
        where = re.search(r"line (\d+), column (\d+)", at)
        end = _place(text, len(text)) if at else None
        place = f"{where[1]}:{where[2]}" if where else end
        raise MalformedManifestError(path, "TOML", found=message, allowed="well-formed TOML", line=place) from error
    return _family(Table(path, text, "", values))


def _place(text: str, offset: int) -> str:
    """`line:column` of a character, both from 1."""
    before = text[:offset]
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def _family(top: Table) -> Family:
    if (schema := top.number("schema")) != SCHEMA:
        top.refuse("schema", "nothing" if schema is None else schema, str(SCHEMA))
    top.only("schema", "family", "publisher", "license", "model")
    models = top.tables("model", MOST_MODELS)
    family = Family(
        name=_name(top, "family"),
        publisher=top.text("publisher"),
        license=_license(top.table("license")),
        models=tuple(_model(table) for table in models),
    )
    if not models:
        top.refuse("model", "nothing", "at least one model")
    _judge_model_names(family, models)
    _judge_digests(family, top)
    return family


def _license(table: Table) -> License:
    table.only("id", "url", "redistribution")
    url = table.text("url")
    try:
        judge_url(url)
    except ValueError as error:
        table.refuse("url", str(error), "a public https address")
    return License(table.text("id"), url, table.choice("redistribution", REDISTRIBUTION))


def _model(table: Table) -> Model:
    table.only("name", "aliases", "parameters", "architecture", "default", "variant")
    tables = table.tables("variant", MOST_VARIANTS)
    model = Model(
        name=_name(table, "name"),
        aliases=tuple(_name(table, f"aliases[{i}]", alias) for i, alias in enumerate(table.texts("aliases"))),
        parameters=table.number("parameters") or 0,
        architecture=table.text("architecture", _ARCHITECTURE, "small letters, digits and _", absent=""),
        default=table.text("default"),
        variants=tuple(_variant(each) for each in tables),
    )
    seen: dict[str, str] = {}
    for variant, each in zip(model.variants, tables, strict=True):
        if other := seen.get(fold(variant.name)):
            each.refuse("name", variant.name, f"a name other than that of the variant {other}")
        seen[fold(variant.name)] = variant.name
    if model.default not in seen.values():
        table.refuse("default", model.default, f"a variant: {', '.join(seen.values()) or 'there is none'}")
    return model


def _variant(table: Table) -> Variant:
    table.only("name", "format", "gated", "sources", "file")
    tables = table.tables("file", MOST_FILES)
    variant = Variant(
        name=_name(table, "name"),
        format=table.choice("format", FORMATS),
        files=tuple(_file(each) for each in tables),
        sources=table.texts("sources"),
        gated=table.flag("gated"),
    )
    _judge_paths(variant, tables)
    _judge_sources(variant, table)
    return variant


def _file(table: Table) -> File:
    table.only("path", "size", *KINDS, "origin")
    path = table.text("path")
    try:
        safe_relpath(path)
    except ValueError as error:
        table.refuse("path", f"{error}: {path!r}", "a relative path that every system can store")
    if is_ours(path):
        table.refuse("path", path, "a name that the store does not use itself")
    size = table.number("size")
    digests = {kind: _digest(table, kind, size) for kind in KINDS if table.has(kind)}
    return File(path=path, size=size, origin=table.texts("origin"), **digests)


def _digest(table: Table, kind: str, size: int | None) -> str:
    n_digits = HEX_DIGITS[kind]
    allowed = f"{n_digits} lower-case hexadecimal digits"
    digest = table.text(kind, re.compile(f"[0-9a-f]{{{n_digits}}}"), allowed)
    if not digest.strip("0"):
        table.refuse(kind, "nothing but zeros", allowed)
    if size == 0 and digest != _OF_NOTHING.get(kind):
        table.refuse(kind, digest, f"{_OF_NOTHING.get(kind, 'none')}, as the size is 0")
    if size and digest == _OF_NOTHING.get(kind):
        table.refuse(kind, "the digest of no bytes", f"one of {size} bytes")
    return digest


def _name(table: Table, key: str, value: str | None = None) -> str:
    """A name that is a folder's name everywhere."""
    name = table.text(key) if value is None else value
    if not NAME.fullmatch(name):
        table.refuse(key, name, "letters, digits and . _ -, a letter or digit first, 96 at most")
    try:
        return safe_relpath(name)
    except ValueError as error:
        table.refuse(key, f"{error}: {name}", "a name that every system can store")


def _judge_model_names(family: Family, tables: Sequence[Table]) -> None:
    seen: dict[str, str] = {}
    for model, table in zip(family.models, tables, strict=True):
        for key, name in [("name", model.name), *((f"aliases[{i}]", a) for i, a in enumerate(model.aliases))]:
            if other := seen.get(fold(name)):
                table.refuse(key, name, f"a name that {other} does not have")
            seen[fold(name)] = model.name


def _judge_paths(variant: Variant, tables: Sequence[Table]) -> None:
    """No path twice, also where case makes no difference, and none that is a folder of another."""
    seen: dict[str, str] = {}
    for file, table in zip(variant.files, tables, strict=True):
        if other := seen.get(fold_path(file.path)):
            table.refuse("path", file.path, f"a path other than {other}, where case makes no difference too")
        seen[fold_path(file.path)] = file.path
    for file, table in zip(variant.files, tables, strict=True):
        folder = fold_path(file.path)
        while folder := folder.rpartition("/")[0]:
            if other := seen.get(folder):
                table.refuse("path", file.path, f"a path that is not below the file {other}")


def _judge_sources(variant: Variant, table: Table) -> None:
    has_torrent = False
    for index, text in enumerate(variant.sources):
        key = f"sources[{index}]"
        try:
            source = parse_source(text)
        except (ValueError, MalformedManifestError) as error:
            table.refuse(key, f"{error}: {text!r}", "hf:owner/repo@commit, https://host/folder/, magnet:?xt=…, index:…")
        has_torrent = has_torrent or isinstance(source, (MagnetReference, TorrentReference))
        if isinstance(source, HubReference) and not source.is_pinned and not _is_strong(variant):
            table.refuse(key, text, "a commit after @, as some file has no digest that cannot be forged")
    if not variant.files and not has_torrent:
        table.refuse("file", "nothing", "at least one file, or a torrent among the sources that lists them")


def _is_strong(variant: Variant) -> bool:
    """Whether a source need not be trusted at all: every file has a digest that nobody can forge."""
    strong = [kind for kind in KINDS if kind not in WEAK]
    return bool(variant.files) and all(any(getattr(file, kind) for kind in strong) for file in variant.files)


def _judge_digests(family: Family, top: Table) -> None:
    """The same digest means the same bytes, so the same size."""
    sizes: dict[tuple[str, str], int] = {}
    for field, file in _files(family):
        for kind in KINDS:
            digest = getattr(file, kind)
            if digest is None or file.size is None:
                continue
            if sizes.setdefault((kind, digest), file.size) != file.size:
                found = f"{file.size} with a {kind} that belongs to {sizes[kind, digest]} bytes elsewhere"
                top.refuse(f"{field}.size", found, "one size for one digest")


def _files(family: Family) -> Iterator[tuple[str, File]]:
    for m, model in enumerate(family.models):
        for v, variant in enumerate(model.variants):
            for f, file in enumerate(variant.files):
                yield f"model[{m}].variant[{v}].file[{f}]", file


def fold_path(path: str) -> str:
    """A path as file systems compare it that take no notice of case."""
    return path.casefold()


def dump(family: Family) -> str:
    """A manifest's text: the same family is always the same bytes, and `parse` gives it back."""
    lines = [
        f"schema = {SCHEMA}",
        _pair("family", family.name),
        _pair("publisher", family.publisher),
        "",
        "[license]",
        _pair("id", family.license.id),
        _pair("url", family.license.url),
        _pair("redistribution", family.license.redistribution),
    ]
    for model in family.models:
        lines += ["", "[[model]]", _pair("name", model.name)]
        lines += [_pair("aliases", model.aliases)] if model.aliases else []
        lines += [f"parameters = {model.parameters:_}"] if model.parameters else []
        lines += [_pair("architecture", model.architecture)] if model.architecture else []
        lines += [_pair("default", model.default)]
        for variant in model.variants:
            lines += ["", "[[model.variant]]", _pair("name", variant.name), _pair("format", variant.format)]
            lines += ["gated = true"] if variant.gated else []
            lines += [_pair("sources", variant.sources)] if variant.sources else []
            for file in variant.files:
                lines += ["", "[[model.variant.file]]", _pair("path", file.path)]
                lines += [f"size = {file.size:_}"] if file.size is not None else []
                lines += [_pair(kind, getattr(file, kind)) for kind in KINDS if getattr(file, kind)]
                lines += [_pair("origin", file.origin)] if file.origin else []
    return "\n".join(lines) + "\n"


def _pair(key: str, value: str | Sequence[str]) -> str:
    if isinstance(value, str):
        return f"{key} = {_quoted(value)}"
    if len(value) < 2:
        return f"{key} = [{', '.join(map(_quoted, value))}]"
    return "\n".join([f"{key} = [", *(f"    {_quoted(each)}," for each in value), "]"])


def _quoted(text: str) -> str:
    """A basic string of TOML. Raises ValueError for a character that a manifest may not hold."""
    if not text.isprintable():
        raise ValueError(f"a manifest holds no such character: {text!r}")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
