"""What the server says of jobs, rounds, functions, tenants, nodes and accepted updates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from tributary import errors

T = TypeVar("T", bound="Document")


@dataclasses.dataclass(frozen=True)
class Document:
    """A JSON document as a dataclass. Members that this version does not know stay in :attr:`raw`."""

    raw: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False, kw_only=True)

    @classmethod
    def read(cls: type[T], document: Any) -> T:
        """The document of that kind, or a :class:`~tributary.errors.ProtocolError`."""
        if not isinstance(document, Mapping):
            raise errors.ProtocolError(f"expected a {cls.__name__} document, got {document!r:.200}")
        fields = [field for field in dataclasses.fields(cls) if field.name != "raw"]
        known = {field.name: document[field.name] for field in fields if field.name in document}
        try:
            return cls(**known, raw=document)
        except TypeError as error:
            raise errors.ProtocolError(f"not a {cls.__name__} document ({error}): {document!r:.200}") from error


@dataclasses.dataclass(frozen=True)
class Accepted(Document):
    """The answer to an update that the server took.

    Attributes:
        job: the job's name.
        client: the client's name.
        round: the round that took it.
        contributors: clients accepted into the round so far, this one included.
        repeated: the server had the same update already; nothing changed.
        local: it went through shared memory instead of the socket.
        address: the server that took it.
        staleness: how many versions before the round its model was.
    """

    job: str
    client: str
    round: int
    contributors: int
    repeated: bool = False
    local: bool = False
    address: str = ""
    staleness: int = 0


@dataclasses.dataclass(frozen=True)
class JobStatus(Document):
    """Where a job stands.

    Attributes:
        name: its name.
        phase: ``starting`` until a node runs it, ``running``, ``completed`` after its last round, or ``failed``; then
            :attr:`last_error` says why.
        function: the function's name.
        function_revision: the function's revision.
        revision: the job's own revision.
        version: of the newest model, and the number of the open round.
        rounds: rounds after which the job is completed; ``None`` for no end.
        expected: updates that a round is planned for.
        accepted: updates accepted into the open round.
        parameters: the model's number of elements.
        model_bytes: the model's data in bytes.
        last_error: why it failed, or the last thing that went wrong in it.
        node: the node that runs it.
        arena: its shared memory: ``segment``, ``slots``, ``free`` and more.
        workers: workers that host its aggregators now.
        autoscaler: how many there should be on that node: ``wanted``, ``wished`` and ``reason``.
        placement: the nodes that take part, if there are several: ``leader``, ``members`` and ``generation``.
        sharing: what it may claim of nodes that are too small for all: ``tenant``, ``weight`` and ``priority``.
    """

    name: str
    phase: str
    function: str
    function_revision: int
    revision: int
    version: int
    expected: int
    accepted: int
    parameters: int
    model_bytes: int
    rounds: int | None = None
    last_error: str | None = None
    node: str | None = None
    arena: Mapping[str, Any] | None = None
    workers: int = 0
    autoscaler: Mapping[str, Any] | None = None
    placement: Mapping[str, Any] | None = None
    sharing: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class RoundStatus(Document):
    """Where a round stands.

    Attributes:
        job: the job's name.
        round: its number, from 1.
        phase: ``open``, ``closing`` (its model is being made), ``completed``, or ``failed`` (it opens again).
        expected: updates it was planned for.
        accepted: updates accepted.
        contributors: clients inside its model.
        rejected: updates refused while it was open.
        late: updates that came after it closed.
        lost: updates that it had accepted and lost with their node.
        staleness: how old its updates' models were, if the job takes old ones.
        shares: each node's part, if there are several: ``node``, ``accepted``, ``contributors``, ``bytes``, its times.
        opened_at: when it opened, RFC 3339.
        closed_at: when it took its last update, RFC 3339.
        completed_at: when its model was published, RFC 3339.
        aggregation_seconds: from its close to its published model.
        seconds: from its first update to its published model.
        bytes_copied: bytes copied to bring its updates into their slots.
        bytes_read_in_place: bytes that functions read where they lay.
        aggregators: how many leaves, middles and tops took part.
        error: why it failed.
    """

    job: str
    round: int
    phase: str
    expected: int
    accepted: int
    contributors: int
    rejected: int = 0
    late: int = 0
    lost: int = 0
    staleness: Mapping[str, Any] | None = None
    shares: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)
    opened_at: str | None = None
    closed_at: str | None = None
    completed_at: str | None = None
    aggregation_seconds: float | None = None
    seconds: float | None = None
    bytes_copied: int = 0
    bytes_read_in_place: int = 0
    aggregators: Mapping[str, int] = dataclasses.field(default_factory=dict)
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class FunctionStatus(Document):
    """A function's newest revision.

    Attributes:
        name: its name.
        revision: its revision, from 1.
        digest: the module's digest, ``sha256:...``.
        algebra: the class of aggregation rules, such as ``monoid``.
        limits: what a call may use: ``memory`` and ``deadline``.
        jobs: the jobs that use it.
    """

    name: str
    revision: int
    digest: str
    algebra: str
    limits: Mapping[str, str]
    jobs: list[str]


@dataclasses.dataclass(frozen=True)
class TenantStatus(Document):
    """A tenant's newest revision.

    Attributes:
        name: its name.
        revision: its revision, from 1; 0 if it is the tenant ``default`` and no manifest has described it.
        weight: its weight, against those of other tenants.
        jobs: its jobs.
        jobs_max: the most jobs that it may have.
    """

    name: str
    revision: int
    weight: float
    jobs: list[str]
    jobs_max: int | None = None


@dataclasses.dataclass(frozen=True)
class NodeStatus(Document):
    """A node.

    Attributes:
        name: its name.
        sidecar: how descriptors are routed, ``ebpf`` or ``userspace``.
        version: of the program.
        workers: running workers.
        jobs: jobs that it runs.
        cores: cores that it may use.
        shm_free_bytes: free bytes of /dev/shm.
        sidecar_reason: why it does not route in the kernel.
        kernel: the kernel's release.
        state: whether it is given work: ``ready``, ``draining``, ``drained`` or ``lost``.
        url: its gateway, if it is one of several.
        labels: what it was started with.
    """

    name: str
    sidecar: str
    version: str
    workers: int
    jobs: int
    cores: int
    shm_free_bytes: int
    sidecar_reason: str | None = None
    kernel: str = ""
    state: str = "ready"
    url: str | None = None
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Change(Document):
    """A field that applying changed, or would change: ``path``, and the JSON values before and after."""

    path: str
    before: Any = None
    after: Any = None


@dataclasses.dataclass(frozen=True)
class Applied(Document):
    """What applying did with one manifest, or would do.

    Attributes:
        kind: ``Function``, ``Tenant`` or ``Job``.
        name: its name.
        action: ``created``, ``configured`` or ``unchanged``.
        revision: the revision that now holds.
        diff: the fields that changed.
        notes: what you should know, such as that the job was restarted.
    """

    kind: str
    name: str
    action: str
    revision: int
    diff: list[Change] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def read(cls, document: Any) -> Applied:
        """As :meth:`Document.read`; the differences too are objects."""
        applied = super().read(document)
        diff = [
            Change(change.get("path", ""), change.get("from"), change.get("to"), raw=change)
            for change in applied.raw.get("diff", [])
        ]
        return dataclasses.replace(applied, diff=diff, raw=applied.raw)
