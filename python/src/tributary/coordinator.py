"""A job whose rounds are opened and closed by a program, as the servers of other frameworks do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import Any, NamedTuple

from tributary import errors
from tributary.client import Client
from tributary.manifest import Function, Job
from tributary.model import Model
from tributary.server import Server

Arrays = Mapping[str, Any]

#: Clients of a round for which a job is made, unless one has more.
CLIENTS = 1024

#: Seconds to wait for a round's model before looking at why there is none.
LOOK = 5.0


class JobExists(errors.TributaryError):
    """There is a job of that name already."""


class RoundLost(errors.TributaryError):
    """No update of the round is there any more, so it has no model. Clients may train again for the same round."""


class Outcome(NamedTuple):
    """What became of a round: its model, and the number of clients inside it."""

    model: Model
    contributors: int


class Coordinator:
    """A job whose rounds are opened and closed by this program.

    A job by itself closes a round with a fixed number of updates, or at a deadline. Here every round may have another
    number (:meth:`expect`), and is closed with fewer when the program knows that no more will come (:meth:`close`).
    Both change the job's manifest, if the number is another than before.

    Args:
        address: the server, as ``http://host:port``; or several, see :class:`tributary.Client`.
        job: the job's name.
        function: the function that aggregates.
        module: the function's WebAssembly module, to create the function or its next revision; without it the function
            must be there.
        config: the function's configuration.
        patience: seconds for which an absent server is waited for.

    Attributes:
        version: of the newest model, which is also the number of the open round.
        patience: as given.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        job: str,
        *,
        function: str = "fedavg",
        module: str | PathLike[str] | None = None,
        config: Mapping[str, Any] | None = None,
        patience: float = 60.0,
    ) -> None:
        self.version = 1
        self.patience = float(patience)
        self._server = Server(address, patience=patience)
        # What is pushed here is others' and not kept: an update at a time is held.
        self._client = Client(address, job, patience=patience, keep_until_pulled=False)
        self._module = module
        # One update is enough, so that those on which the function fails cost the others nothing; the deadline, without
        # which there is no quorum, is one that no round reaches.
        self._manifest = Job(
            job,
            function,
            "",
            expected=CLIENTS,
            quorum=1,
            deadline="365d",
            config=config,
            clients_max=CLIENTS,
        )
        self._pushed: dict[str, list[str]] = {}

    @property
    def job(self) -> str:
        """The job's name."""
        return self._client.job

    def create(self, model: Arrays) -> None:
        """Creates the job. Its tensors are those of ``model``, and its first model has their values, as f32.

        Raises:
            JobExists: there is one of that name.
            UnknownFunction: the server does not have the function, and no module was given.
            InvalidManifest, LayoutMismatch, NonFinite: the job's name, the function's configuration or the model cannot
                be.
        """
        try:
            self._check_function()
            self._check_new()
            self._manifest = dataclasses.replace(self._manifest, model=self._server.upload(model))
            self._server.apply([*self._functions(), self._manifest])
        except BaseException:
            self._close()
            raise

    def _functions(self) -> list[Function]:
        if self._module is None:
            return []
        return [Function(self._manifest.function, fspath(self._module))]

    def _check_function(self) -> None:
        if self._module is not None:
            return
        name = self._manifest.function
        try:
            self._server.function(name)
        except errors.UnknownFunction as error:
            raise errors.UnknownFunction(
                f"{self._server.address} has no function {name}: apply its manifest there, as in "
                f"`tributary apply -f manifests/functions.yaml`, or give the path of its module"
            ) from error

    def _check_new(self) -> None:
        try:
            self._server.job(self.job)
        except errors.UnknownJob:
            return
        raise JobExists(
            f"{self._server.address} has a job {self.job} already: choose another name, or delete it with "
            f"`tributary delete job {self.job}`"
        )

    def expect(self, updates: int) -> None:
        """Lets the open round close by itself with so many updates."""
        self._pushed = {}
        self._change(expected=updates, clients_max=max(updates, self._manifest.clients_max or 0), rounds=None)

    def _change(self, **fields: int | None) -> None:
        manifest = dataclasses.replace(self._manifest, **fields)  # type: ignore[arg-type]
        if manifest != self._manifest:
            self._server.apply(manifest)
            self._manifest = manifest

    def push(self, client: str, update: Arrays, weight: float) -> list[str]:
        """Sends an update into the open round.

        Returns:
            The clients whose updates the server that takes this one has lost since, by being restarted: the first ones
            of those that it had.

        Raises:
            UpdateRefused: it does not count, and :mod:`tributary.errors` says why.
        """
        accepted = self._client.push(update, weight=weight, round=self.version, name=client, encoding="f32", cast=True)
        # Each node counts what it has; the one that leads, also what it has heard of from the others.
        there = self._pushed.setdefault(accepted.address, [])
        if client not in there:
            there.append(client)
        lost = there[: max(0, len(there) - accepted.contributors)]
        del there[: len(lost)]
        return lost

    def close(self, updates: int) -> Outcome:
        """Closes the open round and waits for its model.

        Args:
            updates: the updates that are in the round. If no more are expected, it has closed by itself.

        Raises:
            RoundLost: there are none.
            JobFailed: the job does not run any more.
        """
        if updates < (self._manifest.expected or 0):
            self._close_early()
        while (model := self._client.pull(after=self.version, wait=LOOK)) is None:
            # Updates are missing: the server was restarted. Those that are there count.
            self._close_early()
        closed, self.version = self.version, model.version
        return Outcome(model, self._contributors(closed, updates))

    def _contributors(self, closed: int, updates: int) -> int:
        try:
            return self._server.round(self.job, closed).contributors
        except errors.UnknownRound:
            # The model outlives a restart of the server, what is remembered of its round does not.
            return updates

    def _close_early(self) -> None:
        status = self._server.job(self.job)
        if status.phase == "failed":
            raise errors.JobFailed(f"job {self.job} does not run: {status.last_error}")
        if status.version > self.version:
            return
        if status.accepted == 0:
            why = status.last_error or "the server was restarted"
            raise RoundLost(f"round {self.version} of job {self.job} has no updates any more: {why}")
        self._change(expected=1)

    def end(self) -> None:
        """Completes the job: it takes no more updates, and its models stay."""
        try:
            if self.version > 1:
                self._change(rounds=self.version - 1)
        finally:
            self._close()

    def _close(self) -> None:
        self._client.close()
        self._server.close()
