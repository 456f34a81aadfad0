"""Limits and manners of `distro fetch`, as a user meets them."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from distro.manifest import License
from tests.fakes.fetching import COMMAND, Distro, events
from tests.fakes.hub import Fault, serving

DATA = bytes(range(256)) * 8000  # 2,048,000 bytes
FILES = {"model.safetensors": DATA, "config.json": b"{}", "extra.bin": b"x" * 2000}
FREE = License("Apache-2.0", "https://example.org/free", "allowed")
STRICT = License("LicenseRef-Strict", "https://example.org/strict", "forbidden")


@pytest.fixture
def distro(tmp_path: Path) -> Iterator[Distro]:
    with serving() as hub:
        hub.add("owner/model", dict(FILES))
        yield Distro(tmp_path, hub)


def test_patterns_say_what_is_fetched_and_what_is_not(distro: Distro, tmp_path: Path) -> None:
    done = distro("fetch", "hf:owner/model", "-o", str(tmp_path / "out"), "--only", "*.json", "--only", "*.bin",
                  "--except", "extra*")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json"]
    none = distro("fetch", "hf:owner/model", "--only", "*.json", "--except", "config.*")
    assert none.returncode == 66
    assert "no file matches *.json but not config.*" in none.stderr
    wrong = distro("fetch", "hf:owner/model", "--discard-source")
    assert wrong.returncode == 2


def test_a_dry_run_shows_the_plan_and_writes_nothing(distro: Distro, tmp_path: Path) -> None:
    distro.publish(FILES, STRICT)
    done = distro("fetch", "tiny", "--dry-run", "--limit", "1MB/s", "--mirror", "https://mirror.org/tiny/")
    assert done.returncode == 0, done.stderr
    commit = distro.hub.repos["owner/tiny"].commit
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["file", "size", "proof", "state", "to", "fetch"]
    assert [line.split() for line in lines[1:4]] == [
        ["model.safetensors", "2.0", "MB", "sha256", "missing", "2.0", "MB"],
        ["config.json", "2", "B", "sha256", "missing", "2", "B"],
        ["extra.bin", "2.0", "kB", "sha256", "missing", "2.0", "kB"],
    ]
    assert lines[4] == "to fetch: 2.1 MB"
    assert lines[5].startswith("disk: 2.1 MB needed, ")
    assert lines[6:] == [
        "licence: LicenseRef-Strict (has to be accepted), https://example.org/strict",
        "from: https://mirror.org/tiny/",
        f"from: hf:owner/tiny@{commit}",
        "limits: all together 1.0 MB/s",
    ]
    assert distro.files() == []
    assert distro.hub.transfers() == []

    told = distro("fetch", "tiny", "--dry-run", "--json", "--only", "*.json", "-o", str(tmp_path / "out"))
    plan = json.loads(told.stdout)
    assert plan["disk"].pop("free") > 0
    assert plan == {
        "schema": "distro-fetch-plan/1", "model": "tiny", "variant": "hf", "path": str(tmp_path / "out"),
        "files": [{"path": "config.json", "size": 2, "proof": "sha256", "state": "missing", "near": None, "arrived": 0,
                   "to_fetch": 2}],
        "to_fetch": 2, "disk": {"needed": 2}, "gated": False, "sources": [f"hf:owner/tiny@{commit}"],
        "license": {"id": "LicenseRef-Strict", "url": "https://example.org/strict", "redistribution": "forbidden",
                    "accepted": False},
        "limits": {}, "as": None,
    }  # fmt: skip
    assert distro.files() == []


def test_a_licence_is_agreed_to_once_by_a_script(distro: Distro, tmp_path: Path) -> None:
    distro.publish(FILES, STRICT)
    refused = distro("fetch", "tiny", "-o", str(tmp_path / "my out"))
    assert refused.returncode == 77
    said = refused.stderr.splitlines()[-1]
    assert said.startswith(
        "error: tiny:hf: is under LicenseRef-Strict, which may not be passed on: https://example.org/"
    )
    assert f"`distro fetch tiny -o '{tmp_path}/my out' --accept-license LicenseRef-Strict` accepts it" in said
    assert distro.files() == []
    assert distro.hub.transfers() == []
    assert distro("fetch", "tiny", "--accept-license", "MIT").returncode == 2
    assert distro("fetch", "tiny", "--accept-license", "licenseref-strict", "--only", "*.json").returncode == 0
    (record,) = (tmp_path / "state" / "licenses").iterdir()
    assert json.loads(record.read_text())["id"] == "LicenseRef-Strict"
    assert record.stat().st_mode & 0o777 == 0o600
    assert distro("fetch", "tiny").returncode == 0
    distro.publish(FILES, replace(STRICT, url="https://example.org/stricter"))
    assert distro("fetch", "tiny").returncode == 77  # it is another one now


def test_an_open_licence_is_shown_and_asks_for_nothing(distro: Distro) -> None:
    distro.publish(FILES, FREE)
    done = distro("fetch", "tiny", "--only", "*.json")
    assert done.returncode == 0, done.stderr
    assert "licence Apache-2.0" in done.stderr
    assert not (distro.base / "state" / "licenses").exists()


@pytest.mark.parametrize(("answer", "code"), [("yes\n", 0), ("\n", 77), ("\x04", 77)])
def test_a_licence_is_asked_about_on_a_terminal(distro: Distro, answer: str, code: int) -> None:
    distro.publish({"config.json": b"{}"}, STRICT)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "fetch", "tiny"], stdin=theirs, stderr=theirs, stdout=subprocess.PIPE, env=distro.environment()
    ) as child:
        os.close(theirs)
        seen = b""
        while b"[y/N]" not in seen:
            seen += os.read(ours, 1000)
        os.write(ours, answer.encode())
        try:
            while data := os.read(ours, 1000):
                seen += data
        except OSError:  # the other end is closed
            pass
        child.communicate()
    os.close(ours)
    assert child.returncode == code, seen
    text = seen.decode()
    assert "tiny:hf is under LicenseRef-Strict, which may not be passed on: https://example.org/strict" in text
    assert "Do you accept this licence? [y/N]" in text
    assert (distro.base / "state").exists() is (code == 0)


def test_a_gated_repository_says_where_to_agree_and_where_the_token_goes(distro: Distro) -> None:
    distro.publish(FILES, FREE, gated=True)
    refused = distro("fetch", "tiny")
    assert refused.returncode == 77
    assert f"{distro.hub.url}/owner/tiny" in refused.stderr
    assert "HF_TOKEN, or a file that HF_TOKEN_PATH names" in refused.stderr
    wrong = distro("fetch", "tiny", HF_TOKEN="hf_wrong")
    assert wrong.returncode == 77
    assert "the account of this token (HF_TOKEN, HF_TOKEN_PATH) has to accept the terms" in wrong.stderr
    assert "hf_wrong" not in wrong.stderr
    assert distro("fetch", "tiny", "--only", "config.json", HF_TOKEN="hf_right").returncode == 0


def test_events_for_programs(distro: Distro) -> None:
    done = distro("fetch", "hf:owner/model", "--json")
    assert done.returncode == 0, done.stderr
    told = events(done.stderr)
    answer = json.loads(done.stdout)
    assert told[0] == {
        "event": "start", "schema": "distro-events/1", "reference": "hf:owner/model", "model": "owner/model",
        "variant": answer["variant"], "size": len(DATA) + 2002, "n_files": 3, "license": None,
        "sources": [f"hf:owner/model@{distro.hub.repos['owner/model'].commit}"],
    }  # fmt: skip
    assert told[-1] == {"event": "done", "path": answer["path"]}
    begun = {each["file"]: each["size"] for each in told if each["event"] == "file"}
    assert begun["model.safetensors"] == len(DATA)
    last = {each["file"]: each for each in told if each["event"] == "progress"}
    assert last["model.safetensors"]["received"] == len(DATA)
    assert set(last["model.safetensors"]) == {
        "event", "file", "size", "received", "verified", "rate", "sources", "note"
    }  # fmt: skip
    for name in begun:
        received = [each["received"] for each in told if each["event"] == "progress" and each["file"] == name]
        assert received == sorted(received)
    assert distro("--quiet", "fetch", "hf:owner/model", "--json").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "fault", "code", "exit_code"),
    [
        (["fetch", "hf:owner/model", "--json"], Fault(flip_at=1), "wrong_bytes", 79),
        (["fetch", "hf:owner/model", "--json"], Fault(status=404), "not_there", 66),
        (["fetch", "no-such-model", "--json"], None, "not_found", 66),
        (["fetch", "--json"], None, "usage", 2),
        (["fetch", "x", "--limit", "fast", "--json"], None, "usage", 2),
        (["verify", "/no/such/file", "--json"], None, "not_found", 66),
    ],
)
def test_an_error_is_one_event(
    distro: Distro, arguments: list[str], fault: Fault | None, code: str, exit_code: int
) -> None:
    distro.hub.faults = [fault] if fault else []
    done = distro("--quiet", *arguments)
    assert done.returncode == exit_code, done.stderr
    (told,) = events(done.stderr)
    assert told.pop("message")
    assert told == {"event": "error", "schema": "distro-events/1", "code": code, "exit_code": exit_code}
    assert done.stdout == ""


@pytest.mark.parametrize("n_times", [2, 5])  # one piece that is streamed, several that are gathered
def test_a_limit_holds_for_what_comes_by_the_network_and_for_nothing_else(distro: Distro, n_times: int) -> None:
    distro.hub.add("owner/model", {"model.safetensors": DATA * n_times})
    rate = 1_000_000 * n_times
    began = time.monotonic()
    done = distro("fetch", "hf:owner/model", "--limit", "100MB/s", "--limit", f"hub={rate}")
    took = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert took > len(DATA) * n_times / rate - 0.2  # but for the burst
    began = time.monotonic()
    assert distro("fetch", "hf:owner/model", "-o", str(distro.base / "out"), "--limit", "10kB/s").returncode == 0
    assert time.monotonic() - began < 60  # it lies in our store


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("--limit", "fast", "--limit: allowed a rate"), ("--limit", "disk=1MB/s", "--limit: allowed limits of hub"),
     ("--when", "night", "--when: allowed hours"), ("--mirror", "host", "--mirror: allowed hub=https://HOST")],
)  # fmt: skip
def test_what_is_no_limit_no_hours_no_mirror(distro: Distro, option: str, value: str, said: str) -> None:
    done = distro("fetch", "hf:owner/model", option, value)
    assert done.returncode == 2
    assert said in done.stderr


def test_outside_of_its_hours_it_waits_and_says_until_when_and_can_be_stopped(distro: Distro) -> None:
    hour = time.localtime().tm_hour
    hours = f"{(hour + 3) % 24:02}:00-{(hour + 4) % 24:02}:00"
    with distro.start("fetch", "hf:owner/model", "--when", hours) as child:
        assert child.stderr is not None
        lines = [child.stderr.readline(), child.stderr.readline()]
        assert lines[1].startswith("waiting until ")
        assert lines[1].endswith(f" {(hour + 3) % 24:02}:00, as the schedule says\n")
        assert distro.hub.transfers() == []
        child.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert child.wait(10) == 130
        assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("number", "code", "twice"),
    [
        (signal.SIGINT, 130, False),
        (signal.SIGINT, 130, True),
        (signal.SIGTERM, 143, False),
        (signal.SIGHUP, 129, False),
    ],
    ids=["INT", "INT-INT", "TERM", "HUP"],
)
def test_signals_end_it_within_two_seconds_and_what_came_is_kept(
    distro: Distro, number: signal.Signals, code: int, twice: bool
) -> None:
    half = threading.Event()
    distro.hub.on_sent = lambda n_bytes: half.set() if n_bytes > len(DATA) // 2 else None
    distro.hub.faults = [Fault(path="model.safetensors", rate=1_000_000)]
    with distro.start("fetch", "hf:owner/model") as child:
        assert half.wait(30)
        began = time.monotonic()
        child.send_signal(number)
        if twice:
            time.sleep(0.05)
            child.send_signal(number)
        _, said = child.communicate(timeout=20)
    assert time.monotonic() - began < 2.5
    assert child.returncode == code
    assert said.splitlines()[-1] == "error: interrupted; run the same command again to go on"
    assert "Traceback" not in said
    distro.hub.faults, distro.hub.on_sent = [], lambda n_bytes: None
    distro.hub.requests.clear()
    assert distro("fetch", "hf:owner/model").returncode == 0
    assert distro.hub.n_sent() < len(DATA)  # some of it was there


def test_signals_that_are_to_be_ignored_are(distro: Distro) -> None:
    distro.hub.faults = [Fault(path="model.safetensors", rate=2_000_000)]
    begun = threading.Event()
    distro.hub.on_sent = lambda n_bytes: begun.set() if n_bytes > 100_000 else None
    command = ["nohup", *COMMAND, "fetch", "hf:owner/model"]
    with subprocess.Popen(
        command, env=distro.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert begun.wait(30)
        child.send_signal(signal.SIGHUP)
        child.communicate(timeout=30)
    assert child.returncode == 0


def test_a_disk_that_is_too_small_is_80_before_anything_comes_and_names_what_would_fit(
    distro: Distro, tmp_path: Path
) -> None:
    distro.publish(FILES, FREE)
    manifest = tmp_path / "config" / "manifests" / "tiny.toml"
    text, n_changed = re.subn(r"size = 2_?048_?000", "size = 900_000_000_000_000", manifest.read_text())
    assert n_changed == 1
    manifest.write_text(text)
    done = distro("fetch", "tiny")
    assert done.returncode == 80, done.stderr
    assert "bytes needed" in done.stderr
    assert done.stderr.rstrip().endswith("; q4_0 (1.0 kB) would fit")
    assert distro.hub.transfers() == []
    shown = distro("fetch", "tiny", "--dry-run")
    assert shown.returncode == 0
    assert " - not enough (" in shown.stdout


def test_a_mirror_of_the_hub_gives_the_files_and_never_sees_the_token(distro: Distro) -> None:
    distro.publish(FILES, FREE)
    commit = distro.hub.repos["owner/tiny"].commit
    with serving() as mirror:
        mirror.add("owner/tiny", dict(FILES))
        assert mirror.repos["owner/tiny"].commit == commit
        done = distro("fetch", "tiny", "--mirror", f"hub={mirror.url}", HF_TOKEN="hf_right")
        assert done.returncode == 0, done.stderr
        assert mirror.transfers()
        assert all("authorization" not in request.headers for request in mirror.requests)


def test_a_mirror_that_failed_is_asked_last_the_next_time(distro: Distro, tmp_path: Path) -> None:
    distro.publish({"a.bin": DATA, "b.bin": DATA[::-1]}, FREE)
    dead = "http://127.0.0.1:1/{model}/{variant}/"
    with serving() as mirror:
        mirror.plain = {"a.bin": DATA, "b.bin": DATA[::-1]}
        (tmp_path / "config").mkdir(exist_ok=True)
        (tmp_path / "config" / "config.toml").write_text(
            f'mirrors = ["{dead}", "{mirror.url}/plain/{{model}}/"]\nretries = 0\n'.replace('{model}/"]', '"]')
        )
        done = distro("fetch", "tiny", "--only", "a.bin")
        assert done.returncode == 0, done.stderr
        assert dead in json.loads((tmp_path / "state" / "mirrors.json").read_text())["failed"]
        plan = json.loads(distro("fetch", "tiny", "--dry-run", "--json").stdout)
        assert [source.split("/")[2] for source in plan["sources"] if source.startswith("http")] == [
            mirror.url.split("/")[2], "127.0.0.1:1",
        ]  # fmt: skip


def test_offline_opens_no_socket(distro: Distro) -> None:
    distro.publish(FILES, FREE)
    wanted = {
        ("fetch", "hf:owner/model"): 75,
        ("fetch", "tiny", "--mirror", "http://127.0.0.1:1/"): 75,
        ("fetch", "smollm2-135m-instruct"): 75,
        ("fetch", "magnet:?xt=urn:btih:" + "0" * 40, "--peer", "127.0.0.1:1"): 75,
        ("fetch", "tiny", "--dry-run", "--as", "q8_0"): 0,
        ("ls",): 0,
        ("show", "tiny"): 0,
        ("verify", "tiny"): 66,
    }
    program = (
        "import sys\n"
        "def hook(event, arguments):\n"
        "    if event in {'socket.connect', 'socket.getaddrinfo', 'socket.bind', 'socket.sendto',\n"
        "                 'subprocess.Popen'}:\n"
        "        sys.stderr.write(f'OPENED {event} {arguments}\\n')\n"
        "sys.addaudithook(hook)\n"
        "from distro.cli import main\n"
        f"for arguments in {list(wanted)!r}:\n"
        "    sys.argv = ['distro', '--offline', *arguments]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as left:\n"
        "        print('code', left.code)\n"
    )
    run = [COMMAND[0], "-c", program]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60, env=distro.environment())
    codes = [line.partition(" ")[2] for line in done.stdout.splitlines() if line.startswith("code ")]
    assert codes == [str(code) for code in wanted.values()], done.stderr
    assert "OPENED" not in done.stderr
    assert distro.hub.requests == []
