"""Which of a host's addresses is asked: the first that takes a connection, when each is tried a moment after the last.

A host has several addresses, and some may lead nowhere: IPv6 where the router knows no way, a server of several that is
down. One after the other, each costs a whole time-out, for every connection. So they race, as RFC 8305 ("happy
eyeballs") has it: the families take turns, the next begins after a quarter of a second, or at once where one was
refused. Who won is asked for the next connections too, for some minutes, and as long as that works.

The race decides only; the connection is made by the client's own backend, to the address that won.
"""

from __future__ import annotations

import itertools
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import httpcore2
import httpx2

from distro.sources.backend import Backend, put_between

_HEAD_START_S = 0.25  # "Connection Attempt Delay" of RFC 8305
_KEPT_S = 600.0

_Address = tuple[socket.AddressFamily, Any]  # the latter as `connect` of that family takes it

_lock = threading.Lock()
_winners: dict[tuple[str, int], tuple[str, float]] = {}  # a host's port, its address that won, and until when


def race(client: httpx2.Client) -> None:
    """From now on, this client asks the quickest address of each host."""
    put_between(client, _Backend)


class _Backend(Backend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        key = host, port
        if (known := _known(key)) is not None:
            try:
                return super().connect_tcp(known, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                with _lock:
                    _winners.pop(key, None)
        winner = quickest(host, port, timeout)
        stream = super().connect_tcp(winner, port, timeout, local_address, socket_options)
        with _lock:
            _winners[key] = winner, time.monotonic() + _KEPT_S
        return stream


def _known(key: tuple[str, int]) -> str | None:
    with _lock:
        address, until = _winners.get(key, ("", 0.0))
    return address if time.monotonic() < until else None


def quickest(host: str, port: int, timeout_s: float | None) -> str:
    """The address of a host that is to be asked, as a number. Raises ConnectError, ConnectTimeout if there is none."""
    if ":" in host:
        host = host.replace("%25", "%")  # the zone of an address, as RFC 6874 has it in a URL
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore2.ConnectError(str(error)) from error
    addresses: list[_Address] = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    winner = addresses[0][1] if len(addresses) == 1 else _race(_in_turns(addresses), timeout_s)
    # By name, because what is between the client and the system takes no more than that; with its zone, if it has one.
    return socket.getnameinfo(winner, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0]


def _in_turns(addresses: Sequence[_Address]) -> list[_Address]:
    """The system's order, except that the families take turns."""
    first = [each for each in addresses if each[0] == addresses[0][0]]
    rest = [each for each in addresses if each[0] != addresses[0][0]]
    turns = itertools.chain.from_iterable(itertools.zip_longest(first, rest))
    return [each for each in turns if each is not None]


def _race(addresses: Sequence[_Address], timeout_s: float | None) -> Any:
    now = next_s = time.monotonic()
    end_s = float("inf") if timeout_s is None else now + timeout_s
    waiting, code = list(addresses), 0
    with ExitStack() as closing, selectors.DefaultSelector() as running:
        while waiting or running.get_map():
            if waiting and now >= next_s:
                code = _begin(*waiting.pop(0), closing, running) or code
                next_s = now + _HEAD_START_S if running.get_map() else now
                continue
            until_s = min(next_s, end_s) if waiting else end_s
            for ready, _ in running.select(None if until_s == float("inf") else max(0.0, until_s - now)):
                connection: socket.socket = ready.fileobj  # type: ignore[assignment]
                refusal = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not refusal:
                    return ready.data
                running.unregister(connection)
                code, next_s = refusal, now
            now = time.monotonic()
            if now >= end_s:
                raise httpcore2.ConnectTimeout("timed out")
    raise httpcore2.ConnectError(f"[Errno {code}] {os.strerror(code)}")


def _begin(family: socket.AddressFamily, address: Any, closing: ExitStack, running: selectors.BaseSelector) -> int:
    """Begin to connect. Gives the number of the error where that ended at once."""
    try:
        connection = closing.enter_context(socket.socket(family, socket.SOCK_STREAM))
        connection.setblocking(False)
        connection.connect(address)
    except BlockingIOError:
        pass
    except OSError as error:  # no way to there, or no such family on this machine
        return error.errno or 0
    running.register(connection, selectors.EVENT_WRITE, address)
    return 0
