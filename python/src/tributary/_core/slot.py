"""The local path: an update is written into a slot of the job's arena, and only its ticket goes over the socket.

The segment is mapped as the file in /dev/shm that it is. `multiprocessing.shared_memory` would do the same, but before
Python 3.13 it hands every segment that it attaches to a resource tracker, which removes it when the program ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import logging
import mmap
import os
import re
from pathlib import Path
from typing import Literal

import numpy as np

from tributary import errors
from tributary._core import http
from tributary._core.address import Address
from tributary._core.arrays import Source
from tributary._core.body import Body, Tensors
from tributary._core.connection import Connection, Moved
from tributary._core.layout import Layout
from tributary._core.reactor import Reactor
from tributary._core.session import Request, Session

log = logging.getLogger("tributary")

SHARED_MEMORY = Path("/dev/shm")

STEP = 4 << 20
"""Elements that are written at a time: between two of them other tasks run."""

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Unavailable(Exception):
    """Updates cannot go this way; says why."""


class Busy(Unavailable):
    """Not this update, but perhaps the next."""


@dataclasses.dataclass(frozen=True)
class Values:
    """Plain f32 tensors and where each begins in a slot, in bytes."""

    tensors: list[tuple[Source, int]]
    nbytes: int
    fingerprint: str
    """Of the layout that says where they begin."""


@dataclasses.dataclass
class Lease:
    """A slot that is this connection's until it is handed in, given back, or the connection closes."""

    ticket: str
    mapping: mmap.mmap
    offset: int
    reactor: Reactor

    async def write(self, values: Values, moved: Moved) -> None:
        """Writes the tensors, each copied once, from where it is to where the function will read it."""
        for source, begin in values.tensors:
            flat = source.array("F32")
            target = np.frombuffer(self.mapping, "<f4", source.size, self.offset + begin)
            for start in range(0, source.size, STEP):
                part = flat[start : start + STEP]
                np.copyto(target[start : start + STEP], part)
                moved(part.nbytes)
                await self.reactor.breathe()


class Slots:
    """Leases of slots, if this client may have any."""

    def __init__(self, session: Session, job: str, wanted: bool | Literal["auto"]) -> None:
        self._session = session
        self._job = job
        self._wanted = wanted
        self._refused: set[Address] = set()
        self._proofs: dict[Address, str] = {}

    def values(self, content: Body, layout: Layout | None) -> Values | None:
        """The update as it lies in a slot; ``None`` if it goes by the socket.

        Raises:
            LocalPathUnavailable: it cannot lie there, and the socket is not wanted.
        """
        if self._wanted is False:
            return None
        if not isinstance(content, Tensors) or not content.dense:
            why = "only arrays in f32 go through shared memory, not files and not other encodings"
        elif layout is None or layout.fingerprint is None:
            why = "the order of the model's tensors is not known yet: call pull() first"
        else:
            return _values(content, layout, layout.fingerprint)
        if self._wanted is True:
            raise errors.LocalPathUnavailable(f"local=True: {why}; or use local='auto'")
        return None

    def has_given_up(self, place: Address) -> bool:
        """Whether updates go by the socket there."""
        return place in self._refused

    def give_up(self, why: Unavailable, place: Address) -> None:
        """Goes by the socket from now on, at that place: another one may be on this machine.

        Raises:
            LocalPathUnavailable: the socket is not wanted.
        """
        if self._wanted is True:
            raise errors.LocalPathUnavailable(f"local=True: {why}; or use local='auto'") from why
        log.debug("updates of job %s to %s go by the socket: %s", self._job, place, why)
        self._refused.add(place)

    async def lease(self, connection: Connection, target: str, query: str, values: Values) -> Lease:
        """Asks for a slot for those values on that connection, and maps it.

        Raises:
            LayoutMismatch: the values lie as in another model than the job's.
            Unavailable: this server or this client cannot do it. The connection can go on; after any other
                failure it must be closed, which is what gives the slot back.
            Problem: the server refused, as it would have refused the update.
        """
        _check_loopback(connection)
        document = await self._ask(connection, f"{target}/slot?{query}&layout={values.fingerprint}")
        granted = http.parse_json(document)
        try:
            segment, offset, nbytes = str(granted["segment"]), int(granted["offset"]), int(granted["bytes"])
            ticket = str(granted["ticket"])
        except (KeyError, TypeError, ValueError) as error:
            raise errors.ProtocolError(f"not the lease of a slot ({error}): {document[:200]!r}") from error
        try:
            if nbytes != values.nbytes:
                raise errors.LayoutMismatch.found(
                    None, expected=f"{nbytes} bytes", got=f"{values.nbytes}", fix="call pull() again"
                )
            mapping = _map(connection, segment, offset + nbytes)
        except (Unavailable, errors.LayoutMismatch):
            await self._session.answer(connection, Request("DELETE", f"{target}/slot?ticket={ticket}"))
            raise
        return Lease(ticket, mapping, offset, self._session.reactor)

    async def _ask(self, connection: Connection, target: str) -> bytes:
        """Asks for a slot; once more, if the server wants another proof that this program can open the segment."""
        for again in (True, False):
            proof = self._proofs.get(connection.address)
            request = Request("POST", target if proof is None else f"{target}&proof={proof}")
            try:
                _, document = await self._session.answer(connection, request)
                return document
            except (errors.NotLocal, errors.UnknownPath, errors.WrongMethod) as error:
                if not again or "segment" not in error.members:
                    raise Unavailable(error.detail) from error
                self._proofs[connection.address] = _proof(connection, error)
            except errors.NoSlot as error:
                if self._wanted is True:
                    raise
                # Fewer slots are lent than there are; bodies get the others.
                raise Busy(error.detail) from error
        raise AssertionError("the second answer is the last")


