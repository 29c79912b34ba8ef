"""What coroutines of this package need of the outside world."""

from __future__ import annotations

import socket
from typing import Any, Protocol

READ = 1
WRITE = 2

AddressInfo = tuple[int, int, int, str, Any]
"""What ``getaddrinfo`` gives for one way to a host."""


class Reactor(Protocol):
    """Waits, in the way of the program that it is part of."""

    async def resolve(self, host: str, port: int) -> list[AddressInfo]:
        """The ways to a host."""

    async def wait(self, sock: socket.socket, wanted: int, timeout: float) -> int:
        """Waits until a socket can be read or written; which of it, or 0 after so many seconds."""

    async def sleep(self, seconds: float) -> None:
        """Waits so many seconds."""

    async def breathe(self) -> None:
        """Lets others run, in the middle of long work."""
