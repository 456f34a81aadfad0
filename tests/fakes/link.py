"""A link between two network namespaces that is slow and loses packets, for whoever may make one (Linux, root).

Each end is a namespace with a TUN device; this process reads the packets of one end and gives them to the other, later
or never. So it is the kernel's own TCP that meets delay and loss. Packets are dropped by a seeded generator.

    with link(delay_s=0.015, loss=0.01) as made:
        with made.far.inside():
            server = socket.create_server((made.far.address, 8000))
        subprocess.run([*made.near.enter, "curl", f"http://{made.far.address}:8000/"])
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import selectors
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_CLONE_NEWNET = 0x40000000
_MTU = 1500
_ADDRESSES = ("10.99.0.1", "10.99.0.2")
_MOST_WAITING = 4096  # packets on their way, as in a router's queue


def why_not() -> str:
    """Why this machine cannot make one; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    missing = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
    if missing or not Path("/dev/net/tun").exists():
        return f"needs {', '.join([*missing, '/dev/net/tun'])}"
    done = subprocess.run([_program("unshare"), "-n", "true"], check=False, capture_output=True)
    return done.stderr.decode().strip()


@dataclass(frozen=True)
class End:
    """enter: what a command begins with that is to run there."""

    address: str
    pid: int  # of the process that keeps it alive

    @property
    def enter(self) -> tuple[str, ...]:
        return _program("nsenter"), f"--net=/proc/{self.pid}/ns/net"

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets that this thread makes meanwhile are of that namespace, and stay so."""
        ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        theirs = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _move(theirs)
            yield
        finally:
            _move(ours)
            os.close(theirs)
            os.close(ours)


@dataclass
class _Direction:
    """Packets from one device to the other. delay_s: of each. loss: part that is dropped. rate: bytes per second."""

    source: int
    target: int
    delay_s: float
    loss: float
    rate: float | None
    random: random.Random
    waiting: deque[tuple[float, bytes]] = field(default_factory=deque)
    free_at: float = 0.0

    def take(self, now: float) -> None:
        try:
            packet = os.read(self.source, _MTU + 100)
        except OSError:
            return
        if self.random.random() < self.loss or len(self.waiting) >= _MOST_WAITING:
            return
        if self.rate is not None:
            self.free_at = max(self.free_at, now) + len(packet) / self.rate
            now = self.free_at
        self.waiting.append((now + self.delay_s, packet))

    def give(self, now: float) -> None:
        while self.waiting and self.waiting[0][0] <= now:
            try:
                os.write(self.target, self.waiting.popleft()[1])
            except OSError:
                continue


class Link:
    """near, far: its ends. is_up: packets pass; may be changed at any time."""

    def __init__(self, near: End, far: End) -> None:
        self.near, self.far = near, far
        self.is_up = True


@contextmanager
def link(*, delay_s: float = 0.0, loss: float = 0.0, rate: float | None = None, seed: int = 1) -> Iterator[Link]:
    """delay_s: in each direction. loss: part of the packets, in each direction. rate: bytes per second, likewise."""
    with ExitStack() as stack:
        ends, devices = [], []
        for address in _ADDRESSES:
            end, device = stack.enter_context(_end(address))
            ends.append(end)
            devices.append(device)
        made = Link(*ends)
        dice = random.Random(seed)
        directions = [_Direction(one, other, delay_s, loss, rate, dice) for one, other in (devices, reversed(devices))]
        over = threading.Event()
        carrier = threading.Thread(target=_carry, args=(directions, made, over))
        carrier.start()
        try:
            yield made
        finally:
            over.set()
            carrier.join()


def _carry(directions: list[_Direction], made: Link, over: threading.Event) -> None:
    with selectors.DefaultSelector() as selector:
        for direction in directions:
            selector.register(direction.source, selectors.EVENT_READ, direction)
        while not over.is_set():
            now = time.monotonic()
            due = min((each.waiting[0][0] for each in directions if each.waiting), default=now + 0.1)
            for key, _ in selector.select(max(0.0, due - now)):
                key.data.take(time.monotonic())
            for direction in directions:
                if not made.is_up:
                    direction.waiting.clear()
                direction.give(time.monotonic())


@contextmanager
def _end(address: str) -> Iterator[tuple[End, int]]:
    """A namespace with a device, whose descriptor is handed over by the process that keeps it alive."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    command = [_program("unshare"), "-n", sys.executable, __file__, address, str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    try:
        theirs.close()
        ours.settimeout(10)
        _, descriptors, _, _ = socket.recv_fds(ours, 16, 1)
        os.set_blocking(descriptors[0], False)
        try:
            yield End(address, process.pid), descriptors[0]
        finally:
            os.close(descriptors[0])
    finally:
        ours.close()  # which ends it
        process.wait(timeout=10)


def _program(name: str) -> str:
    return shutil.which(name) or name


def _move(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _keep(address: str, descriptor: int) -> None:
    """In the namespace: the device, its address, and then wait for the other side to close."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22s", b"link0", _IFF_TUN | _IFF_NO_PI, b""))
    for arguments in (
        ["link", "set", "lo", "up"],
        ["address", "add", f"{address}/24", "dev", "link0"],
        ["link", "set", "link0", "mtu", str(_MTU), "up"],
    ):
        subprocess.run([_program("ip"), *arguments], check=True)
    with socket.socket(fileno=descriptor) as channel:
        socket.send_fds(channel, [b"ready"], [device])
        channel.recv(1)


if __name__ == "__main__":
    _keep(sys.argv[1], int(sys.argv[2]))
