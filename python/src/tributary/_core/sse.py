"""Server-sent events, without I/O."""

from __future__ import annotations


class Parser:
    """Takes the stream apart into the data of its events."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, part: bytes) -> list[str]:
        """Takes bytes, gives the data of every event that they complete. Comments are left out."""
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
        if name == "data":
            self._data.append(value.removeprefix(" "))
