"""A peer of the BitTorrent protocol (BEP 3) that holds back what it is asked for until the test lets it go."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

_PROTOCOL = b"\x13BitTorrent protocol"
_UNCHOKE, _INTERESTED, _BITFIELD, _REQUEST, _PIECE = 1, 2, 5, 6, 7


class HoldingPeer:
    """It claims to have all pieces. asked: (piece, offset in it, length) of all requests. sent: those it answered.

    gives: pieces that it gives at once, and their bytes.
    """

    def __init__(self, infohash: bytes, n_pieces: int, host: str, gives: Mapping[int, bytes]) -> None:
        self.asked: list[tuple[int, int, int]] = []
        self.sent: list[tuple[int, int, int]] = []
        self._infohash, self._n_pieces, self._gives = infohash, n_pieces, gives
        self._listener = socket.create_server((host, 0))
        self._connection: socket.socket | None = None
        self.address: tuple[str, int] = self._listener.getsockname()
        threading.Thread(target=self._run, daemon=True).start()

    def let_go(self, piece: int, data: Callable[[int, int, int], bytes], *, n_most: int | None = None) -> None:
        """Answer what was asked of a piece and not answered before. data: of (piece, offset, length)."""
        assert self._connection is not None
        for request in [each for each in self.asked if each[0] == piece and each not in self.sent][:n_most]:
            self.sent.append(request)
            self._send(_PIECE, struct.pack(">II", *request[:2]) + data(*request))

    def close(self) -> None:
        self._listener.close()
        if self._connection is not None:
            self._connection.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                self._serve(connection)
            except OSError:
                pass
            finally:
                connection.close()

    def _serve(self, connection: socket.socket) -> None:
        stream = connection.makefile("rb")
        if stream.read(20) != _PROTOCOL:  # encrypted, which libtorrent tries first
            return
        stream.read(8 + 20 + 20)
        connection.sendall(_PROTOCOL + bytes(8) + self._infohash + b"-XX0000-holdingpeer1")
        self._connection = connection
        bits = bytearray(b"\xff" * (-(-self._n_pieces // 8)))
        if self._n_pieces % 8:
            bits[-1] = 0xFF << (8 - self._n_pieces % 8) & 0xFF
        self._send(_BITFIELD, bytes(bits))
        while len(head := stream.read(4)) == 4:
            message = stream.read(struct.unpack(">I", head)[0])
            if message[:1] == bytes([_INTERESTED]):
                self._send(_UNCHOKE, b"")
            if message[:1] == bytes([_REQUEST]):
                self.asked.append(struct.unpack(">III", message[1:13]))
                if (piece := self.asked[-1][0]) in self._gives:
                    self.let_go(piece, lambda piece, offset, length: self._gives[piece][offset : offset + length])

    def _send(self, kind: int, body: bytes) -> None:
        assert self._connection is not None
        self._connection.sendall(struct.pack(">IB", 1 + len(body), kind) + body)


@contextmanager
def holding_peer(
    infohash: bytes, n_pieces: int, gives: Mapping[int, bytes], *, host: str = "127.0.0.3"
) -> Iterator[HoldingPeer]:  # fmt: skip
    peer = HoldingPeer(infohash, n_pieces, host, gives)
    try:
        yield peer
    finally:
        peer.close()
