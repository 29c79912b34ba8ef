"""A server, and the kept connections to it: one exchange at a time on each, tried again when that makes sense."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tributary import errors
from tributary._core import http, problems
from tributary._core.address import Address
from tributary._core.body import Body
from tributary._core.connection import Connection, Moved, _nobody
from tributary._core.http import Head
from tributary._core.reactor import Reactor
from tributary._core.retry import Effort

T = TypeVar("T")

IDLE_MAX = 8
"""Idle connections that are kept."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A request that may be sent more than once."""

    method: str
    target: str
    body: Body | None = None
    content_type: str | None = None
    wait: float = 0.0
    """Seconds that the server may take before it answers."""


class Session:
    """A server and the kept connections to it. Threads may share it: a connection is in one exchange only."""

    def __init__(self, address: Address, reactor: Reactor, timeout: float, patience: float) -> None:
        self.address = address
        self.reactor = reactor
        self._timeout = timeout
        self._patience = patience
        # A list's append and pop are atomic, which is all the locking that is needed.
        self._idle: list[Connection] = []
        self._closed = False

    # === exchanges ===

    async def patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Does what may fail, again and again within the patience.

        Raises:
            ServerUnreachable, Problem: the last failure, when the patience is over or trying again makes no sense.
        """
        effort = Effort(self._patience, time.monotonic)
        while True:
            try:
                return await attempt()
            except errors.TributaryError as error:
                pause = effort.pause(error)
                if pause is None:
                    raise _told(error, effort) from error.__cause__
            await self.reactor.sleep(pause)

    async def document(self, request: Request) -> tuple[Head, bytes]:
        """Sends a request and reads the document that answers it, patiently."""
        return await self.patiently(lambda: self.attempt(request))

    async def attempt(self, request: Request) -> tuple[Head, bytes]:
        """As :meth:`document`, once."""

        async def exchange(connection: Connection) -> tuple[Head, bytes]:
            return await self.answer(connection, request)

        return await self.with_connection(exchange)

    async def answer(self, connection: Connection, request: Request, moved: Moved = _nobody) -> tuple[Head, bytes]:
        """Sends a request on that connection and reads the document that answers it.

        Raises:
            Problem: the server refused.
        """
        head = await self.send(connection, request, moved)
        body = b"" if request.method == "HEAD" else await connection.body(head)
        if head.status >= 400:
            raise problems.read(head, body, str(self.address))
        return head, body

    async def send(self, connection: Connection, request: Request, moved: Moved = _nobody) -> Head:
        """Sends a request and reads the head of its answer, also if that comes before all was sent."""
        body = request.body
        length = body.length if body else (None if request.method in ("GET", "HEAD") else 0)
        head = http.request(request.method, request.target, self.address.authority, length, request.content_type)
        connection.heard = connection.whole = False
        pieces = body.pieces() if body else iter(())
        whole = await connection.send(itertools.chain([memoryview(head)], pieces), _beyond(len(head), moved))
        if whole and body and body.file is not None:
            whole = await connection.send_file(body.file.fileno(), body.length, moved)
        connection.whole = whole
        answer = await connection.head(request.wait)
        # Behind half a request, nobody can say where the next one begins.
        connection.reusable = whole and answer.keep_alive
        return answer

    async def with_connection(self, exchange: Callable[[Connection], Awaitable[T]]) -> T:
        """Does something on a connection, which is kept if nothing went wrong on it.

        A kept connection that turns out to be closed before a byte was heard is no failure: the server closes those
        that are idle. Then the same is done on another one.
        """
        while True:
            connection = await self.acquire()
            kept = connection.used
            try:
                result = await exchange(connection)
            except errors.Problem:
                self.release(connection)
                raise
            except errors.ConnectionLost:
                connection.close()
                if kept and not connection.heard:
                    continue
                raise
            except BaseException:
                # Also when a task was cancelled or Ctrl-C was pressed: nobody knows where the exchange stood.
                connection.close()
                raise
            self.release(connection)
            return result

    # === connections ===

    async def acquire(self) -> Connection:
        """An idle connection, or a new one."""
        if self._closed:
            raise errors.Closed("the client is closed; make another one")
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if not connection.stale:
                return connection
            connection.close()
        return await Connection.open(self.address, self.reactor, self._timeout)

    def release(self, connection: Connection) -> None:
        """Keeps a connection for the next exchange, if it can be used."""
        connection.used = True
        if connection.reusable and not self._closed and len(self._idle) < IDLE_MAX:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Closes the idle connections; those in use are closed when their exchange is over."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def __del__(self) -> None:
        # Of a client that nobody closed: without a warning for each socket.
        if hasattr(self, "_idle"):
            self.close()


def _beyond(head: int, moved: Moved) -> Moved:
    """Tells of bytes of the body only: the head goes in front of them."""
    left = head

    def tell(sent: int) -> None:
        nonlocal left
        of_head = min(left, sent)
        left -= of_head
        moved(sent - of_head)

    return tell


def _told(error: errors.TributaryError, effort: Effort) -> errors.TributaryError:
    """The error, with how long it was tried."""
    if isinstance(error, errors.ServerUnreachable):
        return type(error)(error.address, error.reason, seconds=effort.seconds, attempts=effort.attempts)
    return error
