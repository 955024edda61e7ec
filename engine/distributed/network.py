"""What this machine is to the other machines of a run, and how it notices that one of them is gone. No torch here."""

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

OUTSIDE = "198.51.100.1"  # an address for examples (RFC 5737): it stands for whatever is not this machine

SILENCE = 20  # seconds without any answer after which another machine is lost

BEAT = 5  # seconds between questions whether it is still there

OPEN = Path("/proc/self/fd")


def split(where: str) -> tuple[str, int]:
    """The parts of HOST:PORT."""
    host, _, port = where.rpartition(":")
    return host.strip("[]"), int(port)


def own_address(host: str) -> str | None:
    """The address from which this machine speaks to `host`, or else to any other; None where there is no way.

    torch asks the machine's own name, to which many systems (Debian, images of clouds) give 127.0.1.1, an address
    that no other machine reaches.
    """
    for target in (host, OUTSIDE):
        with suppress(OSError):
            for family, kind, _, _, place in socket.getaddrinfo(target, 9, type=socket.SOCK_DGRAM):
                with socket.socket(family, kind) as way:
                    way.connect(place)  # sends nothing
                    address = way.getsockname()[0]
                if not ipaddress.ip_address(address).is_loopback:
                    return address
    return None


def interface_of(address: str) -> str | None:
    """The name of the interface that has an address, such as eth0."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address.partition("%")[0] == address for found in addresses):
            return name
    return None


def can_listen(where: str) -> bool:
    """Whether the host of HOST:PORT is this machine, and nobody listens at the port yet."""
    with suppress(OSError):
        for family, kind, _, _, place in socket.getaddrinfo(*split(where), type=socket.SOCK_STREAM):
            with socket.socket(family, kind) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(place)
                return True
    return False


def answers(where: str, seconds: float) -> bool:
    """Whether somebody listens at HOST:PORT, or begins to within some seconds."""
    until = time.monotonic() + seconds
    while True:
        with suppress(OSError), socket.create_connection(split(where), timeout=3):
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.5)


@contextmanager
def heeding_silence() -> Iterator[None]:
    """Within, a connection of this process ends with an error where the other side has been silent for SILENCE.

    A machine that fails or is cut off closes no connection: what waits for it would do so for a quarter of an hour
    and longer (tcp_retries2 in tcp(7)). The kernels ask each other, so that a process that only takes its time is not
    lost, unless it leaves so much unread that there is no room for more; gloo and torch's store read at once.
    Connections are torch's, which makes them when it likes, so all of them are looked up. Linux alone can.
    """
    if not (hasattr(socket, "TCP_USER_TIMEOUT") and OPEN.is_dir()):
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            for number in os.listdir(OPEN):
                with suppress(OSError):  # closed meanwhile, or no connection
                    end_in_silence(int(number))
            over.wait(BEAT)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def end_in_silence(descriptor: int) -> None:
    """Let the kernel give up a TCP connection after SILENCE. Raises OSError for anything else that is open."""
    if not os.readlink(OPEN / str(descriptor)).startswith("socket:"):
        return
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.type != socket.SOCK_STREAM or connection.family == socket.AF_UNIX:
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * SILENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, BEAT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, BEAT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, SILENCE // BEAT)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
