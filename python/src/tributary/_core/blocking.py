"""The reactor of programs with threads, or without: waiting blocks the thread."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from tributary._core.reactor import READ, WRITE, AddressInfo

T = TypeVar("T")


class Blocking:
    """Blocks the calling thread. Its coroutines never suspend."""

    async def resolve(self, host: str, port: int) -> list[AddressInfo]:
        """The ways to a host."""
        return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))

    async def wait(self, sock: socket.socket, wanted: int, timeout: float) -> int:
        """Waits until a socket can be read or written; which of it, or 0 after so many seconds."""
        return poll(sock, wanted, timeout)

    async def sleep(self, seconds: float) -> None:
        """Waits so many seconds."""
        time.sleep(seconds)

    async def breathe(self) -> None:
        """Nothing: the operating system lets others run."""


def poll(sock: socket.socket, wanted: int, timeout: float) -> int:
    """What of the wanted can be done; waits so many seconds for it."""
    # Not select(): it cannot watch a socket with a number above 1023.
    watch = select.poll()
    watch.register(sock, (select.POLLIN if wanted & READ else 0) | (select.POLLOUT if wanted & WRITE else 0))
    found = 0
    for _, events in watch.poll(timeout * 1000):
        found |= READ if events & select.POLLIN else 0
        found |= WRITE if events & select.POLLOUT else 0
        # A broken connection: what was wanted will say how.
        found |= wanted if events & ~(select.POLLIN | select.POLLOUT) else 0
    return found & wanted


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine over :class:`Blocking` to its end."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise AssertionError("a coroutine over the blocking reactor has suspended")
