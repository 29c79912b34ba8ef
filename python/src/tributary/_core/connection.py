"""One connection: sends heads and bodies, reads answers, and counts what it moves."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

from tributary import errors
from tributary._core import http
from tributary._core.address import Address
from tributary._core.blocking import poll
from tributary._core.http import Dechunker, Head
from tributary._core.reactor import READ, WRITE, AddressInfo, Reactor

GROUP_BYTES = 1 << 20
"""Small buffers are sent together up to so many bytes."""

GROUP_BUFFERS = 256
"""Buffers of one call, well below what systems allow (1024)."""

READ_BYTES = 64 << 10
"""What is read at a time where nobody has said how much there will be."""

SENDFILE_BYTES = 1 << 20
"""What is sent of a file at a time: between two of them the connection looks for an answer."""

CONTINUE_SECONDS = 1.0
"""How long the word to send a body is waited for. Who does not know it will not say it."""

ANSWER_BYTES_MAX = 64 << 20
"""The longest document that is held in memory. Models are read into a buffer of their own."""

Moved = Callable[[int], None]
"""Told the bytes of each step."""


def _nobody(_moved: int) -> None:
    pass


_open: weakref.WeakSet[Connection] = weakref.WeakSet()


def _leave_to_the_parent() -> None:
    """After a fork: closes the child's copies of connections and mappings.

    As long as the child held a connection, a slot that the parent has leased on it could not be taken back.
    """
    for connection in list(_open):
        connection.close()


os.register_at_fork(after_in_child=_leave_to_the_parent)


class Connection:
    """A connection to a server. One request at a time."""

    def __init__(self, sock: socket.socket, address: Address, reactor: Reactor, timeout: float) -> None:
        self.sock = sock
        self.address = address
        self.heard = False
        """Whether a byte of the current answer has come."""
        self.whole = False
        """Whether all of the current request has been handed to the system."""
        self.used = False
        """Whether it has served a request before."""
        self.reusable = False
        """Whether another request may follow the current one."""
        self.closers: list[Callable[[], None]] = []
        """What lives no longer than the connection."""
        self.segments: dict[str, mmap.mmap] = {}
        """Segments of shared memory that are mapped for its leases."""
        self._reactor = reactor
        self._timeout = timeout
        self._ahead = bytearray()
        _open.add(self)

    # === its life ===

    @classmethod
    async def open(
        cls, address: Address, reactor: Reactor, timeout: float, connect_timeout: float | None = None
    ) -> Connection:
        """Connects, by the first way to the host that works."""
        try:
            ways = await reactor.resolve(address.host, address.port)
        except OSError as error:
            raise errors.ServerUnreachable(str(address), f"the host's name cannot be resolved: {error}") from error
        last: OSError | None = None
        for way in ways:
            try:
                sock = await _connect(way, reactor, timeout if connect_timeout is None else connect_timeout)
            except OSError as error:
                last = error
            else:
                return cls(sock, address, reactor, timeout)
        raise errors.ServerUnreachable(str(address), _reason(last)) from last

    def close(self) -> None:
        """Closes it, and what lives no longer than it. Nothing is said to the server beyond that."""
        for closer in self.closers:
            closer()
        self.closers.clear()
        self.sock.close()

    def interrupt(self) -> None:
        """Wakes whoever waits on it; nothing more can be sent or read."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)

    @property
    def stale(self) -> bool:
        """Whether the server has closed it, or has sent something that nobody asked for."""
        return self.sock.fileno() < 0 or bool(self._ahead) or bool(poll(self.sock, READ, 0))

    # === sending ===

    async def send(self, pieces: Iterable[memoryview], moved: Moved = _nobody) -> bool:
        """Sends buffers from where they are. False if the server began to answer before it had all of them."""
        for group in _groups(pieces):
            while group:
                if not await self._writable():
                    return False
                try:
                    sent = self.sock.sendmsg(group)
                except BlockingIOError:
                    continue
                except OSError:
                    # The server has closed its side, most often behind an answer: that one is read next.
                    return False
                moved(sent)
                _advance(group, sent)
        return True

    async def send_file(self, file: int, length: int, moved: Moved = _nobody) -> bool:
        """Sends a file without reading it. False as in :meth:`send`."""
        offset = 0
        while offset < length:
            if not await self._writable():
                return False
            try:
                sent = os.sendfile(self.sock.fileno(), file, offset, min(SENDFILE_BYTES, length - offset))
            except BlockingIOError:
                continue
            except (BrokenPipeError, ConnectionError):
                return False
            if sent == 0:
                raise errors.TributaryError("the file became shorter while it was sent; push it again when it is whole")
            moved(sent)
            offset += sent
        return True

    async def proceed(self) -> bool:
        """Waits for the word to send the body; false if there is an answer to read instead."""
        ready = await self._reactor.wait(self.sock, READ, min(CONTINUE_SECONDS, self._timeout))
        return not ready or await self._told_to_go_on()

    async def _writable(self) -> bool:
        """Waits for room to send; false if there is an answer to read instead."""
        while await self._wait(READ | WRITE) & READ:
            if not await self._told_to_go_on():
                return False
        return True

    async def _told_to_go_on(self) -> bool:
        """Reads what has come; whether it is an interim answer and nothing more."""
        while (parsed := http.parse_head(self._ahead)) is None:
            self._ahead += await self._read_some()
        head, end = parsed
        if head.status >= 200:
            return False
        del self._ahead[:end]
        return not self._ahead

    # === receiving ===

    async def head(self, wait: float = 0.0) -> Head:
        """The head of the final answer; interim ones are passed over. The server may take ``wait`` seconds more."""
        while True:
            parsed = http.parse_head(self._ahead)
            if parsed is None:
                self._ahead += await self._read_some(wait)
                continue
            head, end = parsed
            del self._ahead[:end]
            if head.status >= 200:
                return head

    async def body(self, head: Head) -> bytes:
        """The whole body of an answer, which is a document."""
        if head.length is None:
            return await self._body_without_length(head)
        if head.length > ANSWER_BYTES_MAX:
            raise errors.ProtocolError(f"the answer has {head.length} bytes; documents have {ANSWER_BYTES_MAX} at most")
        body = bytearray(head.length)
        await self.read_into(memoryview(body))
        return bytes(body)

    async def _body_without_length(self, head: Head) -> bytes:
        body = bytearray()
        async for part in self.parts(head):
            body += part
            if len(body) > ANSWER_BYTES_MAX:
                raise errors.ProtocolError(f"the answer has more than {ANSWER_BYTES_MAX} bytes")
        return bytes(body)

    async def read_into(self, buffer: memoryview, moved: Moved = _nobody) -> None:
        """Fills a buffer with the bytes that come."""
        ahead = min(len(self._ahead), len(buffer))
        buffer[:ahead] = self._ahead[:ahead]
        del self._ahead[:ahead]
        moved(ahead)
        while ahead < len(buffer):
            await self._wait(READ)
            try:
                count = self.sock.recv_into(buffer[ahead:])
            except BlockingIOError:
                continue
            except OSError as error:
                raise errors.ConnectionLost(str(self.address), _reason(error)) from error
            if count == 0:
                raise errors.ConnectionLost(
                    str(self.address), f"the answer broke off after {ahead} of {len(buffer)} bytes"
                )
            moved(count)
            ahead += count

    async def parts(self, head: Head) -> AsyncIterator[bytes]:
        """A body of unknown length, as it comes."""
        dechunker = Dechunker() if head.chunked else None
        data = bytes(self._ahead)
        self._ahead.clear()
        while True:
            part = dechunker.feed(data) if dechunker else data
            if part:
                yield part
            if dechunker and dechunker.ended:
                return
            try:
                data = await self._read_some()
            except errors.ConnectionLost:
                if dechunker:
                    raise
                # Without a length and without chunks, the end is the end.
                return

    async def _read_some(self, wait: float = 0.0) -> bytes:
        while True:
            await self._wait(READ, wait)
            try:
                received = self.sock.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise errors.ConnectionLost(str(self.address), _reason(error)) from error
            if not received:
                raise errors.ConnectionLost(str(self.address), "closed by the other side")
            self.heard = True
            return received

    async def _wait(self, wanted: int, more: float = 0.0) -> int:
        seconds = self._timeout + more
        ready = await self._reactor.wait(self.sock, wanted, seconds)
        if not ready:
            raise errors.ServerTimeout(str(self.address), f"nothing for {seconds:g} s")
        return ready


async def _connect(way: AddressInfo, reactor: Reactor, timeout: float) -> socket.socket:
    family, kind, protocol, _, target = way
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(BlockingIOError):
            sock.connect(target)
        if not await reactor.wait(sock, WRITE, timeout):
            raise TimeoutError(f"nobody answered for {timeout:g} s")
        if error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))
    except BaseException:
        sock.close()
        raise
    return sock


def _reason(error: OSError | None) -> str:
    if error is None:
        return "the host has no address"
    return (error.strerror or str(error)).lower()


def _groups(pieces: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    """Small buffers together, so that a model of many small tensors does not cost a call for each."""
    group: list[memoryview] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += len(piece)
        if size >= GROUP_BYTES or len(group) == GROUP_BUFFERS:
            yield group
            group, size = [], 0
        # Else a converted tensor would live for as long as it takes to convert the next one.
        del piece
    if group:
        yield group


def _advance(group: list[memoryview], sent: int) -> None:
    """Drops what was sent."""
    done = 0
    while done < len(group) and sent >= len(group[done]):
        sent -= len(group[done])
        done += 1
    del group[:done]
    if sent:
        group[0] = group[0][sent:]
