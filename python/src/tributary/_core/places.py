"""Where requests go: to the addresses that were given, and to where servers have redirected since. Without I/O.

What belongs together goes to one place: a client's updates and its model, a job's rounds. It has a name, its *subject*.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence

from tributary import errors
from tributary._core.address import Address

HOPS_MAX = 5
"""Redirects that one request follows."""

HOMES_MAX = 4096
"""Subjects whose homes are remembered. To forget one costs a redirect."""


class Places:
    """The places that are known. Threads may share it: each step is one operation on a dict or a number."""

    def __init__(self, given: Sequence[Address]) -> None:
        self.given = tuple(given)
        self._first = 0
        self._homes: dict[str, Address] = {}
        self._redirected = False

    @property
    def several(self) -> bool:
        """Whether there may be more than one place."""
        return self._redirected or len(self.given) > 1

    def of(self, subject: str) -> Address:
        """Where requests about a subject are sent first."""
        return self._homes.get(subject) or self.given[self._first]

    def knows(self, subject: str) -> bool:
        """Whether the subject has a home of its own."""
        return subject in self._homes

    def remember(self, subject: str, home: Address) -> None:
        """A server has redirected there."""
        self._redirected = True
        if len(self._homes) >= HOMES_MAX:
            self._homes = {}
        self._homes[subject] = home

    def forget(self, subject: str) -> None:
        """The subject's home is not what it was."""
        self._homes.pop(subject, None)

    def failed(self, way: Sequence[Address]) -> None:
        """Nobody answers at the end of a way: whoever led there is not asked first any more."""
        for subject, home in self._homes.copy().items():
            if home == way[-1]:
                self.forget(subject)
        first = self._first
        if self.given[first] in way:
            self._first = (first + 1) % len(self.given)


class Trail:
    """The way of one request, from the place where its subject is thought to be to the one that answers."""

    def __init__(self, places: Places, subject: str) -> None:
        self._places = places
        self._subject = subject
        self._remembered = places.knows(subject)
        self._way = [places.of(subject)]

    @property
    def here(self) -> Address:
        """Where it has come."""
        return self._way[-1]

    def redirected(self, redirect: errors.Elsewhere) -> None:
        """Goes on to another place.

        Raises:
            Elsewhere: it has been there, or has gone far enough.
        """
        there = Address.parse(redirect.location)
        if there in self._way or len(self._way) > HOPS_MAX:
            self._places.forget(self._subject)
            self._places.failed(self._way)
            way = " to ".join(map(str, [*self._way, there]))
            what = "in a circle" if there in self._way else f"more than {HOPS_MAX} times"
            detail = f"servers redirect {what}, from {way}: clients are moving between nodes, or addresses are mixed up"
            raise errors.Elsewhere(detail, status=redirect.status, location=redirect.location) from None
        self._places.remember(self._subject, there)
        self._way.append(there)

    def unknown(self, error: errors.UnknownJob) -> None:
        """The place does not have the job. One that is remembered may have lost it: begins anew.

        Raises:
            UnknownJob: it came from the place that should know.
        """
        self._places.forget(self._subject)
        beginning = self._places.of(self._subject)
        if self._remembered and self._way != [beginning]:
            self._remembered = False
            self._way = [beginning]
            return
        if len(self._way) > 1:
            error.detail += f"; {self._way[-2]} has redirected to {self.here}"
            error.redirected = True
        raise error

    def failed(self) -> None:
        """Nobody answers here."""
        self._places.failed(self._way)


def destination(location: str, here: Address, target: str) -> Address:
    """The server to which an answer redirects.

    Requests go on to the same path: a server that names another one is none of Tributary's, and arrays are not sent to
    whoever it may be. Slots are asked for where updates go.

    Raises:
        ProtocolError: the client does not go there.
    """
    path = target.partition("?")[0]
    try:
        url = urllib.parse.urlsplit(urllib.parse.urljoin(f"{here}{target}", location))
        if url.scheme != "http":
            raise errors.ProtocolError(f"{here} redirects to {location!r}; this version follows to http:// only")
        if url.path not in (path, path.removesuffix("/slot")):
            raise errors.ProtocolError(f"{here} redirects {path} to {location!r}; is it a Tributary server?")
        return Address.parse(f"{url.scheme}://{url.netloc}")
    except ValueError as error:
        # The location is not repeated: it may have a password in it.
        raise errors.ProtocolError(f"{here} redirects to what is no address of a server: {error}") from None
