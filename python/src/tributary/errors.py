"""Everything that can go wrong, under one base: :class:`TributaryError`.

Three families:

- :class:`ServerUnreachable`: no answer came. The client has tried again for its ``patience`` before it says so.
- :class:`Problem`: the server refused, or a check before sending did. One class for each slug of the interface;
  ``detail`` says what happened, to what, and what to do.
- the rest: wrong use, such as an address that is none, or a package that is missing.

The classes of updates are raised by the checks before sending as well; then :attr:`Problem.status` is ``None``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class TributaryError(Exception):
    """Base of all errors of this package."""


# === no answer ===


class ServerUnreachable(TributaryError, ConnectionError):
    """No answer came from the server, also not within the client's patience.

    Attributes:
        address: the address of the server that was tried last, as ``http://host:port``.
        reason: what the operating system, or the protocol, said last.
        seconds: how long it was tried.
        attempts: how often it was tried.
        tried: every address that was tried without an answer, and what was said there last.
    """

    what: ClassVar[str] = "cannot reach"
    fix: ClassVar[str] = "is `tributary up` running there, and is the address right?"

    def __init__(
        self,
        address: str,
        reason: str,
        *,
        seconds: float = 0.0,
        attempts: int = 1,
        tried: Mapping[str, str] | None = None,
    ) -> None:
        self.address = address
        self.reason = reason
        self.seconds = seconds
        self.attempts = attempts
        self.tried = {**(tried or {}), address: reason}
        super().__init__(address, reason)

    def __str__(self) -> str:
        often = f" ({self.attempts} attempts in {self.seconds:.1f} s)" if self.attempts > 1 else ""
        others = [f"{address} ({reason})" for address, reason in self.tried.items() if address != self.address]
        also = f", nor was there an answer from {', '.join(others)}" if others else ""
        return f"{self.what} {self.address}: {self.reason}{also}{often}; {self.fix}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unreachable, (type(self), self.address, self.reason, self.seconds, self.attempts, self.tried)


class ConnectionLost(ServerUnreachable):
    """The connection broke before the whole answer was there, and no later one did better."""

    what = "lost the connection to"
    fix = "the server or something on the way closed it; see the server's log"


class ServerTimeout(ServerUnreachable, TimeoutError):
    """The server took the connection and then said nothing for the client's ``timeout``."""

    what = "no byte from"
    fix = "raise `timeout=` if the network is slow; else see the server's log"


def _unreachable(
    kind: type[ServerUnreachable], address: str, reason: str, seconds: float, attempts: int, tried: Mapping[str, str]
) -> ServerUnreachable:
    return kind(address, reason, seconds=seconds, attempts=attempts, tried=tried)


# === refused ===


