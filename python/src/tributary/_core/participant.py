"""A client of one job: pull and push, written once for both reactors."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

import numpy as np

from tributary import errors
from tributary._core import body, checks, http, problems, slot
from tributary._core.address import Address
from tributary._core.connection import Connection
from tributary._core.feed import Feed
from tributary._core.layout import Layout
from tributary._core.progress import Progress
from tributary._core.reactor import Reactor
from tributary._core.session import Request, Session
from tributary.model import Model
from tributary.status import Accepted

Update = Mapping[str, Any] | str | os.PathLike[str]
"""What can be pushed: named arrays, or the path of a safetensors file."""

WAIT_MAX = 60.0
"""Seconds for which the server lets one request wait; longer waits are several requests."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a client was made with, beside who it is."""

    timeout: float
    patience: float
    progress: bool
    local: bool | Literal["auto"]

    def __post_init__(self) -> None:
        checks.seconds("timeout", self.timeout, zero=False)
        checks.seconds("patience", self.patience)
        if self.local not in (True, False, "auto"):
            raise errors.InvalidArgument(f"local is {self.local!r}; there are True, False and 'auto'")


class Participant:
    """A client of one job."""

    def __init__(self, address: str, job: str, name: str | None, options: Options, reactor: Reactor) -> None:
        self.address = Address.parse(address)
        self.job = checks.resource("job", job)
        self.name = name if name is None else checks.client(name)
        self.version: int | None = None
        self._layout: Layout | None = None
        self._options = options
        self._progress = Progress(options.progress)
        self._session = Session(self.address, reactor, options.timeout, options.patience)
        self._slots = slot.Slots(self._session, self.job, options.local)

    # === pull ===

    async def pull(self, after: int | None, wait: float) -> Model | None:
        """Fetches the newest model, or waits for one."""
        checks.seconds("wait", wait)
        if after is None:
            if wait:
                raise errors.InvalidArgument("wait= needs after=, the version that a newer one is waited for")
            return await self._fetch(f"/v1/jobs/{self.job}/model", 0.0)
        checks.round_number(after)
        until = time.monotonic() + wait
        while True:
            some = max(0.0, min(until - time.monotonic(), WAIT_MAX))
            target = f"/v1/jobs/{self.job}/model?after={after}"
            model = await self._fetch(f"{target}&wait={int(some * 1000)}ms" if some else target, some)
            if model is not None or time.monotonic() >= until:
                return model

    async def _fetch(self, target: str, wait: float) -> Model | None:
        request = Request("GET", target, wait=wait)
        model = await self._session.patiently(
            lambda: self._session.with_connection(lambda connection: self._receive(connection, request))
        )
        if model is not None:
            self.version, self._layout = model.version, model.layout
        return model

    async def _receive(self, connection: Connection, request: Request) -> Model | None:
        head = await self._session.send(connection, request)
        if head.status >= 400:
            raise problems.read(head, await connection.body(head), str(self.address))
        if head.status == 204:
            return None
        version = head.headers.get("tributary-version", "")
        if head.status != 200 or head.length is None or not version.isdigit():
            raise errors.ProtocolError(f"{self.address} answered {head.status} where a model should come")
        buffer = np.empty(head.length, np.uint8)
        with self._progress.bar(f"pull {self.job}", head.length) as moved:
            await connection.read_into(buffer.data, moved)
        return Model.parse(self.job, int(version), buffer)

    # === push ===

    async def push(
        self,
        update: Update,
        weight: float | None,
        round: int | None,
        name: str | None,
        encoding: str | None,
        cast: bool,
    ) -> Accepted:
        """Sends an update, after every check that needs no server."""
        # Without the plus sign of 1e+22, which means a space in a query.
        query = "" if weight is None else f"&weight={checks.weight(weight)!r}".replace("+", "")
        target = f"/v1/jobs/{self.job}/updates/{self._client(name)}"
        if isinstance(update, (str, os.PathLike)):
            return await self._push_file(update, target, query, round, encoding)
        query = f"round={self._round(round)}{query}"
        tensors = body.Tensors.of(update, self._layout, encoding, cast)
        return await self._send(tensors, target, query)

    async def _push_file(
        self,
        path: str | os.PathLike[str],
        target: str,
        query: str,
        round: int | None,
        encoding: str | None,
    ) -> Accepted:
        if encoding is not None:
            raise errors.InvalidArgument("encoding= is for arrays; a file is sent as it is")
        with contextlib.closing(body.File(path)) as file:
            layout = file.layout()
            named = layout.metadata.get("round") if layout else None
            if layout is not None:
                body.check_file(layout, self._layout)
            if round is not None or named is None:
                query = f"round={self._round(round)}{query}"
            return await self._send(file, target, query.removeprefix("&"))

    def _client(self, name: str | None) -> str:
        if name is not None:
            return checks.client(name)
        if self.name is None:
            raise errors.InvalidName("no client's name: give name= to the client or to this push")
        return self.name

    def _round(self, round: int | None) -> int:
        if round is not None:
            return checks.round_number(round)
        if self.version is None:
            raise errors.NoRound("no model has been pulled by this client: call pull() first, or give round=")
        return self.version

    async def _send(self, content: body.Body, target: str, query: str) -> Accepted:
        sending = Sending(content, target, query)
        try:
            return await self._session.patiently(functools.partial(self._attempt, sending))
        except (errors.WrongRound, errors.JobCompleted) as error:
            if sending.answers_lost:
                error.detail += (
                    "; an earlier attempt was sent completely and its answer was lost, "
                    "so the update may be part of its round's model"
                )
            raise

    async def _attempt(self, sending: Sending) -> Accepted:
        values = None if sending.by_socket else self._slots.values(sending.content, self._layout)
        if values is not None:
            return await self._session.with_connection(lambda connection: self._by_slot(connection, sending, values))
        return await self._session.with_connection(lambda connection: self._by_socket(connection, sending))

    async def _by_socket(self, connection: Connection, sending: Sending) -> Accepted:
        sending.by_socket = True
        content = sending.content
        request = Request("PUT", f"{sending.target}?{sending.query}", content, "application/octet-stream")
        try:
            with self._progress.bar(f"push {self.job}", content.length) as moved:
                head, document = await self._session.answer(connection, request, moved)
        except errors.ServerUnreachable:
            sending.answers_lost |= connection.whole
            raise
        return _accepted(head, document, local=False)

    async def _by_slot(self, connection: Connection, sending: Sending, values: slot.Values) -> Accepted:
        try:
            lease = await self._slots.lease(connection, sending.target, sending.query)
        except slot.Busy as why:
            if sending.answers_lost and isinstance(why.__cause__, errors.NoSlot):
                # The server tells repeated updates only if they come by the same way.
                raise why.__cause__ from None
            return await self._by_socket(connection, sending)
        except slot.Unavailable as why:
            self._slots.give_up(why)
            return await self._by_socket(connection, sending)
        with self._progress.bar(f"push {self.job}", values.nbytes) as moved:
            await lease.write(values, moved)
        request = Request("PUT", f"{sending.target}?{sending.query}&slot={quote(lease.ticket)}")
        try:
            head, document = await self._session.answer(connection, request)
        except errors.ServerUnreachable:
            sending.answers_lost |= connection.whole
            raise
        except (errors.MalformedUpdate, errors.BadWeight, errors.UnknownSlot, errors.UnknownJob):
            # With these the lease goes on, and only the connection's end is its end.
            connection.reusable = False
            raise
        return _accepted(head, document, local=True)

    # === its life ===

    def feed(self) -> Feed:
        """What happens in the job."""
        return Feed(self._session, self.job, self._options.patience)

    def close(self) -> None:
        """Closes its connections."""
        self._session.close()

    def state(self) -> dict[str, Any]:
        """What another process needs to go on as this client."""
        return {
            "address": str(self.address),
            "job": self.job,
            "name": self.name,
            "options": self._options,
            "version": self.version,
            "layout": self._layout,
        }

    @classmethod
    def restored(cls, state: dict[str, Any], reactor: Reactor) -> Participant:
        """The client of such a state, with connections of its own."""
        participant = cls(state["address"], state["job"], state["name"], state["options"], reactor)
        participant.version, participant._layout = state["version"], state["layout"]
        return participant


@dataclasses.dataclass
class Sending:
    """One push, over all its attempts."""

    content: body.Body
    target: str
    query: str
    by_socket: bool = False
    """An attempt went by the socket; later ones do, too: the server recognises what it had on the same way only."""
    answers_lost: bool = False
    """An attempt was sent to its end, and nobody knows what became of it."""


def _accepted(head: http.Head, document: bytes, *, local: bool) -> Accepted:
    accepted = Accepted.read(http.parse_json(document))
    return dataclasses.replace(accepted, repeated=head.status == 200, local=local)
