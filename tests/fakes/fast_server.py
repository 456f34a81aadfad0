"""A server of one file, in a process of its own, so that it takes nothing of what it serves: for measurements.

    GET  /file     as fast as it goes, any range of it
    GET  /rated    RATE bytes per second, in all
    GET  /sent     how many bytes of the file were sent so far

Run as a program, `FILE HOST`, it prints its port.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

RATE = 50_000_000  # bytes per second
_OVERSLEPT_S = 0.05  # what is made up for


class FastServer:
    """path: of the file. host: the address it listens on; port: the one it got."""

    def __init__(self, path: Path, host: str) -> None:
        self._file, self._size = path.open("rb"), path.stat().st_size
        self._lock = threading.Lock()
        self._sent, self._paid_at = 0, 0.0
        self._listener = socket.create_server((host, 0), backlog=64)
        self.port = self._listener.getsockname()[1]

    def run(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = connection.makefile("rb")
        try:
            while (line := stream.readline()).strip():
                asked = None
                while (header := stream.readline()).strip():
                    if match := re.fullmatch(rb"range: bytes=(\d+)-(\d*)", header.strip(), re.IGNORECASE):
                        asked = match
                self._answer(connection, line.split(), asked)
        except OSError:
            pass
        finally:
            stream.close()
            connection.close()

    def _answer(self, connection: socket.socket, line: Sequence[bytes], asked: re.Match[bytes] | None) -> None:
        method, path = line[0], line[1].decode()
        if path == "/sent":
            body = str(self._sent).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            return
        if "file" not in path and "rated" not in path:
            connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            return
        start, stop = 0, self._size
        head = b"HTTP/1.1 200 OK\r\n"
        if asked:
            start, stop = int(asked[1]), int(asked[2]) + 1 if asked[2] else self._size
            head = b"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes %d-%d/%d\r\n" % (start, stop - 1, self._size)
        connection.sendall(head + b"accept-ranges: bytes\r\ncontent-length: %d\r\n\r\n" % (stop - start))
        if method != b"HEAD":
            self._send(connection, start, stop, is_rated="rated" in path)

    def _send(self, connection: socket.socket, start: int, stop: int, *, is_rated: bool) -> None:
        if is_rated:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 << 10)
        while start < stop:
            n_bytes = min(256 << 10 if is_rated else 8 << 20, stop - start)
            if is_rated:
                self._wait(n_bytes)
            n_sent = os.sendfile(connection.fileno(), self._file.fileno(), start, n_bytes)
            start += n_sent
            with self._lock:
                self._sent += n_sent

    def _wait(self, n_bytes: int) -> None:
        """As long as the rate has it. What was slept too long is made up for, or the rate would not be reached."""
        with self._lock:
            self._paid_at = max(self._paid_at, time.monotonic() - _OVERSLEPT_S) + n_bytes / RATE
            until = self._paid_at
        time.sleep(max(0.0, until - time.monotonic()))


if __name__ == "__main__":
    server = FastServer(Path(sys.argv[1]), sys.argv[2])
    print(server.port, flush=True)
    server.run()
