"""A server that says what a test wants, byte for byte: for answers that no library would give."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

Answer = Callable[["Asked"], object]
_PATIENCE_S = 20.0


@dataclass
class Asked:
    """A request, and the connection it came on. n: how many came before it."""

    head: str
    n: int
    connection: socket.socket
    over: threading.Event
    headers: dict[str, str] = field(default_factory=dict)  # names in lower case

    @property
    def path(self) -> str:
        return self.head.split(" ", 2)[1]

    def span(self, size: int) -> tuple[int, int]:
        """The bytes that are asked for: from, and up to."""
        first, _, last = self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        return int(first), int(last) + 1 if last else size

    def say(self, *parts: bytes) -> None:
        for part in parts:
            self.connection.sendall(part)


class RawServer:
    """url: of its root. asked: the requests that came, in order."""

    def __init__(self, answer: Answer) -> None:
        self._answer, self.asked, self._over = answer, list[Asked](), threading.Event()
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        self._over.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed by `stop`
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """One request for each connection, unless the answer says True: then one more."""
        connection.settimeout(_PATIENCE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, suppress(OSError):
            goes_on: object = True
            while goes_on is True and (head := self._head(connection)):
                lines = head.split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
                with self._lock:
                    asked = Asked(head, len(self.asked), connection, self._over, headers)
                    self.asked.append(asked)
                goes_on = self._answer(asked)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # so that what was sent is not lost by a reset
                pass

    @staticmethod
    def _head(connection: socket.socket) -> str:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(65536)):
                return ""
            data += more
        return data.decode("latin-1")


@contextmanager
def answering(answer: Answer) -> Iterator[RawServer]:
    server = RawServer(answer)
    try:
        yield server
    finally:
        server.stop()
