"""Server-sent events, without I/O."""

from __future__ import annotations


class Parser:
    """Takes the stream apart into the data of its events.

    Attributes:
        comments: comments that say something. The server's say how many events were missed.
    """

    def __init__(self) -> None:
        self.comments: list[str] = []
        self._rest = b""
        self._data: list[str] = []

    def feed(self, part: bytes) -> list[str]:
        """Takes bytes, gives the data of every event that they complete."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        events = []
        for line in lines:
            text = line.rstrip(b"\r").decode()
            if text:
                self._field(text)
            elif self._data:
                events.append("\n".join(self._data))
                self._data.clear()
        return events

    def _field(self, text: str) -> None:
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif not name and value:
            self.comments.append(value)
