"""The reactor of asyncio."""

from __future__ import annotations

import asyncio
import socket

from tributary._core.blocking import poll
from tributary._core.reactor import READ, WRITE, AddressInfo


class Asynchronous:
    """Suspends the calling task."""

    async def resolve(self, host: str, port: int) -> list[AddressInfo]:
        """The ways to a host."""
        return list(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))

    async def wait(self, sock: socket.socket, wanted: int, timeout: float) -> int:
        """Waits until a socket can be read or written; which of it, or 0 after so many seconds."""
        if found := poll(sock, wanted, 0):
            # Often so while sending; other tasks shall get their turn all the same.
            await asyncio.sleep(0)
            return found
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        # The number, because the socket may be closed by somebody else meanwhile.
        number = sock.fileno()
        if wanted & READ:
            loop.add_reader(number, wake)
        if wanted & WRITE:
            loop.add_writer(number, wake)
        # Not wait_for(): before Python 3.12 it can lose a cancellation.
        timer = loop.call_later(timeout, wake)
        try:
            await ready
        finally:
            timer.cancel()
            loop.remove_reader(number)
            loop.remove_writer(number)
        return poll(sock, wanted, 0)

    async def sleep(self, seconds: float) -> None:
        """Waits so many seconds."""
        await asyncio.sleep(seconds)

    async def breathe(self) -> None:
        """Lets other tasks run."""
        await asyncio.sleep(0)
