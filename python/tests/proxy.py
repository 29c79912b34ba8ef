"""A TCP proxy that misbehaves as told: cuts, stalls, or swallows answers, one plan for each connection."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import threading
from types import TracebackType


@dataclasses.dataclass
class Plan:
    """What happens to one connection.

    Attributes:
        cut_after: both sides are cut once the client has sent so many bytes.
        stall_after: nothing more is passed on once the client has sent so many bytes, until `go` is set.
        swallow: answers are thrown away, and both sides cut at the first.
        cut_answer_after: both sides are cut once the server has sent so many bytes.
    """

    cut_after: int | None = None
    stall_after: int | None = None
    swallow: bool = False
    cut_answer_after: int | None = None
    stalled: threading.Event = dataclasses.field(default_factory=threading.Event)
    go: threading.Event = dataclasses.field(default_factory=threading.Event)


class Proxy:
    """Passes connections on to a server. Connections beyond the plans are passed on untouched."""

    def __init__(self, target: str, *plans: Plan) -> None:
        host, port = target.removeprefix("http://").split(":")
        self._target = (host, int(port))
        self._plans = list(plans)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections = 0
        self.received = 0
        """Bytes that clients have sent."""
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            plan = self._plans.pop(0) if self._plans else Plan()
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._open += [client, server]
            threading.Thread(target=self._up, args=(client, server, plan), daemon=True).start()
            threading.Thread(target=self._down, args=(client, server, plan), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, plan: Plan) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := client.recv(64 << 10):
                self.received += len(data)
                if plan.cut_after is not None:
                    data = data[: plan.cut_after - passed]
                server.sendall(data)
                passed += len(data)
                if plan.stall_after is not None and passed >= plan.stall_after:
                    plan.stalled.set()
                    plan.go.wait(60)
                if plan.cut_after is not None and passed >= plan.cut_after:
                    break
        _cut(client, server)

    def _down(self, client: socket.socket, server: socket.socket, plan: Plan) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := server.recv(64 << 10):
                if plan.swallow:
                    break
                if plan.cut_answer_after is not None:
                    data = data[: plan.cut_answer_after - passed]
                client.sendall(data)
                passed += len(data)
                if plan.cut_answer_after is not None and passed >= plan.cut_answer_after:
                    break
        _cut(client, server)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()
        _cut(*self._open)


def _cut(*sockets: socket.socket) -> None:
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()
