"""HTTP/1.1 as far as the interface needs it; without I/O.

The standard library's client copies bodies and cannot send from several buffers at once, and neither it nor h11 reads a
body into a buffer of the caller's. What is left without bodies is a few lines.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from tributary import errors

HEAD_BYTES_MAX = 64 << 10
"""The longest head of an answer."""

REDIRECTS = (307, 308)
"""Answers that say: the same, elsewhere."""


@dataclasses.dataclass(frozen=True)
class Head:
    """The head of an answer. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    minor: int

    @property
    def chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def length(self) -> int | None:
        """Bytes of the body; ``None`` if only its end will tell."""
        if self.status in (204, 304):
            return 0
        if self.chunked or "content-length" not in self.headers:
            return None
        text = self.headers["content-length"]
        if not text.isascii() or not text.isdigit():
            raise errors.ProtocolError(f"the answer's content-length is {text!r}")
        return int(text)

    @property
    def keep_alive(self) -> bool:
        """Whether the connection can go on behind the body."""
        return self.minor >= 1 and "close" not in self.headers.get("connection", "").lower()

    @property
    def refused(self) -> bool:
        """Whether it does not answer the question."""
        return self.status >= 400 or self.status in REDIRECTS

    @property
    def retry_after(self) -> float | None:
        """Seconds of ``Retry-After``; dates are not understood."""
        text = self.headers.get("retry-after", "").strip()
        return float(text) if text.isascii() and text.isdigit() else None


def request(
    method: str,
    target: str,
    authority: str,
    length: int | None,
    content_type: str | None,
    *,
    expects_continue: bool = False,
) -> bytes:
    """The head of a request. ``length`` is ``None`` for one without a body."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {authority}", "User-Agent: tributary-python"]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    if expects_continue:
        lines.append("Expect: 100-continue")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def parse_head(received: bytes | bytearray) -> tuple[Head, int] | None:
    """The head at the beginning of what was received, and its bytes; ``None`` if more is needed."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        if len(received) > HEAD_BYTES_MAX:
            raise errors.ProtocolError("the answer's head has no end; is it a Tributary server?")
        return None
    first, *lines = bytes(received[:end]).decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if version not in ("HTTP/1.1", "HTTP/1.0") or not (status.isascii() and status.isdigit() and len(status) == 3):
        raise errors.ProtocolError(f"the answer begins with {first!r:.80}; is it a Tributary server?")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Head(int(status), headers, int(version[-1])), end + 4


class Dechunker:
    """Takes a chunked body apart."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._left = 0
        self.ended = False

    def feed(self, data: bytes) -> bytes:
        """Takes bytes from the socket, gives bytes of the body."""
        self._received += data
        out = bytearray()
        while not self.ended:
            if self._left > 2:
                taken = self._received[: self._left - 2]
                if not taken:
                    break
                out += taken
                del self._received[: len(taken)]
                self._left -= len(taken)
            elif self._left:
                # The line's end behind a chunk.
                if len(self._received) < self._left:
                    break
                del self._received[: self._left]
                self._left = 0
            elif not self._next_size():
                break
        return bytes(out)

    def _next_size(self) -> bool:
        end = self._received.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self._received[:end]).split(b";")[0].strip()
        try:
            size = int(line, 16)
        except ValueError as error:
            raise errors.ProtocolError(f"a chunk of the answer has the size {line!r:.40}") from error
        del self._received[: end + 2]
        # The last chunk may be followed by trailers; nobody sends any, and the connection is not used again.
        self.ended = size == 0
        self._left = size + 2
        return True


def parse_json(body: bytes | bytearray) -> Any:
    """The JSON of a body."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise errors.ProtocolError(f"the answer is no JSON ({error}): {bytes(body[:120])!r}") from error
