"""The update that a client keeps until there is a newer model: its node may die and take it along.

A node's updates are in its memory only. While the client waits for the next model it asks now and then whether a node
still has its update, and sends it again if none has. Servers know repeated updates, so it is counted once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from tributary import errors
from tributary._core import body, retry
from tributary._core.session import Request, Session
from tributary.status import Accepted

log = logging.getLogger("tributary")

ASK_SECONDS = 4.0
"""How often it is asked whether the update is still there."""

OVER = (errors.WrongRound, errors.StaleUpdate, errors.JobCompleted)
"""Refusals that say: the round is over."""


@dataclasses.dataclass
class Sending:
    """One push, over all its attempts."""

    content: body.Body
    target: str
    query: str
    subject: str
    round: int | None = None
    """The round, if it is known here: a file may name it where only the server looks."""
    by_socket: bool = False
    """An attempt went by the socket; later ones do, too: the server recognises what it had on the same way only."""
    answers_lost: bool = False
    """An attempt was sent to its end, and nobody knows what became of it."""
    slots_lost: bool = False
    """One of those went through a slot."""


class Kept:
    """An update that was accepted. The caller's arrays, or the file, are referenced and not copied."""

    def __init__(self, content: body.Tensors | Path, sending: Sending, accepted: Accepted) -> None:
        self.round = accepted.round
        """The round that took it."""
        self.subject = sending.subject
        self.doubted = False
        """Whether it must be asked for before anything else: its node could not be reached."""
        # By this one servers know it: a round may take updates that were trained from an older model.
        self._trained = accepted.round - accepted.staleness
        self._content = content
        self._target, self._query = sending.target, sending.query
        self._ask_at = 0.0
        self.is_there()

    @property
    def due(self) -> bool:
        """Whether it is time to ask."""
        return self.doubted or time.monotonic() >= self._ask_at

    def is_there(self) -> None:
        """It is, or was a moment ago. With jitter, so that clients do not ask together."""
        self.doubted = False
        self._ask_at = time.monotonic() + ASK_SECONDS * (0.75 + random.random() / 2)

    @property
    def question(self) -> Request:
        """Asks whether a node has it."""
        return Request("GET", f"{self._target}?round={self._trained}", subject=self.subject)

    @contextlib.contextmanager
    def again(self) -> Iterator[Sending]:
        """The same push once more."""
        if isinstance(self._content, body.Tensors):
            yield Sending(self._content, self._target, self._query, self.subject, self._trained)
            return
        with contextlib.closing(body.File(self._content)) as file:
            yield Sending(file, self._target, self._query, self.subject, self._trained, by_socket=True)


Push = Callable[[Sending], Awaitable[object]]
"""One attempt at a push."""


async def ensure(kept: Kept, session: Session, push: Push) -> bool:
    """Asks whether a node has the update, and pushes it again if none has. False if it need not be kept any more.

    Raises:
        ServerUnreachable: nobody could be asked.
    """
    try:
        try:
            await session.attempt(kept.question)
        except errors.NotHeld:
            with kept.again() as sending:
                await push(sending)
            log.info("no node had the update for round %s any more (%s): it was sent again", kept.round, kept.subject)
    except (errors.WrongMethod, errors.UnknownPath, *OVER) as error:
        # The first two: a server that is older than the question.
        return isinstance(error, errors.WrongRound) and error.transient
    except (errors.Problem, errors.LocalPathUnavailable, OSError) as error:
        if isinstance(error, errors.ServerUnreachable):
            raise
        if not (isinstance(error, (errors.OtherBytes, errors.UnknownJob)) or retry.retryable(error)):
            log.warning(
                "the update for round %s (%s) was lost and cannot be sent again: %s", kept.round, kept.subject, error
            )
            return False
    kept.is_there()
    return True
