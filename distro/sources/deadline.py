"""An answer has to begin in time: a client's time-out is for each read, and a head that drips never runs into one.

So the reads of one request are counted together, from its sending until its head is here; nor do answers that only say
that the answer will come (1xx) put that off.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2

from distro.sources.backend import Backend, put_between
from distro.sources.client import NO_END

_PATIENCE = 2  # times the time-out for one read

_due = threading.local()  # at: monotonic time; None while a body is read


def watch(client: httpx2.Client) -> None:
    """From now on, heads of answers to this client are waited for no longer than twice its time-out for one read."""
    install(client)
    hooks = client.event_hooks
    client.event_hooks = {"request": [*hooks["request"], begin], "response": [end, *hooks["response"]]}


def install(client: httpx2.Client) -> None:
    """Make a client heed `begin` and `end`, called by its own hooks."""
    put_between(client, _Backend)


def begin(request: httpx2.Request) -> None:
    """A request is about to be sent by this thread."""
    timeout_s = request.extensions.get("timeout", {}).get("read")
    _due.at = None if timeout_s is None else time.monotonic() + _PATIENCE * timeout_s


def end(response: httpx2.Response) -> None:
    """The head of its answer is here."""
    _due.at = None


class _Stream(httpcore2.NetworkStream):
    def __init__(self, stream: httpcore2.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        due = getattr(_due, "at", None)
        if due is None:
            return self._stream.read(max_bytes, timeout)
        left = max(0.001, due - time.monotonic())
        try:
            data = self._stream.read(max_bytes, left if timeout is None else min(left, timeout))
        except httpcore2.ReadTimeout as error:
            if time.monotonic() < due:
                raise
            raise httpcore2.ReadTimeout(NO_END) from error
        if time.monotonic() >= due:
            raise httpcore2.ReadTimeout(NO_END)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(Backend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        return _Stream(super().connect_tcp(host, port, timeout, local_address, socket_options))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.NetworkStream:
        return _Stream(super().connect_unix_socket(path, timeout, socket_options))
