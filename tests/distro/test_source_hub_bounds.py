"""What a hub may answer to huggingface_hub: nothing takes for ever, takes the memory, or gets a token it is not for."""

from __future__ import annotations

import json
import logging
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distro.config import Settings
from distro.errors import DistroError, MalformedManifestError, ProtocolError, SourceError, exit_code
from distro.sources import retry
from distro.sources.hub import variant_from_hub
from tests.fakes.raw_server import Answer, Asked, answering

COMMIT = "c0" * 20
OID = "f2ba8f84ab5c1bce84a7b441cb1959cfc7093b7f"  # git's name of "abc"
INFO = {"id": "o/m", "modelId": "o/m", "sha": COMMIT, "private": False, "gated": False, "siblings": []}


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from huggingface_hub import close_session

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield
    close_session()


def entry(path: str, **more: object) -> dict[str, object]:
    return {"type": "file", "path": path, "size": 3, "oid": OID, **more}


def answer_json(value: object, extra: str = "") -> Answer:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{extra}\r\n"

    def answer(asked: Asked) -> bool:
        asked.say(head.replace("HOST", asked.headers["host"]).encode("latin-1"), body)
        return True  # the connection stays, as the hub's does

    return answer


def bare(status: str, extra: str = "") -> Answer:
    def answer(asked: Asked) -> bool:
        asked.say(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n{extra}\r\n".encode("latin-1"))
        return True

    return answer


def silent(asked: Asked) -> None:
    asked.over.wait(20)


def dripping(asked: Asked) -> None:
    asked.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n[")
    while not asked.over.wait(0.02):
        asked.say(b" ")


def endless(asked: Asked) -> None:
    asked.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n[")
    for _ in range(1000):
        asked.say(b" " * 1_000_000)


def hub(tree: Answer, info: Answer | None = None) -> Answer:
    info = info or answer_json(INFO)
    return lambda asked: (tree if "/tree/" in asked.path else info)(asked)


def look_up(tmp_path: Path, url: str, **settings: Any) -> Any:
    known = Settings(tmp_path / "home", tmp_path, hub_endpoint=url, hub_token="hf_secret", timeout_s=0.5, retries=1)
    return variant_from_hub(replace(known, **settings), "o/m")


NEXT = 'Link: <{}>; rel="next"\r\n'
LOOPED = NEXT.format("http://HOST/api/models/o/m/tree/x")
BAD: dict[str, tuple[Answer, int]] = {
    "silent": (silent, 75),
    "a listing of which nothing comes": (hub(silent), 75),
    "a listing that drips": (hub(dripping), 75),
    "a listing of 1 GB": (hub(endless), 76),
    "a description of 1 GB": (endless, 76),
    "a listing that is packed": (hub(answer_json(b"\x1f\x8b", "Content-Encoding: gzip\r\n")), 76),
    "an empty page that follows upon itself": (hub(answer_json([], LOOPED)), 76),
    "pages without end": (hub(lambda asked: answer_json([], NEXT.format(f"http://HOST/tree/{asked.n}"))(asked)), 76),
    "the same files again and again": (hub(answer_json([entry("x")], LOOPED)), 76),
    "a next page in a file": (hub(answer_json([], NEXT.format("file:///etc/passwd"))), 76),
    "a next page of no host": (hub(answer_json([], NEXT.format("/x"))), 76),
    "a next page on port 0": (hub(answer_json([], NEXT.format("http://127.0.0.1:0/"))), 76),
    "redirects without end": (lambda asked: bare("302 X", f"Location: /x{asked.n}\r\n")(asked), 76),
    "a redirect to a file": (bare("302 X", "Location: file:///etc/passwd\r\n"), 76),
    "a redirect to nowhere": (bare("302 X"), 76),
    "nested 200,000 deep": (hub(answer_json(b"[" * 200_000)), 76),
    "a description nested 200,000 deep": (answer_json(b'{"a":' * 200_000), 76),
    "a size of 10,000 digits": (hub(answer_json(b'[{"type":"file","path":"x","size":' + b"9" * 10_000 + b"}]")), 76),
    "not JSON": (answer_json(b"<html>"), 76),
    "not UTF-8": (answer_json(b'{"sha": "\xff"}'), 76),
    "null": (answer_json(None), 76),
    "a list": (answer_json([]), 76),
    "a listing that is null": (hub(answer_json(None)), 76),
    "a listing of texts": (hub(answer_json(["a"])), 76),
    "a listing of nulls": (hub(answer_json([None])), 76),
    "a revision that climbs": (answer_json({**INFO, "sha": "../../x"}), 76),
    "no revision": (answer_json({**INFO, "sha": None}), 76),
    "not known": (bare("404 X"), 66),
    "gone": (bare("410 X"), 66),
    "forbidden by law": (bare("451 X"), 77),
    "no permission": (bare("403 X"), 77),
    "busy": (bare("503 X"), 75),
    "busy for long": (bare("429 X", "Retry-After: 1000000\r\n"), 75),
    "busy for long, as the hub says it": (hub(bare("429 X", 'RateLimit: "api";r=0;t=99999\r\n')), 75),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, code = BAD[name]
    monkeypatch.setattr(retry, "wait_s", lambda n_failed, error: 0.0)
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with answering(answer) as server, pytest.raises(DistroError) as caught:
        look_up(tmp_path, server.url, timeout_s=0.5 if code == 75 else 5.0)
    assert exit_code(caught.value) == code, caught.value
    assert str(caught.value).startswith("hub o/m: ")
    assert str(caught.value).isprintable()
    assert "hf_secret" not in str(caught.value)
    assert len(server.asked) <= 1001
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024


CLASHES = [
    ("x", "x"), ("x", "X"), ("x", "x/y"), ("a/b/c", "A"), ("stra\u00dfe", "STRASSE"), ("x", "a", "X/y/z"),
]  # fmt: skip


@pytest.mark.parametrize("paths", CLASHES)
def test_two_names_of_which_some_system_would_make_one(tmp_path: Path, paths: tuple[str, ...]) -> None:
    listed = answer_json([entry(path) for path in paths])
    with answering(hub(listed)) as server, pytest.raises(MalformedManifestError) as caught:
        look_up(tmp_path, server.url, timeout_s=5.0)
    assert caught.value.field == "path"
    assert paths[-1] in str(caught.value) or paths[0] in str(caught.value)


def test_the_token_goes_to_no_other_origin_than_the_hubs(tmp_path: Path) -> None:
    """A page may name its next one anywhere; it is asked, without the token."""
    elsewhere: Callable[[Asked], bool] = lambda asked: bool(answer_json([entry("y")])(asked))  # noqa: E731
    with answering(elsewhere) as other:
        first = answer_json([entry("x")], NEXT.format(f"{other.url}/api/models/o/m/tree/x?cursor=1"))
        with answering(hub(first)) as server:
            _, variant = look_up(tmp_path, server.url, timeout_s=5.0)
    assert [file.path for file in variant.files] == ["x", "y"]
    assert {asked.headers.get("authorization") for asked in server.asked} == {"Bearer hf_secret"}
    assert [asked.headers.get("authorization") for asked in other.asked] == [None]


def test_a_redirect_takes_no_token_along(tmp_path: Path) -> None:
    with (
        answering(hub(answer_json([entry("x")]))) as other,
        answering(lambda asked: bare("307 X", f"Location: {other.url}{asked.path}\r\n")(asked)) as server,
    ):
        _, variant = look_up(tmp_path, server.url, timeout_s=5.0)
    assert [file.path for file in variant.files] == ["x"]
    assert {asked.headers.get("authorization") for asked in other.asked} == {None}


def test_a_busy_hub_is_asked_again_after_as_long_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("distro.sources.retry.time.sleep", waits.append)
    good = hub(answer_json([entry("x")]))
    with answering(lambda asked: (good if asked.n else bare("429 X", "Retry-After: 7\r\n"))(asked)) as server:
        _, variant = look_up(tmp_path, server.url, timeout_s=5.0)
    assert [file.path for file in variant.files] == ["x"]
    assert [round(wait) for wait in waits] in ([7], [8])  # and a moment, never all at once


def test_what_the_hub_would_have_logged_is_not_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    warned = answer_json([entry("x")], "X-HF-Warning: x; \x1b]0;owned\x07\r\n")
    with answering(hub(warned, answer_json(INFO, "X-HF-Warning: x; \x1b]0;owned\x07\r\n"))) as server:
        look_up(tmp_path, server.url, timeout_s=5.0)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("huggingface_hub").level != logging.CRITICAL + 1  # others may have it as it was


def test_others_of_this_process_ask_as_they_did(tmp_path: Path) -> None:
    """The client is one for all; what we add to it does not hold for them."""
    from huggingface_hub import HfApi

    with answering(hub(answer_json([entry("x")]))) as server:
        look_up(tmp_path, server.url, timeout_s=5.0)
    with answering(answer_json({**INFO, "sha": None, "tags": ["x" * 9_000_000]})) as server:
        assert HfApi(endpoint=server.url).model_info("o/m").sha is None
        assert "gzip" in server.asked[-1].headers["accept-encoding"]


def test_errors_are_those_of_a_source(tmp_path: Path) -> None:
    with answering(silent) as server, pytest.raises(SourceError, match=r"silent for 0 s|silent for 1 s"):
        look_up(tmp_path, server.url)
    with answering(endless) as server, pytest.raises(ProtocolError, match="8388608 bytes"):
        look_up(tmp_path, server.url, timeout_s=5.0)
