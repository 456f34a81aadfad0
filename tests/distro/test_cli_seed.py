"""`distro seed` as a user runs it, and `distro fetch` from it in a second home."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distro.cli.quantity import parse_rate
from distro.errors import UsageError
from distro.swarm.make import make
from tests.distro.test_cli_torrent import COMMAND, distro, environment, put

MODEL = "smollm2-135m-instruct"
# What its shipped manifest says is open to all: the GGUF out of a wheel.
FREE = {"SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"}
FILES = {"model.gguf": b"w" * 200_000, "config.json": b"{}"}


@contextmanager
def seeding(home: Path, *arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], list[dict[str, Any]]]]:
    """A seeder process and its ready lines, one for each argument that is no option."""
    command = [*COMMAND, "seed", "--interface", "127.0.0.1", "--json", *map(str, arguments)]
    process = subprocess.Popen(
        command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    guard = threading.Timer(60, process.kill)
    guard.start()
    try:
        assert process.stdout is not None
        n_ready = sum(not str(each).startswith("-") for each in arguments)
        lines = [process.stdout.readline() for _ in range(n_ready)]
        assert all(lines), process.communicate()[1]
        yield process, [json.loads(line) for line in lines]
    finally:
        guard.cancel()
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_magnet_takes_a_model_from_one_home_to_another(tmp_path: Path) -> None:
    home, second = tmp_path / "home", tmp_path / "second"
    folder = put(home, MODEL, "q8_0", FILES, FREE)
    with seeding(home, f"{MODEL}:q8_0") as (_, (ready,)):
        done = distro(second, "fetch", ready["magnet"], "--peer", ready["peer"])
        assert done.returncode == 0, done.stderr
        proven = distro(second, "--offline", "verify", ready["magnet"])

    place = Path(done.stdout.strip())
    assert {name: (place / name).read_bytes() for name in FILES} == FILES
    assert proven.returncode == 0, proven.stderr
    assert ready["infohash"]["v2"] == make(folder).infohash_v2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly_within_two_seconds(tmp_path: Path, number: signal.Signals) -> None:
    put(tmp_path / "home", MODEL, "q8_0", FILES, FREE)
    with seeding(tmp_path / "home", f"{MODEL}:q8_0") as (process, _):
        began = time.monotonic()
        process.send_signal(number)
        _, error = process.communicate(timeout=10)
        took_s = time.monotonic() - began

    assert process.returncode == 0
    assert took_s < 2
    assert f"{MODEL}-q8_0: 0 B sent" in error
    assert "Traceback" not in error


def test_what_was_fetched_by_magnet_or_torrent_is_seeded_as_that(tmp_path: Path) -> None:
    home, second = tmp_path / "home", tmp_path / "second"
    put(home, MODEL, "q8_0", FILES, FREE)
    distro(home, "torrent", f"{MODEL}:q8_0", "-o", tmp_path / "x.torrent")
    with seeding(home, f"{MODEL}:q8_0") as (_, (ready,)):
        assert distro(second, "fetch", ready["magnet"], "--peer", ready["peer"]).returncode == 0
    for reference in (ready["magnet"], tmp_path / "x.torrent"):
        with seeding(second, reference) as (_, (again,)):
            assert again["infohash"] == ready["infohash"]


def test_what_came_by_a_private_torrent_stays_private(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "plain"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    private = make(folder).as_private()
    put(home, f"torrent-{private.infohash[:16]}", "gguf", FILES)
    put(home, "torrent-0123456789abcdef", "gguf", FILES)
    with seeding(home, f"torrent-{private.infohash[:16]}") as (_, (ready,)):
        assert ready["infohash"] == {"v1": private.infohash_v1, "v2": private.infohash_v2}

    other = distro(home, "seed", "torrent-0123456789abcdef", "--interface", "127.0.0.1", "--for", "0")
    assert other.returncode == 2
    assert "name its .torrent file" in other.stderr


def test_a_file_that_is_not_what_the_receipt_says_is_not_seeded(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (put(home, MODEL, "q8_0", FILES, FREE) / "model.gguf").write_bytes(b"v" * 200_000)

    done = distro(home, "seed", f"{MODEL}:q8_0", "--interface", "127.0.0.1", "--for", "1")

    assert done.returncode == 79
    assert done.stdout == ""
    assert "model.gguf: sha256 is" in done.stderr


@pytest.mark.parametrize(
    ("model", "variant", "why"),
    [
        ("llama-7b", "hf", "forbids passing it on"),  # as its licence says
        ("llama-7b", "made-here", "forbids passing it on"),  # and what was made from it
        ("someone/something", "abcdef", "nobody wrote down"),  # from the hub, perhaps with a token
    ],
)
def test_what_may_not_be_passed_on_is_refused(tmp_path: Path, model: str, variant: str, why: str) -> None:
    home = tmp_path / "home"
    folder = put(home, model, variant, FILES)
    reference = f"hf:{model}" if "/" in model else f"{model}:{variant}"
    for each in (reference, str(folder), str(folder / "model.gguf")):
        done = distro(home, "seed", each, "--interface", "127.0.0.1", "--for", "1")
        assert done.returncode == 2, done.stderr
        assert why in done.stderr
        assert done.stdout == ""


def test_what_was_made_here_is_as_gated_as_what_it_was_made_from(tmp_path: Path) -> None:
    home = tmp_path / "home"
    put(home, MODEL, "safetensors", {"model.safetensors": b"s" * 100}, FREE)
    made = {"model.safetensors": hashlib.sha256(b"s" * 100).hexdigest()}
    put(home, MODEL, "q4_0", FILES, made)  # from what was made from what is free
    put(home, MODEL, "q5_0", FILES, {"model.safetensors": "0" * 64})  # from nobody knows what
    put(home, MODEL, "hf", {"model.safetensors": b"h" * 100})  # gated, as its manifest says
    put(home, MODEL, "q6_k", FILES, {"model.safetensors": hashlib.sha256(b"h" * 100).hexdigest()})

    for variant, code in (("safetensors", 0), ("q4_0", 0), ("q5_0", 2), ("hf", 2), ("q6_k", 2)):
        done = distro(home, "seed", f"{MODEL}:{variant}", "--interface", "127.0.0.1", "--for", "0")
        assert done.returncode == code, (variant, done.stderr)


def test_with_a_right_it_is_shared_privately(tmp_path: Path) -> None:
    home = tmp_path / "home"
    folder = put(home, "llama-7b", "hf", FILES)
    with seeding(home, "llama-7b:hf", "--i-have-the-right") as (_, (ready,)):
        assert ready["private"] is True
        assert ready["infohash"]["v2"] == make(folder, only=tuple(FILES)).as_private().infohash_v2

    done = distro(home, "seed", "llama-7b:hf", "--i-have-the-right", "--dht", "--interface", "127.0.0.1")
    assert done.returncode == 2
    assert "never announced to the DHT" in done.stderr


def test_a_change_on_the_disk_ends_with_its_name_and_74(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"w" * 100_000)
    with seeding(tmp_path / "home", path) as (process, _):
        path.write_bytes(b"v" * 100_000)
        _, error = process.communicate(timeout=15)

    assert process.returncode == 74
    assert "model.gguf: changed" in error


@pytest.mark.parametrize(
    ("text", "rate"),
    [("", 0), ("20MB/s", 20_000_000), ("1.5 GB", 1_500_000_000), ("500k", 500_000), ("64", 64), ("3mb/s", 3_000_000)],
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["0", "fast", "-1MB/s", "20MB/h", "1e9", "3GB/s", "MB/s", "٣MB"])
def test_bad_rates(text: str) -> None:
    with pytest.raises(UsageError, match="--limit"):
        parse_rate(text)
