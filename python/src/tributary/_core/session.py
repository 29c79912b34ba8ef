"""Servers, and the kept connections to them: one exchange at a time on each, tried again when that makes sense."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from tributary import errors
from tributary._core import http, problems
from tributary._core.address import Address
from tributary._core.body import Body
from tributary._core.connection import Connection, Moved, _nobody
from tributary._core.http import Head
from tributary._core.places import Places, Trail
from tributary._core.reactor import Reactor
from tributary._core.retry import Effort

T = TypeVar("T")

log = logging.getLogger("tributary")

TELL_SECONDS = 10.0
"""How often the log says that something is still waited for."""

IDLE_MAX = 8
"""Idle connections to one server that are kept."""

EXPECT_BYTES = 1 << 20
"""A body of so many bytes is held back until the server wants it, if it may want it to be sent elsewhere. Servers read
shorter ones away, so that the connection can go on."""

CONNECT_SECONDS = 5.0
"""How long one of several servers may take to accept a connection: three attempts of the system."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A request that may be sent more than once."""

    method: str
    target: str
    body: Body | None = None
    content_type: str | None = None
    wait: float = 0.0
    """Seconds that the server may take before it answers."""
    subject: str = ""
    """What it is about: requests about the same go to the same place."""


class Session:
    """Servers and the kept connections to them. Threads may share it: a connection is in one exchange only."""

    def __init__(self, given: Sequence[Address], reactor: Reactor, timeout: float, patience: float) -> None:
        self.places = Places(given)
        self.reactor = reactor
        self._timeout = timeout
        self._patience = patience
        # A list's append and pop are atomic, which is all the locking that is needed.
        self._idle: dict[Address, list[Connection]] = {}
        self._closed = False

    # === exchanges ===

    async def patiently(self, subject: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Does what may fail, again and again within the patience, at each place that is known.

        Raises:
            ServerUnreachable, Problem: the last failure, when the patience is over or trying again makes no sense.
        """
        effort = Effort(self._patience, time.monotonic)
        reasons: dict[str, str] = {}
        tried: set[str] = set()
        told_at: float | None = None
        while True:
            tried.add(str(self.places.of(subject)))
            try:
                return await attempt()
            except errors.TributaryError as error:
                lost = isinstance(error, errors.ServerUnreachable)
                if isinstance(error, errors.ServerUnreachable):
                    reasons[error.address] = error.reason
                    tried.add(error.address)
                pause = effort.pause(error, elsewhere=lost and str(self.places.of(subject)) not in tried)
                if pause is None:
                    raise _told(error, effort, reasons) from error.__cause__
                if pause:
                    told_at = _tell(error, effort, told_at)
            if pause:
                tried.clear()
                await self.reactor.sleep(pause)

    async def document(self, request: Request) -> tuple[Head, bytes]:
        """Sends a request and reads the document that answers it, patiently."""
        return await self.patiently(request.subject, lambda: self.attempt(request))

    async def attempt(self, request: Request) -> tuple[Head, bytes]:
        """As :meth:`document`, once."""

        async def exchange(connection: Connection) -> tuple[Head, bytes]:
            return await self.answer(connection, request)

        return await self.visit(request.subject, exchange)

    async def visit(self, subject: str, exchange: Callable[[Connection], Awaitable[T]]) -> T:
        """Does something on a connection to the subject's place, wherever servers redirect."""
        return await self.follow(subject, lambda place: self.with_connection(place, exchange))

    async def follow(self, subject: str, action: Callable[[Address], Awaitable[T]]) -> T:
        """Does something at the subject's place; again where a server redirects, and that place is remembered.

        Raises:
            Elsewhere: the servers redirect in a circle.
            ServerUnreachable: nobody answers at the end. The next call begins elsewhere, if there is another place.
        """
        trail = Trail(self.places, subject)
        while True:
            try:
                return await action(trail.here)
            except errors.Elsewhere as redirect:
                trail.redirected(redirect)
            except errors.UnknownJob as error:
                trail.unknown(error)
            except errors.ServerUnreachable:
                trail.failed()
                raise

    async def answer(self, connection: Connection, request: Request, moved: Moved = _nobody) -> tuple[Head, bytes]:
        """Sends a request on that connection and reads the document that answers it.

        Raises:
            Problem: the server refused, or redirected.
        """
        head = await self.send(connection, request, moved)
        if head.refused:
            raise await self.refusal(connection, head, request)
        return head, b"" if request.method == "HEAD" else await connection.body(head)

    async def refusal(self, connection: Connection, head: Head, request: Request) -> errors.Problem:
        """Reads why a request is refused, or where it belongs."""
        body = b"" if request.method == "HEAD" else await connection.body(head)
        return problems.read(head, body, connection.address, request.target)

    async def send(self, connection: Connection, request: Request, moved: Moved = _nobody) -> Head:
        """Sends a request and reads the head of its answer, also if that comes before all was sent."""
        body = request.body
        length = body.length if body else (None if request.method in ("GET", "HEAD") else 0)
        hold_back = body is not None and body.length >= EXPECT_BYTES and self.places.several
        authority = connection.address.authority
        head = http.request(
            request.method, request.target, authority, length, request.content_type, expects_continue=hold_back
        )
        # An array that cannot be read ends the request in its midst.
        connection.heard = connection.whole = connection.reusable = False
        pieces = body.pieces() if body else iter(())
        told = _beyond(len(head), moved)
        if hold_back:
            whole = await connection.send([memoryview(head)], told) and await connection.proceed()
            whole = whole and await connection.send(pieces, told)
        else:
            whole = await connection.send(itertools.chain([memoryview(head)], pieces), told)
        if whole and body and body.file is not None:
            whole = await connection.send_file(body.file.fileno(), body.length, moved)
        connection.whole = whole
        answer = await connection.head(request.wait)
        # Behind half a request, nobody can say where the next one begins.
        connection.reusable = whole and answer.keep_alive
        return answer

    async def with_connection(self, place: Address, exchange: Callable[[Connection], Awaitable[T]]) -> T:
        """Does something on a connection, which is kept if nothing went wrong on it.

        A kept connection that turns out to be closed before a byte was heard is no failure: the server closes those
        that are idle. Then the same is done on another one.
        """
        while True:
            connection = await self.acquire(place)
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

    async def acquire(self, place: Address) -> Connection:
        """An idle connection to a place, or a new one."""
        if self._closed:
            raise errors.Closed("the client is closed; make another one")
        idle = self._idle.get(place, [])
        while idle:
            try:
                connection = idle.pop()
            except IndexError:
                break
            if not connection.stale:
                return connection
            connection.close()
        return await self.connect(place, self._timeout)

    async def connect(self, place: Address, timeout: float) -> Connection:
        """A new connection. Where there are several servers, one that is silent is not waited for long."""
        soon = min(self._timeout, CONNECT_SECONDS) if self.places.several else self._timeout
        return await Connection.open(place, self.reactor, timeout, soon)

    def release(self, connection: Connection) -> None:
        """Keeps a connection for the next exchange, if it can be used."""
        connection.used = True
        idle = self._idle.setdefault(connection.address, [])
        if connection.reusable and not self._closed and len(idle) < IDLE_MAX:
            idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Closes the idle connections; those in use are closed when their exchange is over."""
        self._closed = True
        for idle in self._idle.copy().values():
            while idle:
                idle.pop().close()

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


def _tell(error: errors.TributaryError, effort: Effort, told_at: float | None) -> float:
    """Logs that it is waited, at the first failure and now and then; gives when that was, in seconds since then."""
    now = effort.seconds
    if told_at is not None and now - told_at < TELL_SECONDS:
        return told_at
    # A server that is busy for a moment is nothing to warn of.
    long = isinstance(error, errors.ServerUnreachable) or now >= TELL_SECONDS
    log.log(logging.WARNING if long else logging.INFO, "%s; trying again, for %.0f s more", error, effort.left)
    return now


def _told(error: errors.TributaryError, effort: Effort, reasons: dict[str, str]) -> errors.TributaryError:
    """The error, with how long it was tried, and where."""
    if isinstance(error, errors.ServerUnreachable):
        return type(error)(error.address, error.reason, seconds=effort.seconds, attempts=effort.attempts, tried=reasons)
    return error
