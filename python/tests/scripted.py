"""Nodes whose answers a test writes: for what depends on luck, or on several machines, with real ones."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import json
import re
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from safetensors.numpy import save

from tributary._core.layout import Layout


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request. The body is ``None`` while the client holds it back."""

    method: str
    target: str
    body: bytes | None
    expects: bool

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def line(self) -> str:
        return f"{self.method} {self.path}"


Answer = Callable[[Asked], "bytes | None"]
"""The answer. ``None``: the client shall send its body, or, if it has, the connection is closed without an answer."""


class Node:
    """A server of any number of connections. It reads whole requests, notes them, and then answers."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.body_bytes = 0
        """Bytes of bodies that came, wanted or not."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port = int(self._listener.getsockname()[1])
        self.address = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def lines(self) -> list[str]:
        """Methods and paths of what was asked."""
        return [asked.line for asked in self.asked]

    def die(self) -> None:
        """Nothing is answered any more, and nobody can connect."""
        # Only a shutdown wakes the thread that accepts.
        for sock in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def die_at(self, _asked: Asked) -> None:
        """As an answer: dies at the next request."""
        self.die()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            while self._request(connection):
                pass

    def _request(self, connection: socket.socket) -> bool:
        """One request; whether another may follow."""
        received = b""
        while b"\r\n\r\n" not in received:
            if not (part := connection.recv(65536)):
                return False
            received += part
        head, _, body = received.partition(b"\r\n\r\n")
        method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
        expects = b"expect: 100-continue" in head.lower()
        if expects and not body:
            early = self._answered(Asked(method, target, None, expects))
            if early is not None:
                connection.sendall(early)
                # Read until the client closes: what it sends now, it sends in vain.
                while part := connection.recv(65536):
                    self.body_bytes += len(part)
                return False
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        parts, missing = [body], (int(length[1]) if length else 0) - len(body)
        while missing > 0:
            part = connection.recv(1 << 20)
            if not part:
                return False
            parts.append(part)
            missing -= len(part)
        body = b"".join(parts)
        self.body_bytes += len(body)
        answer = self._answered(Asked(method, target, body, expects))
        if answer is None:
            return False
        connection.sendall(answer)
        return b"connection: close" not in answer

    def _answered(self, asked: Asked) -> bytes | None:
        # Noted first: the client may look as soon as it has the answer.
        if asked.body is not None or not asked.expects:
            self.asked.append(asked)
        return self.answer(asked)

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.die()


def dead() -> str:
    """An address where nobody listens, nor will: its port is taken."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    atexit.register(taken.close)
    return f"http://127.0.0.1:{taken.getsockname()[1]}"


# === answers ===


def always(answer: bytes | None) -> Answer:
    """The same answer to everybody."""
    return lambda _: answer


def answer(status: int, document: object, *headers: str) -> bytes:
    text = json.dumps(document).encode()
    kind = "application/json" if status < 300 else "application/problem+json"
    lines = [f"HTTP/1.1 {status} Any", f"content-type: {kind}", f"content-length: {len(text)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + text


def problem(status: int, slug: str, *headers: str, **members: object) -> bytes:
    document = {"type": f"https://tributary.dev/problems/{slug}", "title": "T", "status": status, "detail": "why"}
    return answer(status, {**document, **members}, *(headers or ("retry-after: 0",)))


def elsewhere(node: Node | str, asked: Asked) -> bytes:
    """As gateways redirect: to where updates go, also who asks for a slot."""
    address = node if isinstance(node, str) else node.address
    location = f"location: {address}{asked.target.replace('/slot', '')}"
    close = ["connection: close"] if asked.body is None else []
    return problem(307, "elsewhere", location, *close)


def receipt(status: int = 202, round: int = 1, contributors: int = 1, **members: object) -> bytes:
    return answer(status, {"job": "job", "client": "client", "round": round, "contributors": contributors, **members})


def model(version: int, **tensors: np.ndarray[Any, Any]) -> bytes:
    body = save(tensors or {"a": np.full(3, version, np.float32)}, {"version": str(version)})
    lines = ["HTTP/1.1 200 OK", f"content-length: {len(body)}", f"tributary-version: {version}"]
    lines.append("tributary-layout: 0123456789abcdef0123456789abcdef")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


NOTHING_NEW = b"HTTP/1.1 204 No Content\r\n\r\n"


def values(body: bytes | None) -> np.ndarray[Any, Any]:
    """The one tensor of an update that came."""
    assert body is not None
    layout = Layout.parse(memoryview(body))
    (array,) = layout.views(np.frombuffer(body, np.uint8)).values()
    return array
