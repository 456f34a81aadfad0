"""Answers that no library would give, byte for byte: refused soon and in little memory, or right to the last byte."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distro.config import Settings
from distro.errors import DistroError, exit_code
from distro.sources.http import HttpReader
from tests.fakes.raw_server import Answer, Asked, answering

DATA = hashlib.shake_128(b"answers").digest(100_003)
SIZE = len(DATA)
MIB = 2**20


def whole(extra: str = "", status: str = "200 OK") -> Answer:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {SIZE}\r\n{extra}\r\n"
    return lambda asked: asked.say(head.encode("latin-1"), DATA)


def ranged(
    extra: str = "", *, says: Callable[[int, int], str] | None = None, status: str = "206 Partial Content"
) -> Answer:
    """What was asked for. says: another Content-Range than the right one."""

    def answer(asked: Asked) -> None:
        start, stop = asked.span(SIZE)
        said = says(start, stop) if says else f"Content-Range: bytes {start}-{stop - 1}/{SIZE}\r\n"
        head = f"HTTP/1.1 {status}\r\nContent-Length: {stop - start}\r\n{said}{extra}\r\n"
        asked.say(head.encode("latin-1"), DATA[start:stop])

    return answer


def or_whole(answer: Answer) -> Answer:
    """The same, but all of the file for a request that asks for no range."""
    return lambda asked: (answer if "range" in asked.headers else whole())(asked)


def chunked(end: bytes, extra: str = "", size: bytes = b"%x\r\n") -> Answer:
    def answer(asked: Asked) -> None:
        start, stop = asked.span(SIZE)
        head = f"HTTP/1.1 206 X\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes {start}-{stop - 1}/{SIZE}\r\n"
        asked.say(f"{head}{extra}\r\n".encode(), size % (stop - start), DATA[start:stop], b"\r\n", end)

    return answer


def said(*parts: bytes) -> Answer:
    return lambda asked: asked.say(*parts)


def bodiless(status: str, header: bytes) -> Answer:
    def answer(asked: Asked) -> bool:
        asked.say(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n".encode() + header + b"\r\n\r\n")
        return True  # the connection stays

    return answer


def redirect(location: bytes) -> Answer:
    return bodiless("302 X", b"Location: " + location)


def in_turn(*answers: Answer) -> Answer:
    def answer(asked: Asked) -> None:
        for each in answers:
            each(asked)

    return answer


def for_ever(first: bytes, more: bytes, pause_s: float = 0.0) -> Answer:
    def answer(asked: Asked) -> None:
        asked.say(first)
        while not asked.over.wait(pause_s):
            asked.say(more)

    return answer


def elsewhere(location: str, body: int = 0) -> Answer:
    """A redirect with so many bytes of its own; what is asked for there is given."""

    def answer(asked: Asked) -> None:
        head = f"HTTP/1.1 302 X\r\nContent-Length: {body}\r\nLocation: {location}\r\n\r\n"
        if asked.path == "/there":
            ranged()(asked)
        else:
            asked.say(head.encode(), *[bytes(MIB)] * (body // MIB))

    return answer


GOOD: dict[str, Answer] = {
    "as it should be": ranged(),
    "two ranges that say the same": or_whole(ranged(f"Content-Range: bytes 0-{SIZE - 1}/{SIZE}\r\n")),
    "two ranges that differ": or_whole(ranged("Content-Range: bytes 5-9/10\r\n")),
    "a part of which no range is said": or_whole(ranged(says=lambda start, stop: "")),
    "parts with a line between them": or_whole(
        ranged("Content-Type: multipart/byteranges; boundary=x\r\n", says=lambda start, stop: "")
    ),
    "a range beyond the end": or_whole(ranged(says=lambda a, b: f"Content-Range: bytes {a}-{b + 4}/{SIZE + 9}\r\n")),
    "a range in another unit": or_whole(ranged(says=lambda a, b: f"Content-Range: lines {a}-{b - 1}/{SIZE}\r\n")),
    "chunks and trailers": chunked(b"0\r\nContent-Range: bytes 0-1/2\r\nContent-Length: 3\r\n\r\n"),
    "chunks and another length": or_whole(chunked(b"0\r\n\r\n", "Content-Length: 5\r\n")),
    "a chunk with a remark": chunked(b"0\r\n\r\n", size=b"%x;a=b\r\n"),
    "a body without a length": said(b"HTTP/1.0 200 OK\r\n\r\n", DATA),
    "the length twice": whole(f"Content-Length: {SIZE}\r\n"),
    "cookies and a rule for the next time": ranged("Set-Cookie: a=b\r\nStrict-Transport-Security: max-age=99999\r\n"),
    "a name to store it by": ranged("Content-Disposition: attachment; filename=../../x\r\n"),
    "a name of a megabyte to store it by": ranged(f"Content-Disposition: attachment; filename={'x' * 60_000}\r\n"),
    "a place to go on to": ranged("Location: file:///etc/passwd\r\nRefresh: 0; url=file:///etc/passwd\r\n"),
    "a date of another time": ranged("Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nExpires: -1\r\n"),
    "a date to come": ranged("Date: Thu, 01 Jan 2100 00:00:00 GMT\r\nAge: 99999999999999999999\r\n"),
    "an early hint": in_turn(said(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"), ranged()),
    "bytes after the end": in_turn(ranged(), said(b"HTTP/1.1 200 OK\r\n\r\nmore")),
    "a redirect with a body of its own": elsewhere("/there", 64 * MIB),
    "a redirect with letters of no URL": elsewhere("/there#\u202e"),
    "a weak ETag": ranged('ETag: W/"x"\r\n'),
    "an ETag that steers": ranged('ETag: "\x1b[2J"\r\n'),
}


@pytest.fixture(scope="module")
def reader() -> Iterator[HttpReader]:
    """One for all, as certificates take their time."""
    reader = HttpReader(Settings(Path("home"), Path("config"), timeout_s=0.3), "mirror")
    yield reader
    reader.close()


@pytest.mark.parametrize("name", GOOD)
def test_what_is_odd_and_yet_right(reader: HttpReader, name: str) -> None:
    with answering(GOOD[name]) as server:
        assert b"".join(reader.stream(f"{server.url}/x", 1000, SIZE)) == DATA[1000:]
    assert all("cookie" not in asked.headers for asked in server.asked)


LINE = b"x" * MIB
BAD: dict[str, tuple[Answer, int]] = {
    "a part of which no range is said, again": (ranged(says=lambda start, stop: ""), 76),
    "two ranges, again": (ranged("Content-Range: bytes 5-9/10\r\n"), 76),
    "a header of 100 MB": (said(b"HTTP/1.1 200 OK\r\nX: ", *[LINE] * 100), 76),
    "a million headers": (said(b"HTTP/1.1 200 OK\r\n", *[b"X: y\r\n" * 10_000] * 100, b"\r\n"), 76),
    "a first line of 100 MB": (said(*[LINE] * 100), 76),
    "a remark of 10 MB with a chunk": (chunked(b"0\r\n\r\n", size=b"%x;" + b"x" * 10 * MIB + b"\r\n"), 76),
    "a trailer of 100 MB": (chunked(b"0\r\nX: " + LINE * 100), 76),
    "a head that drips": (for_ever(b"HTTP/1.1 200 OK\r\n", b"X", 0.02), 75),
    "headers that drip": (for_ever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", 0.02), 75),
    "a flood of promises": (for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), 75),
    "promises that drip": (for_ever(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.02), 75),
    "another protocol": (said(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), 76),
    "no head at all": (said(b"GGUF\r\n\r\n", DATA), 76),
    "a version to come": (said(b"HTTP/2 200\r\n\r\n", DATA), 76),
    "a status of five digits": (said(b"HTTP/1.1 99999 X\r\n\r\n"), 76),
    "several choices": (said(b"HTTP/1.1 300 X\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"), 76),
    "not modified": (said(b"HTTP/1.1 304 X\r\n\r\n"), 76),
    "a blank before a colon": (ranged("X : y\r\n"), 76),
    "a header with a NUL": (ranged("X: a\0b\r\n"), 76),
    "a length with a sign": (said(b"HTTP/1.1 200 OK\r\nContent-Length: +100003\r\n\r\n", DATA), 76),
    "a length of 2^64": (said(b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551616\r\n\r\n", DATA), 76),
    "a length of 5000 digits": (said(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"), 76),
    "a length of 0": (said(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), 76),
    "gzip, of a part": (ranged("Content-Encoding: gzip\r\n"), 76),
    "an encoding of no name": (ranged("Content-Encoding: \x1b[2J\r\n"), 76),
    "gzip on the way": (ranged("Transfer-Encoding: gzip\r\n"), 76),
    "gzip on the way, in chunks": (chunked(b"0\r\n\r\n", "Transfer-Encoding: gzip\r\n"), 76),
    "a body that never ends": (for_ever(b"HTTP/1.1 200 OK\r\n\r\n", LINE), 76),
    "chunks that never end": (for_ever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                                       b"100000\r\n" + LINE + b"\r\n"), 76),
    "nothing at that place": (bodiless("416 X", b"Content-Range: bytes */100003"), 76),
    "nothing at that place, of less": (bodiless("416 X", b"Content-Range: bytes */5"), 76),
    "a redirect of 1 MB": (redirect(b"/" + LINE), 76),
    "a redirect that goes on and on": (redirect(b"/" + b"x" * 60_000), 76),
    "a redirect to a name that is too long": (redirect(b"http://xn--" + b"a" * 300 + b".example/"), 76),
    "a redirect to a part that is too long": (redirect(b"http://" + b"a" * 64 + b".example/"), 76),
    "a redirect to a part of no letters": (redirect(b"http://a..example/"), 76),
    "a redirect to port 0": (redirect(b"http://127.0.0.1:0/"), 76),
    "a redirect to port 65536": (redirect(b"http://127.0.0.1:65536/"), 76),
    "a redirect to a port of letters": (redirect(b"http://127.0.0.1:x/"), 76),
    "a redirect to a script": (redirect("javascript:\u202e\x9b31m".encode()), 76),
    "a redirect to a socket": (redirect(b"unix:///var/run/docker.sock"), 76),
    "a redirect to two places": (redirect(b"/x\r\nLocation: file:///etc/passwd"), 76),
    "gone, with words that steer": (bodiless("404 X", b"X-Error-Message: a\x1b[2Jb"), 66),
    "gone, with 30,000 words": (bodiless("404 X", b"X-Error-Message: " + b"a " * 30_000), 66),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(reader: HttpReader, name: str) -> None:
    answer, code = BAD[name]
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with answering(answer) as server, pytest.raises(DistroError) as caught:
        b"".join(reader.stream(f"{server.url}/x", 0, SIZE))
    assert exit_code(caught.value) == code, caught.value
    assert str(caught.value).startswith("mirror: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500
    assert len(server.asked) <= 6
    assert time.process_time() - began < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
