"""A client of one job: pull and push, written once for both reactors."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import numpy as np

from tributary import errors
from tributary._core import body, checks, http, keeping, slot
from tributary._core.address import Address
from tributary._core.connection import Connection
from tributary._core.feed import Feed
from tributary._core.keeping import Kept, Sending
from tributary._core.layout import Layout
from tributary._core.progress import Progress
from tributary._core.reactor import Reactor
from tributary._core.session import Request, Session
from tributary.model import Model
from tributary.status import Accepted

T = TypeVar("T")

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
    keep_until_pulled: bool = True

    def __post_init__(self) -> None:
        checks.seconds("timeout", self.timeout, zero=False)
        checks.seconds("patience", self.patience)
        if self.local not in (True, False, "auto"):
            raise errors.InvalidArgument(f"local is {self.local!r}; there are True, False and 'auto'")


class Participant:
    """A client of one job."""

    def __init__(
        self, address: str | Sequence[str], job: str, name: str | None, options: Options, reactor: Reactor
    ) -> None:
        given = Address.several(address)
        self.job = checks.resource("job", job)
        self.name = name if name is None else checks.client(name)
        self.version: int | None = None
        self._layout: Layout | None = None
        self._options = options
        self._progress = Progress(options.progress)
        self._session = Session(given, reactor, options.timeout, options.patience)
        self._slots = slot.Slots(self._session, self.job, options.local)
        self._kept: Kept | None = None

    # === where it goes ===

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that were given."""
        return tuple(map(str, self._session.places.given))

    @property
    def address(self) -> str:
        """The server that is asked first."""
        return str(self._session.places.of(self._subject(self.name)))

    def _subject(self, name: str | None) -> str:
        # A client's model comes from where its updates go: so one that waits notices when that node dies.
        return f"jobs/{self.job}/updates/{name or ''}"

    async def _visit(self, subject: str, exchange: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            return await self._session.visit(subject, exchange)
        except errors.UnknownJob as error:
            # Some server knows where the job is; the one that it names is still to hear of it.
            error.transient = error.redirected
            raise

    # === pull ===

    async def pull(self, after: int | None, wait: float) -> Model | None:
        """Fetches the newest model, or waits for one."""
        checks.seconds("wait", wait)
        if after is None:
            if wait:
                raise errors.InvalidArgument("wait= needs after=, the version that a newer one is waited for")
            return await self._fetch(f"/v1/jobs/{self.job}/model", 0.0, None)
        after = checks.round_number(after)
        until = time.monotonic() + wait
        while True:
            kept = self._kept_for(after)
            some = max(0.0, min(until - time.monotonic(), keeping.ASK_SECONDS if kept else WAIT_MAX))
            target = f"/v1/jobs/{self.job}/model?after={after}"
            model = await self._fetch(f"{target}&wait={int(some * 1000)}ms" if some else target, some, kept)
            if model is not None and model.version < after:
                # The job was made anew, and knows nothing of what it had before.
                self._kept = None
            if model is not None or time.monotonic() >= until:
                return model

    async def _fetch(self, target: str, wait: float, kept: Kept | None) -> Model | None:
        request = Request("GET", target, wait=wait, subject=self._subject(self.name))
        model = await self._session.patiently(request.subject, functools.partial(self._attempt_fetch, request, kept))
        if model is not None:
            self.version, self._layout = model.version, model.layout
            if self._kept is not None and self._kept.round < model.version:
                self._kept = None
        return model

    async def _attempt_fetch(self, request: Request, kept: Kept | None) -> Model | None:
        receive = functools.partial(self._receive, request)
        if kept is None:
            return await self._visit(request.subject, receive)
        try:
            await self._ensure(kept)
        except errors.ServerUnreachable:
            # Whoever redirects to a dead node may have the model of the others all the same.
            model = await self._visit(request.subject, receive)
            if model is None:
                raise
            return model
        try:
            return await self._visit(request.subject, receive)
        except errors.ServerUnreachable:
            kept.doubted = True
            raise

    async def _receive(self, request: Request, connection: Connection) -> Model | None:
        head = await self._session.send(connection, request)
        if head.refused:
            raise await self._session.refusal(connection, head, request)
        if head.status == 204:
            return None
        version = head.headers.get("tributary-version", "")
        if head.status != 200 or head.length is None or not version.isdigit():
            raise errors.ProtocolError(f"{connection.address} answered {head.status} where a model should come")
        buffer = np.empty(head.length, np.uint8)
        with self._progress.bar(f"pull {self.job}", head.length) as moved:
            await connection.read_into(buffer.data, moved)
        return Model.parse(self.job, int(version), buffer, head.headers.get("tributary-layout"))

    # === the update that is kept ===

    def _keep(self, content: body.Tensors | Path, sending: Sending, accepted: Accepted) -> Accepted:
        """Keeps this client's own update. Those of other names are as many as there are names."""
        if self._options.keep_until_pulled and sending.subject == self._subject(self.name):
            self._kept = Kept(content, sending, accepted)
        return accepted

    def _kept_for(self, round: int) -> Kept | None:
        kept = self._kept
        return kept if kept is not None and kept.round == round else None

    async def _ensure(self, kept: Kept) -> None:
        """Sees to it, when it is time, that a node has the update."""
        if self._kept is not kept or not kept.due:
            return
        if not await keeping.ensure(kept, self._session, self._attempt) and self._kept is kept:
            self._kept = None

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
        client = self._client(name)
        target, subject = f"/v1/jobs/{self.job}/updates/{client}", self._subject(client)
        if isinstance(update, (str, os.PathLike)):
            if encoding is not None:
                raise errors.InvalidArgument("encoding= is for arrays; a file is sent as it is")
            with contextlib.closing(body.File(update)) as file:
                sending = self._of_file(file, target, query, subject, round)
                return self._keep(file.path, sending, await self._send(sending))
        number = self._round(round)
        tensors = body.Tensors.of(update, self._layout, encoding, cast)
        sending = Sending(tensors, target, f"round={number}{query}", subject, number)
        return self._keep(tensors, sending, await self._send(sending))

    def _of_file(self, file: body.File, target: str, query: str, subject: str, round: int | None) -> Sending:
        layout = file.layout()
        named = layout.metadata.get("round") if layout else None
        if layout is not None:
            body.check_file(layout, self._layout)
        number = None
        if round is not None or named is None:
            number = self._round(round)
            query = f"round={number}{query}"
        return Sending(file, target, query.removeprefix("&"), subject, number)

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

    async def _send(self, sending: Sending) -> Accepted:
        try:
            return await self._session.patiently(sending.subject, functools.partial(self._attempt, sending))
        except errors.OtherBytes:
            receipt = await self._receipt(sending) if sending.slots_lost else None
            if receipt is None:
                raise
            return receipt
        except (errors.WrongRound, errors.JobCompleted) as error:
            if sending.answers_lost:
                error.detail += (
                    "; an earlier attempt was sent completely and its answer was lost, "
                    "so the update may be part of its round's model"
                )
            raise

    async def _attempt(self, sending: Sending) -> Accepted:
        values = None if sending.by_socket else self._slots.values(sending.content, self._layout)

        async def exchange(connection: Connection) -> Accepted:
            if values is None or self._slots.has_given_up(connection.address):
                return await self._by_socket(connection, sending)
            return await self._by_slot(connection, sending, values)

        try:
            return await self._visit(sending.subject, exchange)
        except errors.WrongRound as error:
            if self._session.places.several and sending.round is not None and error.round is not None:
                # A node that is behind the others does not know of the round yet.
                error.transient = error.round < sending.round
            raise

    async def _receipt(self, sending: Sending) -> Accepted | None:
        """What the server has of an update whose answer was lost: the same bytes are others on another way."""
        request = Request("GET", f"{sending.target}?round={sending.round}", subject=sending.subject)
        try:
            head, document = await self._session.document(request)
        except errors.Problem:
            return None
        return dataclasses.replace(_accepted(head, document, Address.parse(self.address), local=True), repeated=True)

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
        return _accepted(head, document, connection.address, local=False)

    async def _by_slot(self, connection: Connection, sending: Sending, values: slot.Values) -> Accepted:
        try:
            lease = await self._slots.lease(connection, sending.target, sending.query, values)
        except slot.Busy as why:
            if sending.answers_lost and isinstance(why.__cause__, errors.NoSlot):
                # The server tells repeated updates only if they come by the same way.
                raise why.__cause__ from None
            return await self._by_socket(connection, sending)
        except slot.Unavailable as why:
            self._slots.give_up(why, connection.address)
            return await self._by_socket(connection, sending)
        # Until the update is handed in, the connection's end is the lease's.
        connection.reusable = False
        with self._progress.bar(f"push {self.job}", values.nbytes) as moved:
            await lease.write(values, moved)
        request = Request("PUT", f"{sending.target}?{sending.query}&slot={quote(lease.ticket)}")
        try:
            head, document = await self._session.answer(connection, request)
        except errors.ServerUnreachable:
            sending.answers_lost |= connection.whole
            sending.slots_lost |= connection.whole
            raise
        except (errors.MalformedUpdate, errors.BadWeight, errors.UnknownSlot, errors.UnknownJob):
            # With these the lease goes on, and only the connection's end is its end.
            connection.reusable = False
            raise
        return _accepted(head, document, connection.address, local=True)

    # === its life ===

    def feed(self) -> Feed:
        """What happens in the job."""
        return Feed(self._session, self.job, self._options.patience)

    def close(self) -> None:
        """Closes its connections."""
        self._kept = None
        self._session.close()

    def state(self) -> dict[str, Any]:
        """What another process needs to go on as this client."""
        return {
            "addresses": self.addresses,
            "job": self.job,
            "name": self.name,
            "options": self._options,
            "version": self.version,
            "layout": self._layout,
        }

    @classmethod
    def restored(cls, state: dict[str, Any], reactor: Reactor) -> Participant:
        """The client of such a state, with connections of its own."""
        participant = cls(state["addresses"], state["job"], state["name"], state["options"], reactor)
        participant.version, participant._layout = state["version"], state["layout"]
        return participant


def _accepted(head: http.Head, document: bytes, place: Address, *, local: bool) -> Accepted:
    accepted = Accepted.read(http.parse_json(document))
    return dataclasses.replace(accepted, repeated=head.status == 200, local=local, address=str(place))