def _values(content: Tensors, layout: Layout, fingerprint: str) -> Values:
    tensors = [(source, layout[source.name].begin) for source in content.sources()]
    return Values(tensors, layout.nbytes, fingerprint)


def _proof(connection: Connection, error: errors.Problem) -> str:
    """The bytes of the segment that the server asks for."""
    try:
        segment, begin = str(error.members["segment"]), int(error.members["proof_offset"])
        end = begin + int(error.members["proof_bytes"])
    except (KeyError, TypeError, ValueError) as wrong:
        raise errors.ProtocolError(f"not a question for a proof ({wrong}): {error.members}") from wrong
    return _map(connection, segment, end)[begin:end].hex()


def _check_loopback(connection: Connection) -> None:
    peer = connection.sock.getpeername()[0]
    address = ipaddress.ip_address(peer.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    if not (mapped or address).is_loopback:
        raise Unavailable(f"the server is on another machine ({peer})")


def _map(connection: Connection, segment: str, end: int) -> mmap.mmap:
    """The segment, mapped for as long as the connection lives and no longer."""
    if not _SEGMENT.fullmatch(segment):
        raise errors.ProtocolError(f"{segment!r} is no name of a segment")
    mapping = connection.segments.get(segment)
    if mapping is None or len(mapping) < end:
        mapping = _open(SHARED_MEMORY / segment, end)
        connection.segments[segment] = mapping
        connection.closers.append(lambda: _unmap(mapping))
    return mapping


def _open(path: Path, end: int) -> mmap.mmap:
    try:
        number = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except PermissionError as error:
        raise Unavailable(
            f"{path} belongs to {_owner(path)} and this program runs as user {os.geteuid()}: "
            "run both as the same user to share memory"
        ) from error
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be opened ({error.strerror}): server and client must share one /dev/shm, "
            "which containers do not by default"
        ) from error
    try:
        if os.fstat(number).st_size < end:
            raise Unavailable(f"{path} ends before the slot does: it is not the server's segment")
        return mmap.mmap(number, 0)
    except OSError as error:
        raise Unavailable(f"{path} cannot be mapped: {error}") from error
    finally:
        os.close(number)


def _owner(path: Path) -> str:
    try:
        return f"user {path.stat().st_uid}"
    except OSError:
        return "another user"


def _unmap(mapping: mmap.mmap) -> None:
    # An array over it may still be held by an error's traceback; then it goes with that.
    with contextlib.suppress(BufferError):
        mapping.close()
