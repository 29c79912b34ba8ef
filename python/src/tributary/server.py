"""A server as its operators see it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from tributary import errors
from tributary._core import body, checks, http
from tributary._core.address import Address, shown
from tributary._core.blocking import Blocking, run
from tributary._core.feed import Feed
from tributary._core.session import Request, Session
from tributary.client import EventStream
from tributary.manifest import Function, Job, Manifest, Tenant, load
from tributary.status import Applied, FunctionStatus, JobStatus, NodeStatus, RoundStatus, TenantStatus

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger("tributary")

CONTROL = "control"
"""What controllers answer, all of it by the one that leads if need be."""

One = Manifest | str | os.PathLike[str]
Manifests = One | Iterable[One]
"""Manifests: objects, files, or folders of files; one, or any mixture of them."""


class Server:
    """A server, for operators: manifests, jobs, rounds.

    May be used from several threads at once, forked and pickled, as :class:`tributary.Client`.

    Args:
        address: the server, as ``http://host:port``; or several that belong together, such as all controllers. The
            first that answers is used, and redirects are followed: any of them will do.
        timeout: seconds without a byte after which a connection is given up.
        patience: seconds after a first failure for which it goes on trying.
    """

    def __init__(self, address: str | Sequence[str], *, timeout: float = 30.0, patience: float = 10.0) -> None:
        self._timeout = checks.seconds("timeout", timeout, zero=False)
        self._patience = checks.seconds("patience", patience)
        self._session = Session(Address.several(address), Blocking(), timeout, patience)

    @property
    def address(self) -> str:
        """The address of the server that is asked first."""
        return str(self._session.places.of(CONTROL))

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that were given."""
        return tuple(map(str, self._session.places.given))

    # === manifests ===

    def apply(self, manifests: Manifests, *, dry_run: bool = False) -> list[Applied]:
        """Creates or changes functions, tenants and jobs, all or none.

        Files that the manifests name are uploaded first, unless the server has them.

        Args:
            manifests: :class:`Job`, :class:`Function` and :class:`Tenant` objects, files, or folders of files; one or
                several.
            dry_run: check and compare, but keep nothing. Nothing is uploaded, and what is in files that the server does
                not have is not checked; ``notes`` say so.

        Raises:
            InvalidManifest: with every wrong field in ``errors``.
            OSError: a file cannot be read.
        """
        documents = [self._resolved(manifest, dry_run) for manifest in _all(manifests)]
        target = "/v1/apply?dryRun=true" if dry_run else "/v1/apply"
        content = body.Bytes(json.dumps(documents).encode())
        results = self._json(Request("POST", target, content, "application/json", subject=CONTROL))
        applied = [Applied.read(result) for result in results]
        for one in applied:
            for note in one.notes:
                log.warning("%s/%s: %s", one.kind.lower(), one.name, note)
        return applied

    def _resolved(self, manifest: Manifest, dry_run: bool) -> dict[str, Any]:
        model = manifest.model if isinstance(manifest, Job) else None
        file = model if isinstance(model, Mapping) else manifest.file()
        if file is None:
            return manifest.to_dict()
        return manifest.with_digest(_digest(file) if dry_run else self.upload(file)).to_dict()

    def upload(self, file: str | os.PathLike[str] | Mapping[str, Any]) -> str:
        """Uploads a module or an initial model, unless the server has it.

        Args:
            file: a path, or a model's arrays or torch tensors by name, which are converted to f32.

        Returns:
            Its digest, ``sha256:...``.

        Raises:
            LayoutMismatch, NonFinite: the arrays make no model; says which.
        """
        if isinstance(file, Mapping):
            with tempfile.NamedTemporaryFile(suffix=".safetensors") as written:
                written.writelines(body.Tensors.of_model(file).pieces())
                written.flush()
                return self.upload(written.name)
        digest = _digest(file)
        target = f"/v1/blobs/{digest}"
        try:
            run(self._session.document(Request("HEAD", target, subject=CONTROL)))
        except errors.Problem as error:
            if error.status != 404:
                raise
            with contextlib.closing(body.File(file)) as content:
                self._json(Request("PUT", target, content, "application/octet-stream", subject=CONTROL))
        return digest

    def manifest(self, job: str) -> Job:
        """The manifest of a job as the server keeps it, with digests instead of paths."""
        return Job.from_dict(self._get(f"/v1/jobs/{checks.resource('job', job)}/manifest"))

    def delete(self, kind: Literal["job", "function", "tenant"], name: str) -> None:
        """Deletes a job with all its models, or a function or tenant that no job uses.

        Raises:
            UnknownJob, UnknownFunction, UnknownTenant: there is none of that name.
            InUse: jobs use it; or it is the tenant ``default``, which always exists.
        """
        if kind not in ("job", "function", "tenant"):
            raise errors.InvalidArgument(f"kind is {kind!r}; there are 'job', 'function' and 'tenant'")
        target = f"/v1/{kind}s/{checks.resource(kind, name)}"
        run(self._session.document(Request("DELETE", target, subject=CONTROL)))

    # === what there is ===

    def jobs(self) -> list[JobStatus]:
        """All jobs, also those that do not run."""
        return [JobStatus.read(status) for status in self._get("/v1/jobs")]

    def job(self, name: str) -> JobStatus:
        """A job's status."""
        return JobStatus.read(self._get(f"/v1/jobs/{checks.resource('job', name)}"))

    def rounds(self, job: str) -> list[RoundStatus]:
        """A job's rounds, newest first; the last 256 are remembered."""
        target = f"/v1/jobs/{checks.resource('job', job)}/rounds"
        return [RoundStatus.read(status) for status in self._get(target, f"rounds/{job}")]

    def round(self, job: str, number: int) -> RoundStatus:
        """A round's status."""
        number = checks.round_number(number)
        target = f"/v1/jobs/{checks.resource('job', job)}/rounds/{number}"
        return RoundStatus.read(self._get(target, f"rounds/{job}"))

    def functions(self) -> list[FunctionStatus]:
        """All functions."""
        return [FunctionStatus.read(status) for status in self._get("/v1/functions")]

    def function(self, name: str) -> FunctionStatus:
        """A function's newest revision."""
        return FunctionStatus.read(self._get(f"/v1/functions/{checks.resource('function', name)}"))

    def tenants(self) -> list[TenantStatus]:
        """All tenants, ``default`` among them."""
        return [TenantStatus.read(status) for status in self._get("/v1/tenants")]

    def tenant(self, name: str) -> TenantStatus:
        """A tenant's newest revision."""
        return TenantStatus.read(self._get(f"/v1/tenants/{checks.resource('tenant', name)}"))

    def nodes(self) -> list[NodeStatus]:
        """The nodes."""
        return [NodeStatus.read(status) for status in self._get("/v1/nodes")]

    def health(self) -> bool:
        """Whether the server is ready, now: nothing is tried twice. Of several servers, whether one is."""
        return any(self._ready() for _ in self.addresses)

    def _ready(self) -> bool:
        try:
            head, _ = run(self._session.attempt(Request("GET", "/ready")))
        except errors.TributaryError:
            # The next attempt goes to the next address.
            return False
        return head.status == 200

    def metrics(self) -> str:
        """The metrics, in Prometheus' text format."""
        _, text = run(self._session.document(Request("GET", "/metrics")))
        return text.decode()

    def events(self, job: str | None = None) -> EventStream:
        """Listens to what happens, in one job or in all; see :meth:`tributary.Client.events`."""
        if job is not None:
            checks.resource("job", job)
        return EventStream.listen(Feed(self._session, job, self._patience))

    def _get(self, target: str, subject: str = CONTROL) -> Any:
        return self._json(Request("GET", quote(target, safe="/"), subject=subject))

    def _json(self, request: Request) -> Any:
        _, document = run(self._session.document(request))
        return http.parse_json(document)

    # === its life ===

    def close(self) -> None:
        """Closes its connections. A second close does nothing."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Server({shown(self.addresses)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.addresses, self._timeout, self._patience)


def _restored(addresses: Sequence[str], timeout: float, patience: float) -> Server:
    return Server(addresses, timeout=timeout, patience=patience)


def _all(manifests: Manifests) -> list[Manifest]:
    if isinstance(manifests, (Job, Function, Tenant)):
        return [manifests]
    if isinstance(manifests, (str, os.PathLike)):
        return load(manifests)
    return [manifest for one in manifests for manifest in _all(one)]


def _digest(content: str | os.PathLike[str] | Mapping[str, Any]) -> str:
    sha256 = hashlib.sha256()
    if isinstance(content, Mapping):
        for piece in body.Tensors.of_model(content).pieces():
            sha256.update(piece)
    else:
        with Path(content).open("rb") as file:
            while part := file.read(1 << 20):
                sha256.update(part)
    return f"sha256:{sha256.hexdigest()}"
