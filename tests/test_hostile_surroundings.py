"""Good models in bad surroundings: outputs that are inputs, homes that are files, streams that are closed or full."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes import gguf_bytes, hostile, tiny_llama

GOOD = gguf_bytes.llama().build()


def convert(base: Path, source: Path, target: Path | str, *more: str, **options: object) -> hostile.Ran:
    arguments = ("convert", str(source), "--quant", "q8_0", "--threads", "1", "--no-check", "-o", str(target), *more)
    return hostile.run(base, *arguments, **options)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "model.gguf"
    path.parent.mkdir()
    path.write_bytes(GOOD)
    return path


def to_itself(model: Path) -> Path:
    return model


def by_another_name(model: Path) -> Path:
    (model.parent / "hard.gguf").hardlink_to(model)
    return model.parent / "hard.gguf"


def by_a_link(model: Path) -> Path:
    (model.parent / "soft.gguf").symlink_to(model.name)
    return model.parent / "soft.gguf"


def by_a_detour(model: Path) -> Path:
    return model.parent / ".." / model.parent.name / "." / model.name


def to_a_link_to_nowhere(model: Path) -> Path:
    (model.parent / "nowhere.gguf").symlink_to(model.parent.parent / "made")
    return model.parent / "nowhere.gguf"


def to_a_pipe(model: Path) -> Path:
    os.mkfifo(model.parent / "pipe.gguf")
    return model.parent / "pipe.gguf"


def to_a_device(model: Path) -> Path:
    return Path("/dev/null")


def to_another_file(model: Path) -> Path:
    (model.parent / "other.gguf").write_bytes(b"mine")
    return model.parent / "other.gguf"


def below_a_file(model: Path) -> Path:
    return model / "below" / "o.gguf"


def with_a_long_name(model: Path) -> Path:
    return model.parent / ("x" * 300 + ".gguf")


def to_the_kernel(model: Path) -> Path:
    return Path("/proc/o.gguf")


TARGETS: list[tuple[Callable[[Path], Path], int]] = [
    (to_itself, 2), (by_another_name, 2), (by_a_link, 2), (by_a_detour, 2), (to_a_link_to_nowhere, 73),
    (to_a_pipe, 73), (to_a_device, 73), (to_another_file, 73), (below_a_file, 73), (with_a_long_name, 74),
]  # fmt: skip


@pytest.mark.parametrize(("place", "code"), TARGETS, ids=[case[0].__name__ for case in TARGETS])
def test_a_place_for_the_result_that_is_taken(
    tmp_path: Path, model: Path, place: Callable[[Path], Path], code: int
) -> None:
    """Refused, and nothing that was there is touched, followed or made."""
    target = place(model)
    before = hostile.Tree.of(model.parent)
    hostile.judge(convert(tmp_path, model, target), code, target.name[:50])
    assert hostile.Tree.of(model.parent) == before
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["", ".", "in", "../in"])
def test_a_folder_that_is_the_input(tmp_path: Path, name: str) -> None:
    """A safetensors folder is not written over the folder that is read, nor GGUF into a name that is there."""
    folder = tiny_llama.write(tmp_path / "in")
    target = folder / name if name in ("", ".") else tmp_path / "in" / ".." / name.rpartition("/")[2]
    before = hostile.Tree.of(folder)
    arguments = ("convert", str(folder), "--to", "safetensors", "--no-check", "-o", str(target))
    hostile.judge(hostile.run(tmp_path, *arguments), 2, "input")
    assert hostile.Tree.of(folder) == before


def test_a_result_inside_the_input_folder_is_made_there_and_the_inputs_stay(tmp_path: Path) -> None:
    folder = tiny_llama.write(tmp_path / "in")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert convert(tmp_path, folder, folder / "new" / "deeper" / "o.gguf").code == 0
    assert (folder / "new" / "deeper" / "o.gguf").read_bytes()[:4] == b"GGUF"
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_folder_for_the_result_that_is_taken(tmp_path: Path) -> None:
    folder, target = tiny_llama.write(tmp_path / "in"), tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    ran = hostile.run(tmp_path, "convert", str(folder), "--to", "safetensors", "--no-check", "-o", str(target))
    hostile.judge(ran, 73, "out: is there already")
    assert [path.name for path in target.iterdir()] == ["mine.txt"]


def test_a_folder_that_may_not_be_written(tmp_path: Path, model: Path) -> None:
    hostile.usual()
    hostile.open_to_all(tmp_path)
    (tmp_path / "locked").mkdir(mode=0o555)
    hostile.judge(convert(tmp_path, model, tmp_path / "locked" / "o.gguf", nobody=True), 73, "Permission denied")
    hostile.judge(convert(tmp_path, model, tmp_path / "locked" / "new" / "o.gguf", nobody=True), 73, "locked")
    assert list((tmp_path / "locked").iterdir()) == []


def test_a_home_that_is_a_file(tmp_path: Path, model: Path) -> None:
    """Reading works as with no home; writing into it is refused; a result of one's own needs no home."""
    (tmp_path / "home").write_text("mine")
    (tmp_path / "local").mkdir()
    assert hostile.run(tmp_path, "ls").code == 0
    assert hostile.run(tmp_path, "gc").code == 0
    assert convert(tmp_path, model, tmp_path / "o.gguf").code == 0
    hostile.judge(hostile.run(tmp_path, "fetch", "smollm2-135m-instruct"), 73, "home")
    assert (tmp_path / "home").read_text() == "mine"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hoem = 'x'\n", ("config.toml", "hoem")),
        (b"retries = 'many'\n", ("config.toml", "retries")),
        (b"\xff", ("config.toml",)),
        (b"a = [" + b"[" * 100_000, ("config.toml",)),
        (b"home = '\x1b]0;owned\x07'", ("config.toml",)),
        (b"'\\u001b[2J' = 1\n", ("config.toml",)),
        (b"retries = " + b"9" * 5000, ("config.toml",)),
    ],
)
def test_settings_that_break_the_rules(tmp_path: Path, content: bytes, words: tuple[str, ...]) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").write_bytes(content)
    hostile.judge(hostile.run(tmp_path, "ls"), 65, *words)