class Problem(TributaryError):
    """The server refused, or a check before sending did.

    Attributes:
        slug: the kind of problem, the last part of the document's ``type``; programs may rely on it.
        status: the HTTP status, or ``None`` if it was found before anything was sent.
        title: the kind of problem in words.
        detail: what happened, to what, and what to do.
        members: the document's other members, such as ``round``.
        retry_after: seconds after which trying again makes sense, if the server says so.
        redirected: another server had redirected to the one that answered.
        transient: it came from a node that is behind the others, or ahead of them, also when the patience was over.
    """

    slug: str = "unknown"
    redirected: bool = False
    transient: bool = False

    def __init__(
        self,
        detail: str,
        *,
        slug: str | None = None,
        status: int | None = None,
        title: str = "",
        members: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        if slug is not None:
            self.slug = slug
        self.detail = detail
        self.status = status
        self.title = title
        self.members = dict(members or {})
        self.retry_after = retry_after

    def __str__(self) -> str:
        return self.detail or self.title or self.slug

    def __repr__(self) -> str:
        return f"{type(self).__name__}(status={self.status}, slug={self.slug!r}, detail={self.detail!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _problem, (type(self), self.__dict__.copy(), self.detail)


def _problem(kind: type[Problem], state: dict[str, Any], detail: str) -> Problem:
    problem = kind(detail)
    problem.__dict__.update(state)
    return problem


class UpdateRefused(Problem):
    """Base of what is wrong with an update. Nothing of it counts."""


class MalformedUpdate(UpdateRefused):
    """The file's header lies or is no header, no round is named, or a parameter is wrong."""

    slug = "malformed-update"


class TruncatedUpdate(UpdateRefused):
    """The body ended early: something on the way cut it."""

    slug = "truncated-update"


class StalledUpdate(UpdateRefused):
    """The server saw no byte of the body for the job's ``spec.ingest.idleTimeout``."""

    slug = "stalled-update"


class SlowUpdate(UpdateRefused):
    """The body came more slowly than the job's ``spec.ingest.minRate``."""

    slug = "slow-update"


class WrongRound(UpdateRefused):
    """Another round is open: pull the newest model and train from it."""

    slug = "wrong-round"

    @property
    def round(self) -> int | None:
        """The open round."""
        return _number(self.members.get("round"))


class RoundClosing(UpdateRefused):
    """The round takes no more updates, its model is being made: pull the next one."""

    slug = "round-closing"

    @property
    def round(self) -> int | None:
        """The round that closes."""
        return _number(self.members.get("round"))


class StaleUpdate(UpdateRefused):
    """Trained from a model that is older than the job allows: pull the newest one and train from it."""

    slug = "stale-update"

    @property
    def round(self) -> int | None:
        """The open round."""
        return _number(self.members.get("round"))


class OtherBytes(UpdateRefused):
    """This client has sent another update or weight in this round. The first one counts."""

    slug = "other-bytes"


class UpdateTooLarge(UpdateRefused):
    """Longer than any update of the job can be."""

    slug = "update-too-large"


class UnsupportedEncoding(UpdateRefused):
    """The job's function does not take updates in this encoding."""

    slug = "unsupported-encoding"


class EncodedUpdate(UpdateRefused):
    """``Content-Encoding`` is not supported."""

    slug = "encoded-update"


class LayoutMismatch(UpdateRefused):
    """A tensor is missing, unexpected, or of another shape or type than the model's.

    Attributes:
        tensor: the tensor's name, if the check before sending found it.
        expected: what the model has there.
        got: what the update has there.
    """

    slug = "layout-mismatch"
    tensor: str | None = None
    expected: str | None = None
    got: str | None = None

    @classmethod
    def found(cls, tensor: str | None, *, expected: str, got: str, fix: str) -> LayoutMismatch:
        """One that was found before anything was sent."""
        place = f"tensor {tensor!r}: " if tensor is not None else ""
        mismatch = cls(f"{place}expected {expected}, got {got}; {fix}", title="Found before sending")
        mismatch.tensor, mismatch.expected, mismatch.got = tensor, expected, got
        return mismatch


class BadScale(UpdateRefused):
    """A scale of an i8 update is not finite, not above 0, or too large."""

    slug = "bad-scale"


class BadIndex(UpdateRefused):
    """An index of a sparse update is not in its tensor, or not above the one before."""

    slug = "bad-index"


class NonFinite(UpdateRefused):
    """NaN or infinity in the update; ``detail`` names the coordinate."""

    slug = "non-finite"


class OutOfRange(UpdateRefused):
    """A value times the weight is more than the job's exact sums can hold; ``detail`` names the coordinate."""

    slug = "out-of-range"


class BadWeight(UpdateRefused, ValueError):
    """The weight is not a finite number greater than 0, or not within the job's bounds."""

    slug = "bad-weight"


class FunctionFailed(UpdateRefused):
    """The function failed on this update; it is not part of the round."""

    slug = "function-failed"


class NoSlot(UpdateRefused):
    """All slots of the job were in use, also when the client's patience was over."""

    slug = "no-slot"


class SharedMemoryFull(UpdateRefused):
    """The server's shared memory was full, also when the client's patience was over."""

    slug = "shared-memory-full"


class NotLocal(UpdateRefused):
    """The server lends no slot to this client; only told with ``local=True``, as the cause."""

    slug = "not-local"


class UnknownSlot(UpdateRefused):
    """The slot that the update was written to is not this client's any more: the job was started anew."""

    slug = "unknown-slot"


class UnwrittenSlot(UpdateRefused):
    """An element of the slot was not written; ``detail`` names the first. This client writes all of them."""

    slug = "unwritten-slot"


class MalformedReference(UpdateRefused):
    """What should say where an update lies does not; this client sends updates themselves."""

    slug = "malformed-reference"


class ReferenceNotAllowed(UpdateRefused):
    """The server may not fetch from there; ``detail`` says which option would let it."""

    slug = "reference-not-allowed"


class ReferenceNotFound(UpdateRefused):
    """There is no file where the update should lie."""

    slug = "reference-not-found"


class ReferenceUnreachable(UpdateRefused):
    """The server cannot fetch the file just now."""

    slug = "reference-unreachable"


class TooManyFetches(UpdateRefused):
    """The node fetches as many files as it does at a time."""

    slug = "too-many-fetches"


class Elsewhere(Problem):
    """Servers redirect in a circle, or too often, also when the client's patience was over.

    Attributes:
        location: where the last one redirects to.
    """

    slug = "elsewhere"

    def __init__(self, detail: str, *, status: int | None = None, location: str = "") -> None:
        super().__init__(detail, status=status, title="At another node")
        self.location = location


class HomeUnknown(Problem):
    """Clients were moving between nodes, also when the client's patience was over."""

    slug = "home-unknown"


class NotHeld(Problem, LookupError):
    """No node has an update of the client in the round."""

    slug = "not-held"


class NotLeading(Problem):
    """No controller leads, also when the client's patience was over."""

    slug = "not-leading"


class NoNode(Problem):
    """No node can do it, also when the client's patience was over; ``detail`` says why."""

    slug = "no-node"


class StoreUnavailable(Problem):
    """The controller's store is away, also when the client's patience was over."""

    slug = "store-unavailable"


class StoreFull(Problem):
    """The controller's store has no room; ``detail`` names the stream of NATS that is full."""

    slug = "store-full"


class NotReady(Problem):
    """The controller has no connection to NATS, or neither leads nor knows who does."""

    slug = "not-ready"


class UnknownNode(Problem, LookupError):
    """There is no node of that name."""

    slug = "unknown-node"


class UnknownJob(Problem, LookupError):
    """No job of that name runs there."""

    slug = "unknown-job"


class JobStarting(Problem):
    """The job is being started there, also when the client's patience was over."""

    slug = "job-starting"


class UnknownFunction(Problem, LookupError):
    """There is no function of that name."""

    slug = "unknown-function"


class UnknownTenant(Problem, LookupError):
    """There is no tenant of that name."""

    slug = "unknown-tenant"


class UnknownBlob(Problem, LookupError):
    """The server does not have that file."""

    slug = "unknown-blob"


class UnknownRound(Problem, LookupError):
    """No such round, or it is forgotten."""

    slug = "unknown-round"


class UnknownPath(Problem):
    """Nothing is served there: another version of the server?"""

    slug = "unknown-path"


class WrongMethod(Problem):
    """The path is not served with this method: another version of the server?"""

    slug = "wrong-method"


class BadQuery(Problem):
    """Wrong parameters of a request."""

    slug = "bad-query"


class MalformedRequest(Problem):
    """Wrong body, query or digest of an operator's request."""

    slug = "malformed-request"


class SlowRequest(Problem):
    """The request's head, or the body of an operator's request, took too long."""

    slug = "slow-request"


class HeadTooLarge(Problem):
    """The request's head has too many headers or bytes."""

    slug = "head-too-large"


class ForeignHost(Problem):
    """The server does not answer to the name that it was called by: its operator gives names by ``--host``."""

    slug = "foreign-host"


class ForeignOrigin(Problem):
    """The request came from a web page of another origin."""

    slug = "foreign-origin"


class NotJson(Problem):
    """The body of a POST was not sent as ``application/json``."""

    slug = "not-json"


class TooManyConnections(Problem):
    """The server has as many connections as it may have."""

    slug = "too-many-connections"


class JobCompleted(Problem):
    """All rounds of the job are done."""

    slug = "job-completed"

    @property
    def version(self) -> int | None:
        """The version of the last model."""
        return _number(self.members.get("version"))


class JobFailed(Problem):
    """The job does not run; ``detail`` says why."""

    slug = "job-failed"


class InUse(Problem):
    """Jobs use the function or tenant; or it is the tenant that always exists."""

    slug = "in-use"


class TooLarge(Problem):
    """Manifests above 16 MiB, or a file above 64 GiB."""

    slug = "too-large"


class InvalidManifest(Problem, ValueError):
    """Manifests are wrong; :attr:`errors` has every wrong field."""

    slug = "invalid-manifest"

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Each wrong field: ``manifest`` (index), ``path`` and ``message``."""
        errors = self.members.get("errors", [])
        return list(errors) if isinstance(errors, list) else []


class DigestMismatch(Problem):
    """A file that was uploaded, or fetched, has another digest: it changed on its way, or is another one."""

    slug = "digest-mismatch"


class InternalError(Problem):
    """A fault of the server; its log says more."""

    slug = "internal"


class MetricsFailed(InternalError):
    """The server could not render its metrics."""

    slug = "metrics"


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) else None


# === wrong use ===


class InvalidAddress(TributaryError, ValueError):
    """The server's address is none that this version speaks to."""


class InvalidName(TributaryError, ValueError):
    """A job's or a client's name that no server takes."""


class InvalidArgument(TributaryError, ValueError):
    """An argument that cannot be, such as a negative timeout."""


class NoRound(TributaryError, ValueError):
    """No round was given, and this client has not pulled a model whose version would be the round."""


class ProtocolError(TributaryError):
    """Something answers at the address, but not as a Tributary server does."""


class LocalPathUnavailable(TributaryError):
    """``local=True`` was asked for, and updates cannot go through shared memory; says why."""


class MissingPackage(TributaryError, ImportError):
    """An optional package is not installed; says which and how to install it."""


class Closed(TributaryError):
    """The client was closed."""
