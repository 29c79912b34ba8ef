"""The stream of events, over connections of its own."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from urllib.parse import quote

from tributary import errors
from tributary._core.address import Address
from tributary._core.connection import Connection
from tributary._core.retry import Effort
from tributary._core.session import Request, Session
from tributary._core.sse import Parser
from tributary.events import Event

log = logging.getLogger("tributary")

SILENCE_MAX = 45.0
"""The server sends a comment every 15 s when nothing happens; three that are missing are a broken connection."""


class Feed:
    """Events of one job, or of all. Belongs to one reader."""

    def __init__(self, session: Session, job: str | None, patience: float) -> None:
        self._session = session
        self._patience = patience
        self._request = Request(
            "GET", "/v1/events" if job is None else f"/v1/events?job={quote(job)}", subject="events"
        )
        self._connection: Connection | None = None
        self._parts: AsyncIterator[bytes] | None = None
        self._parser = Parser()
        self._events: deque[Event] = deque()
        self._closed = False

    async def open(self) -> None:
        """Begins to listen, patiently."""
        if self._connection is None and not self._closed:
            await self._session.patiently(self._request.subject, self._find)

    async def next(self) -> Event | None:
        """The next event; ``None`` once it is closed."""
        effort = Effort(self._patience, time.monotonic)
        while not self._events:
            if self._closed:
                return None
            await self.open()
            try:
                await self._read()
            except errors.ServerUnreachable as error:
                if self._closed:
                    return None
                self._lose()
                pause = effort.pause(error)
                if pause is None:
                    raise
                await self._session.reactor.sleep(pause)
        return self._events.popleft()

    async def _find(self) -> None:
        await self._session.follow(self._request.subject, self._connect)

    async def _connect(self, place: Address) -> None:
        connection = await self._session.connect(place, SILENCE_MAX)
        try:
            head = await self._session.send(connection, self._request)
            if head.refused:
                raise await self._session.refusal(connection, head, self._request)
        except BaseException:
            connection.close()
            raise
        self._connection, self._parts, self._parser = connection, connection.parts(head), Parser()

    async def _read(self) -> None:
        connection = self._connection
        if self._parts is None or connection is None:
            return
        address = str(connection.address)
        try:
            part = await self._parts.__anext__()
        except StopAsyncIteration:
            raise errors.ConnectionLost(address, "the stream of events ended") from None
        except errors.TributaryError:
            raise
        except (OSError, ValueError) as error:
            # Closed by another thread, or task, in the middle: the socket has no number any more.
            raise errors.ConnectionLost(address, str(error)) from error
        self._events.extend(Event.parse(text) for text in self._parser.feed(part))
        while self._parser.comments:
            log.warning("events of %s were missed: %s", address, self._parser.comments.pop(0))

    def _lose(self) -> None:
        """The connection is broken: the next one goes elsewhere, if there is another place."""
        if self._connection is not None:
            self._session.places.failed([self._connection.address])
        self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._parts = None

    def close(self) -> None:
        """Stops listening, also for a reader that waits in another thread or task."""
        self._closed = True
        if self._connection is not None:
            self._connection.interrupt()
        self._drop()
