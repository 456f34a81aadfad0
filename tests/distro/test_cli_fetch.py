"""`distro fetch`, `rm` and `gc` as a user runs them: streams and exit codes of a real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distro.manifest import Family, File, License, Model, Variant
from distro.manifest_file import dump
from distro.store import Store
from distro.swarm.make import make
from tests.fakes.hub import FakeHub, Fault, serving, sha256
from tests.fakes.swarm import lying_peer

DATA = bytes(range(256)) * 8000  # 2,048,000 bytes
FILES = {"model.safetensors": DATA, "config.json": b"{}"}
Distro = Callable[..., subprocess.CompletedProcess[str]]
COMMAND = [sys.executable, "-c", "from distro.cli import main; main()"]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as hub:
        hub.add("owner/model", FILES)
        yield hub


@pytest.fixture
def environment(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    ours = {"DISTRO_HOME": str(tmp_path / "home"), "DISTRO_CONFIG": str(tmp_path / "config"), "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "DISTRO_"))}
    return kept | ours


@pytest.fixture
def distro(environment: dict[str, str]) -> Distro:
    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, timeout=60, env=environment | more
        )

    return run


def test_a_repository_and_where_it_is(hub: FakeHub, distro: Distro, tmp_path: Path) -> None:
    commit = hub.repos["owner/model"].commit
    done = distro("fetch", "hf:owner/model")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "home" / "models" / "owner--model" / commit[:12]
    assert done.stdout == f"{folder}\n"
    assert (folder / "model.safetensors").read_bytes() == DATA
    first = done.stderr.splitlines()[0]
    assert first == f"owner/model:{commit[:12]} → 2 files, 2.0 MB, licence not known here, sources: hub"
    again = distro("--quiet", "pull", f"hf:owner/model@{commit}", "--json")
    assert again.stderr == ""
    assert json.loads(again.stdout) == {
        "schema": "distro-fetch/1", "model": "owner/model", "variant": commit[:12], "path": str(folder),
    }  # fmt: skip
    assert all("/owner/model" in request.path for request in hub.requests)  # no phoning home
    freed = distro("rm", f"hf:owner/model@{commit}")
    assert freed.returncode == 0, freed.stderr
    assert freed.stdout == f"owner/model:{commit[:12]}: 2.0 MB freed\n"
    assert not (tmp_path / "home" / "models" / "owner--model").exists()
    assert distro("rm", f"hf:owner/model@{commit}").returncode == 66


@pytest.mark.parametrize(
    ("arguments", "fault", "code", "said"),
    [
        (["fetch", "hf:owner/model"], Fault(flip_at=1), 79, "git_sha1 is"),
        (["fetch", "hf:owner/model"], Fault(path="model.safetensors", status=404), 66, "HTTP 404"),
        (["fetch", "hf:owner/model"], Fault(gzip=True), 76, "sends gzip"),
        (["fetch", "hf:owner/none"], None, 66, "no such repository"),
        (["fetch", "hf:owner/model@none"], None, 66, "no revision none"),
        (["fetch", "hf:../model"], None, 65, "reference"),
        (["fetch", "no-such-model"], None, 66, "no such model"),
        (["fetch", "hf:owner/model", "--only", "*.gguf"], None, 66, "no file matches"),
        (["fetch", "hf:owner/model", "-o", "/dev/null"], None, 73, "/dev/null"),
        (["fetch", "hf:owner/model", "--from", "/no/such/folder"], None, 2, "no such folder"),
        (["fetch", "hf:owner/model", "--peer", "nonsense"], None, 2, "--peer"),
        (["fetch", "hf:owner/model", "--as", "q4_k_m"], None, 65, "header length at 0"),
        (["fetch", "./model.gguf"], None, 2, "is a path"),
        (["fetch", "mistral-7b:pth"], None, 81, "SHA-1, which is all that proves it, can be forged"),
        (["--offline", "fetch", "hf:owner/model"], None, 75, "offline"),
        (["fetch"], None, 2, ""),
        (["rm", "./model.gguf"], None, 2, "not files of your own"),
    ],
)
def test_failures_are_one_line_and_a_code(
    hub: FakeHub, distro: Distro, arguments: list[str], fault: Fault | None, code: int, said: str
) -> None:
    hub.faults = [fault] if fault else []
    done = distro("--quiet", *arguments)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_a_gated_repository_is_77_and_the_token_comes_from_its_usual_place(
    hub: FakeHub, distro: Distro, tmp_path: Path
) -> None:
    hub.repos["owner/model"].gated = True
    refused = distro("fetch", "hf:owner/model")
    assert refused.returncode == 77
    assert f"{hub.url}/owner/model" in refused.stderr
    wrong = distro("fetch", "hf:owner/model", HF_TOKEN="hf_wrong")
    assert wrong.returncode == 77
    assert "hf_wrong" not in wrong.stderr
    (tmp_path / "token").write_text("hf_right\n")
    right = distro("fetch", "hf:owner/model", HF_TOKEN_PATH=str(tmp_path / "token"))
    assert right.returncode == 0, right.stderr


def test_a_name_of_a_manifest_from_a_folder(distro: Distro, tmp_path: Path) -> None:
    files = (File("tiny.gguf", len(DATA), sha256=sha256(DATA)),)
    model = Model("tiny", 70, "llama", "q4_0", (Variant("q4_0", "gguf", files, ("hf:owner/model@" + "0" * 40,)),))
    (tmp_path / "config" / "manifests").mkdir(parents=True)
    text = dump(Family("tiny", "us", License("MIT", "https://example.org/", "allowed"), (model,)))
    (tmp_path / "config" / "manifests" / "tiny.toml").write_text(text)
    (tmp_path / "usb").mkdir()
    (tmp_path / "usb" / "tiny.gguf").write_bytes(DATA)
    done = distro("fetch", "tiny", "--from", str(tmp_path / "usb"), "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/out/tiny.gguf\n"
    assert "tiny:q4_0 → family tiny, 1 file, 2.0 MB, licence MIT, sources: hub" in done.stderr
    assert (tmp_path / "out" / "tiny.gguf").read_bytes() == DATA


def test_a_torrent_that_sha1_alone_proves_needs_a_yes_and_is_called_doubtful(distro: Distro, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "model.pth").write_bytes(DATA)
    torrent = make(folder).v1_companion()
    (tmp_path / "x.torrent").write_bytes(replace(torrent, trackers=("http://127.0.0.1/announce",)).encode())
    with lying_peer(torrent, folder) as (host, port):  # which tells the truth here
        fetch = ("fetch", str(tmp_path / "x.torrent"), "--peer", f"{host}:{port}")
        refused = distro(*fetch)
        done = distro(*fetch, "--allow-sha1")

    assert refused.returncode == 81
    assert "SHA-1 alone, which can be forged" in refused.stderr
    assert "--allow-sha1" in refused.stderr
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert said[0].startswith("tracker http://127.0.0.1/announce dropped: ")
    assert said[1].endswith(": only SHA-1 says that these are the bytes its maker meant, and it can be forged")
    assert Path(done.stdout.strip()).read_bytes() == DATA


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_interrupted_and_run_again(
    hub: FakeHub, distro: Distro, environment: dict[str, str], tmp_path: Path, how: signal.Signals, code: int
) -> None:
    half = threading.Event()
    hub.on_sent = lambda n_bytes: half.set() if n_bytes > len(DATA) // 2 else None
    hub.faults = [Fault(times=1, path="model.safetensors", rate=2_000_000)]
    command = [*COMMAND, "fetch", "hf:owner/model"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as child:
        assert half.wait(30)
        child.send_signal(how)
        _, said = child.communicate(timeout=30)
    assert child.returncode == code
    assert "Traceback" not in said
    (part,) = (tmp_path / "home").glob("partial/*.part")
    n_here = part.stat().st_size
    assert n_here > 0
    hub.requests.clear()
    assert distro("fetch", "hf:owner/model").returncode == 0
    asked = [request for request in hub.transfers() if "model.safetensors" in request.path]
    assert [request.headers["range"] for request in asked] == [f"bytes={n_here}-"]
    assert asked[0].n_sent == len(DATA) - n_here


def test_gc_gives_back_what_never_finished(distro: Distro, tmp_path: Path) -> None:
    with Store(tmp_path / "home").partial("m", "v", File("x", 9)) as partial:
        partial.append(b"1234567")
    # Ours, and we live: let it go as a killed process does.
    partial.path.rename(partial.path.with_name("name-x.part"))
    assert distro("gc", "--json").stdout == '{\n  "schema": "distro-gc/1",\n  "freed": 7\n}\n'
    assert distro("gc").stdout == "0 B freed\n"
