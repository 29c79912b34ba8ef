"""Both clients with one face, so that a test says once what they both do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

from tributary import AsyncClient, Client
from tributary.events import Event
from tributary.model import Model
from tributary.status import Accepted


class Driver(Protocol):
    """A client, driven to the end of each call."""

    client: Client | AsyncClient

    def pull(self, **arguments: Any) -> Model | None: ...

    def push(self, update: Any, **arguments: Any) -> Accepted: ...

    def first_event(self) -> Event: ...

    def close(self) -> None: ...


class BlockingDriver:
    def __init__(self, addresses: str | Sequence[str], name: str | None, **options: Any) -> None:
        self.client = Client(addresses, "job", name, **options)

    def pull(self, **arguments: Any) -> Model | None:
        model: Model | None = self.client.pull(**arguments)
        return model

    def push(self, update: Any, **arguments: Any) -> Accepted:
        return self.client.push(update, **arguments)

    def first_event(self) -> Event:
        with self.client.events() as events:
            return next(events)

    def close(self) -> None:
        self.client.close()


class AsyncDriver:
    def __init__(self, addresses: str | Sequence[str], name: str | None, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self.client = AsyncClient(addresses, "job", name, **options)

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.run_until_complete(coroutine)

    def pull(self, **arguments: Any) -> Model | None:
        model: Model | None = self._run(self.client.pull(**arguments))
        return model

    def push(self, update: Any, **arguments: Any) -> Accepted:
        accepted: Accepted = self._run(self.client.push(update, **arguments))
        return accepted

    def first_event(self) -> Event:
        async def first() -> Event:
            async with self.client.events() as events:
                return await events.__anext__()

        event: Event = self._run(first())
        return event

    def close(self) -> None:
        self._run(self.client.close())
        self._loop.close()
