"""Where a server is."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Sequence

from tributary import errors

PORT = 80
"""The port of an address that names none, as everywhere in HTTP."""


@dataclasses.dataclass(frozen=True)
class Address:
    """Host and port of a server."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads ``http://host:port``, or ``host:port``."""
        url = text if "://" in text else f"http://{text}"
        try:
            parts = urllib.parse.urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise errors.InvalidAddress(f"{text!r} is no address ({error}); write http://HOST:PORT") from error
        if parts.username is not None or parts.password is not None:
            # Not repeated: it may be a secret.
            raise errors.InvalidAddress(
                "the address has a user or a password in it; this version has no authentication: write http://HOST:PORT"
            )
        if parts.scheme == "https":
            raise errors.InvalidAddress(f"{text}: this version speaks plain HTTP only; write http://")
        bare = parts.path in ("", "/") and not parts.query and not parts.fragment
        if parts.scheme != "http" or not host or not bare or any(letter.isspace() for letter in text):
            raise errors.InvalidAddress(f"{text!r} is no address of a server; write http://HOST:PORT")
        return cls(host, PORT if port is None else port)

    @classmethod
    def several(cls, given: str | Sequence[str]) -> tuple[Address, ...]:
        """Reads one address, or several of servers that belong together; each once, in their order."""
        texts = [given] if isinstance(given, str) else list(given)
        if not texts:
            raise errors.InvalidAddress("no address; write http://HOST:PORT")
        return tuple(dict.fromkeys(cls.parse(text) for text in texts))

    @property
    def authority(self) -> str:
        """Host and port, as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"http://{self.authority}"


def shown(addresses: Sequence[str]) -> str | list[str]:
    """Addresses as they would be given: one, or several."""
    return addresses[0] if len(addresses) == 1 else list(addresses)
