"""Where a server is."""

from __future__ import annotations

import dataclasses
import urllib.parse

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

    @property
    def authority(self) -> str:
        """Host and port, as the Host header has them."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"http://{self.authority}"
