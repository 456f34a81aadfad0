"""Bounds for what huggingface_hub asks: the token for the hub alone, answers and pages that end, waits that end.

Left to itself, it waits for a listing for ever, follows any address that a page names as the next one and sends the
token there, reads answers of any length, follows pages for ever, waits as long as a busy hub says, and prints what the
hub would have it log. Its client is one of the whole process: what is added to it holds only for requests of a thread
that is in `in_bounds`.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2

from converters.errors import shown
from distro.config import Settings
from distro.errors import ProtocolError, SourceError
from distro.sources import deadline
from distro.sources.addresses import race
from distro.sources.body import Watch
from distro.sources.http import BUSY, CONNECT_S, retry_after
from distro.sources.origins import MOST_REDIRECTS, judge_redirect, origin_of, plain

_MOST_BYTES = 8 * 2**20  # of an answer; 1000 files are a tenth of this, and read they take twenty times as much
_MOST_REQUESTS = 1000  # of one look-up
_LONGEST_WAIT_S = 60.0


class BusyError(SourceError):
    """The hub wants to be asked later."""


@dataclass
class _LookUp:
    """name: of the source. hub: whom the token is for. since: monotonic time from which no answer has come.

    answered: addresses that gave an answer.
    """

    name: str
    hub: httpx2.URL
    timeout_s: float
    since: float | None = None
    n_left: int = _MOST_REQUESTS
    n_redirects: int = 0
    answered: set[str] = field(default_factory=set)

    def limit(self, request: httpx2.Request) -> None:
        """Give a request its time-out. The library, which has none for some, asks again and again where nobody says
        anything; for a whole time-out in all, here.
        """
        now = time.monotonic()
        self.since = now if self.since is None else self.since
        left = self.since + self.timeout_s - now
        if left <= 0:
            raise SourceError(self.name, f"silent for {self.timeout_s:.0f} s")
        request.extensions["timeout"] = httpx2.Timeout(left, connect=min(left, CONNECT_S)).as_dict()


_look_ups = threading.local()  # now: that of this thread, None outside of `in_bounds`
_bounded = weakref.WeakSet[httpx2.Client]()


@contextmanager
def in_bounds(settings: Settings, name: str) -> Iterator[None]:
    """While this lasts, what this thread asks the hub is bounded. Raises SourceError, ProtocolError, BusyError."""
    from huggingface_hub import get_session

    client = get_session()
    if client not in _bounded:
        _bounded.add(client)
        race(client)
        deadline.install(client)
        hooks = client.event_hooks
        client.event_hooks = {"request": [*hooks["request"], _judge_request], "response": [_judge, *hooks["response"]]}
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    _look_ups.now = _LookUp(name, httpx2.URL(settings.hub_endpoint), settings.timeout_s)
    try:
        yield
    finally:
        _look_ups.now = None
        log.setLevel(level)


def _judge_request(request: httpx2.Request) -> None:
    look_up: _LookUp | None = getattr(_look_ups, "now", None)
    if look_up is None:
        return
    if not look_up.n_left:
        raise ProtocolError(look_up.name, f"has no end of pages: more than {_MOST_REQUESTS}")
    look_up.n_left -= 1
    judge_redirect(look_up.name, look_up.hub, look_up.hub, request.url)
    request.headers["accept-encoding"] = "identity"
    request.headers.pop("cookie", None)
    if origin_of(request.url) != origin_of(look_up.hub):
        request.headers.pop("authorization", None)
    look_up.limit(request)
    deadline.begin(request)


def _judge(response: httpx2.Response) -> None:
    look_up: _LookUp | None = getattr(_look_ups, "now", None)
    if look_up is None:
        return
    deadline.end(response)
    look_up.since = None
    where = shown(plain(response.url))
    look_up.n_redirects = look_up.n_redirects + 1 if response.has_redirect_location else 0
    if look_up.n_redirects > MOST_REDIRECTS:
        raise ProtocolError(look_up.name, f"more than {MOST_REDIRECTS} redirects")
    if response.status_code in BUSY:
        raise _busy(look_up, f"HTTP {response.status_code} for {where}", retry_after(response.headers))
    if str(response.url) in look_up.answered:
        raise ProtocolError(look_up.name, f"has no end of pages: after {where} comes the same")
    look_up.answered.add(str(response.url))
    if encoding := response.headers.get("content-encoding"):
        raise ProtocolError(look_up.name, f"sends {shown(encoding)} where identity was asked, for {where}")
    if not isinstance(response.stream, httpx2.SyncByteStream):
        raise TypeError(f"the body of {where} is no stream")
    response.stream = _Bounded(response.stream, look_up, where)


def _busy(look_up: _LookUp, why: str, wait_s: float | None) -> SourceError:
    if wait_s is not None and wait_s > _LONGEST_WAIT_S:  # longer than anybody looks at a screen where nothing happens
        return SourceError(look_up.name, f"{why}; it wants to be asked in {wait_s:.0f} s")
    return BusyError(look_up.name, why, retry_after_s=wait_s)


class _Bounded(httpx2.SyncByteStream):
    """A body that ends, and does not drip."""

    def __init__(self, stream: httpx2.SyncByteStream, look_up: _LookUp, where: str) -> None:
        self._stream, self._look_up, self._where = stream, look_up, where

    def __iter__(self) -> Iterator[bytes]:
        watch, began = Watch(self._look_up.name, self._look_up.timeout_s), time.monotonic()
        for data in self._stream:
            watch.came(len(data), time.monotonic() - began)
            if watch.n_bytes > _MOST_BYTES:
                raise ProtocolError(self._look_up.name, f"sends more than {_MOST_BYTES} bytes for {self._where}")
            yield data
            began = time.monotonic()

    def close(self) -> None:
        self._stream.close()
