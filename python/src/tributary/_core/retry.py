"""When to try again: without I/O, with the clock handed in."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

from tributary import errors

RETRIED = (
    errors.NoSlot,
    errors.SharedMemoryFull,
    errors.RoundClosing,
    errors.StalledUpdate,
    errors.UnknownSlot,
    errors.Elsewhere,
)
"""Refusals after which the same request may be taken."""

GATEWAYS = (502, 503, 504)
"""What a proxy answers while the server behind it is away."""


@dataclasses.dataclass
class Backoff:
    """Pauses that double, with jitter so that clients that failed together do not come back together."""

    first: float = 0.05
    longest: float = 2.0
    random: Callable[[], float] = random.random
    _steps: int = 0

    def next(self) -> float:
        """Seconds of the next pause: between half of the step and all of it."""
        step = min(self.first * 2.0**self._steps, self.longest)
        self._steps = min(self._steps + 1, 32)
        return step * (0.5 + self.random() / 2)


class Effort:
    """The attempts of one call. Its patience runs from the first failure, however long the attempt before took."""

    def __init__(self, patience: float, clock: Callable[[], float], backoff: Backoff | None = None) -> None:
        self._patience = patience
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._failed_at: float | None = None
        self.attempts = 0

    @property
    def seconds(self) -> float:
        """Seconds since the first failure."""
        return 0.0 if self._failed_at is None else self._clock() - self._failed_at

    @property
    def left(self) -> float:
        """Seconds of the patience that are left."""
        return max(0.0, self._patience - self.seconds)

    def pause(self, error: Exception, *, elsewhere: bool = False) -> float | None:
        """Seconds after which to try again after that failure; ``None`` to give up.

        The last pause ends with the patience, so that one attempt is always made at its end. ``elsewhere`` says that
        the next attempt goes to a place that has not failed: that one needs neither a pause nor patience.
        """
        self.attempts += 1
        now = self._clock()
        if self._failed_at is None:
            self._failed_at = now
        if not retryable(error):
            return None
        if elsewhere:
            return 0.0
        left = self._failed_at + self._patience - now
        if left <= 0:
            return None
        wanted = self._backoff.next()
        if isinstance(error, errors.Problem) and error.retry_after is not None:
            # Not before the server's time; the jitter on top keeps clients apart.
            wanted += error.retry_after
        return min(wanted, left)


def retryable(error: Exception) -> bool:
    """Whether the same request may have success later."""
    if isinstance(error, errors.Problem):
        return error.transient or isinstance(error, RETRIED) or error.status in GATEWAYS
    return isinstance(error, errors.ServerUnreachable)
