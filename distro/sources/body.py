"""The body of an HTTP answer as it comes: never more than was announced, never slower than a connection that is alive.

A body that comes fast is read from the socket into one buffer, past the client's parser, which has done its work by
then: that takes a sixth of the processor's time, and costs the connection, which a slow one could not afford.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from distro.errors import ProtocolError, SourceError

if TYPE_CHECKING:
    import httpx2

_SLOWEST = 1024  # bytes per second over a whole time-out: less is a stalled connection
_FAST = 20e6  # bytes per second from which a body is read from the socket
_FAST_AFTER = 4 * 2**20  # bytes, before which nobody knows
_READ = 2**20


def read_body(
    response: httpx2.Response, name: str, timeout_s: float, most: int | None, where: str
) -> Iterator[bytes | memoryview]:
    """A body in portions; a view counts until the next one is asked for.

    name: of the source, where: the address as it may be shown. most: bytes that it may have. Raises SourceError,
    ProtocolError if it has more, and what httpx2 raises.
    """
    watch = Watch(name, timeout_s)
    portions = response.iter_raw()
    while not (watch.is_fast and (left := _left_in(response, watch.n_bytes))):
        began = time.monotonic()
        data = next(portions, b"")
        if not data:
            return
        watch.came(len(data), time.monotonic() - began)
        if most is not None and watch.n_bytes > most:
            raise ProtocolError(name, f"sends more than the {most} bytes of {where} that are left")
        yield data
    # The parser holds nothing back: all it had, it has handed out.
    yield from _from_socket(response.extensions["network_stream"].get_extra_info("socket"), left, watch)


def skip(portions: Iterator[bytes | memoryview], n_bytes: int) -> Iterator[bytes | memoryview]:
    """A body without its first bytes."""
    for data in portions:
        if n_bytes < len(data):
            yield data[n_bytes:]
        n_bytes = max(0, n_bytes - len(data))


def _from_socket(connection: socket.socket, n_left: int, watch: Watch) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(_READ))
    while n_left:
        began = time.monotonic()
        try:
            n_read = connection.recv_into(buffer[:n_left])
        except TimeoutError as error:
            raise SourceError(watch.name, f"silent for {watch.timeout_s:.0f} s") from error
        except OSError as error:
            raise SourceError(watch.name, f"the connection was cut ({error.strerror or error})") from error
        if not n_read:
            raise SourceError(watch.name, "the connection was cut")
        watch.came(n_read, time.monotonic() - began)
        n_left -= n_read
        yield buffer[:n_read]


class Watch:
    """How fast a body comes, by the time that we wait for it and not by what is done with it in between.

    n_bytes: of it that came. is_fast: whether reading past the parser is worth it.
    """

    def __init__(self, name: str, timeout_s: float) -> None:
        self.name, self.timeout_s = name, timeout_s
        self.n_bytes = 0
        self.is_fast = False
        self._waited_s, self._n_recent = 0.0, 0

    def came(self, n_bytes: int, waited_s: float) -> None:
        """So much came after so long a wait. Raises SourceError for less than `_SLOWEST` over a whole time-out."""
        self._waited_s += waited_s
        self._n_recent += n_bytes
        self.n_bytes += n_bytes
        if self._n_recent >= _FAST_AFTER:
            self.is_fast = self._n_recent > _FAST * self._waited_s
        elif self._waited_s <= self.timeout_s:
            return
        elif self._n_recent < _SLOWEST * self.timeout_s:
            raise SourceError(self.name, f"only {self._n_recent} bytes in {self._waited_s:.0f} s")
        self._waited_s, self._n_recent = 0.0, 0


def _left_in(response: httpx2.Response, n_read: int) -> int:
    """Bytes of a body that may be read from the socket as they are; 0 where they may not."""
    length = response.headers.get("content-length", "")
    if "transfer-encoding" in response.headers or not re.fullmatch(r"\d{1,19}", length, re.ASCII):
        return 0
    stream = response.extensions.get("network_stream")
    if stream is None:
        return 0
    connection, tls = stream.get_extra_info("socket"), stream.get_extra_info("ssl_object")
    is_plain = tls is None or isinstance(connection, ssl.SSLSocket)  # and no TLS within TLS, as by way of a proxy
    return int(length) - n_read if isinstance(connection, socket.socket) and is_plain else 0