def test_settings_in_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("mine")
    ran = hostile.run(tmp_path, "ls")
    assert ran.code in (0, 73), ran
    if ran.code:
        hostile.judge(ran, 73, "config")


MANIFEST = """schema = 1
family = "f"
publisher = "p"
[license]
id = "x"
url = "https://example.com/"
redistribution = "allowed"
[[model]]
name = "m"
default = "v"
[[model.variant]]
name = "v"
format = "gguf"
sources = ["https://example.com/v/"]
[[model.variant.file]]
path = "m.gguf"
size = 3
sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""
MANIFESTS = [
    ("nothing", "", ("schema",)),
    ("no TOML", "\x1b]0;owned\x07", ("TOML at line 1:1",)),
    ("UTF-16", MANIFEST.encode("utf-16"), ("encoding",)),
    ("a byte order mark", "\ufeff" + MANIFEST, ("byte order mark",)),
    ("a key twice", MANIFEST.replace('id = "x"', 'id = "x"\nid = "y"'), ("TOML at line 6:9",)),
    ("nested 100,000 deep", MANIFEST + "x = " + "[" * 100_000, ("nested",)),
    ("a key of many parts", "a." * 100_000 + "b = 1", ("parts",)),
    ("an integer of 5000 digits", MANIFEST.replace("size = 3", "size = " + "9" * 5000), ("TOML",)),
    ("9 MB", MANIFEST + "#" * 9_000_000, ("8388608 bytes",)),
    ("schema 99", MANIFEST.replace("schema = 1", "schema = 99"), ("schema at line 1", "99")),
    ("an unknown key", MANIFEST.replace('name = "v"', 'name = "v"\nrun = "rm -rf /"'), ("run",)),
    ("a path that leaves", MANIFEST.replace('"m.gguf"', '"../m.gguf"'), ("path at line 16",)),
    ("an absolute path", MANIFEST.replace('"m.gguf"', '"/etc/passwd"'), ("path at line 16",)),
    ("a device of Windows", MANIFEST.replace('"m.gguf"', '"CON.gguf"'), ("path at line 16",)),
    ("a path that steers", MANIFEST.replace('"m.gguf"', '"\\u001b[2J\\u202e"'), ("path at line 16",)),
    ("a negative size", MANIFEST.replace("size = 3", "size = -3"), ("size at line 17",)),
    ("63 digits", MANIFEST.replace("15ad", "15a"), ("sha256 at line 18",)),
    ("a source in this house", MANIFEST.replace("https://example.com/v/", "https://127.0.0.1/v/"), ("sources[0]",)),
    ("a source of files", MANIFEST.replace("https://example.com/v/", "file:///etc/"), ("sources[0]",)),
    ("a source with a password", MANIFEST.replace("https://example.com/v/", "https://a:b@example.com/"), ("sources",)),
]


@pytest.mark.parametrize(("content", "words"), [case[1:] for case in MANIFESTS], ids=[case[0] for case in MANIFESTS])
def test_a_manifest_that_lies(tmp_path: Path, content: str | bytes, words: tuple[str, ...]) -> None:
    """By itself, as a reference, and lying among the user's own: one verdict."""
    path = tmp_path / "config" / "manifests" / "m.toml"
    path.parent.mkdir(parents=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = hostile.Tree.of(tmp_path / "config")
    hostile.judge(hostile.run(tmp_path, "manifest", "check", str(path)), 65, "m.toml", *words)
    for command in (("show", str(path)), ("verify", str(path)), ("fetch", str(path)), ("ls",), ("run", "m:v", "hi")):
        hostile.judge(hostile.run(tmp_path, *command), 65, "m.toml", *words)
    assert hostile.Tree.of(tmp_path / "config") == before
    assert not (tmp_path / "home").exists()


def test_the_manifest_itself_is_good(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(MANIFEST)
    ran = hostile.run(tmp_path, "manifest", "check", str(tmp_path / "m.toml"))
    assert (ran.code, ran.err) == (0, ""), ran


def test_pipes_where_a_small_file_is_expected(tmp_path: Path, model: Path) -> None:
    """A receipt, a torrent, settings, a manifest among the user's own: nothing waits for somebody to write."""
    for name in ("in/receipt.json", "in/x.torrent", "config/manifests/x.toml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(tmp_path / name)
    for command in (("verify", str(model)), ("verify", str(model.parent)), ("ls",), ("show", "llama-7b"),
                    ("fetch", str(model.parent / "x.torrent")), ("seed", str(model.parent / "x.torrent"))):  # fmt: skip
        hostile.judge(hostile.run(tmp_path, *command), 74, "not a regular file")


def test_a_folder_of_names_that_no_system_should_store(tmp_path: Path) -> None:
    for name in ("bytes\udcff.gguf", "steers\x1b[2J.gguf", "CON.gguf", "dot."):
        folder = tmp_path / "in" / str(len(name))
        folder.mkdir(parents=True)
        (folder / name).write_bytes(GOOD)
        ran = hostile.run(tmp_path, "torrent", str(folder), "-o", str(tmp_path / "o.torrent"))
        hostile.judge(ran, 65, "file name: found ")
        assert not (tmp_path / "o.torrent").exists()


REFERENCES = [
    ("", 65, "reference"),
    ("\x1b[2Jx", 65, "\\x1b[2Jx: reference"),
    ("hf:../x", 65, "reference"),
    ("hf:a/b@../c", 65, "reference"),
    ("file:///etc/passwd", 65, "reference"),
    ("http://example.com/", 65, "reference"),
    ("https://example.com/m.toml", 2, "distro fetch"),
    ("magnet:?xt=urn:btih:1", 65, "magnet"),
    ("m:../../x", 66, "no such file"),
    ("x" * 9000, 65, "9000 characters"),
    ("./" + "x" * 300, 74, "File name too long"),
    ("~nobody-of-that-name/x.gguf", 66, "no such file"),
    ("/etc/passwd", 65, "b'"),
    ("/etc", 66, "config.json"),
]


@pytest.mark.parametrize(("text", "code", "word"), REFERENCES, ids=[ascii(case[0][:30]) for case in REFERENCES])
def test_references_that_are_none(tmp_path: Path, text: str, code: int, word: str) -> None:
    hostile.judge(hostile.run(tmp_path, "run", text, "hi"), code, word)
    hostile.judge(hostile.run(tmp_path, "convert", text, "--quant", "q8_0", "-o", str(tmp_path / "o")), code, word)
    assert not (tmp_path / "o").exists()


# What a shell may do to the streams of a command: what it says, its exit code, and whether anything is said at all.
STREAMS = [
    ("ls", ">/dev/full", 80, "error: standard output: No space left on device\n"),
    ("ls", ">&-", 74, "error: standard output: is closed\n"),
    ("--help", ">/dev/full", 80, "error: No space left on device\n"),
    ("verify nothing.gguf", "2>&-", 66, ""),
    ("verify nothing.gguf", "2>/dev/full", 66, ""),
    ("verify nothing.gguf", ">&- 2>&-", 66, ""),
    ("ls", "2>/dev/full", 0, ""),
    ("ls", "<&- 2>&-", 0, ""),
    ("convert in/model.gguf --quant q8_0 --no-check -o o.gguf", "2>&-", 0, ""),
    ("convert in/model.gguf --quant q8_0 --no-check -o o.gguf", "<&- 2>/dev/full", 0, ""),
    ("convert in/model.gguf --quant q8_0 --no-check -o o.gguf", ">/dev/full", 80, "not checked\nerror: standard out"),
    ("fetch nothing --json", "2>/dev/full", 66, ""),
    ("verify in/model.gguf", "2>&-", 66, ""),
    ("ls", "| true", 141, ""),
]


@pytest.mark.parametrize(("command", "streams", "code", "said"), STREAMS, ids=[f"{c[0]} {c[1]}" for c in STREAMS])
def test_streams_that_are_closed_or_full(
    tmp_path: Path, model: Path, command: str, streams: str, code: int, said: str
) -> None:
    """The exit code is what it would be, talk that nobody can read is dropped, a lost answer is an error."""
    program = f"{sys.executable} -c 'from distro.cli import main; main()' {command}"
    if streams == "| true":  # a reader that went away before the first line
        program = f"set -o pipefail; (sleep 0.5; {program}) | true"
        streams = ""
    ran = subprocess.run(
        ["/bin/bash", "-c", f"{program} {streams}"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHONPATH": str(hostile.ROOT), "DISTRO_HOME": str(tmp_path / "home"),
                          "DISTRO_CONFIG": str(tmp_path / "config"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert ran.returncode == code, ran
    assert ran.stderr.startswith(said), ran
    assert ran.stderr.count("\n") == said.count("\n") + (not said.endswith("\n")) * bool(said), ran
    if command.startswith("convert"):
        assert (tmp_path / "o.gguf").stat().st_size > 10_000


@pytest.mark.parametrize("gone", ["HOME", "everything"])
def test_an_environment_that_says_nothing(tmp_path: Path, model: Path, gone: str) -> None:
    """No HOME, no PATH, no LANG: the platform's own folders are asked for, and a result of one's own is made."""
    bare = {} if gone == "everything" else {name: value for name, value in os.environ.items() if name != "HOME"}
    arguments = ["convert", str(model), "--quant", "q8_0", "--no-check", "-o", str(tmp_path / "ö.gguf")]
    ran = subprocess.run(
        [sys.executable, "-c", "from distro.cli import main; main()", *arguments],
        cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=60,
        env=bare | {"PYTHONPATH": str(hostile.ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{tmp_path / 'ö.gguf'}\n", "not checked\n")
