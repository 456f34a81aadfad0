"""What is between the HTTP client and the system's sockets, put inside something of ours.

httpx2 takes no network backend, so those of its pools are replaced: the only place that knows what it keeps to itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2


class Backend(httpcore2.NetworkBackend):
    """The backend inside, as it is; who comes between overrides what it wants otherwise."""

    def __init__(self, inside: httpcore2.NetworkBackend) -> None:
        self.inside = inside

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        return self.inside.connect_tcp(host, port, timeout, local_address, socket_options)

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.NetworkStream:
        return self.inside.connect_unix_socket(path, timeout, socket_options)

    def sleep(self, seconds: float) -> None:
        self.inside.sleep(seconds)


def put_between(client: httpx2.Client, kind: type[Backend]) -> None:
    """From now on, all connections of a client are made by way of that backend."""
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx2.HTTPTransport):
            pool = transport._pool
            if not isinstance(pool._network_backend, kind):
                pool._network_backend = kind(pool._network_backend)
