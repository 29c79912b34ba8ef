"""The client for asyncio: as :class:`tributary.Client`, with ``await``."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from tributary._core.address import shown
from tributary._core.asynchronous import Asynchronous
from tributary._core.feed import Feed
from tributary._core.participant import Options, Participant, Update
from tributary.events import Event
from tributary.model import Model
from tributary.status import Accepted

if TYPE_CHECKING:
    from typing_extensions import Self


class AsyncClient:
    """A client of one job, for asyncio. Arguments and errors are those of :class:`tributary.Client`.

    Any number of tasks may use it at once; all on one event loop that can watch sockets (on Windows not the default
    one). A cancelled call closes its connection; the server drops an update of which not all had left.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        job: str,
        name: str | None = None,
        *,
        timeout: float = 30.0,
        patience: float = 60.0,
        progress: bool = False,
        local: bool | Literal["auto"] = "auto",
        keep_until_pulled: bool = True,
    ) -> None:
        options = Options(timeout, patience, progress, local, keep_until_pulled)
        self._core = Participant(address, job, name, options, Asynchronous())

    @property
    def address(self) -> str:
        """The address of the server that is asked first: this client's home, once it is known."""
        return self._core.address

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that were given."""
        return self._core.addresses

    @property
    def job(self) -> str:
        """The job's name."""
        return self._core.job

    @property
    def name(self) -> str | None:
        """This client's name."""
        return self._core.name

    @property
    def version(self) -> int | None:
        """The version of the last model that was pulled; the round of a push that names none."""
        return self._core.version

    @overload
    async def pull(self, *, after: None = None, wait: float = 0.0) -> Model: ...

    @overload
    async def pull(self, *, after: int, wait: float = 0.0) -> Model | None: ...

    async def pull(self, *, after: int | None = None, wait: float = 0.0) -> Model | None:
        """Fetches the newest model; see :meth:`tributary.Client.pull`."""
        return await self._core.pull(after, wait)

    async def push(
        self,
        update: Update,
        *,
        weight: float | None = None,
        round: int | None = None,
        name: str | None = None,
        encoding: Literal["f32", "f16", "bf16"] | None = None,
        cast: bool = False,
    ) -> Accepted:
        """Sends an update; see :meth:`tributary.Client.push`."""
        return await self._core.push(update, weight, round, name, encoding, cast)

    def events(self) -> AsyncEventStream:
        """Listens to what happens in the job, from the first step of the iteration, or from ``async with``, on."""
        return AsyncEventStream(self._core.feed())

    async def close(self) -> None:
        """Closes its connections. A second close does nothing."""
        self._core.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncClient({shown(self.addresses)!r}, job={self.job!r}, name={self.name!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self._core.state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._core = Participant.restored(state, Asynchronous())


class AsyncEventStream:
    """An asynchronous iterator of :class:`tributary.Event`; also a context manager."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __aiter__(self) -> AsyncEventStream:
        return self

    async def __anext__(self) -> Event:
        event = await self._feed.next()
        if event is None:
            raise StopAsyncIteration
        return event

    async def close(self) -> None:
        """Stops listening."""
        self._feed.close()

    async def __aenter__(self) -> AsyncEventStream:
        await self._feed.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
